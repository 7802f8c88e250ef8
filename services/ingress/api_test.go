package ingress

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/journal"
	"sheaf/events/secrets"
	"sheaf/services/ingress/request"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

const oneKey = "5ad5f7b92a816b76e70a21e4154c2485"

// completed returns an ending with one file that expires in an hour.
func completed(x events.Export) *events.ExportCompleted {
	return &events.ExportCompleted{
		Run: x.RequestedSeq, Pages: 3, Rows: 41, ExpiresAt: time.Now().UTC().Add(time.Hour).Truncate(time.Second),
		Files:    []events.File{{Name: "T.zip", Store: "default/" + x.Key + "/1.zip", Size: 9, SHA256: strings.Repeat("a", 64), Rows: 41}},
		Warnings: []events.Warning{{Code: "TOTAL_MOVED", Message: "the total moved"}},
	}
}

func TestEnvelopeOfEveryFailure(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{MaxBody: 1 << 10})
	for _, c := range []struct {
		name, method, path, body string
		status, errcode          int
		msg                      string
	}{
		{"no such path", "GET", "/v2/export", "", 404, 404, `there is no path "/v2/export"; GET / lists the paths`},
		{"a method of no path", "BREW", "/v1/export/http", "", 405, 405, "the method BREW is not allowed here; allowed: POST"},
		{"a method of no path", "BREW", "/tea", "", 404, 404, `there is no path "/tea"`},
		{"no such method", "DELETE", "/v1/export/http", "", 405, 405, "the method DELETE is not allowed here; allowed: POST"},
		{"detail without a key", "GET", "/v1/export/detail", "", 400, 401, "key 不能为空 (key is required)"},
		{"cancel without a key", "POST", "/v1/export/cancel", `{"hash_key":"x"}`, 400, 401, "key 不能为空 (key is required)"},
		{"retry without a body", "POST", "/v1/export/retry", "", 400, 401, "key 不能为空 (key is required)"},
		{"detail of an unknown key", "GET", "/v1/export/detail?key=" + oneKey, "", 404, 404, `资源不存在 (no export has the key "` + oneKey + `")`},
		{"detail of what is no key", "GET", "/v1/export/detail?key=*.>", "", 404, 404, `资源不存在 (no export has the key "*.>")`},
		{"cancel of an unknown key", "POST", "/v1/export/cancel", `{"key":"` + oneKey + `"}`, 404, 404, "资源不存在"},
		{"retry of an unknown key", "POST", "/v1/export/retry", `{"key":"` + oneKey + `"}`, 404, 404, "资源不存在"},
		{"history without a user", "GET", "/v1/export/history", "", 400, 400, "user_id: 不能为空 (user_id is required)"},
		{"history with a bad limit", "GET", "/v1/export/history?uid=1&limit=0", "", 400, 400, `limit: is "0"; want an integer from 1 to 1000`},
		{"history before nothing", "GET", "/v1/export/history?uid=1&before=x", "", 400, 400, `before: is "x"; want an integer`},
		{"cancel with a body too large", "POST", "/v1/export/cancel", `{"key":"` + strings.Repeat("a", 2<<10) + `"}`, 413, 413, "body: is larger than 1024 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := send(t, c.method, in.url+c.path, c.body, "x-b3-traceid", "trace-1")
			require.Equal(t, c.status, a.Status)
			require.Equal(t, c.errcode, a.Errcode)
			require.True(t, strings.HasPrefix(a.Msg, c.msg), a.Msg)
			require.Equal(t, "trace-1", a.RequestID)
			require.Equal(t, "trace-1", a.Header.Get("X-Request-Id"))
			var members map[string]json.RawMessage
			require.NoError(t, json.Unmarshal([]byte(a.Raw), &members))
			require.Len(t, members, 4)
			require.Equal(t, "null", string(members["data"]))
		})
	}
	require.Equal(t, "POST", send(t, "DELETE", in.url+"/v1/export/http", "").Header.Get("Allow"))

	gzip := send(t, "POST", in.url+"/v1/export/http", eventstest.SpecHTTP, "Content-Encoding", "gzip")
	require.Equal(t, 415, gzip.Status)
	require.Equal(t, 415, gzip.Errcode)

	resp, err := http.Get(in.url + "/")
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, 200, resp.StatusCode)
	resp, err = http.Head(in.url + "/healthz")
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, 200, resp.StatusCode)
}

