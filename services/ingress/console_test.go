package ingress

import (
	"bufio"
	"io"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/secrets"

	"github.com/stretchr/testify/require"
)

// keyring holds the API keys of a test, which can revoke them.
type testKeys struct {
	mu   sync.Mutex
	keys map[string]Principal
}

func newTestKeys() *testKeys {
	return &testKeys{keys: map[string]Principal{
		"shop-key":  {ID: "id-shop", Tenant: "shop", Scope: ScopeOperate},
		"shop-read": {ID: "id-read", Tenant: "shop", Scope: ScopeRead},
		"other-key": {ID: "id-other", Tenant: "other", Scope: ScopeOperate},
		"admin-key": {ID: "id-admin", Tenant: "ops", Scope: ScopeAdmin},
	}}
}

func (k *testKeys) config(cfg Config) Config {
	cfg.Authenticate = func(key string) (Principal, bool) {
		k.mu.Lock()
		defer k.mu.Unlock()
		p, ok := k.keys[key]
		return p, ok
	}
	cfg.KeyByID = func(id string) (Principal, bool) {
		k.mu.Lock()
		defer k.mu.Unlock()
		for p := range maps.Values(k.keys) {
			if p.ID == id {
				return p, true
			}
		}
		return Principal{}, false
	}
	return cfg
}

func (k *testKeys) revoke(key string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.keys, key)
}

// limit gives a key another scope.
func (k *testKeys) limit(key string, scope Scope) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.keys[key]
	p.Scope = scope
	k.keys[key] = p
}

// browser keeps cookies and follows no redirect, like a person who looks at each answer.
type browser struct {
	*http.Client
	t    testing.TB
	base string
}

func newBrowser(t testing.TB, base string) *browser {
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	transport := &http.Transport{} // pages are not part of the documented API
	t.Cleanup(transport.CloseIdleConnections)
	return &browser{&http.Client{Transport: transport, Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}, t, base}
}

// shown is an answer that a browser has read.
type shown struct {
	*http.Response
	body string
}

func (b *browser) do(method, path string, form url.Values, header ...string) shown {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), method, b.base+path, strings.NewReader(form.Encode()))
	require.NoError(b.t, err)
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := b.Do(req)
	require.NoError(b.t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(b.t, err)
	return shown{resp, string(body)}
}

func (b *browser) get(path string, header ...string) shown {
	b.t.Helper()
	return b.do(http.MethodGet, path, nil, header...)
}

func (b *browser) post(path string, form url.Values, header ...string) shown {
	b.t.Helper()
	return b.do(http.MethodPost, path, form, header...)
}

// as returns a browser with a session of a key.
func (in *ingress) browse(t testing.TB, key string) *browser {
	t.Helper()
	b := newBrowser(t, in.url)
	if key != "" {
		a := b.post("/console/login", url.Values{"key": {key}})
		require.Equal(t, http.StatusSeeOther, a.StatusCode, a.body)
	}
	return b
}

// begun begins an export of a tenant.
func (in *ingress) begun(t testing.TB, tenant, key, title string) events.Export {
	t.Helper()
	r := requestOf(title)
	r.Request.Callback, r.Request.UserID, r.Request.HTTP.Header = "https://shop.example/done", "123", nil
	return in.as(t, tenant, key, r)
}

const (
	keyA = "5ad5f7b92a816b76e70a21e4154c2485"
	keyB = "6bd5f7b92a816b76e70a21e4154c2486"
	keyC = "7cd5f7b92a816b76e70a21e4154c2487"
)

func failure(reason string) *events.ExportFailed {
	return &events.ExportFailed{Code: events.CodeSourceTimeout, Reason: reason}
}

// Inline style and script would need a hole in the policy.
var inline = regexp.MustCompile(`(?i)<[^>]*\s(style|on[a-z]+)\s*=|<script[^>]*>[^<]|<style`)

// values are quoted values of attributes, which escape their quotes.
var values = regexp.MustCompile(`"[^"]*"`)

