package node

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sheaf/events/embedded"
	"sheaf/events/secrets"
)

// keptKeyName is the file in the data folder that holds the key which Sheaf
// made for itself. Whoever loses it loses all links, sealed headers and the
// equality of repeated requests, so it belongs into the backup.
const keptKeyName = "secret.key"

// secretKey returns the key that was configured, else the one kept in the data
// folder; ErrNotExist when there is none.
func (c KeyConfig) secretKey() ([]byte, error) {
	keys, err := c.secretKeys()
	if err != nil {
		return nil, err
	}
	return keys[0].Secret, nil
}

// newerKeys are those that came after it.
func (c KeyConfig) newerKeys() ([]secrets.KeyVersion, error) {
	keys, err := c.secretKeys()
	if err != nil {
		return nil, err
	}
	return keys[1:], nil
}

// Keyring is what is derived from all of them.
func (c KeyConfig) Keyring() (*secrets.Keyring, error) {
	keys, err := c.secretKeys()
	if err != nil {
		return nil, err
	}
	return secrets.NewKeyring(keys[0].Secret, keys[1:]...)
}

// secretKeys returns the first secret key and those that came after it: one a
// line, and behind a newer one "from=" and the time from which it seals and signs.
func (c KeyConfig) secretKeys() ([]secrets.KeyVersion, error) {
	text, file := c.SecretKey, c.SecretKeyFile
	if name, ok := strings.CutPrefix(text, "@"); ok {
		text, file = "", name
	}
	where := "--secret-key"
	if text == "" {
		if file == "" {
			file = filepath.Join(c.Data, keptKeyName)
			if err := guardKeptKey(file); err != nil {
				return nil, err
			}
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("secret key: %w", err)
		}
		text, where = string(data), file
	}
	keys, err := decodeKeys(text)
	if err != nil {
		return nil, fmt.Errorf("secret key in %s: %w", where, err)
	}
	return keys, nil
}

func decodeKeys(text string) (keys []secrets.KeyVersion, err error) {
	for line := range strings.Lines(strings.TrimSpace(text)) {
		fields := strings.Fields(line)
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		var k secrets.KeyVersion
		if k.Secret, err = decodeKey(fields[0]); err != nil {
			return nil, err
		}
		for _, option := range fields[1:] {
			at, ok := strings.CutPrefix(option, "from=")
			if k.From, err = time.Parse(time.RFC3339, at); !ok || err != nil || len(keys) == 0 {
				return nil, errors.New("behind a newer key only from=TIME may stand, such as from=2026-01-31T12:00:00Z")
			}
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return nil, errors.New("is empty; make one with: openssl rand -hex 32")
	}
	return keys, nil
}

// Rotate adds a new key to the file of secret keys, which seals and signs from a time on. It
// returns the file's name.
func (c KeyConfig) Rotate(from time.Time) (file string, err error) {
	if file = c.SecretKeyFile; file == "" {
		file = filepath.Join(c.Data, keptKeyName)
	}
	before, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("secret key: %w", err)
	}
	if _, err := decodeKeys(string(before)); err != nil {
		return "", fmt.Errorf("secret key in %s: %w", file, err)
	}
	key := make([]byte, secrets.KeySize)
	rand.Read(key)
	line := hex.EncodeToString(key) + " from=" + from.UTC().Format(time.RFC3339) + "\n"
	if err := embedded.ReplaceFile(file, append(append([]byte(strings.TrimRight(string(before), "\n")), '\n'), line...)); err != nil {
		return "", fmt.Errorf("secret key: %w", err)
	}
	return file, nil
}

// guardKeptKey takes back what a careless copy gave away.
func guardKeptKey(file string) error {
	info, err := os.Stat(file)
	if err != nil {
		return fmt.Errorf("secret key: %w", err)
	}
	if info.Mode().Perm()&0o077 == 0 {
		return nil
	}
	slog.Warn("the secret key could be read by other users; now it cannot", "file", file, "mode", info.Mode().Perm())
	if err := os.Chmod(file, 0o600); err != nil {
		return fmt.Errorf("secret key: %w", err)
	}
	return nil
}

// makeSecretKey is secretKey, and makes a key when none was configured and
// none is kept yet.
func (c KeyConfig) makeSecretKey() ([]byte, error) {
	key, err := c.secretKey()
	if !errors.Is(err, fs.ErrNotExist) || c.SecretKey != "" || c.SecretKeyFile != "" {
		if err == nil {
			dropDrafts(filepath.Join(c.Data, keptKeyName))
		}
		return key, err
	}
	key = make([]byte, secrets.KeySize)
	rand.Read(key)
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return nil, fmt.Errorf("secret key: %w", err)
	}
	if err := writeOnce(filepath.Join(c.Data, keptKeyName), []byte(hex.EncodeToString(key)+"\n")); err != nil {
		return nil, fmt.Errorf("secret key: %w", err)
	}
	// Whichever of two processes was first, both go on with its key.
	return c.secretKey()
}

// writeOnce makes a file that holds all of data or does not exist, also after
// a crash. A file that is there already stays.
func writeOnce(name string, data []byte) error {
	if _, err := os.Stat(name); err == nil {
		dropDrafts(name)
		return nil // also on a disk that has no room for another draft
	}
	tmp, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	if err := os.Link(tmp.Name(), name); err != nil {
		if _, absent := os.Stat(name); absent != nil {
			return err
		}
	}
	dir, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// dropDrafts removes what processes that died in writeOnce have left beside a
// file that is there. One that is still at it loses nothing: the name is taken.
func dropDrafts(name string) {
	drafts, err := filepath.Glob(filepath.Join(filepath.Dir(name), "."+filepath.Base(name)+".*"))
	for _, draft := range drafts {
		err = errors.Join(err, os.Remove(draft))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		slog.Warn("drafts left over", "file", name, "error", err)
	}
}

// decodeKey reads hexadecimal, else any form of base64.
func decodeKey(text string) ([]byte, error) {
	text = strings.TrimSpace(text)
	key, err := hex.DecodeString(text)
	if err != nil {
		plain := strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(text, "="))
		key, err = base64.RawStdEncoding.DecodeString(plain)
	}
	if err != nil {
		return nil, errors.New("neither hexadecimal nor base64; make one with: openssl rand -hex 32")
	}
	if len(key) < secrets.KeySize {
		return nil, fmt.Errorf("has %d bytes, want at least %d random ones; make it with: openssl rand -hex 32", len(key), secrets.KeySize)
	}
	return key, nil
}
