package events

import (
	"context"
	"fmt"
	"time"

	"sheaf/events/failpoint"

	"github.com/nats-io/nats.go/jetstream"
)

// PurgeMark is a place in the streams that exports leave things in. Purging up
// to a mark that was taken before one looked at an export cannot touch what was
// written after the look.
type PurgeMark struct {
	At      time.Time // when it was taken, by this process's clock
	Full    float64   // how much of SHEAF_PAGES' space was taken, 0 to 1
	pages   uint64
	private uint64
}

// PurgeMark returns the present mark, from the leaders.
func (s *Streams) PurgeMark(ctx context.Context) (PurgeMark, error) {
	m := PurgeMark{At: time.Now()}
	pages, err := leaderInfo(ctx, s.pages)
	if err != nil {
		return m, fmt.Errorf("%w: state of %s: %w", ErrUnavailable, StreamPages, err)
	}
	private, err := leaderInfo(ctx, s.private)
	if err != nil {
		return m, fmt.Errorf("%w: state of %s: %w", ErrUnavailable, StreamPrivate, err)
	}
	m.pages, m.private = pages.State.LastSeq, private.State.LastSeq
	if limit := pages.Config.MaxBytes; limit > 0 {
		m.Full = float64(pages.State.Bytes) / float64(limit)
	}
	return m, nil
}

// PurgeEnded removes what an ended export needs no longer, up to a mark: the
// pages of all its runs, its sealed source headers, its start count and its
// reservation. It asks the leader of the log first, and removes nothing, with
// ErrNotAllowed, if the export is under way or was begun anew since x was read.
// A repetition finds nothing to remove.
//
// The leader's word and the removal are two steps. An export that begins between
// them loses what it means to use of an earlier run; what it writes itself lies
// behind the mark and stays.
func (s *Streams) PurgeEnded(ctx context.Context, x Export, mark PurgeMark) error {
	if err := s.PurgeEndedPages(ctx, x, mark); err != nil {
		return err
	}
	for _, what := range leftByExports {
		if err := s.purgeUpTo(ctx, s.private, privateSubject(what, x.Tenant, x.Key), mark.private); err != nil {
			return err
		}
	}
	return nil
}

// PurgeEndedPages is PurgeEnded for the pages alone.
func (s *Streams) PurgeEndedPages(ctx context.Context, x Export, mark PurgeMark) error {
	now, err := s.Read(ctx, x.Tenant, x.Key)
	if err != nil {
		return err
	}
	if !now.State.Terminal() || now.RequestedSeq != x.RequestedSeq {
		return fmt.Errorf("%w: purging key %s, which is not at the end it was seen at", ErrNotAllowed, x.Key)
	}
	return s.purgeUpTo(ctx, s.pages, subjectPage+x.Tenant+"."+x.Key+".>", mark.pages)
}

// purgeUpTo purges a subject up to a sequence. A request that waits longer than
// a publish is given up, so that it cannot be carried out much later than the
// look before it.
func (s *Streams) purgeUpTo(ctx context.Context, stream jetstream.Stream, subject string, last uint64) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.PublishTimeout)
	defer cancel()
	failpoint.Hit("purge.before")
	if err := stream.Purge(ctx, jetstream.WithPurgeSubject(subject), jetstream.WithPurgeSequence(last+1)); err != nil {
		return fmt.Errorf("%w: purging %s: %w", ErrUnavailable, subject, err)
	}
	failpoint.Hit("purge.after")
	return nil
}
