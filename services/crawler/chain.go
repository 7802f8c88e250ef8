package crawler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"sheaf/events"
	"sheaf/events/pages"
	"sheaf/services/crawler/source"

	"golang.org/x/sync/errgroup"
)

// emptyInventory returns the inventory of a run without pages.
func (c *crawl) emptyInventory() *inventory {
	l := newLedger(c.x.Request.HTTP.Limit, c.cfg.MaxPages-c.used.pages, c.cfg.MaxRows-c.used.rows, c.cfg.MaxBytes-c.used.bytes)
	maxColumns := c.cfg.Policy.Rows.MaxFields
	if maxColumns <= 0 {
		maxColumns = 16_384
	}
	l.declare(&c.x.Request, maxColumns)
	if req := &c.x.Request; req.Options != nil && req.Options.MaxRows > 0 {
		others := c.used.files + req.Files(make([]int64, c.unseen)...)
		l.limits.files = func(rows int64) int64 { return others + req.Files(rows) }
	}
	return newInventory(l)
}

// fetchChain fetches the missing pages of a list in which each page names the next one. The request for a
// page is sent as soon as the one before it was scanned, while that one is stored: at most one page is asked
// for before the page before it is durable.
func (c *crawl) fetchChain(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	open, over := make(chan struct{}), make(chan struct{})
	g.Go(func() error { return c.watchSpace(ctx, open, over) })
	g.Go(func() error {
		defer close(over)
		select {
		case <-open:
		case <-c.drain.Done():
		case <-ctx.Done():
		}
		for !c.have.ended() && c.drain.Err() == nil && ctx.Err() == nil {
			if err := c.stretch(ctx); err != nil && !c.leaves(err) {
				return err
			}
		}
		return ctx.Err()
	})
	if err := g.Wait(); err != nil || c.have.ended() {
		return err
	}
	return errDraining
}

