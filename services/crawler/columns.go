package crawler

import (
	"crypto/sha256"
	"encoding/json"
	"slices"

	"sheaf/events/pages"
)

// columns is the union of the names of rows, in order of first appearance: by page, row and position.
type columns struct {
	max   int
	names []string
	known map[string]bool
	last  []string // the last names that were seen
}

func newColumns(most int) *columns { return &columns{max: most, known: map[string]bool{}} }

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
