package main

import (
	"encoding/json"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"sheaf/events"
	"sheaf/events/eventstest"
)

func ready(t testing.TB, server string) (status int, msg string) {
	t.Helper()
	res, err := http.Get(server + "/readyz")
	require.NoError(t, err)
	defer res.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	var a wireAnswer
	require.NoError(t, json.NewDecoder(res.Body).Decode(&a))
	return res.StatusCode, a.Msg
}

func becomesReady(t testing.TB, server string) {
	t.Helper()
	require.Eventually(t, func() bool { status, _ := ready(t, server); return status == http.StatusOK }, 20*time.Second, 20*time.Millisecond)
}

// streamFolder is where the embedded server keeps a stream.
func streamFolder(t testing.TB, data, stream string) (found string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(data, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == stream {
			found = path
		}
		return err
	}))
	require.NotEmpty(t, found)
	return found
}

func cutInHalf(t testing.TB, path string) {
	t.Helper()
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.NoError(t, os.Truncate(path, info.Size()/2))
}

// Acknowledged exports survive damage to the files of the log. Ended exports are unchanged, one that was
// under way completes, no callback is repeated, and permanent losses are reported.
func TestLossesAreMendedOrShown(t *testing.T) {
	t.Parallel()
	var held atomic.Bool
	held.Store(true)
	release := make(chan struct{})
	var fetched atomic.Int32
	whole := t.TempDir()
	demo := demoSource(50)
	source := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, "/bad"):
			_, _ = io.WriteString(w, `{"errcode":4711,"msg":"no such report","data":null}`)
			return
		case strings.HasPrefix(r.URL.Path, "/slow") && held.Load():
			<-release
			panic(http.ErrAbortHandler)
		case !strings.HasPrefix(r.URL.Path, "/slow"):
			fetched.Add(1)
		}
		demo.ServeHTTP(w, r)
	}))
	t.Cleanup(source.Close)
	callback, received := callbacks(t)

	serveOn := func(t *testing.T, data string) *process {
		return startServe(t, "--http", "127.0.0.1:0", "--nats-listen", "none", "--data", data, "--secret-key", strings.Repeat("ab", 32))
	}
	p := serveOn(t, whole)
	good := wireSubmit(t, p.http, source.URL+"/good", callback, 20)
	bad := wireSubmit(t, p.http, source.URL+"/bad", callback, 20)
	before := map[string]wireDetail{good: wireWait(t, p.http, good), bad: wireWait(t, p.http, bad)}
	require.Equal(t, 2, before[good].Status)
	require.Equal(t, 3, before[bad].Status)
	for range before {
		<-received
	}
	require.Eventually(t, func() bool { // both callbacks are facts of the log
		var d struct{ Callback struct{ State string } }
		for key := range before {
			wireCall(t, http.MethodGet, p.http+"/v1/export/detail?key="+key, "", &d)
			if d.Callback.State != "delivered" {
				return false
			}
		}
		return true
	}, 10*time.Second, 10*time.Millisecond)
	older := filepath.Join(t.TempDir(), "older")
	p.drain(t)
	require.NoError(t, os.CopyFS(older, os.DirFS(filepath.Join(whole, "jetstream"))))
	p = serveOn(t, whole)
	slow := wireSubmit(t, p.http, source.URL+"/slow", "", 20)
	// A response means that the projection has applied the event. It can restore only applied events.
	var d wireDetail
	wireCall(t, http.MethodGet, p.http+"/v1/export/detail?key="+slow, "", &d)
	p.stop()
	require.Eventually(t, func() bool { return strings.Contains(p.err.String(), `"msg":"stopping"`) }, 10*time.Second, 5*time.Millisecond)
	close(release) // the crawler need not wait for an answer
	require.Zero(t, <-p.ended, p.err.String())
	held.Store(false)
	fetched.Store(0)

	block := func(t *testing.T, data, stream string) string {
		return filepath.Join(streamFolder(t, data, stream), "msgs", "1.blk")
	}
	forgetTasks := func(t *testing.T, data string) { require.NoError(t, os.Remove(filepath.Join(data, "tasks.db"))) }
	type loss struct {
		damage func(t *testing.T, data string)
		shown  string // content of LOSSES.txt; "" when everything was repaired
		silent bool
	}
	// These lose part of what a case beside them loses as a whole.
	long := []string{"flipped bit", "no log", "no pages", "truncated block and no projection"}
	start := func(t *testing.T, name string, c loss) (data string, p *process) {
		if slices.Contains(long, name) {
			eventstest.LongRunning(t)
		}
		data = filepath.Join(t.TempDir(), "data")
		require.NoError(t, os.CopyFS(data, os.DirFS(whole)))
		c.damage(t, data)
		p = serveOn(t, data)
		if c.silent {
			require.NotContains(t, p.err.String(), "JetStream")
		} else {
			lost := regexp.MustCompile("JetStream (has lost data|went back)")
			require.Eventually(t, func() bool { return lost.MatchString(p.err.String()) }, 5*time.Second, 5*time.Millisecond)
		}
		return data, p
	}
	losses := map[string]loss{
		"none": {func(*testing.T, string) {}, "", true},
		"flipped bit": {func(t *testing.T, data string) {
			path := block(t, data, events.StreamEvents)
			content, err := os.ReadFile(path)
			require.NoError(t, err)
			content[len(content)-200] ^= 4 // of the newest event: older ones are not needed
			require.NoError(t, os.WriteFile(path, content, 0o600))
		}, "", false},
		"truncated block": {func(t *testing.T, data string) { cutInHalf(t, block(t, data, events.StreamEvents)) }, "", false},
		"no log": {func(t *testing.T, data string) {
			require.NoError(t, os.RemoveAll(streamFolder(t, data, events.StreamEvents)))
		}, "", false},
		"no JetStream": {func(t *testing.T, data string) { require.NoError(t, os.RemoveAll(filepath.Join(data, "jetstream"))) }, "", false},
		"older copy of JetStream": {func(t *testing.T, data string) {
			require.NoError(t, os.RemoveAll(filepath.Join(data, "jetstream")))
			require.NoError(t, os.CopyFS(filepath.Join(data, "jetstream"), os.DirFS(older)))
		}, "", false},
		"no watermarks and no log": {func(t *testing.T, data string) {
			require.NoError(t, os.RemoveAll(streamFolder(t, data, events.StreamEvents)))
			require.NoError(t, os.Remove(filepath.Join(data, "watermarks.json")))
		}, "", false},
		"no pages": {func(t *testing.T, data string) {
			require.NoError(t, os.RemoveAll(streamFolder(t, data, events.StreamPages)))
		}, "", false},
		"no consumer state": {func(t *testing.T, data string) {
			require.NoError(t, os.Remove(filepath.Join(streamFolder(t, data, events.StreamEvents), "obs", events.ConsumerCrawler, "o.dat")))
		}, "", false},
		"no projection": {forgetTasks, "", true},
		"truncated block and no projection": {func(t *testing.T, data string) {
			cutInHalf(t, block(t, data, events.StreamEvents))
			forgetTasks(t, data)
		}, "tasks.db", false},
		"no log and no projection": {func(t *testing.T, data string) {
			require.NoError(t, os.RemoveAll(streamFolder(t, data, events.StreamEvents)))
			forgetTasks(t, data)
		}, "tasks.db", false},
	}
	t.Run("mended", func(t *testing.T) {
		for name, c := range losses {
			if c.shown != "" {
				continue
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				data, p := start(t, name, c)
				becomesReady(t, p.http)
				for key, want := range before {
					got := wireWait(t, p.http, key)
					require.Equal(t, []any{want.ID, want.Status, want.Rows, want.FailReason, want.CreatedAt}, []any{got.ID, got.Status, got.Rows, got.FailReason, got.CreatedAt})
					if got.Status == 2 {
						status, archive := downloaded(t, p.http, got.DownURL)
						require.Equal(t, http.StatusOK, status)
						requireDemo(t, workbookIn(t, archive), 50)
					}
				}
				switch {
				case strings.Contains(name, "JetStream"): // where its sealed headers were
					require.Equal(t, 3, wireWait(t, p.http, slow).Status)
				case !c.silent: // otherwise the consumer waits for the process that had it
					require.Equal(t, 2, wireWait(t, p.http, slow).Status)
				}
				p.drain(t)
				p = serveOn(t, data)
				require.NotContains(t, p.err.String(), "JetStream has lost data")
				becomesReady(t, p.http)
				p.drain(t)
			})
		}
	})
	require.Empty(t, received, "called back twice")
	require.Zero(t, fetched.Load(), "what is done is not fetched again")
	// Without the projection it is unknown which work is done.
	t.Run("shown", func(t *testing.T) {
		for name, c := range losses {
			if c.shown == "" {
				continue
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				data, p := start(t, name, c)
				require.Eventually(t, func() bool {
					status, msg := ready(t, p.http)
					return status == http.StatusServiceUnavailable && strings.Contains(msg, "LOSSES.txt")
				}, 20*time.Second, 20*time.Millisecond)
				p.drain(t)
				p = serveOn(t, data)
				text, err := os.ReadFile(filepath.Join(data, "LOSSES.txt"))
				require.NoError(t, err)
				require.Contains(t, string(text), c.shown)
				require.Equal(t, 1, strings.Count(string(text), "data was lost"), "it is reported once")
				require.NoError(t, os.Remove(filepath.Join(data, "LOSSES.txt")))
				becomesReady(t, p.http)
				p.drain(t)
			})
		}
	})
}

