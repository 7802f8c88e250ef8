package events

import (
	"context"
	"fmt"
	"strconv"

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

// RunID names a run.
type RunID struct {
	Tenant string
	Key    string
	Run    uint64
}

// Runs returns the runs that have a page 1, from the leader, in no order.
func (s *Streams) Runs(ctx context.Context) ([]RunID, error) { return s.runs(ctx, "*", "*") }

func (s *Streams) runs(ctx context.Context, tenant, key string) ([]RunID, error) {
	info, err := leaderInfo(ctx, s.pages, jetstream.WithSubjectFilter(SubjectPage+tenant+"."+key+".*.1.1"))
	if err != nil {
		return nil, fmt.Errorf("%w: listing runs: %w", ErrUnavailable, err)
	}
	runs := make([]RunID, 0, len(info.State.Subjects))
	for subject := range info.State.Subjects {
		t, err := SplitSubject(subject, SubjectPage, 5)
		if err != nil {
			continue
		}
		if run, err := strconv.ParseUint(t[2], 10, 64); err == nil {
			runs = append(runs, RunID{Tenant: t[0], Key: t[1], Run: run})
		}
	}
	return runs, nil
}
