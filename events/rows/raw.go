package rows

// NextRaw moves over the next row and returns it as it stands in the array,
// with its braces. It is cheaper than reading the fields. Fields of the
// current row that were not read are skipped.
func (c *Cursor) NextRaw() (row []byte, ok bool) {
	if !c.NextRow() {
		return nil, false
	}
	start := c.i - 1
	end := nestedEnd(c.b, start)
	if end < 0 {
		c.stop()
		return nil, false
	}
	c.i, c.inRow = end, false
	return c.b[start:end:end], true
}

// Offset is where the cursor stands in the array: after [Cursor.NextRaw], just
// behind the row that it returned.
func (c *Cursor) Offset() int { return c.i }
