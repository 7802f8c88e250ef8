package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"github.com/stretchr/testify/require"

	"sheaf/events"
	"sheaf/events/eventstest"
)

// asked is a request that a server has received.
type asked struct {
	method, path, query, body, idempotency, authorization string
}

// recorded returns a client of a server that gives the answers one after another, and what it received.
func recorded(t *testing.T, opts Options, answers ...string) (*Client, func() []asked) {
	t.Helper()
	var mu sync.Mutex
	var all []asked
	c := bounded(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		all = append(all, asked{r.Method, r.URL.Path, r.URL.RawQuery, string(body), r.Header.Get("Idempotency-Key"), r.Header.Get("Authorization")})
		writeAnswer(w, answers[min(len(all), len(answers))-1])
	}, bounds{})
	c.patience = opts.Patience
	c.via.(*rest).key, c.tenant = opts.Key, opts.Tenant
	return c, func() []asked {
		mu.Lock()
		defer mu.Unlock()
		return all
	}
}

// writeAnswer writes data, or a refusal such as "!429 too many".
func writeAnswer(w http.ResponseWriter, text string) {
	status, msg := 0, ""
	if n, _ := fmt.Sscanf(text, "!%d %s", &status, &msg); n == 2 {
		w.WriteHeader(status)
		_, _ = fmt.Fprintf(w, `{"errcode":%d,"msg":%q,"data":null,"request_id":"r1"}`, status, text[5:])
		return
	}
	_, _ = fmt.Fprintf(w, `{"errcode":0,"msg":"","data":%s,"request_id":"r1"}`, text)
}

const accepted = `{"hash_key":"` + testKey + `"}`

// An admin's client names the tenant in each call about its exports, and begins none for it.
func TestCallsNameATenant(t *testing.T) {
	t.Parallel()
	c, got := recorded(t, Options{Tenant: "shop"}, `{"exports":[]}`, `{"hash_key":"k"}`, `{"matched":0}`)
	_, err := c.List(t.Context(), Filter{State: StateFailed})
	require.NoError(t, err)
	require.NoError(t, c.Cancel(t.Context(), testKey))
	_, err = c.Bulk(t.Context(), BulkRequest{Action: "retry", Filter: Filter{State: StateFailed}})
	require.NoError(t, err)
	_, err = c.Submit(t.Context(), Request{Title: "t"})
	require.ErrorIs(t, err, errTenant)
	all := got()
	require.Len(t, all, 3)
	require.Equal(t, "state=failed&tenant=shop", all[0].query)
	require.JSONEq(t, `{"key":"`+testKey+`","tenant":"shop"}`, all[1].body)
	require.JSONEq(t, `{"action":"retry","filter":{"state":"failed","tenant":"shop"},"expect":0,"tolerance":0}`, all[2].body)
}

func TestSubmitIsRepeatedWithOneIdempotencyKey(t *testing.T) {
	t.Parallel()
	c, got := recorded(t, Options{Key: "k", Patience: time.Minute}, "!503 later", "!429 many", accepted)
	a, err := c.Submit(t.Context(), Request{Title: "a&b", Raw: []map[string]any{{"id": "ID"}, {"id": 1}}})
	require.NoError(t, err)
	require.Equal(t, testKey, a.Key)
	all := got()
	require.Len(t, all, 3)
	require.NotEmpty(t, all[0].idempotency)
	for _, one := range all {
		require.Equal(t, all[0], one)
		require.Equal(t, "Bearer k", one.authorization)
		require.Equal(t, "/v1/export/raw", one.path)
		require.Contains(t, one.body, `"title":"a&b"`)
		require.Regexp(t, `"timestamp":1\d{9},"ext_type":"XLSX"`, one.body)
	}
}

func TestOnlyWhatMaySucceedLaterIsRepeated(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		patience time.Duration
		answers  []string
		asked    int
		status   int
	}{
		"refused":             {time.Minute, []string{"!400 title: is too long"}, 1, 400},
		"a conflict":          {time.Minute, []string{"!409 key: under way"}, 1, 409},
		"a defect":            {time.Minute, []string{"!500 internal"}, 1, 500},
		"no patience":         {-1, []string{"!503 later"}, 1, 503},
		"patience has an end": {50 * time.Millisecond, []string{"!503 later"}, 1, 503},
		"busy twice":          {time.Minute, []string{"!503 later", "!502 proxy", accepted}, 3, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, got := recorded(t, Options{Patience: c.patience}, c.answers...)
			_, err := client.SubmitJSON(t.Context(), "http", []byte(`{}`), "")
			if c.status == 0 {
				require.NoError(t, err)
			} else {
				var refusal *Error
				require.ErrorAs(t, err, &refusal)
				require.Equal(t, c.status, refusal.Status)
			}
			require.Len(t, got(), c.asked)
		})
	}
}

