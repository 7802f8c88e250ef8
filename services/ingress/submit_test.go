package ingress

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/embedded"
	"sheaf/events/eventstest"
	"sheaf/events/journal"
	"sheaf/events/pages"
	"sheaf/events/secrets"
	"sheaf/services/ingress/request"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"github.com/stretchr/testify/require"
)

// outcome is the result of a submission, for every transport.
type outcome struct {
	key     string // of the export; "" if it was not accepted
	errcode int
	msg     string
}

// transport submits and waits for the outcome.
type transport struct {
	name, tenant string
	submit       func(t *testing.T, operation, body string) outcome
}

func transports(t *testing.T, srv *embedded.Server, in *ingress) []transport {
	nc := eventstest.Connect(t, srv)
	js := in.journal.JetStream()
	created, err := in.journal.SubmitStreamCreated(t.Context())
	require.NoError(t, err)
	outcomeOf := func(t *testing.T, a answer) outcome {
		if a.Errcode != 0 {
			require.Equal(t, "null", string(a.Data))
			return outcome{errcode: a.Errcode, msg: a.Msg}
		}
		return outcome{key: a.key(t)}
	}
	return []transport{
		{"rest", events.DefaultTenant, func(t *testing.T, operation, body string) outcome {
			a := in.post(t, "/v1/export/"+operation, body)
			if a.Errcode == 0 {
				require.Equal(t, http.StatusOK, a.Status)
			} else {
				require.Equal(t, a.Errcode, a.Status)
			}
			return outcomeOf(t, a)
		}},
		{"micro", "tenant-m", func(t *testing.T, operation, body string) outcome {
			a := ask(t, nc, "tenant-m", operation, body)
			return outcomeOf(t, a)
		}},
		{"submit", "tenant_s", func(t *testing.T, operation, body string) outcome {
			id := nats.NewInbox()
			ack, err := js.PublishMsg(t.Context(), &nats.Msg{
				Subject: events.SubmitSubject("tenant_s", operation), Data: []byte(body), Header: nats.Header{"ce-id": {id}},
			})
			require.NoError(t, err)
			emptied(t, in)
			rejected := in.read(t, "tenant_s", in.journal.Keys().SubmissionKey("tenant_s", events.Submission{StreamCreated: created, Sequence: ack.Sequence}))
			if rejected.State == events.StateRejected {
				require.Equal(t, id, rejected.CorrelationID)
				require.Equal(t, ack.Sequence, rejected.Submission.Sequence)
				p := rejection(t, in, rejected.LastSeq)
				if p.Field != "" {
					require.True(t, strings.HasPrefix(p.Reason, p.Field), "%s: %s", p.Field, p.Reason)
				}
				return outcome{errcode: p.Errcode, msg: p.Reason}
			}
			s, err := request.Parse(in.journal.Keys(), "tenant_s", operation, in.cfg.Formats, []byte(body))
			require.NoError(t, err, "neither accepted nor rejected")
			require.Equal(t, events.StateRequested, in.read(t, "tenant_s", s.Key).State)
			return outcome{key: s.Key}
		}},
	}
}

// rejection returns the rejected event at a sequence of the log.
func rejection(t testing.TB, in *ingress, sequence uint64) *events.SubmissionRejected {
	t.Helper()
	var p *events.SubmissionRejected
	stop := errors.New("found")
	err := in.journal.Follow(t.Context(), sequence, func(batch []events.Event) error {
		p, _ = batch[0].Payload.(*events.SubmissionRejected)
		return stop
	})
	require.ErrorIs(t, err, stop)
	require.NotNil(t, p)
	return p
}

// emptied waits until every submission is acknowledged.
func emptied(t testing.TB, in *ingress) {
	t.Helper()
	stream, err := in.journal.JetStream().Stream(t.Context(), events.StreamSubmit)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		info, err := stream.Info(t.Context())
		return err == nil && info.State.Msgs == 0
	}, 20*time.Second, 2*time.Millisecond)
}

