package embedded

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/minio/highwayhash"
)

// mendStore undoes what a process that was killed leaves of a store and the server
// cannot read any more (filestore.go and jetstream.go of nats-server 2.15.2):
//
//   - A new configuration is renamed into place, and then a new checksum. Between the
//     two they differ, or there is none, and the server takes the stream for missing,
//     with all that it holds. Each configuration is whole, so it is given the checksum
//     that it has. What is encrypted proves itself, and one in clear is taken when it
//     is what belongs there; limits that are not those wanted are set right after.
//   - The files of a consumer are removed one by one. Without its key its state cannot
//     be read, and it can neither be used nor made again. What is left is removed: a
//     consumer that begins anew delivers again what was done.
//   - Of a new block of an encrypted stream the file is made first, then its key. A file
//     that is still empty, and has no key, makes the server find the whole stream
//     corrupt, and remove it (seen in one of 50 kills of a stream whose messages are
//     removed as they come, which begins a block for each that is its last). It is
//     removed: it holds nothing.
func mendStore(dir string) error {
	root := os.DirFS(dir)
	streams, err := fs.Glob(root, "jetstream/*/streams/*")
	if err != nil {
		return err
	}
	for _, stream := range streams {
		name := path.Base(stream)
		encrypted, err := mendChecksum(filepath.Join(dir, stream), name)
		if err != nil {
			return fmt.Errorf("checksum of stream %s: %w", name, err)
		}
		if encrypted {
			if err := dropEmptyBlocks(filepath.Join(dir, stream, "msgs"), name); err != nil {
				return fmt.Errorf("blocks of stream %s: %w", name, err)
			}
		}
		consumers, err := fs.Glob(root, stream+"/obs/*")
		if err != nil {
			return err
		}
		for _, consumer := range consumers {
			folder, of := filepath.Join(dir, consumer), name+"/"+path.Base(consumer)
			whole, err := mendChecksum(folder, of)
			if err != nil {
				return fmt.Errorf("checksum of consumer %s: %w", of, err)
			}
			if encrypted && !whole {
				slog.Warn("the process ended while a consumer was made or removed; what is left of it is removed", "component", "nats-server", "of", of)
				if err := errors.Join(os.RemoveAll(folder), SyncFolder(filepath.Dir(folder))); err != nil {
					return fmt.Errorf("half a consumer, %s: %w", of, err)
				}
			}
		}
	}
	return nil
}

// dropEmptyBlocks removes the blocks of a stream that have neither bytes nor a key.
func dropEmptyBlocks(folder, stream string) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return ifThere(err)
	}
	for _, e := range entries {
		number, isBlock := strings.CutSuffix(e.Name(), ".blk")
		if !isBlock {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if info.Size() > 0 {
			continue
		}
		if _, err := os.Stat(filepath.Join(folder, number+".key")); !errors.Is(err, fs.ErrNotExist) {
			continue // it has one, or that cannot be told
		}
		slog.Warn("the process ended while a block was made; it is empty, and removed", "component", "nats-server", "of", stream, "block", number)
		if err := errors.Join(os.Remove(filepath.Join(folder, e.Name())), SyncFolder(folder)); err != nil {
			return err
		}
	}
	return nil
}

// mendChecksum mends one, of the configuration in a folder, and reports whether that is
// encrypted. name is what the server keys its hash with.
func mendChecksum(folder, name string) (encrypted bool, err error) {
	switch _, err := os.Stat(filepath.Join(folder, "meta.key")); {
	case err == nil:
		encrypted = true
	case !errors.Is(err, fs.ErrNotExist):
		return false, err
	}
	meta, err := os.ReadFile(filepath.Join(folder, "meta.inf"))
	if err != nil {
		return encrypted, ifThere(err) // killed before it was made
	}
	var clear struct{ Name string }
	if !encrypted && (json.Unmarshal(meta, &clear) != nil || clear.Name != filepath.Base(folder)) {
		return false, nil
	}
	file := filepath.Join(folder, "meta.sum")
	sum, err := os.ReadFile(file)
	if err := ifThere(err); err != nil {
		return encrypted, err
	}
	key := sha256.Sum256([]byte(name))
	hash, err := highwayhash.NewDigest64(key[:])
	if err != nil {
		return encrypted, err
	}
	_, _ = hash.Write(meta)
	is := hex.EncodeToString(hash.Sum(nil))
	if string(sum) == is {
		return encrypted, nil
	}
	slog.Warn("the process ended while a configuration was written; its checksum is written anew", "component", "nats-server", "of", name)
	return encrypted, ReplaceFile(file, []byte(is))
}

// ifThere returns an error of reading a file, nil if that is only not there.
func ifThere(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
