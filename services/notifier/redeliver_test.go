package notifier

import (
	"net/http"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"

	"github.com/stretchr/testify/require"
)

// A callback that is asked for again is attempted at once, with the webhook-id of before, and its attempts go
// on counting. After the last scheduled attempt each request makes one.
func TestCallbackIsDeliveredAgain(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	r := newReceiver(t, func(n int64, w http.ResponseWriter, _ *http.Request) {
		if n == 3 {
			w.WriteHeader(http.StatusBadGateway)
		}
	})
	run(t, newService(t, s, Config{Schedule: []time.Duration{time.Hour}}))
	x := until(t, s, ended(t, s, key(1), r.URL).Key, is(events.CallbackDone))
	first := r.next(t)
	again := func(ending uint64) {
		now, err := s.Read(t.Context(), x.Tenant, x.Key)
		require.NoError(t, err)
		_, err = s.Append(t.Context(), now, "", always(&events.CallbackRequested{Terminal: ending}))
		require.NoError(t, err)
	}
	again(x.TerminalSeq)
	second := r.next(t)
	require.Equal(t, first.header.Get("webhook-id"), second.header.Get("webhook-id"))
	require.Equal(t, first.body, second.body)
	x = until(t, s, x.Key, is(events.CallbackDone))
	require.Equal(t, 2, x.Callback.Attempts)
	again(x.TerminalSeq)
	x = until(t, s, x.Key, is(events.CallbackExhausted))
	require.Equal(t, []int{3, 502}, []int{x.Callback.Attempts, x.Callback.LastStatus})
	again(x.TerminalSeq)
	until(t, s, x.Key, is(events.CallbackDone))
	require.EqualValues(t, 4, r.count.Load())
}

// A request that no notifier saw is delivered after a restart.
func TestRequestedCallbackSurvivesARestart(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	r := newReceiver(t, nil)
	stop := run(t, newService(t, s, Config{}))
	x := until(t, s, ended(t, s, key(1), r.URL).Key, is(events.CallbackDone))
	stop()
	_, err := s.Append(t.Context(), x, "", always(&events.CallbackRequested{Terminal: x.TerminalSeq}))
	require.NoError(t, err)
	run(t, newService(t, s, Config{}))
	x = until(t, s, x.Key, is(events.CallbackDone))
	require.Equal(t, 2, x.Callback.Attempts)
	require.Equal(t, []events.Type{events.TypeCallbackDelivered, events.TypeCallbackRequested, events.TypeCallbackDelivered}, callbackEvents(t, s, x.Key))
}
