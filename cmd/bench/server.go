//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// server is a running "sheaf serve" with its own data folder, used through its API.
type server struct {
	*process
	base   string
	data   string
	client *http.Client
	busy   atomic.Int64 // number of 503 responses
}

// startServer starts Sheaf with its defaults on a free port: all roles, an embedded NATS server, every
// message synced before it is acknowledged. The command line is before, sheaf serve, extra.
func (b *bench) startServer(ctx context.Context, before []string, extra ...string) (*server, error) {
	data, err := os.MkdirTemp(b.dir, "data-*")
	if err != nil {
		return nil, err
	}
	argv := append(before, b.sheaf, "serve", "--http", "127.0.0.1:0", "--nats-listen", "none", "--data", data)
	p, err := start(ctx, b.dir, append(argv, extra...)...)
	if err != nil {
		return nil, err
	}
	base, ok := strings.CutPrefix(p.first, "REST")
	if !ok {
		return nil, errors.Join(fmt.Errorf("sheaf serve began with %q, not with where it listens",
			p.first), p.stop())
	}
	s := &server{process: p, base: strings.TrimSpace(base), data: data,
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}}
	if len(before) > 0 {
		if p.pid, err = childOf(p.pid); err != nil {
			return nil, errors.Join(err, p.stop())
		}
	}
	return s, s.ready(ctx)
}

