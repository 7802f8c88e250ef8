package crawler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"sheaf/events"
	"sheaf/events/journal"
	"sheaf/services/crawler/source"
)

// help fetches the pages of one span for the crawl that owns it. The span is done with in any case: its owner looks
// after the pages that were not reported.
func (s *Service) help(ctx context.Context, d journal.Delivery) error {
	var sp span
	if err := json.Unmarshal(d.Data, &sp); err != nil || len(sp.Pages) == 0 {
		return journal.Permanent(fmt.Errorf("span: %w", errors.Join(err, errNoSpan)))
	}
	h := s.helpers.enter(ctx, s, sp.Owner)
	defer s.helpers.leave(h, s.tempo.linger)
	if !h.ask(ctx, &sp, report{Ask: askTake, Workers: s.cfg.Fetches}) {
		return nil
	}
	late, over := outlive(ctx, s.cfg.DrainFor)
	defer over()
	working, stop := context.WithCancel(late)
	var watch sync.WaitGroup
	watch.Go(func() { h.watch(working, &sp, stop) })
	defer watch.Wait()
	defer stop()
	if err := h.open(working, &sp); err != nil {
		s.cfg.Log.Info("a span was returned", "tenant", sp.Tenant, "hash_key", sp.Key, "error", err)
	} else {
		h.fetch(working, &sp)
	}
	h.report(&sp, report{Done: true, Retries: h.newRetries()})
	return nil
}

var (
	errNoSpan  = errors.New("no pages")
	errNotOpen = errors.New("the export is no longer crawled")
)

// helpers are the crawls of other processes that this one fetches pages for.
type helpers struct {
	mu sync.Mutex
	of map[string]*helper // by owner
}

// helper fetches pages for one owner. Its spans share the source, with its tokens.
type helper struct {
	service *Service
	owner   string
	drain   context.Context
	feeding chan struct{} // held by the span whose pages are being handed out
	places  chan struct{} // held by each page

	users int         // guarded by helpers.mu
	idle  *time.Timer // removes it

	opening sync.Mutex
	crawl   *crawl // nil until it is open
	first   []string
	told    atomic.Int64 // retries that were reported
}

func (hs *helpers) enter(drain context.Context, s *Service, owner string) *helper {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	h := hs.of[owner]
	if h == nil {
		h = &helper{service: s, owner: owner, drain: drain, feeding: make(chan struct{}, 1)}
		hs.of[owner] = h
	}
	if h.idle != nil {
		h.idle.Stop()
	}
	h.users++
	return h
}

func (hs *helpers) leave(h *helper, linger time.Duration) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if h.users--; h.users > 0 {
		return
	}
	h.idle = time.AfterFunc(linger, func() {
		hs.mu.Lock()
		defer hs.mu.Unlock()
		if h.users == 0 {
			delete(hs.of, h.owner)
		}
	})
}

func (hs *helpers) close() {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	for _, h := range hs.of {
		if h.idle != nil {
			h.idle.Stop()
		}
	}
}

// open reads the export and page 1, once for all spans.
func (h *helper) open(ctx context.Context, sp *span) error {
	h.opening.Lock()
	defer h.opening.Unlock()
	if h.crawl != nil {
		return nil
	}
	s := h.service
	x, err := s.journal.Read(ctx, sp.Tenant, sp.Key)
	if err != nil {
		return err
	}
	if err := stillOpen(&x, sp.Requested); err != nil || x.Request.HTTP == nil && len(x.Request.Sheets) == 0 {
		return errNotOpen
	}
	if x.Request.UnknownNeed() != "" {
		return errNeeds
	}
	c := s.newCrawl(h.drain, x, true)
	c.helps = true
	if len(x.Request.Sheets) > 0 {
		if sp.Sheet >= len(x.Request.Sheets) {
			return errNotOpen
		}
		c = c.narrow(sp.Sheet, amount{pages: sp.UsedPages})
	}
	c.into = sp.Run
	c.dealt.Store(true)
	if err := c.open(ctx); err != nil {
		return err
	}
	p, err := c.stored(ctx, 1)
	if err != nil {
		return err
	}
	defer p.Release()
	h.first = c.namesOf(p)
	if f := c.have.add(p, h.first); f != nil {
		return f
	}
	h.places = make(chan struct{}, c.conn())
	h.crawl = c
	return nil
}

