//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/pprof/profile"
)

// The stages of an export, in the order of the table.
const (
	stageFetch      = "fetch: HTTP client, crawler"
	stageScan       = "scan and check the answer"
	stageCompress   = "compress pages (S2)"
	stagePublish    = "publish: NATS client"
	stageStore      = "publish: NATS server and its store"
	stageConsume    = "consume: NATS server and client"
	stageDecompress = "decompress pages"
	stageCells      = "decode, cells, sheet XML"
	stageDeflate    = "deflate"
	stageHash       = "hash: SHA-256, CRC-32, HighwayHash"
	stageFile       = "write and read the workbook's file"
	stageSync       = "fsync (processor time only)"
	stageAnswer     = "answer callers, download"
	stageMemory     = "allocate and collect garbage"
	stageSchedule   = "schedule goroutines"
	stageOther      = "other"
)

var stageOrder = []string{
	stageFetch, stageScan, stageCompress, stagePublish, stageStore, stageConsume, stageDecompress, stageCells,
	stageDeflate, stageHash, stageFile, stageSync, stageAnswer, stageMemory, stageSchedule, stageOther,
}

const (
	natsServer = "github.com/nats-io/nats-server/v2/server."
	natsClient = "github.com/nats-io/nats.go"
	codecs     = "github.com/klauspost/compress/"
)

// rule assigns functions whose names begin with prefix to a stage, if under is "" or the name of a caller
// begins with under.
type rule struct{ prefix, under, stage string }

// rules are tried in order for each frame, from the leaf up. The first frame with a match decides. Frames
// without one, such as runtime.memmove or syscall.write, count for their caller.
var rules = []rule{
	{"runtime.mallocgc", "", stageMemory},
	{"runtime.growslice", "", stageMemory},
	{"runtime.makeslice", "", stageMemory},
	{"runtime.gcBgMarkWorker", "", stageMemory},
	{"runtime.gcDrain", "", stageMemory},
	{"runtime.gcAssistAlloc", "", stageMemory},
	{"runtime.gcWriteBarrier", "", stageMemory},
	{"runtime.bgsweep", "", stageMemory},
	{"runtime.bgscavenge", "", stageMemory},
	{"runtime.mcall", "", stageSchedule},
	{"runtime.mstart", "", stageSchedule},
	{"runtime.schedule", "", stageSchedule},

	{"crypto/sha256.", "", stageHash},
	{"crypto/internal/fips140/sha256.", "", stageHash},
	{"hash/crc32.", "", stageHash},
	{"github.com/minio/highwayhash.", "", stageHash},
	{codecs + "flate.", "", stageDeflate},
	{codecs, "sheaf/services/assembler/encode/xlsx.deflate", stageDeflate},
	{codecs, "sheaf/events/pages.decompress", stageDecompress},
	{codecs, "", stageCompress},
	{"os.(*File).Sync", "", stageSync},

	{natsServer, natsServer + "(*stream).processDirectGet", stageConsume},
	{natsServer, natsServer + "(*stream).getDirect", stageConsume},
	{natsServer, natsServer + "(*client).writeLoop", stageConsume},
	{natsServer + "(*client).writeLoop", "", stageConsume},
	{natsServer + "(*client).processInboundClientMsg", natsServer + "(*stream).internalLoop", stageConsume},
	{natsServer, natsServer + "(*client).processInboundClientMsg", stageStore},
	{natsServer + "(*consumer)", "", stageConsume},
	{natsServer, "", stageStore},
	{natsClient, "sheaf/events/pages.(*Store).Get", stageConsume},
	{natsClient, natsClient + ".(*Conn).readLoop", stageConsume},
	{natsClient + ".(*Conn).readLoop", "", stageConsume},
	{natsClient, "", stagePublish},
	{"github.com/synadia-io/orbit.go/jetstreamext.", "", stagePublish},
	{"sheaf/events/pages.(*Store).Get", "", stageConsume},
	{"sheaf/events/pages.(*Store).getPart", "", stageConsume},
	{"sheaf/events/pages.decodePage", "", stageConsume},
	{"sheaf/events/pages.decompress", "", stageDecompress},
	{"sheaf/events/pages.(*Store).PublishSized", "", stagePublish},
	{"sheaf/events/pages.(*Store).encodePage", "", stagePublish},

	{"sheaf/events/rows.", "sheaf/services/assembler/encode/xlsx.", stageCells},
	{"sheaf/events/rows.", "", stageScan},
	{"os.(*File)", "sheaf/services/assembler/encode/xlsx.", stageFile},
	{"os.(*File)", "sheaf/storage.", stageFile},
	{"sheaf/services/assembler/encode/xlsx.", "sheaf/services/assembler/encode/xlsx.deflate", stageDeflate},
	{"sheaf/services/assembler/encode/xlsx.deflate", "", stageDeflate},
	{"sheaf/services/assembler/encode/xlsx.", "", stageCells},
	{"sheaf/services/crawler.", "", stageFetch},
	{"sheaf/services/crawler/source.", "", stageFetch},
	{"net/http.(*persistConn)", "", stageFetch},
	{"net/http.(*Transport)", "", stageFetch},
	{"sheaf/services/ingress.", "", stageAnswer},
	{"net/http.(*conn)", "", stageAnswer},
}

