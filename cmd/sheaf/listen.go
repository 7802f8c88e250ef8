package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/standard-webhooks/standard-webhooks/libraries/go"

	"sheaf/cmd/sheaf/node"
	"sheaf/events"
	"sheaf/events/client"
	"sheaf/events/client/callback"
)

type listenCmd struct {
	Address       string `arg:"" optional:"" default:"127.0.0.1:9000" help:"HOST:PORT to receive on (${default})."`
	Forward       string `placeholder:"URL" help:"Send each callback on to this URL and answer as it does."`
	Fail          string `placeholder:"STATUS,N" help:"Answer the first N callbacks with this status, such as 503,2."`
	NATS          string `name:"nats" placeholder:"NAME" help:"Receive on the subject sheaf.callback.TENANT.NAME instead."`
	NATSServer    string `name:"nats-server" default:"nats://127.0.0.1:4222" placeholder:"URL" help:"With --nats: the server, with an API key as nats://KEY@HOST:4222 (${default})."`
	Once          bool   `help:"Exit after the first callback."`
	JSON          bool   `name:"json" help:"Print each callback as a line of JSON."`
	receiverFlags `embed:""`
}

func (listenCmd) Help() string {
	return `Receives callbacks, checks their signatures and prints them: to try an export before your back-end is ready. It answers 204, or 401 to a callback that is not signed.

Examples:
    sheaf listen
    sheaf submit --url http://127.0.0.1:8090/ --callback http://127.0.0.1:9000/done
    sheaf listen --fail 503,2
    sheaf listen --forward http://127.0.0.1:3000/hooks/export
    sheaf listen --nats orders      # "callback": "nats:sheaf.callback.default.orders"`
}

// receiverFlags say how callbacks are verified.
type receiverFlags struct {
	CallbackSecret []string `env:"SHEAF_CALLBACK_SECRET" placeholder:"SECRET" help:"Secret of sheaf callback-secret. Default: derived from the secret key of --data."`
	Tenant         string   `default:"default" help:"Tenant whose callbacks are meant (${default})."`
	NoVerify       bool     `help:"Accept callbacks without checking their signature."`
	node.KeyConfig `embed:""`
}

// receiver returns what verifies callbacks, nil with --no-verify.
func (f *receiverFlags) receiver() (*callback.Receiver, error) {
	if !events.ValidTenant(f.Tenant) {
		return nil, usagef("--tenant %q: want 1 to 32 of a-z, 0-9, _ and -", f.Tenant)
	}
	if f.NoVerify {
		return nil, nil
	}
	secrets := f.CallbackSecret
	if len(secrets) == 0 {
		keys, err := f.Keyring(slog.Default())
		if errors.Is(err, fs.ErrNotExist) {
			return nil, usagef("no secret to check callbacks with: say --callback-secret, --data of the server, or --no-verify")
		}
		if err != nil {
			return nil, err
		}
		secrets = keys.WebhookSecrets(f.Tenant)
	}
	r, err := callback.New(secrets...)
	if err != nil {
		return nil, usagef("--callback-secret: %w", err)
	}
	return r, nil
}

// receipt is a callback that was received, as it is printed.
type receipt struct {
	Time     time.Time       `json:"time"`
	ID       string          `json:"id,omitempty"` // webhook-id
	Again    bool            `json:"again"`        // an earlier callback had the same id
	Verified bool            `json:"verified"`
	Answered int             `json:"answered,omitempty"` // HTTP status
	Body     json.RawMessage `json:"callback"`

	parsed *callback.Callback
}

// listener receives callbacks and prints them.
type listener struct {
	std     stdio
	verify  *callback.Receiver // nil accepts everything
	forward string
	asJSON  bool
	got     chan *callback.Callback // accepted callbacks; a full channel drops them

	mu     sync.Mutex
	status int // of the next failures
	fails  int
	seen   map[string]bool
}