// fetch fetches the pages of a span in order. The pages of the process's next span follow as soon as the last one of
// this span was requested. It ends early at a drain, when a page finds no space or cannot be stored, and with ctx.
func (h *helper) fetch(ctx context.Context, sp *span) {
	var wg sync.WaitGroup
	defer wg.Wait()
	select {
	case h.feeding <- struct{}{}:
		defer func() { <-h.feeding }()
	case <-ctx.Done():
		return
	}
	halt, halted := context.WithCancel(ctx) // hands out no more pages; those in flight continue
	defer halted()
	defer context.AfterFunc(h.drain, halted)()
	for _, n := range sp.Pages {
		if !h.next(halt) {
			return
		}
		h.crawl.line.join(n)
		wg.Go(func() {
			defer func() { <-h.places }()
			defer h.crawl.line.leave(n)
			if !h.page(ctx, sp, n) {
				halted()
			}
		})
	}
}

// next waits until a further page may be handed out.
func (h *helper) next(ctx context.Context) bool {
	for h.crawl.line.full() && ctx.Err() == nil {
		select {
		case <-h.crawl.line.moved:
		case <-ctx.Done():
		}
	}
	select {
	case h.places <- struct{}{}:
		if ctx.Err() == nil {
			return true
		}
		<-h.places
	case <-ctx.Done():
	}
	return false
}

// page fetches and reports one page. It reports false if the others of the span are better left.
func (h *helper) page(ctx context.Context, sp *span, n int) bool {
	c := h.crawl
	p, done, err := c.ask(ctx, n)
	if m := (*missed)(nil); errors.As(err, &m) && m.Code != "" {
		h.report(sp, report{Failure: m.Failure, Earlier: m.earlier, Data: m.data})
		return true
	}
	if err != nil {
		return false
	}
	defer done()
	kept, _, err := c.keep(ctx, p)
	if err != nil {
		return false
	}
	r := newRecord(kept.Page, kept.names)
	same := slices.Equal(kept.names, h.first)
	if same {
		r.Names = nil
	}
	h.report(sp, report{Page: &r, SameNames: same, Retries: h.newRetries()})
	return true
}

// newRetries returns the repeated requests that were not reported yet.
func (h *helper) newRetries() int64 {
	h.opening.Lock()
	c := h.crawl
	h.opening.Unlock()
	if c == nil {
		return 0
	}
	now := c.attempt.retries.Load()
	return now - h.told.Swap(now)
}

func (h *helper) report(sp *span, r report) {
	r.Span, r.Helper = sp.ID, h.service.id
	if err := h.service.send(sp.Owner, encoded(r)); err != nil {
		h.service.cfg.Log.Debug("a report is lost; the owner reads the page", "error", err)
	}
}

// ask asks the owner, and reports whether the answer is yes.
func (h *helper) ask(ctx context.Context, sp *span, r report) bool {
	answer, err := h.question(ctx, sp, r)
	return err == nil && answer == yes
}

func (h *helper) question(ctx context.Context, sp *span, r report) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, h.service.tempo.ask)
	defer cancel()
	r.Span, r.Helper = sp.ID, h.service.id
	answer, err := h.service.journal.AskOwner(ctx, sp.Owner, encoded(r))
	return string(answer), err
}

// maxUnanswered is how many questions in a row the owner may leave unanswered: it may be paused, or the connection
// may be lost for a moment. Without an owner a question fails at once.
const maxUnanswered = 3

// watch stops the work on a span once the owner no longer wants it.
func (h *helper) watch(ctx context.Context, sp *span, stop context.CancelFunc) {
	for unanswered := 0; unanswered < maxUnanswered; {
		if source.Sleep(ctx, h.service.tempo.ask) != nil {
			return
		}
		answer, err := h.question(ctx, sp, report{Ask: askStill})
		switch {
		case errors.Is(err, events.ErrUnavailable):
			unanswered++
		case err != nil || answer != yes:
			unanswered = maxUnanswered
		default:
			unanswered = 0
		}
	}
	stop()
}
