package csv

import (
	"fmt"

	"sheaf/services/assembler/encode"
	"sheaf/services/assembler/encode/cells"
)

// notes counts what was noted while rows were written.
type notes struct {
	cells   *cells.Notes
	rows    int64
	guarded []tally // by column
	lossy   []tally
}

func newNotes(columns int) *notes {
	return &notes{guarded: make([]tally, columns), lossy: make([]tally, columns)}
}

// tally counts cells of a column.
type tally struct{ n, first int64 } // first is a row, from 1

func (t *tally) count(row int64) {
	if t.n++; t.n == 1 {
		t.first = row
	}
}

// add adds the notes of later rows.
func (n *notes) add(later *notes) {
	if n.cells == nil {
		*n = *later
		return
	}
	n.cells.Add(later.cells)
	join := func(to, from []tally) {
		for i, t := range from {
			if to[i].n == 0 && t.n > 0 {
				to[i].first = n.rows + t.first
			}
			to[i].n += t.n
		}
	}
	join(n.guarded, later.guarded)
	join(n.lossy, later.lossy)
	n.rows += later.rows
}

func (n *notes) warnings(sheet encode.Sheet) (all []encode.Warning) {
	if n.cells == nil {
		return nil
	}
	all = n.cells.Warnings(sheet)
	prefix := ""
	if sheet.Title != "" {
		prefix = fmt.Sprintf("Sheet %q: ", sheet.Title)
	}
	for _, kind := range []struct {
		code, noun string
		of         []tally
		is, are    string
	}{
		{WarnGuarded, "text", n.guarded, "begins like a formula and has an apostrophe before it",
			"begin like a formula and have an apostrophe before them"},
		{WarnEncoding, "cell", n.lossy, "has characters that the encoding lacks, written as question marks",
			"have characters that the encoding lacks, written as question marks"},
	} {
		for i, t := range kind.of {
			if t.n > 0 {
				c := sheet.Columns[i]
				all = append(all, encode.Warning{Code: kind.code, Count: t.n, First: c.Name,
					Message: fmt.Sprintf("%s%s in column %s %s; the first is in row %d.", prefix, encode.Count(t.n, kind.noun),
						cells.Label(c), encode.One(t.n, kind.is, kind.are), t.first)})
			}
		}
	}
	return all
}
