package ingress

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"sheaf/events"
	"sheaf/services/ingress/sse"
)

const (
	// maxStreams limits the open streams, and maxTenantStreams those of one tenant. Further ones get 503.
	maxStreams       = 2048
	maxTenantStreams = 64
	// maxShareStreams limits those of share pages, and maxTenantShareStreams those of one tenant's. A page
	// without a stream reloads itself.
	maxShareStreams       = 1024
	maxTenantShareStreams = 256
	// streamEvery is the shortest pause between two events of a stream.
	streamEvery = 250 * time.Millisecond
)

// Kinds of streams.
const (
	streamWatch   = "watch"
	streamConsole = "console"
	streamShare   = "share"
)

// changes notifies streams when exports may have changed. It is safe for concurrent use.
type changes struct {
	mu        sync.Mutex
	listeners map[exportID]map[chan struct{}]struct{} // key "": those of all exports of the tenant
}

func newChanges() *changes { return &changes{listeners: map[exportID]map[chan struct{}]struct{}{}} }

// listen returns a channel that gets a value after each change of an export, or of any of the tenant with key
// "". Changes in quick succession may give one value. Call stop at the end.
func (c *changes) listen(tenant, key string) (changed <-chan struct{}, stop func()) {
	id, ch := exportID{tenant, key}, make(chan struct{}, 1)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.listeners[id] == nil {
		c.listeners[id] = map[chan struct{}]struct{}{}
	}
	c.listeners[id][ch] = struct{}{}
	return ch, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if delete(c.listeners[id], ch); len(c.listeners[id]) == 0 {
			delete(c.listeners, id)
		}
	}
}

// report wakes the listeners of an export.
func (c *changes) report(tenant, key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.listeners) == 0 {
		return
	}
	for _, id := range []exportID{{tenant, key}, {tenant, ""}} {
		for ch := range c.listeners[id] {
			select {
			case ch <- struct{}{}:
			default:
			}
		}
	}
}

// applied wakes the listeners of a batch of events.
func (c *changes) applied(batch []events.Event) {
	for _, ev := range batch {
		c.report(ev.Tenant, ev.Key)
	}
}

// enterStream counts a stream of server-sent events of a tenant. kind is a label of the metric. It returns an
// error while too many are open. Share pages have a limit of their own, so that readers of links leave the
// tenant's console its streams.
func (s *Service) enterStream(kind, tenant string) (leave func(), err error) {
	full, cancel := context.WithCancel(context.Background())
	cancel() // with an ended context the pool does not wait
	streams := &s.streams
	if kind == streamShare {
		streams = &s.shareStreams
	}
	release, err := streams.acquire(full, tenant, 1)
	if err != nil {
		return nil, unavailable("too many streams are open; close some, or ask for the detail instead", sse.Ping, nil)
	}
	open := s.metrics.streams.WithLabelValues(kind)
	open.Inc()
	return func() { release(); open.Dec() }, nil
}

// wait waits for a change, at least streamEvery after the last event. It sends comments meanwhile, and returns
// false at the end of the stream.
func wait(ctx context.Context, st *sse.Writer, changed <-chan struct{}) bool {
	ping := time.NewTicker(sse.Ping)
	defer ping.Stop()
	for {
		select {
		case <-changed:
			if rest := streamEvery - time.Since(st.Sent()); rest > 0 {
				pause(ctx, rest)
			}
			return ctx.Err() == nil
		case <-ping.C:
			if st.Comment() != nil {
				return false
			}
		case <-ctx.Done():
			return false
		}
	}
}

// progressEvent is the data of the event progress of watch.
type progressEvent struct {
	State    string          `json:"state"`
	Progress events.Progress `json:"progress"`
}

// watch streams the progress of an export, and its detail when it has ended.
func (s *Service) watch(w http.ResponseWriter, r *http.Request) {
	x, err := s.watched(r)
	if err != nil {
		respond(w, r, nil, err)
		return
	}
	changed, stop := s.changes.listen(x.Tenant, x.Key)
	defer stop()
	leave, err := s.enterStream(streamWatch, x.Tenant)
	if err != nil {
		respond(w, r, nil, err)
		return
	}
	defer leave()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(s.front, cancel)()
	st := sse.New(w)
	if r.Method == http.MethodHead {
		return // the headers alone
	}
	var last []byte
	for {
		x, err := s.tasks.Get(x.Key)
		if err != nil {
			return // forgotten, or the process ends
		}
		if _, err := s.callerOf(r); err != nil {
			return // the key was revoked
		}
		if x.State.Terminal() {
			if data, err := plainJSON(s.detailOf(&x, time.Now())); err == nil {
				_ = st.Send("end", string(data))
			}
			return
		}
		data, err := plainJSON(progressEvent{s.stateOf(&x), s.progress.of(&x)})
		if err != nil {
			return
		}
		if !bytes.Equal(data, last) {
			if last = data; st.Send("progress", string(data)) != nil {
				return
			}
		}
		if !wait(ctx, st, changed) {
			return
		}
	}
}

// watched returns the export that a request for a stream names.
func (s *Service) watched(r *http.Request) (events.Export, error) {
	caller, err := s.callerOf(r)
	if err != nil {
		return events.Export{}, err
	}
	c := call{operation: "watch", requestID: requestID(r), params: r.URL.Query()}
	find := operation{scope: ScopeRead, handle: func(s *Service, ctx context.Context, c call) (any, error) { return s.find(ctx, c) }}
	if err := c.authorize(caller, find); err != nil {
		return events.Export{}, err
	}
	l := lineOf(r)
	l.tenant, l.caller, l.key = c.tenant, caller.ID, c.key(nil)
	x, err := s.do(r.Context(), find, c)
	if err != nil {
		return events.Export{}, err
	}
	return x.(events.Export), nil
}

// plainJSON encodes a value in one line, with the characters of links as they are.
func plainJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return bytes.TrimSpace(b.Bytes()), err
}
