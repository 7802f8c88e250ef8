//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// way is one way to find the pages of a list.
type way struct {
	name   string
	url    func(total int) string
	fields map[string]any // of source_http besides url, param and conn; nil for the standard format
}

// ways are all ways to find the pages of the same list. Only the first, the standard format, has titles in
// its pages.
func (b *bench) ways() []way {
	list := func(total int) string { return fmt.Sprintf("%s/lists/%d", b.source.first, total) }
	paging := func(fields map[string]any) map[string]any {
		return map[string]any{"rows": "items", "paging": fields}
	}
	return []way{
		{"the standard format", b.rowsURL, nil},
		{"`page` and a total", list, paging(map[string]any{"type": "page", "total": "total", "total_pages": "pages"})},
		{"`page`, nothing announced", list, paging(map[string]any{"type": "page"})},
		{"`offset` and a total", list, paging(map[string]any{"type": "offset", "total": "total"})},
		{"`offset`, nothing announced", list, paging(map[string]any{"type": "offset"})},
		{"`cursor`", list, paging(map[string]any{"type": "cursor", "cursor": "next", "cursor_param": "after"})},
		{"`next_url`", list, paging(map[string]any{"type": "next_url", "next_url": "next_url"})},
		{"`link`", list, paging(map[string]any{"type": "link"})},
	}
}

// paging compares the ways to find the pages of a list, and measures a chain of slow pages.
func (b *bench) paging(ctx context.Context) (_ string, err error) {
	server, err := b.startServer(ctx, nil)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, server.close()) }()
	ways := b.ways()
	if _, _, err := server.export(ctx, request{title: "first", source: b.rowsURL(b.pagingRows), limit: exportLimit}, b.pagingRows); err != nil {
		return "", err // not measured: the server has just started
	}
	times := make([][]float64, len(ways))
	for i := range b.pagingPairs {
		for k, w := range ways {
			progress("run %d of %d: %s", i+1, b.pagingPairs, w.name)
			took, _, err := server.export(ctx, request{title: fmt.Sprintf("%s %d", w.name, i),
				source: w.url(b.pagingRows), limit: exportLimit, fields: w.fields}, b.pagingRows)
			if err != nil {
				return "", fmt.Errorf("%s: %w", w.name, err)
			}
			times[k] = append(times[k], took.Seconds())
		}
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%s rows, %s a page, %d requests in flight where the pages are independent, through a running "+
		"`sheaf serve`, submitted to downloaded; %d runs each. The pages of a chain are requested one after another.\n\n"+
		"| | seconds | rows a second | ÷ the standard format |\n|---|---|---|---|\n", thousands(b.pagingRows),
		thousands(exportLimit), exportConn, b.pagingPairs)
	for k, w := range ways {
		ratio := ""
		if k > 0 {
			ratio = of(times[k], times[0]).String()
		}
		fmt.Fprintf(&text, "| %s | %.2f | %s | %s |\n", w.name, median(times[k]),
			thousands(int(float64(b.pagingRows)/median(times[k]))), ratio)
	}
	ratio := median(of(times[1], times[0]))
	b.target("`page` and a total, by paths, against the standard format", "at most 1.1×", fmt.Sprintf("%.2f×", ratio), ratio <= 1.1)

	chain, err := b.slowChain(ctx, server)
	return text.String() + chain, err
}

// slowWait is the latency of each page of a slow chain.
const slowWait = 5 * time.Millisecond

// slowChain measures a chain of pages with a latency, against the sum of the latencies.
func (b *bench) slowChain(ctx context.Context, server *server) (string, error) {
	const limit = 10
	fields := map[string]any{"rows": "items", "param": map[string]any{"limit": limit, "wait": slowWait.String()},
		"paging": map[string]any{"type": "cursor", "cursor": "next", "cursor_param": "after"}}
	var took, waited []float64
	for i := range b.pagingPairs {
		progress("run %d of %d: %d slow pages", i+1, b.pagingPairs, b.chainPages)
		before, err := b.waited(ctx, server)
		if err != nil {
			return "", err
		}
		t, _, err := server.export(ctx, request{title: fmt.Sprintf("slow %d", i),
			source: fmt.Sprintf("%s/lists/%d", b.source.first, b.chainPages*limit), fields: fields}, b.chainPages*limit)
		if err != nil {
			return "", err
		}
		after, err := b.waited(ctx, server)
		if err != nil {
			return "", err
		}
		took, waited = append(took, t.Seconds()), append(waited, (after-before).Seconds())
	}
	ratio := of(took, waited)
	b.target(fmt.Sprintf("`cursor` over %s pages with a latency of %s, against the sum of the latencies", thousands(b.chainPages), slowWait),
		"at most 1.15×", fmt.Sprintf("%.2f×", median(ratio)), median(ratio) <= 1.15)
	return fmt.Sprintf("\n%s pages of a `cursor` list with a latency of %s take %.2f s; the source waits %.2f s: %s×.\n",
		thousands(b.chainPages), slowWait, median(took), median(waited), ratio), nil
}

// waited returns the sum of the latencies of the source so far.
func (b *bench) waited(ctx context.Context, server *server) (d time.Duration, err error) {
	res, err := server.do(ctx, http.MethodGet, b.source.first+"/waited", nil)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil {
		err = json.Unmarshal(body, &d)
	}
	return d, err
}
