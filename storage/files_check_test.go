package storage

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// damages are ways to change a finished file outside the store.
var damages = []string{"missing", "shorter", "longer", "flipped"}

// forEachDamage runs a claim for every driver and damage. damage inflicts it on a file with that content.
func forEachDamage(t *testing.T,
	claim func(t *testing.T, files Files, kind string, damage func(name string, content []byte))) {
	changed := func(kind string, content []byte) []byte {
		switch kind {
		case "shorter":
			return content[:len(content)-1]
		case "longer":
			return append(bytes.Clone(content), 0)
		}
		flipped := bytes.Clone(content)
		flipped[len(flipped)-1] ^= 4
		return flipped
	}
	for _, kind := range damages {
		t.Run("folder "+kind, func(t *testing.T) {
			t.Parallel()
			folder := filepath.Join(t.TempDir(), "files")
			claim(t, openTestFiles(t, "file://"+folder, "", nil), kind, func(name string, content []byte) {
				if kind == "missing" {
					require.NoError(t, os.Remove(filepath.Join(folder, name)))
					return
				}
				require.NoError(t, os.WriteFile(filepath.Join(folder, name), changed(kind, content), 0o600))
			})
		})
		t.Run("s3 "+kind, func(t *testing.T) {
			t.Parallel()
			server := startS3(t, nil)
			claim(t, server.open(t), kind, func(name string, content []byte) {
				key, content := "some/prefix/"+name, changed(kind, content)
				before, err := server.raw.StatObject(t.Context(), "sheaf-test", key, minio.StatObjectOptions{})
				require.NoError(t, err)
				require.NoError(t, server.raw.RemoveObject(t.Context(), "sheaf-test", key, minio.RemoveObjectOptions{}))
				if kind != "missing" { // only the bytes change, the metadata stays
					_, err = server.raw.PutObject(t.Context(), "sheaf-test", key, bytes.NewReader(content),
						int64(len(content)), "", "", minio.PutObjectOptions{UserMetadata: before.UserMetadata})
					require.NoError(t, err)
				}
			})
		})
		t.Run("nats "+kind, func(t *testing.T) {
			t.Parallel()
			js := startNATS(t, nil)
			files := openTestFiles(t, "nats://sheaf-files", t.TempDir(), js)
			claim(t, files, kind, func(name string, content []byte) {
				n := files.(*natsFiles)
				placed, err := n.meta(t.Context(), name)
				require.NoError(t, err)
				switch kind {
				case "missing":
					bucket, err := js.ObjectStore(t.Context(), "sheaf-files")
					require.NoError(t, err)
					require.NoError(t, bucket.Delete(t.Context(), name))
				case "shorter": // its last part
					list, err := parseChunkList(placed.info.Metadata[chunksKey])
					require.NoError(t, err)
					require.NoError(t, n.stream.DeleteMsg(t.Context(), list.last()))
				case "longer": // another client's upload
					bucket, err := js.ObjectStore(t.Context(), "sheaf-files")
					require.NoError(t, err)
					_, err = bucket.PutBytes(t.Context(), name, changed(kind, content))
					require.NoError(t, err)
				default: // only the bytes change, the metadata stays
					info := placed.info
					size := int64(info.Opts.ChunkSize)
					var list chunkList
					for part := changed(kind,
						content); len(part) > 0; part = part[min(size, int64(len(part))):] {
						ack, err := js.Publish(t.Context(), n.chunkSubject(info.NUID),
							part[:min(size, int64(len(part)))])
						require.NoError(t, err)
						list.add(ack.Sequence)
					}
					info.Metadata[chunksKey] = list.String()
					data, err := json.Marshal(info)
					require.NoError(t, err)
					msg := &nats.Msg{Subject: n.metaSubject(name), Data: data,
						Header: nats.Header{jetstream.MsgRollup: {jetstream.MsgRollupSubject}}}
					_, err = js.PublishMsg(t.Context(), msg)
					require.NoError(t, err)
				}
			})
		})
	}
}

