package assembler

import (
	"fmt"
	"hash/maphash"

	"sheaf/events"
	"sheaf/events/pages"
	"sheaf/events/rows"
)

// maxKeys bounds the number of row keys in memory: at most 16 bytes each, 64 MiB in all.
const maxKeys = 4 << 20

// rowKeys detects duplicate rows. If data changes between page requests, the count can be right while one row
// is on two pages and another on none. A total cannot show that.
//
// It stores a 64-bit hash of each key. Two different keys collide in about one of a million files of four
// million rows.
type rowKeys struct {
	column string
	seed   maphash.Seed

	table    []uint64 // open addressing, 0 is free
	held     int
	full     bool
	missing  int64 // rows without the column, or with null in it
	repeated int64
	first    string // the first duplicate key, as in the page
	page     int    // its page and row
	buf      []byte
}

// newRowKeys checks a column for duplicates, or nothing when column is "".
func newRowKeys(column string) *rowKeys {
	return &rowKeys{column: column, seed: maphash.MakeSeed(), table: make([]uint64, 1<<10)}
}

func (k *rowKeys) add(p pages.Page) {
	if k.column == "" {
		return
	}
	c := rows.NewCursor(p.Rows)
	for first := true; c.NextRow(); first = false {
		if first && p.HeaderRow {
			continue
		}
		var key []byte
		for {
			name, escaped, v, ok := c.NextField()
			if !ok {
				break
			}
			if escaped {
				k.buf = rows.Unquote(k.buf[:0], name)
				name = k.buf
			}
			if string(name) == k.column && v.Kind != rows.Null {
				key = v.Raw // the last one counts
			}
		}
		if key == nil {
			k.missing++
			continue
		}
		if k.seen(max(maphash.Bytes(k.seed, key), 1)) {
			if k.repeated++; k.repeated == 1 {
				k.first, k.page = string(key[:min(len(key), 100)]), p.Number
			}
		}
	}
}

// seen stores a hash and reports whether it was there before.
func (k *rowKeys) seen(h uint64) bool {
	i := h % uint64(len(k.table))
	for ; k.table[i] != 0; i = (i + 1) % uint64(len(k.table)) {
		if k.table[i] == h {
			return true
		}
	}
	if k.held >= maxKeys {
		k.full = true
		return false
	}
	k.table[i] = h
	if k.held++; k.held*2 > len(k.table) && len(k.table) < 2*maxKeys {
		old := k.table
		k.table = make([]uint64, 2*len(old))
		for _, h := range old {
			if h == 0 {
				continue
			}
			i := h % uint64(len(k.table))
			for ; k.table[i] != 0; i = (i + 1) % uint64(len(k.table)) {
			}
			k.table[i] = h
		}
	}
	return false
}

func (k *rowKeys) warnings() (warnings []events.Warning) {
	warn := func(code, format string, args ...any) {
		warnings = append(warnings, events.Warning{Code: code, Message: fmt.Sprintf(format, args...)})
	}
	if k.repeated > 0 {
		warn("ROW_KEY_REPEATED", "%d rows repeat a %s of an earlier row, the first of them %s on page %d: rows may have moved between pages, and others be missing", k.repeated, k.column, k.first, k.page)
	}
	if k.missing > 0 {
		warn("ROW_KEY_MISSING", "%d rows have no %s", k.missing, k.column)
	}
	if k.full {
		warn("ROW_KEY_PARTIAL", "only the first %d different values of %s were checked for repetition", maxKeys, k.column)
	}
	return warnings
}
