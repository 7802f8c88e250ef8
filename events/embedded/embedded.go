// Package embedded runs a NATS server inside the process, with the settings that Sheaf's promises depend on:
// JetStream syncs every write to disk before it acknowledges it.
package embedded

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// Options configure the server.
type Options struct {
	Dir        string // JetStream's files; required
	Listen     string // host:port for producers; "" or "none" refuses connections from outside
	MaxStore   int64  // disk limit in bytes; 0 means the server's default, three quarters of the free space
	MaxPayload int32  // bytes of a message; default 8 MiB, above which the server warns
	// Authenticate returns the tenant of an API key. A caller sends its key as password or token, and can
	// only use the subjects of its tenant. Default: no key is needed and everything is allowed.
	Authenticate func(key string) (tenant string, ok bool)
	// Operations returns the operations of the API that a valid key allows, such as "detail", and "http" and
	// "raw" for submissions too; nil allows all. Default: all.
	Operations func(key string) []string
	TLS        *tls.Config // for Listen; default none
	// Ephemeral says that the folder is temporary, so writes are not synced. Default: every write is synced
	// before it is acknowledged.
	Ephemeral bool
	// Own is called before callers are admitted. Connections that it makes with [Server.Connect] may have 64
	// MiB pending; later ones have the limit of callers. An error aborts the start. Default: nothing.
	Own func(*Server) error
}

// Server is a running server.
type Server struct {
	ns      *server.Server
	opts    *server.Options // options of ns
	lock    *os.File
	fatal   chan string             // the first error that stops it from starting or listening
	failed  *atomic.Pointer[string] // the first write error; nil while there is none
	tenants *tenants                // nil if no key is needed
}

// ErrNotReady is returned if the server did not start in time.
var ErrNotReady = errors.New("embedded NATS server is not ready")

// ErrWrite is returned by [Server.Health] after a stream could not be written. Only a restart of the process
// clears it, even if its cause is gone. Until then the stream acknowledges nothing (measured).
var ErrWrite = errors.New("a stream cannot be written until a restart")

// ErrSilent is returned by [Server.Health] if the server does not answer. After some write errors it holds a
// lock forever, which blocks all streams (measured for a stream with schedules).
var ErrSilent = errors.New("the embedded NATS server does not answer")

// ErrInUse is returned if another server, of this or another process, has its streams in the folder. Both
// would overwrite each other's files; NATS does not prevent that (measured).
var ErrInUse = errors.New("in use by another process")

// Start runs a server and waits until it accepts connections. It fails at once if the address or the folder
// is in use. It admits callers from outside once the existing streams are loaded.
//
// JetStream's files are not encrypted. A folder that an older version encrypted is refused.
func Start(o Options) (*Server, error) {
	of := func(err error) error { return fmt.Errorf("folder %s of the embedded NATS server: %w", o.Dir, err) }
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("folder of the embedded NATS server: %w", err)
	}
	held, err := lock(filepath.Join(o.Dir, "lock"))
	if err != nil {
		return nil, of(err)
	}
	s := &Server{lock: held, fatal: make(chan string, 1), failed: &atomic.Pointer[string]{}}
	if o.Authenticate != nil {
		s.tenants = newTenants(o.Authenticate, o.Operations)
	}
	if _, err = os.Stat(filepath.Join(o.Dir, "encrypted")); err == nil {
		err = of(errOldFormat)
	} else if err = mendStore(o.Dir); err != nil {
		err = of(err)
	} else {
		err = s.start(o)
	}
	if err != nil {
		_ = held.Close()
		return nil, err
	}
	if o.Own != nil {
		err = o.Own(s)
	}
	if err == nil {
		err = s.listen(o)
	}
	if err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

var errOldFormat = errors.New("an older version of Sheaf encrypted it; start with a new data folder")

// maxConnections bounds the connections of callers, maxSubscriptions the subscriptions of each: a few hundred
// bytes each. Callers with keys have lower limits, see tenants.go.
const (
	maxConnections   = 4096
	maxSubscriptions = 1000
)

// maxBuffered is how many bytes may be queued for writing to one stream. A flood of submissions would fill
// the server's default of 128 MiB.
const maxBuffered = 32 << 20

const (
	// pingInterval is how long a connection may be idle before it is pinged, and maxPingsOut how many pings
	// may be unanswered.
	pingInterval = 20 * time.Second
	maxPingsOut  = 2
)

