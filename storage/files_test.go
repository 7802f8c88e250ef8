package storage

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// startNATS runs a real server with production durability.
func startNATS(t *testing.T, adjust func(*server.Options)) jetstream.JetStream {
	t.Helper()
	opts := &server.Options{
		ServerName: "files", DontListen: true, JetStream: true, StoreDir: t.TempDir(),
		SyncAlways: true, NoSigs: true, NoLog: true,
	}
	if adjust != nil {
		adjust(opts)
	}
	srv, err := server.NewServer(opts)
	require.NoError(t, err)
	srv.Start()
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	require.True(t, srv.ReadyForConnections(10*time.Second))
	nc, err := nats.Connect("", nats.InProcessServer(srv))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	return js
}

// forEachDriver runs a claim about [Files] with every driver. open opens the same store again, like another
// process.
func forEachDriver(t *testing.T, claim func(t *testing.T, open func(t *testing.T) Files)) {
	t.Run("folder", func(t *testing.T) {
		folder := filepath.Join(t.TempDir(), "files")
		claim(t, func(t *testing.T) Files {
			return openTestFiles(t, "file://"+folder, "", nil)
		})
	})
	t.Run("nats", func(t *testing.T) {
		js, dataDir := startNATS(t, nil), t.TempDir()
		claim(t, func(t *testing.T) Files {
			return openTestFiles(t, "nats://sheaf-files", dataDir, js)
		})
	})
	t.Run("s3", func(t *testing.T) {
		server := startS3(t, nil)
		claim(t, func(t *testing.T) Files { return server.open(t) })
	})
	t.Run("versitygw", func(t *testing.T) {
		server := startVersitygw(t)
		claim(t, func(t *testing.T) Files { return server.open(t) })
	})
}

func openTestFiles(t *testing.T, url, dataDir string, js jetstream.JetStream) Files {
	t.Helper()
	files, err := OpenFiles(t.Context(), url, FilesConfig{DataDir: dataDir, JetStream: js, Replicas: 1})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, files.Close()) })
	return files
}

func draft(t *testing.T, files Files, content []byte) *Draft {
	t.Helper()
	d, err := files.Create(t.Context())
	require.NoError(t, err)
	t.Cleanup(d.Discard)
	_, err = d.File().Write(content)
	require.NoError(t, err)
	return d
}

func put(t *testing.T, files Files, name string, content []byte) {
	t.Helper()
	require.NoError(t, files.Commit(t.Context(), draft(t, files, content), name))
}

func get(t *testing.T, files Files, name string) []byte {
	t.Helper()
	f, err := files.Open(t.Context(), name)
	require.NoError(t, err)
	content, err := io.ReadAll(f)
	require.NoError(t, err)
	require.EqualValues(t, len(content), f.Size())
	require.NoError(t, f.Close())
	return content
}

func absentFile(t *testing.T, files Files, name string) {
	t.Helper()
	_, err := files.Open(t.Context(), name)
	require.ErrorIs(t, err, ErrNoFile)
}

// noise returns incompressible bytes that depend only on the seed.
func noise(seed uint64, size int) []byte {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b)
	return b
}

const name = "default/5ad5f7b92a816b76e70a21e4154c2485/17.zip"

func TestCommittedContentIsReadBack(t *testing.T) {
	t.Parallel()
	forEachDriver(t, func(t *testing.T, open func(t *testing.T) Files) {
		files := open(t)
		for _, size := range []int{0, 1, maxChunk - 1, maxChunk, maxChunk + 1, 5*maxChunk + 17} {
			name := fmt.Sprintf("default/%d.zip", size)
			before := time.Now()
			put(t, files, name, noise(1, size))
			require.True(t, bytes.Equal(noise(1, size), get(t, open(t), name)), "%d bytes", size)
			f, err := files.Open(t.Context(), name)
			require.NoError(t, err)
			require.WithinDuration(t, before, f.ModTime(), time.Minute)
			require.NoError(t, f.Close())
		}
	})
}

