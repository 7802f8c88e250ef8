package crawler

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"

	"sheaf/events"
	"sheaf/events/pages"
	"sheaf/events/rows"
	"sheaf/services/crawler/source"
)

// columns is the union of the names of rows, in order of first appearance: by page, row and position.
type columns struct {
	max   int
	whose string // whose limit max is
	names []string
	known map[string]bool
	last  []string // the last names that were seen
}

func newColumns(most int, whose string) *columns {
	return &columns{max: most, whose: whose, known: map[string]bool{}}
}

// fewestColumns returns the format of a request that holds the fewest columns. Its MaxColumns is 0 if there is no
// limit, or the request lists the columns.
func fewestColumns(req *events.Request) events.Format {
	if len(req.Columns) > 0 {
		return events.Format{}
	}
	return events.FewestColumns(req.ExtType)
}

// headerFits returns a failure if the header row of page 1 has more columns than a format of the request holds.
func headerFits(req *events.Request, p pages.Page) *source.Failure {
	f := fewestColumns(req)
	if f.MaxColumns == 0 || p.Number != 1 || req.HasColumnsPage() {
		return nil
	}
	header := firstRow(p.Rows)
	n := len(rows.Names(slices.Concat([]byte("["), header, []byte("]"))))
	if n <= f.MaxColumns {
		return nil
	}
	return &source.Failure{Page: p.Number, Code: events.CodeLimitColumns,
		Msg: fmt.Sprintf("there are %d columns, but %s holds at most %d; choose fewer in columns", n, f.Name, f.MaxColumns)}
}

// intern returns the last names seen if they equal names: most pages have the same names, and one copy is
// enough.
func (c *columns) intern(names []string) []string {
	if !slices.Equal(names, c.last) {
		c.last = names
	}
	return c.last
}

// add adds the names of the next page. It reports false once there are too many.
func (c *columns) add(names []string) bool {
	for _, name := range names {
		if !c.known[name] {
			c.known[name] = true
			c.names = append(c.names, name)
		}
	}
	return len(c.names) <= c.max
}

// page returns page 0 of the run: a header row in which each name is its own title. Without names it is
// empty.
func (c *columns) page() pages.Page {
	p := pages.Page{Rows: []byte("[]"), Total: -1, Attempts: 1}
	if len(c.names) > 0 {
		row := []byte("[{")
		for i, name := range c.names {
			if i > 0 {
				row = append(row, ',')
			}
			text, _ := json.Marshal(name) // of a string it cannot fail
			row = append(append(append(row, text...), ':'), text...)
		}
		p.Rows, p.RowCount, p.HeaderRow = append(row, "}]"...), 1, true
	}
	p.SHA256 = sha256.Sum256(p.Rows)
	return p
}
