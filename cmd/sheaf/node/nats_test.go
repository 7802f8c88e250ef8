package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"sheaf/events"
)

func TestClusterThatIsNotThere(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer stop()
	cfg := Config{Roles: []string{roleCrawler}, NATS: []string{"127.0.0.1:1"}}
	n := &node{cfg: cfg, log: noLog, startup: &startupServer{}}
	err := n.connect(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "127.0.0.1:1")
	require.True(t, startingUp(nats.ErrNoServers))
	require.False(t, startingUp(nats.ErrAuthorization))
}

func TestServerVersion(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]bool{
		"2.14.0": true, "v2.14.10": true, "2.14.0-RC.1": true, "2.15": true, "2.15.2-beta": true, "3.0.0": true,
		"2.13.9": false, "2.12.6": false, "2.13": false, "2.11.99": false, "1.99": false, "": false, "x.y": false,
	} {
		require.Equal(t, want, newEnough(version), version)
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