func TestConsolePagesInBothLanguages(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), newTestKeys().config(Config{ConsoleName: "PROD", ConsoleColour: "red"}))
	in.begun(t, "ops", keyA, "Orders")
	x := in.begun(t, "ops", keyB, "Refunds")
	in.as(t, "ops", keyB, &events.ExportCrawled{Run: x.RequestedSeq, Pages: 3})
	in.as(t, "ops", keyB, completed(x))
	in.begun(t, "ops", keyC, "Broken")
	in.as(t, "ops", keyC, failure("page 17 did not answer"))
	b := in.browse(t, "admin-key")
	for _, c := range []struct{ path, en, zh string }{
		{"/console/", "Succeeded", "成功"},
		{"/console/?state=failed", "did not answer in time", "没有及时响应"},
		{"/console/?q=nothing", "Nothing matches", "没有符合"},
		{"/console/?tenant=shop", "No export yet", "还没有导出任务"},
		{"/console/x/" + keyA, "Cancel", "取消"},
		{"/console/x/" + keyB, "Download", "下载"},
		{"/console/x/" + keyC, "Retry", "重试"},
		{"/console/x/" + keyA + "/cancel", "Cancel this export?", "取消此任务？"},
		{"/console/x/" + keyA + "/share", "Make the link", "生成链接"},
		{"/console/new", "URL of the list", "列表的 URL"},
		{"/console/new?demo=1", "curl -sS", "curl -sS"},
		{"/console/bulk?state=failed&action=retry", "Retry all of these?", "全部重试？"},
		{"/console/x/" + oneKey[:31] + "0", "Not found", "未找到"},
		{"/console/nowhere", "Not found", "未找到"},
	} {
		for lang, want := range map[string]string{"en": c.en, "zh": c.zh} {
			a := b.get(c.path, "Accept-Language", lang+"-CN;q=0.9, fr")
			require.Contains(t, []int{200, 404}, a.StatusCode, a.body)
			require.Contains(t, a.body, want, c.path)
			require.Contains(t, a.body, `<html lang="`+lang+`"`)
			require.Contains(t, a.body, `<strong class="name red">PROD</strong>`)
			require.Empty(t, inline.FindString(a.body), c.path)
			require.Less(t, len(a.body), 20<<10, c.path)
			require.Contains(t, a.Header.Get("Content-Security-Policy"), "default-src 'none'; script-src 'self'")
		}
	}
}

// TestConsoleFormsWithoutJavaScript uses every form as a browser without scripts does. Each answer is 303.
func TestConsoleFormsWithoutJavaScript(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), newTestKeys().config(Config{}))
	in.begun(t, "shop", keyA, "Orders")
	b := in.browse(t, "")
	leads := func(a shown, to string) {
		t.Helper()
		require.Equal(t, http.StatusSeeOther, a.StatusCode, a.body)
		require.Equal(t, to, a.Header.Get("Location"))
	}
	leads(b.get("/console/x/"+keyA), "/console/login?next=%2Fconsole%2Fx%2F"+keyA)
	leads(b.post("/console/login", url.Values{"key": {"shop-key"}, "next": {"/console/x/" + keyA}}), "/console/x/"+keyA)
	leads(b.post("/console/x/"+keyA+"/cancel", nil), "/console/x/"+keyA)
	page := b.get("/console/x/" + keyA)
	require.Contains(t, page.body, "The export is cancelled.")
	require.NotContains(t, b.get("/console/x/"+keyA).body, "The export is cancelled.", "a message is shown once")
	leads(b.post("/console/x/"+keyA+"/cancel", nil), "/console/x/"+keyA)
	require.Contains(t, b.get("/console/x/"+keyA).body, "already cancelled")
	leads(b.post("/console/x/"+keyA+"/retry", url.Values{"back": {"/console/?state=failed"}}), "/console/?state=failed")
	require.Contains(t, b.get("/console/?state=failed").body, "The export runs again.")
	require.Equal(t, events.StateRequested, in.read(t, "shop", keyA).State)

	a := b.post("/console/new", url.Values{"url": {"http://127.0.0.1:8000/orders"}, "method": {"GET"}, "title": {"By form"}, "format": {"XLSX"},
		"header_name": {"Authorization", ""}, "header_value": {"s3cret", ""}, "param_name": {"size"}, "param_value": {"20"}, "limit": {"50"}, "conn": {"2"}})
	require.Equal(t, http.StatusSeeOther, a.StatusCode, a.body)
	key := strings.TrimPrefix(a.Header.Get("Location"), "/console/x/")
	x := in.read(t, "shop", key)
	require.Equal(t, "By form", x.Request.Title)
	require.NotContains(t, b.get("/console/x/"+key).body, "/s/")
	shared := b.post("/console/new", url.Values{"url": {"http://127.0.0.1:8000/waiting"}, "method": {"GET"}, "format": {"XLSX"}, "share": {"1"}})
	require.Equal(t, http.StatusSeeOther, shared.StatusCode, shared.body)
	require.Contains(t, b.get(shared.Header.Get("Location")).body, `href="`+in.url+"/s/")
	require.Equal(t, []string{"Authorization"}, x.Request.HTTP.Header)
	require.JSONEq(t, `{"size":20,"limit":50}`, string(x.Request.HTTP.Param))
	page = b.get("/console/new?from=" + key)
	require.Contains(t, page.body, `value="Authorization"`)
	require.Contains(t, page.body, "$TOKEN")
	require.NotContains(t, page.body, "s3cret")

	wrong := b.post("/console/new", url.Values{"url": {"ftp://x"}, "method": {"GET"}, "title": {"Kept"}, "format": {"XLSX"}})
	require.Equal(t, http.StatusUnprocessableEntity, wrong.StatusCode)
	require.Contains(t, wrong.body, `value="Kept"`)
	require.Contains(t, wrong.body, "source_http.url")

	leads(b.post("/console/set", url.Values{"lang": {"zh"}, "theme": {"dark"}, "zone": {"Asia/Shanghai"}, "back": {"/console/"}}), "/console/")
	page = b.get("/console/")
	require.Contains(t, page.body, `<html lang="zh" data-theme="dark">`)
	require.Contains(t, page.body, "Asia/Shanghai")
	leads(b.post("/console/logout", nil), "/console/login")
	leads(b.get("/console/"), "/console/login?next=%2Fconsole%2F")
}

