package rows

// NextRaw moves past the next row and returns its bytes as sent, braces included. It is cheaper than reading
// the fields. It skips unread fields of the current row.
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

// Offset returns the cursor's position in the array. After [Cursor.NextRaw] it is the end of the row that
// NextRaw returned.
func (c *Cursor) Offset() int { return c.i }