// listens reports whether the server accepts callers from outside.
func (o Options) listens() bool { return o.Listen != "" && o.Listen != "none" }

// start runs the server for this process alone.
func (s *Server) start(o Options) error {
	opts := &server.Options{
		ServerName: "sheaf",
		DontListen: true, // until listen
		JetStream:  true,
		StoreDir:   o.Dir,
		// Otherwise a power failure can lose messages acknowledged in the last two minutes (the server's
		// default sync interval).
		SyncAlways:        !o.Ephemeral,
		NoSigs:            true,
		NoLog:             false,
		JetStreamMaxStore: o.MaxStore,
		MaxPayload:        o.MaxPayload,
		// A client in the middle of a message does not answer pings, so a message must arrive within a
		// minute.
		PingInterval: pingInterval,
		MaxPingsOut:  maxPingsOut,
		MaxConn:      maxConnections,
		MaxSubs:      maxSubscriptions,
		// By default the server makes publishers wait for slow subscribers, which would delay the log.
		NoFastProducerStall:   true,
		StreamMaxBufferedSize: maxBuffered,
	}
	if s.tenants != nil {
		opts.CustomClientAuthentication = s.tenants
	}
	if o.TLS != nil {
		opts.TLS, opts.TLSConfig, opts.TLSTimeout = true, o.TLS, 5
	}
	if opts.MaxPayload == 0 {
		opts.MaxPayload = 8 << 20
	}
	if o.listens() {
		host, port, err := net.SplitHostPort(o.Listen)
		if err != nil {
			return fmt.Errorf("address of the embedded NATS server: %w", err)
		}
		if opts.Port, err = strconv.Atoi(port); err != nil {
			return fmt.Errorf("address of the embedded NATS server: port %q", port)
		}
		opts.Host = host
		if opts.Port == 0 {
			opts.Port = server.RANDOM_PORT
		}
		// The server would retry forever; report a taken port now.
		probe, err := net.Listen("tcp", o.Listen)
		if err != nil {
			return fmt.Errorf("embedded NATS server cannot listen (choose another --nats-listen, or none): %w", err)
		}
		_ = probe.Close()
	}
	ns, err := server.NewServer(opts)
	if err != nil {
		return fmt.Errorf("embedded NATS server: %w", err)
	}
	if s.tenants != nil {
		s.tenants.ns = ns
	}
	ns.SetLoggerV2(logger{slog.With("component", "nats-server"), s.fatal, s.failed}, false, false, false)
	go ns.Start()
	for end := time.Now().Add(readyWait); !ns.ReadyForConnections(readyWait / 300); {
		select {
		case why := <-s.fatal: // it would never become ready
			ns.Shutdown()
			return fmt.Errorf("%w: %s", ErrNotReady, why)
		default:
		}
		if time.Now().After(end) {
			ns.Shutdown()
			return fmt.Errorf("%w: see the log; is %s in use by another process?", ErrNotReady, o.Dir)
		}
	}
	if !ns.JetStreamEnabled() {
		ns.Shutdown()
		return fmt.Errorf("%w: JetStream could not start in %s; see the log", ErrNotReady, o.Dir)
	}
	s.ns, s.opts = ns, opts
	return nil
}

// listen admits callers from outside. It does the last step of the server's own start, right after the one
// that start waits for (nats-server 2.15.2). There is no later moment in the public interface: a reload refuses
// another DontListen. A server that listens from the start would have to refuse logins until Own is done, and
// clients stop for good after two refused logins.
func (s *Server) listen(o Options) error {
	if !o.listens() {
		return nil
	}
	if s.tenants != nil {
		boundPending(s.opts)
		s.tenants.begin()
	}
	s.ns.AcceptLoop(make(chan struct{})) // returns once the address is bound
	if s.ns.Addr() != nil {
		return nil
	}
	select {
	case why := <-s.fatal:
		return fmt.Errorf("%w: %s", ErrNotReady, why)
	default:
		return fmt.Errorf("%w: see the log", ErrNotReady)
	}
}

// boundPending gives all later connections the pending limit of callers. The server has one limit for all,
// which it reads for each new connection. It may be making an internal connection now, which does not use the
// limit. The race is harmless: the word is written atomically, and no caller is admitted yet.
//
// A reload refuses another MaxPending, and no single limit suits both: the server refuses one below MaxPayload,
// and 64 callers with 8 MiB each could hold half a GiB, while Sheaf's own connection carries the pages of several
// workbooks at once. A second server for callers, joined as a leaf, would need all accounts and limits twice.
//
//go:norace
func boundPending(opts *server.Options) { opts.MaxPending = callerPending }