func TestListNamesEveryFile(t *testing.T) {
	t.Parallel()
	forEachDriver(t, func(t *testing.T, open func(t *testing.T) Files) {
		files := open(t)
		list := func() []string {
			names, err := open(t).List(t.Context())
			require.NoError(t, err)
			return names
		}
		require.Empty(t, list())
		draft(t, files, []byte("unfinished"))
		want := []string{"a-b/1.zip", "a/1.zip", "b/2.zip", "top.snapshot"}
		for _, name := range want {
			put(t, files, name, noise(1, maxChunk+1))
		}
		require.Equal(t, want, list())
		require.NoError(t, files.Delete(t.Context(), "b/2.zip"))
		require.Equal(t, slices.Delete(want, 2, 3), list())
	})
}

func TestDraftIsInvisibleUntilCommit(t *testing.T) {
	t.Parallel()
	forEachDriver(t, func(t *testing.T, open func(t *testing.T) Files) {
		files := open(t)
		d := draft(t, files, []byte("first, "))
		_, err := d.File().Write([]byte("then"))
		require.NoError(t, err)
		_, err = d.File().WriteAt([]byte("F"), 0)
		require.NoError(t, err)
		absentFile(t, files, name)
		require.NoError(t, files.Commit(t.Context(), d, name))
		require.Equal(t, "First, then", string(get(t, files, name)))
		d.Discard()
		require.Equal(t, "First, then", string(get(t, files, name)))
		require.ErrorIs(t, files.Commit(t.Context(), d, "default/2.zip"), os.ErrClosed)
	})
}

func TestNameIsWrittenOnce(t *testing.T) {
	t.Parallel()
	forEachDriver(t, func(t *testing.T, open func(t *testing.T) Files) {
		files, other := open(t), open(t)
		content := noise(2, maxChunk+100)
		put(t, files, name, content)
		put(t, other, name, content)

		changed := bytes.Clone(content)
		changed[maxChunk+50]++
		for _, content := range [][]byte{changed, content[:100], nil} {
			d := draft(t, other, content)
			require.ErrorIs(t, other.Commit(t.Context(), d, name), ErrFileExists)
			// The draft is unchanged and can be committed under another name.
			elsewhere := fmt.Sprintf("default/%d.zip", len(content))
			require.NoError(t, other.Commit(t.Context(), d, elsewhere))
			require.True(t, bytes.Equal(content, get(t, files, elsewhere)))
		}
		require.True(t, bytes.Equal(content, get(t, files, name)))
	})
}

func TestOneOfRacingCommitsWins(t *testing.T) {
	t.Parallel()
	forEachDriver(t, func(t *testing.T, open func(t *testing.T) Files) {
		const racers = 6
		errs, contents := make([]error, racers), make([][]byte, racers)
		var wg sync.WaitGroup
		for i := range racers {
			contents[i] = noise(uint64(i/2), 3*maxChunk/2) // two of each
			files := open(t)
			d := draft(t, files, contents[i])
			wg.Go(func() { errs[i] = files.Commit(context.Background(), d, name) })
		}
		wg.Wait()
		files := open(t)
		stored := get(t, files, name)
		// In a bucket the last upload stays. Earlier ones may have succeeded, or seen other bytes before equal ones
		// came back.
		_, bucket := files.(*S3Files)
		kept := false
		for i, err := range errs {
			equal := bytes.Equal(stored, contents[i])
			kept = kept || equal && err == nil
			switch {
			case bucket && err == nil:
			case !bucket && equal:
				require.NoError(t, err)
			default:
				require.ErrorIs(t, err, ErrFileExists)
			}
		}
		require.True(t, kept, "the commit whose bytes stay succeeds")
		removed, err := files.Sweep(t.Context(), func(string) bool { return true }, time.Now().Add(time.Hour))
		require.NoError(t, err)
		require.LessOrEqual(t, removed, racers-2, "drafts of the losers only")
		require.True(t, bytes.Equal(stored, get(t, files, name)))
	})
}

