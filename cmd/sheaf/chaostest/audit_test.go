//go:build chaos && linux

package chaostest

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"sheaf/events"
	"sheaf/events/pages"
	"sheaf/storage"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/xuri/excelize/v2"
	"golang.org/x/sync/errgroup"
)

// fileFact describes the file that an undisturbed Sheaf makes of an order.
type fileFact struct {
	size   int64
	sha256 string
	rows   int64
}

// quietRun runs every order on an undisturbed Sheaf, and compares a file of each shape with its rows, cell by
// cell (I4).
func (w *world) quietRun(ctx context.Context) map[int]fileFact {
	address, data := freeAddress(), filepath.Join(w.dir, "quiet")
	quiet := &process{name: "quiet", path: w.sheaf, log: filepath.Join(w.dir, "quiet.log"), args: []string{
		"serve", "--http", address, "--nats-listen", "none", "--data", data, "--log-format", "text"}}
	quiet.start("")
	defer func() {
		quiet.shutdown(syscall.SIGTERM)
		_ = os.RemoveAll(data)
		for _, c := range quiet.complaints() {
			w.problem("I12 %s", c)
		}
	}()
	base := "http://" + address
	if !eventually(ctx, 30*time.Second, 20*time.Millisecond, func() bool {
		status, _, err := w.ask(ctx, http.MethodGet, base+"/readyz", nil)
		return err == nil && status == http.StatusOK
	}) {
		w.t.Errorf("the undisturbed Sheaf does not start:\n%s", quiet.tail(20))
		return nil
	}
	facts := make([]fileFact, len(w.orders))
	checked := map[string]int{}
	var inspect []*order
	for _, o := range w.orders {
		shape := fmt.Sprint(o.raw, o.wide, o.pages > 1)
		if checked[shape]++; checked[shape] <= 2 {
			inspect = append(inspect, o)
		}
	}
	var g errgroup.Group
	g.SetLimit(16)
	for i, o := range w.orders {
		g.Go(func() error {
			_, a, err := w.ask(ctx, http.MethodPost, base+"/v1/export/"+o.kind(), o.body(w, true))
			var accepted struct {
				HashKey string `json:"hash_key"`
			}
			if err != nil || json.Unmarshal(a.Data, &accepted) != nil {
				return fmt.Errorf("undisturbed order %d: %w %q", o.n, err, a.Msg)
			}
			var d detail
			if !eventually(ctx, 60*time.Second, 20*time.Millisecond, func() bool {
				_, a, err = w.ask(ctx, http.MethodGet, base+"/v1/export/detail?key="+accepted.HashKey, nil)
				return err == nil && json.Unmarshal(a.Data, &d) == nil && d.Status != events.StatusProcessing
			}) || d.Status != events.StatusSucceeded {
				return fmt.Errorf("undisturbed order %d: status %d %q %w", o.n, d.Status, d.Reason, err)
			}
			facts[i] = fileFact{size: d.Files[0].Size, sha256: d.Files[0].SHA256, rows: d.Rows}
			if slices.Contains(inspect, o) {
				return w.inspect(ctx, o, d.DownURL)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		w.t.Errorf("I4 %v\n%s", err, quiet.tail(20))
		return nil
	}
	result := map[int]fileFact{}
	for i, o := range w.orders {
		result[o.n] = facts[i]
	}
	return result
}

// inspect reads a workbook with another library and compares every cell.
func (w *world) inspect(ctx context.Context, o *order, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := w.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	archive, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil || len(archive.File) != 1 {
		return fmt.Errorf("order %d: not a zip with one file: %w", o.n, err)
	}
	f, err := archive.File[0].Open()
	if err != nil {
		return err
	}
	book, err := excelize.OpenReader(f)
	if err != nil {
		return fmt.Errorf("order %d: %w", o.n, err)
	}
	defer func() { _ = book.Close() }()
	got, err := book.GetRows(book.GetSheetList()[0])
	if err != nil {
		return err
	}
	if len(got) != o.total()+1 {
		return fmt.Errorf("order %d: the workbook has %d rows, want %d and the header", o.n,
			len(got)-1, o.total())
	}
	for i, c := range columns {
		if got[0][i] != c[1] {
			return fmt.Errorf("order %d: header cell %d is %q, want %q", o.n, i, got[0][i], c[1])
		}
	}
	n := 0
	for page := 1; page <= o.pages; page++ {
		for row := 1; row <= o.rowsOf(page); row++ {
			n++
			for i, cell := range o.cells(w.seed, page, row) {
				if got[n][i] != text(cell) {
					return fmt.Errorf("order %d: row %d cell %d is %q, want %q", o.n, n, i,
						got[n][i], text(cell))
				}
			}
		}
	}
	return nil
}

// readAll returns every message of a stream, in order. An ordered consumer may skip messages of a cluster
// whose servers have just restarted, so readAll counts the messages and reads again if some are missing.
func (w *world) readAll(ctx context.Context, stream string,
	headersOnly bool) (messages []jetstream.Msg, err error) {
	for attempt := 1; ; attempt++ {
		messages, there, err := w.readOnce(ctx, stream, headersOnly)
		if err != nil || uint64(len(messages)) >= there {
			return messages, err
		}
		w.t.Logf("the reader of %s passed over %d of %d messages", stream, there-uint64(len(messages)), there)
		if attempt == 3 {
			return nil, fmt.Errorf("%d of the %d messages of %s cannot be read",
				there-uint64(len(messages)), there, stream)
		}
	}
}

// readOnce also returns how many of the messages that were there before the read are there after it. The keeper
// purges keys meanwhile.
func (w *world) readOnce(ctx context.Context, stream string, headersOnly bool) (messages []jetstream.Msg,
	there uint64, err error) {
	st, err := w.js.Stream(ctx, stream)
	if err != nil {
		return nil, 0, err
	}
	info, err := st.Info(ctx)
	if err != nil || info.State.Msgs == 0 {
		return nil, 0, err
	}
	cons, err := w.js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{HeadersOnly: headersOnly})
	if err != nil {
		return nil, 0, err
	}
	iter, err := cons.Messages(jetstream.PullMaxMessages(500))
	if err != nil {
		return nil, 0, err
	}
	defer iter.Stop()
	for last := info.State.LastSeq; ; {
		m, err := iter.Next(jetstream.NextMaxWait(5 * time.Second))
		if errors.Is(err, nats.ErrTimeout) && ctx.Err() == nil {
			break // the last ones may have been purged
		}
		if err != nil {
			return nil, 0, err
		}
		meta, err := m.Metadata()
		if err != nil {
			return nil, 0, err
		}
		if meta.Sequence.Stream <= last {
			messages = append(messages, m)
		}
		if meta.Sequence.Stream >= last {
			break
		}
	}
	after, err := st.Info(ctx)
	if err != nil {
		return nil, 0, err
	}
	added := after.State.LastSeq - info.State.LastSeq
	return messages, min(info.State.Msgs, after.State.Msgs-min(after.State.Msgs, added)), nil
}

// story is everything that the log records about one key.
type story struct {
	key    string
	events []events.Event
	export events.Export
	wrong  []string
	ends   []events.Event // terminal events
	rounds int
}

// roundAt returns when the round that ran at a time started.
func (st *story) roundAt(at time.Time) time.Time {
	round := st.events[0].Time
	for _, ev := range st.events {
		if ev.Type() == events.TypeRequested && !ev.Time.After(at) {
			round = ev.Time
		}
	}
	return round
}

// readLog returns the log by key, including events purged since an earlier read.
func (w *world) readLog(ctx context.Context) (map[string]*story, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	messages, err := w.readAll(ctx, events.StreamEvents, false)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	last := uint64(0)
	for _, m := range messages {
		meta, err := m.Metadata()
		if err != nil {
			return nil, err
		}
		last = meta.Sequence.Stream
		if w.log[last], err = events.Decode(m.Subject(), m.Headers(), m.Data(), last); err != nil {
			return nil, err
		}
	}
	stories := map[string]*story{}
	for _, sequence := range slices.Sorted(maps.Keys(w.log)) {
		if sequence > last { // a message is visible before it is written, so it never was in the log
			delete(w.log, sequence)
			continue
		}
		ev := w.log[sequence]
		st := stories[ev.Key]
		if st == nil {
			st = &story{key: ev.Key, export: events.Export{Tenant: ev.Tenant, Key: ev.Key}}
			stories[ev.Key] = st
		}
		after := st.export
		if err := after.Apply(ev); err != nil {
			st.wrong = append(st.wrong, err.Error())
		} else if is, should := asJSON(ev.Export), asJSON(&after); is != should {
			st.wrong = append(st.wrong,
				fmt.Sprintf("the %s event holds %s, and what happened makes it %s", ev.Type(), is, should))
		}
		st.export = *ev.Export
		switch ev.Type() {
		case events.TypeRequested:
			st.rounds++
		case events.TypeCompleted, events.TypeFailed, events.TypeCancelled, events.TypeRejected:
			st.ends = append(st.ends, ev)
		}
		st.events = append(st.events, ev)
	}
	return stories, nil
}

func asJSON(x *events.Export) string {
	text, err := json.Marshal(x)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// record reads the log repeatedly until stop is called, because ended exports are purged down to their last
// event after a minute.
func (w *world) record(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			_, _ = w.readLog(ctx) // the server may be down
			select {
			case <-ctx.Done():
			case <-time.After(5 * time.Second):
			}
		}
	}()
	return func() { cancel(); <-done }
}

// storyOf finds the story of an order: by the acknowledged key, or by the id of a durable submission.
func storyOf(stories map[string]*story, o *order) *story {
	o.mu.Lock()
	key := o.key
	o.mu.Unlock()
	if key != "" {
		return stories[key]
	}
	for _, st := range stories {
		if st.events[0].CorrelationID == o.correlation() {
			return st
		}
	}
	return nil
}

// under lists the accepted orders that have not ended.
func (w *world) under(stories map[string]*story) (open []string) {
	for _, o := range w.orders {
		if !o.accepted {
			continue
		}
		st := storyOf(stories, o)
		switch {
		case st == nil:
			open = append(open, fmt.Sprintf("order %d is not in the log", o.n))
		case !st.export.State.Terminal():
			open = append(open, fmt.Sprintf("order %d (%s) is %s", o.n, st.key, st.export.State))
		case st.export.Callback.State == events.CallbackPending:
			open = append(open, fmt.Sprintf("the callback of order %d (%s) is pending", o.n, st.key))
		}
	}
	return open
}

// busyConsumers lists consumers that have work left (I10).
func (w *world) busyConsumers(ctx context.Context) (busy []string) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for _, c := range [][2]string{
		{events.StreamSubmit, events.ConsumerSubmissions}, {events.StreamEvents, events.ConsumerCrawler},
		{events.StreamEvents, events.ConsumerAssembler}, {events.StreamEvents, events.ConsumerNotifier},
		{events.StreamTimers, events.ConsumerDueCallback},
	} {
		st, err := w.js.Stream(ctx, c[0])
		if err != nil {
			return []string{err.Error()}
		}
		cons, err := st.Consumer(ctx, c[1])
		if err != nil {
			return []string{err.Error()}
		}
		info := cons.CachedInfo()
		if info.NumPending > 0 || info.NumAckPending > 0 {
			busy = append(busy, fmt.Sprintf("consumer %s: %d pending, %d not acknowledged", c[1],
				info.NumPending, info.NumAckPending))
		}
		if last := st.CachedInfo().State.LastSeq; info.AckFloor.Stream > last ||
			info.Delivered.Stream > last {
			busy = append(busy, fmt.Sprintf("consumer %s: floor %d, delivered %d, but the stream ends at %d",
				c[1], info.AckFloor.Stream, info.Delivered.Stream, last))
		}
	}
	return busy
}

