package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"sheaf/services/assembler"
	"sheaf/services/crawler"
	"sheaf/services/ingress"
	"sheaf/services/notifier"
	"sheaf/storage"
)

const (
	// drainFor is how long the roles have to finish or hand back what is in
	// flight. With the closing that follows it stays below the 15 s that a
	// process has to stop.
	drainFor = 12 * time.Second
	// healthEvery is how often the watchdog looks.
	healthEvery = time.Second
)

// serve runs a Sheaf process until ctx ends. opened is told of the system when
// it takes requests.
func serve(ctx context.Context, cfg Config, opened func(*system)) error {
	s, err := open(ctx, cfg)
	if err != nil {
		return err
	}
	opened(s)
	warnOfSmallDisk(s.cfg)
	drained, err := s.run(ctx)
	if drained {
		s.close()
	}
	return err
}

// system is one running Sheaf process: its connections and its roles.
type system struct {
	cfg       Config
	publicURL string
	*messaging
	egress   *http.Client
	files    storage.Files       // of the ingress and assembler roles, else nil
	tasks    *storage.Tasks      // of the ingress role, else nil
	marks    *storage.Watermarks // nil in a role of a cluster that keeps none
	listener net.Listener        // of the ingress role, else nil
	roles    map[string]role
	closers  []func()
}

// role is a service of this process. Run returns nil after a clean drain.
type role interface{ Run(context.Context) error }

