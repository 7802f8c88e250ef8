package leases

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// world is processes, a stream and the network between them. Writes and records are delivered late, in any
// order or never, and processes start, die and pause at any moment.
type world struct {
	now     time.Time
	limit   int
	started int
	procs   map[string]*proc
	stream  stream
	network []*sent // writes that have not reached the stream
}

type proc struct {
	*member
	inFlight int
	waiting  int
	paused   bool
	answer   *answer
	arriving []stored // republished records on their way, in order
}

type stored struct {
	id       string
	sequence uint64
	record   record
}

type stream struct {
	last   uint64
	newest map[string]stored
}

type sent struct {
	from string
	w    write
}

type answer struct {
	of       time.Time // sentAt of its write
	accepted bool
	sequence uint64
}

const shared = "host:x"

func (w *world) names() []string { return slices.Sorted(maps.Keys(w.procs)) }

func (w *world) start() {
	w.started++
	id := fmt.Sprintf("p%02d", w.started)
	w.procs[id] = &proc{member: newMember(id)}
}

// demand passes the demand of a process on, as turns does.
func (w *world) demand(p *proc) {
	p.member.demand(shared, Demand{Limit: w.limit, InFlight: p.inFlight, Wanted: min(p.inFlight+p.waiting, 8), Most: 8}, w.now)
}

// look is one run of the loop of a process.
func (w *world) look(p *proc) {
	if p.stale {
		s := snapshot{last: w.stream.last, records: map[string]other{}}
		for id, m := range w.stream.newest {
			s.records[id] = other{record: m.record, sequence: m.sequence}
		}
		p.read(s, w.now)
	}
	if out, due := p.next(w.now); due {
		w.network = append(w.network, &sent{p.id, out})
	}
	for p.waiting > 0 && p.inFlight < p.usable(shared, w.now) {
		p.waiting--
		p.inFlight++
		w.demand(p)
	}
}

// store is the stream's decision about a write.
func (w *world) store(s *sent) (a answer) {
	a.of = s.w.sentAt
	expected := w.stream.last
	if !s.w.raise {
		expected = w.stream.newest[s.from].sequence
	}
	if s.w.expect != expected {
		return a
	}
	w.stream.last++
	m := stored{s.from, w.stream.last, s.w.record}
	w.stream.newest[s.from] = m
	for _, p := range w.procs {
		p.arriving = append(p.arriving, m)
	}
	a.accepted, a.sequence = true, m.sequence
	return a
}

func (w *world) check(rt *rapid.T) {
	inFlight := 0
	for _, p := range w.procs {
		if w.now.Before(p.expires) {
			inFlight += max(p.usable(shared, w.now), p.inFlight)
		}
	}
	require.LessOrEqual(rt, w.usable(), w.limit)
	require.LessOrEqual(rt, inFlight, w.limit)
}

// settle lets everything arrive for a while and no process fail. It returns the most that was usable in the
// last second, in which a turn may pass from one process to another.
func (w *world) settle(rt *rapid.T, lasts time.Duration) (most int) {
	for end := w.now.Add(lasts); w.now.Before(end); w.now = w.now.Add(20 * time.Millisecond) {
		for _, id := range w.names() {
			p := w.procs[id]
			p.paused = false
			w.demand(p)
			for _, m := range p.arriving {
				p.receive(m.id, m.sequence, m.record, w.now)
			}
			p.arriving = nil
			if p.answer != nil {
				w.answer(p)
			}
			w.look(p)
			w.check(rt)
			// A request of each process ends now and then, and another one waits.
			if p.inFlight > p.usable(shared, w.now) || w.now.UnixMilli()%100 == 0 && p.inFlight > 0 {
				p.inFlight--
				p.waiting++
				w.demand(p)
			}
		}
		for _, s := range w.network {
			if p := w.procs[s.from]; p != nil {
				a := w.store(s)
				p.answer = &a
			}
		}
		w.network = nil
		if total := w.usable(); end.Sub(w.now) < time.Second {
			most = max(most, total)
		}
	}
	return most
}

func (w *world) usable() (n int) {
	for _, p := range w.procs {
		n += p.usable(shared, w.now)
	}
	return n
}