// A body without a length has the same limit.
func TestChunkedBodies(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{MaxBody: 1 << 10, MaxRawBody: 3 << 20})
	chunked := func(path, body string) answer {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), "POST", in.url+path, struct{ io.Reader }{strings.NewReader(body)})
		require.NoError(t, err)
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		return decode(t, resp)
	}
	a := chunked("/v1/export/http", strings.Repeat(" ", 4<<10))
	require.Equal(t, 413, a.Status)
	require.Equal(t, "body: is larger than 1024 bytes", a.Msg)
	a = chunked("/v1/export/raw", strings.Repeat(" ", 4<<20))
	require.Equal(t, 413, a.Status)
	require.Zero(t, chunked("/v1/export/http", eventstest.HTTPBody("")).Errcode)
	large := eventstest.RawBody(`[{"a":"A"},{"a":"` + strings.Repeat("x", 2<<20) + `"}]`)
	key := chunked("/v1/export/raw", large).key(t)
	require.Equal(t, key, in.post(t, "/v1/export/raw", large).key(t))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	release, err := in.reserve(ctx, events.DefaultTenant, in.cfg.MaxRawBody)
	require.NoError(t, err, "the room for bodies was given back")

	// While memory is short, large bodies get an answer to try again.
	_, err = in.reserve(ctx, events.DefaultTenant, 2<<20)
	require.Equal(t, 503, asAPIError(err).Status)
	require.Zero(t, in.post(t, "/v1/export/raw", eventstest.SpecRaw).Errcode, "small ones need no room")
	release()
	require.Empty(t, in.bodies.large.tenants)
	require.Empty(t, in.bodies.medium.tenants)
}

// A slow sender uses its own tenant's memory for bodies, and no other tenant's.
func TestSlowBodiesOfOneTenant(t *testing.T) {
	t.Parallel()
	const bodyWait = time.Second
	in := start(t, eventstest.Server(t, ""), Config{MaxRawBody: 1 << 20, BodyWait: bodyWait, Authenticate: byTenant})
	conn, err := net.Dial("tcp", strings.TrimPrefix(in.url, "http://"))
	require.NoError(t, err)
	defer conn.Close()
	_, err = fmt.Fprintf(conn, "POST /v1/export/raw HTTP/1.1\r\nHost: %s\r\nX-API-Key: slow\r\nContent-Length: %d\r\n\r\n{", strings.TrimPrefix(in.url, "http://"), 1<<20)
	require.NoError(t, err)
	held := func(tenant string) bool {
		in.bodies.medium.mu.Lock()
		defer in.bodies.medium.mu.Unlock()
		return in.bodies.medium.tenants[tenant] != nil
	}
	require.Eventually(t, func() bool { return held("slow") }, 10*time.Second, time.Millisecond)
	large := eventstest.RawBody(`[{"a":"A"},{"a":"` + strings.Repeat("x", 512<<10) + `"}]`)
	begun := time.Now()
	require.Zero(t, send(t, http.MethodPost, in.url+"/v1/export/raw", large, "X-API-Key", "other").Errcode)
	require.Less(t, time.Since(begun), bodyWait)
	require.Equal(t, 503, send(t, http.MethodPost, in.url+"/v1/export/raw", large, "X-API-Key", "slow").Status)
	require.NoError(t, conn.Close())
	require.Eventually(t, func() bool { return !held("slow") }, 10*time.Second, time.Millisecond, "who goes away gives the room back")
}

// A body that is shorter than its announced length is the caller's error.
func TestBodyCutShort(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	conn, err := net.Dial("tcp", strings.TrimPrefix(in.url, "http://"))
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "POST /v1/export/http HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
	require.NoError(t, err)
	require.NoError(t, conn.(*net.TCPConn).CloseWrite())
	answer, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Contains(t, string(answer), "400 Bad Request")
	require.Contains(t, string(answer), `"msg":"body: could not be read to its end"`)
}

func TestPanicIsAnEnvelope(t *testing.T) {
	t.Parallel()
	h := quiet.identify(quiet.logRequests(recoverPanics(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("secret inner state") }))))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	a := decode(t, w.Result())
	require.Equal(t, 500, a.Status)
	require.Equal(t, 500, a.Errcode)
	require.NotContains(t, a.Raw, "secret")

	h = recoverPanics(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("half"))
		panic("later")
	}))
	require.PanicsWithValue(t, http.ErrAbortHandler, func() {
		quiet.logRequests(h).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	}, "an answer that was begun must not look whole")

	s := &Service{cfg: quiet.cfg, metrics: quiet.metrics, journal: eventstest.Journal(t)}
	broken := operation{handle: func(*Service, context.Context, call) (any, error) { panic("secret") }}
	_, err := s.do(t.Context(), broken, call{requestID: "r"})
	require.Equal(t, 500, asAPIError(err).Errcode)
	require.NotContains(t, asAPIError(err).Msg, "secret")
}