// settle waits until every accepted export has ended.
func (w *world) settle(ctx context.Context) {
	var open []string
	if !eventually(ctx, 3*time.Minute, 500*time.Millisecond, func() bool {
		stories, err := w.readLog(ctx)
		if err != nil {
			open = []string{err.Error()}
			return false
		}
		if open = w.under(stories); len(open) == 0 {
			open = w.busyConsumers(ctx)
		}
		return len(open) == 0
	}) {
		for _, what := range open {
			w.problem("I2 not at its end after all blows: %s", what)
		}
	}
}

// audit compares all records with each other.
func (w *world) audit(ctx context.Context) {
	stories, err := w.readLog(ctx)
	if err != nil {
		w.problem("reading the log: %v", err)
		return
	}
	stored, droppedPages := w.pagesStored(ctx), w.droppedPages()
	natsCallbacks := w.natsCallbacks(ctx)
	known := map[string]bool{}
	for _, o := range w.orders {
		if !o.accepted {
			continue
		}
		st := storyOf(stories, o)
		if st == nil {
			w.problem("I1 order %d was accepted and is not in the log", o.n)
			continue
		}
		if known[st.key] {
			w.problem("I1 order %d shares the key %s", o.n, st.key)
		}
		known[st.key] = true
		w.auditStory(o, st)
		w.auditSource(o, st, stored, droppedPages)
		w.auditCallbacks(o, st, natsCallbacks)
		w.auditREST(ctx, o, st)
	}
	for key := range stories {
		if !known[key] {
			w.problem("I1 key %s is in the log but was not submitted", key)
		}
	}
	w.source.mu.Lock()
	for _, bad := range w.source.bad {
		w.problem("I5 %s", bad)
	}
	w.source.mu.Unlock()
	w.receiver.mu.Lock()
	for _, bad := range w.receiver.bad {
		w.problem("I6 %s", bad)
	}
	w.receiver.mu.Unlock()
	w.auditReplay(ctx, stories)
	w.auditProjection(ctx)
	w.auditFiles(ctx, stories)
}

