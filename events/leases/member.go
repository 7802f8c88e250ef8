package leases

import (
	"iter"
	"maps"
	"math/bits"
	"time"
)

const (
	// expiry is how long a record is valid after the last write. After a kill its leases are free then.
	expiry = 10 * time.Second
	// renewEvery is the interval of writes while something is held or wanted.
	renewEvery = time.Second
	// grace is how long a want is remembered at least, so that short requests one after another need no
	// writes.
	grace = 2 * time.Second
	// forget is how long an expired record stays known, well above the time that the stream keeps it. Otherwise
	// the next read of the stream would revive it.
	forget = 5 * time.Minute
	// scarceGrace is grace while others want more than there is.
	scarceGrace = 250 * time.Millisecond
	// rotateEvery is how long a member keeps its turn at a resource with fewer leases than members.
	rotateEvery = 3 * time.Second
	// catchUp is how long a record may take to arrive after its write has won.
	catchUp = 100 * time.Millisecond
	// minWant is the smallest want. It lets a few requests begin at once.
	minWant = 4
)

// Demand is what a process needs of a resource now.
type Demand struct {
	Limit    int // of all processes together
	InFlight int // requests
	Wanted   int // requests in flight and those that wait and could begin if there were leases
	Most     int // the most that could ever be in flight in this process
}

// lease is what a process says about a resource.
type lease struct {
	Want int `json:"want"`
	Hold int `json:"hold"` // at least the requests in flight
}

type record map[string]lease // by resource

// member is the state of one process: what it holds, and what it knows about the others. It does no I/O and
// reads no clock.
//
// Safety: a hold grows only by a write that the stream accepts if nothing was written since the last record
// that the member knows, and only after the acknowledgement. It shrinks before it is written. A hold is unused
// after the member's own expiry, which counts from before the write; others count from the receipt, which is
// later. So the sum of the usable holds never exceeds the limit.
type member struct {
	id        string
	others    map[string]*other
	resources map[string]*resource
	seen      uint64    // sequence up to which all records are known
	own       uint64    // sequence of the own newest record
	expires   time.Time // the own record
	written   record
	wroteAt   time.Time // of written
	pending   *write
	blocked   time.Time // when a raise was refused at this value of seen; zero: none was
	stale     bool      // records are missing; the stream must be read
	now       time.Time // of the last recompute
}

type other struct {
	record   record
	sequence uint64
	expires  time.Time
}

type resource struct {
	Demand
	usable   int // while the own record is valid
	declared int // want, as written
	peak     int // of Wanted, in this period
	before   int // of Wanted, in the period before
	since    time.Time
	scarce   bool // all together want more than the limit
}

// write is a record on its way to the stream.
type write struct {
	record record
	raise  bool           // accepted only if nothing was written since expect
	expect uint64         // last sequence: of the stream if raise, otherwise of the own subject
	usable map[string]int // after the acknowledgement
	sentAt time.Time
}

func newMember(id string) *member {
	return &member{id: id, others: map[string]*other{}, resources: map[string]*resource{}, stale: true}
}

// demand sets the current demand. It reports whether a write would help.
func (m *member) demand(name string, d Demand, now time.Time) (act bool) {
	r := m.resources[name]
	if r == nil {
		if d.Wanted == 0 && d.InFlight == 0 {
			return false
		}
		r = &resource{since: now}
		m.resources[name] = r
	}
	r.Demand = d
	r.peak = max(r.peak, d.Wanted)
	return d.Wanted > m.usableOf(r, now) || d.Wanted > r.declared || max(r.usable, d.InFlight) < m.written[name].Hold
}

// usable returns how many requests may be in flight now.
func (m *member) usable(name string, now time.Time) int {
	if r := m.resources[name]; r != nil {
		return m.usableOf(r, now)
	}
	return 0
}

func (m *member) usableOf(r *resource, now time.Time) int {
	if !now.Before(m.expires) {
		return 0
	}
	return min(r.usable, r.Limit)
}

// receive takes a record of the stream.
func (m *member) receive(id string, sequence uint64, rec record, now time.Time) {
	switch {
	case sequence <= m.seen:
		return
	case sequence == m.seen+1:
		m.seen, m.blocked = sequence, time.Time{}
	default:
		m.stale = true
	}
	m.know(id, sequence, rec, now)
}

func (m *member) know(id string, sequence uint64, rec record, now time.Time) {
	if id == m.id {
		m.own = max(m.own, sequence)
		return
	}
	if o := m.others[id]; o == nil || sequence > o.sequence {
		m.others[id] = &other{rec, sequence, now.Add(expiry)}
	}
}

// snapshot is the newest record of each process, read after the stream's last sequence was.
type snapshot struct {
	last    uint64
	records map[string]other // expires is unset
}

// read takes a snapshot. Records that are missing in it stay known until they expire.
func (m *member) read(s snapshot, now time.Time) {
	if s.last < m.seen { // the stream was lost and begins again
		for _, o := range m.others {
			o.sequence = 0
		}
		m.own, m.seen = 0, 0
	}
	m.seen = max(m.seen, s.last)
	if _, there := s.records[m.id]; !there && m.own <= s.last {
		m.own = 0
	}
	for id, o := range s.records {
		m.know(id, o.sequence, o.record, now)
	}
	m.stale, m.blocked = false, time.Time{}
}

