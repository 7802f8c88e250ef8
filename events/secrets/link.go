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

// DownloadPath is the path of the download of a finished export:
// /v1/down/YYYY/M/D/<key>.zip, with the day on which it was created, and the suffix that
// its file has in the store.
func DownloadPath(x *events.Export) string {
	y, m, d := x.CreatedAt.Date()
	suffix := ""
	if len(x.Files) > 0 {
		suffix = path.Ext(x.Files[0].Store)
	}
	return fmt.Sprintf("/v1/down/%d/%d/%d/%s%s", y, int(m), d, x.Key, suffix)
}

// DownloadURL is the signed link to the file of a completed export, valid
// until the file expires and for that one file alone; "" when there is none.
// publicURL is the base of all links, without a slash at its end.
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

// ValidDownload reports whether the exp, kid and sig of a link's query allow the
// download of x at a time. gone is true for a link that was good once and has
// expired, or whose file has. kid names the secret key that signed the link, none
// the first; a link lives as long as its key is known and its file is there.
func ValidDownload(keys *Keyring, x *events.Export, path string, q url.Values, now time.Time) (ok, gone bool) {
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

// linkSignature binds a path, one stored file and an end of validity together.
func (v *version) linkSignature(path, store string, exp int64) string {
	m := hmac.New(sha256.New, v.link)
	m.Write([]byte("GET\x00" + path + "\x00" + store + "\x00" + strconv.FormatInt(exp, 10)))
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}
