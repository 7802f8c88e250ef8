package journal

import (
	"context"

	"sheaf/events"

	"github.com/nats-io/nats.go/jetstream"
)

// NotThere lets the tests ask what Follow asks about a gap.
func (s *Log) NotThere(ctx context.Context, next, is uint64) error {
	return s.notThere(ctx, next, is)
}

// Receive lets the tests give Follow a consumer of theirs: none of its own can be made to
// pass over an event at will.
func (s *Log) Receive(ctx context.Context, iter jetstream.MessagesContext, next uint64, messages chan<- events.Event) error {
	return s.receive(ctx, iter, next, messages)
}