func TestRangesAreServed(t *testing.T) {
	t.Parallel()
	forEachDriver(t, func(t *testing.T, open func(t *testing.T) Files) {
		files := open(t)
		content := noise(3, 3*maxChunk+5)
		put(t, files, name, content)
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			f, err := files.Open(r.Context(), name)
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			defer func() { _ = f.Close() }()
			http.ServeContent(w, r, "a.zip", f.ModTime(), f)
		}))
		defer srv.Close()
		last := len(content) - 1
		for _, c := range []struct {
			header     string
			start, end int
		}{
			{"", 0, last},
			{"bytes=0-0", 0, 0},
			{fmt.Sprintf("bytes=%d-%d", maxChunk-1, maxChunk), maxChunk - 1, maxChunk},
			{fmt.Sprintf("bytes=%d-", 2*maxChunk), 2 * maxChunk, last},
			{"bytes=-3", last - 2, last},
		} {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL, nil)
			require.NoError(t, err)
			if c.header != "" {
				r.Header.Set("Range", c.header)
			}
			resp, err := srv.Client().Do(r)
			require.NoError(t, err)
			body, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.True(t, bytes.Equal(content[c.start:c.end+1], body), c.header)
		}
	})
}

// A File behaves like a bytes.Reader for all seeks and reads.
func TestFileReadsLikeItsBytes(t *testing.T) {
	t.Parallel()
	forEachDriver(t, func(t *testing.T, open func(t *testing.T) Files) {
		files := open(t)
		content := noise(4, 2*maxChunk+9)
		put(t, files, name, content)
		rapid.Check(t, func(rt *rapid.T) {
			f, err := files.Open(context.Background(), name)
			require.NoError(rt, err)
			defer func() { _ = f.Close() }()
			want := bytes.NewReader(content)
			size := int64(len(content))
			for range rapid.IntRange(1, 5).Draw(rt, "steps") {
				offset := rapid.OneOf(rapid.Int64Range(-10, size+10),
					rapid.Int64Range(maxChunk-3, maxChunk+3)).Draw(rt, "offset")
				whence := rapid.IntRange(0, 2).Draw(rt, "whence")
				a, errA := f.Seek(offset, whence)
				b, errB := want.Seek(offset, whence)
				require.Equal(rt, errB == nil, errA == nil)
				if errB == nil {
					require.Equal(rt, b, a)
				}
				n := rapid.IntRange(0, 2*maxChunk).Draw(rt, "length")
				gotBytes, err := io.ReadAll(io.LimitReader(f, int64(n)))
				require.NoError(rt, err)
				wantBytes, err := io.ReadAll(io.LimitReader(want, int64(n)))
				require.NoError(rt, err)
				require.True(rt, bytes.Equal(wantBytes, gotBytes))
			}
		})
	})
}

func TestNamesAreIDs(t *testing.T) {
	t.Parallel()
	good := []string{"a", "a.zip", name, "a-b_c/0/x.zip", strings.Repeat("a", maxFileName)}
	bad := []string{"", ".", "..", "/a", "a/", "a//b", "../a", "a/../b", "a/./b", "A", "a b", "a\x00", "a\nb",
		".drafts/a", "a.b/c", ".zip", "a.", "a..zip", "报表.zip", `a\b`, "a*", "a>b",
		strings.Repeat("a", maxFileName+1)}
	forEachDriver(t, func(t *testing.T, open func(t *testing.T) Files) {
		files := open(t)
		for _, name := range good {
			put(t, files, name, []byte(name))
		}
		for _, name := range good {
			require.Equal(t, name, string(get(t, files, name)))
		}
		d := draft(t, files, []byte("x"))
		for _, name := range bad {
			require.ErrorIs(t, files.Commit(t.Context(), d, name), ErrFileName, "%q", name)
			_, err := files.Open(t.Context(), name)
			require.ErrorIs(t, err, ErrFileName, "%q", name)
			require.ErrorIs(t, files.Delete(t.Context(), name), ErrFileName, "%q", name)
		}
		require.NoError(t, files.Commit(t.Context(), d, "still/good.zip"))
		absentFile(t, files, "still")
		absentFile(t, files, "a/b/c")
	})
}

