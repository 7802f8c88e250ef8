// Package secrets protects secret data: keys derived from an installation's secret keys, values sealed with
// them, and signed links. Its values never appear in logs, whatever the verb. Data sealed or signed for one
// tenant or export is useless for another. It does no I/O.
package secrets

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"sheaf/events"
)

// KeySize is the minimum length of the secret key in bytes.
const KeySize = 32

// Keyring holds the keys derived from the secret keys of an installation by HKDF-SHA256 (RFC 5869), one per
// purpose, so that no use weakens another. It is safe for concurrent use and never printed.
//
// The first secret key identifies the installation forever: the keys of exports and the fingerprint come from
// it. The newest key whose time has come seals and signs. Data that an older key sealed or signed is valid as
// long as the keyring has that key.
type Keyring struct {
	hash, fingerprint []byte
	versions          []version // oldest first
}

// KeyVersion is an additional secret key.
type KeyVersion struct {
	Secret []byte    // at least KeySize random bytes
	From   time.Time // start of use; later than the roll-out to all processes; zero: at once
}

// version holds the keys derived from one secret key.
type version struct {
	id                         string // kid in links; "" for the first
	from                       time.Time
	seal, link, share, webhook []byte
	producers                  hpke.PrivateKey
}

// NewKeyring derives the keys. secret must be at least KeySize random bytes; newer are the later ones, in
// order.
func NewKeyring(secret []byte, newer ...KeyVersion) (*Keyring, error) {
	k := &Keyring{}
	for i, v := range append([]KeyVersion{{Secret: secret}}, newer...) {
		if len(v.Secret) < KeySize {
			return nil, fmt.Errorf("secret key has %d bytes, want at least %d random ones",
				len(v.Secret), KeySize)
		}
		one := version{from: v.From}
		var id, producers []byte
		purposes := map[string]*[]byte{"seal": &one.seal, "link": &one.link, "share": &one.share,
			"webhook": &one.webhook, "producers": &producers}
		if i == 0 {
			purposes["hash_key"], purposes["fingerprint"] = &k.hash, &k.fingerprint
		} else {
			purposes["id"] = &id
		}
		for purpose, dst := range purposes {
			key, err := hkdf.Key(sha256.New, v.Secret, nil, "sheaf "+purpose+" v1", 32)
			if err != nil {
				return nil, fmt.Errorf("deriving the %s key: %w", purpose, err)
			}
			*dst = key
		}
		if i > 0 {
			one.id = hex.EncodeToString(id[:4])
		}
		scalar, err := ecdh.X25519().NewPrivateKey(producers)
		if err == nil {
			one.producers, err = hpke.NewDHKEMPrivateKey(scalar)
		}
		if err != nil {
			return nil, fmt.Errorf("deriving the key of producers: %w", err)
		}
		k.versions = append(k.versions, one)
	}
	return k, nil
}

// current returns the newest version whose time has come.
func (k *Keyring) current() *version {
	now := time.Now()
	for i := len(k.versions) - 1; i > 0; i-- {
		if !k.versions[i].from.After(now) {
			return &k.versions[i]
		}
	}
	return &k.versions[0]
}

// Format keeps the keys out of logs, whatever the verb.
func (Keyring) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[redacted]") }

// HashKey returns the key of a request: 32 unguessable hexadecimal characters, equal for equal requests of a
// tenant. canonical is the request's body in canonical form.
func (k *Keyring) HashKey(tenant, sourceType string, canonical []byte) string {
	m := hmac.New(sha256.New, k.hash)
	m.Write([]byte(tenant + "\x00" + sourceType + "\x00"))
	m.Write(canonical)
	return hex.EncodeToString(m.Sum(nil)[:16])
}

// IdempotencyName returns the stored form of a caller's Idempotency-Key.
func (k *Keyring) IdempotencyName(tenant, key string) string {
	m := hmac.New(sha256.New, k.hash)
	m.Write([]byte("idempotency\x00" + tenant + "\x00" + key))
	return hex.EncodeToString(m.Sum(nil)[:16])
}

// SubmissionKey returns the key under which a refused submission is reported. It depends on the submission's
// place in the stream, because its content may not have a key.
func (k *Keyring) SubmissionKey(tenant string, sub events.Submission) string {
	return k.HashKey(tenant, "submission",
		[]byte(sub.StreamCreated.UTC().Format("20060102T150405.000000000")+"\x00"+
			strconv.FormatUint(sub.Sequence, 10)))
}

// WebhookSecret returns the key that signs a tenant's callbacks, in the form of Standard Webhooks: "whsec_"
// and base64.
func (k *Keyring) WebhookSecret(tenant string) string { return k.current().webhookSecret(tenant) }

