// Package node is a Sheaf process: it opens what the roles need, runs them, and closes in order.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"sheaf/cmd/sheaf/egress"
	"sheaf/events/embedded"
	"sheaf/events/rows"
	"sheaf/services/assembler"
	"sheaf/services/crawler"
	"sheaf/services/crawler/source"
	"sheaf/services/ingress"
	"sheaf/services/keeper"
	"sheaf/services/notifier"
	"sheaf/storage"
)

const (
	// drainFor is how long the roles have to finish or hand back what is in
	// flight. With the closing that follows it stays below the 15 s that a
	// process has to stop. An ingress has its --shutdown-delay in addition.
	drainFor = 12 * time.Second
	// answerFor is how long callers may take to be told that nothing can be
	// written.
	answerFor = time.Second
	// healthEvery is how often the watchdog looks. A look takes some 20 µs.
	healthEvery = 250 * time.Millisecond
	// unhealthyFor is how long a server may be unwell for a reason that may
	// pass, such as a stream that is still being set up.
	unhealthyFor = 3 * time.Second
	// tryStartEvery is how often a process that waits for room on its disk
	// tries to start.
	tryStartEvery = 500 * time.Millisecond
	// tellWaitEvery is how often it says that it waits.
	tellWaitEvery = time.Minute
)

// Info says where a Sheaf that takes requests is to be found.
type Info struct {
	HTTP  string // URL of REST, "" without the ingress role
	NATS  string // URL where producers reach the embedded server, else the cluster's server
	Data  string
	Files string // URL of the file store
	Roles []string
}

// Run runs a Sheaf process until ctx ends. opened is called when it takes requests.
func Run(ctx context.Context, cfg Config, opened func(Info)) error {
	s, err := open(ctx, cfg)
	if err != nil {
		return err
	}
	at := Info{HTTP: s.httpURL(), NATS: s.natsURL(), Data: s.cfg.Data, Files: s.cfg.Files, Roles: s.cfg.Roles}
	opened(at)
	slog.Info("started", "http", at.HTTP, "nats", at.NATS, "data", at.Data, "files", at.Files, "roles", at.Roles)
	warnOfSmallDisk(s.cfg)
	drained, err := s.run(ctx)
	if drained {
		s.close()
	}
	if err == nil {
		slog.Info("stopped")
	}
	return err
}

// node is one running Sheaf process: its connections and its roles.
type node struct {
	cfg       Config
	publicURL string
	*messaging
	disk     *disk        // of --data, nil without an embedded server
	keys     *apiKeys     // nil if nobody needs one
	cert     *certificate // nil without TLS
	egress   *egress.Client
	files    storage.Files       // of the ingress and assembler roles, else nil
	tasks    *storage.Tasks      // of the ingress role, else nil
	marks    *storage.Watermarks // nil in a role of a cluster that keeps none
	listener net.Listener        // of the ingress role, else nil
	roles    map[string]role
	waits    func(why string) // is given what the start waits for
	closers  []func()
}

// role is a service of this process. Run returns nil after a clean drain.
type role interface{ Run(context.Context) error }

