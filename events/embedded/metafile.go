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

	"github.com/minio/highwayhash"
)

// mendStore mends what a process that was killed may leave of a store: the server renames a
// new configuration of a stream or consumer into place, and then a new checksum. Between
// the two they differ, or there is none, and the server takes the stream for missing, with
// all that it holds (filestore.go of nats-server 2.15.2). Each configuration is whole, so
// it is given the checksum that it has. Limits that are not those wanted are set right after.
func mendStore(dir string) error {
	root := os.DirFS(dir)
	streams, err := fs.Glob(root, "jetstream/*/streams/*")
	if err != nil {
		return err
	}
	for _, stream := range streams {
		name := path.Base(stream)
		if err := mendChecksum(filepath.Join(dir, stream), name); err != nil {
			return fmt.Errorf("checksum of stream %s: %w", name, err)
		}
		consumers, err := fs.Glob(root, stream+"/obs/*")
		if err != nil {
			return err
		}
		for _, consumer := range consumers {
			of := name + "/" + path.Base(consumer)
			if err := mendChecksum(filepath.Join(dir, consumer), of); err != nil {
				return fmt.Errorf("checksum of consumer %s: %w", of, err)
			}
		}
	}
	return nil
}

// mendChecksum mends that of the configuration in a folder, if it is one that belongs
// there. name is what the server keys its hash with.
func mendChecksum(folder, name string) error {
	meta, err := os.ReadFile(filepath.Join(folder, "meta.inf"))
	if err != nil {
		return ifThere(err) // killed before it was made
	}
	var is struct{ Name string }
	if json.Unmarshal(meta, &is) != nil || is.Name != filepath.Base(folder) {
		return nil
	}
	file := filepath.Join(folder, "meta.sum")
	sum, err := os.ReadFile(file)
	if err := ifThere(err); err != nil {
		return err
	}
	key := sha256.Sum256([]byte(name))
	hash, err := highwayhash.NewDigest64(key[:])
	if err != nil {
		return err
	}
	_, _ = hash.Write(meta)
	want := hex.EncodeToString(hash.Sum(nil))
	if string(sum) == want {
		return nil
	}
	slog.Warn("the process ended while a configuration was written; its checksum is written anew", "component", "nats-server", "of", name)
	return ReplaceFile(file, []byte(want))
}

// ifThere returns an error of reading a file, nil if that is only not there.
func ifThere(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
