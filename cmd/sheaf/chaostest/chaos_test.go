//go:build chaos && linux

// The chaos suite: real processes are killed, stopped, restarted and crashed at failpoints while they export
// from a faulty source and call back a faulty receiver. Afterwards an auditor reads the log, the pages, the
// files, REST, the projection, and the counts of the source and the receiver.
//
// It tries to break this promise: once Sheaf has acknowledged a submission, the export ends exactly once, its
// file has every row exactly once and in order, and its callback is delivered at least once with one constant
// webhook-id.
//
// The invariants, by the number that a violation is reported with:
//
//	I1  Every accepted export is in the log under the acknowledged key, and the log has no export that was
//	    not submitted.
//	I2  Each round of an export (from one requested event to the next) has exactly
//	    one terminal event, and every event is one that the state admits.
//	I3  An export completes if it was not cancelled and its source can be read.
//	    One that crashes its process each time fails with CRASHED_WORKER; all
//	    others are unaffected.
//	I4  A completed export's file has the size and SHA-256 of its event, and is
//	    byte for byte the file that an undisturbed Sheaf makes for the same
//	    request. That file has every row once and in order, cell by cell.
//	I5  A page is requested once, plus once for each fault of the source, at most
//	    once for each disturbance during the crawl, and at most once each time
//	    its pages were dropped to free space for an older export. A retry
//	    requests page 1 again. No page is stored twice, and a stored page is not
//	    requested again. (This is exact for one process. Of two, a stopped one
//	    may send a request before it learns that the other has continued.)
//	I6  The callback of each terminal event is delivered at least once, with one
//	    webhook-id, and agrees with the log. No other webhook-id ever arrives.
//	I7  REST agrees with the log about each export, through every ingress.
//	I8  After a sweep the store holds the files of completed exports and nothing
//	    else: no drafts, no orphans, no partial files.
//	I9  A deleted projection is rebuilt with the same digest.
//	I10 All consumers drain: nothing is pending, and no acknowledgement is beyond
//	    the end of the stream.
//	I11 A full replay of the log to crawler, assembler and notifier, in the
//	    middle and at the end, adds no event and no webhook-id.
//	I12 No process exits by itself, panics, or takes more than 20 s after SIGTERM.
//
// A seed, printed at the start, determines the plan: CHAOS_SEED repeats it, although timing on the machine
// differs. CHAOS_EXPORTS, CHAOS_KILLS and CHAOS_DURATION (of the disturbances) set the size. CHAOS_HITS is
// how many hits of each failpoint are tried; CHAOS_FAILPOINT selects one. After a failure the folder with all
// data and logs is kept and named.
package chaostest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/failpoint"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// setting returns a number from the environment.
func setting(t testing.TB, name string, or int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return or
	}
	n, err := strconv.Atoi(text)
	require.NoError(t, err, name)
	return n
}

func chaosSeed(t testing.TB) uint64 {
	t.Helper()
	if text := os.Getenv("CHAOS_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		require.NoError(t, err, "CHAOS_SEED")
		return seed
	}
	return rand.Uint64N(1_000_000)
}

// blow is one disturbance of the plan.
type blow struct {
	at        time.Duration
	kind      string // "kill", "failpoint", "term", "stop", "nats", "replay"
	target    int    // index of the process
	failpoint string // NAME:N
	lasts     time.Duration
}

// plan holds all decisions made before anything runs.
type plan struct {
	seed   uint64
	orders []*order
	blows  []blow
	spread time.Duration
}

// busyFailpoints are hit all the time. TestChaosFailpoints covers the others.
var busyFailpoints = slices.DeleteFunc(slices.Clone(failpoint.Names), func(name string) bool {
	for _, rare := range []string{"purge.", "publish-callback.", "file.delete.", "losses."} {
		if strings.HasPrefix(name, rare) {
			return true
		}
	}
	return false
})