// auditStory checks the order of events and how the export ended (I2, I3, I4).
func (w *world) auditStory(o *order, st *story) {
	for _, wrong := range st.wrong {
		w.problem("I2 order %d (%s): %s", o.n, st.key, wrong)
	}
	if len(st.ends) != st.rounds {
		w.problem("I2 order %d (%s): %d terminal events in %d rounds", o.n, st.key, len(st.ends), st.rounds)
	}
	x := &st.export
	want := map[events.State]bool{events.StateCompleted: !w.expiring, events.StateExpired: w.expiring}
	if o.cancel > 0 && !o.retry {
		want[events.StateCancelled] = true
	}
	if o.poison {
		want = map[events.State]bool{events.StateFailed: x.Failure.Code == events.CodeCrashedWorker}
	}
	if !want[x.State] {
		w.problem("I3 order %d (%s) ended %s: %s %s", o.n, st.key, x.State, x.Failure.Code, x.Failure.Reason)
	}
	rounds := 1
	if o.retry {
		rounds = 2
	}
	if o.broken > 0 {
		// A stored submission whose response was lost may have failed before it is repeated, and then starts
		// the export again.
		rounds += o.repeated
	}
	if st.rounds > rounds {
		w.problem("I2 order %d (%s) was started %d times; its submission was repeated %d times", o.n, st.key,
			st.rounds, o.repeated)
	}
	cancelled := slices.ContainsFunc(st.ends, func(ev events.Event) bool {
		return ev.Type() == events.TypeCancelled
	})
	if o.cancelled && !cancelled {
		w.problem("I7 order %d (%s): its cancelling was answered with success, but it was not cancelled", o.n,
			st.key)
	}
	for _, ev := range st.ends {
		if failed, ok := ev.Payload.(*events.ExportFailed); ok && !o.poison &&
			(o.broken == 0 || failed.Code != events.CodeSourceErrcode) {
			w.problem("I3 order %d (%s) failed: %s %s", o.n, st.key, failed.Code, failed.Reason)
		}
	}
	if x.State != events.StateCompleted {
		return
	}
	fact := w.quiet[o.n]
	if len(x.Files) != 1 {
		w.problem("I4 order %d (%s) has %d files", o.n, st.key, len(x.Files))
	} else if f := x.Files[0]; f.SHA256 != fact.sha256 || f.Size != fact.size || x.Rows != int64(o.total()) ||
		fact.rows != x.Rows {
		w.problem("I4 order %d (%s): the file has %d rows, %d bytes, sha256 %.12s; undisturbed %d rows, %d bytes, %.12s; want %d rows",
			o.n, st.key, x.Rows, f.Size, f.SHA256, fact.rows, fact.size, fact.sha256, o.total())
	}
}