// watchSpace closes open when there is space for the first page, and then looks once a second whether the
// crawl has to yield, until over.
func (c *crawl) watchSpace(ctx context.Context, open chan<- struct{}, over <-chan struct{}) error {
	look := time.NewTicker(c.space.every)
	defer look.Stop()
	for opened := false; ; {
		may, err := c.mayGoOn(ctx)
		if err != nil {
			return err
		}
		if may && !opened {
			opened = true
			close(open)
		}
		select {
		case <-look.C:
		case <-over:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// link is the answer to one request of a chain.
type link struct {
	page admitted
	done func()
	err  error
}

// stretch fetches pages in order until the list ends, the process must stop, or what was asked ahead cannot
// be used: a page found no space, or another crawler stored it first and its answer differs.
func (c *crawl) stretch(outer context.Context) error {
	ctx, stop := context.WithCancel(outer)
	links := make(chan link) // not buffered: one page is asked for while one is stored
	asking, askCtx := errgroup.WithContext(ctx)
	asking.Go(func() error {
		defer close(links)
		c.askInOrder(askCtx, links)
		return nil
	})
	defer func() {
		stop()
		for l := range links {
			if l.err == nil {
				l.done()
			}
		}
		_ = asking.Wait()
	}()
	for l := range links {
		if m := (*missed)(nil); errors.As(l.err, &m) && m.Code != "" {
			if f := c.have.miss(m.Page, m); f != nil {
				return f
			}
			return nil
		}
		if l.err != nil {
			return l.err
		}
		first, err := c.publishFirst(ctx, l.page)
		l.done()
		if refused := (*refusedPage)(nil); errors.As(err, &refused) {
			stop()
			return c.awaitRoom(outer, refused)
		}
		if err != nil || !first || c.have.ended() {
			return err
		}
	}
	return nil
}

// askInOrder asks for one page after another, from the first missing one. It ends after a failure, and with
// the page that ends the list.
func (c *crawl) askInOrder(ctx context.Context, links chan<- link) {
	judge, token, plan := c.have.fork()
	for n := judge.read + 1; c.drain.Err() == nil && ctx.Err() == nil; n++ {
		at := source.Position{Page: n, Token: token}
		if plan != nil {
			at.Size = plan.size
		}
		p, done, err := c.askAt(ctx, at, plan)
		if m := (*missed)(nil); errors.As(err, &m) && n == c.restored+1 && n > 1 && refusesToken(m.Failure) {
			err = &keptTokenError{m.Failure}
		}
		last := err != nil
		if err == nil {
			if plan == nil {
				plan = newPlan(p.Page, c.have.limits().perPage)
			}
			token = p.Next
			data := facts{rows: p.DataRows(), data: hashData(p.Page), total: p.Total, pages: p.TotalPages, next: p.Next, last: p.Last}
			last = judge.page(data) != nil || judge.end > 0
		}
		select {
		case links <- link{p, done, err}:
		case <-ctx.Done():
			if err == nil {
				done()
			}
			return
		}
		if last {
			return
		}
	}
}

// keptTokenError is the refusal of a token that was stored with a page.
type keptTokenError struct{ *source.Failure }

func (e *keptTokenError) Unwrap() error { return e.Failure }

// refusesToken reports whether a source may have refused a page because its token is no longer valid.
func refusesToken(f *source.Failure) bool {
	return f.Code == events.CodeSourceHTTP && slices.Contains([]int{400, 404, 410, 422}, f.Status)
}

// secondRun is the number of the run of a round that began again. No other round of the export has it: the
// event after a requested event is never a requested event of the same export.
func (c *crawl) secondRun() uint64 { return c.x.RequestedSeq + 1 }

// beginAgain gives the round a new run, from page 1, because the source refused the token of a stored page.
// It does so once.
func (c *crawl) beginAgain(ctx context.Context, refused *keptTokenError) error {
	if c.begun {
		return &source.Failure{Page: refused.Page, Code: events.CodeSourceCursor, Status: refused.Status, Attempts: refused.Attempts,
			Msg: fmt.Sprintf("the source no longer accepts what page %d named as its next page, for the second time; its tokens do not outlast a pause of the crawl", refused.Page-1)}
	}
	c.log.Info("the source refuses the token of a stored page: the crawl starts again", "page", refused.Page, "status", refused.Status)
	if err := c.attempt.stillMine(ctx); err != nil {
		return err
	}
	old := c.into
	c.into, c.begun, c.restored, c.have = c.secondRun(), true, 0, c.emptyInventory()
	return c.pages.PurgeRun(ctx, c.x.Tenant, c.x.Key, old, c.sheet)
}

// publishColumns stores the names of the rows as page 0 of the run, where pages have no header. The first
// writer wins; its page must be the same, because the pages are.
func (c *crawl) publishColumns(ctx context.Context) error {
	p, ok := c.have.columns()
	if !ok {
		return nil
	}
	p.ID = pages.ID{Tenant: c.x.Tenant, Key: c.x.Key, Run: c.into, Sheet: c.sheet}
	for {
		size, stored, err := c.pages.PublishSized(ctx, p, c.cfg.Room)
		if errors.Is(err, events.ErrNoSpace) {
			if err := c.awaitRoomAndGoOn(ctx, &refusedPage{err, p.Run, size}); err != nil {
				return err
			}
			continue
		}
		if err != nil || stored {
			return err
		}
		kept, err := c.pages.Get(ctx, p.ID)
		if err == nil && kept.SHA256 != p.SHA256 {
			err = &source.Failure{Code: events.CodeStore, Msg: "the columns that were stored are not those of the rows; a retry crawls from the beginning"}
		}
		return err
	}
}

// awaitRoomAndGoOn is awaitRoom for a page after the others. The crawl yields or fails meanwhile as while it
// fetches.
func (c *crawl) awaitRoomAndGoOn(ctx context.Context, page *refusedPage) error {
	g, ctx := errgroup.WithContext(ctx)
	over := make(chan struct{})
	g.Go(func() error {
		defer close(over)
		return c.awaitRoom(ctx, page)
	})
	g.Go(func() error { return c.watchSpace(ctx, make(chan struct{}), over) })
	return g.Wait()
}
