package pages

import (
	"context"

	"sheaf/events/internal/streams"
)

// TakeTurns takes the turns of all batches that may be in flight.
func (s *Store) TakeTurns() (giveBack func()) {
	for range maxBatchesInFlight {
		s.batches <- struct{}{}
	}
	return func() {
		for range maxBatchesInFlight {
			<-s.batches
		}
	}
}

// HoldWriters takes all of a tenant's turns on SHEAF_PAGES.
func (s *Store) HoldWriters(ctx context.Context, tenant string) (leave func()) {
	var leaves []func()
	leave, err := s.writers.Enter(ctx, "another") // a tenant that is alone has no limit
	if err != nil {
		panic(err)
	}
	leave()
	for range streams.MaxPerTenant {
		leave, err := s.writers.Enter(ctx, tenant)
		if err != nil {
			panic(err)
		}
		leaves = append(leaves, leave)
	}
	return func() {
		for _, leave := range leaves {
			leave()
		}
	}
}
