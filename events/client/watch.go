package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"strings"
	"time"

	"sheaf/events"
)

const (
	// maxOutage is how long a watch continues without an answer.
	maxOutage = time.Minute
	// pollFor is how long a watch polls before it opens a stream: most exports end sooner.
	pollFor = time.Second
	// maxSilence is how long a stream may send nothing. The server sends a comment every 15 s.
	maxSilence = 45 * time.Second
)

// Watch iterates over the reports about an export until it has ended; the last one says how. It polls at first,
// up to every half second, and follows a longer export by a stream if the server offers one by REST. A report
// comes after each poll, also when nothing has changed. A server that does not answer for a minute, or refuses,
// ends the iteration with an error.
func (c *Client) Watch(ctx context.Context, key string) iter.Seq2[*Export, error] {
	return func(yield func(*Export, error) bool) {
		_, streams := c.via.(*rest)
		var outage time.Time
		for begun := time.Now(); ; {
			x, err := c.detailOnce(ctx, key)
			switch {
			case err == nil:
				outage = time.Time{}
				if !yield(x, nil) || x.Status != Processing {
					return
				}
			case !temporary(err) || !outage.IsZero() && time.Since(outage) > maxOutage:
				yield(nil, err)
				return
			case outage.IsZero():
				outage = time.Now()
			}
			if err == nil && streams && time.Since(begun) > pollFor {
				ended, streamErr := c.follow(ctx, x, yield)
				if ended {
					return
				}
				streams = streamErr == nil // it broke off, such as when a process stops
			}
			if err := pause(ctx, max(pollWait(begun), min(retryAfter(err), maxOutage))); err != nil {
				yield(nil, err)
				return
			}
		}
	}
}

// pollWait is a 25th of the time since an export is watched, so that polling adds at most that to it.
func pollWait(begun time.Time) time.Duration {
	return min(max(time.Since(begun)/25, 10*time.Millisecond), 500*time.Millisecond)
}

func (c *Client) detailOnce(ctx context.Context, key string) (*Export, error) {
	data, err := c.via.call(ctx, call{operation: "detail", query: map[string]string{"key": key}})
	if err != nil {
		return nil, err
	}
	return readExport(data)
}

// errNoStream means that a server offers no stream: it is older, or too many streams are open.
var errNoStream = errors.New("the server offers no stream")

// follow yields the reports of a stream about an export. ended means that the iteration has ended. A stream that
// began and broke off is no error.
func (c *Client) follow(ctx context.Context, x *Export, yield func(*Export, error) bool) (ended bool, err error) {
	t := c.via.(*rest)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	k, err := c.forTenant(call{operation: "watch", query: map[string]string{"key": x.Key}})
	if err != nil {
		return false, err
	}
	req, err := t.request(ctx, k)
	if err != nil {
		return false, err
	}
	res, err := do(t.http, req, t.base)
	if err != nil {
		return false, err
	}
	defer res.Body.Close()
	if !strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") {
		return false, errNoStream
	}
	silence := time.AfterFunc(maxSilence, cancel)
	defer silence.Stop()
	for name, data := range streamed(res.Body, func() { silence.Reset(maxSilence) }) {
		report, err := reported(x, name, data)
		if err != nil {
			return false, err
		}
		if !yield(report, nil) || report.Status != Processing {
			return true, nil
		}
	}
	return false, nil
}

// reported returns the report of an event: progress of an export whose last detail is x, or its detail at the end.
func reported(x *Export, name string, data []byte) (*Export, error) {
	if name == "end" {
		return readExport(data)
	}
	now := struct {
		State    string           `json:"state"`
		Progress *events.Progress `json:"progress"`
	}{}
	if err := json.Unmarshal(data, &now); err != nil {
		return nil, err
	}
	report := *x
	report.State, report.Progress = now.State, now.Progress
	return &report, nil
}

// streamed iterates over the server-sent events of a body: their names and data of one line. alive is called for
// each line, also of a comment.
func streamed(body io.Reader, alive func()) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		lines := bufio.NewScanner(body)
		lines.Buffer(nil, maxAnswer)
		name := ""
		for lines.Scan() {
			alive()
			line := lines.Text()
			if event, ok := strings.CutPrefix(line, "event: "); ok {
				name = event
			}
			if data, ok := strings.CutPrefix(line, "data: "); ok && !yield(name, []byte(data)) {
				return
			}
		}
	}
}

// Wait waits until an export has ended and returns it. The error is nil only for one that succeeded; an export
// that ended without a file is returned with an [*ExportError].
func (c *Client) Wait(ctx context.Context, key string) (x *Export, err error) {
	for report, err := range c.Watch(ctx, key) {
		if err != nil {
			return x, err
		}
		x = report
	}
	return x, x.Err()
}