// ask calls the micro service.
func ask(t testing.TB, nc *nats.Conn, tenant, operation, body string) answer {
	t.Helper()
	m, err := nc.RequestMsg(&nats.Msg{Subject: events.APISubject(tenant, operation), Data: []byte(body), Header: nats.Header{"X-Request-Id": {"id-1"}}}, 20*time.Second)
	require.NoError(t, err)
	a := answer{Raw: string(m.Data)}
	require.NoError(t, json.Unmarshal(m.Data, &a), a.Raw)
	require.Equal(t, "id-1", a.RequestID)
	require.Equal(t, a.Errcode != 0, m.Header.Get(micro.ErrorCodeHeader) != "")
	if operation != previewOperation || a.Errcode != 0 { // the previewers of this package's tests find nothing
		require.NoError(t, contract().NATSAnswer(operation, m.Data), "as in openapi.yaml")
	}
	return a
}

func TestSubmissions(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	in := start(t, srv, Config{MaxBody: 32 << 10, MaxRawBody: 128 << 10})
	type claim struct {
		name      string
		operation string
		body      string // <tenant> is replaced by the tenant
		errcode   int    // 0 means accepted
		msg       string // beginning of the message: the field and the mistake
	}
	long := func(n int) string { return strings.Repeat("长", n) }
	claims := []claim{
		{"the example of the specification", "http", eventstest.SpecHTTP, 0, ""},
		{"the example of the specification", "raw", eventstest.SpecRaw, 0, ""},
		{"ext_type in any case", "http", strings.Replace(eventstest.SpecHTTP, "XLSX", "xLsx", 1), 0, ""},
		{"ext_type missing", "http", `{"source_http":{"url":"http://h"}}`, 400, "ext_type: is required; supported: XLSX"},
		{"ext_type unknown", "raw", `{"ext_type":"PDF","source_raw":"[]"}`, 400, `ext_type: "PDF" is not supported; supported: XLSX`},
		{"ext_type a number", "http", `{"ext_type":1}`, 400, "ext_type: must be a string, not a number"},
		{"title of 255 characters", "http", eventstest.HTTPBody("", `"title":"`+long(255)+`"`), 0, ""},
		{"title of 256 characters", "http", eventstest.HTTPBody("", `"title":"`+long(256)+`"`), 400, "title: has 256 characters, at most 255"},
		{"title null", "http", eventstest.HTTPBody("", `"title":null`), 0, ""},
		{"user_id a number", "http", eventstest.HTTPBody("", `"user_id":12345678901234567890`), 0, ""},
		{"row_key a column", "http", eventstest.HTTPBody("", `"row_key":"id"`), 0, ""},
		{"row_key no text", "http", eventstest.HTTPBody("", `"row_key":["id"]`), 400, "row_key: must be a string, not an array"},
		{"user_id an object", "http", eventstest.HTTPBody("", `"user_id":{}`), 400, "user_id: must be a string, not an object"},
		{"user_id too long", "http", eventstest.HTTPBody("", `"user_id":"`+long(256)+`"`), 400, "user_id: has 256 characters"},
		{"timestamp text", "http", eventstest.HTTPBody("", `"timestamp":"1625106204"`), 400, "timestamp: must be an integer"},
		{"timestamp negative", "http", eventstest.HTTPBody("", `"timestamp":-1`), 400, "timestamp: is -1; want an integer from 0"},
		{"timestamp with a fraction", "http", eventstest.HTTPBody("", `"timestamp":1.5`), 400, "timestamp: is 1.5; want an integer"},
		{"timestamp after the year 9999", "http", eventstest.HTTPBody("", `"timestamp":253402300800`), 400, "timestamp: is 253402300800"},

		{"call_back, the older name", "http", eventstest.HTTPBody("", `"call_back":"https://h/x?y=1"`), 0, ""},
		{"both names, equal", "http", eventstest.HTTPBody("", `"callback":"http://h/","call_back":"http://h/"`), 0, ""},
		{"both names, one empty", "http", eventstest.HTTPBody("", `"callback":"","call_back":"http://h/2"`), 0, ""},
		{"both names, different", "http", eventstest.HTTPBody("", `"callback":"http://h/1","call_back":"http://h/2"`), 400, "callback: differs from call_back"},
		{"callback of another scheme", "http", eventstest.HTTPBody("", `"callback":"ftp://h/"`), 400, "callback: must begin with http:// or https://"},
		{"callback with a password", "http", eventstest.HTTPBody("", `"callback":"http://u:secret@h/"`), 400, "callback: must not hold a user name"},
		{"callback without a host", "http", eventstest.HTTPBody("", `"call_back":"http:///x"`), 400, "call_back: names no host"},
		{"callback too long", "http", eventstest.HTTPBody("", `"callback":"http://h/`+strings.Repeat("a", 2048)+`"`), 400, "callback: has "},
		{"callback over NATS", "http", eventstest.HTTPBody("", `"callback":"nats:sheaf.callback.<tenant>.orders"`), 0, ""},
		{"callback over NATS of another tenant", "http", eventstest.HTTPBody("", `"callback":"nats:sheaf.callback.other.orders"`), 400, "callback: a nats: callback must name a subject under sheaf.callback."},

		{"source_http missing", "http", `{"ext_type":"XLSX"}`, 400, "source_http: is required"},
		{"source_http a string", "http", `{"ext_type":"XLSX","source_http":"http://h"}`, 400, "source_http: must be a JSON object, not a string"},
		{"url missing", "http", `{"ext_type":"XLSX","source_http":{}}`, 400, "source_http.url: is required"},
		{"url relative", "http", `{"ext_type":"XLSX","source_http":{"url":"/p"}}`, 400, "source_http.url: must begin with http://"},
		{"url with a password", "http", `{"ext_type":"XLSX","source_http":{"url":"http://u:p@h/p"}}`, 400, "source_http.url: must not hold a user name or password"},
		{"url of 8 KiB and more", "http", `{"ext_type":"XLSX","source_http":{"url":"http://h/` + strings.Repeat("a", 8<<10) + `"}}`, 400, "source_http.url: has "},
		{"url with port 0", "http", `{"ext_type":"XLSX","source_http":{"url":"http://h:0/p"}}`, 400, "source_http.url: has port 0"},
		{"url with a control character", "http", `{"ext_type":"XLSX","source_http":{"url":"http://h/\n"}}`, 400, "source_http.url: is not a URL"},
		{"method post", "http", eventstest.HTTPBody(`,"method":"post"`), 0, ""},
		{"method DELETE", "http", eventstest.HTTPBody(`,"method":"DELETE"`), 400, `source_http.method: "DELETE" is not supported; supported: GET, POST`},
		{"conn 64", "http", eventstest.HTTPBody(`,"conn":64`), 0, ""},
		{"conn 0 is the default", "http", eventstest.HTTPBody(`,"conn":0`), 0, ""},
		{"conn 65", "http", eventstest.HTTPBody(`,"conn":65`), 400, "source_http.conn: is 65; want an integer from 0 to 64"},
		{"conn negative", "http", eventstest.HTTPBody(`,"conn":-1`), 400, "source_http.conn: is -1"},
		{"limit as text", "http", eventstest.HTTPBody(`,"param":{"limit":"500","a":[1,{"b":2}]}`), 0, ""},
		{"limit 0", "http", eventstest.HTTPBody(`,"param":{"limit":0}`), 400, "source_http.param.limit: is 0; want an integer from 1 to 10000"},
		{"limit too large", "http", eventstest.HTTPBody(`,"param":{"limit":10001}`), 400, "source_http.param.limit: is 10001"},
		{"limit with a fraction", "http", eventstest.HTTPBody(`,"param":{"limit":"2.5"}`), 400, "source_http.param.limit: is 2.5"},
		{"limit no number", "http", eventstest.HTTPBody(`,"param":{"limit":"many"}`), 400, "source_http.param.limit: must be an integer"},
		{"param null", "http", eventstest.HTTPBody(`,"param":null`), 0, ""},
		{"param an array", "http", eventstest.HTTPBody(`,"param":[]`), 400, "source_http.param: must be a JSON object, not an array"},
		{"headers", "http", eventstest.HTTPBody(`,"header":{"Authorization":"Bearer x","X-Shop":17}`), 0, ""},
		{"header null", "http", eventstest.HTTPBody(`,"header":null`), 0, ""},
		{"header with a line break", "http", eventstest.HTTPBody(`,"header":{"X-A":"a\r\nb"}`), 400, `source_http.header["X-A"]: has a value with control characters`},
		{"header with a bad name", "http", eventstest.HTTPBody(`,"header":{"X A":"a"}`), 400, `source_http.header["X A"]: is not a header name`},
		{"header that is an array", "http", eventstest.HTTPBody(`,"header":{"X-A":["a"]}`), 400, `source_http.header["X-A"]: must be a string, not an array`},
		{"header Content-Length", "http", eventstest.HTTPBody(`,"header":{"content-length":"1"}`), 400, `source_http.header["content-length"]: is set by the crawler`},
		{"header Expect", "http", eventstest.HTTPBody(`,"header":{"expect":"100-continue"}`), 400, `source_http.header["expect"]: is set by the crawler`},
		{"header Proxy-Authorization", "http", eventstest.HTTPBody(`,"header":{"Proxy-Authorization":"x"}`), 400, `source_http.header["Proxy-Authorization"]: is set by the crawler`},
		{"header twice in other cases", "http", eventstest.HTTPBody(`,"header":{"X-A":"a","x-a":"b"}`), 400, `source_http.header["x-a"]: is given twice`},
		{"unknown fields", "http", eventstest.HTTPBody(`,"colour":"red"`, `"shade":1`), 0, ""},

		{"rows as an array", "raw", eventstest.RawBody(`[{"a":"A"},{"a":1}]`), 0, ""},
		{"rows with only a header", "raw", eventstest.RawBody(`"[{\"a\":\"A\"}]"`), 0, ""},
		{"source_raw missing", "raw", `{"ext_type":"XLSX"}`, 400, "source_raw: is required"},
		{"source_raw null", "raw", eventstest.RawBody(`null`), 400, "source_raw: is required"},
		{"source_raw an object", "raw", eventstest.RawBody(`{}`), 400, "source_raw: must be a string that holds a JSON array"},
		{"no rows", "raw", eventstest.RawBody(`"[]"`), 400, "source_raw: is an empty array; its first row must be the header"},
		{"a header without columns", "raw", eventstest.RawBody(`[{},{"a":1}]`), 400, "source_raw: row 1 is the header and names no column"},
		{"no header", "raw", eventstest.RawBody(`[{"a":1},{"a":2}]`), 400, "source_raw: row 1 has the same kinds of values as the rows after it"},
		{"no header, in a string", "raw", eventstest.RawBody(`" [{\"a\":1,\"b\":\"x\"},{\"a\":2,\"b\":\"y\"}]"`), 400, "source_raw: row 1 has the same kinds"},
		{"a row that is an array", "raw", eventstest.RawBody(`[{"a":"A"},[1]]`), 400, "source_raw: row 2 is an array, not an object"},
		{"rows that end early", "raw", eventstest.RawBody(`"[{\"a\":1},{\"a\""`), 400, "source_raw: "},
		{"rows that are no JSON", "raw", eventstest.RawBody(`"hello"`), 400, "source_raw: must hold a JSON array of rows"},
		{"empty text", "raw", eventstest.RawBody(`""`), 400, "source_raw: must hold a JSON array of rows"},

		{"an empty body", "http", ``, 400, "body: is empty"},
		{"an array as body", "http", `[]`, 400, "body: must be a JSON object, not an array"},
		{"a comment", "http", "{ // now\n}", 400, "body: is not valid JSON at byte 2: JSON has no comments"},
		{"a comma too many", "http", `{"ext_type":"XLSX",}`, 400, "body: is not valid JSON at byte 19: a comma stands before the closing bracket"},
		{"a comma too many in a list", "http", eventstest.HTTPBody(`,"param":{"a":[1,]}`), 400, "body: is not valid JSON at byte "},
		{"a name twice", "http", `{"title":"a","title":"b"}`, 400, `body: names "title" twice at byte `},
		{"cut short", "http", `{"title":"a`, 400, "body: is not valid JSON: it ends at byte 11"},
		{"a comment at the end", "http", "{} /* now */", 400, "body: is not valid JSON at byte 3: JSON has no comments"},
		{"two values", "http", `{} {}`, 400, "body: is not valid JSON at byte 3"},
		{"invalid UTF-8", "http", "{\"title\":\"\xff\"}", 400, "body: is not valid JSON at byte 10"},
		{"a deep nest", "http", strings.Repeat("[", 20_000), 400, "body: is not valid JSON"},
		{"a body too large", "http", eventstest.HTTPBody("", `"title":"`+strings.Repeat("a", 40<<10)+`"`), 413, "body: is larger than 32768 bytes"},
		{"rows too large", "raw", eventstest.RawBody(`"` + strings.Repeat("a", 140<<10) + `"`), 413, "body: is larger than 131072 bytes"},
	}
	for _, tr := range transports(t, srv, in) {
		keys := map[string]string{}
		for _, c := range claims {
			t.Run(tr.name+"/"+c.operation+"/"+c.name, func(t *testing.T) {
				body := strings.ReplaceAll(c.body, "<tenant>", tr.tenant)
				got := tr.submit(t, c.operation, body)
				require.Equal(t, c.errcode, got.errcode, got.msg)
				require.True(t, strings.HasPrefix(got.msg, c.msg), "%s\nwant: %s", got.msg, c.msg)
				if c.errcode != 0 {
					require.Empty(t, got.key)
					return
				}
				x := in.read(t, tr.tenant, got.key)
				require.Equal(t, events.StateRequested, x.State)
				require.Equal(t, c.operation, x.Request.SourceType)
				require.Equal(t, x.RequestedSeq, x.ID)
				require.Empty(t, keys[got.key], "two requests have one key")
				keys[got.key] = c.name

				again := tr.submit(t, c.operation, body)
				require.Equal(t, got, again)
				require.Equal(t, x, in.read(t, tr.tenant, got.key), "a duplicate starts nothing")
			})
		}
	}
}

