package crawler

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"

	"sheaf/events"
	"sheaf/events/secrets"
	"sheaf/services/crawler/source"
)

// open creates the source of the export, with its secrets.
func (c *crawl) open(ctx context.Context) (err error) {
	req := c.x.Request.HTTP
	if req == nil {
		return &source.Failure{Code: events.CodeInternal, Msg: "the request names no source"}
	}
	var header secrets.Values
	param := req.Param
	var auth json.RawMessage
	if len(req.Header)+len(req.SecretParam) > 0 || req.Auth != "" {
		kept, err := c.journal.Headers(ctx, c.x.Tenant, c.x.Key)
		if errors.Is(err, events.ErrNoHeaders) || errors.Is(err, events.ErrSealed) {
			return &source.Failure{Code: events.CodeInternal, Msg: "the source's headers are no longer kept; submit the export again"}
		}
		if err != nil {
			return err
		}
		if c.several {
			kept = secrets.OfSheet(kept, c.sheet)
		}
		if header, param, auth, err = c.openSecrets(kept, param); err != nil {
			return err
		}
	}
	if c.source, err = c.newSource(c.client, source.NewRequest(&c.x, header, param, auth), c.cfg.Policy); err != nil {
		return &source.Failure{Code: events.CodeInternal, Msg: err.Error()}
	}
	c.asker = asker{tenant: c.x.Tenant, key: c.x.Key, host: c.source.Host()}
	c.source.Turn, c.source.Memory, c.source.Rests, c.source.Sleep = c.turn, c.memory, c.rests, c.letOthersGo
	if !c.helps {
		c.source.Waiting = c.waits
	}
	c.source.Sent, c.source.Retrying = c.sent, c.retrying
	c.have = c.emptyInventory()
	return nil
}

// openSecrets returns the source's headers, its parameters with the secret ones, and its auth object.
func (c *crawl) openSecrets(kept secrets.Values, param json.RawMessage) (_ secrets.Values, _, auth json.RawMessage, _ error) {
	header, secret, auth := secrets.Split(kept)
	open := func(value string) (string, error) {
		plain, err := c.journal.Keys().OpenValue(c.x.Tenant, value)
		if err != nil {
			err = &source.Failure{Code: events.CodeSealed, Msg: "a sealed value cannot be opened: it was sealed for another tenant or with a key that is not this server's; seal it with the key of GET /v1/seal-key and submit the export again"}
		}
		return plain, err
	}
	for name, value := range header {
		plain, err := open(value)
		if err != nil {
			return nil, nil, nil, err
		}
		header[name] = plain
	}
	body := bytes.TrimSuffix(bytes.TrimSpace(param), []byte("}"))
	if len(body) == 0 {
		body = []byte("{")
	}
	body = slices.Clip(body)
	for _, name := range slices.Sorted(maps.Keys(secret)) {
		value := secret[name]
		var text string
		if json.Unmarshal(value, &text) == nil {
			plain, err := open(text)
			if err != nil {
				return nil, nil, nil, err
			}
			if plain != text {
				if value, err = json.Marshal(plain); err != nil {
					return nil, nil, nil, err
				}
			}
		}
		quoted, err := json.Marshal(name)
		if err != nil {
			return nil, nil, nil, err
		}
		if len(bytes.TrimSpace(body)) > 1 {
			body = append(body, ',')
		}
		body = append(append(append(body, quoted...), ':'), value...)
	}
	if auth != nil {
		fields := map[string]string{}
		if err := json.Unmarshal(auth, &fields); err != nil {
			return nil, nil, nil, errors.New("the auth object of the export cannot be read") // err may quote it
		}
		for name, value := range fields {
			plain, err := open(value)
			if err != nil {
				return nil, nil, nil, err
			}
			fields[name] = plain
		}
		var err error
		if auth, err = json.Marshal(fields); err != nil {
			return nil, nil, nil, err
		}
	}
	return header, append(body, '}'), auth, nil
}