func newPlan(t testing.TB, seed uint64, processes int, split bool) *plan {
	r := rand.New(rand.NewPCG(seed, 1))
	exports, kills := setting(t, "CHAOS_EXPORTS", 100), setting(t, "CHAOS_KILLS", 20)
	p := &plan{seed: seed, spread: time.Duration(kills) * 1500 * time.Millisecond}
	if text := os.Getenv("CHAOS_DURATION"); text != "" {
		var err error
		p.spread, err = time.ParseDuration(text)
		require.NoError(t, err, "CHAOS_DURATION")
	}
	p.orders = newOrders(r, exports, p.spread)
	within := func() time.Duration { return time.Duration(r.Int64N(int64(p.spread) + 1)) }
	for i := range kills {
		b := blow{at: within(), target: r.IntN(processes)}
		switch k := r.IntN(100); {
		case i < max(1, kills/20):
			b.kind, b.lasts = "stop", 11*time.Second+time.Duration(r.IntN(2000))*time.Millisecond
		case split && i < 2*max(1, kills/20)+kills/20:
			b.kind = "nats"
		case k < 55:
			b.kind = "kill"
		case k < 85:
			b.kind = "failpoint"
			b.failpoint = fmt.Sprintf("%s:%d", busyFailpoints[r.IntN(len(busyFailpoints))], 1+r.IntN(4))
		default:
			b.kind = "term"
		}
		p.blows = append(p.blows, b)
	}
	for range 1 + kills/50 {
		p.blows = append(p.blows, blow{at: within(), kind: "replay"})
	}
	slices.SortFunc(p.blows, func(a, b blow) int { return int(a.at - b.at) })
	return p
}

func newOrders(r *rand.Rand, count int, spread time.Duration) []*order {
	orders := make([]*order, count)
	for n := range orders {
		o := &order{n: n, pages: 1, limit: 1 + r.IntN(50), at: time.Duration(r.Int64N(int64(spread) + 1))}
		switch k := r.IntN(100); {
		case k < 35: // one page
		case k < 70:
			o.pages, o.limit = 20+r.IntN(60), 10+r.IntN(40)
		case k < 75:
			o.pages, o.limit = 100+r.IntN(101), 10+r.IntN(191)
		case k < 90:
			o.raw, o.limit = true, 1+r.IntN(2500)
		default: // pages of several parts
			o.pages, o.limit, o.wide = 2+r.IntN(6), 100+r.IntN(200), true
		}
		o.last = 1 + r.IntN(o.limit)
		if o.pages == 1 {
			o.last = o.limit
		}
		o.durable = r.IntN(4) == 0
		o.headers = !o.raw && r.IntN(3) == 0
		switch k := r.IntN(10); {
		case k < 7:
			o.callback = "http"
			o.hangs = n%50 == 7
		case k < 8:
			o.callback = "nats"
		}
		if !o.raw && !o.durable {
			switch k := r.IntN(100); {
			case k < 8:
				o.cancel, o.retry = time.Duration(1+r.IntN(700))*time.Millisecond, r.IntN(2) == 0
			case k < 14:
				o.broken, o.retry = 1+r.IntN(o.pages), true
			}
		}
		orders[n] = o
	}
	return orders
}

// world is the state of one run.
type world struct {
	t         testing.TB
	seed      uint64
	dir       string
	sheaf     string // binary
	natsURL   string
	files     string   // --files
	ingresses []string // base URLs
	processes []*process
	server    *process // nats-server; nil if embedded
	source    *source
	receiver  *receiver
	orders    []*order
	client    *http.Client
	nc        *nats.Conn
	js        jetstream.JetStream
	quiet     map[int]fileFact
	expiring  bool // files expire after a moment
	closing   sync.Once

	mu           sync.Mutex
	disturbances []time.Time
	blows        map[string]int // number of effective blows, by kind
	waiting      time.Time      // since when there was no progress after a start; zero: there is progress
	recoveries   []time.Duration
	problems     []string
	log          map[uint64]events.Event // all events seen, by sequence
	stopRecord   func()
}

