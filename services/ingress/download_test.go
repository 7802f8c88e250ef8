package ingress

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/secrets"
	"sheaf/storage"

	"github.com/stretchr/testify/require"
)

func testKey(n int) string { return fmt.Sprintf("%032x", n) }

// requestOf returns a request with sealed source headers.
func requestOf(title string) *events.ExportRequested {
	return &events.ExportRequested{CreatedAt: time.Now().UTC(), Request: events.Request{
		ExtType: "XLSX", Title: title, UserID: "u", SourceType: events.SourceHTTP,
		HTTP: &events.HTTPRequest{URL: "http://127.0.0.1/p", Method: "GET", Limit: 10, Conn: 1, Header: []string{"Token"}},
	}}
}

// commit puts a file into the store.
func (in *ingress) commit(t testing.TB, store string, content []byte) {
	t.Helper()
	draft, err := in.files.Create(t.Context())
	require.NoError(t, err)
	defer draft.Discard()
	_, err = draft.File().Write(content)
	require.NoError(t, err)
	require.NoError(t, in.files.Commit(t.Context(), draft, store))
}

// complete writes all events of an export with a file.
func (in *ingress) complete(t testing.TB, key, title string, content []byte, expires time.Time) events.Export {
	t.Helper()
	x := in.write(t, key, requestOf(title))
	in.write(t, key, &events.ExportCrawled{Run: x.RequestedSeq, Pages: 1})
	store := fmt.Sprintf("default/%s/%s.zip", key, events.NewID())
	in.commit(t, store, content)
	sum := sha256.Sum256(content)
	x = in.write(t, key, &events.ExportCompleted{Run: x.RequestedSeq, Pages: 1, Rows: 1, ExpiresAt: expires.UTC(),
		Files: []events.File{{Name: title + ".zip", Store: store, Size: int64(len(content)), SHA256: hex.EncodeToString(sum[:]), Rows: 1}}})
	require.NoError(t, in.tasks.WaitApplied(t.Context(), x.LastSeq))
	return x
}

func testZip(t testing.TB) []byte {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	f, err := z.Create("a.xlsx")
	require.NoError(t, err)
	_, err = f.Write(bytes.Repeat([]byte("rows "), 10_000))
	require.NoError(t, err)
	require.NoError(t, z.Close())
	return b.Bytes()
}

// download is the complete answer to a link.
type download struct {
	StatusCode    int
	ContentLength int64
	Header        http.Header
}

func fetch(t testing.TB, method, link string, header ...string) (download, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, link, nil)
	require.NoError(t, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return download{resp.StatusCode, resp.ContentLength, resp.Header}, body
}

func TestDownload(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	content := testZip(t)
	x := in.complete(t, testKey(1), "订单 2026", content, time.Now().Add(time.Hour))
	link := secrets.DownloadURL(in.journal.Keys(), in.url, &x)

	resp, body := fetch(t, "GET", link)
	require.Equal(t, http.StatusOK, resp.StatusCode, string(body))
	require.Equal(t, content, body)
	sum := sha256.Sum256(content)
	etag := `"` + hex.EncodeToString(sum[:]) + `"`
	for name, want := range map[string]string{
		"ETag": etag, "Last-Modified": x.FinishedAt.UTC().Format(http.TimeFormat),
		"Content-Type": "application/zip", "Content-Length": fmt.Sprint(len(content)), "Accept-Ranges": "bytes",
		"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "private",
		"Content-Disposition": `attachment; filename="订单 2026.zip"; filename*=UTF-8''%E8%AE%A2%E5%8D%95%202026.zip`,
	} {
		require.Equal(t, want, resp.Header.Get(name), name)
	}

	resp, body = fetch(t, "HEAD", link)
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Empty(t, body)
	require.EqualValues(t, len(content), resp.ContentLength)
	resp, body = fetch(t, "GET", link, "Range", "bytes=10-19", "If-Range", etag)
	require.Equal(t, http.StatusPartialContent, resp.StatusCode)
	require.Equal(t, content[10:20], body)
	resp, body = fetch(t, "GET", link, "Range", "bytes=10-", "If-Range", `"another"`)
	require.Equal(t, http.StatusOK, resp.StatusCode, "a part of another file is no use")
	require.Equal(t, content, body)
	resp, _ = fetch(t, "GET", link, "If-None-Match", etag)
	require.Equal(t, http.StatusNotModified, resp.StatusCode)
	resp, _ = fetch(t, "GET", link, "Range", "bytes=999999999-")
	require.Equal(t, http.StatusRequestedRangeNotSatisfiable, resp.StatusCode)
}

