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

// keptKeyName is the file in the data folder with the key that Sheaf generated. Without that key all links
// and sealed headers are invalid and repeated requests are no longer recognised, so it must be in the backup.
const keptKeyName = "secret.key"

// Keyring holds everything derived from the secret keys.
func (c KeyConfig) Keyring(log *slog.Logger) (*secrets.Keyring, error) {
	keys, err := c.secretKeys(log)
	if err != nil {
		return nil, err
	}
	return secrets.NewKeyring(keys[0].Secret, keys[1:]...)
}

// secretKeys returns the first secret key and its successors, one per line. A successor is followed by
// "from=" and the time from which it seals and signs. Without a configured file they come from the data
// folder. The error is ErrNotExist if there is none.
func (c KeyConfig) secretKeys(log *slog.Logger) ([]secrets.KeyVersion, error) {
	text, file := c.SecretKey, c.SecretKeyFile
	if name, ok := strings.CutPrefix(text, "@"); ok {
		text, file = "", name
	}
	where := "--secret-key"
	if text == "" {
		if file == "" {
			file = filepath.Join(c.Data, keptKeyName)
			if err := guardKeptKey(file, log); err != nil {
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

// Rotate adds a new key to the file of secret keys. The key seals and signs from the given time. Rotate
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

// guardKeptKey removes permissions that a careless copy gave to other users.
func guardKeptKey(file string, log *slog.Logger) error {
	info, err := os.Stat(file)
	if err != nil {
		return fmt.Errorf("secret key: %w", err)
	}
	if info.Mode().Perm()&0o077 == 0 {
		return nil
	}
	log.Warn("the secret key could be read by other users; now it cannot", "file", file, "mode", info.Mode().Perm())
	if err := os.Chmod(file, 0o600); err != nil {
		return fmt.Errorf("secret key: %w", err)
	}
	return nil
}

// makeSecretKeys is secretKeys, but creates a key when none is configured or stored yet. The caller has
// locked the data folder.
func (c KeyConfig) makeSecretKeys(log *slog.Logger) ([]secrets.KeyVersion, error) {
	keys, err := c.secretKeys(log)
	if !errors.Is(err, fs.ErrNotExist) || c.SecretKey != "" || c.SecretKeyFile != "" {
		return keys, err
	}
	key := make([]byte, secrets.KeySize)
	rand.Read(key)
	if err := embedded.ReplaceFile(filepath.Join(c.Data, keptKeyName), []byte(hex.EncodeToString(key)+"\n")); err != nil {
		return nil, fmt.Errorf("secret key: %w", err)
	}
	return c.secretKeys(log)
}

// decodeKey reads hexadecimal or any form of base64.
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