// open takes everything that the roles need, in the order in which the need
// arises, and makes the roles. It returns ready to run.
func open(ctx context.Context, cfg Config) (_ *system, err error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	s := &system{cfg: cfg, roles: map[string]role{}}
	defer func() {
		if err != nil {
			s.close()
		}
	}()

	// Addresses and locks first: they fail at once if another Sheaf runs here.
	if cfg.has(roleIngress) {
		if s.listener, err = net.Listen("tcp", cfg.HTTP); err != nil {
			return nil, fmt.Errorf("REST cannot listen (choose another --http): %w", err)
		}
		s.onClose(func() { _ = s.listener.Close() })
	}
	s.publicURL = publicURL(cfg, s.listener)
	if cfg.embedded() {
		unlock, err := lockData(cfg.Data)
		if err != nil {
			return nil, err
		}
		s.onClose(unlock)
	}
	secret, err := cfg.makeSecretKey()
	if err != nil {
		return nil, err
	}
	store, err := storeName(cfg)
	if err != nil {
		return nil, err
	}
	allowed, err := cfg.allowed()
	if err != nil {
		return nil, err
	}
	s.egress = newEgress(allowed)
	s.onClose(s.egress.CloseIdleConnections)

	if s.messaging, err = openMessaging(ctx, cfg, secret, store); err != nil {
		return nil, err
	}
	s.onClose(s.messaging.close)
	if cfg.has(roleIngress) || cfg.has(roleAssembler) {
		// The store may live on the connection, so it is closed before it.
		if s.files, err = storage.OpenFiles(ctx, cfg.Files, cfg.Data, s.streams.JetStream(), cfg.Replicas); err != nil {
			return nil, err
		}
		s.onClose(func() { logClose("files", s.files.Close()) })
	}
	if cfg.has(roleIngress) {
		if s.tasks, err = storage.OpenTasks(filepath.Join(cfg.Data, "tasks.db")); err != nil {
			return nil, err
		}
		s.onClose(func() { logClose("tasks.db", s.tasks.Close()) })
	}
	if err := s.checkStreams(ctx); err != nil {
		return nil, err
	}
	if s.marks != nil {
		s.onClose(s.lastMarks)
	}

	makers := s.makers()
	for _, name := range cfg.Roles {
		if s.roles[name], err = makers[name](); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return s, nil
}

// makers is the table of roles.
func (s *system) makers() map[string]func() (role, error) {
	return map[string]func() (role, error){
		roleIngress: func() (role, error) {
			return ingress.New(ingress.Config{
				PublicURL:   s.publicURL,
				KeepFiles:   s.cfg.KeepFiles,
				KeepPages:   s.cfg.KeepPages,
				KeepHistory: s.cfg.KeepHistory,
				MaxHistory:  s.cfg.MaxHistory,
				Health:      s.health,
			}, s.listener, s.streams, s.tasks, s.files)
		},
		roleCrawler: func() (role, error) {
			return crawler.New(crawler.Config{}, s.streams, s.egress)
		},
		roleAssembler: func() (role, error) {
			return assembler.New(assembler.Config{KeepFiles: s.cfg.KeepFiles}, s.streams, s.files)
		},
		roleNotifier: func() (role, error) {
			return notifier.New(notifier.Config{PublicURL: s.publicURL, Schedule: s.cfg.CallbackSchedule, KeepHistory: s.cfg.KeepHistory}, s.streams, s.egress)
		},
	}
}

// run supervises the roles until ctx ends or one of them fails, which ends the
// others. drained is false when a role did not come back in time: what it
// holds must not be closed under its feet, and what it worked on is delivered
// again to another process.
func (s *system) run(ctx context.Context) (drained bool, err error) {
	group, groupCtx := errgroup.WithContext(ctx)
	var mu sync.Mutex
	busy := maps.Clone(s.roles)
	for name, r := range s.roles {
		group.Go(func() error {
			err := r.Run(groupCtx)
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
	group.Go(func() error { return s.keepMarks(groupCtx) })

	done := make(chan error, 1)
	go func() { done <- group.Wait() }()
	<-groupCtx.Done()
	if ctx.Err() != nil {
		slog.Info("stopping", "at_most", drainFor.String())
	}
	select {
	case err := <-done:
		return true, err
	case <-time.After(drainFor):
	}
	mu.Lock()
	defer mu.Unlock()
	slog.Warn("not everything could be handed back in time; another process takes it up after 10 s", "roles", slices.Sorted(maps.Keys(busy)))
	if cause := context.Cause(groupCtx); ctx.Err() == nil {
		return false, cause
	}
	return false, nil
}

// watch ends the process when it cannot go on: a write error of the embedded
// JetStream stays until a restart, also after the disk has room again.
func (s *system) watch(ctx context.Context) error {
	tick := time.NewTicker(healthEvery)
	defer tick.Stop()
	for bad := 0; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if s.conn.IsClosed() {
			return errors.New("the NATS connection was closed for good")
		}
		if s.server == nil {
			continue // an outage of the cluster is waited out
		}
		err := s.server.Health()
		if err == nil {
			bad = 0
			continue
		}
		// One bad answer may be a stream that is still being set up.
		if bad++; bad >= 3 {
			return fmt.Errorf("%w: restart Sheaf once the cause is gone (is the disk of --data full?)", err)
		}
	}
}

func (s *system) onClose(f func()) { s.closers = append(s.closers, f) }

// close gives everything back, last taken first: who uses goes before what is
// used.
func (s *system) close() {
	for _, f := range slices.Backward(s.closers) {
		f()
	}
	s.closers = nil
}

// httpURL is where this process serves REST, "" without the ingress role.
func (s *system) httpURL() string {
	if s.listener == nil {
		return ""
	}
	return "http://" + s.listener.Addr().String()
}

// natsURL is where producers reach the embedded server, else the cluster's
// server.
func (s *system) natsURL() string {
	switch {
	case s.server == nil:
		return s.conn.ConnectedUrlRedacted()
	case s.server.URL() == "":
		return "in this process only"
	}
	return s.server.URL()
}

// announce says where everything is.
func (s *system) announce(w io.Writer) {
	if url := s.httpURL(); url != "" {
		fmt.Fprintf(w, "REST   %s\n", url)
	}
	fmt.Fprintf(w, "NATS   %s\n", s.natsURL())
	fmt.Fprintf(w, "data   %s\n", s.cfg.Data)
	fmt.Fprintf(w, "files  %s\n", s.cfg.Files)
	fmt.Fprintf(w, "roles  %s\n", strings.Join(s.cfg.Roles, ", "))
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
		return "http://" + address
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
		slog.Warn("links will name 127.0.0.1; say --public-url to have them work from other machines")
	}
	return "http://" + net.JoinHostPort(host, port)
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

// storeName names the file store for the comparison with the other processes
// of a cluster. A folder is known by a random name inside it, not by its path:
// it may be mounted elsewhere or moved, and two machines have different
// folders under one path.
func storeName(cfg Config) (string, error) {
	folder, ok := strings.CutPrefix(cfg.Files, "file://")
	if !ok {
		return cfg.Files, nil
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return "", fmt.Errorf("--files: %w", err)
	}
	name := filepath.Join(folder, ".sheaf-store")
	if err := writeOnce(name, []byte(randomName()+"\n")); err != nil {
		return "", fmt.Errorf("--files: %w", err)
	}
	id, err := os.ReadFile(name)
	if err != nil {
		return "", fmt.Errorf("--files: %w", err)
	}
	return "folder:" + strings.TrimSpace(string(id)), nil
}

func logClose(what string, err error) {
	if err != nil {
		slog.Warn("closing "+what, "error", err)
	}
}