func TestRequestID(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ trace, id, want string }{
		{"t-1", "i-1", "t-1"},
		{"", "i-1", "i-1"},
		{"bad id\n", "i/1=", "i/1="},
		{strings.Repeat("x", 129), "", ""},
		{"", "", ""},
	} {
		got := chooseRequestID(func(name string) string {
			if name == "x-b3-traceid" {
				return c.trace
			}
			return c.id
		})
		if c.want != "" {
			require.Equal(t, c.want, got)
		} else {
			require.Regexp(t, `^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`, got)
		}
	}
}

// The text of unknown errors never reaches the caller.
func TestUnknownErrorsAreInternal(t *testing.T) {
	t.Parallel()
	for err, status := range map[error]int{
		errors.New("dial 10.0.0.3:4222"):                   500,
		fmt.Errorf("x: %w", events.ErrUnavailable):         503,
		fmt.Errorf("x: %w", events.ErrNoSpace):             503,
		fmt.Errorf("x: %w", context.DeadlineExceeded):      503,
		fmt.Errorf("x: %w", unknownKey(oneKey)):            404,
		fmt.Errorf("x: %w", &http.MaxBytesError{Limit: 1}): 413,
	} {
		w := httptest.NewRecorder()
		respond(w, httptest.NewRequest("GET", "/", nil), nil, err)
		require.Equal(t, status, w.Code, err)
		require.NotContains(t, w.Body.String(), "10.0.0.3")
		require.Equal(t, status == 503, w.Header().Get("Retry-After") != "")
	}
}

// goldenExport returns an export in a given state, with every field set.
func goldenExport(s events.State) events.Export {
	at := time.Date(2021, 9, 6, 9, 24, 34, 987654321, time.UTC)
	x := events.Export{
		Tenant: "default", Key: oneKey, ID: 4, CreatedAt: at, State: s, RequestedSeq: 4, LastSeq: 6,
		Request: events.Request{
			ExtType: "XLSX", Title: "http接口数据源导出 <&>", UserID: "123", Callback: "http://h/", SourceType: "http",
			HTTP: &events.HTTPRequest{URL: "http://h/"}, Warnings: []string{`unknown field "shape" was ignored`},
		},
	}
	switch s {
	case events.StateCompleted:
		x.FinishedAt, x.ExpiresAt, x.Pages, x.Rows, x.Run = at.Add(time.Minute), at.Add(time.Hour), 3, 41, 4
		x.Files = []events.File{{Name: "http接口数据源导出.zip", Store: "default/" + oneKey + "/6.zip", Size: 1234, SHA256: strings.Repeat("ab", 32), Rows: 41}}
		x.Warnings = []events.Warning{{Code: "TOTAL_MOVED", Message: "the total moved from 40 to 41"}}
		x.Proof = &events.Proof{Kind: events.ProofTotal, Announced: 41, Rows: 41, Pages: 3}
		x.Callback = events.CallbackState{State: events.CallbackPending, Attempts: 2, LastStatus: 503}
	case events.StateFailed:
		x.FinishedAt = at.Add(time.Minute)
		x.Failure = events.ExportFailed{Code: events.CodeSourceHTTP, Reason: "page 3: the source answered 503", Phase: events.PhaseCrawling}
		x.Callback = events.CallbackState{State: events.CallbackDone, Attempts: 1, LastStatus: 200}
	}
	return x
}

func TestGoldenAnswers(t *testing.T) {
	t.Parallel()
	streams := eventstest.Journal(t)
	s := &Service{journal: streams, cfg: Config{PublicURL: "https://sheaf.example"}, progress: newProgressCache()}
	seen := time.Date(2021, 9, 6, 9, 30, 0, 0, time.UTC)
	s.progress.report("default", oneKey, events.Progress{Phase: events.PhaseCrawling, PagesDone: 2, PagesTotal: 3, Rows: 40})
	var history []summaryView
	for _, state := range []events.State{events.StateRequested, events.StateCompleted, events.StateFailed} {
		x := goldenExport(state)
		b, failure := seal(s.detailOf(&x, seen), nil, "0452d509-de6e-4937-96e5-adbbdc41a82d")
		require.Nil(t, failure)
		golden(t, "detail_"+string(state)+".json", b)
		history = append(history, summaryOf(&x))
	}
	b, _ := seal(history, nil, "c3aadcf8-d5d3-4a2b-888b-691781820a9f")
	golden(t, "history.json", b)
	b, _ = seal(accepted{HashKey: oneKey}, nil, "ba35f44b-d408-45d9-b384-69efd507deb0")
	golden(t, "accepted.json", b)
	b, _ = seal(nil, request.Invalid("title", "has %d characters, at most %d are allowed", 300, 255), "ba35f44b-d408-45d9-b384-69efd507deb0")
	golden(t, "failure.json", b)

	x := goldenExport(events.StateCompleted)
	require.NotEmpty(t, s.detailOf(&x, seen).DownURL)
	require.Empty(t, s.detailOf(&x, x.ExpiresAt).DownURL, "an expired link is not handed out")
}

