package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"sheaf/cmd/sheaf/filesource"
	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/secrets"
	"sheaf/services/ingress/request"
)

// Rows arrive as pages of a source, in the standard format and in declared ones, as source_raw, an array or a
// string, and in a file that sheaf source serves. The same rows give the same cells in each, or all ways
// refuse them.
func TestRowsGiveTheSameCellsInEachWayIn(t *testing.T) {
	t.Parallel()
	server := startServe(t, "--http", "127.0.0.1:0", "--nats-listen", "none", "--data", t.TempDir())
	nested := func(depth int) string {
		return `{"a":` + strings.Repeat("[", depth) + strings.Repeat("]", depth) + "}"
	}
	for _, c := range []struct {
		name    string
		columns string // names, with commas
		rows    []string
		want    [][]string // nil: refused
	}{
		{"characters", "a,b", []string{
			`{"a":"half \ud800","b":"\udc00 other half"}`,
			`{"a":"\ud83d\ude00","b":"\ud83dx\ude00"}`,
			`{"a":["\ud800"],"b":"\u0000\u001f"}`,
			`{"a":"_x0041_","b":"` + strings.Repeat("长", 32_768) + `"}`,
			`{"a":1,"b":2,"a":3}`,
			nested(62),
		}, [][]string{
			{"half \ufffd", "\ufffd other half"},
			{"😀", "\ufffdx\ufffd"},
			{`["\ud800"]`, "\x00\x1f"},
			{"_x0041_", strings.Repeat("长", 32_767)},
			{"3", "2"},
			{strings.Repeat("[", 62) + strings.Repeat("]", 62)},
		}},
		{"half a pair in a name", `\ud800`, []string{`{"\ud800":1}`, `{"\udfff":2}`, `{"` + "\ufffd" + `":3}`}, [][]string{{"1"}, {"2"}, {"3"}}},
		{"half a pair as raw bytes", "a", []string{"{\"a\":\"\xed\xa0\x80\"}"}, nil},
		{"invalid UTF-8", "a", []string{"{\"a\":\"\xff\"}"}, nil},
		{"invalid UTF-8 in a name", "a", []string{"{\"a\":1,\"\xff\":1}"}, nil},
		{"invalid UTF-8, nested", "a", []string{"{\"a\":[{\"b\":\"\xc3\"}]}"}, nil},
		{"an escape of three digits", "a", []string{`{"a":"\ud80"}`}, nil},
		{"a control character", "a", []string{"{\"a\":\"\x01\"}"}, nil},
		{"too deep", "a", []string{nested(63)}, nil},
	} {
		names := strings.Split(c.columns, ",")
		var titles []string
		for _, name := range names {
			titles = append(titles, fmt.Sprintf(`"%s":"%[1]s"`, name))
		}
		array := "[" + strings.Join(append([]string{"{" + strings.Join(titles, ",") + "}"}, c.rows...), ",") + "]"
		page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/declared":
				fmt.Fprintf(w, `{"a":[0],"list":{"items":[%s]},"n":%d}`, strings.Join(c.rows, ","), len(c.rows))
				return
			case "/elements":
				fmt.Fprintf(w, `[{"node":%s}]`, strings.Join(c.rows, `},{"node":`))
				return
			case "/lines":
				fmt.Fprint(w, strings.Join(c.rows, "\n"))
				return
			}
			fmt.Fprintf(w, `{"errcode":0,"data":{"data":%s,"pagetag":{"page":1,"limit":50,"total":%d,"total_page":1}}}`, array, len(c.rows))
		}))
		defer page.Close()
		ways := map[string]string{
			"page": fmt.Sprintf(`{"ext_type":"XLSX","source_http":{"url":%q}}`, page.URL),
			"page with titles": fmt.Sprintf(`{"ext_type":"XLSX","source_http":{"url":%q,"rows":"data.data","header_row":true,
				"paging":{"type":"page","total":"data.pagetag.total"},"error":{"path":"errcode"}}}`, page.URL),
			"page without titles": fmt.Sprintf(`{"ext_type":"XLSX","source_http":{"url":"%s/declared","rows":"list.items","paging":{"type":"page","total":"n"}}}`, page.URL),
			"elements":            fmt.Sprintf(`{"ext_type":"XLSX","source_http":{"url":"%s/elements","rows":"$[*].node","paging":{"type":"none"}}}`, page.URL),
			"lines":               fmt.Sprintf(`{"ext_type":"XLSX","source_http":{"url":"%s/lines","format":"ndjson","paging":{"type":"none"}}}`, page.URL),
			"array":               `{"ext_type":"XLSX","source_raw":` + array + `}`,
			"string":              `{"ext_type":"XLSX","source_raw":"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\x01", `\u0001`).Replace(array) + `"}`,
		}
		for name, content := range map[string]string{"a.ndjson": strings.Join(c.rows, "\n"), "a.json": "[" + strings.Join(c.rows, ",") + "]"} {
			path := filepath.Join(t.TempDir(), name)
			require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
			file, err := filesource.Open(path, filesource.Options{})
			if err != nil {
				require.Nil(t, c.want, "%s, %s: %v", c.name, name, err)
				continue
			}
			source := httptest.NewServer(file)
			defer file.Close()
			defer source.Close()
			ways[name] = fmt.Sprintf(`{"ext_type":"XLSX","source_http":{"url":%q}}`, source.URL)
		}
		for way, body := range ways {
			what := c.name + ", " + way
			operation := "http"
			if strings.Contains(body, "source_raw") {
				operation = "raw"
			}
			answer := wireCall(t, http.MethodPost, server.http+"/v1/export/"+operation, body, nil)
			if answer.Errcode != 0 {
				require.Equal(t, http.StatusBadRequest, answer.Errcode, what+": "+answer.Msg)
				require.Nil(t, c.want, what+": "+answer.Msg)
				continue
			}
			var accepted struct {
				HashKey string `json:"hash_key"`
			}
			require.NoError(t, json.Unmarshal(answer.Data, &accepted))
			d := wireWait(t, server.http, accepted.HashKey)
			if c.want == nil {
				require.Equal(t, 3, d.Status, what)
				continue
			}
			require.Equal(t, 2, d.Status, what+": "+d.FailReason)
			res, err := http.Get(d.DownURL)
			require.NoError(t, err)
			archive, err := io.ReadAll(res.Body)
			require.NoError(t, err)
			require.NoError(t, res.Body.Close())
			rows := workbookIn(t, archive)
			require.Equal(t, strings.Split(strings.ReplaceAll(c.columns, `\ud800`, "\ufffd"), ","), rows[0], what)
			require.Equal(t, c.want, rows[1:], what)
		}
	}
}

