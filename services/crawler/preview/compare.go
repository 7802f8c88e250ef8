package preview

import (
	"bytes"

	"github.com/go-json-experiment/json/jsontext"

	"sheaf/events/rows"
)

// relation compares the rows of a response with those of page 1.
type relation int

const (
	same   relation = iota // the same rows
	empty                  // no rows
	within                 // other rows, but all of them are on page 1
	other                  // at least one row is not on page 1
)

// maxCompared is the number of rows that are compared.
const maxCompared = 20_000

// identities are names whose values tell one row from another, if all rows of page 1 have different ones.
var identities = []string{"id", "_id", "uuid", "guid", "key", "code", "no"}

// compare relates rows to those of page 1. shift is the position on page 1 of the first row, -1 if it is not
// there. Rows are compared by a value that identifies them, so that a clock in a row makes it no other row.
func compare(page1, page []byte) (r relation, shift int) {
	before, after := rawRows(page1), rawRows(page)
	switch {
	case len(after) == 0 && len(before) == 0:
		return same, -1
	case len(after) == 0:
		return empty, -1
	}
	for _, name := range identities {
		a, b := values(before, name), values(after, name)
		if a != nil && b != nil && distinct(a) {
			before, after = a, b
			break
		}
	}
	position := map[string]int{}
	for i, row := range before {
		if _, ok := position[row]; !ok {
			position[row] = i
		}
	}
	shift = -1
	if i, ok := position[after[0]]; ok {
		shift = i
	}
	equal := len(before) == len(after)
	for i, row := range after {
		if _, ok := position[row]; !ok {
			return other, shift
		}
		equal = equal && row == before[i]
	}
	if equal {
		return same, shift
	}
	return within, shift
}

// rawRows returns the rows of a checked array, without white space.
func rawRows(array []byte) (list []string) {
	c := rows.NewCursor(array)
	for len(list) < maxCompared {
		row, ok := c.NextRaw()
		if !ok {
			break
		}
		v := jsontext.Value(bytes.Clone(row))
		_ = v.Compact(lenient)
		list = append(list, string(v))
	}
	return list
}

// values returns a member of each row, nil if a row lacks it or has another kind than text or number.
func values(list []string, name string) (found []string) {
	path := memberPath(name)
	for _, row := range list {
		v, ok := rows.Lookup([]byte(row), path)
		if !ok || v.Kind != rows.String && v.Kind != rows.Number {
			return nil
		}
		found = append(found, string(v.Raw))
	}
	return found
}

func distinct(list []string) bool {
	seen := map[string]bool{}
	for _, s := range list {
		if seen[s] {
			return false
		}
		seen[s] = true
	}
	return true
}