func TestDetailFollowsTheExport(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{PublicURL: "http://files.example/"})
	key := in.post(t, "/v1/export/http", eventstest.SpecHTTP).key(t)
	detail := func() detailView { t.Helper(); return in.get(t, "/v1/export/detail?key="+key).detail(t) }
	remembered := func() events.Progress {
		in.progress.mu.Lock()
		defer in.progress.mu.Unlock()
		return in.progress.last[exportID{"default", key}]
	}
	reported := func(p events.Progress) {
		// Progress published before the ingress subscribes is lost, which does no harm.
		require.Eventually(t, func() bool {
			in.journal.PublishProgress(events.DefaultTenant, key, p)
			return remembered() == p
		}, 5*time.Second, time.Millisecond)
	}

	d := detail()
	require.Equal(t, 1, d.Status)
	require.Equal(t, events.Progress{Phase: "queued"}, d.Progress)
	require.Empty(t, d.DownURL)
	require.Empty(t, d.FinishedAt)
	created, err := time.Parse(time.RFC3339, d.CreatedAt)
	require.NoError(t, err)
	require.WithinDuration(t, time.Now(), created, time.Minute)
	require.True(t, strings.HasSuffix(d.CreatedAt, "+08:00"))

	reported(events.Progress{Phase: events.PhaseWaitingForSpace, PagesDone: 1, PagesTotal: 3, Rows: 20})
	require.Equal(t, events.Progress{Phase: "waiting_for_space", PagesDone: 1, PagesTotal: 3, Rows: 20}, detail().Progress)
	pause := events.Progress{Phase: events.PhaseWaitingForSource, PagesDone: 1, PagesTotal: 3, Rows: 20, Until: time.Now().UTC().Truncate(time.Second)}
	reported(pause)
	require.Equal(t, pause, detail().Progress)
	proof := &events.Proof{Kind: events.ProofPages, Announced: 3, Rows: 41, Pages: 3}
	require.Nil(t, detail().Proof)
	x := in.write(t, key, &events.ExportCrawled{Run: d.ID, Pages: 3, Proof: proof})
	require.Equal(t, events.Progress{Phase: "assembling", PagesTotal: 3}, detail().Progress)
	require.Equal(t, proof, detail().Proof)
	reported(events.Progress{Phase: events.PhaseAssembling, PagesDone: 2, Rows: 30})
	require.Equal(t, events.Progress{Phase: "assembling", PagesDone: 2, PagesTotal: 3, Rows: 30}, detail().Progress)
	reported(events.Progress{Phase: events.PhaseAssembling, PagesDone: 5, PagesTotal: 6, Rows: 30})
	require.Equal(t, events.Progress{Phase: "assembling", PagesDone: 5, PagesTotal: 6, Rows: 30}, detail().Progress, "two formats")

	x = in.write(t, key, completed(x))
	d = detail()
	require.Equal(t, 2, d.Status)
	require.Equal(t, events.Progress{Phase: "done", PagesDone: 3, PagesTotal: 3, Rows: 41}, d.Progress)
	require.Equal(t, secrets.DownloadURL(in.journal.Keys(), "http://files.example", &x), d.DownURL)
	require.True(t, strings.HasPrefix(d.DownURL, "http://files.example/v1/down/"))
	require.Equal(t, int64(41), d.Rows)
	require.Equal(t, []fileView{{Name: "T.zip", Size: 9, SHA256: strings.Repeat("a", 64), Rows: 41}}, d.Files)
	require.Equal(t, []events.Warning{{Code: "TOTAL_MOVED", Message: "the total moved"}}, d.Warnings)
	require.NotEmpty(t, d.FinishedAt)
	require.NotEmpty(t, d.ExpiresAt)
	require.Equal(t, "pending", d.Callback.State)
	require.Eventually(t, func() bool { return remembered() == events.Progress{} }, 5*time.Second, time.Millisecond,
		"the progress of an ended export is forgotten")

	in.write(t, key, &events.ExportExpired{Files: []string{"x"}})
	d = detail()
	require.Equal(t, 2, d.Status)
	require.Empty(t, d.DownURL)
}