// stageOf returns the stage of a stack: the names of its functions from the leaf up.
func stageOf(stack []string) string {
	for i, name := range stack {
		for _, r := range rules {
			if strings.HasPrefix(name, r.prefix) &&
				(r.under == "" || slices.ContainsFunc(stack[i+1:], func(caller string) bool {
					return strings.HasPrefix(caller, r.under)
				})) {
				return r.stage
			}
		}
	}
	return stageOther
}

// plainName reverts the linker's escape of a dot in the last element of an import path.
func plainName(symbol string) string { return strings.ReplaceAll(symbol, "%2e", ".") }

// attribute sums up the processor time of a profile by stage.
func attribute(r io.Reader) (byStage map[string]time.Duration, total time.Duration, err error) {
	p, err := profile.Parse(r)
	if err != nil {
		return nil, 0, err
	}
	value := slices.IndexFunc(p.SampleType, func(t *profile.ValueType) bool {
		return t.Type == "cpu" && t.Unit == "nanoseconds"
	})
	if value < 0 {
		return nil, 0, errors.New("the profile has no processor time")
	}
	byStage = map[string]time.Duration{}
	var stack []string
	for _, s := range p.Sample {
		stack = stack[:0]
		for _, l := range s.Location {
			for _, line := range l.Line { // the innermost of inlined functions comes first
				if line.Function != nil {
					stack = append(stack, plainName(line.Function.Name))
				}
			}
		}
		took := time.Duration(s.Value[value])
		byStage[stageOf(stack)] += took
		total += took
	}
	return byStage, total, nil
}

// costs is the processor time of one large export.
type costs struct {
	byStage map[string]time.Duration
	total   time.Duration // of the profile
	wall    time.Duration
	// Processor time during the export.
	sheaf, source, caller time.Duration
}

// profiled runs an export through a server that writes a profile.
func (b *bench) profiled(ctx context.Context, large request, rows int) (c costs, err error) {
	prof := filepath.Join(b.dir, "cpu.prof")
	server, err := b.startServer(ctx, nil, "--cpuprofile", prof)
	if err != nil {
		return c, err
	}
	used := map[*process]*time.Duration{server.process: &c.sheaf, b.source: &c.source,
		{pid: os.Getpid()}: &c.caller}
	count := func(sign time.Duration) error {
		for p, sum := range used {
			cpu, err := p.cpu()
			if err != nil {
				return err
			}
			*sum += sign * cpu
		}
		return nil
	}
	err = count(-1)
	wall, _, err2 := server.export(ctx, large, rows)
	if err := errors.Join(err, err2, count(1), server.close()); err != nil {
		return c, err
	}
	c.wall = wall
	f, err := os.Open(prof)
	if err != nil {
		return c, err
	}
	defer f.Close()
	c.byStage, c.total, err = attribute(f)
	return c, err
}