const chaosSecret = "5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e"

// callbackSchedule is short, and longer than the receiver's faults last.
const callbackSchedule = "1s,1s,2s,2s,3s,3s,5s,5s,5s,5s,5s,5s"

func newWorld(t testing.TB, seed uint64, orders []*order) *world {
	sheaf, _ := build(t)
	dir, err := os.MkdirTemp("", "sheaf-chaos-")
	require.NoError(t, err)
	w := &world{
		t: t, seed: seed, dir: dir, sheaf: sheaf, orders: orders, blows: map[string]int{},
		log:    map[uint64]events.Event{},
		client: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 32}},
	}
	w.source = newSource(seed, orders, w.moved)
	w.receiver = newReceiver(seed, orders)
	t.Cleanup(w.close)
	return w
}

// close ends everything. After a violation the folder stays for inspection.
func (w *world) close() {
	w.closing.Do(func() {
		if w.nc != nil {
			w.stopRecord()
			w.nc.Close()
		}
		for _, p := range w.processes {
			p.shutdown(syscall.SIGKILL)
		}
		if w.server != nil {
			w.server.shutdown(syscall.SIGKILL)
		}
		w.client.CloseIdleConnections()
		w.receiver.close()
		w.source.server.CloseClientConnections()
		w.source.server.Close()
		if len(w.problems) == 0 {
			_ = os.RemoveAll(w.dir)
		}
	})
}

func (w *world) newProcess(name, path string, args ...string) *process {
	p := &process{name: name, path: path, args: args, log: filepath.Join(w.dir, name+".log")}
	p.ended = func(p *process, how string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.disturbances = append(w.disturbances, time.Now())
		if p == w.server {
			how += " nats-server"
		}
		w.blows[how]++
	}
	p.begun = func(*process) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.waiting = time.Now()
	}
	return p
}

// serve returns a Sheaf process that is not started yet.
func (w *world) serve(name string, args ...string) *process {
	p := w.newProcess(name, w.sheaf, append([]string{
		"serve", "--data", filepath.Join(w.dir, name), "--log-format", "text", "--callback-schedule",
		callbackSchedule,
	}, args...)...)
	w.processes = append(w.processes, p)
	return p
}

// moved records progress: an event, a progress message or a request to the source.
func (w *world) moved() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.waiting.IsZero() {
		w.recoveries = append(w.recoveries, time.Since(w.waiting))
		w.waiting = time.Time{}
	}
}

func (w *world) problem(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.problems = append(w.problems, fmt.Sprintf(format, args...))
}

func (w *world) disturbed() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.disturbances = append(w.disturbances, time.Now())
}

// connect opens the suite's own connection, which survives every server.
func (w *world) connect() {
	var err error
	ok := eventually(w.t.Context(), 30*time.Second, 20*time.Millisecond, func() bool {
		w.nc, err = nats.Connect(w.natsURL, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond),
			nats.ReconnectJitter(0, 0), nats.RetryOnFailedConnect(false))
		return err == nil
	})
	if !ok {
		w.problem("I12 NATS cannot be reached: %v", err)
	}
	require.True(w.t, ok, "NATS: %v", err)
	w.js, err = jetstream.New(w.nc)
	require.NoError(w.t, err)
	for _, subject := range []string{"sheaf.event.>", "sheaf.progress.>"} {
		_, err := w.nc.Subscribe(subject, func(*nats.Msg) { w.moved() })
		require.NoError(w.t, err)
	}
	w.stopRecord = w.record(w.t.Context())
}

// answer is the envelope of REST responses.
type answer struct {
	Errcode int             `json:"errcode"`
	Msg     string          `json:"msg"`
	Data    json.RawMessage `json:"data"`

	repeated int // earlier attempts without a response
}