// Commands are for documents and chats, so they have no secret, wherever the form has it.
func TestCommandsHideSecrets(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), newTestKeys().config(Config{}))
	b := in.browse(t, "shop-key")
	for name, form := range map[string]url.Values{
		"header":          {"header_name": {"X-A"}, "header_value": {"s3cret"}},
		"secret_param":    {"param_name": {"k"}, "param_value": {"s3cret"}, "extra": {`{"secret_param":["k"]}`}},
		"user of the URL": {"url": {"http://me:s3cret@shop.example/"}},
		"auth":            {"extra": {`{"auth":{"type":"bearer","token":"s3cret"}}`}},
		"further header":  {"extra": {`{"header":{"X-A":"s3cret"}}`}},
		"further request": {"more": {`{"source_http":{"url":"http://shop.example/","header":{"X-A":"s3cret"}}}`}},
		"sheets":          {"more": {`{"sheets":[{"source_http":{"url":"http://me:s3cret@shop.example/"}}]}`}},
	} {
		all := url.Values{"url": {"http://shop.example/"}, "title": {"Orders"}, "format": {"XLSX"}, "do": {"rows"}}
		maps.Copy(all, form)
		_, shown, found := strings.Cut(b.post("/console/new", all).body, `<div class="tabs">`)
		require.True(t, found, name)
		require.NotContains(t, shown, "s3cret", name)
		require.Contains(t, shown, "TOKEN", name)
	}
}

func TestConsoleRefusesLargeForms(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), newTestKeys().config(Config{}))
	b := in.browse(t, "shop-key")
	for _, path := range []string{"/console/new", "/console/bulk", "/console/login"} {
		a := b.post(path, url.Values{"title": {strings.Repeat("x", 300<<10)}})
		require.Equal(t, http.StatusRequestEntityTooLarge, a.StatusCode, path)
		require.Contains(t, a.body, "<html", path)
	}
}

// TestConsoleHidesWhatAScopeForbids, and the server refuses it.
func TestConsoleHidesWhatAScopeForbids(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), newTestKeys().config(Config{}))
	in.begun(t, "shop", keyA, "Orders")
	b := in.browse(t, "shop-read")
	page := b.get("/console/x/" + keyA)
	require.Equal(t, http.StatusOK, page.StatusCode)
	for _, hidden := range []string{"/cancel", "/share", "/console/new", "/console/system"} {
		require.NotContains(t, page.body, hidden)
	}
	for _, path := range []string{"/console/x/" + keyA + "/cancel", "/console/x/" + keyA + "/retry", "/console/new", "/console/bulk", "/console/x/" + keyA + "/share"} {
		require.Equal(t, http.StatusForbidden, b.post(path, nil).StatusCode, path)
	}
	require.Equal(t, http.StatusForbidden, b.get("/console/system").StatusCode)
	require.Equal(t, http.StatusForbidden, b.get("/console/?tenant=other").StatusCode)
	require.Equal(t, events.StateRequested, in.read(t, "shop", keyA).State)
}

