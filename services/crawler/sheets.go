package crawler

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"sheaf/events"
	"sheaf/events/pages"
	"sheaf/services/crawler/source"
)

// amount counts what the sheets before one hold. The limits are those of the whole export.
type amount struct {
	pages int
	rows  int64
	bytes int64 // of the rows, as JSON
	files int64 // that options.max_rows makes of them
}

// crawlSheets crawls the sheets of a request one after another, each as the request narrowed to it. They
// share the attempt: its position is the number of pages of all sheets, so a crash in any of them counts as a
// start. After a crash the finished sheets are read back.
func (c *crawl) crawlSheets(ctx context.Context) (*events.ExportCrawled, error) {
	if len(c.x.Timeline) > 1 && c.x.ContinuesRun == 0 {
		// The pages of earlier rounds are not used. Those of a later sheet must not take space until its turn.
		if err := c.pages.PurgeRuns(ctx, c.x.Tenant, c.x.Key, c.x.RequestedSeq); err != nil {
			return nil, err
		}
	}
	stored, err := c.pages.Count(ctx, c.x.Tenant, c.x.Key)
	if err != nil {
		return nil, err
	}
	if err := c.attempt.begin(ctx, c.x.RequestedSeq, stored, 0, c.cfg.MaxStarts, c.letOthersGo); err != nil {
		return nil, err
	}
	var sheets []events.SheetPages
	var warnings []events.Warning
	var used amount
	for i := range c.x.Request.Sheets {
		one := c.narrow(i, used)
		crawled, err := one.list(ctx)
		if f := (*source.Failure)(nil); errors.As(err, &f) {
			f.Sheet = one.label
			f.Hint = strings.TrimPrefix(f.Hint+one.usedBefore(f.Msg), "; ")
		}
		if err != nil {
			return nil, err
		}
		for _, w := range crawled.Warnings {
			w.Message = one.label + ": " + w.Message
			warnings = append(warnings, w)
		}
		sheets = append(sheets, events.SheetPages{
			Run: crawled.Run, Pages: crawled.Pages, Rows: one.rows, Manifest: crawled.Manifest,
			Proof: crawled.Proof,
		})
		used = amount{used.pages + crawled.Pages, used.rows + one.rows, used.bytes + one.bytes,
			used.files + one.x.Request.Files(one.rows)}
	}
	c.rows, c.bytes = used.rows, used.bytes
	crawled := sumUp(sheets)
	crawled.Warnings = warnings
	return crawled, nil
}

// narrow returns the crawl of one sheet.
func (c *crawl) narrow(i int, used amount) *crawl {
	one := &crawl{
		Service: c.Service, x: c.x, log: c.log.With("sheet", i+1), drain: c.drain, attempt: c.attempt, line: newLine(), helps: c.helps,
		several: true, sheet: i, used: used, unseen: len(c.x.Request.Sheets) - i - 1,
		label: fmt.Sprintf("sheet %d %q", i+1, c.x.Request.Sheets[i].Title),
	}
	one.x.Request = c.x.Request.Sheet(i)
	// An export with pages does not wait to start: its own pages may be those that fill the stream.
	one.gate.begun = used.pages > 0
	one.gate.shared = one.gate.begun
	return one
}

// usedBefore explains a limit that the sheets before have reached in part.
func (c *crawl) usedBefore(msg string) string {
	if c.used.pages == 0 {
		return ""
	}
	for flag, has := range map[string]string{
		"(--max-pages)":        fmt.Sprintf("%d pages", c.used.pages),
		"(--max-rows)":         fmt.Sprintf("%d rows", c.used.rows),
		"(--max-export-bytes)": fmt.Sprintf("%d bytes", c.used.bytes),
	} {
		if strings.Contains(msg, flag) {
			return "; the sheets before it have " + has
		}
	}
	return ""
}

// sumUp returns the event of an export with sheets. Its run is the oldest that a retry may use.
func sumUp(sheets []events.SheetPages) *events.ExportCrawled {
	all := &events.ExportCrawled{Sheets: sheets, Manifest: pages.SumSheets(sheets)}
	for _, s := range sheets {
		all.Pages += s.Pages
		if s.Run != events.RawRun && (all.Run == 0 || s.Run < all.Run) {
			all.Run = s.Run
		}
	}
	return all
}
