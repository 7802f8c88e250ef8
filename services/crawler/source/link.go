package source

import (
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// nextLink returns the target of the first link with the relation type rel in Link header fields (RFC 8288,
// section 3), "" without one. malformed reports an empty target, or text that is no link where no link has the
// relation. Relation types are compared without case, and only the first rel of a link counts.
func nextLink(fields []string, rel string) (target string, malformed bool) {
	for _, field := range fields {
		p := linkParser{s: field}
		for p.skip(" \t,"); p.s != ""; p.skip(" \t,") {
			uri, rels, ok := p.link()
			if !ok {
				malformed = true
				break
			}
			if slices.ContainsFunc(strings.Fields(rels), func(r string) bool { return strings.EqualFold(r, rel) }) {
				return uri, uri == ""
			}
		}
	}
	return "", malformed
}

// linkParser is at the rest s of a field.
type linkParser struct{ s string }

func (p *linkParser) skip(chars string) { p.s = strings.TrimLeft(p.s, chars) }

// take reports whether c comes next, and moves past it.
func (p *linkParser) take(c byte) bool {
	if p.s == "" || p.s[0] != c {
		return false
	}
	p.s = p.s[1:]
	return true
}

// link reads "<" URI ">" *( ";" name [ "=" value ] ). A link with an anchor has no relation here: it belongs to
// another resource than the response.
func (p *linkParser) link() (uri, rels string, ok bool) {
	if !p.take('<') {
		return "", "", false
	}
	uri, p.s, ok = strings.Cut(p.s, ">")
	if !ok {
		return "", "", false
	}
	hasRel, anchored := false, false
	for p.skip(" \t"); p.take(';'); p.skip(" \t") {
		p.skip(" \t")
		name := p.token()
		p.skip(" \t")
		value := ""
		if p.take('=') {
			p.skip(" \t")
			if value, ok = p.value(); !ok {
				return "", "", false
			}
		}
		if strings.EqualFold(name, "rel") && !hasRel {
			rels, hasRel = value, true
		}
		anchored = anchored || strings.EqualFold(name, "anchor")
	}
	if anchored {
		rels = ""
	}
	return strings.TrimSpace(uri), rels, p.s == "" || p.s[0] == ','
}

func (p *linkParser) token() string {
	n := strings.IndexFunc(p.s, func(r rune) bool { return !httpguts.IsTokenRune(r) })
	if n < 0 {
		n = len(p.s)
	}
	token := p.s[:n]
	p.s = p.s[n:]
	return token
}

// value reads a quoted string, or text up to a separator. Unquoted values are tokens in the RFC, but servers
// send addresses there too.
func (p *linkParser) value() (value string, ok bool) {
	if !p.take('"') {
		n := strings.IndexAny(p.s, "; \t,")
		if n < 0 {
			n = len(p.s)
		}
		value, p.s = p.s[:n], p.s[n:]
		return value, true
	}
	var b strings.Builder
	for p.s != "" {
		c := p.s[0]
		p.s = p.s[1:]
		switch {
		case c == '"':
			return b.String(), true
		case c == '\\' && p.s != "":
			c = p.s[0]
			p.s = p.s[1:]
		}
		b.WriteByte(c)
	}
	return "", false
}