// Connect returns a connection inside the process, without a socket.
func (s *Server) Connect(opts ...nats.Option) (*nats.Conn, error) {
	opts = append([]nats.Option{nats.InProcessServer(s.ns)}, opts...)
	if s.tenants != nil {
		opts = append(opts, nats.UserInfo(ownUser, s.tenants.own))
	}
	nc, err := nats.Connect("", opts...)
	if err != nil {
		return nil, fmt.Errorf("connecting to the embedded NATS server: %w", err)
	}
	return nc, nil
}

// Recheck closes the connections of callers whose key is no longer valid. Call it after the result of
// Authenticate has changed.
func (s *Server) Recheck() {
	if s.tenants != nil {
		s.tenants.recheck()
	}
}

// URL returns the address for producers, "" if the server does not listen.
func (s *Server) URL() string {
	if s.ns.Addr() == nil {
		return ""
	}
	return s.ns.ClientURL()
}

// Health returns an error if JetStream cannot work. A write error of a stream is sticky: only a restart of
// the process clears it, even after space was freed (measured). Health takes at most two seconds.
func (s *Server) Health() error {
	if why := s.failed.Load(); why != nil {
		return fmt.Errorf("%w: %s", ErrWrite, *why)
	}
	answer := make(chan error, 1)
	go func() { answer <- s.ask() }()
	t := time.NewTimer(healthWait)
	defer t.Stop()
	select {
	case err := <-answer:
		return err
	case <-t.C:
		return ErrSilent
	}
}

func (s *Server) ask() error {
	var err error
	for range healthTries {
		h := s.ns.Healthz(&server.HealthzOptions{})
		if h.StatusCode == 200 {
			return nil
		}
		err = fmt.Errorf("embedded NATS server: %s", h.Error)
		if strings.Contains(h.Error, "write error:") {
			return fmt.Errorf("%w: %w", ErrWrite, err)
		}
	}
	return err
}

// readyWait is how long the server may take to start.
const readyWait = 30 * time.Second

const (
	// healthWait is how long the server may take to report its health.
	healthWait = 2 * time.Second
	// stopWait is how long it may take to stop.
	stopWait = 10 * time.Second
)

// healthTries is how many failed health checks in a row count as unhealthy. The server's check allows it one
// millisecond; on a busy machine it therefore reports that it has not started.
const healthTries = 5

// Stop shuts the server down and waits for it. It abandons a server that does not respond, with the folder
// still locked.
func (s *Server) Stop() {
	if s.tenants != nil {
		s.tenants.end()
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		s.ns.Shutdown()
		s.ns.WaitForShutdown()
	}()
	t := time.NewTimer(stopWait)
	defer t.Stop()
	select {
	case <-stopped:
		_ = s.lock.Close()
	case <-t.C:
		slog.Error("the embedded NATS server does not stop")
	}
}

// logger forwards the server's log. Its notices are logged at debug level, as users of Sheaf do not need
// them.
type logger struct {
	log *slog.Logger
	// receives the first error that stops the server from starting or listening
	fatal  chan<- string
	failed *atomic.Pointer[string] // receives the first write error
}

func (l logger) Noticef(f string, v ...any) { l.log.Debug(fmt.Sprintf(f, v...)) }
func (l logger) Warnf(f string, v ...any)   { l.log.Warn(fmt.Sprintf(f, v...)) }
func (l logger) Fatalf(f string, v ...any) {
	why := fmt.Sprintf(f, v...)
	l.log.Error(why)
	select {
	case l.fatal <- why:
	default:
	}
}

// Errorf also detects write errors: the server logs them at once, but reports some late and others never in
// its health (measured when removing a message).
func (l logger) Errorf(f string, v ...any) {
	what := fmt.Sprintf(f, v...)
	if strings.Contains(what, " Violation") || strings.Contains(what, "authentication error") {
		l.log.Warn(what) // a caller did what it may not
		return
	}
	l.log.Error(what)
	if strings.Contains(what, "ritical write error") {
		l.failed.CompareAndSwap(nil, &what)
	}
}

func (l logger) Debugf(f string, v ...any) { l.log.Debug(fmt.Sprintf(f, v...)) }
func (l logger) Tracef(f string, v ...any) { l.log.Debug(fmt.Sprintf(f, v...)) }
