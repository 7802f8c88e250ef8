package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

func natsOptions(t testing.TB) *server.Options {
	return &server.Options{
		Host: "127.0.0.1", Port: eventstest.FreePort(), NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: t.TempDir(), JetStreamMaxStore: 64 << 30, MaxPayload: 8 << 20,
	}
}

func startNATS(t testing.TB, o *server.Options) (end func()) {
	srv, err := server.NewServer(o)
	require.NoError(t, err)
	srv.Start()
	end = func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	}
	t.Cleanup(end)
	require.True(t, srv.ReadyForConnections(10*time.Second))
	return end
}

// A process that starts before its cluster does, or while that has no leader, is alive and
// not ready and says why. It serves when there is a leader.
func TestAStartWaitsForItsCluster(t *testing.T) {
	t.Parallel()
	alone := natsOptions(t) // of a cluster whose other servers are away
	alone.ServerName = "alone"
	alone.Cluster = server.ClusterOpts{Name: "sheaf", Host: "127.0.0.1", Port: eventstest.FreePort()}
	alone.Routes = []*url.URL{{Scheme: "nats", Host: fmt.Sprintf("127.0.0.1:%d", eventstest.FreePort())}}
	whole := natsOptions(t)
	whole.Port = alone.Port
	address := fmt.Sprintf("127.0.0.1:%d", eventstest.FreePort())
	p := beginServe(t, "--nats", fmt.Sprintf("127.0.0.1:%d", alone.Port), "--replicas", "1", "--http", address, "--data", t.TempDir(),
		"--secret-key", strings.Repeat("5e", 32), "--shutdown-delay", "0s")
	answers := func(path string, status int, text string) {
		t.Helper()
		require.Eventually(t, func() bool {
			res, err := http.Get("http://" + address + path)
			if err != nil {
				return false
			}
			defer func() { _ = res.Body.Close() }()
			body, _ := io.ReadAll(res.Body)
			return res.StatusCode == status && strings.Contains(string(body), text)
		}, 30*time.Second, 20*time.Millisecond, "%s %d %s", path, status, text)
	}
	answers("/readyz", http.StatusServiceUnavailable, "waiting for NATS, while connecting")
	end := startNATS(t, alone)
	answers("/readyz", http.StatusServiceUnavailable, "waiting for NATS, while asking JetStream")
	answers("/healthz", http.StatusOK, "")
	end()
	startNATS(t, whole)
	answers("/readyz", http.StatusOK, "")
	p.drain(t)
}

// A process that waits for its cluster stops when it is asked to.
func TestAStartThatWaitsStopsInOrder(t *testing.T) {
	t.Parallel()
	p := beginServe(t, "--roles", "assembler", "--nats", fmt.Sprintf("127.0.0.1:%d", eventstest.FreePort()), "--data", t.TempDir(), "--secret-key", strings.Repeat("5e", 32))
	require.Eventually(t, func() bool { return strings.Contains(p.err.String(), "trying again") }, 30*time.Second, 5*time.Millisecond)
	p.drain(t)
}

