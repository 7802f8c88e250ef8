package events_test

import (
	"fmt"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

// A tenant whose results fill their stream loses its own oldest ones; those of
// others stay, however old they are.
func TestResultsOfOneTenantPushOutNobodyElses(t *testing.T) {
	t.Parallel()
	s := eventstest.Streams(t)
	st, err := s.JetStream().Stream(t.Context(), events.StreamCallbacks)
	require.NoError(t, err)
	publish := func(tenant string, n, size int) {
		t.Helper()
		x := &events.Export{Tenant: tenant, Key: testKey, TerminalSeq: uint64(n), FinishedAt: time.Now()}
		require.NoError(t, s.PublishCallback(t.Context(), "sheaf.callback."+tenant+".done", x, "sheaf.export.completed.v1", make([]byte, size)))
	}
	for n := range 100 {
		publish("bank", n, 1<<10)
	}
	// Most of the flood comes from another process.
	const large = 250 << 10
	for range 700 {
		_, err := s.JetStream().PublishMsg(t.Context(), &nats.Msg{Subject: "sheaf.callback.shop.done", Data: make([]byte, large)})
		require.NoError(t, err)
	}
	const more = 400
	var flood errgroup.Group
	flood.SetLimit(16)
	for n := range more {
		flood.Go(func() error { publish("shop", n, large); return nil })
	}
	require.NoError(t, flood.Wait())
	publish("shop", more, large)
	info, err := st.Info(t.Context(), jetstream.WithSubjectFilter("sheaf.callback.>"))
	require.NoError(t, err)
	require.EqualValues(t, 100, info.State.Subjects["sheaf.callback.bank.done"], "the flood pushes out its own: %v", info.State.Subjects)
	require.Greater(t, int(info.State.Subjects["sheaf.callback.shop.done"]), 500, "no more goes than must")
	last, err := st.GetLastMsgForSubject(t.Context(), "sheaf.callback.shop.done")
	require.NoError(t, err)
	require.Contains(t, last.Header.Get("ce-id"), fmt.Sprintf("-%d", more), "the newest stay")
}
