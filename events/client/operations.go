package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"time"

	"sheaf/events"
)

const operationConvert = "convert"

// previewWait is how long a server may take for a preview.
const previewWait = 45 * time.Second

// Submit asks for an export. Equal requests are one export.
func (c *Client) Submit(ctx context.Context, r Request) (Accepted, error) {
	operation, body, err := r.encode()
	if err != nil {
		return Accepted{}, fmt.Errorf("the request: %w", err)
	}
	return c.SubmitJSON(ctx, operation, body, r.IdempotencyKey)
}

// SubmitJSON asks for an export by the JSON body of an operation: http, raw or convert.
func (c *Client) SubmitJSON(ctx context.Context, operation string, body []byte, idempotencyKey string) (Accepted, error) {
	a, err := ask[Accepted](ctx, c, call{operation: operation, body: body, idempotency: idempotencyKey})
	if err == nil && a.Key == "" {
		err = errors.New("the server accepted the export but named no hash_key")
	}
	return a, err
}

// Convert asks for a finished export in another form. The source is not asked.
func (c *Client) Convert(ctx context.Context, r ConvertRequest) (Accepted, error) {
	body, err := encode(r)
	if err != nil {
		return Accepted{}, fmt.Errorf("the request: %w", err)
	}
	return c.SubmitJSON(ctx, operationConvert, body, r.IdempotencyKey)
}

// Detail returns an export. One that does not exist, or belongs to another tenant, is an [*Error] with status
// 404.
func (c *Client) Detail(ctx context.Context, key string) (*Export, error) {
	data, err := c.call(ctx, call{operation: "detail", query: map[string]string{"key": key}})
	if err != nil {
		return nil, err
	}
	return readExport(data)
}

func readExport(data json.RawMessage) (*Export, error) {
	x, err := read[Export](data)
	x.JSON = data
	return &x, err
}

// Filter selects exports. The zero value selects all.
type Filter struct {
	State     string // one of the State constants
	Query     string // words of the title, beginning of the key, or user
	UserID    string
	ErrorCode string
	Since     time.Time // created at or after
	Until     time.Time // created before
	Before    uint64    // id of the last export of the page before
	Limit     int       // exports a page; 0 means 50, the maximum is 200
}

func (f Filter) params() map[string]string {
	p := map[string]string{
		"state": f.State, "q": f.Query, "user_id": f.UserID, "error_code": f.ErrorCode,
		"since": formatTime(f.Since), "until": formatTime(f.Until),
	}
	if f.Before > 0 {
		p["before"] = strconv.FormatUint(f.Before, 10)
	}
	if f.Limit > 0 {
		p["limit"] = strconv.Itoa(f.Limit)
	}
	for name, value := range p {
		if value == "" {
			delete(p, name)
		}
	}
	return p
}

func formatTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Format(time.RFC3339)
}

// Page is a page of a list, newest first.
type Page struct {
	Exports []Export `json:"exports"`
	Next    uint64   `json:"next"`    // Filter.Before of the next page; 0 at the end
	Counts  Counts   `json:"counts"`  // exports of the tenant by state
	Partial bool     `json:"partial"` // the search ended early; go on with Next

	JSON json.RawMessage `json:"-"` // as the server sent it
}

// Counts are numbers of exports.
type Counts struct {
	All             int `json:"all"`
	Running         int `json:"running"`
	Queued          int `json:"queued"`
	WaitingForSpace int `json:"waiting_for_space"`
	Failed          int `json:"failed"`
	Succeeded       int `json:"succeeded"`
	Cancelled       int `json:"cancelled"`
}

// List returns one page of the exports of the tenant.
func (c *Client) List(ctx context.Context, f Filter) (*Page, error) {
	data, err := c.call(ctx, call{operation: "list", query: f.params()})
	if err != nil {
		return nil, err
	}
	p, err := read[Page](data)
	p.JSON = data
	return &p, err
}

// All iterates over the exports of all pages, newest first. It ends after an error.
func (c *Client) All(ctx context.Context, f Filter) iter.Seq2[*Export, error] {
	return func(yield func(*Export, error) bool) {
		for {
			page, err := c.List(ctx, f)
			if err != nil {
				yield(nil, err)
				return
			}
			for i := range page.Exports {
				if !yield(&page.Exports[i], nil) {
					return
				}
			}
			if f.Before = page.Next; f.Before == 0 {
				return
			}
		}
	}
}

// History returns the exports of a user of the last seven days, newest first. limit 0 means 1,000.
func (c *Client) History(ctx context.Context, userID string, limit int) ([]Export, error) {
	query := map[string]string{"user_id": userID}
	if limit > 0 {
		query["limit"] = strconv.Itoa(limit)
	}
	return ask[[]Export](ctx, c, call{operation: "history", query: query})
}

