// Package leases shares limits among processes without a master. Each process writes what it wants and holds
// of each resource to one stream, reads what the others write, and computes its own share with [Shares]. The
// sum of what all processes use never exceeds a limit, through starts, kills, pauses and lost messages.
//
// A crawler without other processes has no stream. It holds every limit alone.
package leases

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"sheaf/events"
	"sheaf/events/internal/streams"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

const (
	// writeWait is the time for the acknowledgement of a write.
	writeWait = 2 * time.Second
	// minPause is the minimum time between two looks at the demand, which then need one write.
	minPause = 5 * time.Millisecond
	// retryPause is the pause after a failure.
	retryPause = 250 * time.Millisecond
)

// Exchange is the part of one process in the exchange of leases. It is safe for concurrent use.
type Exchange struct {
	nc      *nats.Conn
	js      jetstream.JetStream
	log     *slog.Logger
	changed func()
	wake    chan struct{}

	mu      sync.Mutex
	member  *member
	starved bool // the leases have expired, and this was logged
}

// New returns the exchange of a process. changed is called when more may be in use than before; it must not
// be called under a lock that is held while the exchange is called. A nil connection means that there are no
// other processes.
func New(nc *nats.Conn, log *slog.Logger, changed func()) *Exchange {
	return &Exchange{nc: nc, log: log, changed: changed, wake: make(chan struct{}, 1), member: newMember(nuid.Next())}
}

// Demand says what the process needs of a resource. Call it after each change.
func (x *Exchange) Demand(name string, d Demand) {
	if x.nc == nil {
		return
	}
	x.mu.Lock()
	act := x.member.demand(name, d, time.Now())
	x.mu.Unlock()
	if act {
		x.look()
	}
}

func (x *Exchange) look() {
	select {
	case x.wake <- struct{}{}:
	default:
	}
}

// Limit is how many requests to a resource may be in flight in all processes together.
type Limit struct {
	Resource string
	Most     int
}

// Begin counts a request among those in flight if no limit forbids it. inFlight returns how many there are.
// The next Demand sets their number.
func (x *Exchange) Begin(limits []Limit, inFlight func(resource string) int) bool {
	if x.nc == nil {
		for _, l := range limits {
			if inFlight(l.Resource) >= l.Most { // the share of a single member
				return false
			}
		}
		return true
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	now := time.Now()
	for _, l := range limits {
		if inFlight(l.Resource) >= x.member.usable(l.Resource, now) {
			return false
		}
	}
	// Now, so that a write of a smaller hold cannot come between.
	for _, l := range limits {
		x.member.resources[l.Resource].InFlight = inFlight(l.Resource) + 1
	}
	return true
}

// Usable returns how many requests of this process may be in flight.
func (x *Exchange) Usable(resource string) int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.member.usable(resource, time.Now())
}

// Sums returns what the process holds and wants of all resources together.
func (x *Exchange) Sums() (held, wanted int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for name, r := range x.member.resources {
		held += x.member.usable(name, time.Now())
		wanted += r.Wanted
	}
	return held, wanted
}

