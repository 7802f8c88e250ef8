// Package eventstest provides tests with their own real JetStream servers. It is never linked into the
// binary.
package eventstest

import (
	"bytes"
	"flag"
	"fmt"
	"log"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"

	"sheaf/events/embedded"
	"sheaf/events/journal"
	"sheaf/events/secrets"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// SecretKey is the secret key of every test.
var SecretKey = bytes.Repeat([]byte{7}, secrets.KeySize)

// Main runs the tests of a package and fails if they leave goroutines behind. It changes the defaults of two
// flags: six parallel tests, because they mostly wait, unless the race detector keeps them busy; and 25
// checks of a property unless Full.
func Main(m *testing.M) {
	flag.Parse()
	defaults := map[string]string{}
	if !race {
		defaults["test.parallel"] = "6"
	}
	if !Full {
		defaults["rapid.checks"] = "25"
	}
	flag.Visit(func(f *flag.Flag) { delete(defaults, f.Name) })
	for name, value := range defaults {
		if flag.Lookup(name) != nil { // only packages with properties have the latter
			_ = flag.Set(name, value)
		}
	}
	goleak.VerifyTestMain(m, OutlivesServer())
}

// LongRunning skips a test unless Full.
func LongRunning(t testing.TB) {
	t.Helper()
	if !Full {
		t.Skip("takes long; go test -tags chaos runs it")
	}
}

// Server starts an embedded server in a folder of the test and stops it at the end. It does not sync writes:
// tests do not lose power, and would otherwise spend most of their time on the disk. Package chaostest checks
// that a real process syncs.
func Server(t testing.TB, listen string) *embedded.Server {
	t.Helper()
	srv, err := embedded.Start(embedded.Options{Dir: t.TempDir(), Listen: listen, MaxStore: 8 << 30,
		Ephemeral: true})
	require.NoError(t, err)
	t.Cleanup(srv.Stop)
	return srv
}

// OutlivesServer matches a goroutine that a server may leave behind for 30 s. If the server is stopped while
// it asks for the consumer of a stream's source, that goroutine waits for the response (nats-server 2.15.2,
// trySetupSourceConsumer).
func OutlivesServer() goleak.Option {
	return goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.(*stream).trySetupSourceConsumer.func3")
}

// SetLog makes h handle the process's log until the end of the test. The test must not be parallel, because
// there is only one log.
func SetLog(t testing.TB, h slog.Handler) {
	logger, out, flags := slog.Default(), log.Writer(), log.Flags()
	t.Cleanup(func() {
		slog.SetDefault(logger)
		log.SetOutput(out) // SetDefault changed it
		log.SetFlags(flags)
	})
	slog.SetDefault(slog.New(h))
}

// Log collects log lines, and may be read concurrently.
type Log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// Logger returns a logger of all levels that writes to l.
func (l *Log) Logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// With returns the lines that contain text.
func (l *Log) With(text string) (found []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.b.String()) {
		if strings.Contains(line, text) {
			found = append(found, line)
		}
	}
	return found
}

// Connect connects to srv until the end of the test.
func Connect(t testing.TB, srv *embedded.Server) *nats.Conn {
	t.Helper()
	nc, err := srv.Connect()
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	return nc
}

// Journal provisions streams on a new server. JournalOn returns further handles on the same server.
func Journal(t testing.TB) *journal.Log {
	t.Helper()
	return JournalOn(t, Server(t, ""), journal.Config{})
}

// JournalOn provisions streams on srv over a separate connection, like another process.
func JournalOn(t testing.TB, srv *embedded.Server, cfg journal.Config) *journal.Log {
	t.Helper()
	if cfg.SecretKey == nil {
		cfg.SecretKey = SecretKey
	}
	s, err := journal.Provision(t.Context(), Connect(t, srv), cfg)
	require.NoError(t, err)
	return s
}

// givenPorts holds the ports that FreePort has returned.
var givenPorts sync.Map

// FreePort returns a loopback port for a server that may stop and start again. It is below the ephemeral
// ports of Linux, so no other connection or listener takes it while the server is down.
func FreePort() int {
	for {
		port := 12_000 + rand.IntN(20_000)
		if _, given := givenPorts.LoadOrStore(port, true); given {
			continue
		}
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			_ = l.Close()
			return port
		}
	}
}
