// Package tracing makes the spans of an export, over all services and processes. The trace context travels in
// the headers of messages and in the events. A nil [Tracer] makes none and costs nothing.
//
// No span holds the query of a URL, a header, a title or a row.
package tracing

import (
	"context"
	"net/http"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// headerTraceParent is the name of the W3C trace context in a header.
const headerTraceParent = "traceparent"

// Tracer makes spans.
type Tracer struct{ tracer trace.Tracer }

// New returns a tracer that records with a provider.
func New(p trace.TracerProvider) *Tracer { return &Tracer{p.Tracer("sheaf")} }

// Span is a span under way. A nil span records nothing.
type Span struct{ span trace.Span }

func (t *Tracer) start(ctx context.Context, name string, kind trace.SpanKind, attributes []attribute.KeyValue, more ...trace.SpanStartOption) (context.Context, *Span) {
	if t == nil {
		return ctx, nil
	}
	ctx, span := t.tracer.Start(ctx, name, append(more, trace.WithSpanKind(kind), trace.WithAttributes(attributes...))...)
	return ctx, &Span{span}
}

// End ends the span. code is the error code, "" after a success.
func (s *Span) End(code string) {
	if s == nil {
		return
	}
	if code != "" {
		s.span.SetAttributes(ErrorType.String(code))
		s.span.SetStatus(codes.Error, code)
	}
	s.span.End()
}

// Set adds attributes to the span.
func (s *Span) Set(attributes ...attribute.KeyValue) {
	if s != nil {
		s.span.SetAttributes(attributes...)
	}
}

// Rename sets the name of the span.
func (s *Span) Rename(name string) {
	if s != nil {
		s.span.SetName(name)
	}
}

// Message describes a message.
type Message struct {
	Stream         string // "" for a request on NATS
	Template       string // of the subject, such as sheaf.event.{tenant}.requested.{key}
	ID             string
	ConversationID string
	Consumer       string
}

func (m Message) attributes(operation, kind string) []attribute.KeyValue {
	list := []attribute.KeyValue{MessagingSystem.String(systemNATS), MessagingOperationName.String(operation),
		MessagingOperationType.String(kind), MessagingTemplate.String(m.Template)}
	for key, value := range map[attribute.Key]string{
		MessagingDestination: m.Stream, MessagingMessageID: m.ID,
		MessagingConversationID: m.ConversationID, MessagingClientID: m.Consumer,
	} {
		if value != "" {
			list = append(list, key.String(value))
		}
	}
	return list
}

// Publish begins the span of a message that is published. parent is its trace context, for the message.
func (t *Tracer) Publish(ctx context.Context, m Message, more ...attribute.KeyValue) (parent string, span *Span) {
	ctx, span = t.start(ctx, "publish "+m.Template, trace.SpanKindProducer, append(m.attributes("publish", "send"), more...))
	return Parent(ctx), span
}

// Process begins the span of a message that is handled. It is a child of the span that published the message.
func (t *Tracer) Process(ctx context.Context, parent string, m Message, more ...attribute.KeyValue) (context.Context, *Span) {
	if t == nil {
		return ctx, nil
	}
	return t.start(within(ctx, parent), "process "+m.Template, trace.SpanKindConsumer, append(m.attributes("process", "process"), more...))
}

// Serve begins the span of a request by HTTP, a child of the caller's. Its name lacks the route until Rename.
func (t *Tracer) Serve(r *http.Request) (context.Context, *Span) {
	if t == nil {
		return r.Context(), nil
	}
	return t.start(within(r.Context(), r.Header.Get(headerTraceParent)), r.Method, trace.SpanKindServer,
		[]attribute.KeyValue{HTTPMethod.String(r.Method)})
}

// Inside begins the span of a step.
func (t *Tracer) Inside(ctx context.Context, name string, more ...attribute.KeyValue) (context.Context, *Span) {
	return t.start(ctx, name, trace.SpanKindInternal, more)
}

// Request begins the span of a request to another server.
func (t *Tracer) Request(ctx context.Context, method, host string, more ...attribute.KeyValue) (context.Context, *Span) {
	return t.start(ctx, method, trace.SpanKindClient, append(more, HTTPMethod.String(method), ServerAddress.String(host)))
}

// Requested records the span of a request that has ended.
func (t *Tracer) Requested(ctx context.Context, begin time.Time, method, host, code string, more ...attribute.KeyValue) {
	_, span := t.start(ctx, method, trace.SpanKindClient, append(more, HTTPMethod.String(method), ServerAddress.String(host)),
		trace.WithTimestamp(begin))
	span.End(code)
}

// From says where a span belongs: below a span of another process, or into a trace of its own with a link to
// an earlier span, because most servers close a trace within minutes.
type From struct{ Parent, Earlier string }

func (f From) options(ctx context.Context) (context.Context, []trace.SpanStartOption) {
	if f.Parent != "" {
		return within(ctx, f.Parent), nil
	}
	options := []trace.SpanStartOption{trace.WithNewRoot()}
	if c := trace.SpanContextFromContext(within(context.Background(), f.Earlier)); c.IsValid() {
		options = append(options, trace.WithLinks(trace.Link{SpanContext: c}))
	}
	return ctx, options
}

// RequestFrom is Request for a span that belongs elsewhere than to the one in ctx.
func (t *Tracer) RequestFrom(ctx context.Context, from From, method, host string, more ...attribute.KeyValue) (context.Context, *Span) {
	if t == nil {
		return ctx, nil
	}
	ctx, options := from.options(ctx)
	return t.start(ctx, method, trace.SpanKindClient, append(more, HTTPMethod.String(method), ServerAddress.String(host)), options...)
}

// PublishFrom is Publish for a span that belongs elsewhere than to the one in ctx. The returned context has the
// span.
func (t *Tracer) PublishFrom(ctx context.Context, from From, m Message, more ...attribute.KeyValue) (context.Context, *Span) {
	if t == nil {
		return ctx, nil
	}
	ctx, options := from.options(ctx)
	return t.start(ctx, "publish "+m.Template, trace.SpanKindProducer, append(m.attributes("publish", "send"), more...), options...)
}

// Note records that something happened in the span of ctx.
func Note(ctx context.Context, name string, attributes ...attribute.KeyValue) {
	trace.SpanFromContext(ctx).AddEvent(name, trace.WithAttributes(attributes...))
}

// Fail sets the error code of the span of ctx.
func Fail(ctx context.Context, code string) {
	span := trace.SpanFromContext(ctx)
	span.SetAttributes(ErrorType.String(code))
	span.SetStatus(codes.Error, code)
}

// Adopt returns ctx with the span of another context.
func Adopt(ctx, from context.Context) context.Context {
	return trace.ContextWithSpan(ctx, trace.SpanFromContext(from))
}

// Parent returns the trace context of the span in ctx, "" without one.
func Parent(ctx context.Context) string {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ""
	}
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier[headerTraceParent]
}

// Inject writes the trace context of the span in ctx to the headers of a request.
func Inject(ctx context.Context, h http.Header) {
	if parent := Parent(ctx); parent != "" {
		h.Set(headerTraceParent, parent)
	}
}

// ParentOf returns the trace context in the headers of a message, whatever the case of its name.
func ParentOf(h map[string][]string) string {
	for name, values := range h {
		if strings.EqualFold(name, headerTraceParent) && len(values) > 0 {
			return values[0]
		}
	}
	return ""
}

// within returns ctx with a span of another process, or ctx if parent is not a trace context.
func within(ctx context.Context, parent string) context.Context {
	if parent == "" {
		return ctx
	}
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{headerTraceParent: parent})
}
