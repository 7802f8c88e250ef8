package cells

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"sheaf/events"
	"sheaf/events/rows"
	"sheaf/services/assembler/encode"
)

// maxLink is the maximum number of characters of a link, in UTF-16 code units (Excel's limit).
const maxLink = 2079

// linkPart is a part of a link: a fixed text, or the value of a key.
type linkPart struct {
	text        string
	whole, path int32 // places of the key
	isKey       bool
}

// linkPlace has the places of a key in a link template.
type linkPlace struct{ whole, path int32 }

// linkKeys returns the distinct keys in the link template of a column.
func linkKeys(c encode.Column) (keys []string) {
	if c.Spec == nil || c.Spec.Link == events.LinkValue {
		return nil
	}
	for left := c.Spec.Link; ; {
		_, after, found := strings.Cut(left, "{")
		key, rest, closed := strings.Cut(after, "}")
		if !found || !closed || key == "" {
			return keys
		}
		if !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
		left = rest
	}
}

// newLink parses the template of a link. The result is empty, not nil, if the value itself is the link.
func newLink(r *Reader, template string) (parts []linkPart, err error) {
	parts = []linkPart{}
	if template == events.LinkValue {
		return parts, nil
	}
	for left := template; left != ""; {
		text, after, found := strings.Cut(left, "{")
		if text != "" {
			parts = append(parts, linkPart{text: text})
		}
		key, rest, closed := strings.Cut(after, "}")
		switch {
		case !found:
			return parts, nil
		case !closed || key == "":
			return nil, fmt.Errorf("%q lacks a key in braces, such as {id}", template)
		}
		part := linkPart{isKey: true, whole: r.member(&r.fields, key), path: r.at(key)}
		r.places[part.whole].linked = true
		if part.path >= 0 {
			r.places[part.path].linked = true
		}
		parts = append(parts, part)
		left = rest
	}
	return parts, nil
}

// linkCell gives a cell its link. A link that no format may hold is left out and counted.
func (r *Reader) linkCell(cell *Cell, k *column, col int32) {
	start := len(r.text)
	if len(k.link) == 0 {
		span := r.values[col].span
		if span.Kind != rows.String || len(r.cursor.Raw(span)) > maxRawLink {
			r.notes.column(col).links.add(r.notes.rows, cell.Text)
			return
		}
		r.text = appendURL(r.text, r.linkText(span))
	}
	for _, part := range k.link {
		if !part.isKey {
			r.text = append(r.text, part.text...)
			continue
		}
		span, ok := r.linked(part.whole, part.path)
		if !ok || span.Kind == rows.Null || span.Kind == rows.Object || span.Kind == rows.Array {
			r.text = r.text[:start]
			return // the row has nothing to link to
		}
		if len(r.cursor.Raw(span)) > maxRawLink {
			r.text = r.text[:start]
			r.notes.column(col).links.add(r.notes.rows, cell.Text)
			return
		}
		r.text = appendEscaped(r.text, r.linkText(span))
	}
	link := r.text[start:len(r.text):len(r.text)]
	switch {
	case len(link) == 0:
	case isLink(link):
		cell.Link = link
	default:
		r.notes.column(col).links.add(r.notes.rows, link)
	}
}

// linkText returns the text of a scalar. It is valid until the next call.
func (r *Reader) linkText(span rows.Span) []byte {
	r.scratch = encode.AppendText(r.scratch[:0], r.cursor.At(span), maxText)
	return r.scratch
}

// maxRawLink is the maximum number of bytes of a JSON string that may be a link: each character is an escape.
const maxRawLink = (maxLink + 1) * len(`\u0000`)

const upperHex = "0123456789ABCDEF"

// appendEscaped appends a value that becomes a part of a URL. It escapes all but the unreserved characters of
// RFC 3986, so that a value is never more than one part of a path or query.
func appendEscaped(dst, text []byte) []byte {
	for _, c := range text {
		if isAlphanumeric(c) || bytes.IndexByte([]byte("-._~"), c) >= 0 {
			dst = append(dst, c)
		} else {
			dst = append(dst, '%', upperHex[c>>4], upperHex[c&15])
		}
	}
	return dst
}

// appendURL appends a URL. It escapes the ASCII characters that RFC 3986 does not allow, as browsers do.
// Others stay: IRIs (RFC 3987) hold them.
func appendURL(dst, url []byte) []byte {
	for i, c := range url {
		allowed := c >= 0x80 || isAlphanumeric(c) || bytes.IndexByte([]byte("-._~:/?#[]@!$&'()*+,;="), c) >= 0 ||
			c == '%' && i+2 < len(url) && isHex(url[i+1]) && isHex(url[i+2])
		if allowed {
			dst = append(dst, c)
		} else {
			dst = append(dst, '%', upperHex[c>>4], upperHex[c&15])
		}
	}
	return dst
}

func isAlphanumeric(c byte) bool { return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z' }

func isHex(c byte) bool { return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'f' }

// isLink reports whether a URL is one that a cell may link to: http, https or mailto, well-formed and not too
// long. Programs call a workbook damaged if a link in it is not well-formed.
func isLink(url []byte) bool {
	if len(url) > maxLink*utf8.UTFMax || characters(url) > maxLink {
		return false
	}
	rest, found := cutScheme(url, "mailto:")
	if found {
		return len(rest) > 0 && !bytes.ContainsAny(rest, "[]#")
	}
	if rest, found = cutScheme(url, "https://"); !found {
		if rest, found = cutScheme(url, "http://"); !found {
			return false
		}
	}
	end := bytes.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	_, fragment, _ := bytes.Cut(rest[end:], []byte{'#'})
	return isAuthority(rest[:end]) && !bytes.ContainsAny(rest[end:], "[]") && bytes.IndexByte(fragment, '#') < 0
}

// characters counts UTF-16 code units.
func characters(text []byte) (n int) {
	for i := 0; i < len(text); n++ {
		r, size := utf8.DecodeRune(text[i:])
		if i += size; r > 0xFFFF {
			n++
		}
	}
	return n
}

// cutScheme cuts a prefix whose case makes no difference.
func cutScheme(url []byte, prefix string) (rest []byte, found bool) {
	if len(url) < len(prefix) || !strings.EqualFold(string(url[:len(prefix)]), prefix) {
		return nil, false
	}
	return url[len(prefix):], true
}

// isAuthority reports whether a text is the host of a URL, perhaps with a user and a port.
func isAuthority(text []byte) bool {
	if i := bytes.LastIndexByte(text, '@'); i >= 0 {
		if bytes.ContainsAny(text[:i], "@[]") {
			return false
		}
		text = text[i+1:]
	}
	host, port := text, []byte(nil)
	if i := bytes.IndexByte(text, ']'); len(text) > 0 && text[0] == '[' {
		if i < 0 {
			return false
		}
		for _, c := range text[1:i] { // an IPv6 address
			if !isHex(c) && c != ':' && c != '.' {
				return false
			}
		}
		host, port = text[:i+1], text[i+1:]
	} else if i := bytes.IndexByte(text, ':'); i >= 0 {
		host, port = text[:i], text[i:]
	}
	if len(port) > 0 {
		if port[0] != ':' || len(port) > len(":65535") {
			return false
		}
		n := 0
		for _, c := range port[1:] {
			if c < '0' || c > '9' {
				return false
			}
			n = 10*n + int(c-'0')
		}
		if n > 65_535 {
			return false
		}
	}
	return len(host) > 0 && (host[0] == '[' || !bytes.ContainsAny(host, "[]%"))
}