// A request arrives by REST, by a call on NATS, by a durable submission, by the command line, and in the
// process. It is one request in each way: the same key and the same event, or the same words that refuse it.
func TestARequestIsTheSameInEachWayIn(t *testing.T) {
	t.Parallel()
	server := startServe(t, "--http", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0", "--data", t.TempDir(), "--roles", "ingress")
	nc, err := nats.Connect(server.nats)
	require.NoError(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	listen := func(subject string) *nats.Subscription {
		sub, err := nc.SubscribeSync(subject)
		require.NoError(t, err)
		return sub
	}
	requested, rejected := listen("sheaf.event.default.requested.*"), listen("sheaf.event.default.rejected.*")
	duplicates := listen("sheaf.callback.default.duplicate")
	require.NoError(t, nc.Flush())
	next := func(sub *nats.Subscription, into any) {
		t.Helper()
		m, err := sub.NextMsg(10 * time.Second)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(m.Data, into), string(m.Data))
	}
	keys, err := secrets.NewKeyring(eventstest.SecretKey)
	require.NoError(t, err)
	for i, c := range []struct{ members, refused string }{
		{`"preset":"laravel","param":{"per_page":500}`, ""},
		{`"param":{"_per_page":500},"rows":"data","paging":{"type":"page","page_param":"_page","limit_param":"_per_page","total":"items","total_pages":"pages"}`, ""},
		{`"preset":"link","param":{"_page":1,"_limit":500},"paging":{"total":"header:X-Total-Count"}`, ""},
		{`"preset":"graphql-relay","body":{"query":"q","variables":{"first":500}},"rows":"data.a.edges[*].node","paging":{"cursor":"data.a.pageInfo.endCursor"}`, ""},
		{`"preset":"stripe","auth":{"type":"bearer","token":"k1"},"param":{"limit":100},"max_wait":120`, ""},
		{`"format":"csv","paging":{"type":"none"}},"options":{"source_charset":"gbk"`, ""},
		{`"param":{}},"columns":[{"key":"a","title":"甲","type":"date","from":"unix","map":{"1":"甲","*":""},"width":12},{"key":"b[0]","join":", ","link":true}],"options":{"timezone":"Asia/Shanghai"`, ""},
		{`"preset":"laravel"},"options":{"zip":false,"max_rows":0,"keep_pages":2,"csv":{"bom":false,"delimiter":";"},"json":{"names":"title"},"reproducible":true`, ""},
		{`"param":{}},"options":{"manifest":true,"max_rows":7`, ""},
		{`"sheets":[{"title":"一","source_http":{"url":"http://127.0.0.1:1/","header":{"X":"k1"}}},{"title":"二","source_raw":[{"a":"k"}],"columns":[{"key":"a"}]}],"options":{"manifest":true`, ""},
		{`"paging":{"typ":"page"}`, "source_http.paging.typ is not known; known: type, page_param, "},
		{`"preset":"larvel"`, `source_http.preset: "larvel" is not known; laravel?`},
		{`"rows":"data..list","paging":{"type":"none"}`, `source_http.rows: "data..list" at 6: ".." is not supported; write each step`},
		{`"paging":{"type":"cursor","cursor_param":"c"}`, "source_http.paging.cursor is required with type cursor"},
		{`"paging":{"type":"page","end":[]}`, "source_http.paging: end [] and nothing announced: the list would have no end"},
		{`"body":{},"paging":{"type":"none"}`, "source_http.body needs method POST"},
		{`"auth":{"type":"basic","username":"u"}`, "source_http.auth.password is required with type basic"},
		{`"param":{}},"columns":[{"key":"a","type":"float"}],"options":{"flatten":0`, `columns[0].type: "float" is not known; `},
		{`"param":{}},"columns":[{"key":"a"},{"key":"b..c"}],"options":{"flatten":0`, `columns[1].key: "b..c" at 3: `},
		{`"param":{}},"options":{"timezone":"GMT+8"`, `options.timezone: "GMT+8" is no IANA name`},
		{`"param":{}},"options":{"zip":false,"manifest":true`, "options.zip"},
		{`"sheets":[{"title":"一","source_http":{"url":"ftp://127.0.0.1:1/"}}],"options":{"flatten":0`, "sheets[0].source_http.url"},
		{`"paging":{"type":"none"}},"options":{"flaten":1`, "options.flaten is not known; known: flatten, source_charset"},
	} {
		if !strings.HasPrefix(c.members, `"sheets"`) {
			c.members = `"source_http":{"url":"http://127.0.0.1:1/",` + c.members
		}
		body := fmt.Sprintf(`{"ext_type":"XLSX","user_id":"7","timestamp":%d,%s}}`, i, c.members)
		checked, err := request.Parse(keys, events.DefaultTenant, events.SourceHTTP, []events.Format{events.XLSX}, []byte(body))
		answer := wireCall(t, http.MethodPost, server.http+"/v1/export/http", body, nil)
		m, failed := nc.Request("sheaf.api.default.http", []byte(body), 10*time.Second)
		require.NoError(t, failed)
		var called wireAnswer
		require.NoError(t, json.Unmarshal(m.Data, &called))
		require.Equal(t, answer.Errcode, called.Errcode)
		code, out, errs := sheaf(t, t.Context(), body, "submit", "-", "--server", server.http)
		_, failed = js.Publish(t.Context(), "sheaf.submit.default.http", []byte(body), jetstream.WithMsgID(fmt.Sprint("submission ", i)))
		require.NoError(t, failed)
		if c.refused != "" {
			require.Error(t, err, body)
			require.True(t, strings.HasPrefix(err.Error(), c.refused), err.Error())
			require.Equal(t, http.StatusBadRequest, answer.Errcode)
			require.Equal(t, err.Error(), answer.Msg)
			require.Equal(t, err.Error(), called.Msg)
			require.Equal(t, exitFailed, code)
			require.Contains(t, errs, err.Error())
			var event struct{ Reason string }
			next(rejected, &event)
			require.Equal(t, err.Error(), event.Reason)
			continue
		}
		require.NoError(t, err, body)
		var accepted, again struct {
			HashKey string `json:"hash_key"`
		}
		require.Zero(t, answer.Errcode, answer.Msg)
		require.NoError(t, json.Unmarshal(answer.Data, &accepted))
		require.NoError(t, json.Unmarshal(called.Data, &again))
		require.Equal(t, accepted, again)
		require.Zero(t, code, errs)
		require.Equal(t, accepted.HashKey+"\n", out)
		next(duplicates, &again)
		require.Equal(t, accepted, again)
		var event struct {
			Export struct {
				HashKey string          `json:"hash_key"`
				Request json.RawMessage `json:"request"`
			} `json:"export"`
		}
		for event.Export.HashKey != accepted.HashKey { // events that lost a race are heard too
			next(requested, &event)
		}
		want, err := json.Marshal(checked.Request)
		require.NoError(t, err)
		require.JSONEq(t, string(want), string(event.Export.Request))
		need := `"needs":["source/1"]`
		if len(checked.Request.Columns)+len(checked.Request.Sheets) > 0 || strings.Contains(c.members, `"options":{"zip"`) || strings.Contains(c.members, `"manifest"`) {
			need = `"file/1"`
		}
		require.Contains(t, string(event.Export.Request), need)
		require.NotContains(t, string(event.Export.Request), "k1")
	}
	server.drain(t)
}
