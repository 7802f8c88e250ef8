package journal_test

import (
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// Uncollected results displace the oldest ones: of their subject if that has too many, else of all.
// Publishing never fails for lack of space.
func TestResultsAreBounded(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	st, err := s.JetStream().Stream(t.Context(), events.StreamCallbacks)
	require.NoError(t, err)
	cfg := st.CachedInfo().Config
	require.Equal(t, jetstream.DiscardOld, cfg.Discard)
	require.EqualValues(t, 50_000, cfg.MaxMsgsPerSubject)
	require.EqualValues(t, 256<<20, cfg.MaxBytes)
	publish := func(tenant string, n int) {
		t.Helper()
		x := &events.Export{Tenant: tenant, Key: testKey, TerminalSeq: uint64(n), FinishedAt: time.Now()}
		require.NoError(t, s.PublishCallback(t.Context(), "sheaf.callback."+tenant+".done", x,
			"sheaf.export.completed.v1", make([]byte, 4<<20)))
	}
	publish("bank", 0)
	for n := range 80 {
		publish("shop", n)
	}
	info, err := st.Info(t.Context())
	require.NoError(t, err)
	require.LessOrEqual(t, info.State.Bytes, uint64(256<<20))
	last, err := st.GetLastMsgForSubject(t.Context(), "sheaf.callback.shop.done")
	require.NoError(t, err)
	require.Contains(t, last.Header.Get("ce-id"), "-79", "the newest stay")
}
