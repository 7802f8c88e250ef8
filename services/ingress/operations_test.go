package ingress

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/secrets"

	"github.com/stretchr/testify/require"
)

func keyOf(n int) string { return fmt.Sprintf("%032x", n) }

// exportsOf writes exports of the tenant default: key 1 requested, 2 crawled, 3 failed, 4 completed, 5
// cancelled, 6 failed with another code. All have callbacks, which are delivered.
func exportsOf(t *testing.T, in *ingress) {
	t.Helper()
	for n := 1; n <= 6; n++ {
		request := withCallback(fmt.Sprintf("Orders %d 订单", n))
		request.Request.HTTP.Header = nil // it can be retried
		x := in.write(t, keyOf(n), request)
		switch n {
		case 2:
			in.write(t, x.Key, &events.ExportCrawled{Run: x.RequestedSeq, Pages: 3})
		case 3:
			x = in.write(t, x.Key, &events.ExportFailed{Code: events.CodeSourceTimeout, Reason: "no answer", Run: x.RequestedSeq})
		case 4:
			x = end(t, in, x.Key, events.StateCompleted)
		case 5:
			x = in.write(t, x.Key, &events.ExportCancelled{})
		case 6:
			x = in.write(t, x.Key, &events.ExportFailed{Code: events.CodeLimitRows, Reason: "too many"})
		}
		if n > 2 {
			in.write(t, x.Key, &events.CallbackDelivered{Terminal: x.TerminalSeq, Attempt: 1, Status: 200})
		}
	}
}

func listOf(t *testing.T, a answer) (l listView, keys string) {
	t.Helper()
	require.Zero(t, a.Errcode, a.Msg)
	require.NoError(t, json.Unmarshal(a.Data, &l))
	for _, x := range l.Exports {
		keys += strings.TrimLeft(x.HashKey, "0") + x.State[:1] + " "
	}
	return l, strings.TrimSpace(keys)
}

func TestListSelectsExports(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	exportsOf(t, in)
	in.progress.report("default", keyOf(1), events.Progress{Phase: events.PhaseWaitingForSpace, PagesDone: 1})
	for query, want := range map[string]string{
		"":                                "6f 5c 4s 3f 2r 1w",
		"limit=2":                         "6f 5c",
		"state=failed":                    "6f 3f",
		"state=succeeded":                 "4s",
		"state=cancelled":                 "5c",
		"state=running":                   "2r",
		"state=queued":                    "",
		"state=waiting_for_space":         "1w",
		"error_code=SOURCE_TIMEOUT":       "3f",
		"user_id=u&state=failed":          "6f 3f",
		"user_id=nobody":                  "",
		"q=orders+4":                      "4s",
		"q=" + url.QueryEscape("3 订"):     "3f",
		"q=" + keyOf(5):                   "5c",
		"q=" + keyOf(5) + "&state=failed": "",
		"q=" + keyOf(5)[:31]:              "6f 5c 4s 3f 2r 1w",
		"since=1h":                        "6f 5c 4s 3f 2r 1w",
		"until=1h":                        "",
		"since=2026-01-01":                "6f 5c 4s 3f 2r 1w",
		"until=2026-01-01T00:00:00Z":      "",
	} {
		_, keys := listOf(t, in.get(t, "/v1/export/list?"+query))
		require.Equal(t, want, keys, query)
	}
	for query, field := range map[string]string{
		"state=done": "state", "since=soon": "since", "until=-1h": "until", "limit=201": "limit", "before=x": "before",
		"state=queued&error_code=X": "error_code", "q=" + strings.Repeat("x", 201): "q", "tenant=A": "tenant",
	} {
		a := in.get(t, "/v1/export/list?"+query)
		require.Equal(t, 400, a.Status, query)
		require.True(t, strings.HasPrefix(a.Msg, field+": "), "%s: %s", query, a.Msg)
	}

	l, _ := listOf(t, in.get(t, "/v1/export/list?state=failed&limit=1"))
	require.Equal(t, countsView{All: 6, Running: 1, WaitingForSpace: 1, Failed: 2, Succeeded: 1, Cancelled: 1}, l.Counts)
	require.Equal(t, l.Exports[0].ID, l.Next)
	require.Equal(t, []any{"u", "LIMIT_ROWS", "too many"}, []any{l.Exports[0].UserID, l.Exports[0].ErrorCode, l.Exports[0].FailReason})
	l, keys := listOf(t, in.get(t, fmt.Sprintf("/v1/export/list?state=failed&limit=1&before=%d", l.Next)))
	require.Equal(t, "3f", keys)
	require.Zero(t, l.Next)
	require.False(t, l.Partial)
	var raw map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(in.get(t, "/v1/export/list?q=nothing").Data, &raw))
	require.Equal(t, "[]", string(raw["exports"]))
}

