package console

import (
	"net/http"
	"sync"
	"time"

	"sheaf/services/ingress/sse"
)

const (
	// maxShareStreams bounds the streams of a share link.
	maxShareStreams = 5
	// streamPause is the least time between two updates of a stream.
	streamPause = time.Second
	// streamRetry is how long a browser waits before it connects again.
	streamRetry = 3 * time.Second
)

// streams counts the open streams of share links.
type streams struct {
	mu   sync.Mutex
	open map[string]int
}

func newStreams() *streams { return &streams{open: map[string]int{}} }

func (s *streams) enter(link string, limit int) (leave func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[link] >= limit {
		return nil, false
	}
	s.open[link]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.open[link]--; s.open[link] == 0 {
			delete(s.open, link)
		}
	}, true
}

// updater sends what has changed. It reads state as it was at since or later.
type updater func(s *sse.Writer, since time.Time) (done bool, err error)

// stream sends updates of the visitor's tenant, or of one of its exports, until update reports the end, the
// visitor leaves, its session ends or the process drains. A new stream sends everything, so a visitor that
// connects again misses nothing.
func (v *visit) stream(key string, update updater) error {
	full := &Error{Status: http.StatusServiceUnavailable, Msg: v.t("error.streams"), RetryAfter: sse.Ping}
	share := v.share.Key != ""
	if share {
		leave, ok := v.streams.enter(v.share.Key, maxShareStreams)
		if !ok {
			return full
		}
		defer leave()
	}
	leave, ok := v.backend.EnterStream(share, v.who.Tenant)
	if !ok {
		return full
	}
	defer leave()
	changed, stop := v.backend.Changes(v.who.Tenant, key)
	defer stop()
	s := sse.New(v.w)
	if v.r.Method == http.MethodHead {
		return nil
	}
	if err := s.Open(streamRetry); err != nil {
		return nil // the visitor has gone
	}
	v.follow(s, changed, update)
	return nil
}

// follow sends an update after each change, and begins at most one in each second of the clock. Streams that
// have to wait therefore wake together, and can share what they read.
func (v *visit) follow(s *sse.Writer, changed <-chan struct{}, update updater) {
	comment := time.NewTicker(sse.Ping)
	defer comment.Stop()
	since := time.Now()
	for {
		if v.share.Key == "" && !v.stillHere() {
			return
		}
		done, err := update(s, since)
		if done || err != nil {
			return // the browser connects again, and learns the reason of an error
		}
		since = time.Now().Truncate(streamPause).Add(streamPause)
		if !v.sleep(time.Until(since)) {
			return
		}
		select {
		case <-changed:
			continue // the change came before since
		default:
		}
		select {
		case <-changed:
			since = time.Now()
		case <-comment.C:
			if s.Comment() != nil {
				return
			}
		case <-v.r.Context().Done():
			return
		case <-v.backend.Stopping():
			return
		}
	}
}

// stillHere reports whether the visitor's session is valid and has the scope that it had.
func (v *visit) stillHere() bool {
	p, ok := v.session(v.r)
	return ok && p.Tenant == v.own && p.Scope == v.who.Scope
}

// sleep waits between two updates. It returns false if the stream has to end.
func (v *visit) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-v.r.Context().Done():
		return false
	case <-v.backend.Stopping():
		return false
	}
}
