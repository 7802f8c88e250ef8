package secrets_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/secrets"

	"github.com/stretchr/testify/require"
)

const (
	testKey  = "5ad5f7b92a816b76e70a21e4154c2485"
	otherKey = "68b5e20e3da35f7a4040844a63aaac89"
)

func keyring(t *testing.T, fill byte) *secrets.Keyring {
	t.Helper()
	k, err := secrets.NewKeyring(bytes.Repeat([]byte{fill}, secrets.KeySize))
	require.NoError(t, err)
	return k
}

// These values are in the links, keys and receivers' settings of every installation. Changing the derivation
// would break them all.
func TestKeysAreStable(t *testing.T) {
	t.Parallel()
	k := keyring(t, 7)
	require.Equal(t, "dd7997dcb6e98287aea42adb4460b7b7", k.HashKey("default", "http", []byte(`{"a":1}`)))
	require.Equal(t, "f1cdee4018785ecdc86d4ff9dda03751",
		k.SubmissionKey("default", events.Submission{StreamCreated: time.Unix(1, 5).UTC(), Sequence: 9}))
	require.Equal(t, "whsec_TXjKDVeb0KF4SENV6ZVp5Kqxn1LrIgq5YUsM4c84bAc=", k.WebhookSecret("default"))
	require.Equal(t, "8ec7dd6b29c86f304d8b5a6e2fb25176", k.Fingerprint())
	x := completed()
	require.Equal(t, "https://x/v1/down/2026/9/6/5ad5f7b92a816b76e70a21e4154c2485.zip?exp=1789320280&sig=Lb_sSxKF4HSWffE-eWH88GqsJ428Jluyu6JLVsVfOf4", secrets.DownloadURL(k, "https://x", &x))
}

func TestKeysDiffer(t *testing.T) {
	t.Parallel()
	_, err := secrets.NewKeyring(make([]byte, secrets.KeySize-1))
	require.ErrorContains(t, err, "31 bytes")
	a, b := keyring(t, 1), keyring(t, 2)
	seen := map[string]string{}
	add := func(what, key string) {
		require.NotContains(t, seen, key, "%s and %s", what, seen[key])
		seen[key] = what
	}
	for name, k := range map[string]*secrets.Keyring{"a": a, "b": b} {
		// One byte moved across each boundary between the parts.
		add(name+" http", k.HashKey("default", "http", []byte("x")))
		add(name+" raw", k.HashKey("default", "raw", []byte("x")))
		add(name+" tenant", k.HashKey("defaul", "thttp", []byte("x")))
		add(name+" body", k.HashKey("default", "httpx", nil))
		add(name+" empty", k.HashKey("", "", nil))
		add(name+" submission", k.SubmissionKey("default", events.Submission{Sequence: 1}))
		add(name+" submission of another stream",
			k.SubmissionKey("default", events.Submission{StreamCreated: time.Unix(1, 1), Sequence: 1}))
		add(name+" webhook", k.WebhookSecret("default"))
		add(name+" webhook of another", k.WebhookSecret("other"))
		add(name+" fingerprint", k.Fingerprint())
	}
	for key, what := range seen {
		if strings.Contains(what, "webhook") {
			raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(key, "whsec_"))
			require.NoError(t, err)
			require.Len(t, raw, 32, "Standard Webhooks asks for 24 to 64 bytes")
		} else {
			require.True(t, events.ValidKey(key), what)
		}
	}
	utc := events.Submission{StreamCreated: time.Unix(1, 1).UTC(), Sequence: 1}
	local := events.Submission{StreamCreated: utc.StreamCreated.In(time.FixedZone("", 8*3600)), Sequence: 1}
	require.Equal(t, a.SubmissionKey("t", utc), a.SubmissionKey("t", local), "a time is a time in any zone")
}

func TestKeysAreNotPrinted(t *testing.T) {
	t.Parallel()
	k := keyring(t, 1)
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "keys", k)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "keys", k)
	data, err := json.Marshal(k) //nolint:staticcheck // the test checks that nothing is printed
	require.NoError(t, err)
	log.Write(data)
	for _, verb := range []string{"%v", "%+v", "%s", "%q", "%#v", "%x", "%d"} {
		fmt.Fprintf(&log, verb+"\n", k)
		fmt.Fprintf(&log, verb+"\n", *k)
	}
	require.NotRegexp(t, `[0-9a-f]{20}|(0x[0-9a-f]{1,2}, ){5}|([0-9]{1,3} ){5}`, log.String())
}

