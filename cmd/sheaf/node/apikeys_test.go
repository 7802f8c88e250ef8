package node

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sheaf/services/ingress"

	"github.com/stretchr/testify/require"
)

// addKey adds a key and returns it.
func addKey(t *testing.T, file, tenant string) string {
	t.Helper()
	key, _, err := AddAPIKey(file, tenant, ingress.ScopeOperate, "a name")
	require.NoError(t, err)
	return key
}

func TestKeysAreAddedListedAndRevoked(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "keys")
	key := addKey(t, file, "shop")
	require.Regexp(t, apiKeyPattern, key)
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	secret := key[strings.LastIndex(key[:15], "_")+1:]
	require.NotContains(t, string(data), secret, "only a hash is kept")
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.EqualValues(t, 0o600, info.Mode().Perm())

	keys, err := openAPIKeys(file, noLog)
	require.NoError(t, err)
	tenant, ok := keys.Tenant(key)
	require.True(t, ok)
	require.Equal(t, "shop", tenant)
	for _, wrong := range []string{"", key + "x", key[:len(key)-1], strings.ToUpper(key), "sheaf_" + key, flip(key, len(key)-1), flip(key, 7)} {
		_, ok := keys.Tenant(wrong)
		require.False(t, ok, wrong)
	}

	listed, err := ListAPIKeys(file)
	require.NoError(t, err)
	require.Len(t, listed, 1)
	require.Equal(t, []string{"shop", "a name"}, []string{listed[0].Tenant, listed[0].Name})

	_, err = RevokeAPIKey(file, "aaaaaaaa")
	require.ErrorContains(t, err, "no key aaaaaaaa")
	_, err = RevokeAPIKey(file, listed[0].ID)
	require.NoError(t, err)
	keys, err = openAPIKeys(file, noLog)
	require.NoError(t, err)
	_, ok = keys.Tenant(key)
	require.False(t, ok)
}

func flip(s string, at int) string {
	b := []byte(s)
	if b[at]++; b[at] > 'z' {
		b[at] = 'a'
	}
	return string(b)
}

// Concurrent commands lose none of each other's keys.
func TestKeysAreAddedAtOnce(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "keys")
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			_, _, _ = AddAPIKey(file, "shop", ingress.ScopeOperate, "")
		})
	}
	wg.Wait()
	keys, err := openAPIKeys(file, noLog)
	require.NoError(t, err)
	require.Len(t, *keys.keys.Load(), 20)
}

// A symbolic link stays one, and only its target file changes. The same holds for the file of secret keys.
func TestKeyFilesMayBeLinks(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	target, link := filepath.Join(folder, "real", "keys"), filepath.Join(folder, "link")
	require.NoError(t, os.Mkdir(filepath.Dir(target), 0o700))
	require.NoError(t, os.Symlink(filepath.Join("real", "keys"), link))

	_, _, err := AddAPIKey(link, "shop", ingress.ScopeOperate, "")
	require.EqualError(t, err, link+" is a symbolic link to a missing file")

	first := addKey(t, target, "shop")
	second := addKey(t, link, "shop")
	_, err = RevokeAPIKey(link, first)
	require.NoError(t, err)
	keys, err := openAPIKeys(target, noLog)
	require.NoError(t, err)
	_, good := keys.Tenant(second)
	require.True(t, good)
	_, good = keys.Tenant(first)
	require.False(t, good)

	secret, secretLink := filepath.Join(folder, "real", "secret"), filepath.Join(folder, "secret")
	require.NoError(t, os.WriteFile(secret, []byte(strings.Repeat("ab", 32)+"\n"), 0o600))
	require.NoError(t, os.Symlink(secret, secretLink))
	_, err = KeyConfig{SecretKeyFile: secretLink}.Rotate(time.Now())
	require.NoError(t, err)
	text, err := os.ReadFile(secret)
	require.NoError(t, err)
	require.Equal(t, 2, strings.Count(string(text), "\n"))

	for _, name := range []string{link, secretLink} {
		info, err := os.Lstat(name)
		require.NoError(t, err)
		require.NotZero(t, info.Mode()&os.ModeSymlink, name)
	}
	entries, err := os.ReadDir(folder)
	require.NoError(t, err)
	require.Len(t, entries, 3, "the lock is beside the file")
}

