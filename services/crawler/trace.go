package crawler

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"

	"sheaf/events"
	"sheaf/events/tracing"
	"sheaf/services/crawler/source"
)

// maxRequestSpans bounds the spans of a crawl's requests: it can have a million pages.
const maxRequestSpans = 128

// traced is run within a span.
func (c *crawl) traced(ctx context.Context) (crawled *events.ExportCrawled, err error) {
	ctx, span := c.journal.Tracer().Inside(ctx, "crawl pages", tracing.Tenant.String(c.x.Tenant), tracing.ExportKey.String(c.x.Key))
	crawled, err = c.run(ctx)
	code := ""
	switch f := (*source.Failure)(nil); {
	case errors.As(err, &f):
		code = cmp.Or(f.Code, "stopped")
	case err != nil:
		code = "stopped"
	default:
		span.Set(tracing.Run.Int64(int64(crawled.Run)), tracing.Pages.Int(crawled.Pages), tracing.Rows.Int64(c.rows))
	}
	span.End(code)
	return crawled, err
}

// sent counts a request to the source, the nth for its page. Pages are not spans: only the first request, the
// repeated ones and those that fail are.
func (c *crawl) sent(ctx context.Context, at source.Position, n int) (ended func(*source.Failure)) {
	c.line.leave(at.Page)
	counted, begin := c.metrics.request(), time.Now()
	return func(f *source.Failure) {
		counted(f)
		tracer := c.journal.Tracer()
		if tracer == nil || f == nil && n == 1 && at.Page > 1 || c.attempt.spans.Add(1) > maxRequestSpans {
			return
		}
		status, code := http.StatusOK, ""
		if f != nil {
			status, code = f.Status, cmp.Or(f.Code, "stopped")
		}
		tracer.Requested(ctx, begin, c.method(), c.hostname(), code,
			tracing.Page.Int(at.Page), tracing.HTTPResend.Int(n-1), tracing.HTTPStatus.Int(status))
	}
}

// retrying counts a request that will be repeated.
func (c *crawl) retrying(ctx context.Context, f *source.Failure) {
	c.attempt.retries.Add(1)
	c.metrics.retries.WithLabelValues(f.Reason()).Inc()
	tracing.Note(ctx, "retry", tracing.Page.Int(f.Page), tracing.ErrorType.String(f.Code))
}

func (c *crawl) method() string { return cmp.Or(c.x.Request.HTTP.Method, http.MethodGet) }

// hostname returns the host of the source, without its port.
func (c *crawl) hostname() string {
	u, err := url.Parse(c.asker.host)
	if err != nil {
		return ""
	}
	return u.Hostname()
}
