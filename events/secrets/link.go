package secrets

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"sheaf/events"
)

// DownloadPath returns the path of a finished export's download: /v1/down/YYYY/M/D/<key>.zip, with its
// creation day and the suffix of its file in the store.
func DownloadPath(x *events.Export) string {
	y, m, d := x.CreatedAt.Date()
	suffix := ""
	if len(x.Files) > 0 {
		suffix = path.Ext(x.Files[0].Store)
	}
	return fmt.Sprintf("/v1/down/%d/%d/%d/%s%s", y, int(m), d, x.Key, suffix)
}

// DownloadURL returns the signed link to the file of a completed export, valid until the file expires and for
// that file alone; "" if there is none. publicURL is the base of all links, without a trailing slash.
func DownloadURL(keys *Keyring, publicURL string, x *events.Export) string {
	if x.State != events.StateCompleted || len(x.Files) == 0 {
		return ""
	}
	at, exp := DownloadPath(x), x.ExpiresAt.Unix()
	v := keys.current()
	q := url.Values{"exp": {strconv.FormatInt(exp, 10)}, "sig": {v.linkSignature(at, x.Files[0].Store, exp)}}
	if v.id != "" {
		q.Set("kid", v.id)
	}
	return strings.TrimRight(publicURL, "/") + at + "?" + q.Encode()
}

// ValidDownload reports whether the exp, kid and sig of a link's query allow downloading x now. gone means
// that the link was valid but has expired, or its file has. kid names the secret key that signed the link,
// the first if absent. A link works as long as its key is known and its file exists.
func ValidDownload(keys *Keyring, x *events.Export, path string, q url.Values,
	now time.Time) (ok, gone bool) {
	exp, sig := q.Get("exp"), q.Get("sig")
	seconds, err := strconv.ParseInt(exp, 10, 64)
	if err != nil || strconv.FormatInt(seconds, 10) != exp || len(x.Files) == 0 || path != DownloadPath(x) {
		return false, false
	}
	i := slices.IndexFunc(keys.versions, func(v version) bool { return v.id == q.Get("kid") })
	if i < 0 {
		return false, false
	}
	want := keys.versions[i].linkSignature(path, x.Files[0].Store, seconds)
	if !hmac.Equal([]byte(sig), []byte(want)) {
		return false, false
	}
	if x.State != events.StateCompleted || now.Unix() >= seconds {
		return false, true
	}
	return true, false
}

// linkSignature signs the combination of a path, a stored file and an expiry.
func (v *version) linkSignature(path, store string, exp int64) string {
	m := hmac.New(sha256.New, v.link)
	m.Write([]byte("GET\x00" + path + "\x00" + store + "\x00" + strconv.FormatInt(exp, 10)))
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}