func TestEventsOfAnExport(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	exportsOf(t, in)
	var view timelineView
	a := in.get(t, "/v1/export/events?key="+keyOf(3))
	require.NoError(t, json.Unmarshal(a.Data, &view), a.Raw)
	require.Equal(t, keyOf(3), view.Key)
	var types []events.Type
	for _, m := range view.Events {
		require.NotEmpty(t, m.EventID)
		types = append(types, m.Type)
	}
	require.Equal(t, []events.Type{events.TypeRequested, events.TypeFailed, events.TypeCallbackDelivered}, types)
	require.Equal(t, events.CodeSourceTimeout, view.Events[1].Outcome)
}

func TestRedeliverMakesTheCallbackDue(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	exportsOf(t, in)
	again := func(key string) answer { return in.post(t, "/v1/export/redeliver", `{"key":"`+key+`"}`) }
	a := again(keyOf(4))
	require.JSONEq(t, `{"state":"pending","attempts":1,"last_status":200}`, string(a.Data), a.Raw)
	require.Equal(t, "key: the callback is pending; attempt 2 follows by itself", again(keyOf(4)).Msg)
	a = again(keyOf(1))
	require.Equal(t, 409, a.Status)
	require.Contains(t, a.Msg, "under way")
	in.write(t, keyOf(7), requestOf("none"))
	end(t, in, keyOf(7), events.StateFailed)
	require.Equal(t, "key: the export has no callback", again(keyOf(7)).Msg)
	require.Equal(t, 404, again(keyOf(8)).Status)
	x := in.read(t, "default", keyOf(4))
	require.Equal(t, events.TypeCallbackRequested, x.Timeline[len(x.Timeline)-1].Type)
	require.Equal(t, in.digest(t), in.rebuilt(t))
}

func TestShareLinks(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{PublicURL: "https://sheaf.example/x", KeepFiles: 48 * time.Hour})
	exportsOf(t, in)
	share := func(more string) answer { return in.post(t, "/v1/export/share", `{"key":"`+keyOf(1)+`"`+more+`}`) }
	read := func(link string) secrets.Share {
		token, ok := strings.CutPrefix(link, "https://sheaf.example/x/s/")
		require.True(t, ok, link)
		s, err := secrets.ReadShareToken(in.journal.Keys(), token, time.Now())
		require.NoError(t, err)
		return s
	}
	for more, ttl := range map[string]time.Duration{
		"": 48 * time.Hour, `,"ttl":3600`: time.Hour, `,"ttl":"1d"`: 24 * time.Hour, `,"ttl":"90m"`: 90 * time.Minute,
	} {
		var view shareView
		a := share(more)
		require.NoError(t, json.Unmarshal(a.Data, &view), a.Raw)
		s := read(view.URL)
		require.Equal(t, keyOf(1), s.Key)
		require.WithinDuration(t, time.Now().Add(ttl), s.Expires, 30*time.Second, more)
		require.Equal(t, localTime(s.Expires), view.ExpiresAt)
	}
	var view shareView
	require.NoError(t, json.Unmarshal(share(`,"return_url":"https://shop.example/exports?a=1"`).Data, &view))
	require.Equal(t, "https://shop.example/exports?a=1", read(view.URL).ReturnURL)
	long := "https://shop.example/" + strings.Repeat("a", maxReturnURL-len("https://shop.example/"))
	require.NoError(t, json.Unmarshal(share(`,"return_url":"`+long+`"`).Data, &view))
	require.Equal(t, long, read(view.URL).ReturnURL)
	for more, msg := range map[string]string{
		`,"return_url":"` + long + `a"`: "return_url: has 1025",
		`,"ttl":"3d"`:                   "ttl: is 3d; links are good for at most 2d here", `,"ttl":"-1h"`: "ttl: is",
		`,"ttl":"1ns"`: "ttl: is 1ns; links are good for at least 1m", `,"ttl":59`: "ttl: is 59s; links", `,"ttl":0`: "ttl: is",
		`,"return_url":"javascript:alert(1)"`: "return_url: must begin with http", `,"return_url":"//evil"`: "return_url: must begin",
	} {
		a := share(more)
		require.Equal(t, 400, a.Status, more)
		require.True(t, strings.HasPrefix(a.Msg, msg), a.Msg)
	}

	// A submission gets its link at once. Asking for it does not make it another export.
	plain := in.post(t, "/v1/export/raw", rawRequest)
	with := in.post(t, "/v1/export/raw", strings.Replace(rawRequest, `{`, `{"share":true,`, 1))
	require.Equal(t, plain.key(t), with.key(t))
	require.NotContains(t, plain.Raw, "share_url")
	var got accepted
	require.NoError(t, json.Unmarshal(with.Data, &got))
	require.Empty(t, got.Warnings)
	require.Equal(t, plain.key(t), read(got.ShareURL).Key)
	require.Equal(t, `share: must be true or false, not a string`,
		in.post(t, "/v1/export/raw", strings.Replace(rawRequest, `{`, `{"share":"yes",`, 1)).Msg)
}

