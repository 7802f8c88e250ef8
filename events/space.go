package events

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Space is how much room a stream has.
type Space struct {
	Limit int64 // bytes that it may take; 0 or less: no limit
	Used  int64 // bytes that it takes
}

// PageSpace returns the room of SHEAF_PAGES, from the leader.
func (s *Streams) PageSpace(ctx context.Context) (Space, error) {
	return space(ctx, StreamPages, s.pages)
}

// LogSpace returns the room of SHEAF_EVENTS, from the leader.
func (s *Streams) LogSpace(ctx context.Context) (Space, error) {
	return space(ctx, StreamEvents, s.events)
}

func space(ctx context.Context, name string, stream jetstream.Stream) (Space, error) {
	info, err := leaderInfo(ctx, stream)
	if err != nil {
		return Space{}, fmt.Errorf("%w: state of %s: %w", ErrUnavailable, name, err)
	}
	return Space{Limit: info.Config.MaxBytes, Used: int64(info.State.Bytes)}, nil
}

// Reservation is what a crawl says of the room that it will need in
// SHEAF_PAGES, for the others to see. There is one for each key at most, the
// last value of sheaf.private.space.<tenant>.<key>.
//
// It is also the proof that a crawler may purge the pages of the run: each
// write is made under the condition that nobody else has written since, so of
// two crawlers that both have the export only the last to take it over can.
type Reservation struct {
	Tenant string `json:"-"`
	Key    string `json:"-"`

	Requested uint64 `json:"requested"`          // Export.RequestedSeq: a smaller one is older
	Run       uint64 `json:"run"`                // that is written
	Stored    int64  `json:"stored"`             // bytes of the run that are there
	Remaining int64  `json:"remaining"`          // bytes that are still to come, estimated
	Starved   int64  `json:"starved,omitempty"`  // bytes of a page that this crawl, the oldest, finds no room for
	GaveWay   uint64 `json:"gave_way,omitempty"` // see GiveWay

	Written time.Time `json:"-"` // when, by the server's clock
	seq     uint64    // of the record, 0 before it is there
}

// ErrReservationLost is returned when somebody else has written the
// reservation since: another crawler has taken the export over, or the export
// has ended.
var ErrReservationLost = errors.New("the reservation is another's")

// Reserve writes a reservation over the one it was made from: that of
// Reservation, or of an earlier write. It returns ErrReservationLost, and
// writes nothing, when that is no longer the last one.
func (s *Streams) Reserve(ctx context.Context, r *Reservation) error {
	if err := checkName(r.Tenant, r.Key); err != nil {
		return err
	}
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("reserving space: %w", err)
	}
	subject := privateSubject("space", r.Tenant, r.Key)
	seq, err := s.publishFenced(ctx, &nats.Msg{Subject: subject, Data: data}, r.seq, subject)
	if errors.Is(err, errWrongLastSequence) {
		return ErrReservationLost
	}
	if err != nil {
		return fmt.Errorf("reserving space: %w", err)
	}
	r.seq = seq
	return nil
}

// Reservation returns the reservation of a key as the leader knows it. Without
// one it has Requested 0.
func (s *Streams) Reservation(ctx context.Context, tenant, key string) (Reservation, error) {
	r := Reservation{Tenant: tenant, Key: key}
	if err := checkName(tenant, key); err != nil {
		return r, err
	}
	m, err := s.private.GetLastMsgForSubject(ctx, privateSubject("space", tenant, key))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return r, nil
	}
	if err != nil {
		return r, fmt.Errorf("%w: reading a reservation: %w", ErrUnavailable, err)
	}
	return decodeReservation(m)
}

// decodeReservation decodes a record. One that cannot be read counts as that
// of a round before all others, so that its owner can write over it.
func decodeReservation(m *jetstream.RawStreamMsg) (Reservation, error) {
	t, err := splitSubject(m.Subject, subjectPrivate+"space.", 2)
	if err != nil {
		return Reservation{}, err
	}
	r := Reservation{}
	if json.Unmarshal(m.Data, &r) != nil {
		r = Reservation{}
	}
	r.Tenant, r.Key, r.Written, r.seq = t[0], t[1], m.Time, m.Sequence
	return r, nil
}