// recompute lowers what is more than the member's share, and forgets what has expired.
func (m *member) recompute(now time.Time) {
	m.now = now
	maps.DeleteFunc(m.others, func(_ string, o *other) bool { return now.Sub(o.expires) > forget })
	valid := now.Before(m.expires)
	for name, r := range m.resources {
		period := grace
		if r.scarce = m.scarce(name, r); r.scarce {
			period = scarceGrace
		}
		if since := now.Sub(r.since); since >= period {
			r.before, r.peak, r.since = r.peak, r.Wanted, now
			if since >= 2*period {
				r.before = r.Wanted
			}
		}
		if !valid {
			r.usable = 0
		}
		if r.wants() == 0 && r.InFlight == 0 {
			delete(m.resources, name)
			continue
		}
		r.usable = min(r.usable, m.share(name, r, now))
	}
}

// wants returns the want of the last few seconds.
func (r *resource) wants() int { return max(r.Wanted, r.peak, r.before) }

// declares returns what to write: some more than is wanted, so that few changes need a write.
func (r *resource) declares() int {
	want := r.wants()
	if want == 0 {
		return 0
	}
	room := max(minWant, 1<<bits.Len(uint(want-1)))
	return min(max(want, min(room, max(r.Most, 1))), r.Limit)
}

func (m *member) share(name string, r *resource, now time.Time) int {
	wants := map[string]int{m.id: max(r.declared, min(r.Wanted, r.Limit))}
	for id, o := range m.live() {
		wants[id] = o.record[name].Want
	}
	return Shares(r.Limit, name, uint64(now.Unix()/int64(rotateEvery/time.Second)), wants)[m.id]
}

// live returns the others whose records have not expired.
func (m *member) live() iter.Seq2[string, *other] {
	return func(yield func(string, *other) bool) {
		for id, o := range m.others {
			if m.now.Before(o.expires) && !yield(id, o) {
				return
			}
		}
	}
}

// room returns what the others leave of the limit.
func (m *member) room(name string, r *resource) int {
	room := r.Limit
	for _, o := range m.live() {
		room -= o.record[name].Hold
	}
	return max(room, 0)
}

// contended reports whether another member wants some of the resource.
func (m *member) contended(name string) bool { return m.othersWant(name) > 0 }

// scarce reports whether others want more than this member leaves of the limit.
func (m *member) scarce(name string, r *resource) bool {
	others := m.othersWant(name)
	return others > 0 && others+r.declared > r.Limit
}

func (m *member) othersWant(name string) (want int) {
	for _, o := range m.live() {
		want += o.record[name].Want
	}
	return want
}

// next returns the write that is due, if any. One is on its way at a time. done, refused or lost ends it.
func (m *member) next(now time.Time) (w write, due bool) {
	m.recompute(now)
	if m.pending != nil {
		return write{}, false
	}
	renew := now.Sub(m.wroteAt) >= renewEvery && len(m.resources)+len(m.written) > 0
	w = write{record: record{}, usable: map[string]int{}, sentAt: now, expect: m.own}
	if !m.blocked.IsZero() && now.Sub(m.blocked) > catchUp {
		m.stale = true
	}
	mayRaise := !m.stale && m.blocked.IsZero()
	for name, r := range m.resources {
		declared := r.declared
		if want := r.declares(); want > declared || renew || r.scarce {
			declared = want
		}
		due = due || declared != r.declared && !renew
		was := r.declared
		r.declared = declared
		share := m.share(name, r, now)
		r.usable = min(r.usable, share)
		w.usable[name] = r.usable
		if target := min(share, m.room(name, r)); mayRaise && r.Wanted > r.usable && target > r.usable {
			w.usable[name], w.raise, due = target, true, true
		}
		hold := max(w.usable[name], r.InFlight)
		due = due || hold < m.written[name].Hold && m.contended(name)
		w.record[name] = lease{declared, hold}
		r.declared = was
	}
	for name := range m.written {
		due = due || m.resources[name] == nil && m.contended(name)
	}
	if w.raise {
		w.expect = m.seen
	}
	if due = due || renew; due {
		for name, l := range w.record {
			m.resources[name].declared = l.Want
		}
		m.pending = &w
	}
	return w, due
}

// acknowledged says that the stream has the pending write.
func (m *member) acknowledged(sequence uint64, now time.Time) {
	w := m.pending
	m.pending, m.written, m.wroteAt = nil, w.record, w.sentAt
	m.own = max(m.own, sequence)
	if sequence == m.seen+1 {
		m.seen, m.blocked = sequence, time.Time{}
	}
	// Between the expiry and a late renewal another process may have got the leases. After a raise none has.
	if w.raise || now.Before(m.expires) {
		m.expires = w.sentAt.Add(expiry)
	}
	if w.raise {
		for name, n := range w.usable {
			if r := m.resources[name]; r != nil {
				r.usable = n
			}
		}
	}
	m.recompute(now)
}

// refused says that the pending write was not stored, because another one was.
func (m *member) refused(now time.Time) {
	switch {
	case !m.pending.raise:
		m.stale = true
	case m.seen == m.pending.expect:
		m.blocked = now // until the other record is here
	}
	m.pending = nil
}

// lost says that it is unknown whether the pending write was stored.
func (m *member) lost() { m.pending = nil }
