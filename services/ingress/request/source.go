package request

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"sheaf/events"
	"sheaf/events/rows"
	"sheaf/events/secrets"

	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/idna"
)

// sourceHTTP checks the description of the source. more are the names of unknown fields. header also holds
// the secret parameters, see secrets.Param, and the auth object, see secrets.Auth. declares reports that the
// request has a field that the standard format lacks.
func sourceHTTP(source jsontext.Value) (req *events.HTTPRequest, header secrets.Values, more []string, declares bool, err error) {
	members, err := objectMembers("source_http", source)
	if err != nil {
		return nil, nil, nil, false, err
	}
	declares = slices.ContainsFunc(members, func(m member) bool {
		return m.value.Kind() != 'n' && slices.Contains(newFields, m.name)
	})
	req = &events.HTTPRequest{Method: "GET", Limit: defaultLimit, Conn: defaultConn}
	given, hasMethod := fields{}, false
	for _, m := range members {
		name := m.name
		m.name = "source_http." + name
		var err error
		switch name {
		case "url":
			req.URL, err = sourceURL(m)
		case "method":
			var method string
			if method, err = text(m, 64); err == nil && method != "" {
				hasMethod = true
				req.Method = strings.ToUpper(method)
				if req.Method != "GET" && req.Method != "POST" {
					err = Invalid(m.name, "%q is not supported; supported: GET, POST", Cut(method, 16))
				}
			}
		case "conn":
			if m.value.Kind() != 'n' {
				var n int64
				if n, err = integer(m, 0, maxConn); n != 0 {
					req.Conn = int(n)
				}
			}
		case "header":
			header, err = sourceHeader(m)
		case "param":
			if req.Param, err = param(m); err == nil && !declares {
				req.Limit, err = standardLimit(req.Param)
			}
		case "secret_param":
			if req.SecretParam, err = secretParams(m); err == nil && !declares {
				err = notSecret(req.SecretParam, standardParams)
			}
		default:
			if !slices.Contains(newFields, name) {
				more = append(more, m.name)
			} else if given[name] = m.value; m.value.Kind() == 'n' {
				given[name] = nil
			}
		}
		if err != nil {
			return nil, nil, nil, false, err
		}
	}
	if req.URL == "" {
		return nil, nil, nil, false, Invalid("source_http.url", "is required")
	}
	for name, value := range header {
		if secrets.CheckSealed(value) != nil {
			return nil, nil, nil, false, Invalid(fmt.Sprintf("source_http.header[%q]", Cut(name, 64)), "begins like a sealed value and is none; see sheaf seal")
		}
	}
	if declares {
		if header == nil {
			header = secrets.Values{}
		}
		if err := declare(req, header, given, hasMethod); err != nil {
			return nil, nil, nil, false, err
		}
	}
	req.Header = slices.DeleteFunc(slices.Sorted(maps.Keys(header)), func(name string) bool { return name == secrets.Auth })
	if len(req.SecretParam) > 0 {
		if header == nil {
			header = secrets.Values{}
		}
		if err := takeSecretParams(req, header); err != nil {
			return nil, nil, nil, false, err
		}
	}
	return req, header, more, declares, nil
}

// maxSecretParams is the maximum number of secret parameters of a source.
const maxSecretParams = 64

// secretParams reads the names of the parameters that are secret.
func secretParams(m member) ([]string, error) {
	if m.value.Kind() == 'n' {
		return nil, nil
	}
	var names []string
	if m.value.Kind() != '[' || json.Unmarshal(m.value, &names) != nil {
		return nil, Invalid(m.name, "must be an array of names of source_http.param")
	}
	if len(names) > maxSecretParams {
		return nil, Invalid(m.name, "has %d names, at most %d are allowed", len(names), maxSecretParams)
	}
	slices.Sort(names)
	for i, name := range names {
		if i > 0 && names[i-1] == name {
			return nil, Invalid(m.name, "names %q twice", Cut(name, maxWarningField))
		}
	}
	return names, nil
}

// standardParams are the parameters that the crawler sets in the standard format.
var standardParams = []string{"page", "limit"}

// notSecret refuses secret parameters that the crawler sets.
func notSecret(names, crawlers []string) error {
	for _, name := range names {
		if slices.Contains(crawlers, name) {
			return Invalid("source_http.secret_param", "%q is the crawler's and no secret", name)
		}
	}
	return nil
}

// takeSecretParams moves the secret parameters from the request in the log to the values that are sealed.
func takeSecretParams(req *events.HTTPRequest, into secrets.Values) error {
	var members []member
	if req.Param != nil {
		var err error
		if members, err = objectMembers("source_http.param", jsontext.Value(req.Param)); err != nil {
			return err
		}
	}
	rest, found := []byte{'{'}, 0
	for _, m := range members {
		if !slices.Contains(req.SecretParam, m.name) {
			if len(rest) > 1 {
				rest = append(rest, ',')
			}
			var err error
			if rest, err = jsontext.AppendQuote(rest, m.name); err != nil {
				return err
			}
			rest = append(append(rest, ':'), m.value...)
			continue
		}
		found++
		if m.value.Kind() == '"' {
			value, err := text(member{name: "source_http.param." + m.name, value: m.value}, maxHeaderBytes)
			if err != nil {
				return err
			}
			if secrets.CheckSealed(value) != nil {
				return Invalid("source_http.param."+Cut(m.name, 64), "begins like a sealed value and is none; see sheaf seal")
			}
		}
		if len(m.value) > maxHeaderBytes {
			return Invalid("source_http.param."+Cut(m.name, 64), "has more than %d bytes, the most of a secret", maxHeaderBytes)
		}
		into[secrets.Param(m.name)] = string(m.value)
	}
	if found < len(req.SecretParam) {
		for _, name := range req.SecretParam {
			if _, ok := into[secrets.Param(name)]; !ok {
				return Invalid("source_http.secret_param", "%q is no parameter in source_http.param", Cut(name, maxWarningField))
			}
		}
	}
	req.Param = append(rest, '}')
	return nil
}