// ask sends one REST request; an error means that there was no response.
func (w *world) ask(ctx context.Context, method, url string, body []byte) (status int, a answer, err error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return 0, a, err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := w.client.Do(req)
	if err != nil {
		return 0, a, err
	}
	defer func() { _ = res.Body.Close() }()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, a, err
	}
	return res.StatusCode, a, json.Unmarshal(data, &a)
}

// insist repeats a REST request, through any ingress, until the response is not "try again".
func (w *world) insist(ctx context.Context, method, path string, body []byte) (status int,
	a answer, err error) {
	for repeated := 0; ; repeated++ {
		url := w.ingresses[rand.IntN(len(w.ingresses))] + path
		status, a, err = w.ask(ctx, method, url, body)
		if err == nil && status < 500 {
			a.repeated = repeated
			return status, a, nil
		}
		if err == nil && status != http.StatusServiceUnavailable {
			w.problem("I12 %s %s answered %d: %s", method, path, status, a.Msg)
		}
		select {
		case <-time.After(time.Duration(50+rand.IntN(150)) * time.Millisecond):
		case <-ctx.Done():
			return 0, a, fmt.Errorf("%s %s: no answer: %w (%w)", method, path, ctx.Err(), err)
		}
	}
}

// submission returns an order's submission by NATS.
func (w *world) submission(o *order) *nats.Msg {
	return &nats.Msg{Subject: events.SubmitSubject(events.DefaultTenant, o.kind()), Data: o.body(w, false),
		Header: nats.Header{nats.MsgIdHdr: {o.correlation()}}}
}

// submit retries until the order is accepted.
func (w *world) submit(ctx context.Context, o *order) error {
	body := o.body(w, false)
	if o.durable {
		msg := w.submission(o)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			publish, cancel := context.WithTimeout(ctx, 3*time.Second)
			_, err := w.js.PublishMsg(publish, msg)
			cancel()
			if err == nil {
				break
			}
			select {
			case <-tick.C: // the server is down
			case <-ctx.Done():
				return fmt.Errorf("durable submission: %w", err)
			}
		}
	} else {
		status, a, err := w.insist(ctx, http.MethodPost, "/v1/export/"+o.kind(), body)
		if err != nil {
			return err
		}
		return o.answered(status, a)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.accepted = true
	return nil
}

