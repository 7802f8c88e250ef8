package events

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
)

// SecretKeySize is the least length of the secret key in bytes.
const SecretKeySize = 32

// Keyring holds the keys that are derived from the one secret key of an
// installation by HKDF-SHA256 (RFC 5869), one for each purpose, so that no use
// weakens another. It is safe for concurrent use and never printed.
type Keyring struct {
	hash, seal, link, webhook, fingerprint, store []byte
}

// NewKeyring derives the keys. secret must be at least SecretKeySize random
// bytes.
func NewKeyring(secret []byte) (*Keyring, error) {
	if len(secret) < SecretKeySize {
		return nil, fmt.Errorf("secret key has %d bytes, want at least %d random ones", len(secret), SecretKeySize)
	}
	k := &Keyring{}
	for purpose, dst := range map[string]*[]byte{
		"hash_key": &k.hash, "seal": &k.seal, "link": &k.link, "webhook": &k.webhook, "fingerprint": &k.fingerprint, "jetstream": &k.store,
	} {
		key, err := hkdf.Key(sha256.New, secret, nil, "sheaf "+purpose+" v1", 32)
		if err != nil {
			return nil, fmt.Errorf("deriving the %s key: %w", purpose, err)
		}
		*dst = key
	}
	return k, nil
}

// Format keeps the keys out of logs, whatever the verb.
func (Keyring) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[redacted]") }

// HashKey returns the key of a request: 32 hexadecimal characters that nobody
// can guess, equal for equal requests of a tenant. canonical is the request's
// body in canonical form.
func (k *Keyring) HashKey(tenant, sourceType string, canonical []byte) string {
	m := hmac.New(sha256.New, k.hash)
	m.Write([]byte(tenant + "\x00" + sourceType + "\x00"))
	m.Write(canonical)
	return hex.EncodeToString(m.Sum(nil)[:16])
}

// SubmissionKey returns the key under which a submission that could not be
// accepted is told: made from its place in the stream, since its content
// cannot be trusted to have one.
func (k *Keyring) SubmissionKey(tenant string, sub Submission) string {
	return k.HashKey(tenant, "submission", []byte(sub.StreamCreated.UTC().Format("20060102T150405.000000000")+"\x00"+strconv.FormatUint(sub.Sequence, 10)))
}

// WebhookSecret is the key that signs callbacks of a tenant, in the form that
// Standard Webhooks gives to receivers: "whsec_" and base64.
func (k *Keyring) WebhookSecret(tenant string) string {
	m := hmac.New(sha256.New, k.webhook)
	m.Write([]byte(tenant))
	return "whsec_" + base64.StdEncoding.EncodeToString(m.Sum(nil))
}

// StoreKey encrypts what an embedded server keeps on disk.
func (k *Keyring) StoreKey() string { return hex.EncodeToString(k.store) }

// Fingerprint tells two secret keys apart without giving either away.
func (k *Keyring) Fingerprint() string {
	m := hmac.New(sha256.New, k.fingerprint)
	m.Write([]byte("fingerprint"))
	return hex.EncodeToString(m.Sum(nil)[:16])
}

// Seal encrypts with AES-256-GCM, bound to tenant and key: sealed data moved
// to another export does not open.
func (k *Keyring) Seal(tenant, key string, plain []byte) ([]byte, error) {
	a, err := k.aead()
	if err != nil {
		return nil, err
	}
	return a.Seal(nil, nil, plain, []byte(tenant+"\x00"+key)), nil
}

// Open decrypts what Seal made. Any failure is ErrSealed.
func (k *Keyring) Open(tenant, key string, sealed []byte) ([]byte, error) {
	a, err := k.aead()
	if err != nil {
		return nil, err
	}
	plain, err := a.Open(nil, nil, sealed, []byte(tenant+"\x00"+key))
	if err != nil {
		return nil, ErrSealed
	}
	return plain, nil
}

func (k *Keyring) aead() (cipher.AEAD, error) {
	b, err := aes.NewCipher(k.seal)
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	// Random 96-bit nonces are good for 2^32 messages of one key (NIST
	// SP 800-38D, 8.3).
	a, err := cipher.NewGCMWithRandomNonce(b)
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	return a, nil
}