func TestSealIsBoundToItsExport(t *testing.T) {
	t.Parallel()
	k := keyring(t, 1)
	plain := []byte(`{"Authorization":"Bearer secret"}`)
	sealed, err := k.Seal("default", testKey, plain)
	require.NoError(t, err)
	require.NotContains(t, string(sealed), "secret")
	again, err := k.Seal("default", testKey, plain)
	require.NoError(t, err)
	require.NotEqual(t, sealed, again, "a new nonce each time")
	opened, err := k.Open("default", testKey, sealed)
	require.NoError(t, err)
	require.Equal(t, plain, opened)

	for name, open := range map[string]func() ([]byte, error){
		"another tenant": func() ([]byte, error) { return k.Open("other", testKey, sealed) },
		"another key":    func() ([]byte, error) { return k.Open("default", otherKey, sealed) },
		"a shifted boundary": func() ([]byte, error) {
			return k.Open("default"+testKey[:1], testKey[1:], sealed)
		},
		"another secret": func() ([]byte, error) {
			return keyring(t, 2).Open("default", testKey, sealed)
		},
		"nothing":       func() ([]byte, error) { return k.Open("default", testKey, nil) },
		"a nonce alone": func() ([]byte, error) { return k.Open("default", testKey, sealed[:12]) },
		"one byte short": func() ([]byte, error) {
			return k.Open("default", testKey, sealed[:len(sealed)-1])
		},
	} {
		_, err := open()
		require.ErrorIs(t, err, events.ErrSealed, name)
	}
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		_, err := k.Open("default", testKey, bad)
		require.ErrorIs(t, err, events.ErrSealed, "byte %d", i)
	}
}

func completed() events.Export {
	return events.Export{
		Tenant: "default", Key: testKey, State: events.StateCompleted,
		CreatedAt: time.Date(2026, 9, 6, 17, 24, 34, 0, time.UTC),
		ExpiresAt: time.Date(2026, 9, 13, 17, 24, 40, 0, time.UTC),
		Files:     []events.File{{Name: "orders.zip", Store: testKey + "-12.zip"}},
	}
}

