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

// PurgeMark is a position in the streams that hold leftovers. A purge up to a mark cannot delete messages
// written after the mark was taken.
type PurgeMark struct {
	At      time.Time // when it was taken, by this process's clock
	pages   uint64
	private uint64
}

// PurgeMark returns the current mark, from the leaders.
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

// PurgeEnded deletes what an ended export no longer needs, up to a mark: the pages of all its runs, its
// sealed source headers and its start count. It asks the leader of the log first. If the export is in
// progress or has restarted since x was read, it returns ErrNotAllowed and deletes nothing. Calling it again
// does nothing.
//
// The check and the deletion are two steps. An export that starts in between loses reusable data of an
// earlier run; everything that it writes itself is beyond the mark and stays.
func (s *Log) PurgeEnded(ctx context.Context, x events.Export, mark PurgeMark) error {
	if err := s.PurgeEndedPages(ctx, x, mark); err != nil {
		return err
	}
	return s.purgePrivate(ctx, x, mark)
}

// PurgeEndedPrivate is PurgeEnded for all but the pages.
func (s *Log) PurgeEndedPrivate(ctx context.Context, x events.Export, mark PurgeMark) error {
	if err := s.stillEnded(ctx, x); err != nil {
		return err
	}
	return s.purgePrivate(ctx, x, mark)
}

func (s *Log) purgePrivate(ctx context.Context, x events.Export, mark PurgeMark) error {
	for _, what := range leftByExports {
		if err := s.purgeUpTo(ctx, s.private, privateSubject(what, x.Tenant, x.Key),
			mark.private); err != nil {
			return err
		}
	}
	return nil
}

// PurgeEndedPages is PurgeEnded for the pages only.
func (s *Log) PurgeEndedPages(ctx context.Context, x events.Export, mark PurgeMark) error {
	if err := s.stillEnded(ctx, x); err != nil {
		return err
	}
	return s.purgeUpTo(ctx, s.pages, events.SubjectPage+x.Tenant+"."+x.Key+".>", mark.pages)
}

// stillEnded asks the leader whether an export still has the end that it was seen at.
func (s *Log) stillEnded(ctx context.Context, x events.Export) error {
	now, err := s.Read(ctx, x.Tenant, x.Key)
	if err != nil {
		return err
	}
	if !now.State.Terminal() || now.RequestedSeq != x.RequestedSeq {
		return fmt.Errorf("%w: purging key %s, which is not at the end it was seen at",
			events.ErrNotAllowed, x.Key)
	}
	return nil
}

// LogState is the state of the log, from its leader.
type LogState struct {
	Created time.Time // of the stream; identifies the log forever
	First   uint64    // sequence of the oldest event; Last plus one if the log is empty
	Last    uint64    // sequence of the newest event ever
	Space   events.Space
}

// LogState returns the current state of the log.
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

// LogSpace returns the size and limit of SHEAF_EVENTS, from the leader.
func (s *Log) LogSpace(ctx context.Context) (events.Space, error) {
	return streams.Space(ctx, events.StreamEvents, s.events)
}

// KeepLast deletes all events of a key except the newest, which is sufficient. While work on the export is in
// progress, its consumers still need the others.
func (s *Log) KeepLast(ctx context.Context, tenant, key string) error {
	return s.purgeEvents(ctx, tenant, key, jetstream.WithPurgeKeep(1))
}

// Forget deletes an export from the log, unless it has restarted since x was read.
func (s *Log) Forget(ctx context.Context, x events.Export) error {
	return s.purgeEvents(ctx, x.Tenant, x.Key, jetstream.WithPurgeSequence(x.LastSeq+1))
}

func (s *Log) purgeEvents(ctx context.Context, tenant, key string, opt jetstream.StreamPurgeOpt) error {
	if err := events.CheckName(tenant, key); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.PublishTimeout)
	defer cancel()
	if err := s.events.Purge(ctx, jetstream.WithPurgeSubject(events.KeyFilter(tenant, key)),
		opt); err != nil {
		return fmt.Errorf("%w: purging the events of key %s: %w", events.ErrUnavailable, key, err)
	}
	return nil
}

// purgeUpTo purges a subject up to a sequence. It gives up after the timeout of a publish, so that the purge
// cannot happen much later than the check before it.
func (s *Log) purgeUpTo(ctx context.Context, stream jetstream.Stream, subject string, last uint64) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.PublishTimeout)
	defer cancel()
	if err := stream.Purge(ctx, jetstream.WithPurgeSubject(subject),
		jetstream.WithPurgeSequence(last+1)); err != nil {
		return fmt.Errorf("%w: purging %s: %w", events.ErrUnavailable, subject, err)
	}
	failpoint.Hit("purge.after")
	return nil
}