// pagesStored returns when each remaining page of each run was stored.
func (w *world) pagesStored(ctx context.Context) map[string]time.Time {
	stored := map[string]time.Time{}
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	messages, err := w.readAll(ctx, events.StreamPages, true)
	if err != nil {
		w.problem("reading the pages: %v", err)
	}
	for _, m := range messages {
		if _, twice := stored[m.Subject()]; twice {
			w.problem("I5 %s is stored twice", m.Subject())
		}
		if meta, err := m.Metadata(); err == nil {
			stored[m.Subject()] = meta.Timestamp
		}
	}
	return stored
}

// droppedPages counts, by key, how often an export's pages were dropped to free space for an older one,
// according to the logs.
func (w *world) droppedPages() map[string]int {
	counts := map[string]int{}
	for _, p := range w.processes {
		text, err := os.ReadFile(p.log)
		if err != nil {
			w.problem("reading a log: %v", err)
		}
		for line := range strings.Lines(string(text)) {
			if !strings.Contains(line, "pages dropped for an older export") ||
				strings.Contains(line, " pages=0 ") {
				continue
			}
			_, after, _ := strings.Cut(line, "hash_key=")
			key, _, _ := strings.Cut(after, " ")
			counts[key]++
		}
	}
	return counts
}

// auditSource checks how often each page was requested (I5).
func (w *world) auditSource(o *order, st *story, stored map[string]time.Time, droppedPages map[string]int) {
	if o.raw {
		return
	}
	w.source.mu.Lock()
	defer w.source.mu.Unlock()
	w.mu.Lock()
	disturbances := slices.Clone(w.disturbances)
	w.mu.Unlock()
	begun := st.events[0].Time
	for page := 1; page <= o.pages; page++ {
		at := pageOf{o.n, page}
		asked := w.source.asked[at]
		if len(asked) == 0 {
			if st.export.State == events.StateCompleted {
				w.problem("I5 order %d completed without page %d being asked for", o.n, page)
			}
			continue
		}
		allowed := 1
		for _, d := range disturbances {
			// A process that was struck earlier may have resumed the export.
			if d.After(begun.Add(-time.Second)) && d.Before(asked[len(asked)-1].Add(time.Second)) {
				allowed++
			}
		}
		allowed += st.rounds - 1 // a retry requests page 1 again, and pages in flight at the end
		allowed += droppedPages[st.key]
		if got := len(asked) - w.source.faults[at]; got > allowed {
			w.problem("I5 order %d page %d was asked for %d times without a fault; at most %d were needed",
				o.n, page, got, allowed)
		}
		id := pages.ID{Tenant: st.export.Tenant, Key: st.key, Run: st.export.Run, Number: page}
		there, ok := stored[pages.Subject(id, 1)]
		if !ok || len(w.processes) > 1 {
			continue
		}
		for _, when := range asked {
			round := st.roundAt(when)
			switch {
			case when.Before(there):
			case page == 1 && round.After(there): // requested again, to check whether the source changed
			case round != begun && there.Sub(round).Abs() < 2*time.Second:
				// A page may be stored after its round was cancelled and after the next round has checked.
			default:
				w.problem("I5 order %d page %d was asked for %s after it was stored", o.n, page,
					when.Sub(there))
			}
		}
	}
}

