package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/natscontext"
	"golang.org/x/time/rate"

	"sheaf/events"
	"sheaf/events/embedded"
	"sheaf/events/journal"
	"sheaf/services/ingress"
	"sheaf/storage"
)

const (
	// startWait is how long a start waits for the embedded server. It waits for a cluster without limit.
	startWait = 60 * time.Second
	// startAttempt bounds one attempt of a start step, and startPause is the pause before the next.
	startAttempt = 30 * time.Second
	startPause   = time.Second
)

const (
	// quorumEvery is the interval of the quorum checks, and quorumWait how long one may take.
	quorumEvery = 500 * time.Millisecond
	quorumWait  = 2 * time.Second
)

// maxQueued is the maximum number of durable submissions of a tenant, per kind, that wait in the embedded
// server; further ones are refused. All tenants share one queue, and the server syncs each submission, so a
// neighbour waits for at most twice as many syncs. A cluster has no such limit, because there submissions also
// wait while no ingress runs.
const maxQueued = 100

// openNATS starts the embedded server or connects to the cluster, and creates or updates the streams.
func (n *node) openNATS(ctx context.Context) error {
	keys, err := n.cfg.makeSecretKeys(n.log)
	if err != nil {
		return err
	}
	// files identifies the file store, which all processes share. made reports that it did not exist before
	// this start.
	files, made, err := storage.StoreName(n.cfg.Files)
	if err != nil {
		return fmt.Errorf("--files: %w", err)
	}
	queued := int64(0)
	if n.cfg.embedded() {
		queued = maxQueued
		err = n.startEmbedded()
	} else {
		err = n.connect(ctx)
	}
	if err != nil {
		return err
	}
	return n.retryWhileStarting(ctx, "provisioning the streams", func(ctx context.Context) error {
		n.journal, err = journal.Provision(ctx, n.conn, journal.Config{
			Shared: !n.cfg.embedded(), Replicas: n.cfg.Replicas,
			MaxPagesBytes: int64(n.cfg.MaxPagesBytes), MaxEventsBytes: int64(n.cfg.MaxLogBytes),
			SecretKey: keys[0].Secret, NewerKeys: keys[1:], FilesURL: files, FilesMade: made,
			KeepIdempotency: n.cfg.KeepHistory, KeepLog: max(n.cfg.KeepHistory, n.cfg.KeepFiles) + longestExport,
			Callers: n.callers, MaxQueued: queued, Log: n.cfg.Log, Appended: n.appended, Tracer: n.tracer,
		})
		return err
	})
}

// longestExport is the maximum time from an export's first event to the end of its callback: 72 h
// (keeper.Config.MaxAge), and a day for the callback.
const longestExport = 96 * time.Hour

func (n *node) startEmbedded() (err error) {
	// Otherwise the server reserves the limits of its streams against three quarters of the free disk space.
	// After a restart it could then refuse streams that it accepted before. disk.go limits the use of the
	// disk instead.
	const noLimit = 1 << 50
	o := embedded.Options{Dir: filepath.Join(n.cfg.Data, "jetstream"), Listen: n.cfg.NATSListen, MaxStore: noLimit, Ephemeral: n.cfg.Ephemeral}
	if n.keys != nil {
		o.Authenticate = n.keys.Tenant
		o.Operations = func(key string) []string {
			p, _ := n.keys.Principal(key)
			return ingress.OperationsOf(p.Scope)
		}
	}
	if n.cert != nil && n.cfg.NATSListen != "none" {
		o.TLS = n.cert.config()
	}
	o.Own = func(server *embedded.Server) (err error) {
		if n.conn, err = server.Connect(n.connectOptions()...); err == nil {
			n.callers, err = server.Connect(n.connectOptions()...)
		}
		return err
	}
	if n.server, err = embedded.Start(o); err == nil && n.keys != nil {
		n.keys.changed = n.server.Recheck
	}
	return err
}

