package embedded

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/minio/highwayhash"
)

// mendChecksums gives the configurations of an encrypted store the checksums that
// they have. The server renames a new configuration into place and then a new
// checksum. Killed between the two it finds at every later start that they differ,
// or that there is none, and takes the stream for missing, with all that it holds
// (filestore.go and jetstream.go of nats-server 2.15.2). Each configuration is
// whole, and what is encrypted proves itself: one that was changed by somebody is
// refused by the server all the same. One in clear is left as it is: nothing but
// the checksum would tell that its bytes are wrong.
func mendChecksums(dir string) error {
	streams, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", "*"))
	if err != nil {
		return err
	}
	for _, stream := range streams {
		name := filepath.Base(stream)
		if err := mendChecksum(stream, name); err != nil {
			return fmt.Errorf("checksum of stream %s: %w", name, err)
		}
		consumers, err := filepath.Glob(filepath.Join(stream, "obs", "*"))
		if err != nil {
			return err
		}
		for _, consumer := range consumers {
			if err := mendChecksum(consumer, name+"/"+filepath.Base(consumer)); err != nil {
				return fmt.Errorf("checksum of consumer %s of %s: %w", filepath.Base(consumer), name, err)
			}
		}
	}
	return nil
}

// mendChecksum mends one, of the configuration in a folder. name is what the server
// keys its hash with.
func mendChecksum(folder, name string) error {
	if _, err := os.Stat(filepath.Join(folder, "meta.key")); err != nil {
		return ifThere(err) // in clear
	}
	meta, err := os.ReadFile(filepath.Join(folder, "meta.inf"))
	if err != nil {
		return ifThere(err) // killed before it was made
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
	is := hex.EncodeToString(hash.Sum(nil))
	if string(sum) == is {
		return nil
	}
	slog.Warn("the process ended while a configuration was written; its checksum is written anew", "component", "nats-server", "of", name)
	return ReplaceFile(file, []byte(is))
}

// ifThere returns an error of reading a file, nil if that is only not there.
func ifThere(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
