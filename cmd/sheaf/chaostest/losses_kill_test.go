//go:build chaos && linux

package chaostest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sheaf/events"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// If a start is killed while it repairs the streams, the next start finishes the repair: exports are
// unchanged, and losses that cannot be repaired are reported.
func TestAStartKilledDuringRepair(t *testing.T) {
	t.Parallel()
	binary, _ := build(t)
	source := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, hostilePage(1, 7, `{"page":1,"limit":10,"total":7,"total_page":1}`))
	}))
	defer source.Close()
	listen, natsListen := freeAddress(), freeAddress()
	serve := func(data, failpoint string) (stop func(syscall.Signal) *os.ProcessState) {
		logs, err := os.OpenFile(data+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		require.NoError(t, err)
		cmd := exec.Command(binary, "serve", "--http", listen, "--nats-listen", natsListen, "--data", data)
		cmd.Stdout, cmd.Stderr = logs, logs
		cmd.Env = append(os.Environ(), "SHEAF_FAILPOINT="+failpoint)
		require.NoError(t, cmd.Start())
		ended := make(chan struct{})
		go func() { _ = cmd.Wait(); close(ended) }()
		t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended; _ = logs.Close() })
		return func(sig syscall.Signal) *os.ProcessState {
			if sig != 0 {
				require.NoError(t, cmd.Process.Signal(sig))
			}
			select {
			case <-ended:
			case <-time.After(30 * time.Second):
				t.Fatal("the process does not end")
			}
			return cmd.ProcessState
		}
	}
	var answer struct {
		Msg  string
		Data json.RawMessage
	}
	ask := func(method, path, body string) (status int) {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+listen+path,
			strings.NewReader(body))
		require.NoError(t, err)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0
		}
		defer resp.Body.Close()
		answer.Data = nil
		_ = json.NewDecoder(resp.Body).Decode(&answer)
		return resp.StatusCode
	}
	isReady := func(want int, msg string) {
		t.Helper()
		require.True(t, eventually(t.Context(), 30*time.Second, 20*time.Millisecond, func() bool {
			return ask(http.MethodGet, "/readyz", "") == want && strings.Contains(answer.Msg, msg)
		}), answer.Msg)
	}

	whole := filepath.Join(t.TempDir(), "whole")
	stop := serve(whole, "")
	isReady(http.StatusOK, "")
	body := fmt.Sprintf(`{"timestamp":1,"ext_type":"XLSX","title":"t","user_id":"7","source_http":{"url":%q,"param":{"limit":10}}}`, source.URL)
	nc, err := nats.Connect("nats://" + natsListen)
	require.NoError(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	_, err = js.Publish(t.Context(), events.SubmitSubject("default", "http"), []byte(body))
	require.NoError(t, err)
	nc.Close()
	var accepted struct {
		Key string `json:"hash_key"`
	}
	// an equal request is the same export
	require.True(t, eventually(t.Context(), 30*time.Second, 20*time.Millisecond, func() bool {
		return ask(http.MethodPost, "/v1/export/http", body) == http.StatusOK &&
			json.Unmarshal(answer.Data, &accepted) == nil
	}))
	detail := func() string {
		var d map[string]any
		require.Equal(t, http.StatusOK, ask(http.MethodGet, "/v1/export/detail?key="+accepted.Key, ""))
		require.NoError(t, json.Unmarshal(answer.Data, &d))
		return fmt.Sprint(d["status"], d["id"], d["rows"], d["created_at"], d["files"])
	}
	require.True(t, eventually(t.Context(), 30*time.Second, 20*time.Millisecond, func() bool {
		return strings.HasPrefix(detail(), "2")
	}))
	before := detail()
	require.True(t, stop(syscall.SIGTERM).Success())

	lose := func(data, stream string) {
		found, err := filepath.Glob(filepath.Join(data, "jetstream", "jetstream", "*", "streams", stream))
		require.NoError(t, err)
		require.Len(t, found, 1)
		require.NoError(t, os.RemoveAll(found[0]))
	}
	const losses = "LOSSES.txt"
	for _, point := range []string{"losses.restored", "losses.reported"} {
		t.Run(point, func(t *testing.T) {
			data := filepath.Join(t.TempDir(), "data")
			require.NoError(t, os.CopyFS(data, os.DirFS(whole)))
			lose(data, events.StreamEvents)
			lose(data, events.StreamSubmit)
			status := serve(data, point)(0).Sys().(syscall.WaitStatus)
			require.True(t, status.Signaled() && status.Signal() == syscall.SIGKILL, "%v", status)

			stop := serve(data, "")
			isReady(http.StatusServiceUnavailable, losses)
			text, err := os.ReadFile(filepath.Join(data, losses))
			require.NoError(t, err)
			require.Contains(t, string(text), events.StreamSubmit)
			require.Equal(t, before, detail())
			require.NoError(t, os.Remove(filepath.Join(data, losses)))
			isReady(http.StatusOK, "")
			require.Equal(t, before, detail())
			require.True(t, stop(syscall.SIGTERM).Success())
			stop = serve(data, "")
			isReady(http.StatusOK, "")
			require.Equal(t, before, detail())
			require.NoFileExists(t, filepath.Join(data, losses))
			stop(syscall.SIGTERM)
		})
	}
}
