package rows

// AppendRow appends the row that the cursor has just moved to as one line, see AppendCompact, and moves past
// it. It must be called before a field of the row is read.
func (c *Cursor) AppendRow(dst []byte) []byte {
	if !c.inRow {
		return dst
	}
	dst, n := appendCompact(dst, c.b[c.i-1:])
	if n < 0 {
		c.stop()
		return dst
	}
	c.i, c.inRow = c.i-1+n, false
	return dst
}

// AppendCompact appends a checked JSON value without white space between its tokens. Names, escapes and digits
// stay as they are. Half a surrogate pair becomes \ufffd, because many readers refuse it. A text that did not
// pass Check gives an arbitrary result, never a panic.
func AppendCompact(dst, raw []byte) []byte {
	dst, _ = appendCompact(dst, raw)
	return dst
}

// appendCompact returns the length of the value that b begins with, or -1 if it does not end.
func appendCompact(dst, b []byte) (_ []byte, n int) {
	from, depth := 0, 0
	for i := 0; i < len(b); {
		switch b[i] {
		case '{', '[':
			depth++
			i++
			continue
		case '}', ']':
			depth--
			i++
		case '"':
			end, escaped := stringEnd(b, i+1)
			if end < 0 || end > len(b) {
				return append(dst, b[from:]...), -1
			}
			if escaped {
				dst = append(dst, b[from:i]...)
				dst = appendWellFormed(dst, b[i:end])
				from = end
			}
			i = end
		case ' ', '\t', '\n', '\r':
			dst = append(dst, b[from:i]...)
			i = skipSpace(b, i)
			from = i
			continue
		case ',', ':':
			i++
			continue
		default:
			i = plainEnd(b, i)
		}
		if depth <= 0 {
			return append(dst, b[from:i]...), i
		}
	}
	return append(dst, b[from:]...), -1
}

// appendWellFormed appends a quoted string. Half a surrogate pair becomes \ufffd.
func appendWellFormed(dst, s []byte) []byte {
	from := 0
	for i := 0; i+1 < len(s); i++ {
		if s[i] != '\\' {
			continue
		}
		if i++; s[i] != 'u' {
			continue
		}
		unit, ok := hex4(s[i+1:])
		i += 4
		if !ok || unit < 0xd800 || unit > 0xdfff {
			continue
		}
		if unit < 0xdc00 && i+2 < len(s) && s[i+1] == '\\' && s[i+2] == 'u' {
			if low, ok := hex4(s[i+3:]); ok && low >= 0xdc00 && low <= 0xdfff {
				i += 6
				continue
			}
		}
		dst = append(append(dst, s[from:i-5]...), `\ufffd`...)
		from = i + 1
	}
	return append(dst, s[from:]...)
}
