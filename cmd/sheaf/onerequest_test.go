package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"sheaf/events"
	"sheaf/events/client"
)

// Every log line about an export, of any service, names the tenant and the request that began it: by REST, by
// a call on NATS, by a durable submission, and by a retry.
func TestOneRequestCanBeFollowedThroughTheLog(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	source := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/missing" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte(`{"errcode":0,"data":{"data":[{"id":"ID"},{"id":1}],"pagetag":{"page":1,"limit":50,"total":1,"total_page":1}}}`))
	}))
	defer source.Close()
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if calls.Add(1) == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer receiver.Close()

	p := startServe(t, "--http", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0", "--data", t.TempDir(),
		"--log-level", "debug", "--log-format", "json", "--callback-schedule", "1s")
	server := p.http
	nc, err := nats.Connect(p.nats)
	require.NoError(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(t, err)

	sheaf, err := client.New(server, client.Options{})
	require.NoError(t, err)
	defer sheaf.Close()
	ended := func(key string) {
		t.Helper()
		require.Eventually(t, func() bool {
			d, err := sheaf.Detail(t.Context(), key)
			return err == nil && d.Status != client.Processing && d.Callback != nil && d.Callback.State == events.CallbackDone
		}, 30*time.Second, 20*time.Millisecond)
	}
	body := func(title, path string) string {
		return `{"ext_type":"XLSX","title":"` + title + `","callback":"` + receiver.URL + `","source_http":{"url":"` + source.URL + path + `"}}`
	}
	keyOf := func(answer []byte) string {
		t.Helper()
		var a struct {
			Data struct {
				HashKey string `json:"hash_key"`
			}
		}
		require.NoError(t, json.Unmarshal(answer, &a), string(answer))
		require.NotEmpty(t, a.Data.HashKey, string(answer))
		return a.Data.HashKey
	}
	post := func(id, path, body string) string {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server+path, strings.NewReader(body))
		require.NoError(t, err)
		req.Header.Set("X-Request-Id", id)
		res, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		defer res.Body.Close()
		answer, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		return keyOf(answer)
	}

	ended(post("by-rest", "/v1/export/http", body("rest", "/")))
	m, err := nc.RequestMsg(&nats.Msg{Subject: "sheaf.api.default.http", Data: []byte(body("call", "/")), Header: nats.Header{"X-Request-Id": {"by-call"}}}, 10*time.Second)
	require.NoError(t, err)
	ended(keyOf(m.Data))
	requested, err := nc.SubscribeSync("sheaf.event.default.requested.*")
	require.NoError(t, err)
	for _, header := range []nats.Header{{"ce-id": {"by-submission"}}, nil} {
		_, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: "sheaf.submit.default.http", Data: []byte(body("durable "+header.Get("ce-id"), "/")), Header: header})
		require.NoError(t, err)
		m, err := requested.NextMsg(10 * time.Second)
		require.NoError(t, err)
		ended(m.Header.Get("ce-subject"))
	}
	// Repeating the same request starts nothing, and the log reports that.
	_, err = js.PublishMsg(t.Context(), &nats.Msg{Subject: "sheaf.submit.default.http", Data: []byte(body("durable ", "/")), Header: nats.Header{"ce-id": {"by-duplicate"}}})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return strings.Contains(p.err.String(), "submission is a duplicate") }, 10*time.Second, 5*time.Millisecond)
	key := post("first", "/v1/export/http", body("retry", "/missing"))
	ended(key)
	post("by-retry", "/v1/export/retry", `{"key":"`+key+`"}`)
	ended(key)
	p.drain(t)

	said := map[string][]string{} // by request
	for line := range strings.Lines(p.err.String()) {
		var l struct {
			Msg, Tenant, Method string
			Key                 string `json:"hash_key"`
			RequestID           string `json:"request_id"`
		}
		require.NoError(t, json.Unmarshal([]byte(line), &l), line)
		if l.Key == "" || l.Method == http.MethodGet { // requests for the detail are others
			continue
		}
		require.Equal(t, "default", l.Tenant, line)
		said[l.RequestID] = append(said[l.RequestID], l.Msg)
	}
	require.Equal(t, map[string][]string{
		"by-rest":       {"request", "export crawled", "export ended", "callback will be tried again", "callback delivered"},
		"by-call":       {"request", "export crawled", "export ended", "callback delivered"},
		"by-submission": {"submission accepted", "export crawled", "export ended", "callback delivered"},
		"submission-2":  {"submission accepted", "export crawled", "export ended", "callback delivered"},
		"by-duplicate":  {"submission is a duplicate"},
		"first":         {"request", "export failed", "export ended", "callback delivered"},
		"by-retry":      {"request", "export failed", "export ended", "callback delivered"},
	}, sorted(said))
}

// sorted orders the lines of each request by the order of its work, because the services of one process write
// theirs concurrently.
func sorted(said map[string][]string) map[string][]string {
	order := []string{"request", "submission accepted", "export crawled", "export failed", "export ended", "callback will be tried again", "callback delivered"}
	for _, lines := range said {
		slices.SortStableFunc(lines, func(a, b string) int { return slices.Index(order, a) - slices.Index(order, b) })
	}
	return said
}
