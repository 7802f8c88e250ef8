package source

import (
	"encoding/base64"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"unicode"
)

// redactor keeps the texts that no message may show, longest first.
type redactor []string

// Shorter values, and shorter words in them, are ignored. Redacting them would make messages unreadable and
// hide little.
const (
	minSecret     = 4
	minSecretWord = 6
)

// add stores a value and the words in it. A source may repeat only a part of "Bearer abc", "sid=abc; lang=en"
// or `token="abc"`.
func (s *redactor) add(value string) {
	if len(value) >= minSecret {
		*s = append(*s, value)
	}
	for _, word := range strings.FieldsFunc(value, func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune(`=;,&"'`, r) }) {
		if len(word) >= minSecretWord && word != value {
			*s = append(*s, word)
		}
	}
	if kind, credentials, _ := strings.Cut(value, " "); strings.EqualFold(kind, "Basic") { // RFC 7617
		if plain, err := base64.StdEncoding.DecodeString(credentials); err == nil {
			user, password, _ := strings.Cut(string(plain), ":")
			s.add(user)
			s.add(password)
		}
	}
	slices.SortFunc(*s, func(a, b string) int { return len(b) - len(a) })
}

// addAddress stores the address of a page, and the values in its query.
func (s *redactor) addAddress(address string) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return
	}
	s.add(address)
	s.add(u.RequestURI())
	for part := range strings.SplitSeq(u.RawQuery, "&") {
		_, value, _ := strings.Cut(part, "=")
		s.add(value)
		if plain, err := url.QueryUnescape(value); err == nil {
			s.add(plain)
		}
	}
}

// addJSON stores every text in a JSON value.
func (s *redactor) addJSON(raw []byte) {
	var v any
	if json.Unmarshal(raw, &v) == nil {
		s.addAll(v)
	}
}

func (s *redactor) addAll(v any) {
	switch v := v.(type) {
	case string:
		s.add(v)
	case []any:
		for _, e := range v {
			s.addAll(e)
		}
	case map[string]any:
		for _, e := range v {
			s.addAll(e)
		}
	}
}

// redact makes a text safe for logs, terminals and pages.
func (s redactor) redact(msg string) string {
	for _, secret := range s {
		msg = strings.ReplaceAll(msg, secret, "***")
		// The message was cut before, perhaps in the middle of a secret.
		for n := len(secret) - 1; n >= minSecret; n-- {
			if rest, cut := strings.CutSuffix(msg, secret[:n]); cut {
				msg = rest + "***"
				break
			}
		}
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) { // no cursor movement, no change of the writing direction
			return ' '
		}
		return r
	}, msg)
}

// redactJSON is redact for a JSON value, in whose escapes a secret could hide.
func (s redactor) redactJSON(raw string) string {
	var text string
	if json.Unmarshal([]byte(raw), &text) != nil {
		return s.redact(raw)
	}
	quoted, err := json.Marshal(s.redact(text))
	if err != nil {
		return ""
	}
	return string(quoted)
}