// WebhookSecrets returns all keys that a receiver may still use, newest first. Callbacks carry a signature by
// each, so receivers can switch at any time.
func (k *Keyring) WebhookSecrets(tenant string) []string {
	current := k.WebhookSecret(tenant)
	secrets := []string{current}
	for i := range slices.Backward(k.versions) {
		if s := k.versions[i].webhookSecret(tenant); s != current {
			secrets = append(secrets, s)
		}
	}
	return secrets
}

func (v *version) webhookSecret(tenant string) string {
	m := hmac.New(sha256.New, v.webhook)
	m.Write([]byte(tenant))
	return "whsec_" + base64.StdEncoding.EncodeToString(m.Sum(nil))
}

// Fingerprint distinguishes secret keys without revealing them.
func (k *Keyring) Fingerprint() string {
	m := hmac.New(sha256.New, k.fingerprint)
	m.Write([]byte("fingerprint"))
	return hex.EncodeToString(m.Sum(nil)[:16])
}

// Seal encrypts with AES-256-GCM, bound to tenant and key: sealed data moved to another export cannot be
// opened.
func (k *Keyring) Seal(tenant, key string, plain []byte) ([]byte, error) {
	a, err := k.current().aead()
	if err != nil {
		return nil, err
	}
	return a.Seal(nil, nil, plain, []byte(tenant+"\x00"+key)), nil
}

// Open decrypts the result of Seal. Every error is ErrSealed.
func (k *Keyring) Open(tenant, key string, sealed []byte) ([]byte, error) {
	for i := range k.versions {
		a, err := k.versions[i].aead()
		if err != nil {
			return nil, err
		}
		if plain, err := a.Open(nil, nil, sealed, []byte(tenant+"\x00"+key)); err == nil {
			return plain, nil
		}
	}
	return nil, events.ErrSealed
}

// sealedPrefix begins a value that a producer sealed. The rest is base64url, without padding, of an HPKE
// message (RFC 9180, base mode) with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and AES-256-GCM: the
// encapsulated key of 32 bytes and the ciphertext. The info is "sheaf sealed v1", a zero byte and the tenant,
// so that a value of one tenant is useless to another.
const sealedPrefix = "sealed:v1:"

func sealedInfo(tenant string) []byte { return []byte("sheaf sealed v1\x00" + tenant) }

// SealKey returns the public key for sealing values, in base64url without padding.
func (k *Keyring) SealKey() string {
	return base64.RawURLEncoding.EncodeToString(k.current().producers.PublicKey().Bytes())
}

// SealValue seals a value for a tenant with a public key from SealKey.
func SealValue(sealKey, tenant, value string) (string, error) {
	raw, err := base64.RawURLEncoding.DecodeString(sealKey)
	if err != nil {
		return "", fmt.Errorf("key to seal with: %w", err)
	}
	point, err := ecdh.X25519().NewPublicKey(raw)
	if err != nil {
		return "", fmt.Errorf("key to seal with: %w", err)
	}
	public, err := hpke.NewDHKEMPublicKey(point)
	if err != nil {
		return "", fmt.Errorf("key to seal with: %w", err)
	}
	sealed, err := hpke.Seal(public, hpke.HKDFSHA256(), hpke.AES256GCM(), sealedInfo(tenant), []byte(value))
	if err != nil {
		return "", fmt.Errorf("sealing: %w", err)
	}
	return sealedPrefix + base64.RawURLEncoding.EncodeToString(sealed), nil
}

// IsSealed reports whether a value has the prefix of those that a producer sealed.
func IsSealed(value string) bool { return strings.HasPrefix(value, sealedPrefix) }

// CheckSealed returns ErrSealed for a value that has the sealed prefix but a wrong form. It opens nothing;
// the crawler does.
func CheckSealed(value string) error {
	text, ok := strings.CutPrefix(value, sealedPrefix)
	if !ok {
		return nil
	}
	const least = 32 + 16 // the encapsulated key, and the tag of an empty text
	if sealed, err := base64.RawURLEncoding.DecodeString(text); err != nil || len(sealed) < least {
		return events.ErrSealed
	}
	return nil
}

// OpenValue opens a value that a producer sealed, and returns any other unchanged. The error is ErrSealed if
// it was sealed with another key or for another tenant, or changed.
func (k *Keyring) OpenValue(tenant, value string) (string, error) {
	text, ok := strings.CutPrefix(value, sealedPrefix)
	if !ok {
		return value, nil
	}
	sealed, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return "", events.ErrSealed
	}
	for i := range k.versions {
		plain, err := hpke.Open(k.versions[i].producers, hpke.HKDFSHA256(), hpke.AES256GCM(),
			sealedInfo(tenant), sealed)
		if err == nil {
			return string(plain), nil
		}
	}
	return "", events.ErrSealed
}

func (v *version) aead() (cipher.AEAD, error) {
	b, err := aes.NewCipher(v.seal)
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	// Random 96-bit nonces are safe for 2^32 messages of one key (NIST SP 800-38D, 8.3).
	a, err := cipher.NewGCMWithRandomNonce(b)
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	return a, nil
}
