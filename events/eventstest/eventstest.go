// Package eventstest gives tests a real JetStream server of their own. It is
// for tests alone and never linked into the binary.
package eventstest

import (
	"bytes"
	"testing"

	"sheaf/events"
	"sheaf/events/embedded"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// SecretKey is the secret key of every test.
var SecretKey = bytes.Repeat([]byte{7}, events.SecretKeySize)

// Server starts an embedded server in a folder of the test and stops it at
// the end. Like in production every write is synced.
func Server(t testing.TB, listen string) *embedded.Server {
	t.Helper()
	srv, err := embedded.Start(embedded.Options{Dir: t.TempDir(), Listen: listen, MaxStore: 8 << 30})
	require.NoError(t, err)
	t.Cleanup(srv.Stop)
	return srv
}

// OutlivesServer is a goroutine that a server may leave behind for 30 s: one that asks
// for the consumer of a stream's source when the server is stopped waits for the answer
// for as long (nats-server 2.15.2, trySetupSourceConsumer).
func OutlivesServer() goleak.Option {
	return goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.(*stream).trySetupSourceConsumer.func3")
}

// Connect connects to srv until the end of the test.
func Connect(t testing.TB, srv *embedded.Server) *nats.Conn {
	t.Helper()
	nc, err := srv.Connect()
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	return nc
}

// Streams provisions streams on a server of the test's own. Further handles on
// the same server come from StreamsOn.
func Streams(t testing.TB) *events.Streams {
	t.Helper()
	return StreamsOn(t, Server(t, ""), events.Config{})
}

// StreamsOn provisions streams on srv over a connection of its own, as another
// process would.
func StreamsOn(t testing.TB, srv *embedded.Server, cfg events.Config) *events.Streams {
	t.Helper()
	if cfg.SecretKey == nil {
		cfg.SecretKey = SecretKey
	}
	s, err := events.Provision(t.Context(), Connect(t, srv), cfg)
	require.NoError(t, err)
	return s
}