func sumOf(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// readChecked opens a file and reads it; it must have this content.
func readChecked(files Files, name string, content []byte) ([]byte, error) {
	f, err := OpenChecked(context.Background(), files, name, int64(len(content)), sumOf(content))
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(f)
}

// A missing, truncated, longer or changed file is detected, and its last bytes are never returned. Other
// files are unaffected.
func TestDamageIsProven(t *testing.T) {
	t.Parallel()
	forEachDamage(t, func(t *testing.T, files Files, kind string, damage func(string, []byte)) {
		content, neighbour := noise(30, maxChunk+100), noise(31, 100)
		put(t, files, name, content)
		put(t, files, "default/neighbour.zip", neighbour)
		got, err := readChecked(files, name, content)
		require.NoError(t, err)
		require.True(t, bytes.Equal(content, got))

		damage(name, content)
		got, err = readChecked(files, name, content)
		require.True(t, IsLost(err), "%v", err)
		require.Equal(t, kind == "missing", errors.Is(err, ErrNoFile) && len(got) == 0 &&
			!errors.As(err, new(*DamagedError)), "%v", err)
		require.Less(t, len(got), len(content))
		require.NoError(t, files.Check(t.Context()), "the store exists")
		got, err = readChecked(files, "default/neighbour.zip", neighbour)
		require.NoError(t, err)
		require.Equal(t, neighbour, got)

		// The name is free again once the rest is deleted.
		require.NoError(t, files.Delete(t.Context(), name))
		put(t, files, name, content)
		got, err = readChecked(files, name, content)
		require.NoError(t, err)
		require.True(t, bytes.Equal(content, got))
	})
}

func TestCheckedFileReadsAndVerifies(t *testing.T) {
	t.Parallel()
	forEachDriver(t, func(t *testing.T, open func(t *testing.T) Files) {
		files, content := open(t), noise(32, 2*maxChunk+3)
		put(t, files, name, content)
		put(t, files, "default/empty.zip", nil)
		f, err := OpenChecked(t.Context(), files, name, int64(len(content)), sumOf(content))
		require.NoError(t, err)
		start := time.Now()
		require.NoError(t, f.Verify(t.Context(), int64(len(content))*10))
		require.GreaterOrEqual(t, time.Since(start), 90*time.Millisecond, "throttled")
		got, err := io.ReadAll(f) // from the start
		require.NoError(t, err)
		require.True(t, bytes.Equal(content, got))

		// A partial read is not verified, but a later read from the start is.
		_, err = f.Seek(-5, io.SeekEnd)
		require.NoError(t, err)
		got, err = io.ReadAll(f)
		require.NoError(t, err)
		require.Equal(t, content[len(content)-5:], got)
		require.NoError(t, f.Verify(t.Context(), 0))
		require.NoError(t, f.Err())
		cancelled, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, f.Verify(cancelled, 1), context.Canceled)
		require.NoError(t, f.Close())

		f, err = OpenChecked(t.Context(), files, "default/empty.zip", 0, sumOf(nil))
		require.NoError(t, err)
		require.NoError(t, f.Verify(t.Context(), 0))
		require.NoError(t, f.Close())
		f, err = OpenChecked(t.Context(), files, name, int64(len(content)), sumOf(nil))
		require.NoError(t, err)
		require.True(t, IsLost(f.Verify(t.Context(), 0)))
		require.True(t, IsLost(f.Err()))
		require.NoError(t, f.Close())
	})
}

// A missing store proves no file missing, and no other store is created in its place.
func TestStoreThatIsGone(t *testing.T) {
	t.Parallel()
	content := []byte("workbook")
	gone := func(t *testing.T, files Files, d *Draft) {
		t.Helper()
		require.ErrorIs(t, files.Check(t.Context()), ErrNoStore)
		_, err := readChecked(files, name, content)
		require.Error(t, err)
		require.False(t, IsLost(err), "%v", err)
		require.Error(t, files.Commit(t.Context(), d, "default/new.zip"))
	}
	back := func(t *testing.T, files Files) {
		t.Helper()
		require.NoError(t, files.Check(t.Context()))
		require.Equal(t, content, get(t, files, name))
		put(t, files, "default/new.zip", content)
	}
	for how, c := range map[string]struct {
		take, restore func(t *testing.T, folder, copied string)
	}{
		"removed": {
			func(t *testing.T, folder, _ string) { require.NoError(t, os.RemoveAll(folder)) },
			func(t *testing.T, folder,
				copied string) {
				require.NoError(t, os.CopyFS(folder, os.DirFS(copied)))
			}},
		"moved away": {
			func(t *testing.T, folder, _ string) { require.NoError(t, os.Rename(folder, folder+"-")) },
			func(t *testing.T, folder, _ string) { require.NoError(t, os.Rename(folder+"-", folder)) }},
		"an empty folder in its place": {
			func(t *testing.T, folder, _ string) {
				require.NoError(t, os.RemoveAll(folder))
				require.NoError(t, os.Mkdir(folder, 0o700))
			},
			func(t *testing.T, folder,
				copied string) {
				require.NoError(t, os.CopyFS(folder, os.DirFS(copied)))
			}},
		"another store in its place": {
			func(t *testing.T, folder, _ string) {
				require.NoError(t, os.RemoveAll(folder))
				other, err := openFolderFiles(folder)
				require.NoError(t, err)
				require.NoError(t, other.Close())
			},
			func(t *testing.T, folder, copied string) {
				require.NoError(t, os.RemoveAll(folder))
				require.NoError(t, os.CopyFS(folder, os.DirFS(copied)))
			}},
		"marker removed": {
			func(t *testing.T, folder, _ string) {
				require.NoError(t, os.Remove(filepath.Join(folder, markerName)))
			},
			func(t *testing.T, folder, copied string) {
				data, err := os.ReadFile(filepath.Join(copied, markerName))
				require.NoError(t, err)
				require.NoError(t, os.WriteFile(filepath.Join(folder, markerName), data, 0o600))
			}},
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			folder, copied := filepath.Join(t.TempDir(), "files"), t.TempDir()
			files := openTestFiles(t, "file://"+folder, "", nil)
			put(t, files, name, content)
			require.NoError(t, os.CopyFS(copied, os.DirFS(folder)))
			d := draft(t, files, content)
			c.take(t, folder, copied)
			if how == "marker removed" { // its files are still there
				require.ErrorIs(t, files.Check(t.Context()), ErrNoStore)
				_, err := files.Open(t.Context(), "default/unknown.zip")
				require.ErrorIs(t, err, ErrNoStore)
			} else if how != "moved away" {
				gone(t, files, d)
			}
			_, err := files.Create(t.Context())
			require.ErrorIs(t, err, ErrNoStore)
			require.ErrorIs(t, files.Commit(t.Context(), d, "default/new.zip"), ErrNoStore)
			c.restore(t, folder, copied)
			back(t, files)
		})
	}
	t.Run("bucket", func(t *testing.T) {
		t.Parallel()
		js := startNATS(t, nil)
		files := openTestFiles(t, "nats://sheaf-files", t.TempDir(), js)
		put(t, files, name, content)
		d := draft(t, files, content)
		require.NoError(t, js.DeleteObjectStore(t.Context(), "sheaf-files"))
		gone(t, files, d)
	})
}