func TestOtherTenantsSeeNothing(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	in := start(t, srv, Config{})
	nc := eventstest.Connect(t, srv)
	key := ask(t, nc, "shop-a", "http", eventstest.SpecHTTP).key(t)
	body := `{"key":"` + key + `"}`
	require.Equal(t, key, ask(t, nc, "shop-a", "detail", body).detail(t).HashKey)
	for _, operation := range []string{"detail", "cancel", "retry"} {
		mine := ask(t, nc, "shop-b", operation, body)
		none := ask(t, nc, "shop-b", operation, `{"key":"`+oneKey+`"}`)
		require.Equal(t, 404, mine.Errcode)
		require.Equal(t, strings.ReplaceAll(none.Msg, oneKey, key), mine.Msg, "no difference to a key that does not exist")
	}
	require.Equal(t, 404, in.get(t, "/v1/export/detail?key="+key).Status)
	require.JSONEq(t, `[]`, string(ask(t, nc, "shop-b", "history", `{"user_id":"123"}`).Data))
	require.Contains(t, string(ask(t, nc, "shop-a", "history", `{"uid":123,"limit":"5"}`).Data), key)
	require.Equal(t, 4, func() int {
		var c changed
		require.NoError(t, json.Unmarshal(ask(t, nc, "shop-a", "cancel", body).Data, &c))
		return c.Status
	}())
	require.Equal(t, "subject", strings.SplitN(ask(t, nc, "Shop", "history", `{"user_id":"123"}`).Msg, ":", 2)[0])
}

func TestHistory(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	require.Equal(t, `[]`, string(in.get(t, "/v1/export/history?user_id=u").Data))
	var keys []string
	for i := range 5 {
		keys = append(keys, in.post(t, "/v1/export/http", eventstest.HTTPBody("", `"user_id":"u"`, fmt.Sprintf(`"title":"%d"`, i))).key(t))
	}
	in.post(t, "/v1/export/http", eventstest.HTTPBody("", `"user_id":"other"`))
	old := "0123456789abcdef0123456789abcdef"
	in.write(t, old, &events.ExportRequested{CreatedAt: time.Now().AddDate(0, 0, -8), Request: events.Request{UserID: "u", SourceType: "http", HTTP: &events.HTTPRequest{}}})
	titles := func(query string) (got []string, last summaryView) {
		var list []summaryView
		a := in.get(t, "/v1/export/history?"+query)
		require.NoError(t, json.Unmarshal(a.Data, &list), a.Raw)
		for _, x := range list {
			got, last = append(got, x.Title), x
		}
		return got, last
	}
	all, last := titles("user_id=u")
	require.Equal(t, []string{"4", "3", "2", "1", "0"}, all)
	require.Equal(t, keys[0], last.HashKey)
	all, _ = titles("uid=u")
	require.Len(t, all, 5)
	all, last = titles("user_id=u&limit=2")
	require.Equal(t, []string{"4", "3"}, all)
	all, _ = titles(fmt.Sprintf("user_id=u&limit=2&before=%d", last.ID))
	require.Equal(t, []string{"2", "1"}, all)

	var members []map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(in.get(t, "/v1/export/history?uid=u").Data, &members))
	require.Len(t, members[0], 8)
	require.NotContains(t, members[0], "down_url")
}

// end brings an export to a state by the events that lead to it.
func end(t *testing.T, in *ingress, key string, s events.State) events.Export {
	t.Helper()
	x := in.read(t, "default", key)
	switch s {
	case events.StateCrawled:
		x = in.write(t, key, &events.ExportCrawled{Run: x.RequestedSeq, Pages: 3})
	case events.StateCompleted, events.StateExpired:
		in.write(t, key, &events.ExportCrawled{Run: x.RequestedSeq, Pages: 3})
		p := completed(x)
		p.Files[0].SHA256 = fmt.Sprintf("%x", sha256.Sum256([]byte("nine byte")))
		in.commit(t, p.Files[0].Store, []byte("nine byte"))
		if x = in.write(t, key, p); s == events.StateExpired {
			x = in.write(t, key, &events.ExportExpired{})
		}
	case events.StateFailed:
		x = in.write(t, key, &events.ExportFailed{Code: events.CodeSourceTimeout, Reason: "no answer"})
	case events.StateCancelled:
		x = in.write(t, key, &events.ExportCancelled{})
	}
	require.Equal(t, s, x.State)
	return x
}

