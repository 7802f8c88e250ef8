package ingress

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"sheaf/events"
)

const (
	// outlookEvery is the pause between two looks at what operations rest on,
	// and logLooks the number of them between two at the log's space.
	outlookEvery = 250 * time.Millisecond
	logLooks     = 4
	// brokenLooks is after how many bad looks operations are given up. A
	// connection that is back within a second has lost nothing.
	brokenLooks = 4
	// logShare is how much of the log new exports may fill. What is left is for
	// the events that end exports.
	logShare = 0.9
	// roomWait is when a caller may try again that was refused for want of room.
	roomWait = 10 * time.Second
	// closedWait is when a caller may try again that came during a start.
	closedWait = 2 * time.Second
	// roomEvery is how often durable submissions look whether there is room.
	roomEvery = 250 * time.Millisecond
)

// outlook is what is known of the chances of a new operation. The zero value
// knows nothing.
type outlook struct {
	mu    sync.Mutex
	log   events.Space
	looks int                // at log; what was admitted before the last one is in it
	alive context.Context    // ends when nothing can be written any more
	lost  context.CancelFunc // ends alive
}

// hope has operations wait for what they write.
func (o *outlook) hope() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.alive == nil || o.alive.Err() != nil {
		o.alive, o.lost = context.WithCancel(context.Background())
	}
}

// despair ends the waiting.
func (o *outlook) despair() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lost()
}

// watchOutlook looks again and again, until ctx ends.
func (s *Service) watchOutlook(ctx context.Context) error {
	o := &s.outlook
	o.hope()
	defer o.despair()
	tick := time.NewTicker(outlookEvery)
	defer tick.Stop()
	for n, bad := 0, 0; ; n++ {
		switch {
		case !s.broken():
			bad = 0
		case bad < brokenLooks:
			bad++
		}
		switch bad {
		case 0:
			o.hope()
		case brokenLooks:
			o.despair()
		}
		if bad == 0 && n%logLooks == 0 {
			look, cancel := context.WithTimeout(ctx, readWait)
			if space, err := s.journal.LogSpace(look); err == nil {
				o.mu.Lock()
				o.log = space
				o.looks++
				o.mu.Unlock()
			}
			cancel()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// broken reports whether nothing can be written now. That this process should
// get no requests for another reason does not count.
func (s *Service) broken() bool {
	if !s.journal.Conn().IsConnected() {
		return true
	}
	err := s.cfg.Health()
	var said NotReady
	return err != nil && !errors.As(err, &said)
}

// whileAlive returns a context that also ends when nothing can be written any
// more: an acknowledgement would be waited for in vain.
func (o *outlook) whileAlive(ctx context.Context) (context.Context, context.CancelFunc) {
	o.mu.Lock()
	alive := o.alive
	o.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	if alive == nil {
		return ctx, cancel
	}
	stop := context.AfterFunc(alive, cancel)
	return ctx, func() { stop(); cancel() }
}

// admit refuses a new export if there is no room for it, before anything of it
// is written: for about so many bytes on the disk, and in the log. done is called
// when what was admitted is written, or will not be.
func (s *Service) admit(disk, log int64) (done func(written bool), err error) {
	if err := s.cfg.Room(disk); err != nil {
		return nil, unavailable(err.Error()+"; nothing was accepted; try again later", roomWait, nil)
	}
	o := &s.outlook
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.refuse(log); err != nil {
		return nil, err
	}
	o.log.Used += log // until the next look
	look := o.looks
	return func(written bool) {
		o.mu.Lock()
		defer o.mu.Unlock()
		if !written && o.looks == look {
			o.log.Used -= log
		}
	}, nil
}

// refuse returns an error if so many bytes more would fill the log beyond logShare.
// The caller holds mu.
func (o *outlook) refuse(log int64) error {
	if most := int64(float64(o.log.Limit) * logShare); o.log.Limit > 0 && o.log.Used+log > most {
		return unavailable(fmt.Sprintf("the event log holds %d of %d bytes, and the last tenth is kept for exports that are under way; "+
			"nothing was accepted; try again in a minute, when what ended takes less room", o.log.Used, o.log.Limit), 3*roomWait, nil)
	}
	return nil
}

// closed returns an error if not even the smallest export would be admitted.
// Asking takes nothing.
func (s *Service) closed() error {
	if err := s.cfg.Room(0); err != nil {
		return err
	}
	s.outlook.mu.Lock()
	defer s.outlook.mu.Unlock()
	return s.outlook.refuse(eventBytes)
}

// whileRoom runs take with a context that ends when there is no room for new
// exports, and again when there is, until ctx ends or take fails.
func (s *Service) whileRoom(ctx context.Context, take func(context.Context) error) error {
	tick := time.NewTicker(roomEvery)
	defer tick.Stop()
	for {
		if s.closed() == nil {
			if err := s.takeWhileRoom(ctx, tick.C, take); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (s *Service) takeWhileRoom(ctx context.Context, tick <-chan time.Time, take func(context.Context) error) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	go func() { done <- take(ctx) }()
	for {
		select {
		case err := <-done:
			return err
		case <-tick:
			if s.closed() != nil {
				stop()
				return <-done
			}
		}
	}
}
