package secrets

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"sheaf/events"
)

// Errors of ReadShareToken.
var (
	ErrNoShare      = errors.New("not a share token of this installation")
	ErrShareExpired = errors.New("the share token has expired")
)

// maxShareToken bounds the length of a share token: far more than a return URL of 1 KiB and the rest.
const maxShareToken = 4 << 10

// Share is the content of a share token: it lets its holder watch one export and download its file.
type Share struct {
	Key       string // of the export
	Expires   time.Time
	ReturnURL string // where the holder came from; "" for none
}

// ShareToken returns a signed token for an export, valid until exp in whole seconds: key.exp.kid.sig, and
// after a further dot the return URL, if there is one. It consists of characters that need no escape in a
// path. No link of another kind is valid as a share token, nor the reverse.
func ShareToken(keys *Keyring, key string, exp time.Time, returnURL string) string {
	v, seconds := keys.current(), strconv.FormatInt(exp.Unix(), 10)
	token := strings.Join([]string{key, seconds, v.id, v.shareSignature(key, seconds, returnURL)}, ".")
	if returnURL != "" {
		token += "." + base64.RawURLEncoding.EncodeToString([]byte(returnURL))
	}
	return token
}

// ReadShareToken returns the content of a token that is valid now. The error is ErrShareExpired for one that
// was valid, and otherwise ErrNoShare.
func ReadShareToken(keys *Keyring, token string, now time.Time) (Share, error) {
	parts := strings.Split(token, ".")
	if len(token) > maxShareToken || len(parts) < 4 || len(parts) > 5 || !events.ValidKey(parts[0]) {
		return Share{}, ErrNoShare
	}
	s := Share{Key: parts[0]}
	seconds, err := strconv.ParseInt(parts[1], 10, 64)
	if err != nil || strconv.FormatInt(seconds, 10) != parts[1] {
		return Share{}, ErrNoShare
	}
	if len(parts) == 5 {
		returnURL, err := base64.RawURLEncoding.Strict().DecodeString(parts[4])
		if err != nil || len(returnURL) == 0 {
			return Share{}, ErrNoShare
		}
		s.ReturnURL = string(returnURL)
	}
	i := slices.IndexFunc(keys.versions, func(v version) bool { return v.id == parts[2] })
	if i < 0 {
		return Share{}, ErrNoShare
	}
	if !hmac.Equal([]byte(parts[3]), []byte(keys.versions[i].shareSignature(s.Key, parts[1], s.ReturnURL))) {
		return Share{}, ErrNoShare
	}
	if s.Expires = time.Unix(seconds, 0); !now.Before(s.Expires) {
		return Share{}, ErrShareExpired
	}
	return s, nil
}

func (v *version) shareSignature(key, seconds, returnURL string) string {
	m := hmac.New(sha256.New, v.share)
	m.Write([]byte(key + "\x00" + seconds + "\x00" + returnURL))
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}