// A file that cannot be read now is not proven missing.
func TestUnreadableIsNotMissing(t *testing.T) {
	t.Parallel()
	t.Run("folder", func(t *testing.T) {
		t.Parallel()
		folder := filepath.Join(t.TempDir(), "files")
		files := openTestFiles(t, "file://"+folder, "", nil)
		put(t, files, name, []byte("x"))
		// A link that leads outside the store is refused like a missing permission.
		require.NoError(t, os.Rename(filepath.Join(folder, "default"), folder+"-"))
		require.NoError(t, os.Symlink(folder+"-", filepath.Join(folder, "default")))
		_, err := files.Open(t.Context(), name)
		require.Error(t, err)
		require.False(t, IsLost(err), "%v", err)
		if os.Getuid() == 0 {
			return // root can read everything
		}
		require.NoError(t, os.Chmod(folder, 0))
		defer func() { require.NoError(t, os.Chmod(folder, 0o700)) }()
		_, err = files.Open(t.Context(), "default/absent.zip")
		require.Error(t, err)
		require.False(t, IsLost(err), "%v", err)
		require.NotErrorIs(t, files.Check(t.Context()), ErrNoStore)
	})
	t.Run("nats", func(t *testing.T) {
		t.Parallel()
		js := startNATS(t, nil)
		files := openTestFiles(t, "nats://sheaf-files", t.TempDir(), js)
		put(t, files, name, []byte("x"))
		js.Conn().Close()
		_, err := files.Open(t.Context(), name)
		require.Error(t, err)
		require.False(t, IsLost(err), "%v", err)
		err = files.Check(t.Context())
		require.Error(t, err)
		require.NotErrorIs(t, err, ErrNoStore)
	})
}

// A created store is reported as new until it is accepted; its name stays.
func TestStoreIsNewUntilAccepted(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "files")
	first, made, err := StoreName("file://" + folder)
	require.NoError(t, err)
	require.True(t, made)
	for range 2 { // a process may end before it accepts the store
		files := openTestFiles(t, "file://"+folder, "", nil)
		require.True(t, files.Made())
	}
	files, other := openTestFiles(t, "file://"+folder, "", nil), openTestFiles(t, "file://"+folder, "", nil)
	require.NoError(t, files.Accept())
	require.NoError(t, other.Accept())
	require.NoError(t, other.Check(t.Context()))
	again, made, err := StoreName("file://" + folder)
	require.NoError(t, err)
	require.False(t, made)
	require.Equal(t, first, again)
	require.False(t, openTestFiles(t, "file://"+folder, "", nil).Made())

	// An empty marker, for example from a full disk, does not count.
	require.NoError(t, os.WriteFile(filepath.Join(folder, markerName), nil, 0o600))
	_, made, err = StoreName("file://" + folder)
	require.NoError(t, err)
	require.True(t, made)

	js := startNATS(t, nil)
	require.True(t, openTestFiles(t, "nats://sheaf-files", t.TempDir(), js).Made())
	require.False(t, openTestFiles(t, "nats://sheaf-files", t.TempDir(), js).Made())
}

func TestDraftsFolderIsMadeAgain(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "files")
	files := openTestFiles(t, "file://"+folder, "", nil)
	require.NoError(t, os.RemoveAll(filepath.Join(folder, draftsFolder)))
	_, err := files.Sweep(t.Context(), func(string) bool { return true }, time.Now())
	require.NoError(t, err)
	put(t, files, name, []byte("x"))
	require.Equal(t, "x", string(get(t, files, name)))
}