func TestDelete(t *testing.T) {
	t.Parallel()
	forEachDriver(t, func(t *testing.T, open func(t *testing.T) Files) {
		files := open(t)
		require.NoError(t, files.Delete(t.Context(), name), "absent is no error")
		put(t, files, name, noise(5, maxChunk+1))
		put(t, files, "default/other.zip", []byte("other"))
		require.NoError(t, files.Delete(t.Context(), name))
		absentFile(t, files, name)
		require.NoError(t, files.Delete(t.Context(), name))
		require.Equal(t, "other", string(get(t, files, "default/other.zip")))

		put(t, files, name, []byte("another life"))
		require.Equal(t, "another life", string(get(t, files, name)))
	})
}

func TestCommitAndDeleteOfNeighboursDoNotDisturbEachOther(t *testing.T) {
	t.Parallel()
	forEachDriver(t, func(t *testing.T, open func(t *testing.T) Files) {
		var wg sync.WaitGroup
		errs := make([]error, 4)
		for i := range errs {
			files := open(t)
			wg.Go(func() {
				name := fmt.Sprintf("default/key/%d.zip", i)
				for range 30 {
					d, err := files.Create(context.Background())
					if err == nil {
						err = files.Commit(context.Background(), d, name)
						// versitygw refuses an object whose folder another delete removes meanwhile.
						for range 20 {
							if err == nil || !strings.Contains(err.Error(), "is a directory") {
								break
							}
							err = files.Commit(context.Background(), d, name)
						}
						d.Discard()
					}
					errs[i] = errors.Join(errs[i], err, files.Delete(context.Background(), name))
				}
			})
		}
		wg.Wait()
		require.NoError(t, errors.Join(errs...))
	})
}

func TestSweepRemovesOnlyOldOrphans(t *testing.T) {
	t.Parallel()
	forEachDriver(t, func(t *testing.T, open func(t *testing.T) Files) {
		files := open(t)
		put(t, files, "default/kept.zip", noise(6, maxChunk+1))
		put(t, files, "default/orphan.zip", noise(7, maxChunk+1))
		d := draft(t, files, []byte("in the making"))
		keep := func(name string) bool { return name == "default/kept.zip" }

		removed, err := files.Sweep(t.Context(), keep, time.Now().Add(-time.Hour))
		require.NoError(t, err)
		require.Zero(t, removed, "all too young")
		require.NotEmpty(t, get(t, files, "default/orphan.zip"))

		removed, err = files.Sweep(t.Context(), keep, time.Now().Add(time.Hour))
		require.NoError(t, err)
		want := 2 // the orphan and the draft
		if _, ok := files.(*folderFiles); !ok {
			want = 1 // a draft has no name there
		}
		require.Equal(t, want, removed)
		require.Len(t, get(t, files, "default/kept.zip"), maxChunk+1)
		absentFile(t, files, "default/orphan.zip")

		// A draft that was swept too early fails to commit or is complete.
		if err := files.Commit(t.Context(), d, name); err == nil {
			require.Equal(t, "in the making", string(get(t, files, name)))
		} else {
			absentFile(t, files, name)
		}
	})
}

// A killed process leaves no draft in a folder that no keeper sees.
func TestADraftForABucketHasNoName(t *testing.T) {
	t.Parallel()
	dataDir := t.TempDir()
	files := openTestFiles(t, "nats://sheaf-files", dataDir, startNATS(t, nil))
	d := draft(t, files, []byte("in the making"))
	left, err := os.ReadDir(filepath.Join(dataDir, "drafts"))
	require.NoError(t, err)
	require.Empty(t, left)
	require.NoError(t, files.Commit(t.Context(), d, name))
	require.Equal(t, "in the making", string(get(t, files, name)))
}