func TestBulkChangesWhatAFilterSelects(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	exportsOf(t, in)
	bulk := func(body string) answer { return in.post(t, "/v1/export/bulk", body) }
	result := func(a answer) (view bulkView) {
		require.Zero(t, a.Errcode, a.Msg)
		require.NoError(t, json.Unmarshal(a.Data, &view))
		return view
	}
	a := bulk(`{"action":"retry","filter":{"state":"failed"},"expect":3}`)
	require.Equal(t, 409, a.Status)
	require.Equal(t, "expect: the filter now selects 2 exports, not 3; nothing was changed", a.Msg)
	for body, msg := range map[string]string{
		`{"action":"retry","filter":{"state":"failed"}}`:              "expect: is required",
		`{"action":"retry","expect":1}`:                               "filter: is required",
		`{"filter":{},"expect":1}`:                                    "action: is required",
		`{"action":"delete","filter":{},"expect":6}`:                  `action: is "delete"`,
		`{"action":"cancel","filter":{"status":"failed"},"expect":6}`: "filter.status: is not known",
		`{"action":"cancel","filter":{"state":"done"},"expect":6}`:    "state: is",
		`{"action":"cancel","filter":{"state":true},"expect":6}`:      "filter.state: must be a string",
		`{"action":"cancel","filter":[],"expect":6}`:                  "filter: must be a JSON object",
		`{"action":"cancel","filter":{},"expect":-1}`:                 "expect: is -1",
		`{"action":"cancel","filter":{},"expect":6,"tolerance":"1"}`:  "tolerance: must be an integer",
		`{"action":"cancel","filter":{"tenant":"shop.a"},"expect":6}`: "tenant: want",
	} {
		a := bulk(body)
		require.Equal(t, 400, a.Status, body)
		require.True(t, strings.HasPrefix(a.Msg, msg), a.Msg)
	}
	require.Equal(t, bulkView{Matched: 2, Done: 2, Skipped: []skippedView{}},
		result(bulk(`{"action":"redeliver","filter":{"state":"failed"},"expect":3,"tolerance":1}`)))
	view := result(bulk(`{"action":"cancel","filter":{"q":"orders"},"expect":6}`))
	require.Equal(t, []int{6, 2, 4}, []int{view.Matched, view.Done, len(view.Skipped)})
	require.Equal(t, skippedView{keyOf(6), "key: the export is already failed; only one that is under way can be cancelled"}, view.Skipped[0])
	require.Equal(t, 2, result(bulk(`{"action":"retry","filter":{"error_code":"LIMIT_ROWS"},"expect":1,"tolerance":1}`)).Done+
		result(bulk(`{"action":"retry","filter":{"error_code":"SOURCE_TIMEOUT"},"expect":1}`)).Done)
	_, keys := listOf(t, in.get(t, "/v1/export/list"))
	require.Equal(t, "6q 5c 4s 3q 2c 1c", keys)
	require.Zero(t, result(ask(t, in.journal.Callers(), "other", "bulk", `{"action":"cancel","filter":{},"expect":0}`)).Matched)
}

// watching reads the events of a stream.
type watching struct {
	resp  *http.Response
	lines *bufio.Scanner
}

func (in *ingress) openWatch(t *testing.T, key string, header ...string) *watching {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, in.url+"/v1/export/watch?key="+key, nil)
	require.NoError(t, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	t.Cleanup(func() { _ = resp.Body.Close() })
	return &watching{resp, bufio.NewScanner(resp.Body)}
}

