package ingress

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

// lines is a log that may be read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) with(text string) (found []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.b.String()) {
		if strings.Contains(line, text) {
			found = append(found, line)
		}
	}
	return found
}

// An ingress that is older than the writer of an event passes it by, with one
// line, and answers as before.
func TestProjectionPassesNewerEventsBy(t *testing.T) {
	t.Parallel()
	var log lines
	eventstest.SetLog(t, slog.NewTextHandler(&log, nil))
	srv := eventstest.Server(t, "")
	in := start(t, srv, Config{})
	key := in.post(t, "/v1/export/http", httpBody("", `"title":"orders"`)).key(t)
	publish := func(typ, ceType, data string) uint64 {
		ack, err := in.streams.JetStream().PublishMsg(t.Context(), &nats.Msg{
			Subject: events.EventSubject("default", events.Type(typ), key), Data: []byte(data),
			Header: nats.Header{"ce-id": {events.NewID()}, "ce-type": {ceType}, "ce-time": {time.Now().UTC().Format(time.RFC3339Nano)}},
		})
		require.NoError(t, err)
		return ack.Sequence
	}
	publish("paused", "sheaf.export.paused.v1", `{"by":"x"}`)
	last := publish("crawled", "sheaf.export.crawled.v2", `{"run":"x"}`)
	require.NoError(t, in.tasks.WaitApplied(t.Context(), last))
	for _, newer := range []string{"sheaf.export.paused.v1", "sheaf.export.crawled.v2"} {
		var applied []string
		for _, line := range log.with(newer) {
			if strings.Contains(line, "event skipped") {
				applied = append(applied, line)
			}
		}
		require.Len(t, applied, 1, newer)
	}
	require.Empty(t, log.with("not admitted"))
	require.Equal(t, events.StatusProcessing, in.get(t, "/v1/export/detail?key="+key).detail(t).Status)

	// A known one with fields that are new counts.
	x := in.read(t, "default", key)
	publish("crawled", "sheaf.export.crawled.v1", `{"run":1,"pages":3,"manifest":"m","colour":["red"]}`)
	x2 := in.read(t, "default", key)
	require.Equal(t, events.StateCrawled, x2.State)
	require.Equal(t, x.LastSeq+1, x2.LastSeq)
	require.Zero(t, in.post(t, "/v1/export/cancel", `{"key":"`+key+`"}`).Errcode)
	require.Equal(t, events.StatusCancelled, in.get(t, "/v1/export/detail?key="+key).detail(t).Status)

	// One that begins anew comes to the same.
	again := start(t, srv, Config{})
	require.Equal(t, in.get(t, "/v1/export/detail?key="+key).detail(t), again.get(t, "/v1/export/detail?key="+key).detail(t))
	_, a, err := in.tasks.Digest()
	require.NoError(t, err)
	_, b, err := again.tasks.Digest()
	require.NoError(t, err)
	require.Equal(t, a, b)
}