func TestSubmissionBecomesARequest(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	a := in.post(t, "/v1/export/http", `{"timestamp":1625106204,"ext_type":"xlsx","title":"T","user_id":12,"call_back":"http://h/c","shape":1,
		"source_http":{"url":"http://h/p?a=1","method":"post","conn":3,"header":{"X-B":"2","X-A":1},"param":{"limit":"20","id":12345678901234567890},"verb":"x"}}`)
	require.Equal(t, `{"hash_key":"`+a.key(t)+`","warnings":["unknown field \"shape\" was ignored","unknown field \"source_http.verb\" was ignored"]}`, string(a.Data))
	x := in.read(t, events.DefaultTenant, a.key(t))
	require.Equal(t, events.Request{
		Timestamp: 1625106204, ExtType: "xlsx", Title: "T", UserID: "12", Callback: "http://h/c", SourceType: "http",
		HTTP: &events.HTTPRequest{
			URL: "http://h/p?a=1", Method: "POST", Param: json.RawMessage(`{"limit":"20","id":12345678901234567890}`),
			Limit: 20, Conn: 3, Header: []string{"X-A", "X-B"},
		},
		Warnings: []string{`unknown field "shape" was ignored`, `unknown field "source_http.verb" was ignored`},
	}, x.Request)
	header, err := in.journal.Headers(t.Context(), events.DefaultTenant, a.key(t))
	require.NoError(t, err)
	require.Equal(t, secrets.Values{"X-A": "1", "X-B": "2"}, header)

	x = in.read(t, events.DefaultTenant, in.post(t, "/v1/export/http", eventstest.HTTPBody("")).key(t))
	require.Equal(t, &events.HTTPRequest{URL: "http://source/p", Method: "GET", Limit: 50, Conn: 8}, x.Request.HTTP)
	require.NotContains(t, in.post(t, "/v1/export/http", eventstest.HTTPBody("")).Raw, "warnings")
}