// An operator may have replaced a cluster's log on purpose, so the exports that an ingress still knows are
// not written to it.
func TestClusterLogMadeAnewIsShown(t *testing.T) {
	t.Parallel()
	server := eventstest.Server(t, "127.0.0.1:0")
	data := t.TempDir()
	join := func() *process {
		return startServe(t, "--roles", "ingress", "--http", "127.0.0.1:0", "--nats", server.URL(), "--data", data,
			"--files", "nats://files", "--replicas", "1", "--secret-key", strings.Repeat("ab", 32), "--shutdown-delay", "0s")
	}
	p := join()
	key := wireSubmit(t, p.http, "http://127.0.0.1:9/", "", 20)
	becomesReady(t, p.http)
	var d wireDetail
	wireCall(t, http.MethodGet, p.http+"/v1/export/detail?key="+key, "", &d)
	p.drain(t)

	js, err := jetstream.New(eventstest.Connect(t, server))
	require.NoError(t, err)
	require.NoError(t, js.DeleteStream(t.Context(), events.StreamEvents))
	p = join()
	require.Eventually(t, func() bool {
		status, msg := ready(t, p.http)
		return status == http.StatusServiceUnavailable && strings.Contains(msg, "LOSSES.txt")
	}, 20*time.Second, 20*time.Millisecond)
	require.Equal(t, 404, wireCall(t, http.MethodGet, p.http+"/v1/export/detail?key="+key, "", nil).Errcode)
	require.NoError(t, os.Remove(filepath.Join(data, "LOSSES.txt")))
	becomesReady(t, p.http)
	p.drain(t)
}

