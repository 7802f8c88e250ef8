package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// makeCertificate writes a certificate of 127.0.0.1 that signs itself.
func makeCertificate(t *testing.T, dir string, serial int64) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	require.NoError(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	require.NoError(t, os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	require.NoError(t, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600))
	return cert, key
}

// The client commands reach a server that asks for keys and speaks TLS; without
// the one or the other they say what is missing.
func TestKeysAndTLS(t *testing.T) {
	dir := t.TempDir()
	cert, key := makeCertificate(t, dir, 1)
	keys := filepath.Join(dir, "keys")
	api := addKey(t, keys, "shop")
	p := startServe(t, "--http", "127.0.0.1:0", "--nats-listen", "none", "--data", filepath.Join(dir, "data"),
		"--api-keys", keys, "--tls-cert", cert, "--tls-key", key)
	require.True(t, strings.HasPrefix(p.http, "https://"), p.http)
	request := filepath.Join(dir, "request.json")
	require.NoError(t, os.WriteFile(request, []byte(`{"timestamp":1,"ext_type":"XLSX","title":"t","user_id":"7","source_raw":"[{\"a\":\"A\"},{\"a\":1}]"}`), 0o600))
	sheaf := func(args ...string) (code int, out, errs string) {
		var o, e bytes.Buffer
		code = run(t.Context(), append(args, "--server", p.http), stdio{nil, &o, &e}, noLog)
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
	require.Zero(t, run(t.Context(), []string{"seal", "--tenant", "shop", "--server", p.http, "--ca-cert", cert}, stdio{strings.NewReader("s3cret\n"), &sealed, &said}, noLog), said.String())
	ring, err := KeyConfig{Data: filepath.Join(dir, "data")}.keyring()
	require.NoError(t, err)
	plain, err := ring.OpenValue("shop", strings.TrimSpace(sealed.String()))
	require.NoError(t, err)
	require.Equal(t, "s3cret", plain)
}

// A renewed certificate is shown without a restart; one that is half written is
// not.
func TestCertificateIsReadAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, key := makeCertificate(t, dir, 1)
	c, err := openCertificate(cert, key)
	require.NoError(t, err)
	serial := func() int64 {
		shown, err := c.config().GetCertificate(nil)
		require.NoError(t, err)
		return shown.Leaf.SerialNumber.Int64()
	}
	require.EqualValues(t, 1, serial())
	require.NoError(t, os.WriteFile(cert, []byte("half"), 0o600))
	require.Error(t, c.read())
	require.EqualValues(t, 1, serial())
	makeCertificate(t, dir, 2)
	require.NoError(t, c.read())
	require.EqualValues(t, 2, serial())
	_, err = openCertificate(key, cert)
	require.ErrorContains(t, err, "--tls-cert")
}