func TestCancelRetryAndRepeatInEveryState(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	for _, c := range []struct {
		state            events.State
		cancel, retry    int    // errcode
		cancelled, again string // part of msg
		repeats          bool   // an equal request restarts it
		continues        bool   // with the stored pages
	}{
		{events.StateRequested, 0, 409, "", "the export is under way", false, false},
		{events.StateCrawled, 0, 409, "", "the export is under way", false, false},
		{events.StateCompleted, 409, 409, "already completed", "its file is there", false, false},
		{events.StateFailed, 409, 0, "already failed", "", true, true},
		{events.StateCancelled, 409, 0, "already cancelled", "", true, true},
		{events.StateExpired, 409, 0, "already expired", "", true, false},
	} {
		t.Run(string(c.state), func(t *testing.T) {
			begin := func(title string) (body, key string, x events.Export) {
				body = eventstest.HTTPBody(`,"header":{}`, `"title":"`+title+string(c.state)+`"`)
				key = in.post(t, "/v1/export/http", body).key(t)
				return body, key, end(t, in, key, c.state)
			}
			runsAgain := func(x events.Export) {
				again := in.read(t, "default", x.Key)
				require.Equal(t, events.StateRequested, again.State)
				require.Greater(t, again.RequestedSeq, x.RequestedSeq)
				require.Equal(t, x.ID, again.ID)
				require.True(t, x.CreatedAt.Equal(again.CreatedAt))
				require.Equal(t, x.Request, again.Request)
				want := uint64(0)
				if c.continues {
					want = x.RequestedSeq
				}
				require.Equal(t, want, again.ContinuesRun)
				d := in.get(t, "/v1/export/detail?key="+x.Key).detail(t)
				require.Equal(t, 1, d.Status)
				require.Equal(t, x.ID, d.ID)
			}

			_, key, _ := begin("cancel")
			a := in.post(t, "/v1/export/cancel", `{"key":"`+key+`"}`)
			require.Equal(t, c.cancel, a.Errcode, a.Msg)
			require.Contains(t, a.Msg, c.cancelled)
			if c.cancel == 0 {
				require.Equal(t, `{"hash_key":"`+key+`","status":4}`, string(a.Data))
				require.Equal(t, 4, in.get(t, "/v1/export/detail?key="+key).detail(t).Status)
				require.Equal(t, 409, in.post(t, "/v1/export/cancel", `{"key":"`+key+`"}`).Status)
			}

			_, key, x := begin("retry")
			a = in.post(t, "/v1/export/retry", `{"key":"`+key+`"}`)
			require.Equal(t, c.retry, a.Errcode, a.Msg)
			require.Contains(t, a.Msg, c.again)
			if c.retry == 0 {
				require.Equal(t, `{"hash_key":"`+key+`","status":1}`, string(a.Data))
				runsAgain(x)
			} else {
				require.Equal(t, x, in.read(t, "default", key))
			}

			body, key, x := begin("repeat")
			require.Equal(t, key, in.post(t, "/v1/export/http", body).key(t))
			if c.repeats {
				runsAgain(x)
			} else {
				require.Equal(t, x, in.read(t, "default", key))
			}
		})
	}
}

// Until the keeper runs, an expired file still exists. An equal request does not wait for the keeper.
func TestFileWhoseTimeIsOver(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	retry := func(key string) answer { return in.post(t, "/v1/export/retry", `{"key":"`+key+`"}`) }
	overdue := func(key string) events.Export {
		x := in.read(t, "default", key)
		p := completed(x)
		p.ExpiresAt = time.Now().Add(-time.Second)
		in.write(t, key, &events.ExportCrawled{Run: x.RequestedSeq, Pages: 3})
		return in.write(t, key, p)
	}
	for _, body := range []string{eventstest.SpecHTTP, eventstest.HTTPBody(`,"header":{"A":"b"}`)} {
		key := in.post(t, "/v1/export/http", body).key(t)
		x := overdue(key)
		require.Equal(t, key, in.post(t, "/v1/export/http", body).key(t))
		again := in.read(t, "default", key)
		require.Equal(t, events.StateRequested, again.State)
		require.Equal(t, x.LastSeq+2, again.LastSeq, "expired, then requested")
		require.Equal(t, x.ID, again.ID)

		x = overdue(key)
		require.Zero(t, retry(key).Errcode)
		require.Equal(t, x.LastSeq+2, in.read(t, "default", key).LastSeq)
	}
}

