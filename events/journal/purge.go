package journal

import (
	"context"
	"fmt"
	"time"

	"sheaf/events"
	"sheaf/events/failpoint"
	"sheaf/events/internal/streams"

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
func (s *Log) PurgeMark(ctx context.Context) (PurgeMark, error) {
	m := PurgeMark{At: time.Now()}
	pages, err := streams.LeaderInfo(ctx, s.pages)
	if err != nil {
		return m, fmt.Errorf("%w: state of %s: %w", events.ErrUnavailable, events.StreamPages, err)
	}
	private, err := streams.LeaderInfo(ctx, s.private)
	if err != nil {
		return m, fmt.Errorf("%w: state of %s: %w", events.ErrUnavailable, events.StreamPrivate, err)
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
func (s *Log) PurgeEnded(ctx context.Context, x events.Export, mark PurgeMark) error {
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
func (s *Log) PurgeEndedPages(ctx context.Context, x events.Export, mark PurgeMark) error {
	now, err := s.Read(ctx, x.Tenant, x.Key)
	if err != nil {
		return err
	}
	if !now.State.Terminal() || now.RequestedSeq != x.RequestedSeq {
		return fmt.Errorf("%w: purging key %s, which is not at the end it was seen at", events.ErrNotAllowed, x.Key)
	}
	return s.purgeUpTo(ctx, s.pages, events.SubjectPage+x.Tenant+"."+x.Key+".>", mark.pages)
}

// LogState is how the log stands, as its leader says.
type LogState struct {
	Created time.Time // of the stream; names the log for ever
	First   uint64    // sequence of the oldest event; one more than Last in an empty log
	Last    uint64    // sequence of the newest event there ever was
	Space   events.Space
}

// LogState returns the present state of the log.
func (s *Log) LogState(ctx context.Context) (LogState, error) {
	info, err := streams.LeaderInfo(ctx, s.events)
	if err != nil {
		return LogState{}, fmt.Errorf("%w: state of %s: %w", events.ErrUnavailable, events.StreamEvents, err)
	}
	l := LogState{
		Created: info.Created, First: info.State.FirstSeq, Last: info.State.LastSeq,
		Space: events.Space{Limit: info.Config.MaxBytes, Used: int64(info.State.Bytes)},
	}
	if info.State.Msgs == 0 {
		l.First = l.Last + 1
	}
	return l, nil
}

// LogSpace returns the room of SHEAF_EVENTS, from the leader.
func (s *Log) LogSpace(ctx context.Context) (events.Space, error) {
	return streams.Space(ctx, events.StreamEvents, s.events)
}

// KeepLast removes all events of a key but its newest one, which tells everything.
// While work on the export is under way its consumers still need the others.
func (s *Log) KeepLast(ctx context.Context, tenant, key string) error {
	return s.purgeEvents(ctx, tenant, key, jetstream.WithPurgeKeep(1))
}

// Forget removes an export from the log, unless it has begun again since x was read.
func (s *Log) Forget(ctx context.Context, x events.Export) error {
	return s.purgeEvents(ctx, x.Tenant, x.Key, jetstream.WithPurgeSequence(x.LastSeq+1))
}

func (s *Log) purgeEvents(ctx context.Context, tenant, key string, opt jetstream.StreamPurgeOpt) error {
	if err := events.CheckName(tenant, key); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.PublishTimeout)
	defer cancel()
	if err := s.events.Purge(ctx, jetstream.WithPurgeSubject(events.KeyFilter(tenant, key)), opt); err != nil {
		return fmt.Errorf("%w: purging the events of key %s: %w", events.ErrUnavailable, key, err)
	}
	return nil
}

// purgeUpTo purges a subject up to a sequence. A request that waits longer than
// a publish is given up, so that it cannot be carried out much later than the
// look before it.
func (s *Log) purgeUpTo(ctx context.Context, stream jetstream.Stream, subject string, last uint64) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.PublishTimeout)
	defer cancel()
	if err := stream.Purge(ctx, jetstream.WithPurgeSubject(subject), jetstream.WithPurgeSequence(last+1)); err != nil {
		return fmt.Errorf("%w: purging %s: %w", events.ErrUnavailable, subject, err)
	}
	failpoint.Hit("purge.after")
	return nil
}