// answer gives a process the answer to its write, unless it no longer waits for it.
func (w *world) answer(p *proc) {
	a := p.answer
	p.answer = nil
	switch {
	case p.pending == nil || !p.pending.sentAt.Equal(a.of):
	case a.accepted:
		p.acknowledged(a.sequence, w.now)
	default:
		p.refused(w.now)
	}
}

// Whatever happens, the sum of what the processes may use never exceeds the limit. When all is well again, they
// use all of it.
func TestTheSumOfUsableLeasesNeverExceedsTheLimit(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		w := &world{now: time.Unix(1_000_000, 0), limit: rapid.IntRange(1, 12).Draw(rt, "limit"), procs: map[string]*proc{},
			stream: stream{newest: map[string]stored{}}}
		for range rapid.IntRange(1, 4).Draw(rt, "processes") {
			w.start()
		}
		pick := func(rt *rapid.T) *proc {
			if len(w.procs) == 0 {
				w.start()
			}
			return w.procs[rapid.SampledFrom(w.names()).Draw(rt, "process")]
		}
		awake := func(rt *rapid.T) *proc {
			if p := pick(rt); !p.paused {
				return p
			}
			rt.Skip("paused")
			return nil
		}
		rt.Repeat(map[string]func(*rapid.T){
			"": w.check,
			"ask": func(rt *rapid.T) {
				p := awake(rt)
				p.waiting = rapid.IntRange(0, 8).Draw(rt, "waiting")
				w.demand(p)
			},
			"end requests": func(rt *rapid.T) {
				p := pick(rt)
				if p.inFlight > 0 { // of a paused process too: the source answers
					p.inFlight = rapid.IntRange(0, p.inFlight-1).Draw(rt, "left")
				}
				if !p.paused {
					w.demand(p)
				}
			},
			"look": func(rt *rapid.T) { w.look(awake(rt)) },
			"pass time": func(rt *rapid.T) {
				w.now = w.now.Add(time.Duration(rapid.SampledFrom([]int{1, 50, 200, 1000, 4000, 11000}).Draw(rt, "ms")) * time.Millisecond)
				for _, p := range w.procs {
					if !w.now.Before(p.expires) {
						p.inFlight = 0 // the requests that were in flight end before the expiry
					}
				}
			},
			"reach the stream": func(rt *rapid.T) {
				if len(w.network) == 0 {
					rt.Skip("nothing")
				}
				i := rapid.IntRange(0, len(w.network)-1).Draw(rt, "write")
				s := w.network[i]
				w.network = slices.Delete(w.network, i, i+1)
				a := w.store(s)
				if p := w.procs[s.from]; p != nil && rapid.IntRange(0, 4).Draw(rt, "lost answer") > 0 {
					p.answer = &a
				}
			},
			"lose a write": func(rt *rapid.T) {
				if len(w.network) == 0 {
					rt.Skip("nothing")
				}
				w.network = w.network[1:]
			},
			"answer": func(rt *rapid.T) {
				if p := awake(rt); p.answer != nil {
					w.answer(p)
				}
			},
			"time out": func(rt *rapid.T) {
				if p := awake(rt); p.pending != nil && w.now.Sub(p.pending.sentAt) >= writeWait {
					p.lost()
				}
			},
			"receive": func(rt *rapid.T) {
				p := awake(rt)
				if len(p.arriving) == 0 {
					rt.Skip("nothing")
				}
				m := p.arriving[0]
				p.arriving = p.arriving[1:]
				if rapid.IntRange(0, 9).Draw(rt, "lost") > 0 {
					p.receive(m.id, m.sequence, m.record, w.now)
				}
			},
			"pause":  func(rt *rapid.T) { awake(rt).paused = true },
			"resume": func(rt *rapid.T) { pick(rt).paused = false },
			"kill":   func(rt *rapid.T) { delete(w.procs, pick(rt).id) },
			"start": func(rt *rapid.T) {
				if len(w.procs) < 5 {
					w.start()
				}
			},
		})
		pick(rt)
		for _, p := range w.procs {
			p.waiting, p.answer = 100, nil
			if p.pending != nil {
				p.lost()
			}
		}
		w.network = nil
		require.Equal(rt, min(w.limit, 8*len(w.procs)), w.settle(rt, expiry+3*time.Second), "all leases are in use")
	})
}

