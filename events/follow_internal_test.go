package events

import "context"

// NotThere lets the tests ask what Follow asks about a gap: no server can be made
// to pass over an event at will.
func (s *Streams) NotThere(ctx context.Context, first, last uint64) error {
	return s.notThere(ctx, first, last)
}