// TestConsoleShowsATenantItsOwnExports: with another tenant's key each page answers as for an unknown key.
func TestConsoleShowsATenantItsOwnExports(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), newTestKeys().config(Config{}))
	in.begun(t, "shop", keyA, "Orders")
	b := in.browse(t, "other-key")
	require.NotContains(t, b.get("/console/").body, "Orders")
	require.NotContains(t, b.get("/console/?q="+keyA).body, "Orders")
	for _, c := range []struct{ method, path string }{
		{"GET", "/console/x/KEY"}, {"GET", "/console/x/KEY/events"}, {"GET", "/console/x/KEY/cancel"}, {"GET", "/console/x/KEY/share"},
		{"GET", "/console/new?from=KEY"}, {"POST", "/console/x/KEY/cancel"}, {"POST", "/console/x/KEY/retry"},
		{"POST", "/console/x/KEY/redeliver"}, {"POST", "/console/x/KEY/share"},
	} {
		answers := map[string]shown{}
		for _, key := range []string{keyA, keyB} {
			a := b.do(c.method, strings.Replace(c.path, "KEY", key, 1), nil)
			a.body = strings.ReplaceAll(a.body, key, "KEY")
			answers[key] = a
		}
		require.Equal(t, http.StatusNotFound, answers[keyA].StatusCode, c.path)
		require.Equal(t, answers[keyB].StatusCode, answers[keyA].StatusCode, c.path)
		require.Equal(t, answers[keyB].body, answers[keyA].body, c.path)
	}
	require.Equal(t, events.StateRequested, in.read(t, "shop", keyA).State)
	admin := in.browse(t, "admin-key")
	require.Contains(t, admin.get("/console/?tenant=shop").body, "Orders")
	require.Equal(t, http.StatusNotFound, admin.get("/console/x/"+keyA).StatusCode, "the tenant is to be named")
	require.Contains(t, admin.get("/console/x/"+keyA+"?tenant=shop").body, "Orders")
	a := admin.post("/console/x/"+keyA+"/cancel", url.Values{"tenant": {"shop"}})
	require.Equal(t, "/console/x/"+keyA+"?tenant=shop", a.Header.Get("Location"))
	require.Equal(t, events.StateCancelled, in.read(t, "shop", keyA).State)
}

func TestConsoleRefusesFormsOfOtherSites(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), newTestKeys().config(Config{}))
	in.begun(t, "shop", keyA, "Orders")
	b := in.browse(t, "shop-key")
	for _, header := range [][]string{
		{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "https://evil.example"}, {"Origin", "null"},
	} {
		for _, path := range []string{"/console/x/" + keyA + "/cancel", "/console/set", "/console/logout", "/console/login", "/console/new"} {
			require.Equal(t, http.StatusForbidden, b.post(path, url.Values{"key": {"shop-key"}}, header...).StatusCode, "%s %v", path, header)
		}
	}
	require.Equal(t, http.StatusNotFound, b.get("/console/x/"+keyA+"/retry").StatusCode, "a GET changes nothing")
	require.Equal(t, events.StateRequested, in.read(t, "shop", keyA).State)
	cookie := b.post("/console/login", url.Values{"key": {"shop-key"}}).Header.Get("Set-Cookie")
	require.Contains(t, cookie, "HttpOnly; SameSite=Strict")
}

// TestConsoleEscapesWhatOthersWrite: titles, users, URLs, reasons of failures and outcomes of callbacks.
func TestConsoleEscapesWhatOthersWrite(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), newTestKeys().config(Config{}))
	const evil = `"><img src=x onerror=alert(1)><script>alert(2)</script>{{.}}`
	r := requestOf("title " + evil)
	r.Request.UserID, r.Request.Callback = "user "+evil, "javascript:alert(3)"
	r.Request.HTTP.URL = "javascript:alert(4)//" + evil
	in.as(t, "shop", keyA, r)
	in.as(t, "shop", keyA, failure("reason "+evil))
	in.as(t, "shop", keyA, &events.CallbackAttempted{Attempt: 1, Reason: "answer " + evil})
	b := in.browse(t, "shop-key")
	token := secrets.ShareToken(in.journal.Keys(), keyA, time.Now().Add(time.Hour), "javascript:alert(5)//"+evil)
	for _, path := range []string{"/console/", "/console/?q=" + url.QueryEscape(evil) + "&user=" + url.QueryEscape(evil), "/console/x/" + keyA,
		"/console/x/" + keyA + "/cancel", "/console/new?from=" + keyA, "/console/login?next=" + url.QueryEscape(evil), "/s/" + token,
		"/console/bulk?action=retry&state=failed&q=" + url.QueryEscape(evil)} {
		a := b.get(path)
		require.NotContains(t, a.body, "<img", path)
		require.NotContains(t, a.body, "<script>", path)
		require.NotContains(t, a.body, `href="javascript:`, path)
		require.Empty(t, inline.FindString(values.ReplaceAllString(a.body, `""`)), path)
	}
}

func TestConsoleCannotBeFramed(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	b := in.browse(t, "")
	for _, path := range []string{"/console/", "/console/login", "/s/none", "/console/nowhere"} {
		a := b.get(path)
		require.Contains(t, a.Header.Get("Content-Security-Policy"), "frame-ancestors 'none'", path)
		require.Equal(t, "DENY", a.Header.Get("X-Frame-Options"), path)
		require.Equal(t, "no-store", a.Header.Get("Cache-Control"), path)
		require.Equal(t, "no-referrer", a.Header.Get("Referrer-Policy"), path)
	}
}

