package node

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"sheaf/events"
	"sheaf/events/eventstest"
)

// caller calls a Sheaf that a test runs with TLS.
type caller struct {
	t    *testing.T
	at   Info
	tls  *tls.Config
	http *http.Client
}

// serveWithTLS runs a Sheaf with all roles, TLS and --ops until the end of the test.
func serveWithTLS(t *testing.T, change func(*Config)) *caller {
	t.Helper()
	dir := t.TempDir()
	cfg := OneShot(filepath.Join(dir, "data"))
	cfg.Ops, cfg.NATSListen = "127.0.0.1:0", "127.0.0.1:0"
	cfg.TLSCert, cfg.TLSKey = makeCertificate(t, dir, 1)
	if change != nil {
		change(&cfg)
	}
	ctx, stop := context.WithCancel(t.Context())
	opened, ended := make(chan Info, 1), make(chan error, 1)
	go func() { ended <- Run(ctx, cfg, func(at Info) { opened <- at }) }()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-ended)
	})
	pem, err := os.ReadFile(cfg.TLSCert)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(pem))
	c := &caller{t: t, tls: &tls.Config{RootCAs: roots}}
	c.http = &http.Client{Transport: &http.Transport{TLSClientConfig: c.tls}}
	t.Cleanup(c.http.CloseIdleConnections)
	select {
	case c.at = <-opened:
	case err := <-ended:
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool { status, _ := c.get(c.ops("/readyz")); return status == http.StatusOK },
		20*time.Second, 10*time.Millisecond)
	return c
}

func (c *caller) ops(path string) string { return "http://" + c.at.Ops + path }

func (c *caller) get(url string) (status int, body string) {
	resp, err := c.http.Get(url)
	require.NoError(c.t, err)
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	require.NoError(c.t, err)
	return resp.StatusCode, string(data)
}

// post calls an operation and returns the export's key.
func (c *caller) post(operation, body string) string {
	c.t.Helper()
	resp, err := c.http.Post(c.at.HTTP+"/v1/export/"+operation, "application/json", strings.NewReader(body))
	require.NoError(c.t, err)
	defer resp.Body.Close()
	return c.keyOf(resp.Body)
}

func (c *caller) keyOf(body io.Reader) string {
	c.t.Helper()
	var answer struct {
		Errcode int
		Msg     string
		Data    struct {
			HashKey string `json:"hash_key"`
		}
	}
	require.NoError(c.t, json.NewDecoder(body).Decode(&answer))
	require.Zero(c.t, answer.Errcode, answer.Msg)
	return answer.Data.HashKey
}

// detail returns the link of an export once it has ended, and the whole answer.
func (c *caller) detail(key string) (link, body string) {
	c.t.Helper()
	require.Eventually(c.t, func() bool {
		_, body = c.get(c.at.HTTP + "/v1/export/detail?key=" + key)
		var answer struct {
			Data struct {
				DownURL string `json:"down_url"`
				Status  int
			}
		}
		require.NoError(c.t, json.Unmarshal([]byte(body), &answer))
		link = answer.Data.DownURL
		return answer.Data.Status != events.StatusProcessing
	}, 30*time.Second, 10*time.Millisecond)
	return link, body
}

// testSource answers /good with a page of one row, /bad with 404, and /slow when the test ends.
func testSource(t *testing.T) *httptest.Server {
	t.Helper()
	source := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/good":
			_, _ = w.Write([]byte(`{"errcode":0,"data":{"data":[{"id":"ID"},{"id":1}],"pagetag":{"page":1,"limit":10,"total":1,"total_page":1}}}`))
		case "/slow":
			select {
			case <-r.Context().Done():
			case <-t.Context().Done():
			}
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(source.Close)
	return source
}

// documented returns the metrics that OPERATIONS.md lists.
func documented(t *testing.T) (names []string) {
	t.Helper()
	text, err := os.ReadFile("../../../deploy/OPERATIONS.md")
	require.NoError(t, err)
	for _, row := range regexp.MustCompile("(?m)^\\| \\w+ \\| `(sheaf_\\w+)` \\|").FindAllStringSubmatch(string(text), -1) {
		names = append(names, row[1])
	}
	slices.Sort(names)
	return names
}

