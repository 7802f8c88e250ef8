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
	return m, nil
}

// PurgeEnded removes what an ended export needs no longer, up to a mark: the
// pages of all its runs, its sealed source headers and its start count. It asks the
// leader of the log first, and removes nothing, with ErrNotAllowed, if the export is
// under way or has begun again since x was read. A repetition finds nothing to remove.
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
	return s.purgeUpTo(ctx, s.pages, SubjectPage+x.Tenant+"."+x.Key+".>", mark.pages)
}

// LogState is how the log stands, as its leader says.
type LogState struct {
	Created time.Time // of the stream; names the log for ever
	First   uint64    // sequence of the oldest event; one more than Last in an empty log
	Last    uint64    // sequence of the newest event there ever was
	Space   Space
}

// LogState returns the present state of the log.
func (s *Streams) LogState(ctx context.Context) (LogState, error) {
	info, err := leaderInfo(ctx, s.events)
	if err != nil {
		return LogState{}, fmt.Errorf("%w: state of %s: %w", ErrUnavailable, StreamEvents, err)
	}
	l := LogState{
		Created: info.Created, First: info.State.FirstSeq, Last: info.State.LastSeq,
		Space: Space{Limit: info.Config.MaxBytes, Used: int64(info.State.Bytes)},
	}
	if info.State.Msgs == 0 {
		l.First = l.Last + 1
	}
	return l, nil
}

// KeepLast removes all events of a key but its newest one, which tells everything.
// While work on the export is under way its consumers still need the others.
func (s *Streams) KeepLast(ctx context.Context, tenant, key string) error {
	return s.purgeEvents(ctx, tenant, key, jetstream.WithPurgeKeep(1))
}

// Forget removes an export from the log, unless it has begun again since x was read.
func (s *Streams) Forget(ctx context.Context, x Export) error {
	return s.purgeEvents(ctx, x.Tenant, x.Key, jetstream.WithPurgeSequence(x.LastSeq+1))
}

func (s *Streams) purgeEvents(ctx context.Context, tenant, key string, opt jetstream.StreamPurgeOpt) error {
	if err := CheckName(tenant, key); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.PublishTimeout)
	defer cancel()
	if err := s.events.Purge(ctx, jetstream.WithPurgeSubject(KeyFilter(tenant, key)), opt); err != nil {
		return fmt.Errorf("%w: purging the events of key %s: %w", ErrUnavailable, key, err)
	}
	return nil
}

// purgeUpTo purges a subject up to a sequence. A request that waits longer than
// a publish is given up, so that it cannot be carried out much later than the
// look before it.
func (s *Streams) purgeUpTo(ctx context.Context, stream jetstream.Stream, subject string, last uint64) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.PublishTimeout)
	defer cancel()
	if err := stream.Purge(ctx, jetstream.WithPurgeSubject(subject), jetstream.WithPurgeSequence(last+1)); err != nil {
		return fmt.Errorf("%w: purging %s: %w", ErrUnavailable, subject, err)
	}
	failpoint.Hit("purge.after")
	return nil
}
