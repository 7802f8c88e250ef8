package main

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sheaf/events"
	"sheaf/events/client"
)

const testKey = "5ad5f7b92a816b76e70a21e4154c2485"

// answers serves each path with a data value in the envelope.
func answers(t testing.TB, data map[string]any) *httptest.Server {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v, ok := data[r.URL.Path]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"errcode":404,"msg":"资源不存在","data":null,"request_id":"r1"}`)
			return
		}
		if h, ok := v.(http.HandlerFunc); ok {
			h(w, r)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"errcode": 0, "msg": "", "data": v, "request_id": "r1"})
	}))
	t.Cleanup(server.Close)
	return server
}

func zipOf(t testing.TB, names ...string) []byte {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, name := range names {
		w, err := z.Create(name)
		require.NoError(t, err)
		_, err = io.WriteString(w, strings.Repeat("workbook ", 100_000))
		require.NoError(t, err)
	}
	require.NoError(t, z.Close())
	return b.Bytes()
}

func succeeded(link string, file []byte) map[string]any {
	sum := sha256.Sum256(file)
	return map[string]any{
		"hash_key": testKey, "status": client.Succeeded, "title": "订单\x1b[2J", "rows": 3, "down_url": link,
		"files": []map[string]any{{"name": "x.zip", "size": len(file), "sha256": hex.EncodeToString(sum[:]), "rows": 3}},
	}
}

func TestDownloadGoesOnWhereItBroke(t *testing.T) {
	t.Chdir(t.TempDir())
	file := zipOf(t, "orders-1.XLSX")
	var asked atomic.Int64
	server := answers(t, map[string]any{
		"/v1/export/detail": succeeded("http://not.reachable.example/sheaf/v1/down/2026/1/2/k.zip?sig=1", file),
		"/v1/down/2026/1/2/k.zip": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.RawQuery != "sig=1" {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			if asked.Add(1) == 1 {
				w.Header().Set("Content-Length", fmt.Sprint(len(file)))
				_, _ = w.Write(file[:len(file)/2])
				panic(http.ErrAbortHandler)
			}
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(file))
		}),
	})
	server.Config.ErrorLog = nil
	code, out, errs := sheaf(t, t.Context(), "", "download", testKey, "-o", "orders.xlsx", "--server", server.URL)
	require.Zero(t, code, errs)
	require.Contains(t, out, "orders.xlsx")
	got, err := os.ReadFile("orders.xlsx")
	require.NoError(t, err)
	require.Equal(t, strings.Repeat("workbook ", 100_000), string(got))
	require.EqualValues(t, 2, asked.Load())
	onlyFiles(t, "orders.xlsx")

	code, _, errs = sheaf(t, t.Context(), "", "download", testKey, "-o", "orders.xlsx", "--server", server.URL)
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "--force")
	code, _, errs = sheaf(t, t.Context(), "", "download", testKey, "-f", "-o", "orders.xlsx", "--server", server.URL)
	require.Zero(t, code, errs)
	code, out, errs = sheaf(t, t.Context(), "", "download", testKey, "--json", "--server", server.URL)
	require.Zero(t, code, errs)
	require.Contains(t, out, testKey+".zip")
	got, err = os.ReadFile(testKey + ".zip")
	require.NoError(t, err)
	require.Equal(t, file, got)
}

func TestDownloadLeavesNothingWrongBehind(t *testing.T) {
	file := zipOf(t, "orders-1.XLSX")
	damaged := bytes.Clone(file)
	damaged[100] ^= 1
	two := zipOf(t, "a.xlsx", "b.xlsx")
	gone := succeeded("", file)
	failed := map[string]any{"hash_key": testKey, "status": client.Failed, "fail_reason": "page 3: HTTP 503", "error_code": "SOURCE_HTTP"}
	for name, c := range map[string]struct {
		detail map[string]any
		sent   []byte
		want   string
	}{
		"damaged":   {succeeded("/v1/down/x.zip", file), damaged, "sha256"},
		"short":     {succeeded("/v1/down/x.zip", file), file[:1000], "1000 bytes"},
		"two files": {succeeded("/v1/down/x.zip", two), two, "holds 2 files"},
		"no zip":    {succeeded("/v1/down/x.zip", []byte("text")), []byte("text"), "zip"},
		"expired":   {gone, file, "expired"},
		"failed":    {failed, file, "page 3: HTTP 503 (SOURCE_HTTP)"},
		"hostile":   {map[string]any{"hash_key": testKey, "status": client.Failed, "fail_reason": "a\x1b[2J\r\n\u202eb"}, file, "failed: a [2J   b\n"},
		"running":   {map[string]any{"hash_key": testKey, "status": client.Processing}, file, "under way"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			server := answers(t, map[string]any{
				"/v1/export/detail": c.detail,
				"/v1/down/x.zip":    http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(c.sent) }),
			})
			code, out, errs := sheaf(t, t.Context(), "", "download", testKey, "-o", "orders.xlsx", "--server", server.URL)
			require.Equal(t, exitFailed, code)
			require.Contains(t, errs, c.want)
			require.Empty(t, out)
			onlyFiles(t)
		})
	}
}

func onlyFiles(t testing.TB, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(".")
	require.NoError(t, err)
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	require.Equal(t, want, got)
}

func TestServerThatIsNotThere(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"status", testKey}, {"history", "--user-id", "1"}, {"cancel", testKey}, {"submit", "--url", "http://127.0.0.1/"}} {
		code, _, errs := sheaf(t, t.Context(), "", append(args, "--server", "http://127.0.0.1:1")...)
		require.Equal(t, exitUnreachable, code, errs)
		require.Contains(t, errs, "does sheaf serve run there?")
		require.NotContains(t, errs, "Get \"")
	}
}

func TestServerThatIsSomethingElse(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "<html>")
	}))
	defer server.Close()
	code, _, errs := sheaf(t, t.Context(), "", "status", testKey, "--server", server.URL)
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "not one of Sheaf")
}

func TestRefusalIsReportedWithItsReason(t *testing.T) {
	server := answers(t, nil)
	t.Setenv("SHEAF_SERVER", server.URL)
	code, _, errs := sheaf(t, t.Context(), "", "status", testKey)
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "资源不存在 (HTTP 404, errcode 404, request r1)")
}

func TestStatusForPeopleAndForPrograms(t *testing.T) {
	t.Parallel()
	server := answers(t, map[string]any{"/v1/export/detail": succeeded("http://x/v1/down/x.zip", nil)})
	code, out, _ := sheaf(t, t.Context(), "", "status", testKey, "--server", server.URL)
	require.Zero(t, code)
	require.Contains(t, out, "succeeded")
	require.NotContains(t, out, "proof", "a server of an earlier version says nothing of it")
	require.NotContains(t, out, "\x1b", "a title moves no cursor")
	lost := map[string]any{"hash_key": testKey, "status": client.Succeeded, "reason": "the file is missing"}
	gone := answers(t, map[string]any{"/v1/export/detail": lost, "/v1/export/history": []any{lost}})
	_, text, _ := sheaf(t, t.Context(), "", "status", testKey, "--server", gone.URL)
	require.Contains(t, text, "succeeded, but its file is gone")
	_, text, _ = sheaf(t, t.Context(), "", "history", "--server", gone.URL)
	require.Contains(t, text, "the file is missing")
	code, out, _ = sheaf(t, t.Context(), "", "status", testKey, "--json", "--server", server.URL)
	require.Zero(t, code)
	var d map[string]any
	require.NoError(t, json.Unmarshal([]byte(out), &d))
	require.Equal(t, testKey, d["hash_key"])
}

func TestSubmitSendsWhatItWasGiven(t *testing.T) {
	t.Parallel()
	bodies := make(chan map[string]any, 1)
	take := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body map[string]any
		d := json.NewDecoder(r.Body)
		d.UseNumber()
		_ = d.Decode(&body)
		body["path"] = r.URL.Path
		bodies <- body
		_, _ = fmt.Fprintf(w, `{"errcode":0,"msg":"","data":{"hash_key":%q},"request_id":""}`, testKey)
	})
	server := answers(t, map[string]any{"/v1/export/http": take, "/v1/export/raw": take})

	code, out, errs := sheaf(t, t.Context(), `{"source_raw":"[]"}`, "submit", "-", "--server", server.URL)
	require.Zero(t, code, errs)
	require.Equal(t, testKey+"\n", out)
	require.Equal(t, "/v1/export/raw", (<-bodies)["path"])

	name := filepath.Join(t.TempDir(), "request.json")
	require.NoError(t, os.WriteFile(name, []byte(`{"source_http":{"url":"http://x"}}`), 0o600))
	code, _, errs = sheaf(t, t.Context(), "", "submit", name, "--server", server.URL)
	require.Zero(t, code, errs)
	require.Equal(t, "/v1/export/http", (<-bodies)["path"])

	code, _, errs = sheaf(t, t.Context(), "", "submit", "--url", "http://x/p?a=1", "--server", server.URL, "-H", "Authorization: Bearer a,b", "-H", "X:y",
		"--param", "q=a=b,c", "--param", "ids:=[1,12345678901234567890]", "--limit", "7", "--conn", "3", "--method", "post", "--user-id", "u")
	require.Zero(t, code, errs)
	require.Equal(t, map[string]any{
		"url": "http://x/p?a=1", "method": "POST", "conn": json.Number("3"),
		"header": map[string]any{"Authorization": "Bearer a,b", "X": "y"},
		"param":  map[string]any{"limit": json.Number("7"), "q": "a=b,c", "ids": []any{json.Number("1"), json.Number("12345678901234567890")}},
	}, (<-bodies)["source_http"])

	code, _, errs = sheaf(t, t.Context(), "not json", "submit", "-", "--server", server.URL)
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "not a JSON body")
}

// Warnings about a request are printed, with and without waiting for its end.
func TestSubmitReportsWarnings(t *testing.T) {
	t.Parallel()
	server := answers(t, map[string]any{"/v1/export/http": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, `{"errcode":0,"msg":"","data":{"hash_key":%q,"warnings":["parm: not known, ignored"]},"request_id":""}`, testKey)
	})})
	const body = `{"source_http":{"url":"http://x","parm":{}}}`
	code, out, errs := sheaf(t, t.Context(), body, "submit", "-", "--server", server.URL)
	require.Zero(t, code, errs)
	require.Equal(t, testKey+"\n", out)
	require.Equal(t, "warning: parm: not known, ignored\n", errs)
	code, out, errs = sheaf(t, t.Context(), body, "submit", "-", "--json", "--server", server.URL)
	require.Zero(t, code, errs)
	require.JSONEq(t, `{"hash_key":"`+testKey+`","warnings":["parm: not known, ignored"]}`, out)
	require.Empty(t, errs)
}

func TestWatchReportsHowItEnded(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	server := answers(t, map[string]any{"/v1/export/detail": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n := asked.Add(1)
		switch {
		case n == 2: // an outage in between
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, `{"errcode":503,"msg":"later","data":null,"request_id":""}`)
		case n < 5:
			_, _ = fmt.Fprintf(w, `{"errcode":0,"data":{"hash_key":%q,"status":1,"progress":{"phase":"crawling","pages_done":%d,"pages_total":4,"rows":1234567}}}`, testKey, n)
		default:
			_, _ = fmt.Fprintf(w, `{"errcode":0,"data":{"hash_key":%q,"status":3,"fail_reason":"page 4: HTTP 500","error_code":"SOURCE_HTTP"}}`, testKey)
		}
	})})
	code, out, errs := sheaf(t, t.Context(), "", "watch", testKey, "--server", server.URL)
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "crawling: 3 of 4 pages, 1,234,567 rows\n")
	require.Contains(t, errs, "the export failed: page 4: HTTP 500 (SOURCE_HTTP)")
	require.Contains(t, out, "failed")
}

func TestInterruptedExportIsCancelled(t *testing.T) {
	t.Chdir(t.TempDir())
	ctx, interrupt := context.WithCancel(t.Context())
	cancelled := make(chan string, 1)
	server := answers(t, map[string]any{
		"/v1/export/http": map[string]any{"hash_key": testKey},
		"/v1/export/detail": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = fmt.Fprintf(w, `{"errcode":0,"data":{"hash_key":%q,"status":1}}`, testKey)
			interrupt()
		}),
		"/v1/export/cancel": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			cancelled <- string(body)
			_, _ = io.WriteString(w, `{"errcode":0,"data":null}`)
		}),
	})
	code, _, errs := sheaf(t, ctx, "", "export", "http://127.0.0.1/", "-o", "x.xlsx", "--server", server.URL)
	require.Equal(t, exitInterrupted, code)
	require.Contains(t, errs, "was cancelled")
	require.JSONEq(t, `{"key":"`+testKey+`"}`, <-cancelled)
	onlyFiles(t)
}

func TestStatusShowsProofAndPause(t *testing.T) {
	t.Parallel()
	proven := succeeded("http://x/v1/down/x.zip", nil)
	for want, proof := range map[string]events.Proof{
		"total: 5,000 announced, 5,000 rows on 10 pages":   {Kind: events.ProofTotal, Announced: 5000, Rows: 5000, Pages: 10},
		"pages: 10 announced, 4,999 rows on 10 pages":      {Kind: events.ProofPages, Announced: 10, Rows: 4999, Pages: 10},
		"end: no number announced, 5,000 rows on 10 pages": {Kind: events.ProofEnd, Rows: 5000, Pages: 10},
		"single: no number announced, 7 rows on 1 page":    {Kind: events.ProofSingle, Rows: 7, Pages: 1},
	} {
		proven["proof"] = proof
		server := answers(t, map[string]any{"/v1/export/detail": proven})
		_, out, _ := sheaf(t, t.Context(), "", "status", testKey, "--server", server.URL)
		require.Contains(t, out, want)
	}
	until := time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local)
	server := answers(t, map[string]any{"/v1/export/detail": map[string]any{"hash_key": testKey, "status": client.Processing,
		"progress": events.Progress{Phase: events.PhaseWaitingForSource, PagesDone: 1, Until: until.UTC()}}})
	_, out, _ := sheaf(t, t.Context(), "", "status", testKey, "--server", server.URL)
	require.Contains(t, out, "waiting for source until 03:04:05")
}

func TestCallbackLine(t *testing.T) {
	t.Parallel()
	for want, c := range map[string]struct {
		state            string
		attempts, status int
	}{
		"pending": {"pending", 0, 0},
		"pending after 1 attempt, last status 500":    {"pending", 1, 500},
		"pending after 2 attempts, no answer":         {"pending", 2, 0},
		"delivered after 1 attempt":                   {"delivered", 1, 0},
		"delivered after 3 attempts, last status 204": {"delivered", 3, 204},
	} {
		require.Equal(t, want, callbackLine(c.state, c.attempts, c.status))
	}
}