func TestRawRowsBecomePages(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	var b strings.Builder
	b.WriteString(`[{"name":"姓名","n":"数"}`)
	for i := range 2500 {
		fmt.Fprintf(&b, ",\n {\"name\":\"李雷\",\"n\":%d}", i)
	}
	fmt.Fprintf(&b, `,{"name":"%s"},{"name":"%s"}]`, strings.Repeat("x", 900<<10), strings.Repeat("y", 900<<10))
	text, err := json.Marshal(b.String())
	require.NoError(t, err)

	a := in.post(t, "/v1/export/raw", eventstest.RawBody(string(text)))
	x := in.read(t, events.DefaultTenant, a.key(t))
	require.Equal(t, &events.RawRows{Pages: 4, Rows: 2502}, x.Request.Raw)
	numbers, err := in.journal.Pages().List(t.Context(), x.Tenant, x.Key, events.RawRun, 0)
	require.NoError(t, err)
	require.Equal(t, []int{1, 2, 3, 4}, numbers)
	var all []json.RawMessage
	for _, n := range numbers {
		p, err := in.journal.Pages().Get(t.Context(), pages.ID{Tenant: x.Tenant, Key: x.Key, Run: events.RawRun, Number: n})
		require.NoError(t, err)
		require.Equal(t, n == 1, p.HeaderRow)
		require.Equal(t, int64(2502), p.Total)
		require.Equal(t, 4, p.TotalPages)
		require.LessOrEqual(t, p.DataRows(), 1000)
		var rows []json.RawMessage
		require.NoError(t, json.Unmarshal(p.Rows, &rows))
		require.Len(t, rows, p.RowCount)
		all = append(all, rows...)
	}
	var want []json.RawMessage
	require.NoError(t, json.Unmarshal([]byte(b.String()), &want))
	require.Equal(t, want, all)
}

