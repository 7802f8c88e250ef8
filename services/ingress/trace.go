package ingress

import (
	"net/http"
	"strconv"
	"strings"

	"sheaf/events"
	"sheaf/events/tracing"
)

// tracer returns the tracer of the process, nil if it makes no spans.
func (s *Service) tracer() *tracing.Tracer {
	if s.journal == nil {
		return nil // the process starts
	}
	return s.journal.Tracer()
}

// trace begins the span of a request for the API. Probes and pages have none.
func (s *Service) trace(r *http.Request) (*http.Request, *tracing.Span) {
	if s.tracer() == nil || !strings.HasPrefix(r.URL.Path, "/v1/") {
		return r, nil
	}
	ctx, span := s.tracer().Serve(r)
	lineOf(r).trace = events.TraceID(tracing.Parent(ctx))
	return r.WithContext(ctx), span
}

// endTrace ends the span of a request.
func endTrace(span *tracing.Span, r *http.Request, status int) {
	if span == nil {
		return
	}
	route, method := routeOf(r)
	span.Rename(method + " " + route)
	span.Set(tracing.HTTPRoute.String(route), tracing.HTTPStatus.Int(status))
	code := ""
	if status >= http.StatusInternalServerError {
		code = strconv.Itoa(status)
	}
	span.End(code)
}
