//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"
)

// openConsoles is the number of open consoles beside small exports.
const openConsoles = 10

// consoles measures how much open consoles slow down small exports, in pairs with and without them.
func (b *bench) consoles(ctx context.Context) (_ string, err error) {
	e, stop, err := b.startExporter(ctx)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, stop()) }()
	var ratios []float64
	for pair := range b.consolePairs {
		var rates [2]float64 // without, with
		for turn := range 2 {
			with := (pair + turn) % 2
			progress("pair %d of %d, %d consoles", pair+1, b.consolePairs, with*openConsoles)
			if rates[with], err = b.besideConsoles(ctx, e, with*openConsoles); err != nil {
				return "", err
			}
		}
		ratios = append(ratios, rates[1]/rates[0])
	}
	slices.Sort(ratios)
	median := ratios[len(ratios)/2]
	b.target(fmt.Sprintf("small exports a second beside %d open consoles, against without", openConsoles),
		"at least 0.95×", fmt.Sprintf("%.2f×", median), median >= 0.95)
	return fmt.Sprintf("Small exports with callbacks by %d callers for %s, with %d open lists of the console and without, in %d pairs: "+
		"%.2f× as many a second (%.2f to %.2f).\n", b.callers, b.consoleTime, openConsoles, len(ratios), median, ratios[0],
		ratios[len(ratios)-1]), nil
}

// besideConsoles returns the small exports a second beside n open consoles.
func (b *bench) besideConsoles(ctx context.Context, e *exporter, n int) (float64, error) {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	defer func() { cancel(); group.Wait() }()
	for range n {
		lines, err := e.server.openConsole(ctx)
		if err != nil {
			return 0, err
		}
		group.Go(func() {
			for lines.Scan() {
			}
		})
	}
	end := time.Now().Add(b.consoleTime)
	latencies, took, err := e.crowd(ctx, b.callers, func(int) bool { return !time.Now().Before(end) }, e.byCallback)
	return float64(len(latencies)) / took.Seconds(), err
}

// openConsole opens the stream of a list of the console, as its page does.
func (s *server) openConsole(ctx context.Context) (*bufio.Scanner, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.base+"/console/events?top=1", nil)
	if err != nil {
		return nil, err
	}
	res, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { _ = res.Body.Close() })
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the console's stream answered %s", res.Status)
	}
	return bufio.NewScanner(res.Body), nil
}
