package ingress

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/journal"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

// An older ingress does not know a newer type of event and says so once. It still knows the export, because
// every event holds it.
func TestProjectionKeepsTheExportOfNewerEvents(t *testing.T) {
	t.Parallel()
	var log eventstest.Log
	srv := eventstest.Server(t, "")
	streams := eventstest.JournalOn(t, srv, journal.Config{Log: slog.New(slog.NewTextHandler(&log, nil))})
	in := startOn(t, streams, Config{})
	key := in.post(t, "/v1/export/http", eventstest.HTTPBody("", `"title":"orders"`)).key(t)
	publish := func(typ, ceType string, x events.Export, more string) {
		export, err := json.Marshal(x)
		require.NoError(t, err)
		ack, err := in.journal.JetStream().PublishMsg(t.Context(), &nats.Msg{
			Subject: events.EventSubject("default", events.Type(typ), key), Data: fmt.Appendf(nil, `{"export":%s%s}`, export, more),
			Header: nats.Header{"ce-id": {events.NewID()}, "ce-type": {ceType}, "ce-time": {time.Now().UTC().Format(time.RFC3339Nano)}},
		})
		require.NoError(t, err)
		require.NoError(t, in.tasks.WaitApplied(t.Context(), ack.Sequence))
	}
	title := func(in *ingress) string {
		return in.get(t, "/v1/export/detail?key="+key).detail(t).Title
	}
	x := in.read(t, "default", key)
	x.Request.Title = "paused"
	publish("paused", "sheaf.export.paused.v1", x, `,"by":"x"`)
	require.Equal(t, "paused", title(in))
	x.Request.Title, x.State = "crawled", events.StateCrawled
	publish("crawled", "sheaf.export.crawled.v2", x, `,"run":"x"`)
	require.Equal(t, "crawled", title(in))
	for _, newer := range []string{"sheaf.export.paused.v1", "sheaf.export.crawled.v2"} {
		var applied []string
		for _, line := range log.With(newer) {
			if strings.Contains(line, "event skipped") {
				applied = append(applied, line)
			}
		}
		require.NotEmpty(t, applied, newer)
	}
	require.Zero(t, in.post(t, "/v1/export/cancel", `{"key":"`+key+`"}`).Errcode)
	require.Equal(t, events.StatusCancelled, in.get(t, "/v1/export/detail?key="+key).detail(t).Status)

	// A projection rebuilt from the log is the same.
	require.Equal(t, in.rebuilt(t), in.digest(t))
}
