package node

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"sheaf/events/eventstest"
	"sheaf/events/tracing"
)

// One export is one trace, from the caller's to the callback. Only a later attempt at the callback has a trace
// of its own, with a link.
func TestAnExportIsOneTrace(t *testing.T) {
	t.Parallel()
	spans := tracetest.NewInMemoryExporter()
	var log eventstest.Log
	var asked atomic.Int64 // the source fails once
	source := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) == 1 {
			http.Error(w, "again", http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte(`{"errcode":0,"data":{"data":[{"id":"ID"},{"id":1}],"pagetag":{"page":1,"limit":10,"total":1,"total_page":1}}}`))
	}))
	defer source.Close()
	var mu sync.Mutex
	var received []string // traceparent of each attempt
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if received = append(received, r.Header.Get("traceparent")); len(received) == 1 {
			w.WriteHeader(http.StatusBadGateway)
		}
	}))
	defer receiver.Close()
	c := serveWithTLS(t, func(cfg *Config) {
		cfg.Spans, cfg.Log, cfg.CallbackSchedule = spans, log.Logger(), []time.Duration{time.Millisecond}
	})
	const traceID, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	req, err := http.NewRequest(http.MethodPost, c.at.HTTP+"/v1/export/http", strings.NewReader(fmt.Sprintf(
		`{"ext_type":"XLSX","callback":%q,"title":"the-title","source_http":{"url":%q,"header":{"X-Token":"the-token"}}}`, receiver.URL+"/?secret", source.URL+"/?the-query")))
	require.NoError(t, err)
	req.Header.Set("Traceparent", "00-"+traceID+"-"+parent+"-01")
	resp, err := c.http.Do(req)
	require.NoError(t, err)
	key := c.keyOf(resp.Body)
	require.NoError(t, resp.Body.Close())

	byName := map[string][]tracetest.SpanStub{}
	require.Eventually(t, func() bool {
		clear(byName)
		for _, s := range spans.GetSpans() {
			name := s.Name
			if name == "POST" || name == "GET" {
				name = fmt.Sprint(name, " ", len(byName[name+" 0"])+len(byName[name+" 1"]))
			}
			byName[name] = append(byName[name], s)
		}
		return len(byName["POST 1"]) == 1 && len(byName["publish sheaf.event.{tenant}.callback_delivered.{key}"]) == 1
	}, 30*time.Second, 20*time.Millisecond)
	one := func(name string) tracetest.SpanStub {
		require.Len(t, byName[name], 1, name)
		return byName[name][0]
	}
	parents := map[string]string{ // by name
		"publish sheaf.event.{tenant}.requested.{key}": "POST /v1/export/http",
		"process sheaf.event.{tenant}.requested.{key}": "publish sheaf.event.{tenant}.requested.{key}",
		"crawl pages": "process sheaf.event.{tenant}.requested.{key}",
		"GET 0":       "crawl pages",
		"GET 1":       "crawl pages",
		"publish sheaf.event.{tenant}.crawled.{key}": "process sheaf.event.{tenant}.requested.{key}",
		"process sheaf.event.{tenant}.crawled.{key}": "publish sheaf.event.{tenant}.crawled.{key}",
		"write file": "process sheaf.event.{tenant}.crawled.{key}",
		"store file": "process sheaf.event.{tenant}.crawled.{key}",
		"publish sheaf.event.{tenant}.completed.{key}":          "process sheaf.event.{tenant}.crawled.{key}",
		"publish sheaf.event.{tenant}.callback_attempted.{key}": "POST 0",
		"POST 0": "publish sheaf.event.{tenant}.completed.{key}",
	}
	for name, of := range parents {
		require.Equal(t, traceID, one(name).SpanContext.TraceID().String(), name)
		require.Equal(t, one(of).SpanContext.SpanID(), one(name).Parent.SpanID(), name)
		require.Empty(t, one(name).Links, name)
	}
	server := one("POST /v1/export/http")
	require.Equal(t, parent, server.Parent.SpanID().String())
	require.Equal(t, trace.SpanKindServer, server.SpanKind)
	later := one("POST 1")
	require.NotEqual(t, traceID, later.SpanContext.TraceID().String())
	require.Len(t, later.Links, 1)
	require.Equal(t, one("publish sheaf.event.{tenant}.requested.{key}").SpanContext.SpanID(), later.Links[0].SpanContext.SpanID())

	for name, kind := range map[string]trace.SpanKind{
		"publish sheaf.event.{tenant}.requested.{key}": trace.SpanKindProducer, "process sheaf.event.{tenant}.crawled.{key}": trace.SpanKindConsumer,
		"crawl pages": trace.SpanKindInternal, "GET 0": trace.SpanKindClient, "POST 1": trace.SpanKindClient,
	} {
		require.Equal(t, kind, one(name).SpanKind, name)
	}
	require.Equal(t, codes.Error, one("GET 0").Status.Code)
	require.Contains(t, one("GET 0").Attributes, tracing.HTTPStatus.Int(http.StatusServiceUnavailable))
	require.Contains(t, one("GET 1").Attributes, tracing.HTTPResend.Int(1))
	require.Contains(t, one("crawl pages").Attributes, tracing.Rows.Int64(1))
	require.Len(t, one("crawl pages").Events, 1, "the retry")
	for _, want := range []attribute.KeyValue{
		attribute.String("messaging.system", "nats"), attribute.String("messaging.destination.name", "SHEAF_EVENTS"),
		tracing.ExportKey.String(key), tracing.Tenant.String("default"), tracing.Delivery.Int64(1), tracing.MessagingClientID.String("crawler"),
	} {
		require.Contains(t, one("process sheaf.event.{tenant}.requested.{key}").Attributes, want)
	}

	_, metrics := c.get(c.ops("/metrics"))
	require.Contains(t, metrics, `sheaf_crawler_page_retries_total{reason="http_5xx"} 1`)
	require.Contains(t, metrics, `sheaf_callback_attempts_total{outcome="failed",transport="http"} 1`)
	require.Len(t, log.With("service=export outcome=completed"), 1)
	require.Contains(t, log.With("service=export outcome=completed")[0], " retries=1\n")
	mu.Lock()
	defer mu.Unlock()
	require.Equal(t, "00-"+traceID+"-"+one("POST 0").SpanContext.SpanID().String()+"-01", received[0])
	require.Contains(t, received[1], later.SpanContext.TraceID().String())
	require.NotEmpty(t, log.With("hash_key="+key+" id=1"), "lines of the export")
	for _, line := range log.With("hash_key=" + key) {
		require.Contains(t, line, "trace_id="+traceID, line)
	}
	all := fmt.Sprintf("%+v", spans.GetSpans())
	for _, private := range []string{"the-title", "the-token", "the-query", "secret"} {
		require.NotContains(t, all, private)
	}
}