func (n *node) connect(ctx context.Context) error {
	if err := n.retryWhileStarting(ctx, "connecting to NATS", func(context.Context) (err error) {
		if n.conn == nil {
			n.conn, err = n.dial()
		}
		if err == nil {
			n.callers, err = n.dial()
		}
		return err
	}); err != nil {
		return fmt.Errorf("%w; check %s and whether the servers run", err, strings.TrimSpace("--nats "+strings.Join(n.cfg.NATS, ",")+" "+n.cfg.NATSContext))
	}
	js, err := jetstream.New(n.conn)
	if err != nil {
		return fmt.Errorf("jetstream: %w", err)
	}
	err = n.retryWhileStarting(ctx, "asking JetStream for this account's limits", func(ctx context.Context) error {
		v := n.conn.ConnectedServerVersion()
		if v == "" {
			return nats.ErrDisconnected
		}
		if !newEnough(v) {
			return fmt.Errorf("the NATS server is %s; Sheaf needs 2.14.0 or newer (atomic batches, scheduled messages, and streams in which no Nats-Msg-Id hides another's message)", v)
		}
		// A cluster without a leader does not answer at all, not even with an error.
		asked, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		_, err := js.AccountInfo(asked)
		var api *jetstream.APIError
		switch {
		case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
			return fmt.Errorf("%w: enable JetStream on the servers and for this account", err)
		case asked.Err() != nil && ctx.Err() == nil, errors.As(err, &api) && api.ErrorCode == 10008:
			return fmt.Errorf("%w: the servers' cluster has no leader; most of them must run, and all of them until they first met", err)
		}
		return err
	})
	if err == nil {
		n.log.Info("a client cannot see the servers' sync_interval; set it to \"always\", or an acknowledged event can be lost when all copies lose power at once")
	}
	return err
}

func (n *node) dial() (*nats.Conn, error) {
	opts := n.connectOptions()
	if n.cfg.NATSContext != "" {
		nc, settings, err := natscontext.Connect(n.cfg.NATSContext, opts...)
		if err != nil {
			return nil, fmt.Errorf("--nats-context %s: %w", n.cfg.NATSContext, err)
		}
		if settings.JSDomain != "" || settings.JSAPIPrefix != "" {
			nc.Close()
			return nil, settingf("--nats-context %s names a JetStream domain or API prefix; connect to the servers of that domain instead", n.cfg.NATSContext)
		}
		return nc, nil
	}
	if n.cfg.NATSCreds != "" {
		opts = append(opts, nats.UserCredentials(n.cfg.NATSCreds))
	}
	return nats.Connect(strings.Join(n.cfg.NATS, ","), opts...)
}

func (n *node) connectOptions() []nats.Option {
	host, _ := os.Hostname()
	// A server that hangs keeps its connections open. The client leaves it after 4 to 6 s, about when the
	// other servers have elected new leaders.
	ping, write := 2*time.Second, 5*time.Second
	if n.cfg.embedded() {
		ping, write = 20*time.Second, time.Minute // the server hangs with this process
	}
	return []nats.Option{
		nats.Name("sheaf " + strings.Join(n.cfg.Roles, ",") + " " + host),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(500 * time.Millisecond),
		// Credentials that are being rotated are an outage, not a fatal error.
		nats.IgnoreAuthErrorAbort(),
		nats.PingInterval(ping),
		nats.MaxPingsOutstanding(2),
		nats.FlusherTimeout(write),
		nats.ReconnectOnFlusherError(),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				n.log.Warn("NATS connection lost; reconnecting", "error", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			n.metrics.reconnects.Inc()
			n.log.Info("NATS connection is back", "server", nc.ConnectedUrlRedacted())
		}),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			subject := ""
			if sub != nil {
				subject = sub.Subject
			}
			n.log.Warn("NATS", "error", err, "subject", subject)
		}),
	}
}

// retryWhileStarting repeats a start step while its failure is temporary: until ctx ends with a cluster, for
// startWait with the embedded server. It reports the reason to callers and to the log.
func (n *node) retryWhileStarting(ctx context.Context, what string, do func(context.Context) error) error {
	begun, warn := time.Now(), rate.Sometimes{First: 1, Interval: time.Minute}
	n.startup.say("starting: " + what)
	for waited := false; ; waited = true {
		attempt, cancel := context.WithTimeout(ctx, startAttempt)
		err := do(attempt)
		cancel()
		switch {
		case err == nil:
			if waited {
				n.log.Info("NATS is ready", "while", what, "waited", time.Since(begun).Round(time.Millisecond))
			}
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("%s: %w (%w)", what, ctx.Err(), err)
		case n.conn != nil && errors.Is(n.conn.LastError(), nats.ErrPermissionViolation):
			return fmt.Errorf("%s: %w", what, n.conn.LastError())
		case !startingUp(err), n.server != nil && (time.Since(begun) > startWait || errors.Is(n.server.Health(), embedded.ErrWrite)):
			return fmt.Errorf("%s: %w", what, err)
		}
		n.startup.say("waiting for NATS, while " + what)
		warn.Do(func() { n.log.Warn("NATS is not ready; trying again", "while", what, "error", err) })
		select {
		case <-ctx.Done():
		case <-time.After(startPause):
		}
	}
}

