package events

// TakeTurns takes the turns of all batches that may be in flight at once.
func (s *Streams) TakeTurns() (giveBack func()) {
	for range maxBatchesInFlight {
		s.batches <- struct{}{}
	}
	return func() {
		for range maxBatchesInFlight {
			<-s.batches
		}
	}
}