func TestCancelledContextStops(t *testing.T) {
	t.Parallel()
	forEachDriver(t, func(t *testing.T, open func(t *testing.T) Files) {
		files := open(t)
		put(t, files, "default/there.zip", []byte("there"))
		d := draft(t, files, noise(8, maxChunk+1))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := files.Create(ctx)
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, files.Commit(ctx, d, name), context.Canceled)
		absentFile(t, files, name)
		_, err = files.Open(ctx, "default/there.zip")
		require.ErrorIs(t, err, context.Canceled)
		_, err = files.Sweep(ctx, func(string) bool { return true }, time.Now())
		require.ErrorIs(t, err, context.Canceled)
		require.NoError(t, files.Commit(t.Context(), d, name), "tried again")
		require.Len(t, get(t, files, name), maxChunk+1)
	})
}

func TestOpenFilesNamesTheValidForms(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"", "file:", "file://", "nats://", "/tmp/files", "s4://bucket",
		"ftp://x", "://x"} {
		_, err := OpenFiles(t.Context(), url, FilesConfig{})
		require.ErrorContains(t, err, "file://PATH", "%q", url)
		require.ErrorContains(t, err, "nats://BUCKET", "%q", url)
	}
	_, err := OpenFiles(t.Context(), "nats://sheaf-files", FilesConfig{})
	require.ErrorContains(t, err, "no NATS connection")
}

func TestNoSpaceIsRecognised(t *testing.T) {
	t.Parallel()
	for _, err := range []error{syscall.ENOSPC, syscall.EDQUOT,
		&os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}} {
		require.True(t, IsNoSpace(err))
		require.ErrorIs(t, classify(err), ErrNoSpace)
		require.ErrorIs(t, classify(err), err)
	}
	require.False(t, IsNoSpace(nil))
	require.False(t, IsNoSpace(syscall.EIO))
	require.NotErrorIs(t, classify(syscall.EIO), ErrNoSpace)
}

func TestFolderModes(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "made", "on the way")
	files := openTestFiles(t, "file://"+folder, "", nil)
	put(t, files, name, []byte("x"))
	require.NoError(t, filepath.Walk(folder, func(path string, info os.FileInfo, err error) error {
		require.NoError(t, err)
		require.Zero(t, info.Mode().Perm()&0o077, path)
		return nil
	}))
	require.NoError(t, files.Delete(t.Context(), name))
	entries, err := os.ReadDir(folder)
	require.NoError(t, err)
	require.Len(t, entries, 2, "the drafts' folder and the marker: empty folders go with their last file")
}

func TestFolderMayBeRelative(t *testing.T) {
	t.Chdir(t.TempDir())
	files := openTestFiles(t, "file://data/files", "", nil)
	put(t, files, "a.zip", []byte("x"))
	require.FileExists(t, "data/files/a.zip")
}

func TestFolderIsNotLeft(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	folder, outside := filepath.Join(dir, "files"), filepath.Join(dir, "outside")
	require.NoError(t, os.Mkdir(outside, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(outside, "secret.zip"), []byte("secret"), 0o600))
	files := openTestFiles(t, "file://"+folder, "", nil)
	require.NoError(t, os.Symlink(outside, filepath.Join(folder, "link")))
	_, err := files.Open(t.Context(), "link/secret.zip")
	require.Error(t, err)
	require.Error(t, files.Commit(t.Context(), draft(t, files, []byte("x")), "link/new.zip"))
	require.NoFileExists(t, filepath.Join(outside, "new.zip"))
	_, err = files.Sweep(t.Context(), func(string) bool { return false }, time.Now().Add(time.Hour))
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(outside, "secret.zip"))
}

func TestFolderSweepLeavesForeignFiles(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	files := openTestFiles(t, "file://"+folder, "", nil)
	foreign := []string{"README.md", ".hidden", "lost+found"}
	for _, name := range foreign {
		require.NoError(t, os.WriteFile(filepath.Join(folder, name), nil, 0o600))
	}
	removed, err := files.Sweep(t.Context(), func(string) bool { return false }, time.Now().Add(time.Hour))
	require.NoError(t, err)
	require.Zero(t, removed)
	for _, name := range foreign {
		require.FileExists(t, filepath.Join(folder, name))
	}
}