// next returns the next event, "" at the end of the stream.
func (s *watching) next(t *testing.T, data any) (name string) {
	t.Helper()
	for s.lines.Scan() {
		switch line := s.lines.Text(); {
		case strings.HasPrefix(line, "event: "):
			name = line[len("event: "):]
		case strings.HasPrefix(line, "data: "):
			require.NoError(t, json.Unmarshal([]byte(line[len("data: "):]), data))
		case line == "" && name != "":
			return name
		}
	}
	return ""
}

func TestWatchStreamsProgressAndTheEnd(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{ReadTimeout: 500 * time.Millisecond})
	in.write(t, keyOf(1), requestOf("t"))
	s := in.openWatch(t, keyOf(1))
	require.Equal(t, "text/event-stream; charset=utf-8", s.resp.Header.Get("Content-Type"))
	require.Equal(t, "no", s.resp.Header.Get("X-Accel-Buffering"))
	var p progressEvent
	require.Equal(t, "progress", s.next(t, &p))
	require.Equal(t, stateQueued, p.State)
	for page := 1; page <= 4; page++ { // longer than ReadTimeout
		in.journal.PublishProgress("default", keyOf(1), events.Progress{Phase: events.PhaseCrawling, PagesDone: page, PagesTotal: 4})
		require.Equal(t, "progress", s.next(t, &p))
		require.Equal(t, []any{stateRunning, page}, []any{p.State, p.Progress.PagesDone})
	}
	x := end(t, in, keyOf(1), events.StateCompleted)
	var d detailView
	for name := ""; name != "end"; {
		name = s.next(t, &d)
		require.NotEmpty(t, name)
	}
	require.Equal(t, in.get(t, "/v1/export/detail?key="+x.Key).detail(t), d)
	require.Empty(t, s.next(t, nil), "the stream ends")
	require.Equal(t, "end", in.openWatch(t, keyOf(1)).next(t, &d), "of an export that had ended")

	require.Equal(t, 404, in.get(t, "/v1/export/watch?key="+keyOf(2)).Status)
	require.Equal(t, 400, in.get(t, "/v1/export/watch").Status)
	require.Eventually(t, func() bool { // its handler ends after its body
		in.changes.mu.Lock()
		defer in.changes.mu.Unlock()
		return len(in.changes.listeners) == 0
	}, 10*time.Second, time.Millisecond)
}

// A revoked key sees no more of a stream.
func TestWatchEndsWithItsKey(t *testing.T) {
	t.Parallel()
	keys := newTestKeys()
	in := start(t, eventstest.Server(t, ""), keys.config(Config{}))
	in.as(t, "shop", keyOf(1), requestOf("t"))
	s := in.openWatch(t, keyOf(1), "X-API-Key", "shop-key")
	var p progressEvent
	require.Equal(t, "progress", s.next(t, &p))
	keys.revoke("shop-key")
	in.journal.PublishProgress("shop", keyOf(1), events.Progress{Phase: events.PhaseCrawling, PagesDone: 1, PagesTotal: 4})
	require.Empty(t, s.next(t, &p))
}

// Open streams do not delay a shutdown.
func TestStreamsEndWithTheProcess(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	in.write(t, keyOf(1), requestOf("t"))
	s := in.openWatch(t, keyOf(1))
	var p progressEvent
	require.Equal(t, "progress", s.next(t, &p))
	begin := time.Now()
	require.NoError(t, in.stop())
	require.Empty(t, s.next(t, &p))
	require.Less(t, time.Since(begin), drainWait/2)
}

// A tenant with too many streams is refused, and others are not.
func TestStreamsOfOneTenantAreBounded(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{Authenticate: byTenant})
	for _, tenant := range []string{"shop", "other"} {
		in.as(t, tenant, keyOf(len(tenant)), requestOf("t"))
	}
	var p progressEvent
	for range maxTenantStreams {
		require.Equal(t, "progress", in.openWatch(t, keyOf(4), "X-API-Key", "shop").next(t, &p))
	}
	a := send(t, http.MethodGet, in.url+"/v1/export/watch?key="+keyOf(4), "", "X-API-Key", "shop")
	require.Equal(t, 503, a.Status)
	require.NotEmpty(t, a.Header.Get("Retry-After"))
	require.Equal(t, "progress", in.openWatch(t, keyOf(5), "X-API-Key", "other").next(t, &p))
	require.Equal(t, 404, send(t, http.MethodGet, in.url+"/v1/export/watch?key="+keyOf(4), "", "X-API-Key", "other").Status)
}

