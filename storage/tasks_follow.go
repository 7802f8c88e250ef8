package storage

import (
	"context"
	"fmt"

	"sheaf/events"
	"sheaf/events/journal"
)

// BoundToLog is closed once the projection belongs to the log that Follow reads. Before that it may hold
// exports of another log.
func (t *Tasks) BoundToLog() <-chan struct{} { return t.bound }

// Began returns the sequence that was applied when BoundToLog was closed, 0 if it was the log's last. Events
// after it that the log no longer has were never applied.
func (t *Tasks) Began() uint64 { return t.began }

// Follow binds the projection to a log and applies the log's events until ctx ends; then it returns nil. It
// calls applied with each batch after applying it. After [events.ErrUnavailable] it can be called again.
func (t *Tasks) Follow(ctx context.Context, streams *journal.Log, applied func([]events.Event)) error {
	select {
	case <-t.bound:
	default:
		if err := t.bindTo(ctx, streams); err != nil {
			return err
		}
		close(t.bound)
	}
	return streams.Follow(ctx, t.Applied()+1, func(batch []events.Event) error {
		if err := t.Apply(batch); err != nil {
			return fmt.Errorf("sequences %d to %d: %w", batch[0].Sequence, batch[len(batch)-1].Sequence, err)
		}
		applied(batch)
		return nil
	})
}

func (t *Tasks) bindTo(ctx context.Context, streams *journal.Log) error {
	log, err := streams.LogState(ctx)
	if err != nil {
		return fmt.Errorf("reading the log's bounds: %w", err)
	}
	if err := t.Bind(log.Created, log.Last); err != nil {
		return err
	}
	if t.Applied() < log.Last {
		t.began = t.Applied()
	}
	if log.First > log.Last {
		// The log is empty, so no event would ever bring the projection to the log's end.
		return t.Apply([]events.Event{{Sequence: log.Last}})
	}
	return nil
}
