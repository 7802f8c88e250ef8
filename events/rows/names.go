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

// union collects the distinct names of rows.
type union struct {
	names []string
	index map[string]int // position in names; nil while the names are few
	next  int            // position in names of the name that probably comes next
	wide  [][2]int       // as scanner.names, for the names after those
	text  []byte         // scratch
}

// reset forgets all names.
func (u *union) reset() {
	*u = union{wide: u.wide[:0], text: u.text}
}

// maxListed is the number of names up to which comparing with each is cheaper than a map.
const maxListed = 8

// add adds a raw name without its quotes, unless it is there.
func (u *union) add(raw []byte) {
	if bytes.IndexByte(raw, '\\') >= 0 {
		u.text = Unquote(u.text[:0], raw)
		raw = u.text
	}
	// Rows that lack some names still have the others in order.
	for k := u.next; k < len(u.names) && k < u.next+4; k++ {
		if u.names[k] == string(raw) {
			u.next = k + 1
			return
		}
	}
	if u.index == nil {
		for k, name := range u.names {
			if name == string(raw) {
				u.next = k + 1
				return
			}
		}
	} else if k, ok := u.index[string(raw)]; ok {
		u.next = k + 1
		return
	}
	if len(u.names) == maxNames {
		return
	}
	u.names = append(u.names, string(raw))
	u.next = len(u.names)
	switch {
	case u.index != nil:
		u.index[u.names[u.next-1]] = u.next - 1
	case u.next > maxListed:
		u.index = make(map[string]int, 2*u.next)
		for k, name := range u.names {
			u.index[name] = k
		}
	}
}

// far reads the name at i, the k-th of those beyond [scanner.names].
func (u *union) far(s *scanner, i, k int) int {
	if k < len(u.wide) {
		before := u.wide[k]
		if size := before[1] - before[0]; size <= len(s.b)-i &&
			string(s.b[i:i+size]) == string(s.b[before[0]:before[1]]) {
			return i + size
		}
	}
	end := s.str(i + 1)
	if end < 0 {
		return -1
	}
	u.add(s.b[i+1 : end-1])
	if k < len(u.wide) {
		u.wide[k] = [2]int{i, end}
	} else {
		u.wide = append(u.wide, [2]int{i, end})
	}
	return end
}
