package rows

import "bytes"

// sampleRows is the number of rows after the first that are compared with it.
const sampleRows = 20

// FirstRowIsData reports whether the first row of a checked array cannot hold titles. That is so if at least
// one of its values is not a string and the rows below have values of the same kind under the same names.
// Null counts as no value; a number or boolean that reads like its name counts as a title. Columns may mix
// kinds below the first row.
func FirstRowIsData(array []byte) bool {
	odd := false
	for _, k := range compareFirstRow(array) {
		switch {
		case k.first == Null || k.named:
		case !k.same && (k.other || k.first != String):
			return false
		case k.first != String:
			odd = true
		}
	}
	return odd
}

// FirstRowIsTitles reports whether the first row of a checked array holds only strings while the rows below
// also hold other kinds.
func FirstRowIsTitles(array []byte) bool {
	below := false
	for _, k := range compareFirstRow(array) {
		if k.first != String {
			return false
		}
		below = below || k.other
	}
	return below
}

// column compares a value of the first row with those below it. Null counts as no value.
type column struct {
	first       Kind
	named       bool // the first row's value is not a string and reads like its name
	same, other bool // the rows below have values of the same kind, of another kind
}

// compareFirstRow compares the first row of a checked array with the next sampleRows rows. The keys of the
// result are raw names.
func compareFirstRow(array []byte) map[string]*column {
	columns := map[string]*column{}
	c := NewCursor(array)
	for n := 0; n <= sampleRows && c.NextRow(); n++ {
		for {
			name, _, v, ok := c.NextField()
			if !ok {
				break
			}
			kind := kindGroup(v.Kind)
			if n == 0 {
				columns[string(name)] = &column{first: kind, named: kind != String &&
					bytes.Equal(v.Raw, name)}
			} else if k := columns[string(name)]; k != nil && kind != Null {
				k.same = k.same || kind == k.first
				k.other = k.other || kind != k.first
			}
		}
	}
	return columns
}

// kindGroup treats both booleans as one kind.
func kindGroup(k Kind) Kind {
	if k == False {
		return True
	}
	return k
}
