package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sheaf/cmd/sheaf/node"
	"sheaf/events"
	"sheaf/events/secrets"
)

// addKey adds a key as the command does, and returns it.
func addKey(t *testing.T, file, tenant string) string {
	t.Helper()
	code, out, errs := sheaf(t, t.Context(), "", "keys", "add", "--api-keys", file, "--tenant", tenant, "--name", "a  name")
	require.Zero(t, code, errs)
	return strings.TrimSpace(out)
}

func TestKeysCommands(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "keys")
	key := addKey(t, file, "shop")
	require.Regexp(t, `^sheaf_[a-z2-7]{8}_`, key)
	_, out, _ := sheaf(t, t.Context(), "", "keys", "list", "--api-keys", file)
	require.Regexp(t, regexp.MustCompile(`(?m)^[a-z2-7]{8}  shop    operate  \d{4}-.* a name$`), out)
	code, _, errs := sheaf(t, t.Context(), "", "keys", "revoke", "--api-keys", file, key)
	require.Zero(t, code, errs)
	_, out, _ = sheaf(t, t.Context(), "", "keys", "list", "--api-keys", file)
	require.NotContains(t, out, "shop")
}

// The client commands reach a server that requires keys and TLS. Without either they name the missing
// setting.
func TestKeysAndTLS(t *testing.T) {
	dir := t.TempDir()
	pair := httptest.NewTLSServer(nil)
	pair.Close()
	pkcs8, err := x509.MarshalPKCS8PrivateKey(pair.TLS.Certificates[0].PrivateKey)
	require.NoError(t, err)
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	require.NoError(t, os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate().Raw}), 0o600))
	require.NoError(t, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600))
	keys := filepath.Join(dir, "keys")
	api := addKey(t, keys, "shop")
	p := startServe(t, "--http", "127.0.0.1:0", "--nats-listen", "none", "--data", filepath.Join(dir, "data"),
		"--api-keys", keys, "--tls-cert", cert, "--tls-key", key)
	require.True(t, strings.HasPrefix(p.http, "https://"), p.http)
	request := filepath.Join(dir, "request.json")
	require.NoError(t, os.WriteFile(request, []byte(`{"timestamp":1,"ext_type":"XLSX","title":"t","user_id":"7","source_raw":"[{\"a\":\"A\"},{\"a\":1}]"}`), 0o600))
	sheaf := func(args ...string) (code int, out, errs string) {
		var o, e bytes.Buffer
		code = run(t.Context(), append(args, "--server", p.http), stdio{out: &o, err: &e}, noLog)
		return code, strings.TrimSpace(o.String()), e.String()
	}
	code, _, errs := sheaf("submit", request, "--api-key", api)
	require.Equal(t, 3, code)
	require.Contains(t, errs, "certificate")
	code, _, errs = sheaf("submit", request, "--ca-cert", cert)
	require.Equal(t, 1, code)
	require.Contains(t, errs, "say --api-key")
	t.Setenv("SHEAF_API_KEY", api)
	code, hash, errs := sheaf("submit", request, "--ca-cert", cert)
	require.Zero(t, code, errs)
	code, _, errs = sheaf("watch", hash, "--ca-cert", cert)
	require.Zero(t, code, errs)
	code, _, errs = sheaf("download", hash, "--ca-cert", cert, "-o", filepath.Join(dir, "t.xlsx"))
	require.Zero(t, code, errs)
	require.NotContains(t, p.err.String(), api)

	var sealed, said bytes.Buffer
	require.Zero(t, run(t.Context(), []string{"seal", "--tenant", "shop", "--server", p.http, "--ca-cert", cert}, stdio{in: strings.NewReader("s3cret\n"), out: &sealed, err: &said}, noLog), said.String())
	require.Equal(t, "sealed for tenant shop\n", said.String())
	ring, err := node.KeyConfig{Data: filepath.Join(dir, "data")}.Keyring(slog.Default())
	require.NoError(t, err)
	plain, err := ring.OpenValue("shop", strings.TrimSpace(sealed.String()))
	require.NoError(t, err)
	require.Equal(t, "s3cret", plain)
}

func TestCallbackSecret(t *testing.T) {
	t.Parallel()
	key := strings.Repeat("ab", 32)
	code, out, _ := sheaf(t, t.Context(), "", "callback-secret", "--secret-key", key)
	require.Zero(t, code)
	keys, err := secrets.NewKeyring(bytes.Repeat([]byte{0xab}, 32))
	require.NoError(t, err)
	require.Equal(t, keys.WebhookSecret(events.DefaultTenant)+"\n", out)

	data := t.TempDir()
	code, _, errs := sheaf(t, t.Context(), "", "callback-secret", "--data", data)
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "sheaf serve makes one")
	entries, err := os.ReadDir(data)
	require.NoError(t, err)
	require.Empty(t, entries)
}
