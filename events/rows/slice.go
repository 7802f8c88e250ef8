package rows

// Slice appends an array with the rows from to to-1, counted from 0, of a checked array. Rows that the array
// does not have are left out.
func Slice(dst, array []byte, from, to int) []byte {
	c := NewCursor(array)
	start, end := -1, -1
	for n := 0; n < to && c.NextRow(); n++ {
		if n == from {
			start = c.i - 1
		}
		if end = nestedEnd(array, c.i-1); end < 0 {
			break
		}
		c.i, c.inRow = end, false
	}
	dst = append(dst, '[')
	if start >= 0 && end >= 0 {
		dst = append(dst, array[start:end]...)
	}
	return append(dst, ']')
}