func TestDownloadRefuses(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	x := in.complete(t, testKey(1), "a", testZip(t), time.Now().Add(time.Hour))
	other := in.complete(t, testKey(2), "b", testZip(t), time.Now().Add(time.Hour))
	over := in.complete(t, testKey(3), "c", testZip(t), time.Now().Add(-time.Second))
	running := in.write(t, testKey(4), requestOf("d"))
	keys := in.journal.Keys()
	link := func(x *events.Export) string { return secrets.DownloadURL(keys, in.url, x) }
	change := func(link string, fn func(u *url.URL, q url.Values)) string {
		u, err := url.Parse(link)
		require.NoError(t, err)
		q := u.Query()
		fn(u, q)
		u.RawQuery = q.Encode()
		return u.String()
	}
	for name, c := range map[string]struct {
		link string
		want int
	}{
		"unsigned":            {change(link(&x), func(_ *url.URL, q url.Values) { q.Del("sig") }), 404},
		"another signature":   {change(link(&x), func(_ *url.URL, q url.Values) { q.Set("sig", "AAAA") }), 404},
		"a longer life":       {change(link(&x), func(_ *url.URL, q url.Values) { q.Set("exp", "99999999999") }), 404},
		"no life":             {change(link(&x), func(_ *url.URL, q url.Values) { q.Del("exp") }), 404},
		"another's signature": {change(link(&x), func(u *url.URL, _ url.Values) { u.Path = secrets.DownloadPath(&other) }), 404},
		"another day":         {change(link(&x), func(u *url.URL, _ url.Values) { u.Path = "/v1/down/2020/1/1/" + x.Key + ".zip" }), 404},
		"an unknown key":      {change(link(&x), func(u *url.URL, _ url.Values) { u.Path = "/v1/down/2020/1/1/" + testKey(99) + ".zip" }), 404},
		"no key":              {change(link(&x), func(u *url.URL, _ url.Values) { u.Path = "/v1/down/2020/1/1/passwd" }), 404},
		"under way":           {in.url + secrets.DownloadPath(&running) + "?exp=99999999999&sig=AAAA", 404},
		"expired":             {link(&over), 410},
	} {
		a := send(t, "GET", c.link, "")
		require.Equal(t, []int{c.want, c.want}, []int{a.Status, a.Errcode}, name)
		require.NotEmpty(t, a.Msg, name)
		require.Equal(t, "null", string(a.Data), name)
		require.Empty(t, a.Header.Get("Content-Disposition"), name)
	}

	// A file that differs from its completed event is never served.
	require.NoError(t, in.files.Delete(t.Context(), x.Files[0].Store))
	a := send(t, "GET", link(&x), "")
	require.Equal(t, 410, a.Errcode)
	require.NotContains(t, a.Raw, "default/", "no inner names")

	// A link from before a retry does not serve the file made by it.
	before := link(&other)
	ended := in.write(t, other.Key, &events.ExportExpired{Files: []string{other.Files[0].Store}})
	require.NoError(t, in.tasks.WaitApplied(t.Context(), ended.LastSeq))
	require.Equal(t, 410, send(t, "GET", before, "").Errcode)
	again := in.complete(t, other.Key, "b", testZip(t), time.Now().Add(time.Hour))
	require.Equal(t, 404, send(t, "GET", before, "").Errcode)
	resp, _ := fetch(t, "GET", link(&again))
	require.Equal(t, 200, resp.StatusCode)
}