// stages breaks down the time of one large export by stage.
func (b *bench) stages(ctx context.Context) (string, error) {
	progress("an export with a profile")
	large := request{"stages", b.rowsURL(b.stageRows), exportLimit, "", nil}
	c, err := b.profiled(ctx, large, b.stageRows)
	if err != nil {
		return "", err
	}
	// Every export spends time in these.
	for _, stage := range []string{stageScan, stageStore, stageCells, stageDeflate} {
		if c.byStage[stage] == 0 && c.total > time.Second {
			return "", fmt.Errorf("the profile has nothing in the stage %q: the rules do not fit the program any more", stage)
		}
	}
	var text strings.Builder
	fmt.Fprintf(&text, "Processor time of `sheaf serve` from its start to its end with one export of %s rows in between. Each sample of a profile (100 a second) counts for the "+
		"first function from the leaf up that belongs to a stage ([cmd/bench/stages.go](cmd/bench/stages.go)).\n\n"+
		"| stage | seconds | µs a row | share |\n|---|---|---|---|\n", thousands(b.stageRows))
	line := func(name string, d time.Duration) {
		fmt.Fprintf(&text, "| %s | %.2f | %.3f | %.1f %% |\n", name, d.Seconds(),
			float64(d)/float64(time.Microsecond)/float64(b.stageRows),
			100*float64(d)/float64(max(c.total, 1)))
	}
	for _, stage := range stageOrder {
		line(stage, c.byStage[stage])
	}
	line("**all**", c.total)
	cores := runtime.NumCPU()
	all := time.Duration(cores) * c.wall
	fmt.Fprintf(&text, "\nThe export took %.2f s, which is %.2f s of %d cores: Sheaf %.2f, the source %.2f, the caller %.2f; for %.2f the cores were idle or did something else.\n",
		c.wall.Seconds(), all.Seconds(), cores, c.sheaf.Seconds(), c.source.Seconds(), c.caller.Seconds(),
		(all - c.sheaf - c.source - c.caller).Seconds())
	syncs, err := b.syncs(ctx, large)
	text.WriteString(syncs)
	return text.String(), err
}

// syncs repeats the export under strace, which records each fsync. fsyncs take little processor time, but the
// server waits for them.
func (b *bench) syncs(ctx context.Context, large request) (string, error) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		return "\nThe waits for fsync were not measured: there is no strace.\n", nil
	}
	progress("an export under strace")
	traced := filepath.Join(b.dir, "strace")
	server, err := b.startServer(ctx,
		[]string{strace, "-f", "--seccomp-bpf", "-ttt", "-T", "-e", "trace=fsync,fdatasync", "-e",
			"signal=none", "-o", traced})
	if err != nil {
		return "", err
	}
	begin := time.Now()
	wall, _, err := server.export(ctx, large, b.stageRows)
	end := begin.Add(wall)
	if err := errors.Join(err, server.close()); err != nil {
		return "", err
	}
	f, err := os.Open(traced)
	if err != nil {
		return "", err
	}
	defer f.Close()
	all, err := readSyncs(f)
	if err != nil {
		return "", err
	}
	all = slices.DeleteFunc(all, func(s span) bool { return s.end.Before(begin) || s.begin.After(end) })
	if len(all) == 0 {
		return "", errors.New("strace saw no fsync: acknowledged data is not on disk")
	}
	var sum time.Duration
	took := make([]time.Duration, len(all))
	for i, s := range all {
		took[i] = s.end.Sub(s.begin)
		sum += took[i]
	}
	return fmt.Sprintf("\nIn a second run (%.2f s) strace saw %s calls of fsync that took %.2f s together, p50 %s ms, p99 %s ms, the longest %s ms; "+
		"during %.2f s at least one was under way.\n",
		wall.Seconds(), thousands(len(all)), sum.Seconds(), milliseconds(percentile(took, 50)),
		milliseconds(percentile(took, 99)), milliseconds(percentile(took, 100)), covered(all).Seconds()), nil
}

// span is one call, from begin to end.
type span struct{ begin, end time.Time }

// A call is one line that begins with its start time. If another thread makes a call meanwhile, the result is
// on a separate line with its end time.
var syncLine = regexp.MustCompile(`^\d+ +(\d+\.\d+) (<\.\.\. )?f(?:data)?sync.*<(\d+\.\d+)>$`)

// readSyncs reads the output of strace -f -ttt -T.
func readSyncs(r io.Reader) (all []span, err error) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		m := syncLine.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		at, err := strconv.ParseFloat(m[1], 64)
		took, err2 := strconv.ParseFloat(m[3], 64)
		if err := errors.Join(err, err2); err != nil {
			return nil, err
		}
		s := span{begin: time.UnixMicro(int64(at * 1e6))}
		d := time.Duration(took * float64(time.Second))
		if m[2] != "" {
			s.begin = s.begin.Add(-d)
		}
		s.end = s.begin.Add(d)
		all = append(all, s)
	}
	return all, lines.Err()
}

// covered returns how long at least one of the spans was active.
func covered(all []span) (total time.Duration) {
	all = slices.SortedFunc(slices.Values(all), func(a, b span) int { return a.begin.Compare(b.begin) })
	var until time.Time
	for _, s := range all {
		if s.begin.Before(until) {
			s.begin = until
		}
		if s.end.After(s.begin) {
			total += s.end.Sub(s.begin)
			until = s.end
		}
	}
	return total
}
