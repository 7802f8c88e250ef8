package node

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func get(t *testing.T, url string) (status int, body string) {
	t.Helper()
	resp, err := http.Get(url)
	require.NoError(t, err)
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(data)
}

// One export is counted by every service that it passes, where operators look and
// nowhere else. No label says whose it was.
func TestOperatorsSeeMetrics(t *testing.T) {
	t.Parallel()
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	told := make(chan struct{}, 1)
	receiver := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { told <- struct{}{} }))
	t.Cleanup(receiver.Close)
	cfg := OneShot(t.TempDir())
	cfg.Ops = "127.0.0.1:0"
	ctx, stop := context.WithCancel(t.Context())
	opened, ended := make(chan Info, 1), make(chan error, 1)
	go func() { ended <- Run(ctx, cfg, func(at Info) { opened <- at }) }()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-ended)
	})
	at := <-opened
	require.Eventually(t, func() bool {
		status, _ := get(t, "http://"+at.Ops+"/readyz")
		return status == http.StatusOK
	}, 10*time.Second, 10*time.Millisecond)
	status, _ := get(t, "http://"+at.Ops+"/healthz")
	require.Equal(t, http.StatusOK, status)
	status, _ = get(t, at.HTTP+"/metrics")
	require.Equal(t, http.StatusNotFound, status)

	resp, err := http.Post(at.HTTP+"/v1/export/http", "application/json", strings.NewReader(fmt.Sprintf(
		`{"timestamp":%d,"ext_type":"XLSX","callback":%q,"source_http":{"url":%q}}`,
		time.Now().Unix(), receiver.URL, at.HTTP+"/demo/page")))
	require.NoError(t, err)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusOK, resp.StatusCode, string(body))
	select {
	case <-told:
	case <-time.After(30 * time.Second):
		require.FailNow(t, "no callback")
	}
	var metrics string
	require.Eventually(t, func() bool {
		_, metrics = get(t, "http://"+at.Ops+"/metrics")
		return strings.Contains(metrics, `sheaf_callback_attempts_total{outcome="delivered",service="notifier",transport="http"} 1`)
	}, 10*time.Second, 10*time.Millisecond)
	for _, want := range []string{
		`sheaf_http_requests_total{code="200",method="POST",route="/v1/export/http",service="ingress"} 1`,
		`sheaf_http_requests_total{code="404",method="GET",route="(none)",service="ingress"} 1`,
		`sheaf_api_requests_total{errcode="0",operation="http",service="ingress"} 1`,
		`sheaf_crawler_pages_total{outcome="stored",service="crawler"}`,
		`sheaf_exports_finished_total{error_code="",outcome="completed",service="assembler"} 1`,
		`sheaf_assembler_rows_total{service="assembler"}`,
		"sheaf_ready 1\n", "sheaf_nats_connected 1\n", "sheaf_build_info{", "go_goroutines ", "process_resident_memory_bytes ",
	} {
		require.Contains(t, metrics, want)
	}
	allowed := []string{"service", "route", "method", "code", "errcode", "operation", "outcome", "error_code", "transport", "what", "version", "goversion", "quantile", "le"}
	for _, label := range regexp.MustCompile(`[{,](\w+)="`).FindAllStringSubmatch(metrics, -1) {
		require.Contains(t, allowed, label[1])
	}
}
