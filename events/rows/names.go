package rows

import (
	"bytes"
	"math"
)

// Names returns the distinct names of the rows of a checked array, decoded, in the order in which they first
// appear: row by row, and within a row by position. It is what [Found.Names] is for the same rows.
func Names(array []byte) []string {
	u := &union{}
	s := scanner{b: array, lim: Limits{MaxDepth: math.MaxInt, MaxRows: math.MaxInt, MaxFields: math.MaxInt,
		MaxRowBytes: math.MaxInt}.withDefaults(), union: u}
	if i := skipSpace(array, 0); i < len(array) && array[i] == '[' {
		s.rows(i)
	}
	return u.names
}

// maxNames is the number of names that are collected, one more than a worksheet has columns.
const maxNames = 16_384 + 1

// union collects the distinct names of rows, while a scanner reads them. Most rows have the names of an
// earlier row in its order, or lack some of them. So the scanner compares a name with the one that followed
// the name before it earlier, which is cheaper than reading it.
type union struct {
	names []string
	seen  []*seenName    // by position in names
	index map[string]int // position in names; nil while the names are few
	start seenName       // before the first name of a row
	last  *seenName      // the last name that was read
	text  []byte         // scratch
}

// seenName is a name that occurred before.
type seenName struct {
	start, end int       // where it first is in the text, with quotes
	next       *seenName // the name that followed it
}

// reset forgets all names.
func (u *union) reset() { *u = union{text: u.text} }

const (
	maxListed  = 8 // the number of names up to which comparing with each is cheaper than a map
	maxSkipped = 8 // how many names a row may lack before the next one is looked up
)

// read reads the name of a row whose quote is at i, and adds it unless it is there. It is not the name that
// followed u.last earlier.
func (u *union) read(s *scanner, i int) (end int) {
	is := u.last.next
	for skipped := 0; is != nil && skipped < maxSkipped; skipped++ {
		if is = is.next; is != nil && s.repeats(is, i) {
			u.last = is
			return i + is.end - is.start
		}
	}
	if end = s.str(i + 1); end < 0 {
		return -1
	}
	is = u.add(s.b[i+1:end-1], i)
	u.last.next = is
	u.last = is
	return end
}

// repeats reports whether the bytes at i are those of an earlier name.
func (s *scanner) repeats(is *seenName, i int) bool {
	size := is.end - is.start
	return size <= len(s.b)-i && string(s.b[i:i+size]) == string(s.b[is.start:is.end])
}

// add adds a raw name without its quotes, whose first quote is at i, unless it is there.
func (u *union) add(raw []byte, i int) *seenName {
	is := &seenName{start: i, end: i + len(raw) + len(`""`)}
	if bytes.IndexByte(raw, '\\') >= 0 {
		u.text = Unquote(u.text[:0], raw)
		raw = u.text
	}
	if u.index == nil {
		for k, name := range u.names {
			if name == string(raw) {
				return u.seen[k]
			}
		}
	} else if k, ok := u.index[string(raw)]; ok {
		return u.seen[k]
	}
	if len(u.names) == maxNames {
		return is
	}
	u.names = append(u.names, string(raw))
	u.seen = append(u.seen, is)
	switch n := len(u.names); {
	case u.index != nil:
		u.index[u.names[n-1]] = n - 1
	case n > maxListed:
		u.index = make(map[string]int, 2*n)
		for k, name := range u.names {
			u.index[name] = k
		}
	}
	return is
}
