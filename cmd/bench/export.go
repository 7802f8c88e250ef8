//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// exportLimit and exportConn are the limit and concurrency of all large exports.
const exportLimit, exportConn = 1000, 8

// export compares whole exports over HTTP.
func (b *bench) export(ctx context.Context) (_ string, err error) {
	source := b.rowsURL(b.exportRows)
	server, err := b.startServer(ctx, nil)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, server.close()) }()

	type runs struct {
		name    string
		once    func(i int) (usage, error)
		times   []float64
		cpu     []float64
		peak    int64
		size    int64
		outFile string
	}
	limit, conn := fmt.Sprint(exportLimit), fmt.Sprint(exportConn)
	byHand := &runs{name: "written by hand, nothing durable", outFile: filepath.Join(b.dir, "baseline.zip")}
	byHand.once = func(int) (usage, error) {
		return run(ctx, b.baseline, "-o", byHand.outFile, "-limit", limit, "-conn", conn, source)
	}
	oneShot := &runs{name: "`sheaf export URL -o FILE`, with its start and end; nothing but the file stays, so nothing is synced", outFile: filepath.Join(b.dir, "sheaf.zip")}
	oneShot.once = func(int) (usage, error) {
		return run(ctx, b.sheaf, "export", source, "-f", "-o", oneShot.outFile, "--limit", limit,
			"--conn", conn)
	}
	served := &runs{name: "a running `sheaf serve`, submitted to downloaded"}
	served.once = func(i int) (u usage, err error) {
		before, err := server.cpu()
		if err != nil {
			return u, err
		}
		u.wall, served.size, err = server.export(ctx,
			request{fmt.Sprintf("export %d", i), source, exportLimit, "", nil}, b.exportRows)
		if err != nil {
			return u, err
		}
		after, err := server.cpu()
		u.cpu = after - before
		if err != nil {
			return u, err
		}
		u.peak, err = server.peak()
		return u, err
	}
	thrown := &runs{name: "fetching the pages and throwing them away"}
	thrown.once = func(int) (usage, error) {
		u, err := run(ctx, b.self, "floor", "-limit", limit, "-conn", conn, source)
		if err != nil {
			return u, err
		}
		return u, json.Unmarshal([]byte(u.out), &u.peak)
	}

	all := []*runs{byHand, oneShot, served, thrown}
	for i := range b.exportPairs {
		for _, r := range all {
			progress("run %d of %d: %s", i+1, b.exportPairs, r.name)
			u, err := r.once(i)
			if err != nil {
				return "", err
			}
			r.times = append(r.times, u.wall.Seconds())
			r.cpu = append(r.cpu, u.cpu.Seconds())
			r.peak = max(r.peak, u.peak)
			if r.outFile != "" {
				info, err := os.Stat(r.outFile)
				if err != nil {
					return "", err
				}
				r.size = info.Size()
			}
		}
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%s rows of 8 mixed columns, %s a page, %d requests in flight, from the source's first byte to a zip on disk; %d runs each. "+
		"The program written by hand is [cmd/bench/baseline](cmd/bench/baseline/main.go): net/http, encoding/json, StreamWriter, zip.\n\n"+
		"| | seconds | by hand ÷ this | processor seconds | file | peak memory |\n|---|---|---|---|---|---|\n",
		thousands(b.exportRows), thousands(exportLimit), exportConn, b.exportPairs)
	for _, r := range []*runs{served, oneShot} {
		ratio := median(of(byHand.times, r.times))
		what := "a whole durable export"
		if r == oneShot {
			what = "one command"
		}
		b.target(what+" against the program written by hand: "+r.name, "at least 5×",
			fmt.Sprintf("%.1f×", ratio), ratio >= 5)
	}
	for _, r := range all {
		times, size := "", ""
		if r != byHand {
			times = of(byHand.times, r.times).String()
		}
		if r.size > 0 {
			size = megabytes(r.size)
		}
		fmt.Fprintf(&text, "| %s | %.2f | %s | %.2f | %s | %s |\n", r.name, median(r.times), times,
			median(r.cpu), size, mebibytes(r.peak))
	}
	return text.String(), nil
}

// floor is the process "bench floor": it fetches all pages of a source, discards them, and prints its peak
// memory in bytes.
func floor(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("floor", flag.ContinueOnError)
	limit := flags.Int("limit", exportLimit, "")
	conn := flags.Int("conn", exportConn, "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	source := flags.Arg(0)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: *conn}}
	fetch := func(page int, to io.Writer) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet,
			fmt.Sprintf("%s?page=%d&limit=%d", source, page, *limit), nil)
		if err != nil {
			return err
		}
		res, err := client.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return errors.New(res.Status)
		}
		_, err = io.Copy(to, res.Body)
		return err
	}
	var first strings.Builder
	if err := fetch(1, &first); err != nil {
		return err
	}
	var answer struct {
		Data struct {
			Pagetag struct {
				TotalPage int64 `json:"total_page"`
			} `json:"pagetag"`
		} `json:"data"`
	}
	if err := json.Unmarshal([]byte(first.String()), &answer); err != nil {
		return err
	}
	var next atomic.Int64
	next.Store(1)
	failed := make([]error, *conn)
	var fetchers sync.WaitGroup
	for i := range failed {
		fetchers.Go(func() {
			for {
				n := next.Add(1)
				if n > answer.Data.Pagetag.TotalPage {
					return
				}
				if failed[i] = fetch(int(n), io.Discard); failed[i] != nil {
					return
				}
			}
		})
	}
	fetchers.Wait()
	if err := errors.Join(failed...); err != nil {
		return err
	}
	peak, err := peakOf("self")
	fmt.Println(peak)
	return err
}

// scaling exports more and more rows, each time through a new server.
func (b *bench) scaling(ctx context.Context) (string, error) {
	var text strings.Builder
	fmt.Fprintf(&text, "Through a `sheaf serve` that was just started, submitted to downloaded, %s rows a page:\n\n"+
		"| rows | seconds | µs a row | peak memory | file |\n|---|---|---|---|---|\n", thousands(exportLimit))
	for _, total := range b.scales {
		progress("%s rows", thousands(total))
		var flags []string
		if b.large {
			flags = []string{"--max-pages-bytes", "1TiB", "--max-export-bytes", "1TiB", "--max-rows", "1000000000",
				"--max-pages", "10000000"}
		}
		server, err := b.startServer(ctx, nil, flags...)
		if err != nil {
			return "", err
		}
		took, size, err := server.export(ctx, request{"scaling", b.rowsURL(total), exportLimit, "", nil}, total)
		peak, err2 := server.peak()
		if err := errors.Join(err, err2, server.close()); err != nil {
			return "", err
		}
		if total >= 1_000_000 {
			b.target(fmt.Sprintf("peak memory at %s rows", thousands(total)), "at most 192 MiB",
				mebibytes(peak), peak <= 192<<20)
		}
		fmt.Fprintf(&text, "| %s | %.2f | %.2f | %s | %s |\n", thousands(total), took.Seconds(),
			float64(took)/float64(time.Microsecond)/float64(total), mebibytes(peak), megabytes(size))
	}
	return text.String(), nil
}
