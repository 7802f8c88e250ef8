package preview

import (
	"crypto/sha256"

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

// identities are names whose values identify a row, if all rows of page 1 have different ones.
var identities = []string{"id", "_id", "uuid", "guid", "key", "code", "no"}

// compare relates rows to those of page 1. shift is the position on page 1 of the first row, -1 if it is not
// there. Rows are compared by a value that identifies them, so that a clock in a row makes it no other row.
func compare(page1, page []byte) (r relation, shift int) {
	rows1, rows2 := rawRows(page1), rawRows(page)
	switch {
	case len(rows2) == 0 && len(rows1) == 0:
		return same, -1
	case len(rows2) == 0:
		return empty, -1
	}
	before, after := identified(rows1, rows2)
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

// identified returns what identifies the rows of two pages.
func identified(rows1, rows2 [][]byte) (before, after []string) {
	for _, name := range identities {
		a, b := values(rows1, name), values(rows2, name)
		if a != nil && b != nil && distinct(a) {
			return a, b
		}
	}
	return digests(rows1), digests(rows2)
}

// digests returns a digest of each row, without its white space.
func digests(list [][]byte) []string {
	sums := make([]string, len(list))
	var v jsontext.Value
	for i, row := range list {
		v = append(v[:0], row...)
		_ = v.Compact(lenient)
		sum := sha256.Sum256(v)
		sums[i] = string(sum[:])
	}
	return sums
}

// rawRows returns the rows of a checked array.
func rawRows(array []byte) (list [][]byte) {
	c := rows.NewCursor(array)
	for len(list) < maxCompared {
		row, ok := c.NextRaw()
		if !ok {
			break
		}
		list = append(list, row)
	}
	return list
}

// values returns a member of each row, nil if a row lacks it or has another kind than text or number.
func values(list [][]byte, name string) (found []string) {
	path := rows.NewPath(rows.Member(name))
	for _, row := range list {
		v, ok := rows.Lookup(row, path)
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