// Timeline is the events of an export, oldest first.
type Timeline struct {
	Key    string          `json:"key"`
	Events []events.Moment `json:"events"`
}

// Events returns what happened to an export.
func (c *Client) Events(ctx context.Context, key string) (Timeline, error) {
	return ask[Timeline](ctx, c, call{operation: "events", query: map[string]string{"key": key}})
}

// Cancel stops an export. One that has ended is an [*Error] with status 409, also if an earlier attempt of the
// same call cancelled it.
func (c *Client) Cancel(ctx context.Context, key string) error {
	return c.act(ctx, "cancel", key)
}

// Retry runs a failed, cancelled or expired export again, under the same key.
func (c *Client) Retry(ctx context.Context, key string) error {
	return c.act(ctx, "retry", key)
}

func (c *Client) act(ctx context.Context, operation, key string) error {
	_, err := c.Do(ctx, operation, map[string]string{"key": key})
	return err
}

// Redeliver makes the callback of an ended export due again.
func (c *Client) Redeliver(ctx context.Context, key string) (Callback, error) {
	return change[Callback](ctx, c, "redeliver", map[string]string{"key": key})
}

// Link is a signed link.
type Link struct {
	URL       string `json:"url"`
	ExpiresAt Time   `json:"expires_at"`
}

// Share returns a link to the page of an export for the person who waits for it. It needs no API key. ttl 0
// means as long as the file is kept; returnURL is where the page leads back to, "" for nowhere.
func (c *Client) Share(ctx context.Context, key string, ttl time.Duration, returnURL string) (Link, error) {
	params := map[string]any{"key": key}
	if ttl > 0 {
		params["ttl"] = int64(ttl / time.Second)
	}
	if returnURL != "" {
		params["return_url"] = returnURL
	}
	return change[Link](ctx, c, "share", params)
}

// BulkRequest asks for an action on every export of a filter.
type BulkRequest struct {
	Action    string // cancel, retry or redeliver
	Filter    Filter // Before and Limit have no effect
	Expect    int    // number of exports that the caller has seen
	Tolerance int    // the action is refused if the number has changed by more
}

// BulkResult says what a bulk action did.
type BulkResult struct {
	Matched int `json:"matched"`
	Done    int `json:"done"`
	Skipped []struct {
		Key string `json:"key"`
		Msg string `json:"msg"`
	} `json:"skipped"`
}

// Bulk cancels, retries or redelivers every export of a filter, at most 1,000 a call.
func (c *Client) Bulk(ctx context.Context, r BulkRequest) (BulkResult, error) {
	r.Filter.Before, r.Filter.Limit = 0, 0
	filter := r.Filter.params()
	if c.tenant != "" {
		filter["tenant"] = c.tenant
	}
	return change[BulkResult](ctx, c, "bulk", map[string]any{
		"action": r.Action, "filter": filter, "expect": r.Expect, "tolerance": r.Tolerance,
	})
}

// SealKey returns the public key to seal the secrets of sources with.
func (c *Client) SealKey(ctx context.Context) (string, error) {
	answer, err := ask[struct {
		Key string `json:"key"`
	}](ctx, c, call{operation: "seal-key"})
	if err == nil && answer.Key == "" {
		err = errors.New("the server named no key to seal with")
	}
	return answer.Key, err
}

// Preview asks the server how to export a source, and returns its answer.
func (c *Client) Preview(ctx context.Context, request []byte) (json.RawMessage, error) {
	return c.call(ctx, call{operation: "preview", body: request, slow: previewWait})
}

// Get returns the answer of an operation that changes nothing, such as system or tenants.
func (c *Client) Get(ctx context.Context, operation string, params map[string]string) (json.RawMessage, error) {
	return c.call(ctx, call{operation: operation, query: params})
}

// Do returns the answer of an operation that changes something.
func (c *Client) Do(ctx context.Context, operation string, params any) (json.RawMessage, error) {
	body, err := encode(params)
	if err != nil {
		return nil, fmt.Errorf("the request: %w", err)
	}
	return c.call(ctx, call{operation: operation, body: body})
}

// change is Do with a typed answer.
func change[T any](ctx context.Context, c *Client, operation string, params any) (answer T, err error) {
	data, err := c.Do(ctx, operation, params)
	if err != nil {
		return answer, err
	}
	return read[T](data)
}

// ask makes a call with a typed answer.
func ask[T any](ctx context.Context, c *Client, k call) (answer T, err error) {
	data, err := c.call(ctx, k)
	if err != nil {
		return answer, err
	}
	return read[T](data)
}

func read[T any](data json.RawMessage) (answer T, err error) {
	if err := json.Unmarshal(data, &answer); err != nil {
		return answer, fmt.Errorf("reading the answer of the server: %w", err)
	}
	return answer, nil
}
