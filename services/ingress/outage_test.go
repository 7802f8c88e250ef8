package ingress

import (
	"net"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/embedded"
	"sheaf/events/eventstest"
	"sheaf/events/journal"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

// While NATS is away the answer is 503, and everything recovers afterwards.
func TestOutage(t *testing.T) {
	t.Parallel()
	probe, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	listen := probe.Addr().String()
	require.NoError(t, probe.Close())
	options := embedded.Options{Dir: t.TempDir(), Listen: listen, MaxStore: 8 << 30, Ephemeral: true}
	srv, err := embedded.Start(options)
	require.NoError(t, err)
	t.Cleanup(func() { srv.Stop() })

	nc, err := nats.Connect(srv.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	streams, err := journal.Provision(t.Context(), nc, journal.Config{SecretKey: eventstest.SecretKey, PublishTimeout: 200 * time.Millisecond})
	require.NoError(t, err)
	in := startOn(t, streams, Config{})
	key := in.post(t, "/v1/export/http", eventstest.SpecHTTP).key(t)

	srv.Stop()
	require.Eventually(t, func() bool { return in.get(t, "/readyz").Status == 503 }, 10*time.Second, 10*time.Millisecond)
	require.Equal(t, 200, in.get(t, "/healthz").Status)
	for _, a := range []answer{
		in.post(t, "/v1/export/http", eventstest.HTTPBody("")),
		in.post(t, "/v1/export/http", eventstest.HTTPBody(`,"header":{"A":"b"}`)),
		in.post(t, "/v1/export/raw", eventstest.SpecRaw),
		in.get(t, "/v1/export/detail?key="+key),
		in.post(t, "/v1/export/cancel", `{"key":"`+key+`"}`),
	} {
		require.Equal(t, 503, a.Status, a.Raw)
		require.NotEmpty(t, a.Header.Get("Retry-After"))
		require.NotContains(t, a.Raw, "127.0.0.1")
	}

	srv, err = embedded.Start(options)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return in.get(t, "/readyz").Status == 200 }, 20*time.Second, 10*time.Millisecond)
	require.Eventually(t, func() bool {
		a := in.get(t, "/v1/export/detail?key="+in.post(t, "/v1/export/raw", eventstest.SpecRaw).key(t))
		return a.Status == 200
	}, 20*time.Second, 10*time.Millisecond, "the projection follows again")
	require.Equal(t, 1, in.get(t, "/v1/export/detail?key="+key).detail(t).Status)
	require.Equal(t, key, ask(t, nc, "default", "detail", `{"key":"`+key+`"}`).detail(t).HashKey)
	_, err = streams.JetStream().Publish(t.Context(), events.SubmitSubject("default", "http"), []byte(eventstest.HTTPBody("")))
	require.NoError(t, err)
	emptied(t, in)
}