func TestObjectStoreClientsReadTheFiles(t *testing.T) {
	t.Parallel()
	js := startNATS(t, nil)
	files := openTestFiles(t, "nats://sheaf-files", t.TempDir(), js)
	content := noise(9, 2*maxChunk+1)
	put(t, files, name, content)
	bucket, err := js.ObjectStore(t.Context(), "sheaf-files")
	require.NoError(t, err)
	got, err := bucket.GetBytes(t.Context(), name)
	require.NoError(t, err)
	require.True(t, bytes.Equal(content, got))

	// After such a client deletes a file, it is missing and its name is free.
	require.NoError(t, bucket.Delete(t.Context(), name))
	absentFile(t, files, name)
	put(t, files, name, content[:5])
	require.Equal(t, content[:5], get(t, files, name))
	got, err = bucket.GetBytes(t.Context(), name)
	require.NoError(t, err)
	require.Equal(t, content[:5], got)
}

func TestFullBucketKeepsNothingOfTheFile(t *testing.T) {
	t.Parallel()
	limits := map[string]func(*server.Options, *jetstream.StreamConfig){
		"of the server": func(o *server.Options, _ *jetstream.StreamConfig) { o.JetStreamMaxStore = 4 << 20 },
		"of the bucket": func(_ *server.Options, c *jetstream.StreamConfig) { c.MaxBytes = 4 << 20 },
	}
	for limit, set := range limits {
		t.Run(limit, func(t *testing.T) {
			js := startNATS(t, func(o *server.Options) { set(o, &jetstream.StreamConfig{}) })
			files := openTestFiles(t, "nats://sheaf-files", t.TempDir(), js)
			stream, err := js.Stream(t.Context(), "OBJ_sheaf-files")
			require.NoError(t, err)
			config := stream.CachedInfo().Config
			set(&server.Options{}, &config)
			_, err = js.UpdateStream(t.Context(), config)
			require.NoError(t, err)

			put(t, files, "default/first.zip", noise(10, 2<<20))
			d := draft(t, files, noise(11, 3<<20))
			require.ErrorIs(t, files.Commit(t.Context(), d, name), ErrNoSpace)
			absentFile(t, files, name)
			put(t, files, "default/small.zip", noise(12, 1<<20))

			require.NoError(t, files.Delete(t.Context(), "default/first.zip"))
			require.NoError(t, files.Delete(t.Context(), "default/small.zip"))
			require.NoError(t, files.Commit(t.Context(), d, name), "tried again once there is room")
			require.True(t, bytes.Equal(noise(11, 3<<20), get(t, files, name)))
		})
	}
}

func TestSweepFindsChunksOfACrashedCommit(t *testing.T) {
	t.Parallel()
	js := startNATS(t, nil)
	opened := openTestFiles(t, "nats://sheaf-files", t.TempDir(), js)
	files := opened.(*natsFiles)
	put(t, files, "default/whole.zip", noise(13, maxChunk+1))
	crash := func(name, nuid string) {
		d := draft(t, files, noise(14, maxChunk+1))
		_, err := files.upload(t.Context(), d, files.encode(name)+"-"+nuid, maxChunk+1)
		require.NoError(t, err)
		d.Discard()
	}
	crash("default/never.zip", "one")
	crash("default/whole.zip", "two")
	_, err := js.Publish(t.Context(), "$O.sheaf-files.C.foreign", []byte("not ours"))
	require.NoError(t, err)
	keep := func(string) bool { return true }

	removed, err := files.Sweep(t.Context(), keep, time.Now().Add(-time.Hour))
	require.NoError(t, err)
	require.Zero(t, removed, "perhaps still being committed")
	removed, err = files.Sweep(t.Context(), keep, time.Now().Add(time.Hour))
	require.NoError(t, err)
	require.Equal(t, 2, removed)
	require.Len(t, get(t, files, "default/whole.zip"), maxChunk+1)
	info, err := files.stream.Info(t.Context(), jetstream.WithSubjectFilter("$O.>"))
	require.NoError(t, err)
	require.Len(t, info.State.Subjects, 3, "the whole file's two, and the foreign one")
}