// natsCallbacks returns the callbacks on NATS subjects, by subject.
func (w *world) natsCallbacks(ctx context.Context) map[string][]delivery {
	result := map[string][]delivery{}
	messages, err := w.readAll(ctx, events.StreamCallbacks, false)
	if err != nil {
		w.problem("reading the callbacks: %v", err)
	}
	for _, m := range messages {
		var body struct {
			Event string `json:"event"`
		}
		if err := json.Unmarshal(m.Data(), &body); err != nil {
			w.problem("I6 %s: %v", m.Subject(), err)
		}
		result[m.Subject()] = append(result[m.Subject()],
			delivery{id: m.Headers().Get("ce-id"), event: body.Event, status: 200})
	}
	return result
}

// auditCallbacks checks the received callbacks (I6).
func (w *world) auditCallbacks(o *order, st *story, onNATS map[string][]delivery) {
	w.receiver.mu.Lock()
	calls := slices.Clone(w.receiver.calls[o.n])
	w.receiver.mu.Unlock()
	calls = append(calls, onNATS[o.callbackSubject()]...)
	want := map[string]string{} // event by webhook-id
	if o.callback != "" {
		for _, ev := range st.ends {
			want[st.key+"-"+strconv.FormatUint(ev.Sequence, 10)] = "export." + string(ev.Type())
		}
	}
	delivered := map[string]bool{}
	for _, c := range calls {
		event, ok := want[c.id]
		if !ok {
			w.problem("I6 order %d (%s): a callback with webhook-id %s, which no terminal event has",
				o.n, st.key, c.id)
		} else if event != c.event {
			w.problem("I6 order %d (%s): callback %s says %s, the log says %s", o.n, st.key, c.id,
				c.event, event)
		}
		if c.status == 200 {
			delivered[c.id] = true
		}
	}
	for id, event := range want {
		if !delivered[id] {
			w.problem("I6 order %d (%s): the callback %s of %s never arrived (%d attempts in all; the log says %q)", o.n, st.key, id, event, len(calls), st.export.Callback.State)
		}
	}
	if o.callback != "" && st.export.Callback.State != events.CallbackDone {
		w.problem("I6 order %d (%s): the log says its callback is %q: %s", o.n, st.key,
			st.export.Callback.State, st.export.Callback.LastReason)
	}
}

