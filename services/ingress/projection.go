package ingress

import (
	"context"
	"fmt"

	"sheaf/events"
)

// project applies the log to this ingress's own projection.
func (s *Service) project(ctx context.Context) error {
	err := untilDone(ctx, "reading the log's bounds", func(ctx context.Context) error {
		log, err := s.streams.LogState(ctx)
		if err != nil {
			return err
		}
		if err := s.tasks.Bind(log.Created, log.Last); err != nil {
			return err
		}
		if _, err := s.tasks.Trim(log.Trimmed); err != nil {
			return err
		}
		if log.First > log.Last {
			// Nothing of the log is left, so no event would ever bring the
			// projection to its end.
			return s.tasks.Apply([]events.Event{{Sequence: log.Last}})
		}
		return nil
	})
	if err != nil || ctx.Err() != nil {
		return err
	}
	close(s.bound)
	return untilDone(ctx, "following the log", func(ctx context.Context) error {
		return s.streams.Follow(ctx, s.tasks.Applied()+1, func(batch []events.Event) error {
			if err := s.tasks.Apply(batch); err != nil {
				return fmt.Errorf("applying sequences %d to %d: %w", batch[0].Sequence, batch[len(batch)-1].Sequence, err)
			}
			s.progress.apply(batch)
			return nil
		})
	})
}

// catchUp marks the service ready once the projection has seen what was in the
// log at the start.
func (s *Service) catchUp(ctx context.Context) error {
	select {
	case <-s.bound:
	case <-ctx.Done():
		return nil
	}
	return untilDone(ctx, "catching up with the log", func(ctx context.Context) error {
		last, err := s.streams.LastSequence(ctx)
		if err != nil {
			return err
		}
		if err := s.tasks.WaitApplied(ctx, last); err != nil {
			return err
		}
		s.caughtUp.Store(true)
		return nil
	})
}

// watchProgress remembers what crawlers and assemblers tell.
func (s *Service) watchProgress(ctx context.Context) error {
	return untilDone(ctx, "watching progress", func(ctx context.Context) error {
		stop, err := s.streams.OnProgress(s.progress.tell)
		if err != nil {
			return err
		}
		<-ctx.Done()
		stop()
		return nil
	})
}
