package encode

import (
	"bytes"

	"sheaf/events/rows"
)

// AppendText appends a value as a cell shows it: a string decoded, null as nothing, a nested value as compact
// JSON. If the text has more than maxChars characters, AppendText may append only a part that also has more.
func AppendText(dst []byte, v rows.Value, maxChars int) []byte {
	switch v.Kind {
	case rows.Null:
		return dst
	case rows.String:
		return rows.Unquote(dst, v.Raw[:min(len(v.Raw), (maxChars+3)*len(`\u0000`))])
	case rows.Object, rows.Array:
		return appendCompact(dst, v.Raw, maxChars)
	}
	return append(dst, v.Raw...)
}

// appendCompact appends a checked JSON value without white space. It writes the characters of strings
// unescaped where JSON allows: many sources escape all non-ASCII text, which is unreadable in a cell.
func appendCompact(dst, raw []byte, maxChars int) []byte {
	inString := false
	for i, maxLen := 0, len(dst)+3*(maxChars+1); i < len(raw) && len(dst) <= maxLen; {
		c := raw[i]
		switch {
		case c == '"':
			inString = !inString
		case !inString && (c == ' ' || c == '\t' || c == '\n' || c == '\r'):
			i++
			continue
		case inString && c == '\\' && i+1 < len(raw):
			n := 2
			if raw[i+1] == 'u' {
				n = 6
			}
			piece := raw[i:min(i+n, len(raw))]
			text := rows.Unquote(dst, piece)[len(dst):]
			if bytes.Equal(text, []byte("\uFFFD")) && i+12 <= len(raw) {
				// Possibly the first half of a surrogate pair.
				if pair := rows.Unquote(dst, raw[i:i+12])[len(dst):]; len(pair) == 4 && pair[0] >= 0xf0 {
					piece, text = raw[i:i+12], pair
				}
			}
			if text[0] < ' ' || text[0] == '"' || text[0] == '\\' || bytes.Equal(text, []byte("\uFFFD")) {
				text = piece
			}
			dst = append(dst, text...)
			i += len(piece)
			continue
		}
		dst = append(dst, c)
		i++
	}
	return dst
}
