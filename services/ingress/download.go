package ingress

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"sheaf/events"
	"sheaf/events/secrets"
	"sheaf/storage"

	"github.com/go-chi/chi/v5/middleware"
)

// errcodeGone answers a link that was valid once: it has expired, or its file has.
const errcodeGone = 410

// smallFile is the size up to which a file is read and checked before its first byte is sent, in some 10 ms.
// A larger one is checked while it is sent.
const smallFile = 4 << 20

// downloads serves finished files by signed links, without an API key. A link names one file of one export
// until the file expires.
type downloads struct {
	*Service
	tasks *storage.Tasks
	// fresh waits until the projection has seen every acknowledged event. A link may come from an ingress
	// that is ahead of this one.
	fresh func(ctx context.Context) error
}

func (s *Service) newDownloads() *downloads {
	return &downloads{Service: s, tasks: s.tasks, fresh: s.readYourWrites}
}

// ServeHTTP serves GET and HEAD of /v1/down/YYYY/M/D/<key>.zip?exp=&sig=, whole
// or in ranges (RFC 9110, section 14). The ETag is the SHA-256 of the file.
func (d *downloads) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	// The query is a secret: it must not reach another site or a shared cache.
	h.Set("Referrer-Policy", "no-referrer")
	outcome := downloadFailed
	defer func() { d.count(w, r, outcome) }()
	x, err := d.find(r)
	if err != nil {
		outcome = outcomeOf(err)
		respond(w, r, nil, err)
		return
	}
	l := lineOf(r)
	l.tenant, l.key = x.Tenant, x.Key
	entry := x.Files[0]
	leave, err := d.readTurn(r.Context(), x.Tenant)
	if err != nil {
		respond(w, r, nil, err)
		return
	}
	// The store's server sends the bytes of a large file, so here it is only looked at.
	direct := d.cfg.Link != nil && entry.Size > smallFile && redirectable(r, entry.Store)
	readUpTo := int64(smallFile)
	if direct {
		readUpTo = storage.SizeOnly
	}
	file, err := storage.OpenFinished(r.Context(), d.files, &x, readUpTo)
	leave()
	if err != nil {
		respond(w, r, nil, d.unreadable(r, &x, err))
		return
	}
	defer func() { _ = file.Close() }()
	if direct && d.redirect(w, r, &x) {
		outcome = downloadRedirected
		return
	}
	// A caller that reads very slowly would keep the file open. A test's recorder has no deadlines.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(downloadWait(entry.Size)))
	h.Set("Cache-Control", "private")
	h.Set("Content-Type", d.mediaType(path.Ext(entry.Store)))
	if path.Ext(entry.Store) == events.HTML.Ext { // its rows are the source's
		h.Set("Content-Security-Policy", "sandbox; default-src 'none'; style-src 'unsafe-inline'")
	}
	h.Set("Content-Disposition", attachment(entry.Name, path.Base(r.URL.Path)))
	h.Set("ETag", `"`+entry.SHA256+`"`)
	http.ServeContent(w, r, "", x.FinishedAt, file)
	if outcome = downloadSent; r.Context().Err() != nil || file.Err() != nil {
		outcome = downloadCut
	}
	if err := file.Err(); err != nil {
		// The last bytes were not sent. The next request gets the reason.
		_ = d.unreadable(r, &x, err)
		panic(http.ErrAbortHandler)
	}
}

// noRedirect is a preference (RFC 7240) of callers that follow no redirects.
const noRedirect = "no-redirect"

// redirectable reports whether a download may be answered with a link of the store's server. That link is
// valid for GET alone. It cannot send the policy that HTML needs.
func redirectable(r *http.Request, store string) bool {
	return r.Method == http.MethodGet && path.Ext(store) != events.HTML.Ext &&
		!slices.Contains(r.Header.Values("Prefer"), noRedirect)
}

