package events

import (
	"context"
	"fmt"
	"time"
)

// LogBounds returns when the log was created, which names it for ever, and its
// first and last sequence, from the leader. In an empty log last is that of the
// newest event there ever was, and first is one more.
func (s *Streams) LogBounds(ctx context.Context) (created time.Time, first, last uint64, err error) {
	info, err := s.events.Info(ctx)
	if err != nil {
		return time.Time{}, 0, 0, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if info.State.Msgs == 0 {
		return info.Created, info.State.LastSeq + 1, info.State.LastSeq, nil
	}
	return info.Created, info.State.FirstSeq, info.State.LastSeq, nil
}