func TestManyIngressesStartOneExport(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	ingresses := []*ingress{start(t, srv, Config{}), start(t, srv, Config{})}
	for _, body := range []string{eventstest.SpecHTTP, eventstest.SpecRaw, eventstest.HTTPBody(`,"header":{"X-A":"a"}`)} {
		operation := "http"
		if body == eventstest.SpecRaw {
			operation = "raw"
		}
		keys := make([]string, 8)
		var wg sync.WaitGroup
		for i := range keys {
			in := ingresses[i%2]
			wg.Go(func() {
				keys[i] = in.post(t, "/v1/export/"+operation, body).key(t)
				// Concurrently, through the other ingress.
				other := ingresses[(i+1)%2]
				require.Equal(t, keys[i], other.get(t, "/v1/export/detail?key="+keys[i]).detail(t).HashKey)
			})
		}
		wg.Wait()
		first := ingresses[0].get(t, "/v1/export/detail?key="+keys[0]).detail(t)
		for i, key := range keys {
			require.Equal(t, keys[0], key)
			require.Equal(t, first, ingresses[i%2].get(t, "/v1/export/detail?key="+key).detail(t))
		}
		x := ingresses[0].read(t, events.DefaultTenant, keys[0])
		require.Equal(t, x.ID, x.LastSeq, "one event in all")
	}
}

