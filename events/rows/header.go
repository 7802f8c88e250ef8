package rows

import "bytes"

// sampleRows is how many rows after the first one are compared with it.
const sampleRows = 20

// FirstRowIsData reports whether the first row of a checked array cannot hold titles: a
// value of it is no text, and the rows after it have values of the same kind under the
// same names. Null is no value, and a number or boolean that reads like its name is a
// title. A column below may have values of other kinds as well.
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

// FirstRowIsTitles reports whether the first row of a checked array is all text and the
// rows after it are not.
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

// column compares a value of the first row with those below it. Null is no value.
type column struct {
	first       Kind
	named       bool // the first row's value is no text and reads like its name
	same, other bool // there are values of its kind, of others
}

// compareFirstRow compares the first row of a checked array with the next ones.
// Names are as they stand there.
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
				columns[string(name)] = &column{first: kind, named: kind != String && bytes.Equal(v.Raw, name)}
			} else if k := columns[string(name)]; k != nil && kind != Null {
				k.same = k.same || kind == k.first
				k.other = k.other || kind != k.first
			}
		}
	}
	return columns
}

// kindGroup makes one kind of the two booleans.
func kindGroup(k Kind) Kind {
	if k == False {
		return True
	}
	return k
}
