package pages

import (
	"context"
	"fmt"
	"strconv"

	"sheaf/events"
	"sheaf/events/internal/streams"

	"github.com/nats-io/nats.go/jetstream"
)

// Space returns the size and limit of SHEAF_PAGES, from the leader.
func (s *Store) Space(ctx context.Context) (events.Space, error) {
	return streams.Space(ctx, events.StreamPages, s.stream)
}

// RunID identifies a run.
type RunID struct {
	Tenant string
	Key    string
	Run    uint64
}

// Runs returns the runs that have a page 1, from the leader, in arbitrary order.
func (s *Store) Runs(ctx context.Context) ([]RunID, error) { return s.runs(ctx, "*", "*") }

func (s *Store) runs(ctx context.Context, tenant, key string) ([]RunID, error) {
	info, err := streams.LeaderInfo(ctx, s.stream,
		jetstream.WithSubjectFilter(events.SubjectPage+tenant+"."+key+".*.1.1"))
	if err != nil {
		return nil, fmt.Errorf("%w: listing runs: %w", events.ErrUnavailable, err)
	}
	runs := make([]RunID, 0, len(info.State.Subjects))
	for subject := range info.State.Subjects {
		t, err := events.SplitSubject(subject, events.SubjectPage, 5)
		if err != nil {
			continue
		}
		if run, err := strconv.ParseUint(t[2], 10, 64); err == nil {
			runs = append(runs, RunID{Tenant: t[0], Key: t[1], Run: run})
		}
	}
	return runs, nil
}
