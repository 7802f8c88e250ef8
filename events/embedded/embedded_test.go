package embedded_test

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"sheaf/events/embedded"
	"sheaf/events/eventstest"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { eventstest.Main(m) }

// Two servers on one folder would overwrite each other's files.
func TestFolderIsUsedOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, err := embedded.Start(embedded.Options{Dir: dir})
	require.NoError(t, err)
	defer first.Stop()
	_, err = embedded.Start(embedded.Options{Dir: dir})
	require.ErrorIs(t, err, embedded.ErrInUse)
	require.ErrorContains(t, err, dir)
	require.NoError(t, first.Health())

	first.Stop()
	second, err := embedded.Start(embedded.Options{Dir: dir})
	require.NoError(t, err, "free again")
	second.Stop()
	second.Stop()
}

func TestAcknowledgedMessagesOutliveTheServer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for round := range uint64(3) {
		srv, err := embedded.Start(embedded.Options{Dir: dir})
		require.NoError(t, err)
		nc, err := srv.Connect()
		require.NoError(t, err)
		js, err := jetstream.New(nc)
		require.NoError(t, err)
		_, err = js.CreateOrUpdateStream(t.Context(),
			jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}})
		require.NoError(t, err)
		ack, err := js.Publish(t.Context(), "s", nil)
		require.NoError(t, err)
		require.Equal(t, round+1, ack.Sequence)
		require.Empty(t, srv.URL(), "no port is open unless asked for")
		nc.Close()
		srv.Stop()
	}
}

func TestStartReportsTheCause(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for name, o := range map[string]embedded.Options{
		"--nats-listen":   {Dir: t.TempDir(), Listen: taken.Addr().String()},
		"address":         {Dir: t.TempDir(), Listen: "127.0.0.1"},
		"port \"nats\"":   {Dir: t.TempDir(), Listen: "127.0.0.1:nats"},
		"not a directory": {Dir: filepath.Join(file, "inside it")},
	} {
		_, err := embedded.Start(o)
		require.ErrorContains(t, err, name)
		if o.Dir != "" {
			// The failed start does not block the next one.
			if srv, err := embedded.Start(embedded.Options{Dir: o.Dir}); err == nil {
				srv.Stop()
			} else {
				require.NotErrorIs(t, err, embedded.ErrInUse)
			}
		}
	}
}

// The address may be taken while the server loads its streams, which can take long.
func TestAnAddressTakenMeanwhileFailsTheStart(t *testing.T) {
	address := fmt.Sprintf("127.0.0.1:%d", eventstest.FreePort())
	var other net.Listener
	take := sync.OnceFunc(func() {
		var err error
		other, err = net.Listen("tcp", address)
		assert.NoError(t, err)
	})
	onLog(t, func(slog.Record) { take() }) // at the server's first log record
	dir := t.TempDir()
	_, err := embedded.Start(embedded.Options{Dir: dir, Listen: address})
	require.NotNil(t, other)
	defer other.Close()
	require.ErrorIs(t, err, embedded.ErrNotReady)
	require.ErrorContains(t, err, address)
	srv, err := embedded.Start(embedded.Options{Dir: dir})
	require.NoError(t, err)
	srv.Stop()
}
