package ingress

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"sheaf/storage"
)

const (
	// storeEvery is the pause between two checks of the file store, and the Retry-After of callers. storeWait
	// bounds one check.
	storeEvery = time.Second
	storeWait  = 3 * time.Second
)

// fileStore tracks whether the file store is reachable. The zero value is reachable.
type fileStore struct {
	mu  sync.Mutex
	bad int // consecutive failed checks
	err error
}

func (f *fileStore) health() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// set records the result of a check, and logs a change. One failure is ignored, because a server may be
// electing a leader.
func (f *fileStore) set(log *slog.Logger, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var is error
	switch f.bad++; {
	case err == nil:
		f.bad = 0
	case errors.Is(err, storage.ErrNoStore):
		is = NotReady("the file store is not there; put it back, or restart Sheaf to go without the finished files that were in it")
	case f.bad > 1:
		is = NotReady("the file store cannot be read; the server's log says why")
	default:
		return
	}
	switch {
	case is != nil && f.err == nil:
		log.Error("not ready: finished files can be neither kept nor downloaded; no export expires because of that", "error", err)
	case is == nil && f.err != nil:
		log.Info("the file store is there again")
	}
	f.err = is
}

// watchStore checks the file store until ctx ends. It does not wait for a check that hangs.
func (s *Service) watchStore(ctx context.Context) error {
	tick := time.NewTicker(storeEvery)
	defer tick.Stop()
	for {
		s.lookAtStore(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// lookAtStore checks the store. A network folder may not answer.
func (s *Service) lookAtStore(ctx context.Context) {
	asked, cancel := context.WithTimeout(ctx, storeWait)
	defer cancel()
	var err error
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		err = s.files.Check(asked)
	}()
	select {
	case <-answered:
		if ctx.Err() == nil {
			s.store.set(s.cfg.Log, err)
		}
	case <-asked.Done():
		if ctx.Err() != nil {
			return
		}
		s.store.set(s.cfg.Log, fmt.Errorf("no answer within %v", storeWait))
		select { // one check at a time
		case <-answered:
		case <-ctx.Done():
		}
	}
}
