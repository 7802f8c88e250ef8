package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/natscontext"

	"sheaf/events"
	"sheaf/events/embedded"
	"sheaf/events/journal"
)

const (
	// startWait is how long a start waits for the embedded server. It waits for a
	// cluster for as long as that takes.
	startWait = 60 * time.Second
	// startAttempt bounds one attempt of a step of the start, and startPause is the
	// pause before the next.
	startAttempt = 30 * time.Second
	startPause   = time.Second
)

const (
	// quorumEvery is the pause between two questions whether the cluster takes
	// events, and quorumWait how long an answer may take.
	quorumEvery = 500 * time.Millisecond
	quorumWait  = 2 * time.Second
)

// maxQueued is how many durable submissions of a tenant, of either kind, wait in the embedded
// server; further ones are refused. All tenants wait in one queue. In a cluster there is no
// such limit, for submissions wait there also while no ingress runs.
const maxQueued = 250

// messaging is the connection to NATS, and the embedded server if there is one.
type messaging struct {
	server  *embedded.Server // nil with --nats
	conn    *nats.Conn       // of the log
	callers *nats.Conn       // of requests and progress
	journal *journal.Log
	outage  atomic.Value     // of the cluster: the last result of watchQuorum, a string
	waits   func(why string) // is given what the start waits for; nil if nothing asks
}