// A process that did an export of each kind has the documented metrics and no others of Sheaf. Their number is
// bounded, and no label identifies a caller, source or export.
func TestMetricsAreTheDocumentedOnes(t *testing.T) {
	t.Parallel()
	source := testSource(t)
	var log eventstest.Log
	c := serveWithTLS(t, func(cfg *Config) { cfg.Log = log.Logger() })
	keys := exportOfEachKind(t, c, source.URL)
	finished := regexp.MustCompile(`(?m)^sheaf_exports_finished_total\{[^}]*\} (\d+)$`)
	attempts := regexp.MustCompile(`(?m)^sheaf_callback_attempts_total\{outcome="delivered"[^}]*\} 1$`)
	var text string
	require.Eventually(t, func() bool {
		_, text = c.get(c.ops("/metrics"))
		sum := 0
		for _, line := range finished.FindAllStringSubmatch(text, -1) {
			n, err := strconv.Atoi(line[1])
			require.NoError(t, err)
			sum += n
		}
		projected := strings.Contains(text, `sheaf_exports_stored{state="unfinished"} 0`)
		return projected && sum == len(keys) && len(attempts.FindAllString(text, -1)) == 2 &&
			strings.Contains(text, "sheaf_stream_bytes{")
	}, 30*time.Second, 20*time.Millisecond)

	var names []string
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (sheaf_\w+) `).FindAllStringSubmatch(text, -1) {
		names = append(names, m[1])
	}
	require.Equal(t, documented(t), names)
	require.Len(t, names, 51)

	series := regexp.MustCompile(`(?m)^[a-z].*$`).FindAllString(text, -1)
	require.Less(t, len(series), 400)
	labels := []string{"version", "revision", "goversion", "role", "route", "method", "code", "kind", "operation", "errcode", "source_type",
		"via", "outcome", "reason", "what", "phase", "state", "error_code", "transport", "stream", "consumer", "quantile", "le"}
	for _, label := range regexp.MustCompile(`[{,](\w+)="`).FindAllStringSubmatch(text, -1) {
		require.Contains(t, labels, label[1])
	}
	for _, private := range append(keys, "the-user", "the-title", "default", "127.0.0.1", "/good", "/bad", "/slow") {
		require.NotContains(t, text, `"`+private)
		require.NotContains(t, text, private+`"`)
	}
	for _, want := range []string{
		`sheaf_exports_finished_total{error_code="SOURCE_HTTP",outcome="failed"} 1`,
		`sheaf_exports_finished_total{error_code="",outcome="cancelled"} 1`,
		`sheaf_submissions_total{outcome="begun",source_type="http",via="rest"} 3`,
		`sheaf_submissions_total{outcome="known",source_type="http",via="rest"} 1`,
		`sheaf_submissions_total{outcome="begun",source_type="raw",via="nats"} 1`,
		`sheaf_submissions_total{outcome="begun",source_type="raw",via="stream"} 1`,
		`sheaf_submissions_total{outcome="begun",source_type="convert",via="rest"} 1`,
		`sheaf_http_requests_total{code="404",method="GET",route="(none)"} 1`,
		`sheaf_http_requests_total{code="200",method="POST",route="/v1/export/http"} 4`,
		`sheaf_downloads_total{outcome="sent"} 1`, `sheaf_downloads_total{outcome="unknown"} 1`,
		`sheaf_crawler_pages_total{outcome="failed"} 1`, `sheaf_crawler_requests_in_flight 0`,
		`sheaf_exports_unfinished{phase="crawling"} 0`, `sheaf_exports_stored{state="succeeded"} 4`, `sheaf_exports_stored{state="failed"} 1`, `sheaf_role_up{role="keeper"} 1`,
		"sheaf_ready 1\n", "sheaf_losses 0\n", "go_goroutines ", "process_resident_memory_bytes ",
	} {
		require.Contains(t, text, want)
	}

	// Each end is one line, which says how.
	require.Len(t, log.With(`msg="export ended" `), len(keys))
	first := log.With(`msg="export ended" tenant=default hash_key=` + keys[0])
	require.Len(t, first, 1)
	require.Regexp(t, ` tenant=default hash_key=\w+ id=\d+ request_id=\S+ service=export outcome=completed error_code="" pages=1 rows=1 runs=1 `+
		`warnings=0 source_host=127\.0\.0\.1:\d+ total_ms=\d+ file_bytes=\d+ assemble_ms=\d+ queued_ms=\d+ crawl_ms=\d+ bytes=\d+ retries=0`, first[0])
	require.Len(t, log.With("service=export outcome=failed error_code=SOURCE_HTTP"), 1)
	require.Len(t, log.With("service=export outcome=cancelled"), 1)
}

// With --metrics-tenants the largest tenants have metrics of their own.
func TestMetricsOfTenants(t *testing.T) {
	t.Parallel()
	c := serveWithTLS(t, func(cfg *Config) { cfg.MetricsTenants = 1 })
	c.detail(c.post("raw", `{"ext_type":"CSV","source_raw":[{"id":"ID"},{"id":1}]}`))
	_, text := c.get(c.ops("/metrics"))
	require.Contains(t, text, `sheaf_tenant_exports{tenant="default"} 1`)
	require.Contains(t, text, `sheaf_tenant_exports_unfinished{tenant="default"} 0`)
	require.Regexp(t, `sheaf_tenant_files_bytes\{tenant="default"\} [1-9]`, text)
	require.Regexp(t, `sheaf_tenant_log_bytes\{tenant="default"\} [1-9]`, text)
}

