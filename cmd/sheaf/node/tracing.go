package node

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"golang.org/x/time/rate"

	"sheaf/events/tracing"
)

// spansWait is how long a stopping process tries to send its last spans.
const spansWait = 2 * time.Second

// openTracing begins to export spans, if the environment or the configuration names a place for them. The
// OpenTelemetry variables for the endpoint, its headers, the sampler and the resource apply.
func (n *node) openTracing(ctx context.Context) error {
	exporter := n.cfg.Spans
	if exporter == nil && wantsTraces(os.Environ()) {
		var err error
		if exporter, err = newExporter(ctx, os.Getenv); err != nil {
			return fmt.Errorf("OTEL_EXPORTER_OTLP_*: %w", err)
		}
	}
	if exporter == nil {
		return nil
	}
	version, _ := build()
	about, err := resource.New(ctx, resource.WithTelemetrySDK(), resource.WithHost(),
		resource.WithAttributes(attribute.String("service.name", "sheaf"), attribute.String("service.version", version)), resource.WithFromEnv())
	if err != nil {
		return fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	warn := rate.Sometimes{First: 1, Interval: time.Minute}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		warn.Do(func() { n.log.Warn("spans are not exported", "error", err) })
	}))
	send := sdktrace.WithSyncer(exporter)
	if n.cfg.Spans == nil {
		send = sdktrace.WithBatcher(exporter)
	}
	provider := sdktrace.NewTracerProvider(send, sdktrace.WithResource(about))
	n.tracer = tracing.New(provider)
	n.onClose(func() {
		ctx, cancel := context.WithTimeout(context.Background(), spansWait)
		defer cancel()
		_ = provider.Shutdown(ctx) // the handler has logged it
	})
	return nil
}

// wantsTraces reports whether the environment asks for traces: by any variable of the OTLP exporter.
func wantsTraces(environ []string) bool {
	for _, off := range []string{"OTEL_SDK_DISABLED=true", "OTEL_TRACES_EXPORTER=none"} {
		if slices.Contains(environ, off) {
			return false
		}
	}
	return slices.ContainsFunc(environ, func(v string) bool {
		name, value, _ := strings.Cut(v, "=")
		return strings.HasPrefix(name, "OTEL_EXPORTER_OTLP_") && value != ""
	})
}

// newExporter returns an exporter by the protocol that the environment names, by default HTTP.
func newExporter(ctx context.Context, getenv func(string) string) (sdktrace.SpanExporter, error) {
	switch protocol := cmp.Or(getenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"), getenv("OTEL_EXPORTER_OTLP_PROTOCOL"), "http/protobuf"); protocol {
	case "grpc":
		return otlptracegrpc.New(ctx)
	case "http/protobuf":
		return otlptracehttp.New(ctx)
	default:
		return nil, fmt.Errorf("the protocol %q is not supported; want grpc or http/protobuf", protocol)
	}
}
