package events

import (
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// mostKnown and mostKnownBytes bound the exports whose state is kept: enough for
// those under way, a few megabytes.
const (
	mostKnown      = 1024
	mostKnownBytes = 16 << 10 // of one request; larger ones are read each time
	knownFor       = time.Minute
)

// known keeps the state of exports that were read from the leader lately. It never
// answers by itself: Read asks the leader for the key's newest event in any case,
// and only spares to read again what came before it, which cannot have changed. It
// can be trimmed, by another process too, once nothing is left to do: so such
// exports are not kept, and all others for a minute.
type known struct {
	mu sync.Mutex
	of map[string]state // by the filter of the key's events
}

type state struct {
	Export
	until time.Time
}

func newKnown() *known { return &known{of: map[string]state{}} }

// with returns the state of an export whose newest event is tail, if the state
// before it is known. Every event is published on the condition that a certain one
// was the key's last, and keeps that condition in its header, so it names the
// one before it.
func (k *known) with(filter string, tail Event, header nats.Header) (Export, bool) {
	k.mu.Lock()
	known, ok := k.of[filter]
	k.mu.Unlock()
	x := known.Export
	switch {
	case !ok || time.Now().After(known.until):
		return Export{}, false
	case x.LastSeq == tail.Sequence && x.LastID == tail.ID:
		return x, true
	case tail.Payload == nil || header.Get(jetstream.ExpectedLastSubjSeqSubjHeader) != filter ||
		header.Get(jetstream.ExpectedLastSubjSeqHeader) != strconv.FormatUint(x.LastSeq, 10):
		return Export{}, false
	}
	if x.Apply(tail) != nil {
		return Export{}, false
	}
	k.keep(filter, x)
	return x, true
}

// trimmable reports whether the log need no longer hold the events of x.
func trimmable(x *Export) bool {
	return x.State.Terminal() && x.Callback.State != CallbackPending
}

// keep remembers a state that was folded from the log. Others than those under
// way are forgotten, in no particular order.
func (k *known) keep(filter string, x Export) {
	size := 0
	if x.Request.HTTP != nil {
		size = len(x.Request.HTTP.Param)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if size > mostKnownBytes || x.State == StateNone || trimmable(&x) {
		delete(k.of, filter)
		return
	}
	if _, ok := k.of[filter]; !ok && len(k.of) >= mostKnown {
		for other := range k.of {
			delete(k.of, other)
			break
		}
	}
	k.of[filter] = state{x, time.Now().Add(knownFor)}
}

// forget forgets all: the log was trimmed.
func (k *known) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.of)
}
