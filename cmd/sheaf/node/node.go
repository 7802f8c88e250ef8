// Package node runs a Sheaf process: it opens the dependencies of the roles, runs the roles, and closes
// everything in reverse order.
package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"sheaf/cmd/sheaf/egress"
	"sheaf/events/embedded"
	"sheaf/events/journal"
	"sheaf/events/tracing"
	"sheaf/storage"
)

const (
	// drainFor is how long the roles may take to finish or hand back their work. Together with the closing it
	// stays below the 15 s that a process has to stop. An ingress has its --shutdown-delay in addition.
	drainFor = 12 * time.Second
	// answerFor is how long the process waits for 503 responses to be sent after a write error.
	answerFor = time.Second
	// healthEvery is the interval of the watchdog. One check takes about 20 µs. After a write error callers
	// wait for it: until then the process neither answers them nor restarts.
	healthEvery = 50 * time.Millisecond
	// unhealthyFor is how long a server may be unhealthy for a temporary reason, such as a stream that is
	// still being set up.
	unhealthyFor = 3 * time.Second
	// tryStartEvery is how often a process without enough disk space to start checks the disk.
	tryStartEvery = 500 * time.Millisecond
)

// Info contains the addresses of a Sheaf that takes requests.
type Info struct {
	HTTP  string // URL of REST, "" without the ingress role
	Ops   string // address for operators, "" without --ops
	NATS  string // URL where producers reach the embedded server, otherwise the cluster's server
	Data  string
	Files string // URL of the file store
	Roles []string
}

// Run runs a Sheaf process until ctx ends. It calls opened when the process takes requests.
func Run(ctx context.Context, cfg Config, opened func(Info)) error {
	n, err := open(ctx, cfg)
	if err != nil {
		return err
	}
	at := Info{HTTP: n.httpURL(), NATS: n.natsURL(), Data: n.cfg.Data, Files: n.cfg.Files, Roles: n.cfg.Roles}
	if n.ops != nil {
		at.Ops = n.ops.listener.Addr().String()
	}
	n.warnOfSmallDisk(ctx)
	opened(at)
	n.log.Info("started", "http", at.HTTP, "ops", at.Ops, "nats", at.NATS, "data", at.Data, "files", at.Files, "roles", at.Roles)
	drained, err := n.run(ctx)
	if drained {
		n.close()
	}
	if err == nil {
		n.log.Info("stopped")
	}
	return err
}

// node is one running Sheaf process: its connections and its roles.
type node struct {
	cfg       Config
	log       *slog.Logger
	publicURL string
	listener  net.Listener // of the ingress role, otherwise nil
	phase     atomic.Int32 // phaseStarting and so on, for operators
	ops       *opsServer   // nil without --ops
	metrics   *processMetrics
	tracer    *tracing.Tracer // nil without traces
	streams   streamGauges
	running   sync.Map // names of the roles whose Run has not returned
	startup   *startupServer
	disk      *disk        // of --data, nil without an embedded server
	keys      *apiKeys     // nil if no role needs one
	cert      *certificate // nil without TLS
	egress    *egress.Client
	server    *embedded.Server // nil with --nats
	conn      *nats.Conn       // of the log
	callers   *nats.Conn       // of requests and progress
	journal   *journal.Log
	outage    atomic.Value        // of the cluster: the last result of watchQuorum, a string
	files     storage.Files       // of the ingress and assembler roles, otherwise nil
	tasks     *storage.Tasks      // of the ingress role, otherwise nil
	snapshots *storage.Snapshots  // of the projection; nil without a projection, and with an embedded server
	marks     *storage.Watermarks // nil in a role of a cluster that keeps none
	roles     map[string]role
	closers   []func()
}

