package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"sheaf/events/client"
)

// submit --listen receives the signed callback of a real server, with the secret of its data folder.
func TestSubmitAndListen(t *testing.T) {
	source := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/fails" {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		_, _ = io.WriteString(w, `{"errcode":0,"data":{"data":[{"id":"ID"},{"id":1}],"pagetag":{"page":1,"limit":500,"total":1,"total_page":1}}}`)
	}))
	defer source.Close()
	data := t.TempDir()
	p := startServe(t, "--http", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0", "--data", data, "--log-level", "error", "--callback-schedule", "10ms")
	code, out, errs := sheaf(t, t.Context(), "", "submit", "--url", source.URL, "--title", "订单", "--listen", "--data", data, "--server", p.http)
	require.Zero(t, code, errs)
	require.Contains(t, out, "export.completed")
	require.Contains(t, out, "订单  answered 204\n")
	require.Contains(t, out, "/v1/down/")

	code, out, errs = sheaf(t, t.Context(), `{"ext_type":"XLSX","source_http":{"url":"`+source.URL+`/fails"}}`, "submit", "-", "--listen", "--json", "--data", data, "--server", p.http)
	require.Equal(t, exitFailed, code, errs)
	var got receipt
	require.NoError(t, json.Unmarshal([]byte(out), &got), out)
	require.True(t, got.Verified)
	require.Contains(t, string(got.Body), `"error_code":"SOURCE_HTTP"`)

	listening := startListen(t, "--fail", "503,1", "--once", "--data", data)
	code, _, errs = sheaf(t, t.Context(), "", "submit", "--url", source.URL, "--callback", listening.address, "--server", p.http)
	require.Zero(t, code, errs)
	require.Zero(t, <-listening.ended)
	require.Regexp(t, `(?s)answered 503\n.*answered 204  \(again\)`, listening.out.String())

	byNATS := startListen(t, "--nats", "orders", "--nats-server", p.nats, "--once")
	require.Equal(t, "sheaf.callback.default.orders", byNATS.address)
	code, _, errs = sheaf(t, t.Context(), "", "submit", "--url", source.URL, "--callback", "nats:"+byNATS.address, "--server", p.http)
	require.Zero(t, code, errs)
	require.Zero(t, <-byNATS.ended)
	require.Contains(t, byNATS.out.String(), "export.completed")

	// The same calls over NATS.
	nc, err := nats.Connect(p.nats)
	require.NoError(t, err)
	defer nc.Close()
	caller, err := client.NATS(nc, "default", client.Options{})
	require.NoError(t, err)
	defer caller.Close()
	accepted, err := caller.Submit(t.Context(), client.Request{Title: "by NATS", HTTP: &client.HTTPSource{URL: source.URL}})
	require.NoError(t, err)
	x, err := caller.Wait(t.Context(), accepted.Key)
	require.NoError(t, err)
	var file strings.Builder
	require.NoError(t, caller.Fetch(t.Context(), x, &file))
	require.Len(t, file.String(), int(x.Files[0].Size))
	p.drain(t)
}

// listening is a sheaf listen.
type listening struct {
	address string
	out     *output
	ended   chan int
}

// startListen starts sheaf listen and waits until it listens.
func startListen(t *testing.T, args ...string) listening {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	r, w := io.Pipe()
	l := listening{out: &output{}, ended: make(chan int, 1)}
	args = append([]string{"listen", "127.0.0.1:0"}, args...)
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.ended <- run(ctx, args, stdio{out: l.out, err: w}, noLog)
		_ = w.Close()
	}()
	t.Cleanup(func() {
		stop()
		<-done
	})
	first := make([]byte, 4096)
	n, err := r.Read(first)
	require.NoError(t, err)
	go func() { _, _ = io.Copy(io.Discard, r) }()
	_, l.address, _ = strings.Cut(string(first[:n]), "listening on ")
	l.address, _, _ = strings.Cut(l.address, ",")
	require.NotEmpty(t, l.address, string(first[:n]))
	return l
}

func TestListenRefusesWhatIsNotSigned(t *testing.T) {
	t.Parallel()
	l := startListen(t, "--callback-secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	for _, body := range []string{`{"event":"export.completed","log":{"hash_key":"k"}}`, `x`} {
		res, err := http.Post(l.address, "application/json", strings.NewReader(body))
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, http.StatusUnauthorized, res.StatusCode)
	}
	require.Empty(t, l.out.String())
}

func TestListenForwards(t *testing.T) {
	t.Parallel()
	type forwarded struct{ body, id string }
	got := make(chan forwarded, 1)
	backEnd := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- forwarded{string(body), r.Header.Get("webhook-id")}
		w.WriteHeader(http.StatusTeapot)
	}))
	defer backEnd.Close()
	const body = `{"event":"export.completed","log":{"hash_key":"k"}}`
	for to, want := range map[string]int{backEnd.URL: http.StatusTeapot, "http://127.0.0.1:1/": http.StatusBadGateway} {
		l := startListen(t, "--no-verify", "--forward", to)
		req, err := http.NewRequest(http.MethodPost, l.address, strings.NewReader(body))
		require.NoError(t, err)
		req.Header.Set("webhook-id", "msg_1")
		res, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, want, res.StatusCode)
	}
	require.Equal(t, forwarded{body, "msg_1"}, <-got)
	http.DefaultClient.CloseIdleConnections()
}

func TestListenUsage(t *testing.T) {
	t.Chdir(t.TempDir())
	for args, want := range map[string]string{
		"listen":                                        "--callback-secret, --data of the server, or --no-verify",
		"listen --callback-secret x":                    "begins with whsec_",
		"listen --no-verify --fail 200":                 `--fail "200"`,
		"listen --no-verify --fail 503,x":               "503,2",
		"listen --no-verify --tenant A.B":               "--tenant",
		"listen --nats a.*":                             "--nats",
		"listen --nats a --fail 503":                    "have no answer",
		"listen nowhere --no-verify":                    "cannot listen",
		"submit --url http://x/ --listen --wait":        "leave out --callback and --wait",
		"submit --url http://x/ --no-verify":            "--no-verify: it goes with --listen",
		"submit --url http://x/ --secret-key x":         "--secret-key: it goes with --listen",
		"submit --url http://x/ --listen --data folder": "no secret",
	} {
		code, _, errs := sheaf(t, t.Context(), "", strings.Fields(args)...)
		require.Equal(t, exitUsage, code, "%s: %s", args, errs)
		require.Contains(t, errs, want, args)
	}
	code, _, errs := sheaf(t, t.Context(), `{"callback":"http://y/"}`, "submit", "-", "--listen", "--no-verify")
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "names a callback already")
}