func TestRetryWaitsAsLongAsTheServerAsks(t *testing.T) {
	t.Parallel()
	require.Equal(t, 7*time.Second, retryWait(&Error{RetryAfter: 7 * time.Second}, 0))
	for attempt := range 100 {
		wait := retryWait(&UnreachableError{}, attempt)
		require.GreaterOrEqual(t, wait, 50*time.Millisecond)
		require.LessOrEqual(t, wait, 5*time.Second)
	}
}

func TestErrorNamesTheField(t *testing.T) {
	t.Parallel()
	for msg, want := range map[string]string{
		"title: is longer than 255 characters":                       "title",
		"source_http.paging is required with source_http.rows":       "source_http.paging",
		`source_http.header["X"]: is hidden`:                         `source_http.header["X"]`,
		"Idempotency-Key: it came with another request before":       "Idempotency-Key",
		"the export is under way":                                    "",
		"资源不存在 (no export has the key)":                              "",
		"no such file, or the link is not as it was handed out; ask": "",
	} {
		require.Equal(t, want, newError(400, 400, msg, "", 0).Field, msg)
	}
	require.Empty(t, newError(503, 503, "body: later", "", 0).Field)
	err := newError(400, 400, "title: \x1b[2J\nx", "r\u202e1", 0)
	require.Equal(t, "the server refused: title:  [2J x (HTTP 400, errcode 400, request r 1)", err.Error())
}

// Each method asks its operation, by REST and by NATS, and reads the answer.
func TestEveryMethodByBothTransports(t *testing.T) {
	t.Parallel()
	link := `{"url":"http://x/s/t","expires_at":"2026-12-06T12:00:00Z"}`
	page := `{"exports":[{"hash_key":"` + testKey + `","state":"queued","user_id":"7"}],"next":0,"counts":{"all":3,"queued":1},"partial":true}`
	for name, m := range map[string]struct {
		answer       string
		method, path string
		query, body  string // parameters by REST; by NATS all are a body
		nats         string
		ask          func(ctx context.Context, c *Client) (any, error)
		want         any
	}{
		"detail": {`{"hash_key":"` + testKey + `","status":3,"fail_reason":"x","error_code":"SOURCE_HTTP","finished_at":""}`,
			"GET", "/v1/export/detail", "key=k", "", `{"key":"k"}`,
			func(ctx context.Context, c *Client) (any, error) {
				x, err := c.Detail(ctx, "k")
				return x.Err().Error() + x.Status.String(), err
			}, "the export failed: x (SOURCE_HTTP)failed"},
		"list": {page, "GET", "/v1/export/list", "before=9&limit=2&q=a+b&since=2026-01-02T03%3A04%3A05Z&state=queued", "",
			`{"before":"9","limit":"2","q":"a b","since":"2026-01-02T03:04:05Z","state":"queued"}`,
			func(ctx context.Context, c *Client) (any, error) {
				p, err := c.List(ctx, Filter{State: StateQueued, Query: "a b", Before: 9, Limit: 2, Since: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)})
				return []any{p.Exports[0].State, p.Exports[0].UserID, p.Counts.All, p.Partial, p.Next}, err
			}, []any{"queued", "7", 3, true, uint64(0)}},
		"history": {`[{"hash_key":"a"},{"hash_key":"b"}]`, "GET", "/v1/export/history", "limit=2&user_id=7", "", `{"limit":"2","user_id":"7"}`,
			func(ctx context.Context, c *Client) (any, error) {
				all, err := c.History(ctx, "7", 2)
				return []any{len(all), all[1].Key}, err
			}, []any{2, "b"}},
		"events": {`{"key":"k","events":[{"type":"completed","time":"2026-12-06T12:00:00Z","run":4}]}`, "GET", "/v1/export/events", "key=k", "", `{"key":"k"}`,
			func(ctx context.Context, c *Client) (any, error) {
				line, err := c.Events(ctx, "k")
				return line.Events[0].Type, err
			}, events.TypeCompleted},
		"cancel": {`{"hash_key":"k","status":4}`, "POST", "/v1/export/cancel", "", `{"key":"k"}`, `{"key":"k"}`,
			func(ctx context.Context, c *Client) (any, error) { return nil, c.Cancel(ctx, "k") }, nil},
		"retry": {`{"hash_key":"k","status":1}`, "POST", "/v1/export/retry", "", `{"key":"k"}`, `{"key":"k"}`,
			func(ctx context.Context, c *Client) (any, error) { return nil, c.Retry(ctx, "k") }, nil},
		"redeliver": {`{"state":"pending","attempts":3,"last_status":500}`, "POST", "/v1/export/redeliver", "", `{"key":"k"}`, `{"key":"k"}`,
			func(ctx context.Context, c *Client) (any, error) { return c.Redeliver(ctx, "k") }, Callback{"pending", 3, 500}},
		"share": {link, "POST", "/v1/export/share", "", `{"key":"k","return_url":"http://y/"}`, `{"key":"k","return_url":"http://y/"}`,
			func(ctx context.Context, c *Client) (any, error) {
				l, err := c.Share(ctx, "k", 0, "http://y/")
				return l.URL + l.ExpiresAt.Format(time.DateOnly), err
			}, "http://x/s/t2026-12-06"},
		"convert": {accepted, "POST", "/v1/export/convert", "", `{"key":"k","ext_type":"CSV"}`, `{"key":"k","ext_type":"CSV"}`,
			func(ctx context.Context, c *Client) (any, error) {
				a, err := c.Convert(ctx, ConvertRequest{Key: "k", ExtType: "CSV"})
				return a.Key, err
			}, testKey},
		"bulk": {`{"matched":2,"done":1,"skipped":[{"key":"a","msg":"b"}]}`, "POST", "/v1/export/bulk", "",
			`{"action":"retry","expect":2,"filter":{"state":"failed"},"tolerance":0}`, `{"action":"retry","expect":2,"filter":{"state":"failed"},"tolerance":0}`,
			func(ctx context.Context, c *Client) (any, error) {
				r, err := c.Bulk(ctx, BulkRequest{Action: "retry", Filter: Filter{State: StateFailed, Limit: 3}, Expect: 2})
				return []any{r.Matched, r.Done, r.Skipped[0].Msg}, err
			}, []any{2, 1, "b"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			byREST, got := recorded(t, Options{}, m.answer)
			answer, err := m.ask(t.Context(), byREST)
			require.NoError(t, err)
			require.Equal(t, m.want, answer)
			require.Equal(t, asked{method: m.method, path: m.path, query: m.query, body: m.body}, got()[0])

			byNATS, last := answering(t, name, m.answer)
			answer, err = m.ask(t.Context(), byNATS)
			require.NoError(t, err)
			require.Equal(t, m.want, answer)
			require.Equal(t, m.nats, string((<-last).Data()))
		})
	}
}

