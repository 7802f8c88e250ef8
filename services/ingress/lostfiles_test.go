package ingress

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/secrets"
	"sheaf/storage"

	"github.com/stretchr/testify/require"
)

func noise(seed byte, size int) []byte {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// submitted makes a completed export with a file from a REST request.
func (in *ingress) submitted(t testing.TB, title string, content []byte) (body string, x events.Export) {
	t.Helper()
	body = eventstest.HTTPBody("", `"title":"`+title+`"`)
	key := in.post(t, "/v1/export/http", body).key(t)
	return body, in.finish(t, key, content)
}

// finish completes an export that is under way, with a file.
func (in *ingress) finish(t testing.TB, key string, content []byte) events.Export {
	t.Helper()
	x := in.write(t, key, &events.ExportCrawled{Run: in.read(t, "default", key).RequestedSeq, Pages: 1})
	p := completed(x)
	p.Files[0].Store = "default/" + key + "-" + events.NewID() + ".zip"
	p.Files[0].Size, p.Files[0].SHA256 = int64(len(content)), fmt.Sprintf("%x", sha256.Sum256(content))
	in.commit(t, p.Files[0].Store, content)
	x = in.write(t, key, p)
	require.NoError(t, in.tasks.WaitApplied(t.Context(), x.LastSeq))
	return x
}

func (in *ingress) link(x *events.Export) string {
	return secrets.DownloadURL(in.journal.Keys(), in.url, x)
}

// scrub reads an export's file completely, as the keeper does.
func (in *ingress) scrub(t testing.TB, x *events.Export) {
	t.Helper()
	file, err := storage.OpenFinished(t.Context(), in.files, x, x.Files[0].Size)
	if err == nil {
		err = file.Close()
	}
	if !storage.IsLost(err) {
		t.Errorf("the scrub found nothing: %v", err)
		return
	}
	if err := storage.ExpireLost(t.Context(), in.journal, in.files, slog.New(slog.DiscardHandler), x, err); err != nil {
		t.Error(err)
	}
}

// partly reads the answer to a link until it ends or fails.
func partly(t testing.TB, method, link string, header ...string) (status int, body []byte, err error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, link, nil)
	require.NoError(t, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err = io.ReadAll(res.Body)
	return res.StatusCode, body, err
}

// A finished file that is missing, cut, longer or changed expires its export, whichever check finds it. It is
// never served completely. The export can then begin again, and its new file is served.
func TestLostFileExpiresItsExport(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	folder := storeOf(t)
	small, large := noise(1, 1000), noise(2, smallFile+1)
	path := func(x *events.Export) string { return filepath.Join(folder, x.Files[0].Store) }
	state := func(key string) events.State { return in.read(t, "default", key).State }
	aborted := func(status int, body []byte, err error) bool {
		return status == http.StatusOK && len(body) < len(large) && errors.Is(err, io.ErrUnexpectedEOF)
	}
	find := map[string]func(t *testing.T, kind, body string, content []byte, x *events.Export) (found bool){
		"GET": func(t *testing.T, kind, _ string, content []byte, x *events.Export) bool {
			status, got, err := partly(t, "GET", in.link(x))
			if kind == "flipped" && len(content) > smallFile {
				require.True(t, aborted(status, got, err), "%d %v", status, err)
			} else {
				require.Equal(t, 410, status, "%s", got)
			}
			return true
		},
		"HEAD": func(t *testing.T, kind, _ string, content []byte, x *events.Export) bool {
			status, _, _ := partly(t, "HEAD", in.link(x))
			found := kind != "flipped" || len(content) <= smallFile
			require.Equal(t, found, status == 410, status)
			return found
		},
		"Range": func(t *testing.T, kind, _ string, content []byte, x *events.Export) bool {
			status, got, _ := partly(t, "GET", in.link(x), "Range", "bytes=5-9", "If-Range", `"`+x.Files[0].SHA256+`"`)
			if kind == "flipped" && len(content) > smallFile {
				require.Equal(t, 206, status, "a part of a large file is not compared")
				require.Equal(t, content[5:10], got)
				return false
			}
			require.Equal(t, 410, status)
			return true
		},
		"retry": func(t *testing.T, kind, _ string, content []byte, x *events.Export) bool {
			a := in.post(t, "/v1/export/retry", `{"key":"`+x.Key+`"}`)
			found := kind != "flipped" || len(content) <= smallFile
			require.Equal(t, found, a.Errcode == 0, a.Msg)
			require.Equal(t, found, state(x.Key) == events.StateRequested)
			return found
		},
		"equal request": func(t *testing.T, kind, body string, content []byte, x *events.Export) bool {
			require.Equal(t, x.Key, in.post(t, "/v1/export/http", body).key(t))
			require.Equal(t, kind != "flipped", state(x.Key) == events.StateRequested)
			return kind != "flipped"
		},
	}
	for by, found := range find {
		for _, kind := range []string{"missing", "shorter", "longer", "flipped"} {
			for size, content := range map[string][]byte{"small": small, "large": large} {
				if size == "large" && kind != "flipped" {
					continue // the size proves it, for any file
				}
				t.Run(strings.Join([]string{by, size, kind}, " "), func(t *testing.T) {
					body, x := in.submitted(t, t.Name(), content)
					eventstest.Damage(t, kind, path(&x))
					link := in.link(&x)
					if !found(t, kind, body, content, &x) {
						require.Equal(t, events.StateCompleted, state(x.Key))
						in.scrub(t, &x)
					}
					if by == "retry" || by == "equal request" {
						if state(x.Key) != events.StateExpired { // restarted at once
							again := in.finish(t, x.Key, content)
							resp, got := fetch(t, "GET", in.link(&again))
							require.Equal(t, 200, resp.StatusCode)
							require.True(t, bytes.Equal(content, got))
							return
						}
					}
					require.Equal(t, events.StateExpired, state(x.Key))
					require.NoFileExists(t, path(&x))
					d := in.get(t, "/v1/export/detail?key="+x.Key).detail(t)
					require.Equal(t, []any{2, "", ""}, []any{d.Status, d.DownURL, d.FailReason})
					if kind == "missing" {
						require.Equal(t, "the finished file is missing from the file store", d.Reason)
					} else {
						require.Contains(t, d.Reason, "the finished file is damaged: it")
					}
					a := send(t, "GET", link, "")
					require.Equal(t, []int{410, 410}, []int{a.Status, a.Errcode})
					require.Contains(t, a.Msg, d.Reason)
					require.Contains(t, a.Msg, "retry the export")

					require.Zero(t, in.post(t, "/v1/export/retry", `{"key":"`+x.Key+`"}`).Errcode)
					require.Zero(t, in.read(t, "default", x.Key).ContinuesRun, "the source is asked again")
					require.Empty(t, in.get(t, "/v1/export/detail?key="+x.Key).detail(t).Reason)
					again := in.finish(t, x.Key, content)
					resp, got := fetch(t, "GET", in.link(&again))
					require.Equal(t, 200, resp.StatusCode)
					require.True(t, bytes.Equal(content, got))
					require.Equal(t, 404, send(t, "GET", link, "").Status, "the link was to the lost file")
				})
			}
		}
	}
}

// A retry may need secrets or rows that are gone. It then says so, and an equal request brings them again.
func TestLostFileOfARequestWithSecretsOrRows(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	folder := storeOf(t)
	for name, c := range map[string]struct{ path, body, msg string }{
		"headers": {"/v1/export/http", eventstest.HTTPBody(`,"header":{"Token":"s3cret"}`), "the source headers are no longer kept; submit the request again"},
		"rows":    {"/v1/export/raw", eventstest.RawBody(`"[{\"a\":\"A\"},{\"a\":1}]"`), "the rows that came with the request are no longer kept; submit the request again"},
	} {
		t.Run(name, func(t *testing.T) {
			key := in.post(t, c.path, c.body).key(t)
			x := in.finish(t, key, noise(3, 100))
			mark, err := in.journal.PurgeMark(t.Context())
			require.NoError(t, err)
			require.NoError(t, in.journal.PurgeEnded(t.Context(), x, mark))
			require.NoError(t, os.Remove(filepath.Join(folder, x.Files[0].Store)))
			a := in.post(t, "/v1/export/retry", `{"key":"`+key+`"}`)
			require.Equal(t, 409, a.Errcode)
			require.Contains(t, a.Msg, c.msg)
			require.Equal(t, events.StateExpired, in.read(t, "default", key).State)
			require.Equal(t, key, in.post(t, c.path, c.body).key(t))
			require.Equal(t, events.StateRequested, in.read(t, "default", key).State)
			require.NoError(t, in.repeatable(t.Context(), new(in.read(t, "default", key))))
		})
	}
}

// Several ingresses with one store find the same damage and write one event.
func TestLostFileIsDecidedOnce(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	first, second := start(t, srv, Config{}), start(t, srv, Config{})
	_, x := first.submitted(t, "once", noise(4, 100))
	require.NoError(t, second.tasks.WaitApplied(t.Context(), x.LastSeq))
	require.NoError(t, os.Remove(filepath.Join(storeOf(t), x.Files[0].Store)))
	var finders sync.WaitGroup
	for _, in := range []*ingress{first, second} {
		for range 2 {
			finders.Go(func() {
				if status, _, _ := partly(t, "GET", in.link(&x)); status != 410 {
					t.Errorf("status %d", status)
				}
			})
			finders.Go(func() { in.scrub(t, &x) })
		}
	}
	finders.Wait()
	after := first.read(t, "default", x.Key)
	require.Equal(t, events.StateExpired, after.State)
	require.Equal(t, x.LastSeq+1, after.LastSeq, "one event")
}

// While the store is missing or unreadable, nothing expires. Callers get a Retry-After, and the service is
// not ready.
func TestAbsentStoreExpiresNothing(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		take, back func(t *testing.T, folder, kept string)
		msg        string // of /readyz; "" if the store itself is readable
	}{
		"removed": {
			func(t *testing.T, folder, kept string) { require.NoError(t, os.RemoveAll(folder)) },
			func(t *testing.T, folder, kept string) { require.NoError(t, os.CopyFS(folder, os.DirFS(kept))) },
			"not ready: the file store is not there; put it back",
		},
		"empty mount point": {
			func(t *testing.T, folder, kept string) {
				require.NoError(t, os.RemoveAll(folder))
				require.NoError(t, os.Mkdir(folder, 0o700))
			},
			func(t *testing.T, folder, kept string) { require.NoError(t, os.CopyFS(folder, os.DirFS(kept))) },
			"not ready: the file store is not there; put it back",
		},
		"unreadable folder": { // a link out of the store is refused like a missing permission
			func(t *testing.T, folder, kept string) {
				require.NoError(t, os.Rename(filepath.Join(folder, "default"), folder+"-default"))
				require.NoError(t, os.Symlink(folder+"-default", filepath.Join(folder, "default")))
			},
			func(t *testing.T, folder, kept string) {
				require.NoError(t, os.Remove(filepath.Join(folder, "default")))
				require.NoError(t, os.Rename(folder+"-default", filepath.Join(folder, "default")))
			},
			"",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := start(t, eventstest.Server(t, ""), Config{})
			folder, kept := storeOf(t), t.TempDir()
			content := noise(5, 100)
			body, x := in.submitted(t, "kept", content)
			require.NoError(t, os.CopyFS(kept, os.DirFS(folder)))
			in.lookAtStore(t.Context())
			require.Equal(t, 200, in.get(t, "/readyz").Status)

			c.take(t, folder, kept)
			in.lookAtStore(t.Context())
			if a := in.get(t, "/readyz"); c.msg == "" {
				require.Equal(t, 200, a.Status)
			} else {
				require.Equal(t, 503, a.Status)
				require.Contains(t, a.Msg, c.msg)
			}
			for _, method := range []string{"GET", "HEAD"} {
				status, _, _ := partly(t, method, in.link(&x))
				require.Equal(t, 503, status)
			}
			require.NotEmpty(t, send(t, "GET", in.link(&x), "").Header.Get("Retry-After"))
			require.Equal(t, 409, in.post(t, "/v1/export/retry", `{"key":"`+x.Key+`"}`).Errcode)
			require.Equal(t, x.Key, in.post(t, "/v1/export/http", body).key(t))
			require.Equal(t, x, in.read(t, "default", x.Key))

			c.back(t, folder, kept)
			in.lookAtStore(t.Context())
			require.Equal(t, 200, in.get(t, "/readyz").Status)
			resp, got := fetch(t, "GET", in.link(&x))
			require.Equal(t, 200, resp.StatusCode)
			require.Equal(t, content, got)
		})
	}
}

// One failed check of the file store changes nothing.
func TestOneFailedLookSaysNothing(t *testing.T) {
	t.Parallel()
	var f fileStore
	f.set(quiet.cfg.Log, errors.New("no answer"))
	require.NoError(t, f.health())
	f.set(quiet.cfg.Log, errors.New("no answer"))
	require.ErrorContains(t, f.health(), "cannot be read")
	f.set(quiet.cfg.Log, nil)
	require.NoError(t, f.health())
}