// Run exchanges records until ctx ends. Then it gives up all leases. No request may be in flight then.
func (x *Exchange) Run(ctx context.Context) error {
	if x.nc == nil {
		<-ctx.Done()
		return nil
	}
	var err error
	if x.js, err = jetstream.New(x.nc); err != nil {
		return fmt.Errorf("jetstream: %w", err)
	}
	records := make(chan *nats.Msg, 4096)
	sub, err := x.nc.ChanSubscribe(events.SubjectLeased+"*", records)
	if err != nil {
		return fmt.Errorf("%w: leases: %w", events.ErrUnavailable, err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	results := make(chan func(now time.Time), 1)
	tick := time.NewTicker(renewEvery / 4)
	defer tick.Stop()
	var lastRead, lastLook time.Time
	for {
		streams.Wait(ctx, minPause-time.Since(lastLook))
		lastLook = time.Now()
		if x.isStale() && time.Since(lastRead) > retryPause {
			lastRead = time.Now()
			if err := x.read(ctx); err != nil && ctx.Err() == nil {
				x.log.Debug("reading the leases; trying again", "error", err)
			}
		}
		x.write(results)
		select {
		case m := <-records:
			x.receive(m)
			for len(records) > 0 {
				x.receive(<-records)
			}
		case result := <-results:
			x.mu.Lock()
			result(time.Now())
			x.mu.Unlock()
		case <-x.wake:
		case <-tick.C:
		case <-ctx.Done():
			x.leave(results)
			return nil
		}
		x.report()
		x.changed()
	}
}

func (x *Exchange) isStale() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.member.stale
}

// report logs the loss of the leases, and that they are back.
func (x *Exchange) report() {
	x.mu.Lock()
	defer x.mu.Unlock()
	waits := false
	for name, r := range x.member.resources {
		waits = waits || r.Wanted > 0 && x.member.written[name].Want > 0 && !time.Now().Before(x.member.expires)
	}
	if waits && !x.starved {
		x.log.Warn("no requests are sent to sources: the NATS servers have not confirmed the leases of this process for 10 s",
			"limits", "--conns-per-host, --conns-per-tenant")
	}
	if x.starved && !waits {
		x.log.Info("the leases are confirmed again")
	}
	x.starved = waits
}

func (x *Exchange) receive(m *nats.Msg) {
	id := strings.TrimPrefix(m.Subject, events.SubjectLeased)
	sequence, err := strconv.ParseUint(m.Header.Get(nats.JSSequence), 10, 64)
	var rec record
	if err != nil || json.Unmarshal(m.Data, &rec) != nil {
		return // not one of ours
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.member.receive(id, sequence, rec, time.Now())
}

// read reads the newest record of each process from the stream's leader.
func (x *Exchange) read(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, writeWait)
	defer cancel()
	st, err := x.js.Stream(ctx, events.StreamLeases)
	if err != nil {
		return err
	}
	info, err := st.Info(ctx, jetstream.WithSubjectFilter(events.SubjectLease+"*"))
	if err != nil {
		return err
	}
	if err := streams.ByLeader(info); err != nil {
		return err
	}
	s := snapshot{last: info.State.LastSeq, records: map[string]other{}}
	for subject := range info.State.Subjects {
		m, err := st.GetLastMsgForSubject(ctx, subject)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue // it has expired
		}
		if err != nil {
			return err
		}
		var rec record
		if json.Unmarshal(m.Data, &rec) == nil {
			s.records[strings.TrimPrefix(subject, events.SubjectLease)] = other{record: rec, sequence: m.Sequence}
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.member.read(s, time.Now())
	return nil
}

// write sends the write that is due. Its result arrives in results.
func (x *Exchange) write(results chan<- func(now time.Time)) {
	x.mu.Lock()
	w, due := x.member.next(time.Now())
	x.mu.Unlock()
	if due {
		go func() { results <- x.publish(w) }()
	}
}

// publish sends a write and returns its result.
func (x *Exchange) publish(w write) func(now time.Time) {
	ctx, cancel := context.WithTimeout(context.Background(), writeWait)
	defer cancel()
	data, err := json.Marshal(w.record)
	if err != nil {
		return func(time.Time) { x.member.lost() }
	}
	expect := jetstream.WithExpectLastSequencePerSubject(w.expect)
	if w.raise {
		expect = jetstream.WithExpectLastSequence(w.expect)
	}
	ack, err := x.js.Publish(ctx, events.SubjectLease+x.member.id, data, expect, jetstream.WithRetryAttempts(0))
	var api *jetstream.APIError
	switch {
	case err == nil:
		return func(now time.Time) { x.member.acknowledged(ack.Sequence, now) }
	case errors.As(err, &api):
		return func(now time.Time) { x.member.refused(now) }
	}
	return func(time.Time) { x.member.lost() }
}

// leave gives up all leases, so that the others need not wait for the expiry.
func (x *Exchange) leave(results <-chan func(now time.Time)) {
	if x.member.pending != nil {
		(<-results)(time.Now())
	}
	if len(x.member.written) > 0 {
		_ = x.publish(write{record: record{}, expect: x.member.own})
	}
}
