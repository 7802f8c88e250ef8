package node

import (
	"context"
	"log/slog"
	"syscall"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"sheaf/events"
	"sheaf/events/eventstest"
)

// noLog discards log lines.
var noLog = slog.New(slog.DiscardHandler)

func TestMain(m *testing.M) { eventstest.Main(m) }

func TestServeEndsWithTheReasonOfAFailedRole(t *testing.T) {
	t.Parallel()
	cfg := OneShot(t.TempDir())
	s, err := open(t.Context(), cfg)
	require.NoError(t, err)
	defer s.close()
	s.roles = map[string]role{
		roleCrawler:   roleFunc(func(context.Context) error { return syscall.ENOSPC }),
		roleAssembler: roleFunc(func(ctx context.Context) error { <-ctx.Done(); return nil }),
	}
	drained, err := s.run(t.Context())
	require.True(t, drained)
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.ErrorContains(t, err, "the crawler has failed")

	s.roles = map[string]role{roleNotifier: roleFunc(func(context.Context) error { return nil })}
	_, err = s.run(t.Context())
	require.ErrorContains(t, err, "the notifier has ended by itself")

	s.roles = nil
	s.conn.Close()
	_, err = s.run(t.Context())
	require.ErrorContains(t, err, "closed for good")
}

type roleFunc func(context.Context) error

func (f roleFunc) Run(ctx context.Context) error { return f(ctx) }

// Work with a Sheaf in this process is cancelled when the Sheaf fails, with its reason.
func TestWorkEndsWithItsNode(t *testing.T) {
	t.Parallel()
	cfg := OneShot(t.TempDir())
	cfg.NATSListen, cfg.Roles = "127.0.0.1:0", []string{roleIngress}
	err := Use(t.Context(), cfg, func(ctx context.Context, at Info) error {
		nc, err := nats.Connect(at.NATS)
		require.NoError(t, err)
		defer nc.Close()
		js, err := jetstream.New(nc)
		require.NoError(t, err)
		require.NoError(t, js.DeleteStream(ctx, events.StreamEvents))
		<-ctx.Done()
		require.ErrorIs(t, context.Cause(ctx), ErrEnded)
		return ctx.Err()
	})
	require.ErrorContains(t, err, "data was lost")
	require.NotErrorIs(t, err, context.Canceled)
}