func TestRetryNeedsWhatTheRequestBrought(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	retry := func(key string) answer { return in.post(t, "/v1/export/retry", `{"key":"`+key+`"}`) }

	body := eventstest.HTTPBody(`,"header":{"X-A":"secret"}`)
	key := in.post(t, "/v1/export/http", body).key(t)
	end(t, in, key, events.StateFailed)
	require.Zero(t, retry(key).Errcode)
	end(t, in, key, events.StateFailed)
	eventstest.Purge(t, in.journal, events.StreamPrivate, "sheaf.private.*.default."+key)
	a := retry(key)
	require.Equal(t, 409, a.Errcode)
	require.Contains(t, a.Msg, "headers are no longer kept; submit the request again")
	require.Equal(t, key, in.post(t, "/v1/export/http", body).key(t))
	header, err := in.journal.Headers(t.Context(), "default", key)
	require.NoError(t, err)
	require.Equal(t, "secret", header["X-A"])

	key = in.post(t, "/v1/export/raw", eventstest.SpecRaw).key(t)
	x := end(t, in, key, events.StateFailed)
	require.Zero(t, retry(key).Errcode)
	require.Zero(t, in.read(t, "default", key).ContinuesRun)
	end(t, in, key, events.StateFailed)
	require.NoError(t, in.journal.Pages().Purge(t.Context(), "default", key))
	a = retry(key)
	require.Equal(t, 409, a.Errcode)
	require.Contains(t, a.Msg, "rows that came with the request are no longer kept; submit the request again")
	require.Equal(t, key, in.post(t, "/v1/export/raw", eventstest.SpecRaw).key(t))
	again := in.read(t, "default", key)
	require.Equal(t, events.StateRequested, again.State)
	require.Equal(t, x.ID, again.ID)
	numbers, err := in.journal.Pages().List(t.Context(), "default", key, events.RawRun, 0)
	require.NoError(t, err)
	require.Equal(t, []int{1}, numbers)

	// This submission never became an export.
	rejected := in.journal.Keys().SubmissionKey("default", events.Submission{Sequence: 1})
	in.write(t, rejected, &events.SubmissionRejected{Errcode: 400, Field: "title", Reason: "title: is too long"})
	d := in.get(t, "/v1/export/detail?key="+rejected).detail(t)
	require.Equal(t, 3, d.Status)
	require.Equal(t, "title: is too long", d.FailReason)
	require.Equal(t, 409, retry(rejected).Status)
}

func TestNoSpaceIsUnavailable(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	streams := eventstest.JournalOn(t, srv, journal.Config{MaxPagesBytes: 16 << 10})
	in := startOn(t, streams, Config{})
	var rows []string
	for i := range 5000 {
		rows = append(rows, fmt.Sprintf(`{"a":"%x"}`, i*2654435761))
	}
	a := in.post(t, "/v1/export/raw", eventstest.RawBody("["+strings.Join(rows, ",")+"]"))
	require.Equal(t, 503, a.Status)
	require.NotEmpty(t, a.Header.Get("Retry-After"))
	require.Contains(t, a.Msg, "nothing was accepted")
	info, err := streams.JetStream().Stream(t.Context(), events.StreamPages)
	require.NoError(t, err)
	require.Zero(t, info.CachedInfo().State.Msgs, "no page is left of a request that was refused")
	require.Zero(t, in.post(t, "/v1/export/raw", eventstest.SpecRaw).Errcode, "a smaller one still fits")
}

func TestReadiness(t *testing.T) {
	t.Parallel()
	var full atomic.Bool
	srv := eventstest.Server(t, "")
	in := start(t, srv, Config{Health: func() error {
		if full.Load() {
			return errors.New("disk /var/lib full")
		}
		return nil
	}})
	require.Equal(t, 200, in.get(t, "/readyz").Status)
	require.Equal(t, 200, in.get(t, "/healthz").Status)
	full.Store(true)
	a := in.get(t, "/readyz")
	require.Equal(t, 503, a.Status)
	require.NotContains(t, a.Raw, "/var/lib")
	full.Store(false)

	in.draining.Store(true)
	a = in.get(t, "/readyz")
	require.Equal(t, 503, a.Status)
	require.Equal(t, "not ready: shutting down", a.Msg)
	in.draining.Store(false)

	in.onNATS.Store(false)
	require.Equal(t, "not ready: starting", in.get(t, "/readyz").Msg)
	in.onNATS.Store(true)

	in.journal.Conn().Close()
	require.Equal(t, "not ready: no connection to NATS", in.get(t, "/readyz").Msg)
	require.Equal(t, 200, in.get(t, "/healthz").Status)
	a = in.post(t, "/v1/export/http", eventstest.SpecHTTP)
	require.Equal(t, 503, a.Status)
	require.NotEmpty(t, a.Header.Get("Retry-After"))
	require.Equal(t, 503, in.get(t, "/v1/export/detail?key="+oneKey).Status)
}