// auditREST checks that every ingress agrees with the log (I7).
func (w *world) auditREST(ctx context.Context, o *order, st *story) {
	for _, base := range w.ingresses {
		var d detail
		var last string
		// An ingress that was struck last may still be starting.
		if !eventually(ctx, 30*time.Second, 100*time.Millisecond, func() bool {
			status, a, err := w.ask(ctx, http.MethodGet, base+"/v1/export/detail?key="+st.key, nil)
			last = fmt.Sprint(status, a.Msg, err)
			return err == nil && status == http.StatusOK && json.Unmarshal(a.Data, &d) == nil
		}) {
			w.problem("I7 order %d (%s): no detail: %s", o.n, st.key, last)
			continue
		}
		x := &st.export
		if d.Status != x.State.Status() || d.Callback.State != x.Callback.State || d.Rows != x.Rows ||
			len(d.Files) != len(x.Files) {
			w.problem("I7 order %d (%s): REST says status %d, %d rows, callback %q; the log says %s, %d rows, %q",
				o.n, st.key, d.Status, d.Rows, d.Callback.State, x.State, x.Rows, x.Callback.State)
		}
	}
}

// auditReplay redelivers the whole log to all consumers that act on it, and checks that none acts again
// (I11).
func (w *world) auditReplay(ctx context.Context, before map[string]*story) {
	w.receiver.mu.Lock()
	calls := 0
	for _, c := range w.receiver.calls {
		calls += len(c)
	}
	w.receiver.mu.Unlock()
	w.strike(ctx, blow{kind: "replay"})
	var busy []string
	if !eventually(ctx, time.Minute, 200*time.Millisecond, func() bool {
		busy = w.busyConsumers(ctx)
		return len(busy) == 0
	}) {
		w.problem("I11 after a full replay: %v", busy)
	}
	after, err := w.readLog(ctx)
	if err != nil {
		w.problem("I11 reading the log: %v", err)
		return
	}
	for key, st := range after {
		was := 0
		if b := before[key]; b != nil {
			was = len(b.events)
		}
		for _, ev := range st.events[was:] {
			w.problem("I11 a full replay brought the event %s of %s", ev.Type(), key)
		}
	}
	w.receiver.mu.Lock()
	defer w.receiver.mu.Unlock()
	for _, c := range w.receiver.calls {
		calls -= len(c)
	}
	if calls != 0 {
		w.problem("I11 a full replay brought %d callbacks", -calls)
	}
}

// auditProjection deletes the projection of every ingress and compares the rebuilt one (I9). It leaves all
// Sheaf processes stopped.
func (w *world) auditProjection(ctx context.Context) {
	for _, p := range w.processes {
		p.shutdown(syscall.SIGTERM)
	}
	digest := func(path string) (uint64, string) {
		tasks, err := storage.OpenTasks(path, slog.New(slog.DiscardHandler))
		if err != nil {
			w.problem("I9 %s: %v", path, err)
			return 0, ""
		}
		defer func() { _ = tasks.Close() }()
		applied, sum, err := tasks.Digest()
		if err != nil {
			w.problem("I9 %s: %v", path, err)
		}
		return applied, sum
	}
	i := 0
	sums := map[string]bool{}
	for _, p := range w.processes {
		path := filepath.Join(w.dir, p.name, "tasks.db")
		if _, err := os.Stat(path); err != nil {
			continue // not an ingress
		}
		applied, sum := digest(path)
		if err := os.Remove(path); err != nil {
			w.problem("I9 %v", err)
		}
		p.start("")
		base := w.ingresses[i]
		i++
		if !eventually(ctx, 30*time.Second, 50*time.Millisecond, func() bool {
			status, _, err := w.ask(ctx, http.MethodGet, base+"/readyz", nil)
			return err == nil && status == http.StatusOK
		}) {
			w.problem("I9 %s is not ready after its projection was deleted", p.name)
		}
		p.shutdown(syscall.SIGTERM)
		again, sumAgain := digest(path)
		if applied != again || sum != sumAgain {
			w.problem("I9 %s: digest %.12s at %d, rebuilt %.12s at %d", p.name, sum, applied,
				sumAgain, again)
		}
		sums[sum] = true
	}
	if len(sums) != 1 {
		w.problem("I9 %d different projections of one log", len(sums))
	}
}

