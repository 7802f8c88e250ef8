package ingress

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"sheaf/events"
)

const (
	// maxStreams limits the open streams, and maxTenantStreams those of one tenant. Further ones get 503.
	maxStreams       = 2048
	maxTenantStreams = 64
	// streamEvery is the shortest pause between two events of a stream, and streamPing the longest, after
	// which a comment shows that the stream is alive.
	streamEvery = 250 * time.Millisecond
	streamPing  = 15 * time.Second
	// streamWait bounds the time to send one event.
	streamWait = 30 * time.Second
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

// tell wakes the listeners of an export.
func (c *changes) tell(tenant, key string) {
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
		c.tell(ev.Tenant, ev.Key)
	}
}

// stream is an answer of server-sent events.
type stream struct {
	w    http.ResponseWriter
	rc   *http.ResponseController
	sent time.Time // when the last event or comment was sent
}

// openStream begins an answer of server-sent events for a tenant. kind is a label of the metric. Call done at
// the end; it is nil with an error. ctx ends with the caller and when the process drains.
func (s *Service) openStream(w http.ResponseWriter, r *http.Request, kind, tenant string) (_ *stream, ctx context.Context, done func(), err error) {
	full, cancel := context.WithCancel(r.Context())
	cancel() // with an ended context the pool does not wait
	leave, err := s.streams.acquire(full, tenant, 1)
	if err != nil {
		return nil, nil, nil, unavailable("too many streams are open; close some, or ask for the detail instead", streamPing, nil)
	}
	ctx, cancel = context.WithCancel(r.Context())
	stop := context.AfterFunc(s.front, cancel)
	st := &stream{w: w, rc: http.NewResponseController(w)}
	// Otherwise the connection's limits for a plain answer would end the stream.
	_ = st.rc.SetReadDeadline(time.Time{})
	h := w.Header()
	h.Set("Content-Type", "text/event-stream; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	open := s.metrics.streams.WithLabelValues(kind)
	open.Inc()
	return st, ctx, func() { stop(); cancel(); leave(); open.Dec() }, nil
}

// send sends an event. data must hold no line break.
func (st *stream) send(name string, data []byte) error {
	return st.write("event: " + name + "\ndata: " + string(data) + "\n\n")
}

func (st *stream) write(text string) error {
	st.sent = time.Now()
	_ = st.rc.SetWriteDeadline(st.sent.Add(streamWait))
	if _, err := st.w.Write([]byte(text)); err != nil {
		return err
	}
	return st.rc.Flush()
}

// wait waits for a change, at least streamEvery after the last event. It sends comments meanwhile, and returns
// false at the end of the stream.
func (st *stream) wait(ctx context.Context, changed <-chan struct{}) bool {
	ping := time.NewTicker(streamPing)
	defer ping.Stop()
	for {
		select {
		case <-changed:
			if rest := streamEvery - time.Since(st.sent); rest > 0 {
				pause(ctx, rest)
			}
			return ctx.Err() == nil
		case <-ping.C:
			if st.write(": alive\n\n") != nil {
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
	st, ctx, done, err := s.openStream(w, r, "watch", x.Tenant)
	if err != nil {
		respond(w, r, nil, err)
		return
	}
	defer done()
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
				_ = st.send("end", data)
			}
			return
		}
		data, err := plainJSON(progressEvent{s.stateOf(&x), s.progress.of(&x)})
		if err != nil {
			return
		}
		if !bytes.Equal(data, last) {
			if last = data; st.send("progress", data) != nil {
				return
			}
		}
		if !st.wait(ctx, changed) {
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
	l.tenant, l.key = c.tenant, c.key(nil)
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