// What no time will mend ends a start at once, with the reason.
func TestAStartEndsWhereWaitingIsInVain(t *testing.T) {
	t.Parallel()
	serve := func(t *testing.T, address string) string {
		p := beginServe(t, "--roles", "crawler", "--nats", address, "--replicas", "1", "--data", t.TempDir(), "--secret-key", strings.Repeat("5e", 32))
		select {
		case code := <-p.ended:
			require.Equal(t, exitFailed, code, p.err.String())
		case <-time.After(20 * time.Second):
			t.Fatal("it does not end")
		}
		return p.err.String()
	}
	connect := func(t *testing.T, o *server.Options, opts ...nats.Option) jetstream.JetStream {
		nc, err := nats.Connect(fmt.Sprintf("nats://127.0.0.1:%d", o.Port), opts...)
		require.NoError(t, err)
		t.Cleanup(nc.Close)
		js, err := jetstream.New(nc)
		require.NoError(t, err)
		return js
	}
	t.Run("wrong password", func(t *testing.T) {
		t.Parallel()
		o := natsOptions(t)
		o.Username, o.Password = "sheaf", "right"
		startNATS(t, o)
		require.Contains(t, serve(t, fmt.Sprintf("nats://sheaf:wrong@127.0.0.1:%d", o.Port)), "Authorization Violation")
	})
	t.Run("no JetStream", func(t *testing.T) {
		t.Parallel()
		o := natsOptions(t)
		o.JetStream = false
		startNATS(t, o)
		require.Contains(t, serve(t, fmt.Sprintf("127.0.0.1:%d", o.Port)), "enable JetStream")
	})
	t.Run("a malformed address", func(t *testing.T) {
		t.Parallel()
		require.Contains(t, serve(t, "127.0.0.1:port"), "invalid port")
	})
	t.Run("another secret key", func(t *testing.T) {
		t.Parallel()
		o := natsOptions(t)
		startNATS(t, o)
		_, err := events.Provision(t.Context(), connect(t, o).Conn(), events.Config{SecretKey: []byte(strings.Repeat("k", 32)), FilesURL: "nats://sheaf-files"})
		require.NoError(t, err)
		require.Contains(t, serve(t, fmt.Sprintf("127.0.0.1:%d", o.Port)), "another secret key")
	})
	t.Run("another kind of stream", func(t *testing.T) {
		t.Parallel()
		o := natsOptions(t)
		startNATS(t, o)
		_, err := connect(t, o).CreateStream(t.Context(), jetstream.StreamConfig{Name: events.StreamTimers, Subjects: []string{"sheaf.timer.>"}, Storage: jetstream.MemoryStorage})
		require.NoError(t, err)
		require.Contains(t, serve(t, fmt.Sprintf("127.0.0.1:%d", o.Port)), "stream "+events.StreamTimers)
	})
	for _, denied := range []string{"$JS.API.INFO", "$JS.API.STREAM.CREATE.>", "$JS.API.CONSUMER.CREATE.>"} {
		t.Run("no permission for "+denied, func(t *testing.T) {
			t.Parallel()
			o := natsOptions(t)
			o.Users = []*server.User{{Username: "sheaf", Password: "p", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{denied}}}}}
			startNATS(t, o)
			require.Contains(t, strings.ToLower(serve(t, fmt.Sprintf("nats://sheaf:p@127.0.0.1:%d", o.Port))), "permissions violation")
		})
	}
}

func TestStartingUp(t *testing.T) {
	t.Parallel()
	api := func(status int, code jetstream.ErrorCode) error {
		return fmt.Errorf("stream X: %w", &jetstream.APIError{Code: status, ErrorCode: code})
	}
	dial := func(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }
	for _, c := range []struct {
		err  error
		want bool
	}{
		{nats.ErrNoServers, true},
		{nats.ErrTimeout, true},
		{nats.ErrNoResponders, true},
		{jetstream.ErrNoStreamResponse, true},
		{fmt.Errorf("open files: %w", context.DeadlineExceeded), true},
		{fmt.Errorf("%w: no leader", events.ErrUnavailable), true},
		{io.EOF, true},
		{&net.DNSError{IsNotFound: true}, true},
		{dial(syscall.ECONNREFUSED), true},
		{api(503, 10008), true},
		{api(400, 10005), true},
		{api(500, 10118), true},
		{api(429, 10167), true},
		{jetstream.ErrStreamNotFound, true},

		{nats.ErrAuthorization, false},
		{nats.ErrAuthExpired, false},
		{nats.ErrPermissionViolation, false},
		{nats.ErrSecureConnRequired, false},
		{jetstream.ErrJetStreamNotEnabled, false},
		{jetstream.ErrJetStreamNotEnabledForAccount, false},
		{api(500, 10047), false}, // insufficient storage
		{api(500, 10052), false}, // the configuration cannot be changed to this
		{api(500, 10074), false}, // replicas > 1 without a cluster
		{dial(&net.AddrError{Err: "missing port"}), false},
		{&url.Error{Op: "parse", Err: errors.New("invalid port")}, false},
		{&net.OpError{Op: "remote error", Err: errors.New("tls: certificate required")}, false},
		{&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}, false},
		{errors.New("this process has another secret key"), false},
	} {
		require.Equal(t, c.want, startingUp(c.err), "%T %v", c.err, c.err)
	}
}
