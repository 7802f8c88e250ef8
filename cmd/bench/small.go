//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// exporter runs small exports, in sequence or concurrently.
type exporter struct {
	server   *server
	receiver *receiver
	source   string
	n        atomic.Int64 // gives each export a unique title: equal ones would be deduplicated
}

// byCallback runs an export with a callback: submit, wait for the callback, download.
func (e *exporter) byCallback(ctx context.Context) (time.Duration, error) {
	callback, received := e.receiver.expect()
	begin := time.Now()
	if _, err := e.submit(ctx, callback); err != nil {
		return 0, err
	}
	select {
	case d := <-received:
		return e.finish(ctx, begin, d)
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// pollEvery is the polling interval of byAsking.
const pollEvery = 2 * time.Millisecond

// byAsking runs an export without a callback: it polls the detail until the file is ready.
func (e *exporter) byAsking(ctx context.Context) (time.Duration, error) {
	begin := time.Now()
	key, err := e.submit(ctx, "")
	if err != nil {
		return 0, err
	}
	d, err := e.server.wait(ctx, key, pollEvery)
	if err != nil {
		return 0, err
	}
	return e.finish(ctx, begin, d)
}

func (e *exporter) submit(ctx context.Context, callback string) (string, error) {
	return e.server.submit(ctx, request{fmt.Sprintf("small %d", e.n.Add(1)), e.source, smallLimit, callback, nil})
}

func (e *exporter) finish(ctx context.Context, begin time.Time, d detail) (time.Duration, error) {
	if err := d.succeeded(); err != nil {
		return 0, err
	}
	_, err := e.server.download(ctx, d.DownURL, io.Discard)
	return time.Since(begin), err
}

// crowd runs exports from concurrent callers, each caller one after another. It starts no more once enough
// returns true for the number started. It returns the latency of each export and the total time.
func (e *exporter) crowd(ctx context.Context, callers int, enough func(started int) bool,
	once func(context.Context) (time.Duration, error)) ([]time.Duration, time.Duration, error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var started atomic.Int64
	latencies := make([][]time.Duration, callers)
	var group sync.WaitGroup
	begin := time.Now()
	for i := range callers {
		group.Go(func() {
			for !enough(int(started.Add(1)) - 1) {
				took, err := once(ctx)
				if err != nil {
					stop(err)
					return
				}
				latencies[i] = append(latencies[i], took)
			}
		})
	}
	group.Wait()
	took := time.Since(begin)
	var all []time.Duration
	for _, l := range latencies {
		all = append(all, l...)
	}
	if len(all) == 0 {
		return nil, 0, errors.Join(context.Cause(ctx), errors.New("no export ended"))
	}
	return all, took, context.Cause(ctx)
}

// startExporter starts a server and a receiver for small exports, and warms them up with a few exports.
func (b *bench) startExporter(ctx context.Context) (_ *exporter, stop func() error, err error) {
	server, err := b.startServer(ctx, nil)
	if err != nil {
		return nil, nil, err
	}
	receiver, err := startReceiver()
	if err != nil {
		return nil, nil, errors.Join(err, server.close())
	}
	e := &exporter{server: server, receiver: receiver, source: b.rowsURL(smallRows)}
	stop = func() error {
		err := server.close()
		receiver.close()
		return err
	}
	for range 20 {
		if _, err := e.byCallback(ctx); err != nil {
			return nil, nil, errors.Join(err, stop())
		}
	}
	return e, stop, nil
}

// small measures the latency and throughput of small exports.
func (b *bench) small(ctx context.Context) (string, error) {
	var text, notes strings.Builder
	fmt.Fprintf(&text, "%d rows in %d pages, from before the submission by REST to the last byte of the download; everything durable. "+
		"A caller is called back, or asks for the detail every %d ms:\n\n"+
		"| | exports | p50 | p90 | p99 | exports a second | processor time each |\n|---|---|---|---|---|---|---|\n", smallRows,
		pageCount(smallLimit, smallRows), pollEvery.Milliseconds())
	for _, way := range []struct {
		name string
		once func(*exporter, context.Context) (time.Duration, error)
	}{{"called back", (*exporter).byCallback}, {"asking", (*exporter).byAsking}} {
		for _, callers := range []int{1, b.callers} {
			progress("%d callers, %s", callers, way.name)
			e, stop, err := b.startExporter(ctx)
			if err != nil {
				return "", err
			}
			enough := func(started int) bool { return started >= b.smallExports }
			name := "one caller, " + way.name
			if callers > 1 {
				end := time.Now().Add(b.sustained)
				enough = func(int) bool { return !time.Now().Before(end) }
				name = fmt.Sprintf("%d callers for %s, %s", callers, b.sustained, way.name)
			}
			cpu, err := e.server.cpu()
			if err != nil {
				return "", errors.Join(err, stop())
			}
			latencies, took, err := e.crowd(ctx, callers, enough,
				func(ctx context.Context) (time.Duration, error) {
					return way.once(e, ctx)
				})
			after, cpuErr := e.server.cpu()
			if err := errors.Join(err, cpuErr, stop()); err != nil {
				return "", err
			}
			cpu = (after - cpu) / time.Duration(len(latencies))
			notes.WriteString(e.server.busyNote())
			each := float64(len(latencies)) / took.Seconds()
			if p50 := percentile(latencies, 50); callers == 1 {
				b.target(fmt.Sprintf("a %d-row export, submit to download, %s, p50", smallRows, way.name),
					"at most 25 ms", milliseconds(p50)+" ms", p50 <= 25*time.Millisecond)
			} else {
				b.target(fmt.Sprintf("such exports a second, %d callers, %s", callers, way.name),
					"at least 200", fmt.Sprintf("%.0f", each), each >= 200)
			}
			fmt.Fprintf(&text, "| %s | %s | %s ms | %s ms | %s ms | %.0f | %s ms |\n", name,
				thousands(len(latencies)),
				milliseconds(percentile(latencies, 50)), milliseconds(percentile(latencies, 90)),
				milliseconds(percentile(latencies, 99)),
				each, milliseconds(cpu))
		}
	}
	return text.String() + notes.String(), nil
}

// fairness holds the latencies of small exports alone, and beside a large one that runs all the time.
type fairness struct {
	alone, beside           []time.Duration
	largeAlone, largeBeside time.Duration
	peak                    int64
	busy                    string
}

func (f fairness) ratio(p float64) float64 {
	return float64(percentile(f.beside, p)) / float64(percentile(f.alone, p))
}

func (b *bench) measureFairness(ctx context.Context) (f fairness, err error) {
	e, stop, err := b.startExporter(ctx)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	progress("%d small exports alone", b.fairExports)
	f.alone, _, err = e.crowd(ctx, b.callers,
		func(started int) bool { return started >= b.fairExports }, e.byCallback)
	if err != nil {
		return f, err
	}
	progress("a large export alone")
	large := request{"large, alone", b.rowsURL(b.fairGiant), exportLimit, "", nil}
	if f.largeAlone, _, err = e.server.export(ctx, large, b.fairGiant); err != nil {
		return f, err
	}

	progress("small exports beside a large one")
	ended := make(chan error, 1)
	var over atomic.Bool
	go func() {
		defer over.Store(true)
		var err error
		large.title = "large, beside small ones"
		f.largeBeside, _, err = e.server.export(ctx, large, b.fairGiant)
		ended <- err
	}()
	f.beside, _, err = e.crowd(ctx, b.callers, func(int) bool { return over.Load() }, e.byCallback)
	if err := errors.Join(err, <-ended); err != nil {
		return f, err
	}
	f.busy = e.server.busyNote()
	f.peak, err = e.server.peak()
	return f, err
}

// fair measures whether a large export delays small ones.
func (b *bench) fair(ctx context.Context) (string, error) {
	f, err := b.measureFairness(ctx)
	if err != nil {
		return "", err
	}
	b.target(fmt.Sprintf("p99 of small exports beside one of %s rows, against alone", thousands(b.fairGiant)),
		"at most 5×", fmt.Sprintf("%.1f×", f.ratio(99)), f.ratio(99) <= 5)
	var text strings.Builder
	fmt.Fprintf(&text, "Exports of %d rows by %d concurrent callers with callbacks, on one `sheaf serve`: alone, and for as long as an export of %s rows is under way "+
		"(%.1f s; alone it takes %.1f s).\n\n| | exports | p50 | p99 | max |\n|---|---|---|---|---|\n",
		smallRows, b.callers, thousands(b.fairGiant), f.largeBeside.Seconds(), f.largeAlone.Seconds())
	for _, r := range []struct {
		name      string
		latencies []time.Duration
	}{{"alone", f.alone}, {"beside the large one", f.beside}} {
		fmt.Fprintf(&text, "| %s | %s | %s ms | %s ms | %s ms |\n", r.name, thousands(len(r.latencies)),
			milliseconds(percentile(r.latencies, 50)),
			milliseconds(percentile(r.latencies, 99)), milliseconds(percentile(r.latencies, 100)))
	}
	fmt.Fprintf(&text, "| ratio | | %.1f | %.1f | |\n\nPeak memory of the server: %s.\n", f.ratio(50),
		f.ratio(99), mebibytes(f.peak))
	text.WriteString(f.busy)
	return text.String(), nil
}
