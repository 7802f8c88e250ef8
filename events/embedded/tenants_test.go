package embedded_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"sheaf/events"
	"sheaf/events/embedded"
	"sheaf/events/eventstest"
	"sheaf/events/journal"
)

// The producer chooses where its acknowledgement goes, and the server publishes it there. If callers shared
// an account, it would reach the streams as another caller's page or event; between accounts it does not.
func TestAcknowledgementsStayInTheAccount(t *testing.T) {
	t.Parallel()
	key := strings.Repeat("0", 32)
	targets := []string{
		"sheaf.page.shop." + key + ".9.1.1", "sheaf.event.shop.completed." + key,
		"sheaf.private.headers.shop." + key,
		"sheaf.due.callback.shop." + key, "sheaf.callback.shop.x", "sheaf.submit.shop.http",
	}
	for name, authenticate := range map[string]func(string) (string, bool){
		"open": nil,
		"with keys": func(key string) (string, bool) {
			return strings.TrimSuffix(key, "-key"), strings.HasSuffix(key, "-key")
		},
	} {
		t.Run(name, func(t *testing.T) {
			srv, err := embedded.Start(embedded.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0",
				Authenticate: authenticate})
			require.NoError(t, err)
			t.Cleanup(srv.Stop)
			own, err := srv.Connect()
			require.NoError(t, err)
			t.Cleanup(own.Close)
			s, err := journal.Provision(t.Context(), own, journal.Config{SecretKey: eventstest.SecretKey})
			require.NoError(t, err)
			stored := func() (n uint64) {
				for _, name := range []string{events.StreamEvents, events.StreamPages, events.StreamPrivate,
					events.StreamTimers, events.StreamCallbacks, events.StreamSubmit} {
					st, err := s.JetStream().Stream(t.Context(), name)
					require.NoError(t, err)
					n += st.CachedInfo().State.LastSeq
				}
				return n
			}
			mallory, err := nats.Connect(srv.URL(), nats.UserInfo("mallory", "mallory-key"))
			require.NoError(t, err)
			t.Cleanup(mallory.Close)
			before := stored()
			for _, target := range targets {
				require.NoError(t, mallory.PublishRequest("sheaf.submit.mallory.http", target, []byte(`{}`)))
			}
			// acknowledged after the others
			m, err := mallory.Request("sheaf.submit.mallory.http", []byte(`{}`), 5*time.Second)
			require.NoError(t, err)
			require.Contains(t, string(m.Data), events.StreamSubmit)
			require.NoError(t, own.Flush())
			own7 := uint64(len(targets) + 1) // the submissions themselves
			if authenticate == nil {
				require.Eventually(t, func() bool { return stored() >= before+own7+uint64(len(targets))-1 },
					5*time.Second, 5*time.Millisecond,
					"the trap that this is about is no longer there")
				return
			}
			require.Equal(t, before+own7, stored())
			_, err = mallory.Request("$JS.API.STREAM.NAMES", nil, time.Second)
			require.Error(t, err)
		})
	}
}
