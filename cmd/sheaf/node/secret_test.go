package node

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sheaf/events/secrets"
)

func TestSecretKeyIsMadeOnceAndKeptPrivate(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	c := KeyConfig{Data: data}
	_, err := c.secretKeys(noLog)
	require.ErrorIs(t, err, os.ErrNotExist)
	made, err := c.makeSecretKeys(noLog)
	require.NoError(t, err)
	require.Len(t, made[0].Secret, secrets.KeySize)
	name := filepath.Join(data, keptKeyName)
	for range 2 {
		again, err := c.makeSecretKeys(noLog)
		require.NoError(t, err)
		require.Equal(t, made, again)
		info, err := os.Stat(name)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
		entries, err := os.ReadDir(data)
		require.NoError(t, err)
		require.Len(t, entries, 1, "nothing else is left")
		require.NoError(t, os.Chmod(name, 0o644))
	}
	require.NoError(t, os.WriteFile(name, []byte("short\n"), 0o600))
	_, err = c.makeSecretKeys(noLog)
	require.Error(t, err, "a damaged key is never replaced by a new one")
	require.NotContains(t, err.Error(), "short")
}

func TestSecretKeyForms(t *testing.T) {
	t.Parallel()
	key := bytes.Repeat([]byte{0xfb, 0xff, 0x3e, 1}, 8)
	file := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(file, []byte(hex.EncodeToString(key)+"\n"), 0o440))
	for name, c := range map[string]KeyConfig{
		"hex":         {SecretKey: hex.EncodeToString(key)},
		"upper hex":   {SecretKey: strings.ToUpper(hex.EncodeToString(key))},
		"base64":      {SecretKey: base64.StdEncoding.EncodeToString(key)},
		"base64, url": {SecretKey: base64.RawURLEncoding.EncodeToString(key)},
		"@file":       {SecretKey: "@" + file},
		"file":        {SecretKeyFile: file},
	} {
		got, err := c.makeSecretKeys(noLog)
		require.NoError(t, err, name)
		require.Equal(t, key, got[0].Secret, name)
	}
	for name, c := range map[string]KeyConfig{
		"short":        {SecretKey: hex.EncodeToString(key[:31])},
		"words":        {SecretKey: "correct horse battery staple"},
		"missing file": {SecretKeyFile: file + "x"},
		"missing @":    {SecretKey: "@" + file + "x"},
	} {
		c.Data = t.TempDir()
		_, err := c.makeSecretKeys(noLog)
		require.Error(t, err, name)
		entries, err := os.ReadDir(c.Data)
		require.NoError(t, err)
		require.Empty(t, entries, "%s: no key is made in place of one that was named", name)
	}
}

// A rotated key file keeps the first key and has the new one after it. Invalid lines are refused.
func TestSecretKeyIsRotated(t *testing.T) {
	t.Parallel()
	c := KeyConfig{Data: t.TempDir()}
	first, err := c.makeSecretKeys(noLog)
	require.NoError(t, err)
	before, err := c.Keyring(noLog)
	require.NoError(t, err)
	for _, from := range []time.Time{time.Now(), time.Now().Add(time.Hour)} {
		_, err = c.Rotate(from)
		require.NoError(t, err)
	}
	again, err := c.secretKeys(noLog)
	require.NoError(t, err)
	require.Len(t, again, 3)
	require.Equal(t, first[0], again[0])
	require.True(t, again[2].From.After(time.Now().Add(59*time.Minute)))
	after, err := c.Keyring(noLog)
	require.NoError(t, err)
	require.NotEqual(t, before.WebhookSecret("default"), after.WebhookSecret("default"))
	require.Contains(t, after.WebhookSecrets("default"), before.WebhookSecret("default"))
	info, err := os.Stat(filepath.Join(c.Data, keptKeyName))
	require.NoError(t, err)
	require.EqualValues(t, 0o600, info.Mode().Perm())

	key := strings.Repeat("ab", 32)
	for text, want := range map[string]string{
		"":                                 "is empty",
		"# nothing":                        "is empty",
		key + " from=2026-01-01T00:00:00Z": "behind a newer key",
		key + "\n" + key + " to=x":         "behind a newer key",
		key + "\n" + key[:8]:               "4 bytes",
		key + "\nzz" + key[2:]:             "",
	} {
		_, err := decodeKeys(text)
		if want == "" {
			require.NoError(t, err, text)
		} else {
			require.ErrorContains(t, err, want, text)
		}
	}
}
