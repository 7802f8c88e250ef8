package console

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// maxShareStreams bounds the streams of a share link.
	maxShareStreams = 5
	// streamPause is the least time between two updates of a stream.
	streamPause = time.Second
	// streamComment is how often a stream without news sends a comment, for proxies that close idle
	// connections.
	streamComment = 15 * time.Second
	// streamWrite bounds the time of one write to a visitor that does not read.
	streamWrite = 10 * time.Second
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

// stream is an answer of server-sent events.
type stream struct {
	w    http.ResponseWriter
	rc   *http.ResponseController
	id   uint64
	last map[string]string
}

// send sends an event. Its lines become lines of data.
func (s *stream) send(event, data string) error {
	var b strings.Builder
	s.id++
	b.WriteString("id: " + strconv.FormatUint(s.id, 10) + "\nevent: " + event + "\n")
	for line := range strings.SplitSeq(data, "\n") {
		b.WriteString("data: " + strings.TrimRight(line, "\r") + "\n")
	}
	return s.write(b.String() + "\n")
}

// sendChanged sends an event unless the last one of its kind was equal. An empty first one is not sent.
func (s *stream) sendChanged(event, data string) error {
	if s.last[event] == data {
		return nil
	}
	s.last[event] = data
	return s.send(event, data)
}

func (s *stream) write(text string) error {
	_ = s.rc.SetWriteDeadline(time.Now().Add(streamWrite)) // a test's recorder has none
	if _, err := s.w.Write([]byte(text)); err != nil {
		return err
	}
	return s.rc.Flush()
}

// stream sends updates of the visitor's tenant, or of one of its exports, until update reports the end, the
// visitor leaves, its session ends or the process drains. A new stream sends everything, so a visitor that
// connects again misses nothing.
func (v *visit) stream(key string, update func(s *stream) (done bool, err error)) error {
	full := &Error{Status: http.StatusServiceUnavailable, Msg: v.t("error.streams"), RetryAfter: streamComment}
	kind := "console"
	if v.share.Key != "" {
		kind = "share"
		leave, ok := v.streams.enter(v.share.Key, maxShareStreams)
		if !ok {
			return full
		}
		defer leave()
	}
	leave, ok := v.backend.EnterStream(kind, v.who.Tenant)
	if !ok {
		return full
	}
	defer leave()
	changed, stop := v.backend.Changes(v.who.Tenant, key)
	defer stop()
	h := v.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no")
	s := &stream{w: v.w, rc: http.NewResponseController(v.w), last: map[string]string{}}
	_ = s.rc.SetReadDeadline(time.Time{}) // the limit of a plain request would end the stream
	if v.r.Method == http.MethodHead {
		return nil
	}
	if err := s.write("retry: 3000\n\n"); err != nil {
		return nil // the visitor has gone
	}
	v.follow(s, changed, update)
	return nil
}

// follow sends an update after each change.
func (v *visit) follow(s *stream, changed <-chan struct{}, update func(s *stream) (bool, error)) {
	comment := time.NewTicker(streamComment)
	defer comment.Stop()
	for {
		if v.share.Key == "" && !v.stillHere() {
			return
		}
		done, err := update(s)
		if done || err != nil {
			return // the browser connects again, and learns the reason of an error
		}
		if !v.sleep(streamPause) {
			return
		}
		select {
		case <-changed:
		case <-comment.C:
			if s.write(": \n\n") != nil {
				return
			}
		case <-v.r.Context().Done():
			return
		case <-v.backend.Stopping():
			return
		}
	}
}

// stillHere reports whether the visitor's session is valid.
func (v *visit) stillHere() bool {
	p, ok := v.session(v.r)
	return ok && p.Tenant == v.own
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
