package journal

import (
	"context"

	"sheaf/events"

	"github.com/nats-io/nats.go/jetstream"
)

// NotThere exposes the check of a gap.
func (s *Log) NotThere(ctx context.Context, next, is uint64) error {
	return s.notThere(ctx, next, is)
}

// Receive exposes receive with a consumer of the test, because Follow's own cannot be made to skip an event.
func (s *Log) Receive(ctx context.Context, iter jetstream.MessagesContext, next uint64,
	messages chan<- events.Event) error {
	return s.receive(ctx, iter, next, messages)
}