func TestUploadsThatInterleaveStaySeekable(t *testing.T) {
	t.Parallel()
	js := startNATS(t, func(o *server.Options) { o.MaxPayload = 8 << 10 }) // many chunks
	files := openTestFiles(t, "nats://sheaf-files", t.TempDir(), js)
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		d := draft(t, files, noise(uint64(20+i), 100<<10))
		wg.Go(func() { errs[i] = files.Commit(context.Background(), d, fmt.Sprintf("default/%d.zip", i)) })
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
	for i := range errs {
		want := noise(uint64(20+i), 100<<10)
		f, err := files.Open(t.Context(), fmt.Sprintf("default/%d.zip", i))
		require.NoError(t, err)
		for _, offset := range []int64{90 << 10, 1, 50 << 10} {
			_, err := f.Seek(offset, io.SeekStart)
			require.NoError(t, err)
			got, err := io.ReadAll(f)
			require.NoError(t, err)
			require.Equal(t, sha256.Sum256(want[offset:]), sha256.Sum256(got))
		}
		require.NoError(t, f.Close())
	}
}

func TestLostChunkIsAnErrorNotAShortFile(t *testing.T) {
	t.Parallel()
	js := startNATS(t, nil)
	opened := openTestFiles(t, "nats://sheaf-files", t.TempDir(), js)
	put(t, opened, name, noise(15, 2*maxChunk))
	files := opened.(*natsFiles)
	placed, err := files.meta(t.Context(), name)
	require.NoError(t, err)
	f, err := files.Open(t.Context(), name)
	require.NoError(t, err)
	require.NoError(t, files.stream.Purge(t.Context(),
		jetstream.WithPurgeSubject(files.chunkSubject(placed.info.NUID))))
	_, err = io.ReadAll(f)
	require.ErrorIs(t, err, ErrNoFile)
	require.NoError(t, f.Close())
}

// The text of a list of chunks restores the list.
func TestChunkListText(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		steps := rapid.SliceOfN(rapid.Uint64Range(1, 3), 0, 200).Draw(rt, "steps")
		var list chunkList
		var sequences []uint64
		sequence := uint64(0)
		for _, step := range steps {
			sequence += step
			list.add(sequence)
			sequences = append(sequences, sequence)
		}
		read, err := parseChunkList(list.String())
		require.NoError(rt, err)
		require.Equal(rt, list, read)
		for i, want := range sequences {
			require.Equal(rt, want, read.sequence(int64(i)))
		}
	})
}

func FuzzChunkList(f *testing.F) {
	for _, seed := range []string{"", "1+1", "5+3,9+1", "1+0", "+", "a+1", "1+99999999999", ",", "1+1,"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		list, err := parseChunkList(text)
		if err != nil {
			return
		}
		for _, run := range list.runs {
			require.Equal(t, run.first, list.sequence(run.index))
		}
	})
}

// lateJetStream first reports that a stream is not found.
type lateJetStream struct {
	jetstream.JetStream
	asked int
}

func (l *lateJetStream) Stream(ctx context.Context, name string) (jetstream.Stream, error) {
	if l.asked++; l.asked == 1 {
		return nil, jetstream.ErrStreamNotFound
	}
	return l.JetStream.Stream(ctx, name)
}

// A bucket that several processes create at once may be invisible to some of them for a while.
func TestABucketIsAskedForAgain(t *testing.T) {
	t.Parallel()
	js := &lateJetStream{JetStream: startNATS(t, nil)}
	openTestFiles(t, "nats://sheaf-files", t.TempDir(), js)
	require.Equal(t, 2, js.asked)
}
