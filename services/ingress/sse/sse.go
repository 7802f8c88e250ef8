// Package sse writes answers of server-sent events.
package sse

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	// Ping is the longest time without an event, after which a writer's owner calls Comment. Proxies close
	// connections that are idle for longer.
	Ping = 15 * time.Second
	// writeWait bounds the time to send one event to a caller that does not read.
	writeWait = 30 * time.Second
)

// Writer writes events. It is not safe for concurrent use.
type Writer struct {
	w    http.ResponseWriter
	rc   *http.ResponseController
	last map[string]string
	sent time.Time
}

// New sets the headers of a stream and lifts the connection's limits for a plain answer. It writes nothing.
func New(w http.ResponseWriter) *Writer {
	s := &Writer{w: w, rc: http.NewResponseController(w), last: map[string]string{}}
	_ = s.rc.SetReadDeadline(time.Time{}) // a test's recorder has none
	h := w.Header()
	h.Set("Content-Type", "text/event-stream; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // for nginx, which would collect events
	return s
}

// Open sends the headers, and how long a browser waits before it connects again.
func (s *Writer) Open(retry time.Duration) error {
	return s.write("retry: " + strconv.FormatInt(retry.Milliseconds(), 10) + "\n\n")
}

// Send sends an event. Lines of data become lines of the event.
func (s *Writer) Send(event, data string) error {
	var b strings.Builder
	b.WriteString("event: " + event + "\n")
	for line := range strings.SplitSeq(data, "\n") {
		b.WriteString("data: " + strings.TrimRight(line, "\r") + "\n")
	}
	return s.write(b.String() + "\n")
}

// SendChanged sends an event unless the last one of its kind was equal. It never sends an empty first one.
func (s *Writer) SendChanged(event, data string) error {
	if s.last[event] == data {
		return nil
	}
	s.last[event] = data
	return s.Send(event, data)
}

// Comment shows that the stream is alive.
func (s *Writer) Comment() error { return s.write(": alive\n\n") }

// Sent returns when the last event or comment was sent.
func (s *Writer) Sent() time.Time { return s.sent }

func (s *Writer) write(text string) error {
	s.sent = time.Now()
	_ = s.rc.SetWriteDeadline(s.sent.Add(writeWait))
	if _, err := s.w.Write([]byte(text)); err != nil {
		return err
	}
	return s.rc.Flush()
}