func TestDownloadLink(t *testing.T) {
	t.Parallel()
	k := keyring(t, 1)
	x := completed()
	require.Equal(t, "/v1/down/2026/9/6/"+testKey+".zip", secrets.DownloadPath(&x))
	link := secrets.DownloadURL(k, "https://sheaf.example/base/", &x)
	u, err := url.Parse(link)
	require.NoError(t, err)
	require.Equal(t, "/base/v1/down/2026/9/6/"+testKey+".zip", u.Path)
	path, exp, sig := secrets.DownloadPath(&x), u.Query().Get("exp"), u.Query().Get("sig")
	now := x.ExpiresAt.Add(-time.Second)

	type verdict struct{ ok, gone bool }
	check := func(k *secrets.Keyring, x events.Export, path, exp, sig string, now time.Time) verdict {
		ok, gone := secrets.ValidDownload(k, &x, path, url.Values{"exp": {exp}, "sig": {sig}}, now)
		return verdict{ok, gone}
	}
	good, gone, refused := verdict{true, false}, verdict{false, true}, verdict{}
	change := func(f func(*events.Export)) events.Export {
		x := completed()
		f(&x)
		return x
	}
	flipped := []byte(sig)
	flipped[0] ^= 1
	for name, tc := range map[string]struct {
		got, want verdict
	}{
		"as given":                 {check(k, x, path, exp, sig, now), good},
		"in the second of its end": {check(k, x, path, exp, sig, x.ExpiresAt), gone},
		"long after":               {check(k, x, path, exp, sig, now.AddDate(1, 0, 0)), gone},
		"the file expired": {check(k,
			change(func(x *events.Export) { x.State = events.StateExpired }), path, exp, sig, now), gone},
		"requested again": {check(k,
			change(func(x *events.Export) { x.State, x.Files = events.StateRequested, nil }), path, exp, sig,
			now), refused},
		"completed again with another file": {check(k,
			change(func(x *events.Export) { x.Files[0].Store = "other.zip" }), path, exp, sig, now), refused},
		"another export's": {check(k, change(func(x *events.Export) { x.Key = otherKey }),
			path, exp, sig, now), refused},
		"of another installation": {check(keyring(t, 2), x, path, exp, sig, now), refused},
		"another path": {check(k, x, strings.Replace(path, "/6/", "/7/", 1), exp, sig,
			now), refused},
		"another path to another export": {check(k, change(func(x *events.Export) { x.Key = otherKey }),
			strings.Replace(path, testKey, otherKey, 1), exp, sig, now), refused},
		"a later end":              {check(k, x, path, "99999999999", sig, now), refused},
		"an end that is no number": {check(k, x, path, exp+"x", sig, now), refused},
		"no end":                   {check(k, x, path, "", sig, now), refused},
		"an end beyond numbers":    {check(k, x, path, "99999999999999999999", sig, now), refused},
		"no signature":             {check(k, x, path, exp, "", now), refused},
		"half a signature":         {check(k, x, path, exp, sig[:20], now), refused},
		"one character changed":    {check(k, x, path, exp, string(flipped), now), refused},
		"padded":                   {check(k, x, path, exp, sig+"=", now), refused},
	} {
		require.Equal(t, tc.want, tc.got, name)
	}
	for _, state := range []events.State{events.StateNone, events.StateRequested, events.StateCrawled,
		events.StateFailed, events.StateCancelled, events.StateExpired, events.StateRejected} {
		x := change(func(x *events.Export) { x.State = state })
		require.Empty(t, secrets.DownloadURL(k, "https://x", &x), state)
	}
	x.Files = nil
	require.Empty(t, secrets.DownloadURL(k, "https://x", &x))
}

// rotated returns a keyring with one newer key in use and one not yet in use.
func rotated(t *testing.T) *secrets.Keyring {
	t.Helper()
	k, err := secrets.NewKeyring(bytes.Repeat([]byte{7}, secrets.KeySize),
		secrets.KeyVersion{Secret: bytes.Repeat([]byte{8}, secrets.KeySize),
			From: time.Now().Add(-time.Hour)},
		secrets.KeyVersion{Secret: bytes.Repeat([]byte{9}, secrets.KeySize), From: time.Now().Add(time.Hour)})
	require.NoError(t, err)
	return k
}

// After a rotation, data that the older key signed and sealed is still valid, the installation keeps its
// identity, and the new key signs and seals.
func TestKeysRotate(t *testing.T) {
	t.Parallel()
	before, after := keyring(t, 7), rotated(t)
	require.Equal(t, before.HashKey("default", "http", []byte("x")),
		after.HashKey("default", "http", []byte("x")))
	require.Equal(t, before.Fingerprint(), after.Fingerprint())

	x := completed()
	now := x.ExpiresAt.Add(-time.Minute)
	valid := func(k *secrets.Keyring, link string) bool {
		u, err := url.Parse(link)
		require.NoError(t, err)
		ok, gone := secrets.ValidDownload(k, &x, u.Path, u.Query(), now)
		require.False(t, gone)
		return ok
	}
	old, fresh := secrets.DownloadURL(before, "https://x", &x), secrets.DownloadURL(after, "https://x", &x)
	require.NotContains(t, old, "kid=")
	require.Contains(t, fresh, "kid=")
	require.True(t, valid(after, old), "a live link")
	require.True(t, valid(after, fresh))
	require.False(t, valid(before, fresh))
	alone, err := secrets.NewKeyring(bytes.Repeat([]byte{7}, secrets.KeySize),
		secrets.KeyVersion{Secret: bytes.Repeat([]byte{9}, secrets.KeySize)})
	require.NoError(t, err)
	require.False(t, valid(alone, fresh), "the key was removed")

	sealed, err := before.Seal("default", testKey, []byte("secret"))
	require.NoError(t, err)
	plain, err := after.Open("default", testKey, sealed)
	require.NoError(t, err)
	require.Equal(t, "secret", string(plain))
	sealed, err = after.Seal("default", testKey, []byte("secret"))
	require.NoError(t, err)
	_, err = before.Open("default", testKey, sealed)
	require.ErrorIs(t, err, events.ErrSealed)

	secrets := after.WebhookSecrets("default")
	require.Len(t, secrets, 3)
	require.Equal(t, after.WebhookSecret("default"), secrets[0])
	require.Contains(t, secrets, before.WebhookSecret("default"))
	require.NotEqual(t, before.WebhookSecret("default"), secrets[0])
}