func sourceURL(m member) (string, error) {
	s, err := text(m, maxSourceURL)
	if err != nil || s == "" {
		return "", err
	}
	return s, URL(m.name, s, maxSourceURL)
}

// credentialsPlace says where the user name and password of a URL belong.
func credentialsPlace(field string) string {
	if field == authField+".token_url" {
		return "give client_id and client_secret"
	}
	return "send them in source_http.header"
}

// URL checks an absolute http or https URL.
func URL(field, s string, maxBytes int) error {
	if len(s) > maxBytes {
		return Invalid(field, "has %d bytes, at most %d are allowed", len(s), maxBytes)
	}
	u, err := url.Parse(s)
	var escape url.EscapeError
	switch {
	case strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return Invalid(field, "is not a URL: it holds a control character, such as a line break; percent-encode it")
	case errors.As(err, &escape):
		return Invalid(field, "is not a URL: it holds %q, which is no percent-encoding; write %%25 for a percent sign", Cut(string(escape), 8))
	case err != nil:
		return Invalid(field, "is not a URL; want http://host/path or https://host/path")
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return Invalid(field, "must begin with http:// or https://")
	case u.User != nil:
		return Invalid(field, "must not hold a user name or password; %s", credentialsPlace(field))
	case u.Hostname() == "":
		return Invalid(field, "names no host")
	}
	if host := u.Hostname(); strings.ContainsFunc(host, func(r rune) bool { return r >= utf8.RuneSelf }) {
		if _, err := idna.Lookup.ToASCII(host); err != nil {
			return Invalid(field, "has the host %q, which is not a domain name", Cut(host, 64))
		}
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return Invalid(field, "has port %s; want 1 to 65535", Cut(p, 16))
		}
	}
	return nil
}

// forbiddenHeaders frame the message or belong to the connection, so only the crawler sets them (RFC 9110,
// sections 7.6.1 and 10.1.1; RFC 9112, section 6).
var forbiddenHeaders = map[string]bool{
	"host": true, "content-length": true, "transfer-encoding": true, "connection": true,
	"keep-alive": true, "te": true, "trailer": true, "upgrade": true, "expect": true,
}

// sourceHeader checks the headers for the source. Values are secrets, so no error repeats one.
func sourceHeader(m member) (secrets.Values, error) {
	if m.value.Kind() == 'n' {
		return nil, nil
	}
	members, err := objectMembers(m.name, m.value)
	if err != nil {
		return nil, err
	}
	if len(members) > maxHeaders {
		return nil, Invalid(m.name, "has %d headers, at most %d are allowed", len(members), maxHeaders)
	}
	header := make(secrets.Values, len(members))
	seen := make(map[string]bool, len(members))
	size := 0
	for _, h := range members {
		field := fmt.Sprintf("%s[%q]", m.name, Cut(h.name, 64))
		lower := strings.ToLower(h.name)
		switch {
		case !httpguts.ValidHeaderFieldName(h.name):
			return nil, Invalid(field, "is not a header name; want letters, digits and -")
		case forbiddenHeaders[lower] || strings.HasPrefix(lower, "proxy-"):
			return nil, Invalid(field, "is set by the crawler and cannot be given")
		case seen[lower]:
			return nil, Invalid(field, "is given twice")
		}
		seen[lower] = true
		value, err := textOrNumber(member{name: field, value: h.value}, maxHeaderBytes)
		if err != nil {
			return nil, err
		}
		if !httpguts.ValidHeaderFieldValue(value) {
			return nil, Invalid(field, "has a value with control characters, such as a line break")
		}
		if size += len(h.name) + len(value); size > maxHeaderBytes {
			return nil, Invalid(m.name, "has more than %d bytes", maxHeaderBytes)
		}
		header[h.name] = value
	}
	return header, nil
}

// param checks the parameters of the source and returns them as received.
func param(m member) (json.RawMessage, error) {
	if m.value.Kind() == 'n' {
		return nil, nil
	}
	if _, err := objectMembers(m.name, m.value); err != nil {
		return nil, err
	}
	// The crawler reads it like a row.
	if _, err := rows.Check(slices.Concat([]byte{'['}, m.value, []byte{']'}), rows.Limits{}); err != nil {
		return nil, Invalid(m.name, "cannot be sent to the source: %s", Cut(err.Error(), 120))
	}
	return json.RawMessage(bytes.Clone(m.value)), nil
}

// standardLimit returns the rows a page of a request in the standard format.
func standardLimit(param json.RawMessage) (int, error) {
	v := memberOf(param, "limit")
	if v == nil || v.Kind() == 'n' {
		return defaultLimit, nil
	}
	return pageSize(member{name: "source_http.param.limit", value: v})
}

// pageSize reads a number of rows a page: an integer, or text that is one.
func pageSize(m member) (int, error) {
	if m.value.Kind() == '"' {
		s, err := text(m, 64)
		if err != nil {
			return 0, err
		}
		m.value = jsontext.Value(s)
		if !m.value.IsValid() {
			return 0, Invalid(m.name, "must be an integer from 1 to %d", maxLimit)
		}
	}
	n, err := integer(m, 1, maxLimit)
	return int(n), err
}
