package request

import (
	"maps"
	"slices"
	"strings"

	"sheaf/events"
	"sheaf/events/secrets"

	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/net/http/httpguts"
)

// hidden stands for a secret where a request is shown.
const hidden = "…"

// authMember is a member of auth.
type authMember struct {
	name     string
	secret   bool // it may be a sealed value
	required bool
	choices  []string // the first one is the default of an optional member
}

// authMembers are the members of auth, by type.
var authMembers = map[string][]authMember{
	events.AuthBearer: {{name: "token", secret: true, required: true}},
	events.AuthBasic:  {{name: "username", secret: true, required: true}, {name: "password", secret: true, required: true}},
	events.AuthAPIKey: {
		{name: "name", required: true}, {name: "value", secret: true, required: true},
		{name: "in", required: true, choices: []string{"header", "query"}},
	},
	events.AuthOAuth2: {
		{name: "token_url", required: true}, {name: "client_id", secret: true, required: true},
		{name: "client_secret", secret: true, required: true}, {name: "scope"}, {name: "audience"},
		{name: "client_auth", choices: []string{"basic", "body"}},
	},
}

// authTypes are the types of auth.
var authTypes = []string{events.AuthBearer, events.AuthBasic, events.AuthAPIKey, events.AuthOAuth2}

// authNames returns all members of auth.
func authNames() []string {
	names := []string{"type"}
	for _, t := range authTypes {
		for _, m := range authMembers[t] {
			names = append(names, m.name)
		}
	}
	return names
}

// readAuth checks auth. Its values go to the values that are sealed, and only its type to the request. No
// error repeats a value that may be secret.
func (d *declared) readAuth() error {
	if d.given["auth"] == nil {
		return nil
	}
	req := d.req
	given, _, err := knownFields(authField, d.given["auth"], authNames())
	if err != nil {
		return err
	}
	if given["type"] == nil {
		return fieldError(authField+".type", "is required; one of %s", strings.Join(authTypes, ", "))
	}
	if req.Auth, err = choice(member{name: authField + ".type", value: given["type"]}, authTypes...); err != nil {
		return err
	}
	members := authMembers[req.Auth]
	for _, name := range slices.Sorted(maps.Keys(given)) {
		of := func(m authMember) bool { return m.name == name }
		if name != "type" && !slices.ContainsFunc(members, of) {
			return fieldError(authField+"."+name, "has no meaning with type %s", req.Auth)
		}
	}
	values, size := map[string]string{"type": req.Auth}, 0
	for _, m := range members {
		field := member{name: authField + "." + m.name, value: given[m.name]}
		if field.value == nil {
			if m.required {
				what := ""
				if m.choices != nil {
					what = ": " + strings.Join(m.choices, " or ")
				}
				return fieldError(field.name, "is required with type %s%s", req.Auth, what)
			}
			if m.choices != nil {
				values[m.name] = m.choices[0]
			}
			continue
		}
		var value string
		if m.choices != nil {
			value, err = choice(field, m.choices...)
		} else {
			value, err = text(field, maxHeaderBytes)
		}
		if err != nil {
			return err
		}
		if err := checkAuthValue(field.name, m, value); err != nil {
			return err
		}
		if size += len(value); size > maxHeaderBytes {
			return Invalid(authField, "has more than %d bytes", maxHeaderBytes)
		}
		values[m.name] = value
	}
	if err := d.checkAuth(values); err != nil {
		return err
	}
	sealed := fields{}
	for name, value := range values {
		if sealed[name], err = jsontext.AppendQuote(nil, value); err != nil {
			return Invalid(authField+"."+name, "is not a valid string")
		}
	}
	d.header[secrets.Auth] = string(sealed.object())
	return nil
}

// checkAuthValue checks one value of auth.
func checkAuthValue(field string, m authMember, value string) error {
	switch {
	case value == "" && m.required && m.name != "password":
		return Invalid(field, "is empty")
	case m.secret && value == hidden:
		return hiddenError(field)
	case m.secret && secrets.CheckSealed(value) != nil:
		return Invalid(field, "begins like a sealed value and is none; see sheaf seal")
	case !httpguts.ValidHeaderFieldValue(value):
		return Invalid(field, "holds a control character, such as a line break")
	case m.name == "token_url":
		return URL(field, value, maxSourceURL)
	case m.name == "username" && strings.Contains(value, ":") && !secrets.IsSealed(value):
		return Invalid(field, "must not hold a colon (RFC 7617)")
	}
	return nil
}

// hiddenError refuses the text that stands for a secret in a request that is shown.
func hiddenError(field string) error {
	return Invalid(field, "is %q, which stands for a secret that is not shown; give the secret", hidden)
}

// checkAuth refuses an auth that sends what the request sends already.
func (d *declared) checkAuth(values map[string]string) error {
	sends, place := "Authorization", authField
	if d.req.Auth == events.AuthAPIKey {
		sends, place = values["name"], authField+".name"
	}
	destination := inHeader + strings.ToLower(sends)
	if values["in"] == "query" {
		destination = inQuery + sends
		if memberOf(d.req.Param, sends) != nil {
			return Invalid(place, "source_http.param has %q too; give one of them", Cut(sends, 64))
		}
	} else {
		lower := strings.ToLower(sends)
		if !httpguts.ValidHeaderFieldName(sends) {
			return Invalid(place, "is not a header name; want letters, digits and -")
		}
		if forbiddenHeaders[lower] || strings.HasPrefix(lower, "proxy-") {
			return Invalid(place, "is set by the crawler and cannot be given")
		}
		for name := range d.header {
			if strings.EqualFold(name, sends) {
				return Invalid(place, "source_http.header[%q] is given too; give one of them", Cut(name, 64))
			}
		}
	}
	for _, written := range d.places {
		if d.destination(written) == destination {
			return Invalid(place, "%q is written by a field of paging already", Cut(sends, 64))
		}
	}
	return nil
}