func TestSubmissionsWaitForAnIngress(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	streams := eventstest.JournalOn(t, srv, journal.Config{})
	for i := range 3 {
		_, err := streams.JetStream().PublishMsg(t.Context(), &nats.Msg{
			Subject: events.SubmitSubject("shop", "http"), Data: []byte(eventstest.HTTPBody("", fmt.Sprintf(`"title":"%d"`, i))),
			Header: nats.Header{"Nats-Msg-Id": {fmt.Sprintf("order-%d", i)}},
		})
		require.NoError(t, err)
	}
	in := start(t, srv, Config{})
	emptied(t, in)
	for i := range 3 {
		s, err := request.Parse(in.journal.Keys(), "shop", "http", in.cfg.Formats, []byte(eventstest.HTTPBody("", fmt.Sprintf(`"title":"%d"`, i))))
		require.NoError(t, err)
		x := in.read(t, "shop", s.Key)
		require.Equal(t, events.StateRequested, x.State)
		require.Equal(t, fmt.Sprintf("order-%d", i), x.CorrelationID)
		require.Equal(t, uint64(i+1), x.Submission.Sequence)
	}
}

func TestRedeliveredSubmissionStartsNothing(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	created, err := in.journal.SubmitStreamCreated(t.Context())
	require.NoError(t, err)
	deliver := func(sequence uint64, body string) {
		require.NoError(t, in.takeSubmission(t.Context(), created, journal.Delivery{
			Subject: events.SubmitSubject("default", "http"), Data: []byte(body), Sequence: sequence,
			Header: nats.Header{"ce-id": {fmt.Sprintf("s-%d", sequence)}},
		}))
	}
	deliver(5, eventstest.SpecHTTP)
	key := in.post(t, "/v1/export/http", eventstest.SpecHTTP).key(t)
	x := in.read(t, "default", key)
	require.Equal(t, uint64(5), x.Submission.Sequence)
	deliver(5, eventstest.SpecHTTP)
	require.Equal(t, x, in.read(t, "default", key))

	x = in.write(t, key, &events.ExportFailed{Code: events.CodeSourceHTTP, Reason: "503"})
	deliver(5, eventstest.SpecHTTP)
	require.Equal(t, x, in.read(t, "default", key), "also after it ended")

	require.Equal(t, key, in.post(t, "/v1/export/http", eventstest.SpecHTTP).key(t))
	x = in.read(t, "default", key)
	require.Equal(t, events.StateRequested, x.State, "another request runs it again")
	x = in.write(t, key, &events.ExportCancelled{})
	deliver(5, eventstest.SpecHTTP)
	require.Equal(t, x, in.read(t, "default", key), "also after another run ended")

	deliver(6, eventstest.SpecHTTP)
	x = in.read(t, "default", key)
	require.Equal(t, events.StateRequested, x.State, "a new submission runs it again")
	require.Equal(t, "s-6", x.CorrelationID)

	// A redelivered invalid submission is rejected once.
	deliver(7, `{}`)
	rejected := in.read(t, "default", in.journal.Keys().SubmissionKey("default", events.Submission{StreamCreated: created, Sequence: 7}))
	require.Equal(t, events.StateRejected, rejected.State)
	deliver(7, `{}`)
	require.Equal(t, rejected, in.read(t, "default", rejected.Key))

	// A subject without a tenant has no one to report to.
	err = in.takeSubmission(t.Context(), created, journal.Delivery{Subject: "sheaf.submit.TENANT.http", Data: []byte(eventstest.SpecHTTP), Sequence: 8})
	require.ErrorContains(t, err, "tenant")
	deliverUnknown := journal.Delivery{Subject: "sheaf.submit.default.csv", Data: []byte(eventstest.SpecHTTP), Sequence: 9}
	require.NoError(t, in.takeSubmission(t.Context(), created, deliverUnknown))
	rejected = in.read(t, "default", in.journal.Keys().SubmissionKey("default", events.Submission{StreamCreated: created, Sequence: 9}))
	require.Equal(t, `subject: ends in "csv"; want http or raw`, rejected.Failure.Reason)
}