// TestDetailShowsPagesAndAttempts: which requests were repeated, the page that failed, and how the receiver of
// the callback answered each time.
func TestDetailShowsPagesAndAttempts(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), newTestKeys().config(Config{}))
	x := in.begun(t, "shop", keyA, "Orders")
	in.as(t, "shop", keyA, &events.ExportCrawled{Run: x.RequestedSeq, Pages: 3, Crawl: &events.CrawlStats{Retries: 1234}})
	in.as(t, "shop", keyA, completed(x))
	in.as(t, "shop", keyA, &events.CallbackAttempted{Attempt: 1, Status: 503, Reason: "HTTP 503"})
	in.as(t, "shop", keyA, &events.CallbackDelivered{Attempt: 2, Status: 204})
	in.begun(t, "shop", keyB, "Refunds")
	in.as(t, "shop", keyB, &events.ExportFailed{Code: events.CodeSourceHTTP, Reason: "answered 500", Page: 17})
	b := in.browse(t, "shop-key")
	page := b.get("/console/x/" + keyA).body
	require.Contains(t, page, "requests to the source repeated: 1,234")
	_, callback, found := strings.Cut(page, "https://shop.example/done")
	require.True(t, found)
	require.Regexp(t, `(?s)#1</span> <span class="why" lang="en">HTTP 503<.*#2</span> <span class="why" lang="en">HTTP 204<`, callback)
	require.Contains(t, b.get("/console/x/"+keyB).body, "failed at page 17")
	d := send(t, http.MethodGet, in.url+"/v1/export/detail?key="+keyB, "", "X-API-Key", "shop-key").detail(t)
	require.Equal(t, 17, d.FailedPage)
}

// TestConsoleSessionCannotBeFixed: a cookie that the server did not seal is no session, and a login replaces
// the cookie that was there.
func TestConsoleSessionCannotBeFixed(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), newTestKeys().config(Config{}))
	u, err := url.Parse(in.url + "/console/")
	require.NoError(t, err)
	ofMallory := func() []*http.Cookie { return in.browse(t, "other-key").Jar.Cookies(u) }
	planted := ofMallory()
	require.Len(t, planted, 1)
	for path, status := range map[string]int{"/": http.StatusOK, "/console/": http.StatusSeeOther} {
		b := in.browse(t, "")
		b.Jar.SetCookies(u, []*http.Cookie{{Name: "sheaf_session", Value: ofMallory()[0].Value, Path: path}})
		require.Contains(t, b.get("/console/").body, `title="Tenant">other<`)
		b.post("/console/logout", nil)
		require.Equal(t, http.StatusSeeOther, b.post("/console/login", url.Values{"key": {"shop-key"}}).StatusCode)
		a := b.get("/console/")
		require.Equal(t, status, a.StatusCode, "of a cookie planted for %s", path)
		require.NotContains(t, a.body, `title="Tenant">other<`, "of a cookie planted for %s", path)
	}
	for _, value := range []string{"", "x", planted[0].Value[:len(planted[0].Value)-2], planted[0].Value + "AA", "id-shop"} {
		forged := in.browse(t, "")
		forged.Jar.SetCookies(u, []*http.Cookie{{Name: "sheaf_session", Value: value, Path: "/"}})
		require.Equal(t, http.StatusSeeOther, forged.get("/console/").StatusCode, value)
	}
	other := in.browse(t, "")
	other.Jar.SetCookies(u, []*http.Cookie{{Name: "sheaf_flash", Value: planted[0].Value, Path: "/"}, {Name: "sheaf_session", Value: planted[0].Value, Path: "/"}})
	require.NotContains(t, other.get("/console/").body, "role=\"alert\"", "a session is no message")
}

func TestConsoleNeverSendsABrowserAway(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), newTestKeys().config(Config{}))
	b := in.browse(t, "")
	for _, away := range []string{"https://evil.example/", "//evil.example/console/", "/\\evil.example", "javascript:alert(1)"} {
		require.Equal(t, "/console/", b.post("/console/set", url.Values{"back": {away}, "theme": {"dark"}}).Header.Get("Location"))
		require.Equal(t, "/console/", b.post("/console/login", url.Values{"key": {"shop-key"}, "next": {away}}).Header.Get("Location"))
	}
}

// TestRevokedKeyEndsItsSessions, also their streams.
func TestRevokedKeyEndsItsSessions(t *testing.T) {
	t.Parallel()
	keys := newTestKeys()
	in := start(t, eventstest.Server(t, ""), keys.config(Config{}))
	in.begun(t, "shop", keyA, "Orders")
	b := in.browse(t, "shop-key")
	resp, err := b.Get(in.url + "/console/events")
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, "text/event-stream; charset=utf-8", resp.Header.Get("Content-Type"))
	require.Equal(t, "no", resp.Header.Get("X-Accel-Buffering"))
	keys.revoke("shop-key")
	require.Equal(t, http.StatusSeeOther, b.get("/console/").StatusCode)
	require.Equal(t, http.StatusSeeOther, b.post("/console/x/"+keyA+"/cancel", nil).StatusCode)
	require.Equal(t, events.StateRequested, in.read(t, "shop", keyA).State)
	in.begun(t, "shop", keyB, "Secret of tomorrow")
	rest, err := io.ReadAll(resp.Body) // ends
	require.NoError(t, err)
	require.NotContains(t, string(rest), "Secret of tomorrow")
}

