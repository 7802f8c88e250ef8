package egress

import (
	"net/url"
	"strings"
)

// Of ASCII, besides letters and digits, what a path and a query may hold as it is (RFC 3986, 3.3 and 3.4). Brackets
// in a path are not allowed there, but [url.URL] keeps them.
const (
	pathChars  = "-._~!$&'()*+,;=:@/" + "[]"
	queryChars = "-._~!$&'()*+,;=:@/?"
)

// encoded returns u with percent-encoding for all bytes that its path and query may not hold. What is encoded
// already stays as it is, also where another encoding would mean the same.
func encoded(u *url.URL) *url.URL {
	e := *u
	e.RawPath = encode(u.RawPath, pathChars) // empty if the path needs no encoding or the usual one
	e.RawQuery = encode(u.RawQuery, queryChars)
	return &e
}

func encode(s, allowed string) string {
	const upperHex = "0123456789ABCDEF"
	var b []byte
	for i := range len(s) {
		c := s[i]
		switch {
		case isAlphanumeric(c), strings.IndexByte(allowed, c) >= 0, c == '%' && i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]):
			if b != nil {
				b = append(b, c)
			}
		default:
			if b == nil {
				b = append(make([]byte, 0, len(s)+16), s[:i]...)
			}
			b = append(b, '%', upperHex[c>>4], upperHex[c&15])
		}
	}
	if b == nil {
		return s
	}
	return string(b)
}

func isAlphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

func isHex(c byte) bool { return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'f' }