// Only its tenant can open a value that a producer sealed, also after a rotation.
func TestProducersSeal(t *testing.T) {
	t.Parallel()
	before, after := keyring(t, 7), rotated(t)
	require.Equal(t, "RhjnHA5dmwNBbV7Vwm4RA4eg0_UEju09_YGwhrpdhHc", before.SealKey(),
		"producers may have kept it")
	sealed, err := secrets.SealValue(before.SealKey(), "shop", "Bearer 密")
	require.NoError(t, err)
	for name, k := range map[string]*secrets.Keyring{"before": before, "after": after} {
		plain, err := k.OpenValue("shop", sealed)
		require.NoError(t, err, name)
		require.Equal(t, "Bearer 密", plain)
		for _, wrong := range []string{sealed + "A", sealed[:len(sealed)-2], "sealed:v1:", "sealed:v1:!",
			strings.Replace(sealed, "A", "B", 1) + "x"} {
			_, err = k.OpenValue("shop", wrong)
			require.ErrorIs(t, err, events.ErrSealed)
		}
		_, err = k.OpenValue("other", sealed)
		require.ErrorIs(t, err, events.ErrSealed)
		plain, err = k.OpenValue("shop", "in clear")
		require.NoError(t, err)
		require.Equal(t, "in clear", plain)
	}
	// Old sealed values stay readable; DESIGN.md has this one as a test vector.
	plain, err := before.OpenValue("shop", sealedOnce)
	require.NoError(t, err)
	require.Equal(t, "Bearer 密", plain)
	_, err = secrets.SealValue("short", "shop", "x")
	require.Error(t, err)
	require.NoError(t, secrets.CheckSealed(sealed))
	require.NoError(t, secrets.CheckSealed("in clear"))
	for _, wrong := range []string{"sealed:v1:", "sealed:v1:!", "sealed:v1:" + strings.Repeat("A", 60)} {
		require.ErrorIs(t, secrets.CheckSealed(wrong), events.ErrSealed)
	}
}

// FuzzLink changes a link: only the original is valid.
func FuzzLink(f *testing.F) {
	k, err := secrets.NewKeyring(bytes.Repeat([]byte{7}, secrets.KeySize),
		secrets.KeyVersion{Secret: bytes.Repeat([]byte{8}, secrets.KeySize)})
	if err != nil {
		f.Fatal(err)
	}
	x := completed()
	u, err := url.Parse(secrets.DownloadURL(k, "", &x))
	if err != nil {
		f.Fatal(err)
	}
	good := u.Query()
	f.Add(u.Path, good.Get("exp"), good.Get("kid"), good.Get("sig"))
	f.Add(u.Path, "0"+good.Get("exp"), "", good.Get("sig"))
	f.Add(u.Path, "+1", good.Get("kid"), "")
	f.Fuzz(func(t *testing.T, path, exp, kid, sig string) {
		q := url.Values{"exp": {exp}, "kid": {kid}, "sig": {sig}}
		ok, gone := secrets.ValidDownload(k, &x, path, q, x.ExpiresAt.Add(-time.Minute))
		if same := path == u.Path && q.Encode() == good.Encode(); ok != same || gone {
			t.Fatalf("%q exp %q kid %q sig %q: good %t, gone %t", path, exp, kid, sig, ok, gone)
		}
	})
}

// sealedOnce was sealed when the format was introduced.
const sealedOnce = "sealed:v1:lZ9QCGANn4BGke83oypxQUxmA5_dDNxTXaQMQ5alhktK2S_F724_MIfivHB-k0W-G6jt8O0XeRkCFw"