// open opens all dependencies of the roles in order, and creates the roles. It returns them ready to run.
// While the disk is too full to start it waits, and callers get 503.
func open(ctx context.Context, cfg Config) (_ *node, err error) {
	if err := cfg.Complete(); err != nil {
		return nil, err
	}
	n := &node{cfg: cfg, log: cfg.Log.With("service", "process"), roles: map[string]role{}}
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	if err := n.listen(); err != nil {
		return nil, err
	}
	defer func() { n.startup.stop() }()
	if cfg.embedded() {
		n.disk = newDisk(cfg.Data)
		if err := n.waitForRoom(ctx); err != nil {
			return nil, err
		}
		unlock, err := lockData(cfg.Data)
		if err != nil {
			return nil, err
		}
		n.onClose(unlock)
	}
	allowed, err := cfg.allowed()
	if err != nil {
		return nil, err
	}
	if len(cfg.AllowCIDR) > 0 && len(allowed) > 0 && !cfg.Ephemeral {
		n.log.Warn("callers may reach these private addresses through their exports", "allow_cidr", allowed)
	}
	if err := n.openTracing(ctx); err != nil {
		return nil, err
	}
	n.egress = cfg.newEgress(allowed)
	n.onClose(n.egress.CloseIdleConnections)
	n.onClose(n.closeNATS)
	if err := n.openNATS(ctx); err != nil {
		return nil, err
	}
	if err := n.openStores(ctx); err != nil {
		return nil, err
	}
	return n, n.makeRoles()
}

// newEgress returns the client for sources and callbacks.
func (c *Config) newEgress(allowed []netip.Prefix) *egress.Client {
	return egress.New(egress.Config{
		Allowed: allowed, MaxHeaderBytes: int64(c.MaxHeaderBytes),
		// The crawler's own timeouts end earlier, and their failures name the flag.
		MaxTime: max(c.PageTimeout, c.HeaderTimeout, 4*time.Minute) + time.Minute,
	})
}

// listen binds the addresses, which fails at once and before any write if another Sheaf has them. It also
// reads the API keys.
func (n *node) listen() (err error) {
	var tcp *net.TCPListener
	if n.cfg.has(roleIngress) {
		if n.listener, err = net.Listen("tcp", n.cfg.HTTP); err != nil {
			return fmt.Errorf("REST cannot listen (choose another --http): %w", err)
		}
		tcp = n.listener.(*net.TCPListener)
		n.onClose(func() { _ = tcp.Close() })
	}
	if n.cfg.embedded() && n.cfg.NATSListen != "none" {
		probe, err := net.Listen("tcp", n.cfg.NATSListen) // the server listens later
		if err != nil {
			return fmt.Errorf("embedded NATS server cannot listen (choose another --nats-listen, or none): %w", err)
		}
		_ = probe.Close()
	}
	var ops net.Listener
	if n.cfg.Ops != "" {
		if ops, err = net.Listen("tcp", n.cfg.Ops); err != nil {
			return fmt.Errorf("operators cannot be served (choose another --ops): %w", err)
		}
		n.onClose(func() { _ = ops.Close() })
	}
	if n.cfg.APIKeys != "" {
		if n.keys, err = openAPIKeys(n.cfg.APIKeys, n.log); err != nil {
			return err
		}
	}
	if n.cfg.TLSCert != "" {
		if n.cert, err = openCertificate(n.cfg.TLSCert, n.cfg.TLSKey); err != nil {
			return err
		}
		if tcp != nil {
			n.listener = tls.NewListener(tcp, n.cert.config())
		}
	} else if tcp != nil && n.keys != nil && !loopbackAddress(n.cfg.HTTP) {
		n.log.Warn("API keys travel in clear: serve with --tls-cert and --tls-key, or let a proxy in front speak TLS", "http", n.cfg.HTTP)
	}
	n.publicURL = n.linkBase()
	n.startup = n.serveStartup(n.listener, tcp)
	n.metrics = n.newProcessMetrics()
	if ops != nil {
		n.ops = n.serveOps(ops)
		n.onClose(n.ops.close)
	}
	return nil
}