// The next start repairs a loss under a running process: of the whole log, which ends the process, and of its
// events, which goes unnoticed before.
func TestLossWhileRunning(t *testing.T) {
	t.Parallel()
	for claim, lose := range map[string]func(t *testing.T, js jetstream.JetStream, p *process){
		"the log": func(t *testing.T, js jetstream.JetStream, p *process) {
			require.NoError(t, js.DeleteStream(t.Context(), events.StreamEvents))
			select {
			case code := <-p.ended:
				require.Equal(t, exitFailed, code)
				require.Contains(t, p.err.String(), "data was lost: ")
			case <-time.After(20 * time.Second):
				t.Fatal("the process did not notice the loss")
			}
		},
		"its events": func(t *testing.T, js jetstream.JetStream, p *process) {
			st, err := js.Stream(t.Context(), events.StreamEvents)
			require.NoError(t, err)
			require.NoError(t, st.Purge(t.Context()))
			p.drain(t)
		},
	} {
		t.Run(claim, func(t *testing.T) {
			t.Parallel()
			data := t.TempDir()
			serve := func() *process {
				return startServe(t, "--roles", "ingress", "--http", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0", "--data", data)
			}
			p := serve()
			key := wireSubmit(t, p.http, "http://127.0.0.1:9/", "", 20)
			var before, after wireDetail
			wireCall(t, http.MethodGet, p.http+"/v1/export/detail?key="+key, "", &before)
			nc, err := nats.Connect(p.nats)
			require.NoError(t, err)
			defer nc.Close()
			js, err := jetstream.New(nc)
			require.NoError(t, err)
			lose(t, js, p)
			p = serve()
			becomesReady(t, p.http)
			wireCall(t, http.MethodGet, p.http+"/v1/export/detail?key="+key, "", &after)
			require.Equal(t, before, after)
			p.drain(t)
		})
	}
}