// alone returns a member that holds 8 leases by a write sent at a time and acknowledged after a while.
func alone(t *testing.T, now time.Time, after time.Duration) *member {
	m := newMember("a")
	m.read(snapshot{}, now)
	m.demand(shared, Demand{Limit: 8, Wanted: 8, Most: 8}, now)
	w, due := m.next(now)
	require.True(t, due)
	require.True(t, w.raise)
	m.acknowledged(1, now.Add(after))
	require.Equal(t, 8, m.usable(shared, now.Add(after)))
	return m
}

// The own expiry counts from before the write.
func TestTheOwnExpiryCountsFromBeforeTheWrite(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000, 0)
	m := alone(t, now, 3*time.Second)
	require.Equal(t, 8, m.usable(shared, now.Add(expiry-1)))
	require.Zero(t, m.usable(shared, now.Add(expiry)))
}

// A renewal that is acknowledged after the expiry does not bring the leases back.
func TestALateRenewalBringsNothingBack(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000, 0)
	m := alone(t, now, 0)
	w, due := m.next(now.Add(expiry - 1))
	require.True(t, due)
	require.False(t, w.raise)
	m.acknowledged(2, now.Add(expiry))
	require.Zero(t, m.usable(shared, now.Add(expiry)))
}

// The leases of another process are not free before its record has expired, from the receipt on.
func TestOthersExpireFromTheReceiptOn(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000, 0)
	m := newMember("a")
	m.read(snapshot{last: 1, records: map[string]other{"b": {record: record{shared: {Want: 8, Hold: 8}}, sequence: 1}}}, now)
	for _, later := range []time.Duration{0, expiry - 1} {
		m.demand(shared, Demand{Limit: 8, Wanted: 8, Most: 8}, now.Add(later))
		w, _ := m.next(now.Add(later))
		require.False(t, w.raise)
		m.lost()
	}
	m.demand(shared, Demand{Limit: 8, Wanted: 8, Most: 8}, now.Add(expiry))
	w, _ := m.next(now.Add(expiry))
	require.True(t, w.raise)
}

// A record of a dead process is not revived by a read of the stream.
func TestADeadProcessStaysDead(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000, 0)
	m := newMember("a")
	dead := snapshot{last: 1, records: map[string]other{"b": {record: record{shared: {Want: 8, Hold: 8}}, sequence: 1}}}
	m.read(dead, now)
	m.demand(shared, Demand{Limit: 8, Wanted: 8, Most: 8}, now)
	w, due := m.next(now)
	require.True(t, due)
	require.False(t, w.raise)
	m.acknowledged(2, now)
	now = now.Add(expiry)
	m.recompute(now)
	dead.last = 2
	m.read(dead, now)
	w, due = m.next(now)
	require.True(t, due)
	require.True(t, w.raise)
	require.Equal(t, 8, w.record[shared].Hold)
}

// Requests one after another need one write to begin, and then none but the renewals.
func TestSteadyRequestsNeedNoWrites(t *testing.T) {
	t.Parallel()
	w := &world{now: time.Unix(1_000_000, 0), limit: 32, procs: map[string]*proc{}, stream: stream{newest: map[string]stored{}}}
	w.start()
	p := w.procs["p01"]
	writes := 0
	step := func(inFlight int) {
		p.inFlight = inFlight
		w.demand(p)
		w.look(p)
		for _, s := range w.network {
			writes++
			a := w.store(s)
			p.answer = &a
			w.answer(p)
		}
		w.network = nil
		w.look(p)
		w.now = w.now.Add(100 * time.Millisecond)
	}
	p.waiting = 1
	step(0)
	require.Equal(t, 1, writes)
	require.Equal(t, 1, p.inFlight, "after one write the first request is in flight")
	for i := range 100 {
		step(i % 3)
	}
	require.LessOrEqual(t, writes, 12, "one per second")
	for range 60 {
		step(0)
	}
	require.Empty(t, p.written, "nothing is held any more")
	idle := writes
	for range 20 {
		step(0)
	}
	require.Equal(t, idle, writes)
}