func (c *listenCmd) listener(std stdio) (*listener, error) {
	l := &listener{std: std, forward: c.Forward, asJSON: c.JSON, got: make(chan *callback.Callback, 1), seen: map[string]bool{}}
	if c.Fail != "" {
		status, times, ok := strings.Cut(c.Fail, ",")
		var err, err2 error
		l.status, err = strconv.Atoi(status)
		if l.fails = 1; ok {
			l.fails, err2 = strconv.Atoi(times)
		}
		if err != nil || err2 != nil || l.status < 300 || l.status > 599 || l.fails < 0 {
			return nil, usagef("--fail %q: want a status from 300 to 599 and a number, such as 503,2", c.Fail)
		}
	}
	if c.NATS != "" && (c.Forward != "" || c.Fail != "") {
		return nil, usagef("--nats: callbacks on NATS have no answer; leave out --forward and --fail")
	}
	return l, nil
}

func (c *listenCmd) Run(ctx context.Context, std stdio) error {
	l, err := c.listener(std)
	if err != nil {
		return err
	}
	if c.NATS != "" {
		return c.onNATS(ctx, l)
	}
	if l.verify, err = c.receiver(); err != nil {
		return err
	}
	address, stop, err := l.serve(c.Address)
	if err != nil {
		return err
	}
	defer stop()
	fmt.Fprintf(std.err, "listening on %s, stop with Ctrl-C\n", address)
	return c.until(ctx, l)
}

// until waits for the end: the first callback with --once, or the signal that stops the command.
func (c *listenCmd) until(ctx context.Context, l *listener) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.got:
			if c.Once {
				return nil
			}
		}
	}
}

// natsWait is how long a NATS server may take to answer.
const natsWait = 5 * time.Second

// onNATS receives callbacks on a subject.
func (c *listenCmd) onNATS(ctx context.Context, l *listener) error {
	subject, err := events.CallbackSubject(c.Tenant, "nats:"+events.SubjectCallback+c.Tenant+"."+c.NATS)
	if err != nil {
		return usagef("--nats %q: %w", c.NATS, err)
	}
	nc, err := nats.Connect(c.NATSServer, nats.Name("sheaf listen"), nats.Timeout(natsWait))
	if err != nil {
		return fmt.Errorf("--nats-server: %w", err)
	}
	defer nc.Close()
	sub, err := nc.Subscribe(subject, func(m *nats.Msg) {
		parsed, err := callback.Read(m.Data)
		if err != nil {
			fmt.Fprintf(l.std.err, "not a callback: %v\n", err)
			return
		}
		l.take(&receipt{ID: m.Header.Get("ce-id"), Body: m.Data, parsed: parsed})
	})
	if err != nil {
		return err
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := nc.FlushTimeout(natsWait); err != nil {
		return err
	}
	fmt.Fprintf(l.std.err, "listening on %s, stop with Ctrl-C\n", subject)
	return c.until(ctx, l)
}

// serve receives callbacks by HTTP.
func (l *listener) serve(address string) (at string, stop func(), err error) {
	listen, err := net.Listen("tcp", address)
	if err != nil {
		return "", nil, usagef("%s: cannot listen; want a free HOST:PORT such as 127.0.0.1:9000: %w", address, err)
	}
	web := &http.Server{Handler: l, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, IdleTimeout: 2 * time.Minute}
	var ended sync.WaitGroup
	ended.Go(func() { _ = web.Serve(listen) })
	return "http://" + listen.Addr().String() + "/", func() {
		within, cancel := context.WithTimeout(context.Background(), 2*time.Second) // the answer to the last callback
		defer cancel()
		if web.Shutdown(within) != nil {
			_ = web.Close()
		}
		ended.Wait()
	}, nil
}

// ServeHTTP implements http.Handler.
func (l *listener) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, callback.MaxBody))
	if err != nil || r.Method != http.MethodPost {
		http.Error(w, "want a POST of a callback", http.StatusBadRequest)
		return
	}
	parsed, err := l.read(r.Header, body)
	if err != nil {
		fmt.Fprintf(l.std.err, "refused: %s\n", oneLine(err.Error()))
		http.Error(w, "not a callback with a valid signature", http.StatusUnauthorized)
		return
	}
	status := l.answer(r, body)
	got := &receipt{
		ID: r.Header.Get(standardwebhooks.HeaderWebhookID), Verified: l.verify != nil, Answered: status, Body: body, parsed: parsed,
	}
	w.WriteHeader(status)
	l.take(got)
}