// auditFiles sweeps the store and compares the rest with the log (I8, I4). All Sheaf processes are stopped.
func (w *world) auditFiles(ctx context.Context, stories map[string]*story) {
	named := map[string]events.File{}
	for _, st := range stories {
		if st.export.State != events.StateCompleted {
			continue
		}
		for _, f := range st.export.Files {
			named[f.Store] = f
		}
	}
	var files storage.Files
	for _, p := range w.processes {
		data := filepath.Join(w.dir, p.name)
		opened, err := storage.OpenFiles(ctx, w.files, storage.FilesConfig{DataDir: data, JetStream: w.objectStore(), Replicas: 1})
		if err != nil {
			w.problem("I8 %v", err)
			return
		}
		defer func() { _ = opened.Close() }()
		// No process is running, so every unnamed file is an orphan, however new.
		_, err = opened.Sweep(ctx, func(name string) bool { _, ok := named[name]; return ok },
			time.Now().Add(time.Second))
		if err != nil {
			w.problem("I8 %v", err)
		}
		for _, folder := range []string{"drafts", "files/.drafts"} {
			left, _ := os.ReadDir(filepath.Join(data, folder))
			if len(left) > 0 {
				w.problem("I8 %s: %d drafts are left in %s", p.name, len(left), folder)
			}
		}
		strays, _ := filepath.Glob(filepath.Join(data, ".*"))
		for _, stray := range strays {
			w.problem("I8 %s is left over", stray)
		}
		files = opened
	}
	for name, f := range named {
		file, err := files.Open(ctx, name)
		if err != nil {
			w.problem("I4 the file %s: %v", name, err)
			continue
		}
		h := sha256.New()
		size, err := io.Copy(h, file)
		_ = file.Close()
		if sum := hex.EncodeToString(h.Sum(nil)); err != nil || size != f.Size || sum != f.SHA256 {
			w.problem("I4 the file %s has %d bytes, sha256 %.12s; its event says %d, %.12s (%v)", name, size,
				sum, f.Size, f.SHA256, err)
		}
	}
	for name := range w.namesInStore(ctx) {
		if _, ok := named[name]; !ok {
			w.problem("I8 the store holds %s, which no completed export names", name)
		}
	}
}

// objectStore returns the connection of a store on NATS, nil for a folder.
func (w *world) objectStore() jetstream.JetStream {
	if strings.HasPrefix(w.files, "file://") {
		return nil
	}
	return w.js
}

// namesInStore lists the store's raw content: the files of a folder, or the subjects of a bucket.
func (w *world) namesInStore(ctx context.Context) map[string]bool {
	names := map[string]bool{}
	if folder, ok := strings.CutPrefix(w.files, "file://"); ok {
		err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || entry.Name() == ".sheaf-store" {
				return err
			}
			name, err := filepath.Rel(folder, path)
			names[filepath.ToSlash(name)] = true
			return err
		})
		if err != nil {
			w.problem("I8 %v", err)
		}
		return names
	}
	bucket := strings.TrimPrefix(w.files, "nats://")
	store, err := w.js.ObjectStore(ctx, bucket)
	if err != nil {
		w.problem("I8 %v", err)
		return names
	}
	list, err := store.List(ctx)
	if err != nil && !errors.Is(err, jetstream.ErrNoObjectsFound) {
		w.problem("I8 %v", err)
		return names
	}
	uploads := map[string]bool{}
	for _, info := range list {
		names[info.Name] = true
		uploads[info.NUID] = true
	}
	stream, err := w.js.Stream(ctx, "OBJ_"+bucket)
	if err != nil {
		w.problem("I8 %v", err)
		return names
	}
	prefix := "$O." + bucket + ".C."
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(prefix+">"))
	if err != nil {
		w.problem("I8 %v", err)
		return names
	}
	for subject := range info.State.Subjects {
		if !uploads[strings.TrimPrefix(subject, prefix)] {
			w.problem("I8 the bucket holds chunks of %s, which no file names", subject)
		}
	}
	return names
}
