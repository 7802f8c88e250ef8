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

// mendStore repairs a store after a process was killed. The server renames a stream's or consumer's new
// configuration into place, then its new checksum. In between they differ, or the checksum is missing. The
// server then treats the stream as missing, with all its messages (filestore.go of nats-server 2.15.2). Each
// configuration file is complete, so mendStore writes the checksum that it needs. Provisioning corrects
// outdated limits right after.
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

// mendChecksum repairs the checksum of the configuration in a folder, if the configuration belongs there.
// name is the key of the server's hash.
func mendChecksum(folder, name string) error {
	meta, err := os.ReadFile(filepath.Join(folder, "meta.inf"))
	if err != nil {
		return ifThere(err) // killed before it was created
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
	slog.Warn("repairing a configuration's checksum: the process ended while writing it", "component",
		"nats-server", "of", name)
	return ReplaceFile(file, []byte(want))
}

// ifThere returns err, or nil if it means that the file does not exist.
func ifThere(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
