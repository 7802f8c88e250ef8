package pages

import (
	"context"
	"fmt"

	"sheaf/events"
	"sheaf/events/internal/streams"

	"github.com/nats-io/nats.go/jetstream"
)

// Space returns the size and limit of SHEAF_PAGES, from the leader.
func (s *Store) Space(ctx context.Context) (events.Space, error) {
	return streams.Space(ctx, events.StreamPages, s.stream)
}

// RunID identifies a run, with all its sheets.
type RunID struct {
	Tenant string
	Key    string
	Run    uint64
}

// sheetRun is the part of a run that belongs to a sheet.
type sheetRun struct {
	RunID
	sheet int
}

// Runs returns the runs that have a page 1 in some sheet, each once, from the leader, in arbitrary order.
func (s *Store) Runs(ctx context.Context) ([]RunID, error) {
	found, err := s.runs(ctx, "*", "*")
	runs := make([]RunID, 0, len(found))
	seen := map[RunID]bool{}
	for _, r := range found {
		if !seen[r.RunID] {
			seen[r.RunID] = true
			runs = append(runs, r.RunID)
		}
	}
	return runs, err
}

func (s *Store) runs(ctx context.Context, tenant, key string) ([]sheetRun, error) {
	info, err := streams.LeaderInfo(ctx, s.stream,
		jetstream.WithSubjectFilter(events.SubjectPage+tenant+"."+key+".*.1.1"))
	if err != nil {
		return nil, fmt.Errorf("%w: listing runs: %w", events.ErrUnavailable, err)
	}
	runs := make([]sheetRun, 0, len(info.State.Subjects))
	for subject := range info.State.Subjects {
		t, err := events.SplitSubject(subject, events.SubjectPage, 5)
		if err != nil {
			continue
		}
		if run, sheet, ok := splitRun(t[2]); ok {
			runs = append(runs, sheetRun{RunID{Tenant: t[0], Key: t[1], Run: run}, sheet})
		}
	}
	return runs, nil
}