// TestStreamEndsWithItsScope: a key that lost the scope admin sees no other tenant.
func TestStreamEndsWithItsScope(t *testing.T) {
	t.Parallel()
	keys := newTestKeys()
	in := start(t, eventstest.Server(t, ""), keys.config(Config{}))
	in.begun(t, "shop", keyA, "Orders")
	b := in.browse(t, "admin-key")
	b.Timeout = 30 * time.Second
	resp, err := b.Get(in.url + "/console/events?tenant=shop")
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, "text/event-stream; charset=utf-8", resp.Header.Get("Content-Type"))
	keys.limit("admin-key", ScopeOperate)
	in.begun(t, "shop", keyB, "Secret of tomorrow")
	rest, err := io.ReadAll(resp.Body) // ends
	require.NoError(t, err)
	require.NotContains(t, string(rest), "Secret of tomorrow")
}

// TestWrongKeysLockOutNoOne: behind a proxy all visitors have one address.
func TestWrongKeysLockOutNoOne(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), newTestKeys().config(Config{}))
	b := in.browse(t, "")
	for range 100 {
		require.Equal(t, http.StatusUnauthorized, b.post("/console/login", url.Values{"key": {"guess"}}).StatusCode)
	}
	in.browse(t, "shop-key")
}

// TestLogoutEndsTheSession, also for copies of its cookie, and no other session of the key.
func TestLogoutEndsTheSession(t *testing.T) {
	t.Parallel()
	keys := newTestKeys()
	srv := eventstest.Server(t, "")
	in := start(t, srv, keys.config(Config{}))
	b, other, thief := in.browse(t, "shop-key"), in.browse(t, "shop-key"), in.browse(t, "")
	u, err := url.Parse(in.url + "/")
	require.NoError(t, err)
	thief.Jar.SetCookies(u, b.Jar.Cookies(u))
	require.Equal(t, http.StatusOK, thief.get("/console/").StatusCode)
	stream, err := thief.Get(in.url + "/console/events")
	require.NoError(t, err)
	defer stream.Body.Close()
	b.post("/console/logout", nil)
	require.Equal(t, http.StatusSeeOther, thief.get("/console/").StatusCode)
	in.begun(t, "shop", keyA, "Orders of tomorrow")
	rest, err := io.ReadAll(stream.Body) // ends
	require.NoError(t, err)
	require.NotContains(t, string(rest), "Orders of tomorrow")
	require.Equal(t, http.StatusOK, other.get("/console/").StatusCode)

	again := start(t, srv, keys.config(Config{})) // a restart, which knows no logout
	u, err = url.Parse(again.url + "/")
	require.NoError(t, err)
	late := again.browse(t, "")
	late.Jar.SetCookies(u, other.Jar.Cookies(u))
	require.Equal(t, http.StatusSeeOther, late.get("/console/").StatusCode)
}

// TestLinkFromAChat: a strict cookie does not come with the first request, so the page asks again by itself.
func TestLinkFromAChat(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), newTestKeys().config(Config{}))
	a := in.browse(t, "").get("/console/", "Sec-Fetch-Site", "cross-site")
	require.Equal(t, http.StatusOK, a.StatusCode)
	require.Contains(t, a.body, `<meta http-equiv="refresh" content="0">`)
	require.Equal(t, http.StatusSeeOther, in.browse(t, "").get("/console/", "Sec-Fetch-Site", "same-origin").StatusCode)
}