// REST and NATS give the same answers.
func TestRESTEqualsNATS(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	exportsOf(t, in)
	covered := map[string]bool{}
	for _, c := range []struct{ name, params string }{
		{"http", `{"ext_type":"XLSX"}`},
		{"raw", rawRequest},
		{"preview", previewBody},
		{"convert", `{"key":"` + keyOf(1) + `","ext_type":"CSV"}`},
		{"detail", `{"key":"` + keyOf(4) + `"}`},
		{"detail", `{}`},
		{"events", `{"key":"` + keyOf(4) + `"}`},
		{"events", `{"key":"` + keyOf(99) + `"}`},
		{"history", `{"user_id":"u"}`},
		{"list", `{"state":"failed","limit":"1"}`},
		{"list", `{"state":"unknown"}`},
		{"cancel", `{"key":"` + keyOf(4) + `"}`},
		{"retry", `{"key":"` + keyOf(4) + `"}`},
		{"redeliver", `{"key":"` + keyOf(1) + `"}`},
		{"share", `{"key":"` + keyOf(4) + `","ttl":"30d"}`},
		{"bulk", `{"action":"cancel","filter":{"state":"failed"},"expect":2}`},
		{"tenants", `{}`},
	} {
		covered[c.name] = true
		path, tenant := in.pathOf(t, c.name), "default"
		var byREST answer
		if strings.HasPrefix(path, "GET ") {
			var params map[string]string
			require.NoError(t, json.Unmarshal([]byte(c.params), &params))
			q := url.Values{}
			for name, value := range params {
				q.Set(name, value)
			}
			byREST = in.get(t, path[len("GET "):]+"?"+q.Encode())
		} else {
			byREST = in.post(t, path[len("POST "):], c.params)
		}
		if operations[c.name].scope == ScopeAdmin {
			tenant = AdminTenant
		}
		byNATS := ask(t, in.journal.Callers(), tenant, c.name, c.params)
		require.Equal(t, byREST.Errcode, byNATS.Errcode, "%s %s: %s", c.name, c.params, byREST.Raw)
		require.Equal(t, byREST.Msg, byNATS.Msg, c.name)
		require.Equal(t, string(byREST.Data), string(byNATS.Data), c.name)
	}
	for name := range operations {
		require.True(t, covered[name] || name == "system", "%s is not compared", name)
	}
}

// pathOf returns the method and path of an operation.
func (in *ingress) pathOf(t *testing.T, name string) string {
	for _, r := range in.routes() {
		if r.path == "/v1/export/"+name || r.path == "/v1/"+name {
			return r.method + " " + r.path
		}
	}
	require.Fail(t, "no path", name)
	return ""
}

// BenchmarkStreams measures the memory of the process with 1,000 open streams, their clients included.
func BenchmarkStreams(b *testing.B) {
	const streams = 1000
	in := start(b, eventstest.Server(b, ""), Config{Authenticate: byTenant})
	host := strings.TrimPrefix(in.url, "http://")
	for b.Loop() {
		before := memoryInUse()
		var conns []net.Conn
		for n := range streams {
			tenant := fmt.Sprint("t", n/maxTenantStreams)
			key := keyOf(n / maxTenantStreams)
			if n%maxTenantStreams == 0 && in.read(b, tenant, key).State == events.StateNone {
				in.as(b, tenant, key, requestOf("t"))
			}
			conn, err := net.Dial("tcp", host)
			require.NoError(b, err)
			conns = append(conns, conn)
			_, err = fmt.Fprintf(conn, "GET /v1/export/watch?key=%s HTTP/1.1\r\nHost: %s\r\nX-API-Key: %s\r\n\r\n", key, host, tenant)
			require.NoError(b, err)
			one := make([]byte, 12)
			_, err = io.ReadFull(conn, one)
			require.NoError(b, err)
			require.Equal(b, "HTTP/1.1 200", string(one))
		}
		used := memoryInUse() - before
		b.ReportMetric(float64(used)/(1<<20), "MiB")
		require.Less(b, used, int64(64<<20))
		for _, conn := range conns {
			_ = conn.Close()
		}
		require.Eventually(b, func() bool {
			in.changes.mu.Lock()
			defer in.changes.mu.Unlock()
			return len(in.changes.listeners) == 0
		}, 20*time.Second, time.Millisecond)
	}
}

// memoryInUse returns the bytes of heap and stacks in use.
func memoryInUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}