// ready waits until the server accepts work.
func (s *server) ready(ctx context.Context) error {
	for {
		res, err := s.client.Get(s.base + "/readyz")
		if err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return errors.Join(err, s.stop())
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// close stops the server and removes its data.
func (s *server) close() error {
	s.client.CloseIdleConnections()
	return errors.Join(s.stop(), os.RemoveAll(s.data))
}

// detail holds the fields of a detail that the benchmarks use.
type detail struct {
	Status     int    `json:"status"`
	Rows       int    `json:"rows"`
	FailReason string `json:"fail_reason"`
	DownURL    string `json:"down_url"`
	Progress   struct {
		PagesDone int `json:"pages_done"`
	} `json:"progress"`
}

// request is an export request.
type request struct {
	title    string
	source   string
	limit    int
	callback string
	// fields are added to source_http, and replace those that are there.
	fields map[string]any
}

// do sends a request, and retries it after a 503, which promises that nothing was done. Retries count towards
// the measured time.
func (s *server) do(ctx context.Context, method, link string, body []byte) (*http.Response, error) {
	for {
		req, err := http.NewRequestWithContext(ctx, method, link, bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		req.Header.Set("Content-Type", "application/json")
		res, err := s.client.Do(req)
		if err != nil || res.StatusCode != http.StatusServiceUnavailable {
			return res, err
		}
		s.busy.Add(1)
		_ = res.Body.Close()
		after, err := strconv.Atoi(res.Header.Get("Retry-After"))
		if err != nil {
			return nil, fmt.Errorf("%s was answered 503 without Retry-After", link)
		}
		if err := pause(ctx, time.Duration(after)*time.Second); err != nil {
			return nil, err
		}
	}
}

// busyNote reports the number of 503 responses, if there were any.
func (s *server) busyNote() string {
	if n := s.busy.Load(); n > 0 {
		return fmt.Sprintf("\nThe server answered 503 with Retry-After %d times; the callers came again, and their time counts.\n", n)
	}
	return ""
}

// call sends a request to the REST API and decodes the data of its response.
func (s *server) call(ctx context.Context, method, path string, body []byte, data any) error {
	res, err := s.do(ctx, method, s.base+path, body)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer := struct {
		Errcode int    `json:"errcode"`
		Msg     string `json:"msg"`
		Data    any    `json:"data"`
	}{Data: data}
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if answer.Errcode != 0 {
		return fmt.Errorf("%s: errcode %d: %s", path, answer.Errcode, answer.Msg)
	}
	_, err = io.Copy(io.Discard, res.Body) // so that the connection can be reused
	return err
}

// submit submits an export and returns its key.
func (s *server) submit(ctx context.Context, r request) (key string, err error) {
	source := map[string]any{"url": r.source, "method": "GET", "param": map[string]any{"limit": r.limit}, "conn": exportConn}
	maps.Copy(source, r.fields)
	body, err := json.Marshal(map[string]any{
		"timestamp": 1625106204, "ext_type": "XLSX", "title": r.title, "user_id": "bench",
		"callback": r.callback, "source_http": source,
	})
	if err != nil {
		return "", err
	}
	var accepted struct {
		Key string `json:"hash_key"`
	}
	err = s.call(ctx, http.MethodPost, "/v1/export/http", body, &accepted)
	return accepted.Key, err
}

func (s *server) detail(ctx context.Context, key string) (d detail, err error) {
	err = s.call(ctx, http.MethodGet, "/v1/export/detail?key="+url.QueryEscape(key), nil, &d)
	return d, err
}

// wait polls the detail every between until the export has ended.
func (s *server) wait(ctx context.Context, key string, between time.Duration) (detail, error) {
	for {
		d, err := s.detail(ctx, key)
		if err != nil || d.Status != 1 {
			return d, errors.Join(err, d.succeeded())
		}
		if err := pause(ctx, between); err != nil {
			return d, err
		}
	}
}

func (d detail) succeeded() error {
	if d.Status != 2 {
		return fmt.Errorf("an export ended with status %d: %s", d.Status, d.FailReason)
	}
	return nil
}

// download downloads a finished file and returns its size.
func (s *server) download(ctx context.Context, link string, to io.Writer) (int64, error) {
	res, err := s.do(ctx, http.MethodGet, link, nil)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("the download was answered %s", res.Status)
	}
	n, err := io.Copy(to, res.Body)
	if err == nil && n != res.ContentLength {
		err = fmt.Errorf("the download has %d bytes of %d", n, res.ContentLength)
	}
	return n, err
}

// export runs a large export, polling the detail as a typical caller does. It returns the file's size and the
// time from submit to the last byte on disk (not synced).
func (s *server) export(ctx context.Context, r request, rows int) (time.Duration, int64, error) {
	begin := time.Now()
	key, err := s.submit(ctx, r)
	if err != nil {
		return 0, 0, err
	}
	d, err := s.wait(ctx, key, 10*time.Millisecond)
	if err != nil {
		return 0, 0, err
	}
	if d.Rows != rows {
		return 0, 0, fmt.Errorf("the export has %d rows, want %d", d.Rows, rows)
	}
	f, err := os.Create(filepath.Join(s.data, "download.zip"))
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	size, err := s.download(ctx, d.DownURL, f)
	return time.Since(begin), size, errors.Join(err, f.Close())
}

// receiver receives callbacks.
type receiver struct {
	server  *http.Server
	base    string
	mu      sync.Mutex
	waiting map[string]chan detail
	next    int
}

func startReceiver() (*receiver, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &receiver{base: "http://" + l.Addr().String() + "/", waiting: map[string]chan detail{}}
	r.server = &http.Server{Handler: r}
	go func() { _ = r.server.Serve(l) }()
	return r, nil
}

func (r *receiver) close() { _ = r.server.Close() }

// expect returns a callback address for one use, and a channel that receives its body.
func (r *receiver) expect() (callback string, received <-chan detail) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next++
	id := strconv.Itoa(r.next)
	c := make(chan detail, 1)
	r.waiting[id] = c
	return r.base + id, c
}

// ServeHTTP accepts a callback and ignores duplicates.
func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	var body struct {
		Log     detail `json:"log"`
		DownURL string `json:"down_url"`
	}
	if err := json.NewDecoder(req.Body).Decode(&body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	id := strings.TrimPrefix(req.URL.Path, "/")
	r.mu.Lock()
	c := r.waiting[id]
	delete(r.waiting, id)
	r.mu.Unlock()
	if c != nil {
		body.Log.DownURL = body.DownURL
		c <- body.Log
	}
}
