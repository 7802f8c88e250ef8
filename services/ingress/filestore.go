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
	// storeEvery is the pause between two looks at whether the file store is there,
	// and storeWait how long one may take. It is also when a caller may try again.
	storeEvery = time.Second
	storeWait  = 3 * time.Second
)

// fileStore is whether the file store is there. The zero value says that it is.
type fileStore struct {
	mu  sync.Mutex
	bad int // looks in a row that failed
	err error
}

func (f *fileStore) health() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// set remembers the result of a look, and logs a change. One look without an
// answer says nothing yet: a server may be electing a leader.
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

// watchStore looks at the file store until ctx ends. A look that hangs does not hold it.
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

// lookAtStore asks whether the store is there. A folder on a network may not answer.
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
		select { // one question at a time
		case <-answered:
		case <-ctx.Done():
		}
	}
}
