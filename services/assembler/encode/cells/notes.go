package cells

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"sheaf/events"
	"sheaf/events/rows"
	"sheaf/services/assembler/encode"
)

// Warning codes.
const (
	WarnCellType      = "CELL_TYPE"      // values do not fit the type of their column and are text
	WarnMapMissed     = "MAP_MISSED"     // values have no entry in the map of their column and stay
	WarnLinksCut      = "LINKS_CUT"      // cells have no link: too long, no http, https or mailto, or no row has its key
	WarnColumnEmpty   = "COLUMN_EMPTY"   // no row has the key of a column
	WarnColumnUnknown = "COLUMN_UNKNOWN" // values whose name is not in the header were left out
)

// AreText and IsText are what CELL_TYPE says of cells and of a single one. A format that cannot hold them as text
// says something else.
const AreText, IsText = " and are text", " and is text"

// maxWarnings is the maximum number of warnings of a sheet: one for each column and code, then one for each
// code that counts the rest.
const maxWarnings = 100

// Notes counts what was noted while rows were read. First rows are counted from the first row of the notes.
type Notes struct {
	rows    int64
	found   []bool // as NewFound; only if the columns are chosen
	columns map[int32]*columnNotes
	unknown tally // values whose name is not in the header
}

// columnNotes counts values of a column.
type columnNotes struct{ misfits, unmapped, links tally }

// tally counts values and describes the first.
type tally struct {
	n      int64
	row    int64 // data row, from 1
	sample string
}

// maxSample is the maximum number of characters of a value in a warning.
const maxSample = 40

func (t *tally) add(row int64, text []byte) {
	if t.n++; t.n == 1 {
		t.row, t.sample = row, shown(text, maxSample)
	}
}

// merge adds what later rows counted. before is the number of rows before those.
func (t *tally) merge(later tally, before int64) {
	if t.n == 0 {
		t.row, t.sample = before+later.row, later.sample
	}
	t.n += later.n
}

// shown returns the first characters of a text.
func shown(text []byte, maxRunes int) string {
	r := []rune(string(text[:min(len(text), (maxRunes+1)*utf8.UTFMax)]))
	if len(r) > maxRunes {
		return string(r[:maxRunes]) + "…"
	}
	return string(r)
}

// NewFound returns an element for each column of a sheet, then one for each key in the link template of each
// column: whether a row has the key.
func NewFound(columns []encode.Column) []bool {
	n := len(columns)
	for _, c := range columns {
		n += len(linkKeys(c))
	}
	return make([]bool, n)
}

func (r *Reader) newNotes() *Notes {
	n := &Notes{}
	if r.chosen {
		n.found = make([]bool, len(r.columns)+len(r.links))
	}
	return n
}

// Notes returns the notes since the last call.
func (r *Reader) Notes() *Notes {
	n := r.notes
	r.notes = r.newNotes()
	return n
}

// Refuse says that the format cannot hold a cell of the row that was read last. The cell becomes Text, as a
// value that does not fit its column, and is counted.
func (r *Reader) Refuse(column int) {
	cell := &r.cells[column]
	cell.Kind = Text
	r.notes.column(int32(column)).misfits.add(r.notes.rows, cell.Text)
}

// column returns the notes of a column.
func (n *Notes) column(col int32) *columnNotes {
	c := n.columns[col]
	if c == nil {
		if n.columns == nil {
			n.columns = map[int32]*columnNotes{}
		}
		c = &columnNotes{}
		n.columns[col] = c
	}
	return c
}

// maxShownName is the maximum number of characters of a name in a warning.
const maxShownName = 100

// Label names a column by its title, and by its key if that is another.
func Label(c encode.Column) string {
	name := strconv.Quote(shown([]byte(c.Name), maxSample))
	if c.Title == "" || c.Title == c.Name {
		return name
	}
	return fmt.Sprintf("%q (key %s)", shown([]byte(c.Title), maxSample), name)
}

// addUnknown counts a field by its raw name.
func (n *Notes) addUnknown(name []byte) {
	if n.unknown.n++; n.unknown.n == 1 {
		name = rows.Unquote(nil, name[:min(len(name), (maxShownName+1)*len(`\uD83D\uDE00`))])
		n.unknown.row, n.unknown.sample = n.rows, shown(name, maxShownName)
	}
}