// redirect answers with a link of the store's server, which does not outlive the link of the request. Without
// one it answers nothing.
func (d *downloads) redirect(w http.ResponseWriter, r *http.Request, x *events.Export) bool {
	seconds, err := strconv.ParseInt(r.URL.Query().Get("exp"), 10, 64)
	if err != nil {
		return false
	}
	until := time.Unix(seconds, 0)
	if x.ExpiresAt.Before(until) {
		until = x.ExpiresAt
	}
	entry := x.Files[0]
	to, err := d.cfg.Link(r.Context(), entry.Store, until, d.mediaType(path.Ext(entry.Store)),
		attachment(entry.Name, path.Base(r.URL.Path)))
	if err != nil {
		x.With(d.cfg.Log).Warn("no link of the file store; sending the file", "error", err)
		return false
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Location", to)
	w.WriteHeader(http.StatusTemporaryRedirect)
	return true
}

// count counts an answered download, and the bytes of the file that were sent.
func (d *downloads) count(w http.ResponseWriter, r *http.Request, outcome string) {
	if r.Method == http.MethodHead {
		return
	}
	d.metrics.downloads.WithLabelValues(outcome).Inc()
	if ww, ok := w.(middleware.WrapResponseWriter); ok && (outcome == downloadSent || outcome == downloadCut) {
		d.metrics.sent.Add(float64(ww.BytesWritten()))
	}
}

// outcomeOf classifies a download whose link is not valid.
func outcomeOf(err error) string {
	switch refused := asAPIError(err); refused.Status {
	case http.StatusNotFound:
		return downloadUnknown
	case http.StatusGone:
		return downloadExpired
	}
	return downloadFailed
}

// mediaType returns the media type of the format with a suffix.
func (d *downloads) mediaType(suffix string) string {
	for _, f := range append(slices.Clone(d.cfg.Formats), events.Zip) {
		if f.Ext == suffix {
			return f.MediaType
		}
	}
	return "application/octet-stream"
}

// unreadable answers a download whose file cannot be read. It expires the export if the file is lost.
func (d *downloads) unreadable(r *http.Request, x *events.Export, err error) error {
	if !storage.IsLost(err) {
		return unavailable("the finished files cannot be read now; try again", storeWait, fmt.Errorf("reading the file of key %s: %w", x.Key, err))
	}
	// The caller may be gone.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), beginWait)
	defer cancel()
	if err := storage.ExpireLost(ctx, d.journal, d.files, d.cfg.Log, x, err); err != nil {
		return err
	}
	if err := d.fresh(ctx); err != nil {
		return err
	}
	if _, gone := d.find(r); gone != nil {
		return gone
	}
	return unavailable("the finished file is being replaced; try again", time.Second, err)
}

// slowestDownload is the minimum average rate of a download, in bytes a second. It allows for a bad mobile
// link.
const slowestDownload = 8 << 10

// downloadWait bounds the download of a file.
func downloadWait(size int64) time.Duration {
	return time.Minute + time.Duration(size/slowestDownload)*time.Second
}

// find returns the export of a request's link, if the link is valid.
func (d *downloads) find(r *http.Request) (events.Export, error) {
	key, _, _ := strings.Cut(path.Base(r.URL.Path), ".")
	q := r.URL.Query()
	missing := &apiError{
		Errcode: errcodeNotFound, Status: http.StatusNotFound,
		Msg: "no such file, or the link is not as it was handed out; ask for detail to get a link",
	}
	if !events.ValidKey(key) || q.Get("sig") == "" {
		return events.Export{}, missing
	}
	for waited := false; ; waited = true {
		x, err := d.tasks.Get(key)
		if err != nil && !errors.Is(err, storage.ErrUnknownKey) {
			return x, err
		}
		ok, gone := secrets.ValidDownload(d.journal.Keys(), &x, r.URL.Path, q, time.Now())
		switch {
		case ok:
			return x, nil
		case gone:
			msg := "the link has expired; retry the export to get a new file"
			if x.State == events.StateExpired && x.ExpiredReason != "" {
				msg = x.ExpiredReason + "; retry the export to make it again"
			}
			return x, &apiError{Errcode: errcodeGone, Status: http.StatusGone, Msg: msg}
		case waited:
			return x, missing
		}
		if err := d.fresh(r.Context()); err != nil {
			return x, err
		}
	}
}

// attachment returns a Content-Disposition (RFC 6266) with a file's name in two forms. Browsers read
// filename* (RFC 8187). curl -OJ and wget read filename and write its bytes unchanged, so it holds the name
// in UTF-8. Characters that some clients decode or escape in quotes become "_" there (RFC 6266, appendix D).
// An empty result becomes plain.
func attachment(name, plain string) string {
	name = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || r == '/' || r == '\\' || unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) ||
			r == '\u2028' || r == '\u2029' {
			return -1
		}
		return r
	}, name)
	if strings.Trim(name, ". ") == "" {
		name = plain
	}
	return `attachment; filename="` + inQuotes.Replace(name) + `"; filename*=UTF-8''` + extValue(name)
}

var inQuotes = strings.NewReplacer(`"`, "_", "%", "_")

// extValue encodes all but attr-char (RFC 8187, section 3.2.1).
func extValue(s string) string {
	const hexDigits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!#$&+-.^_`|~", c) >= 0 {
			b.WriteByte(c)
		} else {
			b.WriteByte('%')
			b.WriteByte(hexDigits[c>>4])
			b.WriteByte(hexDigits[c&15])
		}
	}
	return b.String()
}