// open takes everything that the roles need, in the order in which the need
// arises, and makes the roles. It returns ready to run. While the disk is too
// full for that it waits, and callers are told so.
func open(ctx context.Context, cfg Config) (_ *node, err error) {
	if err := cfg.Complete(); err != nil {
		return nil, err
	}
	s := &node{cfg: cfg, roles: map[string]role{}}
	defer func() {
		if err != nil {
			s.close()
		}
	}()

	if allowed, err := cfg.allowed(); err == nil && len(cfg.AllowCIDR) > 0 && len(allowed) > 0 && !cfg.Ephemeral {
		slog.Warn("whoever may submit exports reaches what answers at these private addresses", "allow_cidr", allowed)
	}
	// Addresses and locks first: they fail at once if another Sheaf runs here.
	if cfg.has(roleIngress) {
		if s.listener, err = net.Listen("tcp", cfg.HTTP); err != nil {
			return nil, fmt.Errorf("REST cannot listen (choose another --http): %w", err)
		}
		s.onClose(func() { _ = s.listener.Close() })
	}
	if cfg.APIKeys != "" {
		if s.keys, err = openAPIKeys(cfg.APIKeys); err != nil {
			return nil, err
		}
	}
	if cfg.TLSCert != "" {
		if s.cert, err = openCertificate(cfg.TLSCert, cfg.TLSKey); err != nil {
			return nil, err
		}
		if tcp, ok := s.listener.(*net.TCPListener); ok {
			s.listener = tlsListener{tcp, s.cert.config()}
		}
	} else if s.listener != nil && s.keys != nil && !loopbackAddress(cfg.HTTP) {
		slog.Warn("API keys travel in clear: serve with --tls-cert and --tls-key, or let a proxy in front speak TLS", "http", cfg.HTTP)
	}
	s.publicURL = publicURL(cfg, s.listener)
	door := &door{listener: s.listener, why: "starting; try again"}
	defer door.hand()
	s.waits = func(why string) { door.say(ingress.NotReady(why)) }
	slow := time.AfterFunc(doorAfter, func() { door.close(door.reason()) })
	defer slow.Stop()

	if cfg.embedded() {
		s.disk = newDisk(cfg.Data)
	}
	var waiting, told time.Time
	for {
		why := s.disk.roomToStart()
		if why == nil {
			taken := len(s.closers)
			if err = s.take(ctx); err == nil {
				break
			}
			if why = s.disk.lacked(err); why == nil || ctx.Err() != nil {
				return nil, err
			}
			s.release(taken)
		}
		door.close(ingress.NotReady(why.Error()))
		if waiting.IsZero() {
			waiting = time.Now()
		}
		if time.Since(told) >= tellWaitEvery {
			told = time.Now()
			slog.Error("waiting for room on the disk of the data folder before the start", "reason", why, "since", waiting.Format(time.RFC3339), "error", err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(tryStartEvery):
		}
	}
	if !waiting.IsZero() {
		slog.Info("there is room to start", "waited", time.Since(waiting).Round(time.Millisecond))
	}
	return s, nil
}

// take takes what comes after the addresses.
func (s *node) take(ctx context.Context) error {
	cfg := s.cfg
	if cfg.embedded() {
		unlock, err := lockData(cfg.Data)
		if err != nil {
			return err
		}
		s.onClose(unlock)
	}
	secret, err := cfg.makeSecretKey()
	if err != nil {
		return err
	}
	store, made, err := storage.StoreName(cfg.Files)
	if err != nil {
		return fmt.Errorf("--files: %w", err)
	}
	allowed, err := cfg.allowed()
	if err != nil {
		return err
	}
	s.egress = egress.New(egress.Config{
		Allowed: allowed, MaxHeaderBytes: int64(cfg.MaxHeaderBytes),
		// The crawler's own timeouts end earlier, and their failures name the flag.
		MaxTime: max(cfg.PageTimeout, cfg.HeaderTimeout, 4*time.Minute) + time.Minute,
	})
	s.onClose(s.egress.CloseIdleConnections)

	if s.messaging, err = openMessaging(ctx, cfg, secret, store, made, s.keys, s.cert, s.waits); err != nil {
		return err
	}
	s.onClose(s.messaging.close)
	if cfg.has(roleIngress) || cfg.has(roleAssembler) {
		// The store may live on the connection, so it is closed before it.
		err = s.retryWhileStarting(ctx, "opening the file store", func(ctx context.Context) (err error) {
			s.files, err = storage.OpenFiles(ctx, cfg.Files, cfg.Data, s.journal.JetStream(), cfg.Replicas)
			return err
		})
		if err != nil {
			return err
		}
		s.onClose(func() { logClose("files", s.files.Close()) })
	}
	if cfg.has(roleIngress) {
		if s.tasks, err = storage.OpenTasks(filepath.Join(cfg.Data, "tasks.db")); err != nil {
			return err
		}
		s.onClose(func() { logClose("tasks.db", s.tasks.Close()) })
	}
	if err := s.checkFiles(ctx); err != nil {
		return err
	}
	if err := s.checkStreams(ctx); err != nil {
		return err
	}
	if s.tasks != nil && s.tasks.Torn() {
		slog.Info("the machine was restarted while tasks.db was open; it is rebuilt from the log")
		if err := s.tasks.Reset(); err != nil {
			return err
		}
	}
	if s.marks != nil {
		s.onClose(s.lastMarks)
	}

	makers := s.makers()
	for _, name := range cfg.Roles {
		if s.roles[name], err = makers[name](); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if cfg.has(roleIngress) {
		if s.roles[keeperOfIngress], err = s.makeKeeper(); err != nil {
			return fmt.Errorf("%s: %w", keeperOfIngress, err)
		}
	}
	return nil
}

// keeperOfIngress names the keeper, which runs wherever an ingress keeps a projection.
const keeperOfIngress = "keeper"

func (s *node) makeKeeper() (role, error) {
	return keeper.New(keeper.Config{
		Log:       slog.Default(),
		KeepFiles: s.cfg.KeepFiles, KeepPages: s.cfg.KeepPages, MaxHistory: s.cfg.MaxHistory, Room: s.disk.room,
	}, s.journal, s.tasks, s.files)
}

// makers is the table of roles.
func (s *node) makers() map[string]func() (role, error) {
	return map[string]func() (role, error){
		roleIngress: func() (role, error) {
			var authenticate func(string) (string, bool)
			if s.keys != nil {
				authenticate = s.keys.Tenant
			}
			return ingress.New(ingress.Config{
				Log:          slog.Default(),
				Authenticate: authenticate,
				Quota:        ingress.Quota{Unfinished: s.cfg.MaxUnfinished, FileBytes: int64(s.cfg.MaxFilesBytes)},
				MaxSkew:      s.cfg.MaxSkew,

				PublicURL:  s.publicURL,
				MaxHistory: s.cfg.MaxHistory,
				Health:     s.health,
				Room:       s.disk.room,

				ShutdownDelay: *s.cfg.ShutdownDelay,
			}, s.listener, s.journal, s.tasks, s.files)
		},
		roleCrawler: func() (role, error) {
			l := s.cfg.SourceLimits
			return crawler.New(crawler.Config{
				Log: slog.Default(), PerHost: s.cfg.ConnsPerHost, PerTenant: s.cfg.ConnsPerTenant, Running: s.cfg.MaxRunning, Room: s.disk.room,
				MaxPages: l.MaxPages, MaxRows: l.MaxRows, MaxBytes: int64(l.MaxExportBytes),
				Policy: source.Policy{
					PageTimeout: l.PageTimeout, HeaderTimeout: l.HeaderTimeout, MinRate: int64(l.MinThroughput), RateOver: minRateOver,
					MaxBodyBytes: int64(l.MaxPageBytes), MaxRatio: l.MaxRatio,
					Rows: rows.Limits{MaxDepth: l.MaxJSONDepth, MaxFields: l.MaxColumns, MaxRowBytes: int(l.MaxRowBytes)},
				},
			}, s.journal, s.egress)
		},
		roleAssembler: func() (role, error) {
			return assembler.New(assembler.Config{Log: slog.Default(), KeepFiles: s.cfg.KeepFiles, Room: s.disk.roomForWorkbook}, s.journal, s.files)
		},
		roleNotifier: func() (role, error) {
			return notifier.New(notifier.Config{Log: slog.Default(), PublicURL: s.publicURL, Schedule: s.cfg.CallbackSchedule, KeepHistory: s.cfg.KeepHistory}, s.journal, s.egress)
		},
	}
}

// run supervises the roles until ctx ends or one of them fails, which ends the
// others. drained is false when a role did not come back in time: what it
// holds must not be closed under its feet, and what it worked on is delivered
// again to another process.
func (s *node) run(ctx context.Context) (drained bool, err error) {
	group, groupCtx := errgroup.WithContext(ctx)
	var mu sync.Mutex
	busy := maps.Clone(s.roles)
	answered := make(chan struct{}) // closed when no caller waits any more
	if s.roles[roleIngress] == nil {
		close(answered)
	}
	for name, r := range s.roles {
		group.Go(func() error {
			err := r.Run(groupCtx)
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
	group.Go(func() error { return s.watch(groupCtx) })
	group.Go(func() error { return s.watchQuorum(groupCtx) })
	group.Go(func() error { return s.keepMarks(groupCtx) })
	if s.keys != nil {
		group.Go(func() error { return s.keys.watch(groupCtx) })
	}
	if s.cert != nil {
		group.Go(func() error { return s.cert.watch(groupCtx) })
	}
	group.Go(func() error { keepSmall(groupCtx); return nil })

	done := make(chan error, 1)
	go func() { done <- group.Wait() }()
	<-groupCtx.Done()
	within := drainFor
	if s.cfg.has(roleIngress) {
		within += *s.cfg.ShutdownDelay
	}
	cause := context.Cause(groupCtx)
	if ctx.Err() != nil {
		slog.Info("stopping", "at_most", within.String())
	}
	tick := time.NewTicker(healthEvery)
	defer tick.Stop()
	for end := time.After(within); !errors.Is(cause, embedded.ErrWrite) && !errors.Is(cause, embedded.ErrSilent); {
		select {
		case err := <-done:
			return true, err
		case <-tick.C:
			// The watchdog has ended too, and who waits for an acknowledgement
			// would keep the process from starting anew.
			if s.server != nil {
				if err := s.server.Health(); errors.Is(err, embedded.ErrWrite) {
					cause = err
				}
			}
		case <-end:
			mu.Lock()
			defer mu.Unlock()
			slog.Warn("not everything could be handed back in time; another process takes it up after 10 s", "roles", slices.Sorted(maps.Keys(busy)))
			if ctx.Err() == nil {
				return false, cause
			}
			return false, nil
		}
	}
	// Nothing can be finished or handed back, and the next process has to begin as
	// after a crash.
	select {
	case <-answered:
	case <-time.After(answerFor):
	}
	return false, cause
}

// watch ends the process when it cannot go on: a write error of the embedded
// JetStream stays until a restart, also after the disk has room again.
func (s *node) watch(ctx context.Context) error {
	tick := time.NewTicker(healthEvery)
	defer tick.Stop()
	unhealthy := time.Time{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		s.disk.watch()
		if s.conn.IsClosed() || s.callers.IsClosed() {
			return errors.New("the NATS connection was closed for good")
		}
		if s.server == nil {
			continue // an outage of the cluster is waited out
		}
		err := s.server.Health()
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

func (s *node) onClose(f func()) { s.closers = append(s.closers, f) }

// close gives everything back, last taken first: who uses goes before what is
// used.
func (s *node) close() { s.release(0) }

// release gives back what was taken after the first n.
func (s *node) release(n int) {
	for _, f := range slices.Backward(s.closers[n:]) {
		f()
	}
	s.closers = s.closers[:n]
}

// httpURL is where this process serves REST, "" without the ingress role.
func (s *node) httpURL() string {
	if s.listener == nil {
		return ""
	}
	return s.cfg.scheme() + s.listener.Addr().String()
}

// natsURL is where producers reach the embedded server, else the cluster's
// server.
func (s *node) natsURL() string {
	switch {
	case s.server == nil:
		return s.conn.ConnectedUrlRedacted()
	case s.server.URL() == "":
		return "in this process only"
	}
	return s.server.URL()
}

// publicURL is the base of links: as configured, else where this process
// listens, else where --http says that an ingress does.
func publicURL(cfg Config, l net.Listener) string {
	if cfg.PublicURL != "" {
		return cfg.PublicURL
	}
	address := cfg.HTTP
	if l != nil {
		address = l.Addr().String()
	} else if cfg.has(roleNotifier) {
		slog.Warn("links in callbacks are made from --http; say --public-url to have them name the ingress", "http", address)
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return cfg.scheme() + address
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
		slog.Warn("links will name 127.0.0.1; say --public-url to have them work from other machines")
	}
	return cfg.scheme() + net.JoinHostPort(host, port)
}

// scheme is how REST is served.
func (c *Config) scheme() string {
	if c.TLSCert != "" {
		return "https://"
	}
	return "http://"
}

// lockData keeps a second embedded server off the same folder: two on one
// store destroy it.
func lockData(data string) (unlock func(), err error) {
	if err := os.MkdirAll(data, 0o700); err != nil {
		return nil, fmt.Errorf("--data: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(data, "sheaf.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("--data: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("another Sheaf uses the folder %s (choose another --data, or --nats to join it): %w", data, err)
	}
	return func() { _ = f.Close() }, nil
}

func logClose(what string, err error) {
	if err != nil {
		slog.Warn("closing "+what, "error", err)
	}
}