// A callback by NATS belongs to the trace too, and its message continues it.
func TestACallbackByNATSIsTraced(t *testing.T) {
	t.Parallel()
	spans := tracetest.NewInMemoryExporter()
	c := serveWithTLS(t, func(cfg *Config) { cfg.Spans = spans })
	nc, err := nats.Connect(c.at.NATS, nats.Secure(c.tls))
	require.NoError(t, err)
	defer nc.Close()
	done, err := nc.SubscribeSync("sheaf.callback.default.done")
	require.NoError(t, err)
	require.NoError(t, nc.Flush())
	c.post("raw", `{"ext_type":"CSV","callback":"nats:sheaf.callback.default.done","source_raw":[{"id":"ID"},{"id":1}]}`)
	message, err := done.NextMsg(30 * time.Second)
	require.NoError(t, err)
	byName := map[string]tracetest.SpanStub{}
	require.Eventually(t, func() bool {
		for _, s := range spans.GetSpans() {
			byName[s.Name] = s
		}
		return byName["publish sheaf.callback.{tenant}.{name}"].SpanContext.IsValid()
	}, 10*time.Second, 10*time.Millisecond)
	published, completed := byName["publish sheaf.callback.{tenant}.{name}"], byName["publish sheaf.event.{tenant}.completed.{key}"]
	require.Equal(t, completed.SpanContext.SpanID(), published.Parent.SpanID())
	require.Equal(t, trace.SpanKindProducer, published.SpanKind)
	require.Contains(t, published.Attributes, attribute.String("messaging.destination.name", "SHEAF_CALLBACKS"))
	require.Contains(t, published.Attributes, tracing.Attempt.Int(1))
	require.Contains(t, message.Header.Get("traceparent"), published.SpanContext.SpanID().String())
}

func TestTracesAreOffUnlessAsked(t *testing.T) {
	t.Parallel()
	for environ, want := range map[string]bool{
		"": false, "OTEL_SERVICE_NAME=x": false, "OTEL_EXPORTER_OTLP_ENDPOINT=": false,
		"OTEL_EXPORTER_OTLP_ENDPOINT=http://x:4318":                             true,
		"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://x OTEL_TRACES_EXPORTER=none": false,
		"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://x OTEL_SDK_DISABLED=true":    false,
	} {
		require.Equal(t, want, wantsTraces(strings.Fields(environ)), environ)
	}
	for protocol, ok := range map[string]bool{"": true, "grpc": true, "http/protobuf": true, "http/json": false} {
		exporter, err := newExporter(t.Context(), func(name string) string {
			if name == "OTEL_EXPORTER_OTLP_PROTOCOL" {
				return protocol
			}
			return ""
		})
		require.Equal(t, ok, err == nil, protocol)
		if err == nil {
			require.NoError(t, exporter.Shutdown(t.Context()))
		}
	}
}