// TestConsoleUnderAPath: the links have the path of the public URL, and requests come with it or without.
func TestConsoleUnderAPath(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{PublicURL: "http://127.0.0.1/ops/sheaf"})
	x := in.as(t, events.DefaultTenant, keyA, requestOf("Orders"))
	require.NotZero(t, x.ID)
	b := in.browse(t, "")
	for _, prefix := range []string{"", "/ops/sheaf"} {
		a := b.get(prefix + "/console/")
		require.Equal(t, http.StatusOK, a.StatusCode)
		require.Contains(t, a.body, `href="/ops/sheaf/console/x/`+keyA+`"`)
		asset := regexp.MustCompile(`href="/ops/sheaf(/console/static/[^"]+\.css)"`).FindStringSubmatch(a.body)
		require.NotNil(t, asset)
		css := b.get(prefix + asset[1])
		require.Equal(t, "public, max-age=31536000, immutable", css.Header.Get("Cache-Control"))
		require.Equal(t, "/ops/sheaf/console/x/"+keyA, b.post(prefix+"/console/x/"+keyA+"/retry", nil).Header.Get("Location"))
		require.Equal(t, http.StatusOK, b.get(prefix+"/v1/export/detail?key="+keyA).StatusCode)
		require.Equal(t, "/ops/sheaf/console/", b.get(prefix+"/", "Accept", "text/html,*/*;q=0.8").Header.Get("Location"))
		require.Contains(t, b.get(prefix+"/", "Accept", "*/*").body, "POST /v1/export/http")
	}
	require.Equal(t, http.StatusNotFound, b.get("/ops/sheaffoo/console/").StatusCode)
	require.Equal(t, http.StatusNotFound, b.get("/ops/sheaf/console//x").StatusCode, "no redirect beside the base path")
}

// next returns the data of the next event of a kind.
func next(t *testing.T, lines *bufio.Scanner, kind string) string {
	t.Helper()
	var data []string
	event := ""
	for lines.Scan() {
		line := lines.Text()
		switch {
		case line == "" && event == kind:
			return strings.Join(data, "\n")
		case line == "":
			data = nil
		case strings.HasPrefix(line, "event: "):
			event = line[7:]
		case strings.HasPrefix(line, "data: "):
			data = append(data, line[6:])
		}
	}
	t.Fatalf("the stream ended without %s: %v", kind, lines.Err())
	return ""
}

func (b *browser) stream(path string) *bufio.Scanner {
	b.t.Helper()
	resp, err := b.Get(b.base + path)
	require.NoError(b.t, err)
	b.t.Cleanup(func() { _ = resp.Body.Close() })
	require.Equal(b.t, http.StatusOK, resp.StatusCode)
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	return lines
}

func TestStreamsFollowTheLog(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), newTestKeys().config(Config{}))
	x := in.begun(t, "shop", keyA, "Orders")
	b := in.browse(t, "shop-key")
	list := b.stream("/console/events?top=1")
	require.Contains(t, next(t, list, "row"), "Queued")
	detail := b.stream("/console/x/" + keyA + "/events")
	require.Contains(t, next(t, detail, "part"), "Queued")
	in.begun(t, "shop", keyB, "Newer")
	require.Equal(t, "1 newer: show", next(t, list, "newer"))
	in.as(t, "shop", keyA, failure("no answer"))
	require.Contains(t, next(t, list, "row"), "SOURCE_TIMEOUT")
	require.Contains(t, next(t, detail, "part"), "no answer")
	in.as(t, "shop", keyA, &events.CallbackDelivered{Attempt: 1, Status: 200})
	require.Equal(t, "Failed", next(t, detail, "end"))
	require.False(t, detail.Scan())
	require.NotZero(t, x.ID)

	begin := time.Now()
	require.NoError(t, in.stop())
	require.Less(t, time.Since(begin), drainWait, "streams end when the process drains")
}

func TestStreamsAreLimited(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	in.begun(t, events.DefaultTenant, keyA, "Orders")
	b := in.browse(t, "")
	token := secrets.ShareToken(in.journal.Keys(), keyA, time.Now().Add(time.Hour), "")
	for range 5 {
		b.stream("/s/" + token + "/events")
	}
	a := b.get("/s/" + token + "/events")
	require.Equal(t, http.StatusServiceUnavailable, a.StatusCode)
	require.NotEmpty(t, a.Header.Get("Retry-After"))
}

// TestSharePagesLeaveTheConsoleItsStreams, and the other way round.
func TestSharePagesLeaveTheConsoleItsStreams(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), newTestKeys().config(Config{}))
	in.begun(t, "shop", keyA, "Orders")
	token := secrets.ShareToken(in.journal.Keys(), keyA, time.Now().Add(time.Hour), "")
	for range maxTenantStreams {
		_, err := in.enterStream(streamConsole, "shop")
		require.NoError(t, err)
	}
	b := in.browse(t, "shop-key")
	require.Equal(t, http.StatusServiceUnavailable, b.get("/console/events").StatusCode)
	require.Contains(t, next(t, b.stream("/s/"+token+"/events"), "part"), "waiting its turn")
	for range maxTenantShareStreams - 1 {
		_, err := in.enterStream(streamShare, "shop")
		require.NoError(t, err)
	}
	require.Equal(t, http.StatusServiceUnavailable, b.get("/s/"+token+"/events").StatusCode)
	require.Contains(t, b.get("/s/"+token).body, "waiting its turn", "the page works without a stream")
}