// answering returns a NATS client whose server answers one operation.
func answering(t *testing.T, operation, answer string) (*Client, <-chan micro.Request) {
	t.Helper()
	srv := eventstest.Server(t, "")
	server := eventstest.Connect(t, srv)
	service, err := micro.AddService(server, micro.Config{Name: "sheaf", Version: "1.0.0"})
	require.NoError(t, err)
	last := make(chan micro.Request, 1)
	require.NoError(t, service.AddEndpoint(operation, micro.HandlerFunc(func(r micro.Request) {
		last <- r
		_ = r.Respond(fmt.Appendf(nil, `{"errcode":0,"msg":"","data":%s,"request_id":""}`, answer))
	}), micro.WithEndpointSubject(events.APISubject("shop", operation))))
	require.NoError(t, server.Flush()) // the caller has another connection
	c, err := NATS(eventstest.Connect(t, srv), "shop", Options{Patience: -1})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c, last
}

func TestRefusalByNATS(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	nc := eventstest.Connect(t, srv)
	sub, err := nc.Subscribe(events.APISubject("shop", "detail"), func(m *nats.Msg) {
		answer := &nats.Msg{Subject: m.Reply, Header: nats.Header{micro.ErrorCodeHeader: {"429"}, "Retry-After": {"3"}}}
		answer.Data = []byte(`{"errcode":429,"msg":"timestamp: too many","data":null,"request_id":"r9"}`)
		_ = nc.PublishMsg(answer)
	})
	require.NoError(t, err)
	defer func() { _ = sub.Unsubscribe() }()
	require.NoError(t, nc.Flush())
	c, err := NATS(eventstest.Connect(t, srv), "shop", Options{Patience: -1})
	require.NoError(t, err)
	_, err = c.Detail(t.Context(), testKey)
	require.Equal(t, &Error{Status: 429, Errcode: 429, Field: "timestamp", Msg: "timestamp: too many", RequestID: "r9", RetryAfter: 3 * time.Second}, err)

	err = c.Cancel(t.Context(), testKey) // no server responds to it
	var unreachable *UnreachableError
	require.ErrorAs(t, err, &unreachable)
	_, err = NATS(nc, "a.b", Options{})
	require.ErrorContains(t, err, "tenant")
}

