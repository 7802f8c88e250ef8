package node

import (
	"log/slog"
	"net/url"
	"time"

	"sheaf/events"
)

// appended counts and logs an event of this process.
func (n *node) appended(ev events.Event) {
	switch ev.Type() {
	case events.TypeCompleted, events.TypeFailed, events.TypeCancelled:
		n.metrics.ended(ev)
		logEnded(n.cfg.Log, ev)
	}
}

// logEnded logs how an export ended, in one line. A time that is not known is missing.
func logEnded(log *slog.Logger, ev events.Event) {
	x := ev.Export
	fields := []any{"service", "export", "outcome", string(ev.Type()), "error_code", x.Failure.Code, "pages", x.Pages, "rows", x.Rows,
		"runs", rounds(x), "warnings", len(x.Warnings), "source_host", sourceHost(&x.Request),
		"total_ms", x.FinishedAt.Sub(x.RequestedAt).Milliseconds()}
	if len(x.Files) > 0 {
		fields = append(fields, "file_bytes", x.Files[0].Size)
	}
	if crawled := lastTime(x, events.TypeCrawled); !crawled.IsZero() {
		fields = append(fields, "assemble_ms", x.FinishedAt.Sub(crawled).Milliseconds())
		if c := x.Crawl; c != nil {
			queued := max(crawled.Sub(x.RequestedAt).Milliseconds()-c.Millis, 0)
			fields = append(fields, "queued_ms", queued, "crawl_ms", c.Millis, "bytes", c.Bytes, "retries", c.Retries)
		}
	}
	x.With(log).Info("export ended", fields...)
}

// rounds returns how often the export was requested, as far as its timeline knows.
func rounds(x *events.Export) (n int) {
	for _, m := range x.Timeline {
		if m.Type == events.TypeRequested {
			n++
		}
	}
	return n
}

// lastTime returns the time of the newest event of a type in the current round, zero without one.
func lastTime(x *events.Export, t events.Type) (at time.Time) {
	for _, m := range x.Timeline {
		switch m.Type {
		case events.TypeRequested:
			at = time.Time{}
		case t:
			at = m.Time
		}
	}
	return at
}

// sourceHost returns the host of the first source, "" for rows that came with the request.
func sourceHost(r *events.Request) string {
	for i := range r.SheetCount() {
		if h := r.Sheet(i).HTTP; h != nil {
			if u, err := url.Parse(h.URL); err == nil {
				return u.Host
			}
		}
	}
	return ""
}