// openStores opens the file store and the projection, and checks both and the streams for losses.
func (n *node) openStores(ctx context.Context) error {
	if n.cfg.has(roleIngress) || n.cfg.has(roleAssembler) {
		// The store may use the connection, so close it first.
		err := n.openFiles(ctx)
		if err != nil {
			return err
		}
		n.onClose(func() { n.logClose("files", n.files.Close()) })
	}
	if n.cfg.has(roleIngress) {
		var err error
		openTasks := storage.OpenTasks
		if !n.cfg.embedded() {
			openTasks = storage.OpenTasksForSnapshots
		}
		if n.tasks, err = openTasks(filepath.Join(n.cfg.Data, "tasks.db"), n.cfg.Log); err != nil {
			return err
		}
		n.onClose(func() { n.logClose("tasks.db", n.tasks.Close()) })
	}
	if err := n.checkFiles(ctx); err != nil {
		return err
	}
	if err := n.checkStreams(ctx); err != nil {
		return err
	}
	if n.marks != nil {
		n.onClose(n.lastMarks)
	}
	if n.tasks != nil && n.tasks.Torn() {
		n.log.Info("the machine was restarted while tasks.db was open; it is rebuilt from the log")
		if err := n.tasks.Reset(); err != nil {
			return err
		}
	}
	return n.openSnapshots(ctx)
}

func (n *node) filesConfig() storage.FilesConfig {
	return storage.FilesConfig{
		DataDir: n.cfg.Data, JetStream: n.journal.JetStream(), Replicas: n.cfg.Replicas, S3: n.cfg.s3(),
	}
}

// openFiles opens the file store. It waits for NATS, but not for an S3 server, whose client has repeated each
// request already: the error says what to do.
func (n *node) openFiles(ctx context.Context) (err error) {
	const what = "opening the file store"
	if strings.HasPrefix(n.cfg.Files, "s3://") {
		n.startup.say("starting: " + what)
		n.files, err = storage.OpenFiles(ctx, n.cfg.Files, n.filesConfig())
		return err
	}
	return n.retryWhileStarting(ctx, what, func(ctx context.Context) error {
		n.files, err = storage.OpenFiles(ctx, n.cfg.Files, n.filesConfig())
		return err
	})
}

// run supervises the roles until ctx ends or one of them fails, which ends the others. drained is false when
// a role did not return in time. Then its resources must stay open, and its work is redelivered to another
// process.
func (n *node) run(ctx context.Context) (drained bool, err error) {
	n.phase.Store(phaseWorking)
	group, groupCtx := errgroup.WithContext(ctx)
	var mu sync.Mutex
	busy := maps.Clone(n.roles)
	answered := make(chan struct{}) // closed when no caller is waiting any more
	if n.roles[roleIngress] == nil {
		close(answered)
	}
	for name, r := range n.roles {
		n.running.Store(name, true)
		group.Go(func() error {
			err := r.Run(groupCtx)
			n.running.Delete(name)
			if name == roleIngress {
				close(answered)
			}
			mu.Lock()
			delete(busy, name)
			mu.Unlock()
			switch {
			case err != nil:
				return fmt.Errorf("the %s has failed: %w", name, err)
			case groupCtx.Err() == nil:
				return fmt.Errorf("the %s has ended by itself", name)
			}
			return nil
		})
	}
	group.Go(func() error { return n.watch(groupCtx) })
	group.Go(func() error { return n.keepMarks(groupCtx) })
	group.Go(func() error { n.watchQuorum(groupCtx); return nil })
	group.Go(func() error { n.watchStreams(groupCtx); return nil })
	if n.snapshots != nil {
		group.Go(func() error { n.snapshots.Run(groupCtx, n.tasks, n.journal); return nil })
	}
	group.Go(func() error { keepSmall(groupCtx); return nil })
	if n.ops != nil {
		group.Go(func() error { return n.ops.watch(groupCtx) })
	}
	if n.keys != nil {
		group.Go(func() error { n.keys.watch(groupCtx, n.log); return nil })
	}
	if n.cert != nil {
		group.Go(func() error { n.cert.watch(groupCtx, n.log); return nil })
	}

	done := make(chan error, 1)
	go func() { done <- group.Wait() }()
	<-groupCtx.Done()
	n.phase.Store(phaseStopping)
	within := drainFor
	if n.cfg.has(roleIngress) {
		within += *n.cfg.ShutdownDelay
	}
	cause := context.Cause(groupCtx)
	if ctx.Err() != nil {
		n.log.Info("stopping", "at_most", within.String())
	}
	tick := time.NewTicker(healthEvery)
	defer tick.Stop()
	for end := time.After(within); !errors.Is(cause, embedded.ErrWrite) && !errors.Is(cause, embedded.ErrSilent); {
		select {
		case err := <-done:
			return true, err
		case <-tick.C:
			// The watchdog has ended too. Roles that wait for an acknowledgement would keep the process from
			// restarting.
			if n.server != nil {
				if err := n.server.Health(); errors.Is(err, embedded.ErrWrite) {
					cause = err
				}
			}
		case <-end:
			mu.Lock()
			defer mu.Unlock()
			n.log.Warn("not everything could be handed back in time; another process takes it up after 10 s", "roles", slices.Sorted(maps.Keys(busy)))
			if ctx.Err() == nil {
				return false, cause
			}
			return false, nil
		}
	}
	// The roles can neither finish nor hand back their work, and the next process must start as after a
	// crash.
	select {
	case <-answered:
	case <-time.After(answerFor):
	}
	return false, cause
}

