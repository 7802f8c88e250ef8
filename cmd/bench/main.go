//go:build linux

// Command bench measures Sheaf against its targets and prints the results as Markdown. Run it on a quiet
// machine:
//
//	go run ./cmd/bench                  # all parts, about ten minutes
//	go run ./cmd/bench -quick           # smaller sizes, for a first impression
//	go run ./cmd/bench -only export,small
//	go run ./cmd/bench -only scaling -rows 20000000
//	go run ./cmd/bench -results         # also replace the section in RESULTS.md
//
// It must run in the project's folder. It builds the programs that it measures: sheaf, and baseline, a
// typical hand-written exporter (cmd/bench/baseline). Everything is a separate process: the source that
// generates the rows, Sheaf, the baseline, and each run of a sheet writer. This process only sends requests,
// receives callbacks and measures time.
//
// Times are wall-clock times. Programs that are compared run in turns. The ratio is the median over
// neighbouring pairs, with the range beside it, so a temporarily busy machine does not distort it. Peak
// memory is VmHWM or rusage's maxrss.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// sizes are the sizes of the measurements.
type sizes struct {
	writerRows, writerPairs int
	exportRows, exportPairs int
	pagingRows, pagingPairs int
	formatRows, formatPairs int
	chainPages              int
	scales                  []int
	smallExports            int           // in sequence
	sustained               time.Duration // concurrent callers
	stageRows               int
	fairExports, fairGiant  int
	callers                 int
	consolePairs            int
	consoleTime             time.Duration // of each half of a pair
}

var (
	full = sizes{
		writerRows: 500_000, writerPairs: 5,
		exportRows: 500_000, exportPairs: 15,
		pagingRows: 500_000, pagingPairs: 7, chainPages: 1000,
		formatRows: 1_000_000, formatPairs: 5,
		scales:       []int{10_000, 100_000, 1_000_000, 5_000_000},
		smallExports: 1000, sustained: 20 * time.Second,
		stageRows:   1_000_000,
		fairExports: 1000, fairGiant: 5_000_000,
		callers: 32, consolePairs: 7, consoleTime: 8 * time.Second,
	}
	quick = sizes{
		writerRows: 20_000, writerPairs: 1,
		exportRows: 30_000, exportPairs: 2,
		pagingRows: 30_000, pagingPairs: 1, chainPages: 50,
		formatRows: 30_000, formatPairs: 1,
		scales:       []int{1000, 10_000, 100_000},
		smallExports: 30, sustained: 2 * time.Second,
		stageRows:   100_000,
		fairExports: 50, fairGiant: 200_000,
		callers: 8, consolePairs: 1, consoleTime: time.Second,
	}
)

// smallRows is the number of rows of a small export; smallLimit makes that two pages.
const smallRows, smallLimit = 100, 50

// part is one section of the report.
type part struct {
	name    string
	title   string
	measure func(*bench, context.Context) (markdown string, err error)
}

var parts = []part{
	{"writer", "The sheet writer", (*bench).writer},
	{"formats", "Formats", (*bench).formats},
	{"export", "A whole export", (*bench).export},
	{"sources", "Ways to find the pages", (*bench).paging},
	{"scaling", "Scaling", (*bench).scaling},
	{"small", "Small exports", (*bench).small},
	{"consoles", "Small exports beside open consoles", (*bench).consoles},
	{"fair", "Small exports beside a large one", (*bench).fair},
	{"cost", "A small export on a cluster", (*bench).cost},
	{"stages", "Where the time goes", (*bench).stages},
}

// bench is the state shared by all parts.
type bench struct {
	sizes
	dir      string // for all files written
	self     string // path of this program
	sheaf    string
	baseline string
	source   *process
	targets  []target
	large    bool // scaling has sizes beyond the default limits
}

// target is a figure that Sheaf should reach, and the measured one.
type target struct {
	what, want, got string
	met             bool
}

func (b *bench) target(what, want, got string, met bool) {
	b.targets = append(b.targets, target{what, want, got, met})
}

// targetTable lists which targets this run met; "" if it measured none.
func targetTable(targets []target) string {
	if len(targets) == 0 {
		return ""
	}
	var text strings.Builder
	text.WriteString("\n| target | | measured | |\n|---|---|---|---|\n")
	for _, t := range targets {
		met := "met"
		if !t.met {
			met = "**missed**"
		}
		fmt.Fprintf(&text, "| %s | %s | %s | %s |\n", t.what, t.want, t.got, met)
	}
	return text.String()
}