func TestAllReadsEveryPage(t *testing.T) {
	t.Parallel()
	c, got := recorded(t, Options{}, `{"exports":[{"id":9},{"id":8}],"next":8}`, `{"exports":[{"id":5}],"next":0}`)
	var ids []uint64
	for x, err := range c.All(t.Context(), Filter{Limit: 2}) {
		require.NoError(t, err)
		ids = append(ids, x.ID)
	}
	require.Equal(t, []uint64{9, 8, 5}, ids)
	require.Equal(t, "before=8&limit=2", got()[1].query)
}

func TestWaitReturnsHowItEnded(t *testing.T) {
	t.Parallel()
	under := `{"hash_key":"k","status":1}`
	for name, c := range map[string]struct {
		answers []string
		reports int
		want    string
	}{
		"succeeded":        {[]string{under, "!503 later", `{"hash_key":"k","status":2}`}, 2, ""},
		"cancelled":        {[]string{`{"hash_key":"k","status":4}`}, 1, "the export was cancelled"},
		"unknown":          {[]string{"!404 no export has the key"}, 0, "HTTP 404"},
		"not an answer":    {[]string{under, `{"status":"x"}`}, 1, "reading the answer"},
		"refused meantime": {[]string{under, under, "!401 the key is revoked"}, 2, "HTTP 401"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, _ := recorded(t, Options{}, c.answers...)
			reports := 0
			for x, err := range client.Watch(t.Context(), "k") {
				if err == nil {
					reports++
					err = x.Err()
				}
				if c.want != "" && err != nil {
					require.ErrorContains(t, err, c.want)
				} else {
					require.NoError(t, err)
				}
			}
			require.Equal(t, c.reports, reports)
			again, _ := recorded(t, Options{}, c.answers...)
			_, err := again.Wait(t.Context(), "k")
			if c.want == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, c.want)
			}
		})
	}
}

func TestTimeMayBeMissing(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{`""`: `""`, `null`: `""`, `"2026-12-06T12:00:00Z"`: `"2026-12-06T12:00:00Z"`} {
		var at Time
		require.NoError(t, json.Unmarshal([]byte(text), &at))
		data, err := json.Marshal(at)
		require.NoError(t, err)
		require.Equal(t, want, string(data))
	}
}

// A watch that lasts opens a stream. It polls again when the stream breaks off, and stays with polling where the
// server offers none.
func TestLongWatchFollowsAStream(t *testing.T) {
	t.Parallel()
	detail := func(status int) string { return fmt.Sprintf(`{"hash_key":"k","status":%d,"rows":7}`, status) }
	for name, c := range map[string]struct {
		streams []string // bodies, one after another
		status  int      // of the last report
		opened  int
	}{
		"to its end": {[]string{": alive\n\nevent: progress\ndata: {\"state\":\"running\",\"progress\":{\"rows\":5}}\n\nevent: end\ndata: " + detail(2) + "\n\n"}, 2, 1},
		"broken off": {[]string{"event: progress\ndata: {\"state\":\"running\"}\n\n", "event: end\ndata: " + detail(4) + "\n\n"}, 4, 2},
		"none":       {[]string{""}, 3, 1},
		"garbled":    {[]string{"event: progress\ndata: {\n\n"}, 3, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var opened, polled atomic.Int64
			client := bounded(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/v1/export/watch" {
					text := c.streams[min(int(opened.Add(1)), len(c.streams))-1]
					if text == "" {
						writeAnswer(w, "!503 too many streams")
						return
					}
					w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
					_, _ = io.WriteString(w, text)
					return
				}
				polled.Add(1)
				if opened.Load() >= int64(c.opened) && c.status == 3 { // after the stream was tried
					writeAnswer(w, detail(3))
					return
				}
				writeAnswer(w, detail(1))
			}, bounds{})
			var last *Export
			sawProgress := false
			for x, err := range client.Watch(t.Context(), "k") {
				require.NoError(t, err)
				last = x
				sawProgress = sawProgress || x.State == "running"
			}
			require.Equal(t, Status(c.status), last.Status)
			require.EqualValues(t, 7, last.Rows)
			require.EqualValues(t, c.opened, opened.Load())
			require.Equal(t, c.status != 3, sawProgress)
			require.Greater(t, polled.Load(), int64(1))
		})
	}
}