// Reservations returns all reservations, from the leader, in no order. Those
// of dead crawlers and ended exports may be among them.
func (s *Streams) Reservations(ctx context.Context) ([]Reservation, error) {
	found := map[string]Reservation{}
	for next := uint64(1); ; {
		m, err := s.private.GetMsg(ctx, next, jetstream.WithGetMsgSubject(subjectPrivate+"space.*.*"))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%w: reading reservations: %w", ErrUnavailable, err)
		}
		// One that is written anew meanwhile comes twice, the newer one last.
		if r, err := decodeReservation(m); err == nil {
			found[m.Subject] = r
		}
		next = m.Sequence + 1
	}
	list := make([]Reservation, 0, len(found))
	for _, r := range found {
		list = append(list, r)
	}
	return list, nil
}

// Release removes a reservation; one that was written since stays.
func (s *Streams) Release(ctx context.Context, r Reservation) error {
	if err := checkName(r.Tenant, r.Key); err != nil {
		return err
	}
	return s.purgeUpTo(ctx, s.private, privateSubject("space", r.Tenant, r.Key), r.seq)
}

// GiveWay removes the pages of a run whose export is still to be crawled, so
// that an older one has their room; the crawl begins again later. The order is
// what makes it safe: the reservation says up to where pages are given up, and
// only if it could still be written they are purged, up to there. Whoever takes
// the export over finds that in the reservation and carries it out himself (see
// TakeOver) before he looks which pages there are. A purge that comes late then
// removes nothing that counts, and a page that is published late is one that
// the next crawl finds.
func (s *Streams) GiveWay(ctx context.Context, r *Reservation) error {
	info, err := leaderInfo(ctx, s.pages)
	if err != nil {
		return fmt.Errorf("%w: state of %s: %w", ErrUnavailable, StreamPages, err)
	}
	r.GaveWay, r.Stored, r.Starved = info.State.LastSeq, 0, 0
	if err := s.Reserve(ctx, r); err != nil {
		return err
	}
	return s.purgeGivenUp(ctx, r)
}

// TakeOver makes a reservation that another crawl of the same round may have
// left that of the caller. It must come before the listing of the run's pages.
// Without one it does nothing.
func (s *Streams) TakeOver(ctx context.Context, x *Export) (Reservation, error) {
	r, err := s.Reservation(ctx, x.Tenant, x.Key)
	if err != nil || r.Requested != x.RequestedSeq {
		return r, err
	}
	if r.GaveWay != 0 {
		if err := s.purgeGivenUp(ctx, &r); err != nil {
			return r, err
		}
		r.GaveWay = 0
	}
	r.Starved = 0
	return r, s.Reserve(ctx, &r)
}

func (s *Streams) purgeGivenUp(ctx context.Context, r *Reservation) error {
	return s.purgeUpTo(ctx, s.pages, runPrefix(r.Tenant, r.Key, r.Run)+">", r.GaveWay)
}

// RunID names a run.
type RunID struct {
	Tenant string
	Key    string
	Run    uint64
}

// Runs returns the runs that have a page 1, from the leader, in no order.
func (s *Streams) Runs(ctx context.Context) ([]RunID, error) {
	info, err := leaderInfo(ctx, s.pages, jetstream.WithSubjectFilter(subjectPage+"*.*.*.1.1"))
	if err != nil {
		return nil, fmt.Errorf("%w: listing runs: %w", ErrUnavailable, err)
	}
	runs := make([]RunID, 0, len(info.State.Subjects))
	for subject := range info.State.Subjects {
		t, err := splitSubject(subject, subjectPage, 5)
		if err != nil {
			continue
		}
		if run, err := strconv.ParseUint(t[2], 10, 64); err == nil {
			runs = append(runs, RunID{Tenant: t[0], Key: t[1], Run: run})
		}
	}
	return runs, nil
}