// A producer learns the result under the id of its own submission, even if an equal submission or a REST
// request has begun the export.
func TestADuplicateSubmissionIsAnsweredUnderItsOwnID(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	js := in.journal.JetStream()
	created, err := in.journal.SubmitStreamCreated(t.Context())
	require.NoError(t, err)
	results, err := in.journal.Conn().SubscribeSync("sheaf.callback.default.>")
	require.NoError(t, err)
	submit := func(header ...string) uint64 {
		t.Helper()
		m := &nats.Msg{Subject: events.SubmitSubject("default", "http"), Data: []byte(eventstest.SpecHTTP), Header: nats.Header{}}
		for i := 0; i < len(header); i += 2 {
			m.Header.Set(header[i], header[i+1])
		}
		ack, err := js.PublishMsg(t.Context(), m)
		require.NoError(t, err)
		emptied(t, in)
		return ack.Sequence
	}
	answers := func(id string, sequence uint64, status int) {
		t.Helper()
		m, err := results.NextMsg(10 * time.Second)
		require.NoError(t, err)
		require.Equal(t, "sheaf.callback.default.duplicate", m.Subject)
		require.Equal(t, "sheaf.submission.duplicate.v1", m.Header.Get("ce-type"))
		require.Equal(t, id, m.Header.Get("ce-correlationid"))
		var d journal.SubmissionDuplicate
		require.NoError(t, json.Unmarshal(m.Data, &d))
		require.Equal(t, m.Header.Get("ce-subject"), d.Key)
		require.Equal(t, journal.SubmissionDuplicate{Submission: events.Submission{StreamCreated: created, Sequence: sequence}, Key: d.Key, Status: status}, d)
		require.NotEqual(t, id, in.read(t, "default", d.Key).CorrelationID, "no event of the export has it")
	}

	submit("ce-id", "first") // its events carry its id
	answers("second", submit("ce-id", "second"), events.StatusProcessing)
	submit() // no producer could match it
	key := in.post(t, "/v1/export/http", eventstest.SpecHTTP).key(t)
	in.write(t, key, &events.ExportCrawled{Run: 1, Pages: 1})
	answers("third", submit(nats.MsgIdHdr, "third"), events.StatusProcessing)
	in.write(t, key, &events.ExportCompleted{Run: 1, ExpiresAt: time.Now().Add(time.Hour)})
	answers("fourth", submit("ce-id", "fourth"), events.StatusSucceeded)

	in.write(t, key, &events.ExportExpired{})
	submit("ce-id", "fifth") // restarts it
	require.Equal(t, "fifth", in.read(t, "default", key).CorrelationID)
	answers("sixth", submit("ce-id", "sixth"), events.StatusProcessing)

	// Handled twice, because a process died between the two.
	again := func(id string, sequence uint64) {
		t.Helper()
		require.NoError(t, in.takeSubmission(t.Context(), created, journal.Delivery{
			Subject: events.SubmitSubject("default", "http"), Data: []byte(eventstest.SpecHTTP), Sequence: sequence, Header: nats.Header{"ce-id": {id}},
		}))
	}
	again("fifth", in.read(t, "default", key).Submission.Sequence)
	again("second", 2)
	answers("second", 2, events.StatusProcessing)
}

