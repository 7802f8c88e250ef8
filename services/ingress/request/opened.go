package request

import (
	"encoding/json"
	"errors"
	"strings"

	"sheaf/events"
	"sheaf/events/secrets"
)

// ParseOpened checks the body of a tenant's request for a source, as [Parse] does, and returns it with its
// secrets in clear. The error of a sealed value that cannot be opened names its field.
func ParseOpened(keys *secrets.Keyring, tenant string, formats []events.Format, body []byte) (*events.Request, secrets.Values, error) {
	checked, err := Parse(keys, tenant, events.SourceHTTP, formats, body)
	if err != nil {
		return nil, nil, err
	}
	if checked.Request.HTTP == nil {
		return nil, nil, Invalid(sheetsField, "a preview takes one source; preview each source_http by itself")
	}
	opened := make(secrets.Values, len(checked.Secrets))
	for name, value := range checked.Secrets {
		if opened[name], err = openValue(keys, tenant, name, value); err != nil {
			return nil, nil, err
		}
	}
	return &checked.Request, opened, nil
}

// openValue opens a header, or the texts in a secret parameter or an auth object.
func openValue(keys *secrets.Keyring, tenant, name, value string) (string, error) {
	field := "source_http.header"
	open := func(text string) (string, error) {
		plain, err := keys.OpenValue(tenant, text)
		if err != nil {
			return "", Invalid(field, "a sealed value cannot be opened: it was sealed for another tenant or with a key that is not this server's; seal it with the key of GET /v1/seal-key")
		}
		return plain, nil
	}
	if name == secrets.Auth {
		field = authField
		var fields map[string]string
		if json.Unmarshal([]byte(value), &fields) != nil {
			return "", errors.New("the auth object cannot be read") // the error may quote it
		}
		for name, text := range fields {
			plain, err := open(text)
			if err != nil {
				return "", err
			}
			fields[name] = plain
		}
		auth, err := json.Marshal(fields)
		return string(auth), err
	}
	if !strings.HasPrefix(name, secrets.Param("")) {
		return open(value)
	}
	field = "source_http.param"
	var text string
	if json.Unmarshal([]byte(value), &text) != nil {
		return value, nil // no text, so it is not sealed
	}
	plain, err := open(text)
	if err != nil || plain == text {
		return value, err
	}
	quoted, err := json.Marshal(plain)
	return string(quoted), err
}