// Unknown is the message of COLUMN_UNKNOWN: the number of values, and the name and data row of the first.
func Unknown(n int64, name string, row int64) string {
	return fmt.Sprintf("%s %s; the first is %q in data row %d.", encode.Count(n, "value"),
		encode.One(n, "was left out because the header has no column for it",
			"were left out because the header has no column for them"), name, row)
}

// Add adds the notes of later rows.
func (n *Notes) Add(later *Notes) {
	for i, found := range later.found {
		n.found[i] = n.found[i] || found
	}
	for col, c := range later.columns {
		sum := n.column(col)
		sum.misfits.merge(c.misfits, n.rows)
		sum.unmapped.merge(c.unmapped, n.rows)
		sum.links.merge(c.links, n.rows)
	}
	n.unknown.merge(later.unknown, n.rows)
	n.rows += later.rows
}

// Missing checks that the rows of a sheet have the keys of its chosen columns and of their links. found is that
// of NewFound. Missing returns a [*encode.NoValuesError] if no column is found, else a warning for each column
// that is not, and for each whose link has a key that is not.
func Missing(sheet encode.Sheet, found []bool) ([]encode.Warning, error) {
	n := &Notes{rows: 1, found: found}
	sheet.Found = nil
	if err := n.Err(sheet); err != nil {
		return nil, err
	}
	return n.Warnings(sheet), nil
}

// Err returns a [*encode.NoValuesError] if there are rows, but none has the key of any chosen column. Of a part
// of a sheet it notes in sheet.Found which columns have theirs.
func (n *Notes) Err(sheet encode.Sheet) error {
	if sheet.Found != nil {
		for i, found := range n.found {
			sheet.Found[i] = sheet.Found[i] || found
		}
		return nil
	}
	if n.rows == 0 || len(n.found) == 0 || slices.Contains(n.found[:len(sheet.Columns)], true) {
		return nil
	}
	e := &encode.NoValuesError{Sheet: sheet.Title}
	for _, c := range sheet.Columns {
		e.Keys = append(e.Keys, c.Name)
	}
	return e
}

// unlinked finds the columns whose link has a key that no row has. The sample is the first such key.
func (n *Notes) unlinked(sheet encode.Sheet) func(int32) tally {
	missing := map[int32]tally{}
	at := len(sheet.Columns)
	for i, c := range sheet.Columns {
		for _, key := range linkKeys(c) {
			if _, ok := missing[int32(i)]; !ok && n.found != nil && !n.found[at] {
				missing[int32(i)] = tally{n: 1, sample: key}
			}
			at++
		}
	}
	return func(col int32) tally { return missing[col] }
}

// proposal ends a sentence about a key that no row has with the name that was probably meant, if one is similar.
func proposal(sheet encode.Sheet, key string) string {
	if sheet.Near == nil {
		return "."
	}
	near := sheet.Near(key)
	if near == "" {
		return "."
	}
	return "; did you mean " + strconv.Quote(shown([]byte(near), maxSample)) + "?"
}

// unixHint ends the sentence about a value that does not fit. A number of 10 or 13 digits in a column of times
// is probably a Unix time.
func unixHint(c encode.Column, sample string) string {
	if c.Spec == nil || c.Spec.From != "" || c.Spec.Type != events.ColumnDate && c.Spec.Type != events.ColumnDatetime ||
		strings.Trim(sample, "0123456789") != "" {
		return "."
	}
	switch len(sample) {
	case len("1625106204"):
		return `; for Unix times set from to "unix".`
	case len("1625106204000"):
		return `; for Unix times in milliseconds set from to "unix_ms".`
	}
	return "."
}

// Warnings returns the warnings of a sheet, at most 100, in a fixed order. Those of columns have the key as
// First.
func (n *Notes) Warnings(sheet encode.Sheet) []encode.Warning {
	return n.WarningsAt(sheet, func(column int, _ int64) string {
		return shown([]byte(sheet.Columns[column].Name), maxShownName)
	})
}