// The ingress publishes answers with its own permissions, so it answers only inboxes. No caller can make it
// write into a stream, or to the server, by naming that as the reply.
func TestAnswersGoToInboxesAlone(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	nc := in.journal.Conn()
	heard, err := nc.SubscribeSync("sheaf.>")
	require.NoError(t, err)
	request := []byte(`{"user_id":"7"}`)
	for _, reply := range []string{
		"sheaf.event.default.completed." + strings.Repeat("0", 32), "sheaf.page.default." + strings.Repeat("0", 32) + ".1.1.1",
		"$JS.API.STREAM.PURGE." + events.StreamEvents, "inbox.mine",
	} {
		require.NoError(t, nc.PublishRequest("sheaf.api.default.history", reply, request))
	}
	_, err = nc.Request("sheaf.api.default.history", request, 10*time.Second)
	require.NoError(t, err)
	for {
		m, err := heard.NextMsg(100 * time.Millisecond)
		if err != nil {
			break // the end of the stream
		}
		require.Equal(t, "sheaf.api.default.history", m.Subject)
	}
}

// A repetition publishes nothing, not even an event that the log would refuse, because plain subscribers
// would hear it.
func TestARepetitionIsHeardByNobody(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	heard, err := in.journal.Conn().SubscribeSync("sheaf.event.>")
	require.NoError(t, err)
	key := in.post(t, "/v1/export/http", eventstest.SpecHTTP).key(t)
	m, err := heard.NextMsg(10 * time.Second)
	require.NoError(t, err)
	require.Equal(t, events.EventSubject("default", events.TypeRequested, key), m.Subject)
	in.caughtUpTo(t)
	require.Equal(t, key, in.post(t, "/v1/export/http", eventstest.SpecHTTP).key(t))
	require.NoError(t, in.journal.Conn().Flush())
	_, err = heard.NextMsg(10 * time.Millisecond)
	require.ErrorIs(t, err, nats.ErrTimeout)
}
