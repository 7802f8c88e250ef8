package notifier

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"sheaf/events"
	callbacks "sheaf/events/client/callback"
	"sheaf/events/secrets"
)

// Body is the body of a callback: the fields of the original export-server, plus event and error_code. Its times
// are UTC in whole seconds. Log.Param is the source request as JSON text, {"conn","url","method","param"}, as the
// original kept it in one column, "" for a raw export; header values are never part of it. The names of the times
// of a file miss a letter, as in the original.
type (
	Body = callbacks.Callback
	Log  = callbacks.Log
	File = callbacks.File
)

// param holds the fields of a source request that a receiver gets.
type param struct {
	Conn   int             `json:"conn"`
	URL    string          `json:"url"`
	Method string          `json:"method"`
	Param  json.RawMessage `json:"param,omitempty"`
}

type bodies struct {
	keys      *secrets.Keyring
	publicURL string
}

// eventOf is the type of a callback, without version.
func eventOf(x *events.Export) events.Type {
	switch x.State {
	case events.StateFailed:
		return events.TypeFailed
	case events.StateCancelled:
		return events.TypeCancelled
	}
	return events.TypeCompleted // also after its file expired
}

// of returns the body of the callback about the ending of x. Every attempt has the same body until the file
// expires.
func (b bodies) of(x *events.Export) ([]byte, error) {
	body := Body{
		Event: "export." + string(eventOf(x)),
		Log: Log{
			ID: x.ID, HashKey: x.Key, Title: x.Request.Title, ExtType: x.Request.ExtType,
			SourceType: x.Request.SourceType, UserID: x.Request.UserID, Callback: x.Request.Callback,
			Status: x.State.Status(), FailReason: x.Failure.Reason,
			CreatedAt: seconds(x.CreatedAt), UpdatedAt: seconds(x.FinishedAt),
		},
		DownURL: secrets.DownloadURL(b.keys, b.publicURL, x),
	}
	if h := x.Request.HTTP; h != nil {
		text, err := encode(param{Conn: h.Conn, URL: h.URL, Method: h.Method, Param: h.Param})
		if err != nil {
			return nil, err
		}
		body.Log.Param = string(text)
	}
	switch eventOf(x) {
	case events.TypeFailed:
		body.ErrorCode = x.Failure.Code
	case events.TypeCompleted:
		body.File = File{
			ID: x.ID, HashKey: x.Key, Type: x.Request.ExtType,
			Path:     strings.TrimPrefix(secrets.DownloadPath(x), "/v1/down/"),
			CreateAt: seconds(x.FinishedAt), UpdateAt: seconds(x.FinishedAt),
		}
	}
	return encode(body)
}

func seconds(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }

// encode writes JSON without HTML escapes, so that a link keeps its & for receivers that do not parse JSON.
func encode(v any) ([]byte, error) {
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("callback body: %w", err)
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}