// TestQueriesOfURLsAreForThoseWhoSubmit: they often hold tokens.
func TestQueriesOfURLsAreForThoseWhoSubmit(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), newTestKeys().config(Config{}))
	r := requestOf("Orders")
	r.Request.Callback, r.Request.HTTP.Header = "https://me:s3cret@shop.example/done?token=s3cret", nil
	r.Request.HTTP.URL, r.Request.HTTP.Param = "https://me:s3cret@shop.example/orders?token=s3cret#s3cret", []byte(`{"k":"s3cret"}`)
	in.as(t, "shop", keyA, r)
	reader, operator := in.browse(t, "shop-read"), in.browse(t, "shop-key")
	page := reader.get("/console/x/" + keyA).body
	require.Contains(t, page, "https://shop.example/orders?…")
	require.Contains(t, page, "https://shop.example/done?…")
	require.NotContains(t, page, "s3cret")
	require.NotContains(t, next(t, reader.stream("/console/x/"+keyA+"/events"), "part"), "s3cret")
	require.Contains(t, operator.get("/console/x/"+keyA).body, "token=s3cret")
}

func TestSharePage(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), newTestKeys().config(Config{EmbedOrigins: []string{"https://panel.example"}}))
	x := in.begun(t, "shop", keyA, "Orders")
	token := secrets.ShareToken(in.journal.Keys(), keyA, time.Now().Add(time.Hour), "https://shop.example/orders")
	b := in.browse(t, "")
	page := b.get("/s/" + token)
	require.Contains(t, page.body, "Your file is waiting its turn")
	require.Contains(t, page.body, `href="https://shop.example/orders"`)
	require.Contains(t, page.body, `<noscript><meta http-equiv="refresh" content="3"></noscript>`)
	require.Contains(t, page.body, `href="static/`, "relative, so that a proxy can serve it under its own origin")
	require.Contains(t, page.Header.Get("Content-Security-Policy"), "frame-ancestors https://panel.example")
	lines := b.stream("/s/" + token + "/events")
	require.Contains(t, next(t, lines, "part"), "waiting its turn")

	in.as(t, "shop", keyA, failure("https://secret.example did not answer user 123"))
	require.Contains(t, next(t, lines, "part"), "could not be made")
	require.Equal(t, "Your file could not be made", next(t, lines, "end"))
	page = b.get("/s/"+token, "Accept-Language", "zh")
	require.Contains(t, page.body, "数据源没有提供全部数据")
	for _, hidden := range []string{"secret.example", "SOURCE_TIMEOUT", "123", "shop.example/done", keyA + `"`, "127.0.0.1"} {
		require.NotContains(t, strings.ReplaceAll(page.body, token, ""), hidden)
	}
	require.NotZero(t, x.ID)

	for origin, allowed := range map[string]string{"https://panel.example": "https://panel.example", "https://evil.example": "", "": ""} {
		for _, path := range []string{"/s/" + token + "/progress", "/s/progress.js"} {
			a := b.get(path, "Origin", origin)
			require.Equal(t, http.StatusOK, a.StatusCode, path)
			require.Equal(t, allowed, a.Header.Get("Access-Control-Allow-Origin"), path)
			require.Empty(t, a.Header.Get("Access-Control-Allow-Credentials"))
		}
	}
	require.Equal(t, "", b.get("/console/login", "Origin", "https://panel.example").Header.Get("Access-Control-Allow-Origin"))
}

// TestForgedShareLinkIsUnknown: a forged link gets the same answer as one of a forgotten export.
func TestForgedShareLinkIsUnknown(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), newTestKeys().config(Config{}))
	in.begun(t, "shop", keyA, "Orders")
	keys := in.journal.Keys()
	good := secrets.ShareToken(keys, keyA, time.Now().Add(time.Hour), "https://shop.example/")
	unknown := secrets.ShareToken(keys, keyC, time.Now().Add(time.Hour), "")
	expired := secrets.ShareToken(keys, keyA, time.Now().Add(-time.Hour), "")
	b := in.browse(t, "")
	want := b.get("/s/" + unknown)
	require.Equal(t, http.StatusNotFound, want.StatusCode)
	require.Contains(t, want.body, "This link is not valid")
	for _, token := range []string{"none", good + "x", good[:len(good)-1], strings.Replace(good, keyA, keyB, 1), "sheaf", strings.Repeat("a", 5000)} {
		for _, part := range []string{"", "/progress", "/events", "/file"} {
			a, w := b.get("/s/"+token+part), b.get("/s/"+unknown+part)
			require.Equal(t, w.StatusCode, a.StatusCode, token+part)
			require.Equal(t, w.body, a.body, token+part)
		}
	}
	gone := b.get("/s/" + expired)
	require.Equal(t, http.StatusGone, gone.StatusCode)
	require.Contains(t, gone.body, "This link has expired")
	require.NotContains(t, gone.body, "Orders")
}