// exportOfEachKind makes exports of each source, by each way in, with each end, and returns their keys.
func exportOfEachKind(t *testing.T, c *caller, source string) (keys []string) {
	t.Helper()
	receiver := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(receiver.Close)
	body := func(path, more string) string {
		return fmt.Sprintf(`{"ext_type":"XLSX","title":"the-title","user_id":"the-user","source_http":{"url":%q}%s}`, source+path, more)
	}
	good := body("/good", fmt.Sprintf(`,"callback":%q,"options":{"keep_pages":1}`, receiver.URL))
	first := c.post("http", good)
	require.Equal(t, first, c.post("http", good))
	link, answer := c.detail(first)
	require.NotEmpty(t, link, answer)
	status, _ := c.get(link)
	require.Equal(t, http.StatusOK, status)
	status, _ = c.get(c.at.HTTP + "/v1/down/2026/1/1/" + first + ".xlsx?exp=1&sig=x")
	require.Equal(t, http.StatusNotFound, status)
	status, _ = c.get(c.at.HTTP + "/metrics")
	require.Equal(t, http.StatusNotFound, status, "metrics are for operators")
	converted := c.post("convert", fmt.Sprintf(`{"key":%q,"ext_type":"CSV"}`, first))
	failed := c.post("http", body("/bad", `,"callback":"nats:sheaf.callback.default.done"`))
	slow := c.post("http", body("/slow", ""))
	require.Equal(t, slow, c.post("cancel", fmt.Sprintf(`{"key":%q}`, slow)))

	nc, err := nats.Connect(c.at.NATS, nats.Secure(c.tls))
	require.NoError(t, err)
	defer nc.Close()
	rows := func(n int) []byte {
		return fmt.Appendf(nil, `{"ext_type":"XLSX","source_raw":[{"id":"ID"},{"id":%d}]}`, n)
	}
	msg, err := nc.Request(events.APISubject(events.DefaultTenant, "raw"), rows(1), 10*time.Second)
	require.NoError(t, err)
	raw := c.keyOf(bytes.NewReader(msg.Data))
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	_, err = js.Publish(t.Context(), events.SubmitSubject(events.DefaultTenant, events.SourceRaw), rows(2))
	require.NoError(t, err)
	for _, key := range []string{converted, failed, raw} {
		c.detail(key)
	}
	return []string{first, converted, failed, slow, raw, "submitted"}
}

// Operators see each check, as text and as JSON, and the one that fails with its reason.
func TestOperatorsSeeChecks(t *testing.T) {
	t.Parallel()
	data := ""
	c := serveWithTLS(t, func(cfg *Config) { data = cfg.Data })
	status, text := c.get(c.ops("/readyz?verbose"))
	require.Equal(t, http.StatusOK, status, text)
	var names []string
	for line := range strings.Lines(text) {
		if mark, rest, ok := strings.Cut(line, " "); ok && rest != "" {
			require.Equal(t, "[+]", mark, line)
			names = append(names, strings.Fields(rest)[0])
		}
	}
	require.Equal(t, []string{"nats", "streams", "secret-key", "losses", "disk", "data-folder", "tls", "requests", "projection", "files", "draining"}, names)

	require.NoError(t, os.WriteFile(filepath.Join(data, lossesName), []byte("now: data was lost\n  one\n  two\n"), 0o600))
	status, text = c.get(c.ops("/readyz?verbose"))
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Regexp(t, `(?m)^\[-\] losses .*LOSSES\.txt`, text)
	require.True(t, strings.HasSuffix(text, "not ready\n"))
	req, err := http.NewRequest(http.MethodGet, c.ops("/readyz?verbose"), nil)
	require.NoError(t, err)
	req.Header.Set("Accept", "application/json")
	resp, err := c.http.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	var answer struct {
		Ready  bool
		Checks []struct {
			Name, Reason string
			OK           bool
		}
	}
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&answer))
	require.False(t, answer.Ready)
	for i, check := range answer.Checks {
		require.Equal(t, names[i], check.Name)
		require.Equal(t, check.Name != "losses", check.OK, check.Reason)
	}
	_, metrics := c.get(c.ops("/metrics"))
	require.Contains(t, metrics, "sheaf_losses 2\n")
	status, text = c.get(c.ops("/debug/pprof/goroutine?debug=1"))
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, text, "goroutine profile:")
	status, _ = c.get(c.at.HTTP + "/debug/pprof/")
	require.Equal(t, http.StatusNotFound, status)
}
