// Package deploy holds what runs Sheaf elsewhere. Its tests hold those files
// against the programs that will read them.
package deploy

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/journal"
)

func TestNATSConfig(t *testing.T) {
	opts, err := server.ProcessConfigFile("nats.conf")
	require.NoError(t, err)
	require.True(t, opts.JetStream)
	require.True(t, opts.SyncAlways, "the promises of Sheaf rest on it")
	require.EqualValues(t, 8<<20, opts.MaxPayload)
	require.Empty(t, opts.Users)
}

// The examples in the comments are a valid configuration too, and the one with
// permissions shuts a producer in its tenant.
func TestNATSConfigExamples(t *testing.T) {
	text, err := os.ReadFile("nats.conf")
	require.NoError(t, err)
	config := strings.ReplaceAll(string(text), "\n#: ", "\n")
	config = strings.ReplaceAll(config, "$2a$11$REPLACE-WITH-A-HASH", "secret")
	path := filepath.Join(t.TempDir(), "nats.conf")
	require.NoError(t, os.WriteFile(path, []byte(config), 0o600))
	opts, err := server.ProcessConfigFile(path)
	require.NoError(t, err)
	require.Equal(t, "sheaf", opts.Cluster.Name)
	require.Len(t, opts.Routes, 3)

	require.True(t, opts.NoFastProducerStall)
	require.EqualValues(t, 16<<20, opts.MaxPending)
	require.Equal(t, 5*time.Second, opts.WriteDeadline)

	opts.Cluster, opts.Routes, opts.HTTPPort = server.ClusterOpts{}, nil, 0
	opts.DontListen, opts.NoSigs, opts.NoLog, opts.StoreDir = true, true, true, t.TempDir()
	srv, err := server.NewServer(opts)
	require.NoError(t, err)
	srv.Start()
	defer srv.WaitForShutdown()
	defer srv.Shutdown()
	require.True(t, srv.ReadyForConnections(10*time.Second))
	connect := func(user string) *nats.Conn {
		nc, err := nats.Connect("", nats.InProcessServer(srv), nats.UserInfo(user, "secret"), nats.PermissionErrOnSubscribe(true),
			nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
		require.NoError(t, err)
		t.Cleanup(nc.Close)
		return nc
	}
	sheaf, shop := connect("sheaf"), connect("shop")
	require.Eventually(t, func() bool { return shop.MaxPayload() == 1<<20 && sheaf.MaxPayload() == 8<<20 }, 10*time.Second, time.Millisecond)
	account, err := srv.LookupAccount("SHOP")
	require.NoError(t, err)
	require.Equal(t, 16, account.MaxActiveConnections())

	all, err := sheaf.SubscribeSync(">")
	require.NoError(t, err)
	require.NoError(t, sheaf.Flush())
	for _, subject := range []string{"sheaf.submit.other.http", "sheaf.event.shop.completed.x", "sheaf.page.shop.x", "$JS.API.INFO", "sheaf.submit.shop.http"} {
		require.NoError(t, shop.Publish(subject, nil))
	}
	require.NoError(t, shop.Flush())
	msg, err := all.NextMsg(10 * time.Second)
	require.NoError(t, err)
	require.Equal(t, "sheaf.submit.shop.http", msg.Subject, "all before it were refused")

	for _, subject := range []string{">", "sheaf.>", "sheaf.event.*.completed.x", "sheaf.page.shop.>"} {
		denied, err := shop.SubscribeSync(subject)
		require.NoError(t, err)
		_, err = denied.NextMsg(10 * time.Second)
		require.ErrorIs(t, err, nats.ErrPermissionViolation, subject)
	}

	// An acknowledgement goes to the producer's own account, whatever it names as
	// the reply.
	streams, err := journal.Provision(t.Context(), sheaf, journal.Config{SecretKey: eventstest.SecretKey})
	require.NoError(t, err)
	require.NoError(t, shop.PublishRequest("sheaf.submit.shop.http", "sheaf.page.other."+strings.Repeat("0", 32)+".1.1.1", nil))
	ack, err := shop.Request("sheaf.submit.shop.http", nil, 10*time.Second)
	require.NoError(t, err)
	require.Contains(t, string(ack.Data), `"seq":2`)
	pages, err := streams.JetStream().Stream(t.Context(), events.StreamPages)
	require.NoError(t, err)
	require.Zero(t, pages.CachedInfo().State.LastSeq)
	own, err := shop.SubscribeSync("sheaf.event.shop.>")
	require.NoError(t, err)
	_, err = sheaf.Subscribe("sheaf.api.shop.detail", func(m *nats.Msg) { _ = m.Respond([]byte("answer")) })
	require.NoError(t, err)
	require.NoError(t, sheaf.Flush())
	answer, err := shop.Request("sheaf.api.shop.detail", nil, 10*time.Second)
	require.NoError(t, err)
	require.Equal(t, "answer", string(answer.Data))
	require.NoError(t, sheaf.Publish("sheaf.event.shop.completed.x", nil))
	_, err = own.NextMsg(10 * time.Second)
	require.NoError(t, err)
}

// A table that names deleted tests would promise measures that no test checks.
func TestThreatsNameTestsAndMutations(t *testing.T) {
	text, err := os.ReadFile("THREATS.md")
	require.NoError(t, err)
	var tests strings.Builder
	err = filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, "_test.go") {
			var source []byte
			source, err = os.ReadFile(path)
			tests.Write(source)
		}
		return err
	})
	require.NoError(t, err)
	named := regexp.MustCompile("`((?:Test|Fuzz)\\w+)`").FindAllStringSubmatch(string(text), -1)
	require.Greater(t, len(named), 60)
	for _, m := range named {
		require.True(t, strings.Contains(tests.String(), "func "+m[1]+"("), "THREATS.md names %s, which is no test", m[1])
	}
	mutations, err := os.ReadFile("../.ci/mutate")
	require.NoError(t, err)
	rows := 0
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) != 6 || strings.HasPrefix(cells[1], "---") || strings.TrimSpace(cells[1]) == "threat" {
			continue
		}
		rows++
		require.Regexp(t, "`(Test|Fuzz)", cells[3], line)
		for name := range strings.SplitSeq(cells[4], ";") {
			if name = strings.TrimSpace(name); name != "" && name != "the same" {
				require.Contains(t, string(mutations), `("`+name+`"`, line)
			}
		}
	}
	require.Greater(t, rows, 40)
}