// openMessaging starts the embedded server or connects to the cluster, and
// brings the streams to their settings.
//
// files names the file store as every process sees it, and filesMade says that
// it was not there before this start.
// Callers of the embedded server show one of keys, if there are any, and are shown
// cert, if it is not nil. waits is given what the start waits for.
func openMessaging(ctx context.Context, cfg Config, secret []byte, files string, filesMade bool, keys *apiKeys, cert *certificate, waits func(string)) (_ *messaging, err error) {
	m := &messaging{waits: waits}
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	if cfg.embedded() {
		err = m.startEmbedded(cfg, secret, keys, cert)
	} else {
		err = m.connect(ctx, cfg)
	}
	if err != nil {
		return nil, err
	}
	newer, err := cfg.newerKeys()
	if err != nil {
		return nil, err
	}
	queued := int64(0)
	if cfg.embedded() {
		queued = maxQueued
	}
	err = m.retryWhileStarting(ctx, "provisioning the streams", func(ctx context.Context) error {
		m.journal, err = journal.Provision(ctx, m.conn, journal.Config{
			Shared:   !cfg.embedded(),
			Replicas: cfg.Replicas, MaxPagesBytes: int64(cfg.MaxPagesBytes), MaxEventsBytes: int64(cfg.MaxLogBytes),
			SecretKey: secret, NewerKeys: newer, FilesURL: files, FilesMade: filesMade, KeepIdempotency: cfg.KeepHistory,
			KeepLog: max(cfg.KeepHistory, cfg.KeepFiles) + longestExport,
			Callers: m.callers, MaxQueued: queued,
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

// longestExport is how long after its first event an export and its callback have ended: 72 h
// (keeper.Config.MaxAge), and a day for the callback.
const longestExport = 96 * time.Hour

func (m *messaging) startEmbedded(cfg Config, secret []byte, keys *apiKeys, cert *certificate) (err error) {
	// The server would else reserve the limits of its streams against three quarters
	// of the disk that is free now, and so refuse after a restart what it took before.
	// What there is room for on the disk is decided elsewhere.
	const noLimit = 1 << 50
	o := embedded.Options{Dir: filepath.Join(cfg.Data, "jetstream"), Listen: cfg.NATSListen, MaxStore: noLimit, Passing: cfg.Ephemeral}
	if keys != nil {
		o.Authenticate = keys.Tenant
	}
	if cert != nil && cfg.NATSListen != "none" {
		o.TLS = cert.config()
	}
	o.Own = func(server *embedded.Server) (err error) {
		if m.conn, err = server.Connect(connectOptions(cfg)...); err != nil {
			return err
		}
		m.callers, err = server.Connect(connectOptions(cfg)...)
		return err
	}
	if m.server, err = embedded.Start(o); err != nil {
		return err
	}
	if keys != nil {
		keys.onChange(m.server.Recheck)
	}
	return nil
}

func (m *messaging) connect(ctx context.Context, cfg Config) error {
	if err := m.retryWhileStarting(ctx, "connecting to NATS", func(context.Context) (err error) {
		if m.conn == nil {
			if m.conn, err = dial(cfg); err != nil {
				return err
			}
		}
		m.callers, err = dial(cfg)
		return err
	}); err != nil {
		return fmt.Errorf("%w; check %s and whether the servers run", err, strings.TrimSpace("--nats "+strings.Join(cfg.NATS, ",")+" "+cfg.NATSContext))
	}
	js, err := jetstream.New(m.conn)
	if err != nil {
		return fmt.Errorf("jetstream: %w", err)
	}
	return m.retryWhileStarting(ctx, "asking JetStream for this account's limits", func(ctx context.Context) error {
		v := m.conn.ConnectedServerVersion()
		if v == "" {
			return nats.ErrDisconnected
		}
		if !atLeast(v, 2, 14, 0) {
			return fmt.Errorf("the NATS server is %s; Sheaf needs 2.14.0 or newer (atomic batches, scheduled messages, and streams in which no Nats-Msg-Id hides another's message)", v)
		}
		// A cluster without a leader gives no answer, not even no.
		asked, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		err := checkAccount(asked, js, cfg)
		var api *jetstream.APIError
		if asked.Err() != nil && ctx.Err() == nil || errors.As(err, &api) && api.ErrorCode == 10008 {
			return fmt.Errorf("%w: the servers' cluster has no leader; most of them must run, and all of them until they first met", err)
		}
		return err
	})
}

func dial(cfg Config) (*nats.Conn, error) {
	opts := connectOptions(cfg)
	if cfg.NATSContext != "" {
		nc, settings, err := natscontext.Connect(cfg.NATSContext, opts...)
		if err != nil {
			return nil, fmt.Errorf("--nats-context %s: %w", cfg.NATSContext, err)
		}
		if settings.JSDomain != "" || settings.JSAPIPrefix != "" {
			nc.Close()
			return nil, settingf("--nats-context %s names a JetStream domain or API prefix; connect to the servers of that domain instead", cfg.NATSContext)
		}
		return nc, nil
	}
	if cfg.NATSCreds != "" {
		opts = append(opts, nats.UserCredentials(cfg.NATSCreds))
	}
	urls := make([]string, len(cfg.NATS))
	for i, s := range cfg.NATS {
		urls[i] = natsURL(s)
	}
	return nats.Connect(strings.Join(urls, ","), opts...)
}

// natsURL adds the scheme that people leave out.
func natsURL(s string) string {
	if s = strings.TrimSpace(s); strings.Contains(s, "://") {
		return s
	}
	return "nats://" + s
}

func connectOptions(cfg Config) []nats.Option {
	host, _ := os.Hostname()
	// A server that hangs keeps its connections open. It is left about when the others
	// have elected new leaders, after 4 to 6 s.
	ping, write := 2*time.Second, 5*time.Second
	if cfg.embedded() {
		ping, write = 20*time.Second, time.Minute // the server hangs with this process
	}
	return []nats.Option{
		nats.Name("sheaf " + strings.Join(cfg.Roles, ",") + " " + host),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(500 * time.Millisecond),
		// Credentials that are being rotated are an outage, not the end.
		nats.IgnoreAuthErrorAbort(),
		nats.PingInterval(ping),
		nats.MaxPingsOutstanding(2),
		nats.FlusherTimeout(write),
		nats.ReconnectOnFlusherError(),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				slog.Warn("NATS connection lost; reconnecting", "error", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) { slog.Info("NATS connection is back", "server", nc.ConnectedUrlRedacted()) }),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			subject := ""
			if sub != nil {
				subject = sub.Subject
			}
			slog.Warn("NATS", "error", err, "subject", subject)
		}),
	}
}

// retryWhileStarting repeats a step of the start while its failure can pass: for as long as
// ctx lasts with a cluster, for startWait with the embedded server. Callers and the log get the
// reason.
func (m *messaging) retryWhileStarting(ctx context.Context, what string, do func(context.Context) error) error {
	begun := time.Now()
	var told time.Time
	waits := func(why string) {
		if m.waits != nil {
			m.waits(why)
		}
	}
	waits("starting: " + what)
	for {
		attempt, cancel := context.WithTimeout(ctx, startAttempt)
		err := do(attempt)
		cancel()
		switch {
		case err == nil:
			if !told.IsZero() {
				slog.Info("NATS is ready", "while", what, "waited", time.Since(begun).Round(time.Millisecond))
			}
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("%s: %w (%w)", what, ctx.Err(), err)
		case m.conn != nil && errors.Is(m.conn.LastError(), nats.ErrPermissionViolation):
			return fmt.Errorf("%s: %w", what, m.conn.LastError())
		case !startingUp(err), m.server != nil && (time.Since(begun) > startWait || errors.Is(m.server.Health(), embedded.ErrWrite)):
			return fmt.Errorf("%s: %w", what, err)
		}
		waits("waiting for NATS, while " + what)
		if time.Since(told) >= tellWaitEvery {
			told = time.Now()
			slog.Warn("NATS is not ready; trying again", "while", what, "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(startPause):
		}
	}
}

// startingUp reports whether time may mend an error of a start: servers are away, do not
// answer or have no leader yet. What needs a person does not pass, such as wrong
// credentials, a missing permission or a stream with other settings.
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
			10014, 10059, // consumer or stream not found, which a cluster may say of what was just made
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

// checkAccount refuses an account that cannot hold the streams, and says what
// cannot be seen from here.
func checkAccount(ctx context.Context, js jetstream.JetStream, cfg Config) error {
	info, err := js.AccountInfo(ctx)
	if errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) {
		return fmt.Errorf("%w: enable JetStream on the servers and for this account", err)
	}
	if err != nil {
		return err
	}
	if err := accountRoom(info, cfg); err != nil {
		return err
	}
	slog.Info("a client cannot see the servers' sync_interval; set it to \"always\", or an acknowledged event can be lost when all copies lose power at once")
	return nil
}

// accountRoom refuses an account whose limit is below what the streams may take.
// Finished files come on top of that. A limit of the account counts each copy;
// that of a tier, such as R3, has them counted in (read in nats-server 2.15.2).
func accountRoom(info *jetstream.AccountInfo, cfg Config) error {
	limit, copies := info.Limits.MaxStore, int64(cfg.Replicas)
	if tier, ok := info.Tiers[fmt.Sprintf("R%d", cfg.Replicas)]; ok {
		limit, copies = tier.Limits.MaxStore, 1
	}
	need := copies * (journal.Config{MaxPagesBytes: int64(cfg.MaxPagesBytes), MaxEventsBytes: int64(cfg.MaxLogBytes)}).MaxBytes()
	if limit > 0 && limit < need {
		return fmt.Errorf("this NATS account may store %d bytes; the streams take up to %d, and finished files come on top: "+
			"raise the account's limit or lower --max-pages-bytes or --max-log-bytes", limit, need)
	}
	return nil
}

func atLeast(version string, least ...int) bool {
	version, _, _ = strings.Cut(strings.TrimPrefix(version, "v"), "-")
	is := strings.Split(version, ".")
	for i, want := range least {
		n := 0
		if i < len(is) {
			var err error
			if n, err = strconv.Atoi(is[i]); err != nil {
				return false
			}
		}
		if n != want {
			return n > want
		}
	}
	return true
}

// health returns an error while events cannot be written: not ready.
func (m *messaging) health() error {
	if m.server != nil {
		return m.server.Health()
	}
	if !m.conn.IsConnected() {
		return errors.New("not connected to NATS")
	}
	if outage, _ := m.outage.Load().(string); outage != "" {
		return errors.New(outage)
	}
	return nil
}

// watchQuorum asks the cluster again and again, until ctx ends, whether it can
// take events. Its servers take connections when most of them are away.
func (m *messaging) watchQuorum(ctx context.Context) error {
	tick := time.NewTicker(quorumEvery)
	defer tick.Stop()
	for m.server == nil {
		asked, cancel := context.WithTimeout(ctx, quorumWait)
		err := m.journal.Quorum(asked)
		cancel()
		if ctx.Err() != nil {
			return nil
		}
		was, _ := m.outage.Load().(string)
		now := ""
		if err != nil {
			now = err.Error()
		}
		m.outage.Store(now)
		switch {
		case was == "" && now != "":
			slog.Warn("the NATS cluster takes no events; waiting for it", "error", err)
		case was != "" && now == "":
			slog.Info("the NATS cluster takes events again")
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
	<-ctx.Done()
	return nil
}

// close gives the connection back, then the server: a client must not see its
// server go first.
func (m *messaging) close() {
	for _, conn := range []*nats.Conn{m.callers, m.conn} {
		if conn != nil {
			_ = conn.FlushTimeout(time.Second)
			conn.Close()
		}
	}
	if m.server != nil {
		m.server.Stop()
	}
}