// A request in flight is answered, and then Run returns nil.
func TestDrain(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	in, nc := start(t, srv, Config{}), eventstest.Connect(t, srv)
	conn, err := net.Dial("tcp", strings.TrimPrefix(in.url, "http://"))
	require.NoError(t, err)
	defer conn.Close()
	_, err = fmt.Fprintf(conn, "POST /v1/export/http HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n", len(eventstest.SpecHTTP))
	require.NoError(t, err)
	line := make([]byte, len("HTTP/1.1 100 Continue\r\n\r\n"))
	_, err = conn.Read(line) // the handler is reading the body
	require.NoError(t, err)

	stopped := make(chan error, 1)
	go func() { stopped <- in.stop() }()
	require.Eventually(t, func() bool {
		if !in.draining.Load() {
			return false
		}
		c, err := net.Dial("tcp", strings.TrimPrefix(in.url, "http://"))
		if err == nil {
			_ = c.Close()
		}
		return err != nil // no new work
	}, 5*time.Second, time.Millisecond)
	_, err = conn.Write([]byte(eventstest.SpecHTTP))
	require.NoError(t, err)
	buf := make([]byte, 4096)
	n, err := conn.Read(buf)
	require.NoError(t, err)
	require.Contains(t, string(buf[:n]), "200 OK")
	require.Contains(t, string(buf[:n]), `"hash_key"`)
	require.NoError(t, <-stopped)
	_, err = nc.Request(events.APISubject("default", "detail"), []byte(`{}`), 5*time.Second)
	require.ErrorIs(t, err, nats.ErrNoResponders)
}

// Until a load balancer notices, requests are answered, and each answer closes its connection.
func TestShutdownDelay(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{ShutdownDelay: time.Second})
	stopped := make(chan error, 1)
	go func() { stopped <- in.stop() }()
	require.Eventually(t, in.draining.Load, 5*time.Second, time.Millisecond)
	require.Equal(t, "not ready: shutting down", in.get(t, "/readyz").Msg)
	resp, err := http.Post(in.url+"/v1/export/http", "application/json", strings.NewReader(eventstest.SpecHTTP))
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, 200, resp.StatusCode)
	require.True(t, resp.Close)
	require.NoError(t, <-stopped)
	_, err = net.Dial("tcp", strings.TrimPrefix(in.url, "http://"))
	require.Error(t, err)
}

func TestProjectionIsRebuilt(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	in := start(t, srv, Config{})
	key := in.post(t, "/v1/export/http", eventstest.SpecHTTP).key(t)
	end(t, in, key, events.StateFailed)
	want := in.get(t, "/v1/export/detail?key="+key).detail(t)
	require.NoError(t, in.stop())
	require.Equal(t, want, start(t, srv, Config{}).get(t, "/v1/export/detail?key="+key).detail(t))
}

// The log is empty but had events, so the projection still knows its end.
func TestEmptiedLog(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	in := start(t, srv, Config{})
	key := in.post(t, "/v1/export/http", eventstest.SpecHTTP).key(t)
	end(t, in, key, events.StateFailed)
	require.NoError(t, in.stop())
	log, err := in.journal.JetStream().Stream(t.Context(), events.StreamEvents)
	require.NoError(t, err)
	require.NoError(t, log.Purge(t.Context()))
	in = start(t, srv, Config{})
	require.Equal(t, 404, in.get(t, "/v1/export/detail?key="+key).Status)
	require.Equal(t, 1, in.get(t, "/v1/export/detail?key="+in.post(t, "/v1/export/http", eventstest.SpecHTTP).key(t)).detail(t).Status)
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	for _, cfg := range []Config{{PublicURL: "sheaf.example"}, {MaxHistory: -1}, {MaxBody: -1}} {
		_, err := New(cfg, l, nil, nil, nil)
		require.Error(t, err)
	}
}