// watch ends the process when it cannot continue: a write error of the embedded JetStream persists until a
// restart, even after the disk has space again.
func (n *node) watch(ctx context.Context) error {
	tick := time.NewTicker(healthEvery)
	defer tick.Stop()
	full := rate.Sometimes{First: 1, Interval: time.Minute}
	unhealthy := time.Time{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := n.disk.room(0); err != nil {
			full.Do(func() { n.log.Warn("no new exports are taken until there is room", "reason", err) })
		}
		if n.conn.IsClosed() || n.callers.IsClosed() {
			return errors.New("the NATS connection was closed for good")
		}
		if n.server == nil {
			continue // wait out an outage of the cluster
		}
		err := n.server.Health()
		switch {
		case err == nil:
			unhealthy = time.Time{}
		case unhealthy.IsZero():
			unhealthy = time.Now()
		}
		if errors.Is(err, embedded.ErrWrite) || err != nil && time.Since(unhealthy) >= unhealthyFor {
			return fmt.Errorf("%w (is the disk of the data folder full?)", err)
		}
	}
}

func (n *node) onClose(f func()) { n.closers = append(n.closers, f) }

// close releases everything in reverse order, so that users close before the resources that they use.
func (n *node) close() {
	for _, f := range slices.Backward(n.closers) {
		f()
	}
	n.closers = nil
}

func (n *node) logClose(what string, err error) {
	if err != nil {
		n.log.Warn("closing "+what, "error", err)
	}
}

// httpURL returns the URL of REST, "" without the ingress role.
func (n *node) httpURL() string {
	if n.listener == nil {
		return ""
	}
	return n.cfg.scheme() + n.listener.Addr().String()
}

// natsURL returns the URL where producers reach the embedded server, otherwise the cluster's server.
func (n *node) natsURL() string {
	switch {
	case n.server == nil:
		return n.conn.ConnectedUrlRedacted()
	case n.server.URL() == "":
		return "in this process only"
	}
	return n.server.URL()
}

// linkBase returns the base URL of links: the configured one, otherwise this process's address, otherwise
// that of an ingress according to --http.
func (n *node) linkBase() string {
	if n.cfg.PublicURL != "" {
		return n.cfg.PublicURL
	}
	address := n.cfg.HTTP
	if n.listener != nil {
		address = n.listener.Addr().String()
	} else if n.cfg.has(roleNotifier) {
		n.log.Warn("links in callbacks are made from --http; say --public-url to have them name the ingress", "http", address)
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return n.cfg.scheme() + address
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
		n.log.Warn("links will name 127.0.0.1; say --public-url to have them work from other machines")
	}
	return n.cfg.scheme() + net.JoinHostPort(host, port)
}

// scheme returns the scheme of REST.
func (c *Config) scheme() string {
	if c.TLSCert != "" {
		return "https://"
	}
	return "http://"
}

// lockName is the file in the data folder that the process locks.
const lockName = "sheaf.lock"

// lockData keeps a second embedded server off the same folder: two would destroy the store.
func lockData(data string) (unlock func(), err error) {
	if err := os.MkdirAll(data, 0o700); err != nil {
		return nil, fmt.Errorf("--data: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(data, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("--data: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("another Sheaf uses the folder %s (choose another --data, or --nats to join it): %w", data, err)
	}
	return func() { _ = f.Close() }, nil
}
