package crawler

import (
	"net/http"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/journal"

	"github.com/stretchr/testify/require"
)

// An export that needs what this version does not know is left to another process, and one line says so. Its
// source is not asked.
func TestUnknownNeedsAreLeftToAnother(t *testing.T) {
	t.Parallel()
	for _, need := range []string{"source/99", "file/99"} {
		t.Run(need, func(t *testing.T) {
			t.Parallel()
			leavesTo(t, need)
		})
	}
}

func leavesTo(t *testing.T, need string) {
	var log eventstest.Log
	s := eventstest.Journal(t)
	x, err := s.Append(t.Context(), events.Export{Tenant: "default", Key: key}, "", func(*events.Export) (events.Payload, error) {
		return &events.ExportRequested{CreatedAt: time.Now().UTC(), Request: events.Request{
			ExtType: "XLSX", SourceType: events.SourceHTTP, Needs: []string{events.NeedSource, events.NeedFile, need},
			HTTP: &events.HTTPRequest{URL: "http://127.0.0.1/", Method: http.MethodGet, Limit: 10, Conn: 1},
		}}, nil
	})
	require.NoError(t, err)
	ev := events.Event{ID: x.LastID, Tenant: x.Tenant, Key: x.Key, Time: time.Now(), Payload: &events.ExportRequested{}, Export: &x}
	m, err := events.Encode(ev)
	require.NoError(t, err)
	service, err := New(Config{Log: log.Logger()}, s, http.DefaultClient)
	require.NoError(t, err)
	service.running, err = s.Watch()
	require.NoError(t, err)
	t.Cleanup(service.running.Close)
	for range 2 {
		err := service.handle(t.Context(), journal.Delivery{Subject: m.Subject, Header: m.Header, Data: m.Data, Sequence: x.LastSeq, Delivered: 1})
		require.ErrorIs(t, err, errNeeds)
	}
	require.Len(t, log.With("needs="+need), 1)
	again, err := s.Read(t.Context(), "default", key)
	require.NoError(t, err)
	require.Equal(t, events.StateRequested, again.State)
}
