package crawler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"sheaf/events"
	"sheaf/events/pages"
	"sheaf/services/crawler/source"

	"golang.org/x/sync/errgroup"
)

// convert asks no source: the export is made of the pages of a finished one. It reads them once, so that a
// page that is gone fails the export here, by name.
func (c *crawl) convert(ctx context.Context) (*events.ExportCrawled, error) {
	ctx, stop := c.untilDrain(ctx)
	defer stop()
	from := c.x.Request.From
	if has := c.x.Request.SheetCount(); len(from.Sheets) != has {
		return nil, &source.Failure{Code: events.CodeInternal,
			Msg: fmt.Sprintf("the request has %d sheets and names the pages of %d", has, len(from.Sheets))}
	}
	total := 0
	for _, s := range from.Sheets {
		total, c.rows = total+s.Pages, c.rows+s.Rows
	}
	var done, rows atomic.Int64
	report := func(now bool) {
		if c.mayTell(now) {
			c.journal.PublishProgress(c.x.Tenant, c.x.Key, events.Progress{
				Phase: events.PhaseCrawling, PagesDone: int(done.Load()), PagesTotal: total, Rows: rows.Load()})
		}
	}
	report(true)
	for i, want := range from.Sheets {
		one := c.x.Request.Sheet(i)
		read := func(n, rowsOfPage int) {
			if n > 0 { // the columns page is none of the export's
				done.Add(1)
				rows.Add(int64(rowsOfPage))
			}
			report(false)
		}
		if err := c.reread(ctx, i, want, one.HasColumnsPage(), read); err != nil {
			return nil, err
		}
	}
	report(true)
	s := from.Sheets[0]
	crawled := &events.ExportCrawled{Run: s.Run, Pages: s.Pages, Manifest: s.Manifest, Proof: s.Proof}
	if len(c.x.Request.Sheets) > 0 {
		crawled = sumUp(from.Sheets)
	}
	var err error
	crawled.Warnings, err = c.warnedBefore(ctx, crawled.Manifest)
	return crawled, err
}

// reread compares the stored pages of a sheet with its manifest.
func (c *crawl) reread(ctx context.Context, sheet int, want events.SheetPages, columns bool,
	read func(n, rows int)) error {
	from := c.x.Request.From.Key
	unusable := func(why string) error {
		return &source.Failure{Code: events.CodeStore, Msg: fmt.Sprintf(why+"; submit the export again", from)}
	}
	sums := make([]taken, want.Pages+1)
	first := 1
	if columns {
		first = 0
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for n := first; n <= want.Pages; n++ {
		g.Go(func() error {
			id := pages.ID{Tenant: c.x.Tenant, Key: from, Run: want.Run, Sheet: sheet, Number: n}
			p, err := c.pages.Get(ctx, id)
			switch {
			case errors.Is(err, events.ErrPageMissing):
				return unusable("the pages of %s are no longer kept")
			case errors.Is(err, events.ErrPageDamaged):
				return unusable("a stored page of %s is damaged")
			case err != nil:
				return err
			}
			sums[n] = taken{rows: p.DataRows(), sum: p.SHA256}
			p.Release()
			read(n, sums[n].rows)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	manifest := pages.NewManifest()
	for n := first; n <= want.Pages; n++ {
		manifest.Add(n, sums[n].rows, sums[n].sum)
	}
	if manifest.Sum() != want.Manifest {
		return unusable("the pages of %s are no longer those of its file")
	}
	return nil
}

// crawlWarnings are the codes of the warnings that a crawl gives. Others come again with the file.
var crawlWarnings = []string{"LIMIT_CAPPED", "NEXT_URL_REWRITTEN", "PAGE_REPEATED", "TOTAL_PAGE_LOW"}

// warnedBefore returns the warnings of the crawl that stored the pages, none once its export is forgotten or
// has begun again.
func (c *crawl) warnedBefore(ctx context.Context, manifest string) ([]events.Warning, error) {
	x, err := c.journal.Read(ctx, c.x.Tenant, c.x.Request.From.Key)
	if err != nil || x.Manifest != manifest {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(x.Warnings), func(w events.Warning) bool {
		return !slices.Contains(crawlWarnings, w.Code)
	}), nil
}