// A link may come from an ingress that is ahead of this one.
func TestDownloadWaitsForTheProjection(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	x := in.complete(t, testKey(1), "a", testZip(t), time.Now().Add(time.Hour))
	behind, err := storage.OpenTasks(t.TempDir()+"/tasks.db", slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	defer func() { require.NoError(t, behind.Close()) }()
	d := in.newDownloads()
	d.tasks = behind
	ask := func(link string) int {
		w := httptest.NewRecorder()
		d.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", link, nil))
		return w.Code
	}
	link := secrets.DownloadURL(in.journal.Keys(), "", &x)

	d.fresh = func(context.Context) error { return events.ErrUnavailable }
	require.Equal(t, 503, ask(link))
	d.fresh = func(ctx context.Context) error {
		stop := errors.New("caught up")
		err := in.journal.Follow(ctx, behind.Applied()+1, func(batch []events.Event) error {
			require.NoError(t, behind.Apply(batch))
			if behind.Applied() >= x.LastSeq {
				return stop
			}
			return nil
		})
		require.ErrorIs(t, err, stop)
		return nil
	}
	require.Equal(t, 200, ask(link))

	// The file expired by another clock: the answer is 410, not 500.
	x = in.write(t, x.Key, &events.ExportExpired{Files: []string{x.Files[0].Store}})
	require.NoError(t, in.files.Delete(t.Context(), x.Files[0].Store))
	require.Equal(t, 410, ask(link))
}

func TestAttachmentNamesAreSafe(t *testing.T) {
	t.Parallel()
	const plain = "5ad5f7b92a816b76e70a21e4154c2485.zip"
	for name, want := range map[string]string{
		"orders.zip":       `attachment; filename="orders.zip"; filename*=UTF-8''orders.zip`,
		"50% of it.zip":    `attachment; filename="50_ of it.zip"; filename*=UTF-8''50%25%20of%20it.zip`,
		"é.zip":            `attachment; filename="é.zip"; filename*=UTF-8''%C3%A9.zip`,
		`a"; x="b.zip`:     `attachment; filename="a_; x=_b.zip"; filename*=UTF-8''a%22%3B%20x%3D%22b.zip`,
		"a\r\nSet: b.zip":  `attachment; filename="aSet: b.zip"; filename*=UTF-8''aSet%3A%20b.zip`,
		"../../etc/passwd": `attachment; filename="....etcpasswd"; filename*=UTF-8''....etcpasswd`,
		"":                 `attachment; filename="` + plain + `"; filename*=UTF-8''` + plain,
		"..":               `attachment; filename="` + plain + `"; filename*=UTF-8''` + plain,
		"\u202egpj.zip":    `attachment; filename="gpj.zip"; filename*=UTF-8''gpj.zip`,
	} {
		require.Equal(t, want, attachment(name, plain), "%q", name)
	}
}

// FuzzAttachment checks that for any title the header is one line of UTF-8 that net/http sends, and that it
// decodes to the name.
func FuzzAttachment(f *testing.F) {
	for _, seed := range []string{"订单.zip", "a\r\nb: c", `"`, `\`, "\x00", "\xff", "%", "a'b", "\u202e", strings.Repeat("长", 300)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		header := attachment(name, "plain.zip")
		for _, c := range header {
			if c == utf8.RuneError || unicode.IsControl(c) {
				t.Fatalf("%q in %q", c, header)
			}
		}
		disposition, params, err := mime.ParseMediaType(header)
		if err != nil {
			// Go's parser refuses a parameter in both forms.
			disposition, params, err = mime.ParseMediaType("attachment; " + header[strings.LastIndex(header, "filename*="):])
		}
		require.NoError(t, err, header)
		require.Equal(t, "attachment", disposition)
		got := params["filename"]
		require.NotEmpty(t, got)
		require.True(t, utf8.ValidString(got))
		require.False(t, strings.ContainsFunc(got, unicode.IsControl))
		require.NotContains(t, got, "/")
	})
}

// curl -OJ reads only filename, and writes its bytes unchanged.
func TestCurlSavesUnderTheTitle(t *testing.T) {
	t.Parallel()
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("curl is not installed")
	}
	for _, name := range []string{"订单导出.zip", "orders 2026.zip", "é.zip"} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Disposition", attachment(name, "plain.zip"))
			_, _ = io.WriteString(w, "content")
		}))
		t.Cleanup(server.Close)
		cmd := exec.CommandContext(t.Context(), curl, "-sOJ", server.URL+"/v1/down/key.zip?sig=x")
		cmd.Dir = t.TempDir()
		require.NoError(t, cmd.Run())
		saved, err := os.ReadFile(filepath.Join(cmd.Dir, name))
		require.NoError(t, err)
		require.Equal(t, "content", string(saved))
	}
}

// A large file is at the store's server, for callers that follow a redirect, and no longer than the link.
func TestLargeDownloadsAreRedirected(t *testing.T) {
	t.Parallel()
	type asked struct {
		store, mediaType, disposition string
		until                         time.Time
	}
	got, refuse := asked{}, false
	in := start(t, eventstest.Server(t, ""), Config{Link: func(_ context.Context, store string, until time.Time,
		mediaType, disposition string) (string, error) {
		if refuse {
			return "", errors.New("no keys")
		}
		got = asked{store, mediaType, disposition, until}
		return "http://127.0.0.1:1/elsewhere?signed=1", nil
	}})
	large, expires := make([]byte, smallFile+1), time.Now().Add(time.Hour).Truncate(time.Second)
	x := in.complete(t, testKey(1), "订单", large, expires)
	link := secrets.DownloadURL(in.journal.Keys(), in.url, &x)
	ask := func(method, link string, header ...string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), method, link, nil)
		require.NoError(t, err)
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		resp, err := http.DefaultTransport.RoundTrip(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, resp.Header.Get("Location")
	}
	status, to := ask("GET", link)
	require.Equal(t, http.StatusTemporaryRedirect, status)
	require.Equal(t, "http://127.0.0.1:1/elsewhere?signed=1", to)
	require.Equal(t, x.Files[0].Store, got.store)
	require.Equal(t, "application/zip", got.mediaType)
	require.Contains(t, got.disposition, "filename*=UTF-8''%E8%AE%A2%E5%8D%95.zip")
	require.False(t, got.until.After(expires), "%s outlives %s", got.until, expires)

	small := in.complete(t, testKey(2), "small", large[:smallFile], expires)
	for name, c := range map[string]struct{ method, link, header, value string }{
		"HEAD":             {"HEAD", link, "", ""},
		"no redirect":      {"GET", link, "Prefer", "no-redirect"},
		"a small file":     {"GET", secrets.DownloadURL(in.journal.Keys(), in.url, &small), "", ""},
		"a forged link":    {"GET", link + "x", "", ""},
		"a link for a day": {"GET", strings.Replace(link, "exp=", "exp=1", 1), "", ""},
	} {
		header := []string{}
		if c.header != "" {
			header = append(header, c.header, c.value)
		}
		status, to := ask(c.method, c.link, header...)
		require.NotEqual(t, http.StatusTemporaryRedirect, status, name)
		require.Empty(t, to, name)
	}
	refuse = true
	status, _ = ask("GET", link)
	require.Equal(t, http.StatusOK, status, "the ingress sends the file itself")
	refuse = false
	require.NoError(t, in.files.Delete(t.Context(), x.Files[0].Store))
	status, to = ask("GET", link)
	require.Equal(t, http.StatusGone, status, "a lost file is noticed")
	require.Empty(t, to)
}