// answered records the response to a submission by REST. It returns an error unless the submission was
// accepted.
func (o *order) answered(status int, a answer) error {
	var data struct {
		HashKey string `json:"hash_key"`
	}
	if status != http.StatusOK || json.Unmarshal(a.Data, &data) != nil || !events.ValidKey(data.HashKey) {
		return fmt.Errorf("submission was answered %d %q %s", status, a.Msg, a.Data)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.key, o.accepted, o.repeated = data.HashKey, true, a.repeated
	return nil
}

// detail is an export as REST reports it.
type detail struct {
	Status   int    `json:"status"`
	Reason   string `json:"fail_reason"`
	Rows     int64  `json:"rows"`
	DownURL  string `json:"down_url"`
	Callback struct {
		State string `json:"state"`
	} `json:"callback"`
	Files []struct {
		Size   int64  `json:"size"`
		SHA256 string `json:"sha256"`
	} `json:"files"`
}

func (w *world) detail(ctx context.Context, key string) (d detail, err error) {
	status, a, err := w.insist(ctx, http.MethodGet, "/v1/export/detail?key="+key, nil)
	if err != nil {
		return d, err
	}
	if status != http.StatusOK {
		return d, fmt.Errorf("detail of %s was answered %d %q", key, status, a.Msg)
	}
	return d, json.Unmarshal(a.Data, &d)
}

// live submits an order at its time and follows its plan.
func (w *world) live(ctx context.Context, o *order) error {
	select {
	case <-time.After(o.at):
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := w.submit(ctx, o); err != nil {
		return err
	}
	key := []byte(fmt.Sprintf(`{"key":%q}`, o.key))
	if o.cancel > 0 {
		select {
		case <-time.After(o.cancel): // the race is intended
		case <-ctx.Done():
			return ctx.Err()
		}
		status, a, err := w.insist(ctx, http.MethodPost, "/v1/export/cancel", key)
		if err != nil {
			return err
		}
		switch status {
		case http.StatusOK:
			o.mu.Lock()
			o.cancelled = true
			o.mu.Unlock()
		case http.StatusConflict:
		default:
			return fmt.Errorf("cancel was answered %d %q", status, a.Msg)
		}
	}
	if !o.retry {
		return nil
	}
	for {
		d, err := w.detail(ctx, o.key)
		if err != nil {
			return err
		}
		if d.Status == events.StatusSucceeded {
			return nil
		}
		// A new round drops the callback of the previous one, so wait until that was sent.
		if d.Status != events.StatusProcessing && d.Callback.State != events.CallbackPending {
			break
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	w.source.mend(o.n)
	status, a, err := w.insist(ctx, http.MethodPost, "/v1/export/retry", key)
	// conflict: the first response was lost
	if err == nil && status != http.StatusOK && status != http.StatusConflict {
		err = fmt.Errorf("retry was answered %d %q", status, a.Msg)
	}
	return err
}

// strike applies one blow.
func (w *world) strike(ctx context.Context, b blow) {
	switch b.kind {
	case "replay":
		w.disturbed()
		for _, name := range []string{events.ConsumerCrawler, events.ConsumerAssembler,
			events.ConsumerNotifier} {
			eventually(ctx, 10*time.Second, 100*time.Millisecond, func() bool {
				c, cancel := context.WithTimeout(ctx, 2*time.Second)
				defer cancel()
				_, err := w.js.ResetConsumerToSequence(c, events.StreamEvents, name, 1)
				return err == nil
			})
		}
		w.mu.Lock()
		w.blows["replay"]++
		w.mu.Unlock()
	case "nats":
		w.server.hit(syscall.SIGKILL, "")
	case "stop":
		w.disturbed()
		w.processes[b.target].pause(b.lasts)
		w.disturbed()
		w.mu.Lock()
		w.blows["SIGSTOP"]++
		w.mu.Unlock()
	case "term":
		w.processes[b.target].hit(syscall.SIGTERM, "")
	default:
		w.processes[b.target].hit(syscall.SIGKILL, b.failpoint)
	}
}

// disturb applies the plan's blows, each at its time.
func (w *world) disturb(ctx context.Context, blows []blow) {
	begun := time.Now()
	var stopped sync.WaitGroup
	for _, b := range blows {
		select {
		case <-time.After(time.Until(begun.Add(b.at))):
		case <-ctx.Done():
			return
		}
		if b.kind == "stop" {
			stopped.Go(func() { w.strike(ctx, b) })
			if len(w.processes) > 1 {
				continue // the other processes keep running meanwhile
			}
			stopped.Wait()
			begun = begun.Add(b.lasts)
			continue
		}
		w.strike(ctx, b)
	}
	stopped.Wait()
}

// run runs a plan and audits the result.
func (w *world) run(p *plan) {
	t := w.t
	began := time.Now()
	t.Logf("CHAOS_SEED=%d: %d exports, %d blows over %s, in %s", p.seed, len(p.orders), len(p.blows),
		p.spread, w.dir)
	if w.quiet = w.quietRun(t.Context()); w.quiet == nil {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*p.spread+8*time.Minute)
	defer cancel()
	if w.server != nil {
		w.server.start("")
	}
	for _, proc := range w.processes {
		proc.start("")
	}
	w.connect()
	begun := time.Now()

	var wg sync.WaitGroup
	for _, o := range w.orders {
		wg.Go(func() {
			if err := w.live(ctx, o); err != nil {
				w.problem("I1 order %d: %v", o.n, err)
			}
		})
	}
	wg.Go(func() { w.disturb(ctx, p.blows) })
	wg.Wait()
	t.Logf("all submitted and all blows struck after %s", time.Since(begun).Round(time.Second))
	w.mu.Lock()
	struck := maps.Clone(w.blows)
	w.mu.Unlock()
	w.settle(ctx)
	settled := time.Since(begun)
	w.audit(ctx)

	slices.Sort(w.recoveries)
	recovery := "none seen"
	if n := len(w.recoveries); n > 0 {
		recovery = fmt.Sprintf("p50 %s, max %s", w.recoveries[n/2].Round(time.Millisecond),
			w.recoveries[n-1].Round(time.Millisecond))
	}
	t.Logf("CHAOS SUMMARY seed=%d exports=%d blows=%v recovery(%d)=%s settled=%s wall=%s problems=%d",
		p.seed, len(w.orders), struck, len(w.recoveries), recovery, settled.Round(time.Second),
		time.Since(began).Round(time.Second), len(w.problems))
	w.report()
}

// report fails the test if there were violations.
func (w *world) report() {
	for _, p := range append(slices.Clone(w.processes), w.server) {
		if p == nil {
			continue
		}
		for _, c := range p.complaints() {
			w.problem("I12 %s", c)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.problems) == 0 {
		return
	}
	slices.Sort(w.problems)
	w.problems = slices.Compact(w.problems)
	const maxShown = 60
	w.t.Errorf("CHAOS_SEED=%d: %d violations; data and logs are in %s:\n%s", w.seed, len(w.problems), w.dir,
		strings.Join(w.problems[:min(maxShown, len(w.problems))], "\n"))
}

func TestChaosOneProcess(t *testing.T) {
	if testing.Short() {
		t.Skip("kills processes for a minute")
	}
	t.Parallel()
	p := newPlan(t, chaosSeed(t), 1, false)
	w := newWorld(t, p.seed, p.orders)
	http, nats := freeAddress(), freeAddress()
	w.ingresses, w.natsURL = []string{"http://" + http}, "nats://"+nats
	w.serve("sheaf", "--http", http, "--nats-listen", nats)
	w.files = "file://" + filepath.Join(w.dir, "sheaf", "files")
	w.run(p)
}

// externalServer makes all processes use one external NATS server, which also stores the files.
func (w *world) externalServer(path, address string) {
	config := filepath.Join(w.dir, "nats.conf")
	require.NoError(w.t, os.WriteFile(config, fmt.Appendf(nil,
		"listen: %s\nmax_payload: 8MB\njetstream { store_dir: %q, sync_interval: always, max_file_store: 64GB }\n", address, filepath.Join(w.dir, "jetstream")), 0o600))
	w.server = w.newProcess("nats-server", path, "-c", config)
	w.natsURL, w.files = "nats://"+address, "nats://sheaf-files"
}

func TestChaosSeparateProcesses(t *testing.T) {
	if testing.Short() {
		t.Skip("kills processes for a minute")
	}
	t.Parallel()
	p := newPlan(t, chaosSeed(t), 8, true)
	w := newWorld(t, p.seed, p.orders)
	_, natsServer := build(t)
	address := freeAddress()
	w.externalServer(natsServer, address)
	var first string
	for i := range 2 {
		for _, role := range []string{"ingress", "crawler", "assembler", "notifier"} {
			args := []string{"--roles", role, "--nats", w.natsURL, "--replicas", "1",
				"--secret-key", chaosSecret}
			if role == "ingress" {
				http := freeAddress()
				w.ingresses = append(w.ingresses, "http://"+http)
				args = append(args, "--http", http)
				first = w.ingresses[0]
			}
			w.serve(fmt.Sprintf("%s-%d", role, i+1), append(args, "--public-url", first)...)
		}
	}
	w.run(p)
}