// WarningsAt is [Notes.Warnings] for formats that name cells. place returns First of a warning about cells:
// the place of a column, counted from 0, in a data row, counted from 1.
func (n *Notes) WarningsAt(
	sheet encode.Sheet, place func(column int, row int64) string,
) (all []encode.Warning) {
	where := ""
	if sheet.Title != "" {
		where = fmt.Sprintf("Sheet %q: ", shown([]byte(sheet.Title), maxSample))
	}
	// add adds a warning of each column in counts, and one for the columns that are too many.
	type of = func(c *columnNotes) tally
	add := func(code string, counts func(int32) tally, message func(t tally, c encode.Column) string, rest string) {
		var columns, values int64
		for i, c := range sheet.Columns {
			t := counts(int32(i))
			switch {
			case t.n == 0:
			case len(all) >= maxWarnings-5: // the rest of each kind
				columns, values = columns+1, values+t.n
			default:
				first := shown([]byte(c.Name), maxShownName)
				if t.row > 0 {
					first = place(i, t.row)
				}
				all = append(all, encode.Warning{Code: code, Count: t.n, First: first,
					Message: where + message(t, c)})
			}
		}
		if columns > 0 {
			all = append(all, encode.Warning{Code: code, Count: values,
				Message: where + fmt.Sprintf(rest, values, columns)})
		}
	}
	ofColumn := func(get of) func(int32) tally {
		return func(col int32) tally {
			if c := n.columns[col]; c != nil {
				return get(c)
			}
			return tally{}
		}
	}
	misfits := ofColumn(func(c *columnNotes) tally { return c.misfits })
	add(WarnCellType, misfits, func(t tally, c encode.Column) string {
		return fmt.Sprintf("%s of column %s %s; the first is %q in data row %d%s", encode.Count(t.n, "value"), Label(c),
			encode.One(t.n, "does not fit its type"+IsText, "do not fit its type"+AreText), t.sample, t.row, unixHint(c, t.sample))
	}, "%d values of %d further columns do not fit their type"+AreText+".")
	unmapped := ofColumn(func(c *columnNotes) tally { return c.unmapped })
	add(WarnMapMissed, unmapped, func(t tally, c encode.Column) string {
		return fmt.Sprintf("%s of column %s %s; the first is %q in data row %d.", encode.Count(t.n, "value"), Label(c),
			encode.One(t.n, "is not in its map and stays as it is", "are not in its map and stay as they are"), t.sample, t.row)
	}, "%d values of %d further columns are not in their map and stay as they are.")
	links := ofColumn(func(c *columnNotes) tally { return c.links })
	add(WarnLinksCut, links, func(t tally, c encode.Column) string {
		return fmt.Sprintf("%s of column %s %s no link: it is no http, https or mailto address, "+
			"or has more than %d characters; the first is %q in data row %d.", encode.Count(t.n, "cell"), Label(c),
			encode.One(t.n, "has", "have"), maxLink, t.sample, t.row)
	}, "%d cells of %d further columns have no link.")
	if n.rows > 0 && sheet.Found == nil {
		near := func(key string) string { return proposal(sheet, key) }
		add(WarnColumnEmpty, func(col int32) tally {
			if n.found == nil || n.found[col] {
				return tally{}
			}
			return tally{n: 1, sample: sheet.Columns[col].Name}
		}, func(t tally, c encode.Column) string {
			return fmt.Sprintf("Column %s is empty: no row has that key%s", Label(c), near(t.sample))
		}, "%[2]d further columns are empty: no row has their keys.")
		add(WarnLinksCut, n.unlinked(sheet), func(t tally, c encode.Column) string {
			key := strconv.Quote(shown([]byte(t.sample), maxSample))
			return fmt.Sprintf("Column %s has no links: no row has the key %s of its template%s", Label(c), key, near(t.sample))
		}, "%[2]d further columns have no links: no row has the keys of their templates.")
	}
	if u := n.unknown; u.n > 0 {
		all = append(all, encode.Warning{
			Code: WarnColumnUnknown, Count: u.n, First: u.sample,
			Message: where + Unknown(u.n, u.sample, u.row),
		})
	}
	return all
}
