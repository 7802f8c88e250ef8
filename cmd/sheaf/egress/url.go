package egress

import (
	"net"
	"net/url"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// Besides letters and digits, the ASCII characters that a path and a query may contain unencoded (RFC 3986,
// 3.3 and 3.4). A path must not contain brackets, but [url.URL] keeps them.
const (
	pathChars  = "-._~!$&'()*+,;=:@/" + "[]"
	queryChars = "-._~!$&'()*+,;=:@/?"
)

// encoded returns u with all bytes percent-encoded that its path and query must not contain. Existing escapes
// stay unchanged, even where another spelling means the same. A Unicode host becomes its ASCII name in DNS;
// net/http would otherwise send another host name than it dials.
func encoded(u *url.URL) (*url.URL, error) {
	e := *u
	if !isASCII(u.Host) {
		host, err := idna.Lookup.ToASCII(u.Hostname())
		if err != nil {
			return nil, errHost
		}
		if port := u.Port(); port != "" {
			host = net.JoinHostPort(host, port)
		}
		e.Host = host
	}
	e.RawPath = encode(u.RawPath, pathChars) // empty if the path needs no encoding or the default one
	e.RawQuery = encode(u.RawQuery, queryChars)
	return &e, nil
}

// errHost is a [net.DNSError] because such a name cannot exist in DNS.
var errHost = &net.DNSError{Err: "not a domain name", IsNotFound: true}

func isASCII(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r >= utf8.RuneSelf }) < 0
}

func encode(s, allowed string) string {
	const upperHex = "0123456789ABCDEF"
	var b []byte
	for i := range len(s) {
		c := s[i]
		switch {
		case isAlphanumeric(c), strings.IndexByte(allowed, c) >= 0, c == '%' && i+2 < len(s) &&
			isHex(s[i+1]) && isHex(s[i+2]):
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