// startingUp reports whether an error of a start is temporary: servers are down, do not answer or have no
// leader yet. Errors that a person must fix are permanent, such as wrong credentials, a missing permission or
// a stream with other settings.
func startingUp(err error) bool {
	for _, transient := range []error{
		nats.ErrNoServers, nats.ErrTimeout, nats.ErrNoResponders, jetstream.ErrNoStreamResponse,
		nats.ErrDisconnected, nats.ErrConnectionClosed, nats.ErrStaleConnection, nats.ErrConnectionReconnecting,
		nats.ErrMaxConnectionsExceeded, nats.ErrMaxAccountConnectionsExceeded, io.EOF, io.ErrUnexpectedEOF,
		context.DeadlineExceeded, events.ErrUnavailable,
	} {
		if errors.Is(err, transient) {
			return true
		}
	}
	var api *jetstream.APIError
	if errors.As(err, &api) {
		switch api.ErrorCode {
		case 10004, 10005, 10008, 10009, // incomplete results, no suitable peers, temporarily unavailable, not the leader
			10014, 10059, // consumer or stream not found, which a cluster may return for one that was just created
			10118, 10119, 10163, 10194, 10195: // stream or consumer is offline, last sequence not ready
			return true
		}
		return api.Code == http.StatusTooManyRequests
	}
	var tls *net.OpError
	var address *net.AddrError
	var malformed *url.Error
	if errors.As(err, &tls) && strings.HasSuffix(tls.Op, " error") || errors.As(err, &address) || errors.As(err, &malformed) {
		return false // "remote error" and "local error" are alerts of TLS
	}
	// A name that is not known yet, or a refused connection.
	network := net.Error(nil)
	return errors.As(err, &network)
}

// newEnough reports whether a server's version, such as v2.14.0-RC.1, is 2.14 or newer.
func newEnough(version string) bool {
	var major, minor int
	_, err := fmt.Sscanf(strings.TrimPrefix(version, "v"), "%d.%d", &major, &minor)
	return err == nil && (major > 2 || major == 2 && minor >= 14)
}

// natsHealth returns an error while events cannot be written, so that the process is not ready.
func (n *node) natsHealth() error {
	if n.server != nil {
		return n.server.Health()
	}
	if !n.conn.IsConnected() {
		return errors.New("not connected to NATS")
	}
	if outage, _ := n.outage.Load().(string); outage != "" {
		return errors.New(outage)
	}
	return nil
}

// watchQuorum checks repeatedly, until ctx ends, whether the cluster can take events. Its servers accept
// connections even when most of them are down.
func (n *node) watchQuorum(ctx context.Context) {
	if n.server != nil {
		return
	}
	tick := time.NewTicker(quorumEvery)
	defer tick.Stop()
	for was := ""; ; {
		asked, cancel := context.WithTimeout(ctx, quorumWait)
		err := n.journal.Quorum(asked)
		cancel()
		if ctx.Err() != nil {
			return
		}
		now := ""
		if err != nil {
			now = err.Error()
		}
		switch {
		case was == "" && now != "":
			n.log.Warn("the NATS cluster takes no events; waiting for it", "error", err)
		case was != "" && now == "":
			n.log.Info("the NATS cluster takes events again")
		}
		n.outage.Store(now)
		was = now
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// closeNATS closes the connections, then the server, so that no client sees its server disappear.
func (n *node) closeNATS() {
	for _, conn := range []*nats.Conn{n.callers, n.conn} {
		if conn != nil {
			_ = conn.FlushTimeout(time.Second)
			conn.Close()
		}
	}
	if n.server != nil {
		n.server.Stop()
	}
}
