package assembler

import (
	"context"
	"io"
	"sync"

	"sheaf/events/pages"
)

// readAhead is how many pages are read at once. Direct gets of 64 KiB messages,
// 8 in flight, read 700 MB/s (measured); more is no faster.
const readAhead = 8

// pageReader hands out the pages of a run in order and reads the next ones
// meanwhile, as many as a budget of bytes allows. Page sizes are learnt as
// they come: the first page is read alone.
type pageReader struct {
	get    func(ctx context.Context, n int) (pages.Page, error)
	last   int
	budget int64

	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	next    int             // the page to hand out
	started int             // pages whose reading began
	ready   []chan pageRead // of the pages started and not handed out
	largest int64
}

type pageRead struct {
	page pages.Page
	err  error
}

func readPages(ctx context.Context, last int, budget int64, get func(ctx context.Context, n int) (pages.Page, error)) *pageReader {
	r := &pageReader{get: get, last: last, budget: budget, next: 1}
	r.ctx, r.cancel = context.WithCancel(ctx)
	return r
}

// Next returns the next page, io.EOF after the last.
func (r *pageReader) Next(ctx context.Context) (pages.Page, error) {
	if r.next > r.last {
		return pages.Page{}, io.EOF
	}
	r.start()
	ready := r.ready[0]
	var got pageRead
	select {
	case got = <-ready:
	case <-ctx.Done():
		return pages.Page{}, ctx.Err()
	}
	if got.err != nil {
		return pages.Page{}, got.err
	}
	r.ready = r.ready[1:]
	r.next++
	r.largest = max(r.largest, int64(len(got.page.Rows)))
	r.start()
	return got.page, nil
}

// start begins to read as many further pages as there is room for: one always.
func (r *pageReader) start() {
	for r.started < r.last && len(r.ready) < readAhead {
		if held := int64(len(r.ready)); held > 0 && (r.largest == 0 || (held+1)*r.largest > r.budget) {
			return
		}
		r.started++
		n, ready := r.started, make(chan pageRead, 1)
		r.ready = append(r.ready, ready)
		r.wg.Go(func() {
			p, err := r.get(r.ctx, n)
			ready <- pageRead{p, err}
		})
	}
}

// Close ends the reading and waits for it.
func (r *pageReader) Close() {
	r.cancel()
	r.wg.Wait()
}
