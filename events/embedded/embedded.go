// Package embedded runs a NATS server inside the process, with the settings
// that Sheaf's promises rest on: JetStream with every write synced to disk
// before it is acknowledged.
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

// Options of the server.
type Options struct {
	Dir        string // where JetStream keeps its files; required
	Listen     string // host:port for producers; "" or "none" takes no connections from outside
	MaxStore   int64  // bytes on disk; 0 leaves it to the server: three quarters of what is free
	MaxPayload int32  // bytes of one message; default 8 MiB, above which the server warns
	// Authenticate returns whose API key it is. A caller gives its key as password
	// or token, and reaches the subjects of its tenant and nothing else. Default:
	// nobody needs one, and all may do everything.
	Authenticate func(key string) (tenant string, ok bool)
	TLS          *tls.Config // of Listen; default none
	// Passing says that the folder goes with the process, so that nothing in it need
	// outlive a loss of power: no write is synced. Default: each is, before it is
	// acknowledged.
	Passing bool
	// Own is called before callers are let in. What it connects with [Server.Connect]
	// may have 64 MiB pending; later connections are bounded like those of callers.
	// An error ends the start. Default: nothing.
	Own func(*Server) error
}

// Server is a running server.
type Server struct {
	ns      *server.Server
	opts    *server.Options // those of ns
	lock    *os.File
	fatal   chan string             // the first reason for which it cannot start or listen
	failed  *atomic.Pointer[string] // the first write error, nil while there is none
	tenants *tenants                // nil if nobody needs a key
}

// ErrNotReady is returned when the server did not come up in time.
var ErrNotReady = errors.New("embedded NATS server is not ready")

// ErrWrite is returned by [Server.Health] when a stream could not be written.
// That stays so until the process starts anew, whatever becomes of its cause,
// and who waits for an acknowledgement of the stream waits in vain (measured).
var ErrWrite = errors.New("a stream cannot be written until a restart")

// ErrSilent is returned by [Server.Health] when the server does not answer. After
// some write errors it holds a lock for ever (measured: of a stream with
// schedules), and with it all streams.
var ErrSilent = errors.New("the embedded NATS server does not answer")

// ErrInUse is returned when another process, or another server of this one,
// keeps its streams in the same folder. Two would overwrite each other's
// files; nothing in the server itself keeps them apart (measured).
var ErrInUse = errors.New("in use by another process")

// Start runs a server and waits until it takes connections. It fails at once
// when the address is taken or the folder is in use. Nobody from outside is let in
// before the streams that lie in the folder have been read.
//
// What JetStream keeps lies in clear on the disk. A folder that an older version
// encrypted is refused.
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
		s.tenants = newTenants(o.Authenticate)
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

// maxConnections bounds the connections of callers, maxSubscriptions what each of them
// may listen to: some hundred bytes each. Callers with keys have less, see tenants.go.
const (
	maxConnections   = 4096
	maxSubscriptions = 1000
)

// maxBuffered is how many bytes may wait for one stream to be written. The server's
// default of 128 MiB is what one flood of submissions would take.
const maxBuffered = 32 << 20

const (
	// pingInterval is how long a connection may be silent before it is pinged, and
	// maxPingsOut how many pings it may leave unanswered.
	pingInterval = 20 * time.Second
	maxPingsOut  = 2
)

// listens reports whether callers from outside are wanted.
func (o Options) listens() bool { return o.Listen != "" && o.Listen != "none" }

// start runs the server, for this process alone.
func (s *Server) start(o Options) error {
	opts := &server.Options{
		ServerName: "sheaf",
		DontListen: true, // until listen
		JetStream:  true,
		StoreDir:   o.Dir,
		// Without it an acknowledged message can be lost for two minutes
		// after a power failure (the server's default sync interval).
		SyncAlways:        !o.Passing,
		NoSigs:            true,
		NoLog:             false,
		JetStreamMaxStore: o.MaxStore,
		MaxPayload:        o.MaxPayload,
		// Who is in the middle of a message answers no ping. So one that is not
		// finished within a minute is given up.
		PingInterval: pingInterval,
		MaxPingsOut:  maxPingsOut,
		MaxConn:      maxConnections,
		MaxSubs:      maxSubscriptions,
		// By default the server makes a publisher wait for subscribers that read
		// slowly: they would hold up the log.
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
		// The server would wait and retry; a taken port is better said now.
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
		case why := <-s.fatal: // it would never be ready
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

// listen lets callers from outside in, as the server's own start would do in its last
// step, right behind the one that start waits for (nats-server 2.15.2).
func (s *Server) listen(o Options) error {
	if !o.listens() {
		return nil
	}
	if s.tenants != nil {
		boundPending(s.opts)
		s.tenants.begin()
	}
	s.ns.AcceptLoop(make(chan struct{})) // returns when the address is bound
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

// boundPending lets connections that are made from now on leave less unread than Sheaf's
// own. The server has one limit for all and reads it for each connection that it makes.
// One of its inner ones, which has no use for the limit, may be made at this moment: the
// word is written whole, and no caller from outside is let in yet.
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

// Recheck closes the connections of callers whose key is no longer good. It is
// called when Authenticate has come to know others.
func (s *Server) Recheck() {
	if s.tenants != nil {
		s.tenants.recheck()
	}
}

// URL is where producers connect, "" when the server does not listen.
func (s *Server) URL() string {
	if s.ns.Addr() == nil {
		return ""
	}
	return s.ns.ClientURL()
}

// Health returns an error when JetStream cannot go on. A write error of a
// stream is sticky: only a restart of the process mends it, also after space
// was freed (measured). It takes two seconds at most.
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

// readyWait is how long a server may take to come up.
const readyWait = 30 * time.Second

const (
	// healthWait is how long the server may take to say how it is.
	healthWait = 2 * time.Second
	// stopWait is how long it may take to stop.
	stopWait = 10 * time.Second
)

// healthTries is how often the server is asked before it counts as unhealthy.
// It gives itself a millisecond to be scheduled, and on a busy machine says that it
// has not started when it only had to wait.
const healthTries = 5

// Stop shuts the server down and waits for it. One that does not answer is left
// behind, with its folder still locked.
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

// logger passes the server's log on. Its notices at start are of no interest
// to a user of Sheaf.
type logger struct {
	log    *slog.Logger
	fatal  chan<- string           // takes the first reason for which the server cannot start or listen
	failed *atomic.Pointer[string] // takes the first write error
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

// Errorf is also how the server tells a write error at once: its health shows
// some of them late and others never (measured: of removing a message).
func (l logger) Errorf(f string, v ...any) {
	what := fmt.Sprintf(f, v...)
	l.log.Error(what)
	if strings.Contains(what, "ritical write error") {
		l.failed.CompareAndSwap(nil, &what)
	}
}

func (l logger) Debugf(f string, v ...any) { l.log.Debug(fmt.Sprintf(f, v...)) }
func (l logger) Tracef(f string, v ...any) { l.log.Debug(fmt.Sprintf(f, v...)) }