// rowsURL returns the address of a source of total rows.
func (b *bench) rowsURL(total int) string { return fmt.Sprintf("%s/rows/%d", b.source.first, total) }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// command runs a command line. The first word may name a child process of the benchmark.
func command(ctx context.Context, args []string) error {
	if len(args) > 0 {
		switch args[0] {
		case "source":
			return serveSource(ctx)
		case "floor":
			return floor(ctx, args[1:])
		case "write":
			return write(ctx, args[1:], os.Stdout)
		case "format":
			return writeFormat(ctx, args[1:], os.Stdout)
		}
	}
	names := make([]string, len(parts))
	for i, p := range parts {
		names[i] = p.name
	}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	only := flags.String("only", strings.Join(names, ","), "`parts` to run")
	small := flags.Bool("quick", false,
		"run everything small, in less than two minutes; the figures are not meaningful")
	results := flags.Bool("results", false, "replace the section in cmd/bench/RESULTS.md; needs all parts")
	note := flags.String("note", "", "`sentence` to put above the figures")
	large := flags.String("rows", "", "`sizes` of the part scaling, separated by commas, with as many pages as fit on the disk")
	dir := flags.String("dir", os.TempDir(), "`folder` on the file system to measure on")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	chosen := strings.Split(*only, ",")
	for _, name := range chosen {
		if !slices.Contains(names, name) {
			return fmt.Errorf("-only %s: the parts are %s", name, strings.Join(names, ", "))
		}
	}
	if *results && (len(chosen) < len(parts) || *large != "") {
		return errors.New("-results needs all parts: the figures belong to one machine and one hour")
	}
	b := &bench{sizes: full}
	if *small {
		b.sizes = quick
	}
	if *large != "" {
		b.scales, b.large = nil, true
		for _, text := range strings.Split(*large, ",") {
			total, err := strconv.Atoi(text)
			if err != nil || total < 1 {
				return fmt.Errorf("-rows %s: want numbers of rows", *large)
			}
			b.scales = append(b.scales, total)
		}
	}
	return b.report(ctx, *dir, chosen, *results, *note)
}

// report measures the chosen parts, prints each to stderr when it is done, and all of them to stdout.
func (b *bench) report(ctx context.Context, dir string, chosen []string, results bool,
	note string) (err error) {
	m, err := describe(dir)
	if err != nil {
		return err
	}
	if err := b.open(ctx, dir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	var sections strings.Builder
	for _, p := range parts {
		if !slices.Contains(chosen, p.name) {
			continue
		}
		progress("%s", p.title)
		begin := time.Now()
		section, err := p.measure(b, ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		progress("%s: %s", p.title, time.Since(begin).Round(time.Second))
		section = fmt.Sprintf("\n## %s\n\n%s", p.title, section)
		fmt.Fprint(watcher, section)
		sections.WriteString(section)
	}
	text := m.String()
	if note != "" {
		text += "\n" + note + "\n"
	}
	text += targetTable(b.targets) + sections.String()
	fmt.Print("\n" + text)
	if results {
		return replaceSection("cmd/bench/RESULTS.md", text)
	}
	return nil
}

// open builds the programs and starts the source.
func (b *bench) open(ctx context.Context, dir string) (err error) {
	if b.dir, err = os.MkdirTemp(dir, "sheaf-bench-*"); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(b.dir))
		}
	}()
	progress("building sheaf and the baseline")
	for _, program := range []struct {
		path *string
		pkg  string
	}{{&b.sheaf, "./cmd/sheaf"}, {&b.baseline, "./cmd/bench/baseline"}, {&b.self, "./cmd/bench"}} {
		*program.path = filepath.Join(b.dir, filepath.Base(program.pkg))
		if _, err := run(ctx, "go", "build", "-o", *program.path, program.pkg); err != nil {
			return err
		}
	}
	b.source, err = start(ctx, b.dir, b.self, "source")
	return err
}

func (b *bench) close() error { return errors.Join(b.source.stop(), os.RemoveAll(b.dir)) }

// watcher receives progress messages.
var watcher io.Writer = os.Stderr

// progress prints which step is running.
func progress(format string, args ...any) {
	fmt.Fprintf(watcher, time.Now().Format(time.TimeOnly)+" "+format+"\n", args...)
}