// A running process accepts new keys and refuses revoked ones. It keeps its keys while the file is broken or
// missing for a moment.
func TestKeysAreReadAgain(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "keys")
	keys, err := openAPIKeys(file, noLog)
	require.NoError(t, err, "a file that is not there yet")
	changes := make(chan struct{}, 10)
	keys.changed = func() { changes <- struct{}{} }
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); keys.watch(ctx, noLog) }()
	defer func() { stop(); <-done }()
	good := func(key string) bool { _, ok := keys.Tenant(key); return ok }
	changed := func() {
		t.Helper()
		select {
		case <-changes:
		case <-time.After(10 * time.Second):
			require.FailNow(t, "the change was not seen")
		}
	}

	key := addKey(t, file, "shop")
	changed()
	require.True(t, good(key))

	whole, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, []byte("nonsense\n"), 0o600))
	other := filepath.Join(t.TempDir(), "other")
	second := addKey(t, other, "shop")
	more, err := os.ReadFile(other)
	require.NoError(t, err)
	require.True(t, good(key), "the file is broken")
	// A rename, because a reader may see a part of what WriteFile has written so far.
	replaced := filepath.Join(filepath.Dir(file), "replaced")
	require.NoError(t, os.WriteFile(replaced, append(whole, more...), 0o600))
	require.NoError(t, os.Rename(replaced, file))
	changed()
	require.True(t, good(key))
	require.True(t, good(second))

	_, err = RevokeAPIKey(file, key)
	require.NoError(t, err)
	changed()
	require.False(t, good(key))
	require.True(t, good(second))
}

func TestBrokenKeysAreRefused(t *testing.T) {
	t.Parallel()
	hash := strings.Repeat("ab", 32)
	for text, want := range map[string]string{
		"aaaaaaaa shop " + hash:                                                 "too few fields",
		"aaaaaaaa shop abcd 2026-01-01T00:00:00Z":                               "no SHA-256",
		"aaaaaaaa shop " + hash + " yesterday":                                  "no time",
		"AAAAAAAA shop " + hash + " 2026-01-01T00:00:00Z":                       "no id",
		"aaaaaaaa Shop! " + hash + " 2026-01-01T00:00:00Z":                      "a tenant is",
		strings.Repeat("aaaaaaaa shop "+hash+" 2026-01-01T00:00:00Z\n", 2):      "twice",
		"# a comment\n\naaaaaaaa shop " + hash + " 2026-01-01T00:00:00Z a name": "",
	} {
		_, err := parseAPIKeys([]byte(text))
		if want == "" {
			require.NoError(t, err)
		} else {
			require.ErrorContains(t, err, want)
		}
	}
}

func FuzzAPIKeys(f *testing.F) {
	f.Add([]byte("aaaaaaaa shop " + strings.Repeat("ab", 32) + " 2026-01-01T00:00:00Z a name\n"))
	f.Add([]byte("# nothing\n\x00\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		keys, err := parseAPIKeys(data)
		if err != nil {
			return
		}
		for _, k := range keys { // parsing the written file returns the same keys
			again, err := parseAPIKeys([]byte(k.line()))
			require.NoError(t, err)
			require.Equal(t, k.Hash, again[k.ID].Hash)
			require.Equal(t, k.Tenant, again[k.ID].Tenant)
		}
	})
}

// A file of an earlier version has no scopes: its keys keep what they could do, whatever their names.
func TestKeysHaveScopes(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "keys")
	old := addKey(t, file, "shop")
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	line := strings.Replace(string(data), "scope=operate ", "", 1)
	require.NotEqual(t, string(data), line)
	require.NoError(t, os.WriteFile(file, []byte(line), 0o600))

	made := map[string]ingress.Scope{old: ingress.ScopeOperate}
	for scope := ingress.ScopeRead; scope <= ingress.ScopeAdmin; scope++ {
		key, _, err := AddAPIKey(file, "shop", scope, "scope=admin")
		require.NoError(t, err)
		made[key] = scope
	}
	keys, err := openAPIKeys(file, noLog)
	require.NoError(t, err)
	for key, scope := range made {
		p, ok := keys.Principal(key)
		require.True(t, ok)
		require.Equal(t, ingress.Principal{ID: p.ID, Tenant: "shop", Scope: scope}, p)
		again, ok := keys.ByID(p.ID)
		require.True(t, ok)
		require.Equal(t, p, again)
	}
	_, ok := keys.ByID("aaaaaaaa")
	require.False(t, ok)

	for wrong, why := range map[string]string{
		strings.Replace(line, " a name", " scope=root a name", 1): "a scope is read, submit, operate or admin",
		strings.Replace(line, "shop", ingress.AdminTenant, 1):     "its keys need the scope admin",
	} {
		_, err := parseAPIKeys([]byte(wrong))
		require.ErrorContains(t, err, why)
	}
}
