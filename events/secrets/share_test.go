package secrets_test

import (
	"bytes"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"sheaf/events/secrets"

	"github.com/stretchr/testify/require"
)

func TestShareTokens(t *testing.T) {
	t.Parallel()
	before, k := keyring(t, 7), rotated(t)
	exp := time.Unix(1789320280, 0)
	soon := exp.Add(-time.Second)
	plain, back := secrets.ShareToken(k, testKey, exp, ""), secrets.ShareToken(k, testKey, exp, "https://shop.example/a?b=c&d")
	old := secrets.ShareToken(before, testKey, exp, "")
	require.Equal(t, testKey+".1789320280..", old[:len(testKey)+13], "the first key has no id")
	for _, token := range []string{plain, back, old} {
		require.Equal(t, token, url.PathEscape(token), "it needs no escape in a path")
		s, err := secrets.ReadShareToken(k, token, soon)
		require.NoError(t, err)
		require.Equal(t, testKey, s.Key)
		require.Equal(t, exp, s.Expires)
		_, err = secrets.ReadShareToken(k, token, exp)
		require.ErrorIs(t, err, secrets.ErrShareExpired)
		_, err = secrets.ReadShareToken(keyring(t, 1), token, soon)
		require.ErrorIs(t, err, secrets.ErrNoShare, "of another installation")
	}
	s, err := secrets.ReadShareToken(k, back, soon)
	require.NoError(t, err)
	require.Equal(t, "https://shop.example/a?b=c&d", s.ReturnURL)

	x := completed()
	u, err := url.Parse(secrets.DownloadURL(k, "", &x))
	require.NoError(t, err)
	q := u.Query()
	for name, wrong := range map[string]string{
		"nothing":             "",
		"another key":         strings.Replace(plain, testKey, otherKey, 1),
		"a later end":         strings.Replace(plain, "1789320280", "1789320281", 1),
		"an end with a sign":  strings.Replace(plain, "1789320280", "+1789320280", 1),
		"the first kid":       old[:len(testKey)+13] + strings.Split(plain, ".")[3],
		"no signature":        plain[:strings.LastIndex(plain, ".")+1],
		"half a signature":    plain[:len(plain)-20],
		"a return URL added":  plain + ".aHR0cHM6Ly9ldmls",
		"an empty return URL": plain + ".",
		"its return removed":  back[:strings.LastIndex(back, ".")],
		"its return changed":  back[:len(back)-2] + "YQ",
		"padded":              back + "=",
		"a further part":      back + ".x",
		"very long":           plain + "." + strings.Repeat("A", 100_000),
		"a download link's":   testKey + "." + q.Get("exp") + "." + q.Get("kid") + "." + q.Get("sig"),
	} {
		_, err := secrets.ReadShareToken(k, wrong, soon)
		require.ErrorIs(t, err, secrets.ErrNoShare, name)
	}
	q.Set("sig", strings.Split(plain, ".")[3])
	q.Set("exp", strconv.FormatInt(exp.Unix(), 10))
	ok, gone := secrets.ValidDownload(k, &x, u.Path, q, soon)
	require.False(t, ok || gone, "a share token is no download link")
}

// FuzzShareToken changes a token: only the original is valid.
func FuzzShareToken(f *testing.F) {
	k, err := secrets.NewKeyring(bytes.Repeat([]byte{7}, secrets.KeySize),
		secrets.KeyVersion{Secret: bytes.Repeat([]byte{8}, secrets.KeySize)})
	if err != nil {
		f.Fatal(err)
	}
	exp := time.Unix(1789320280, 0)
	good := secrets.ShareToken(k, testKey, exp, "https://shop.example/")
	f.Add(good)
	f.Add(good + "A")
	f.Add(strings.ToUpper(good))
	f.Fuzz(func(t *testing.T, token string) {
		if _, err := secrets.ReadShareToken(k, token, exp.Add(-time.Minute)); (err == nil) != (token == good) {
			t.Fatalf("%q: %v", token, err)
		}
	})
}