func (l *listener) read(header http.Header, body []byte) (*callback.Callback, error) {
	if l.verify == nil {
		return callback.Read(body)
	}
	return l.verify.Verify(header, body)
}

// answer returns the status to answer a callback with.
func (l *listener) answer(r *http.Request, body []byte) int {
	l.mu.Lock()
	fail := l.fails > 0
	if fail {
		l.fails--
	}
	l.mu.Unlock()
	switch {
	case fail:
		return l.status
	case l.forward == "":
		return http.StatusNoContent
	}
	req, err := http.NewRequestWithContext(r.Context(), http.MethodPost, l.forward, bytes.NewReader(body))
	if err != nil {
		return http.StatusBadGateway
	}
	req.Header = r.Header.Clone()
	to := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := to.Do(req)
	if err != nil {
		fmt.Fprintf(l.std.err, "not forwarded: %s\n", oneLine(err.Error()))
		return http.StatusBadGateway
	}
	defer res.Body.Close()
	_, _ = io.CopyN(io.Discard, res.Body, 64<<10)
	return res.StatusCode
}

// take prints a callback.
func (l *listener) take(got *receipt) {
	l.mu.Lock()
	defer l.mu.Unlock()
	got.Time = time.Now().Truncate(time.Second)
	got.Again = got.ID != "" && l.seen[got.ID]
	l.seen[got.ID] = true
	if err := l.print(got); err != nil {
		fmt.Fprintf(l.std.err, "a callback is not printed: %v\n", err)
	}
	if got.Answered != 0 && (got.Answered < 200 || got.Answered > 299) {
		return // it comes again
	}
	select {
	case l.got <- got.parsed:
	default:
	}
}

func (l *listener) print(got *receipt) error {
	if l.asJSON {
		return printLines(l.std.out, got)
	}
	c := got.parsed
	line := l.std.show(got.Time) + "  " + oneLine(c.Event) + "  " + oneLine(c.Log.HashKey) + "  " + oneLine(c.Log.Title)
	if got.Answered != 0 {
		line += fmt.Sprintf("  answered %d", got.Answered)
	}
	if got.Again {
		line += "  (again)"
	}
	if reason := oneLine(c.Log.FailReason); reason != "" {
		line += "\n    " + reason + " (" + oneLine(c.ErrorCode) + ")"
	}
	if c.DownURL != "" {
		line += "\n    " + oneLine(c.DownURL)
	}
	_, err := fmt.Fprintln(l.std.out, line)
	return err
}

// callbackWait is how long submit --listen waits for the callback of an export that has ended.
const callbackWait = 15 * time.Second

// submitAndListen submits an export whose callback is this process, and waits for the callback.
func (c *submitCmd) submitAndListen(ctx context.Context, std stdio, server *remote) error {
	l := &listener{std: std, asJSON: c.JSON, got: make(chan *callback.Callback, 1), seen: map[string]bool{}}
	var err error
	if l.verify, err = c.receiver(); err != nil {
		return err
	}
	address, stop, err := l.serve("127.0.0.1:0")
	if err != nil {
		return err
	}
	defer stop()
	c.Callback = address
	body, operation, err := c.body(std.in)
	if err != nil {
		return err
	}
	accepted, err := server.SubmitJSON(ctx, operation, body, "")
	if err != nil {
		return err
	}
	fmt.Fprintln(std.err, "export", accepted.Key)
	if x, err := server.wait(ctx, accepted.Key, newProgress(std)); x == nil || x.Status == client.Processing {
		return err
	}
	select {
	case got := <-l.got:
		return ended(got)
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(callbackWait):
		return fmt.Errorf("the export has ended, but no callback came in %s; can the server reach %s?", callbackWait, address)
	}
}

// ended returns nil for the callback of a successful export, and otherwise the reason.
func ended(c *callback.Callback) error {
	x := client.Export{Key: c.Log.HashKey, Status: client.Status(c.Log.Status), ErrorCode: c.ErrorCode, FailReason: c.Log.FailReason}
	return x.Err()
}
