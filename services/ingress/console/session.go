package console

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"maps"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"sheaf/events"
)

const (
	sessionCookie = "sheaf_session"
	flashCookie   = "sheaf_flash"
	sessionTime   = 12 * time.Hour
	flashTime     = time.Minute
)

// ticket is the content of the session cookie. The API key itself is stored nowhere in the browser.
type ticket struct {
	ID      string    `json:"id"` // of the API key
	Tenant  string    `json:"tenant"`
	Session string    `json:"session"` // random
	Begun   time.Time `json:"begun"`
	Until   time.Time `json:"until"`
}

// session returns the caller of a request's session, or the one that needs no key. A session ends with its
// key: the key is looked up for each request, and its present scope counts.
func (c *Console) session(r *http.Request) (Principal, bool) {
	if c.Open {
		return Principal{Tenant: events.DefaultTenant, Scope: ScopeAdmin}, true
	}
	t, ok := c.ticket(r)
	if !ok {
		return Principal{}, false
	}
	p, ok := c.backend.KeyByID(t.ID)
	if !ok || p.Tenant != t.Tenant {
		return Principal{}, false
	}
	return p, true
}

// ticket returns the content of a request's session cookie, until the session ends.
func (c *Console) ticket(r *http.Request) (t ticket, ok bool) {
	ok = c.openCookie(r, sessionCookie, &t) && time.Now().Before(t.Until) && !c.logouts.includes(t)
	return t, ok
}

// openCookie reads a sealed cookie. The name is part of what is sealed, so that one kind cannot be used as
// another. Of two cookies with one name, another site of the domain may have planted either, so none counts.
func (c *Console) openCookie(r *http.Request, name string, to any) bool {
	cookies := r.CookiesNamed(name)
	if len(cookies) != 1 {
		return false
	}
	sealed, err := base64.RawURLEncoding.DecodeString(cookies[0].Value)
	if err != nil {
		return false
	}
	plain, err := c.Keys.Open("console", name, sealed)
	return err == nil && json.Unmarshal(plain, to) == nil
}

func (v *visit) setSealed(name string, value any, age time.Duration) error {
	plain, err := json.Marshal(value)
	if err != nil {
		return err
	}
	sealed, err := v.Keys.Seal("console", name, plain)
	if err != nil {
		return err
	}
	v.setCookie(name, base64.RawURLEncoding.EncodeToString(sealed), age)
	return nil
}

// setCookie sets a cookie for the console alone; a negative age removes it.
func (v *visit) setCookie(name, value string, age time.Duration) {
	http.SetCookie(v.w, &http.Cookie{
		Name: name, Value: value, Path: v.base + "/", MaxAge: int(age / time.Second),
		HttpOnly: true, Secure: v.public.Scheme == "https", SameSite: http.SameSiteStrictMode,
	})
}

// askForLogin sends a visitor to the login page. A strict cookie does not come with a link from another site,
// such as a chat: then the page asks for itself again, which brings the cookie.
func (v *visit) askForLogin() error {
	site := v.r.Header.Get("Sec-Fetch-Site")
	if _, err := v.r.Cookie(sessionCookie); err != nil && v.r.Method == http.MethodGet && site == "cross-site" {
		return v.render(http.StatusOK, "again", v.page("Sheaf", ""))
	}
	if v.r.Header.Get("Accept") == "text/event-stream" {
		return &Error{Status: http.StatusUnauthorized}
	}
	return v.seeOther(v.base + "/console/login?" + url.Values{"next": {v.here()}}.Encode())
}

// here returns the path of this page below the base path, or the list for a form.
func (v *visit) here() string {
	if v.r.Method != http.MethodGet {
		return "/console/"
	}
	return v.r.URL.RequestURI()
}

// localPath returns a path of this console, or the list for everything else: a form never sends a browser to
// another server.
func localPath(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || u.Opaque != "" || strings.ContainsAny(s, "\\\r\n\t") {
		return "/console/"
	}
	path := u.EscapedPath()
	inside := strings.HasPrefix(path, "/console/") || strings.HasPrefix(path, "/docs") || strings.HasPrefix(path, "/s/")
	if !inside || strings.Contains(path, "//") || strings.Contains(u.Path, "/../") {
		return "/console/"
	}
	return u.RequestURI()
}

func (v *visit) loginForm() error {
	if v.who.Tenant != "" {
		return v.seeOther(v.base + localPath(v.r.FormValue("next")))
	}
	return v.loginPage(http.StatusOK, "")
}

func (v *visit) loginPage(status int, problem string) error {
	p := v.page(v.t("login.title"), "")
	p.Data = struct{ Problem, Next string }{problem, localPath(v.r.FormValue("next"))}
	return v.render(status, "login", p)
}

// login begins a session. Wrong keys are not counted: 32 random bytes cannot be guessed, a check takes a
// microsecond, and behind a proxy all visitors share one address.
func (v *visit) login() error {
	if v.Open {
		return v.seeOther(v.base + "/console/")
	}
	p, ok := v.backend.Authenticate(strings.TrimSpace(v.r.PostFormValue("key")))
	if !ok || p.ID == "" {
		return v.loginPage(http.StatusUnauthorized, v.t("login.wrong"))
	}
	now := time.Now()
	t := ticket{ID: p.ID, Tenant: p.Tenant, Session: rand.Text(), Begun: now, Until: now.Add(sessionTime)}
	if err := v.setSealed(sessionCookie, t, sessionTime); err != nil {
		return err
	}
	return v.seeOther(v.base + localPath(v.r.PostFormValue("next")))
}

// logout ends the session, also for a copy of its cookie.
func (v *visit) logout() error {
	if t, ok := v.ticket(v.r); ok {
		v.logouts.end(t)
	}
	v.setCookie(sessionCookie, "", -time.Second)
	return v.seeOther(v.base + "/console/login")
}

// logouts knows which sessions have ended. A session that is older than the process may have ended in the
// process before, so it has ended too.
type logouts struct {
	mu    sync.Mutex
	begun time.Time            // of the oldest session that may be valid
	ended map[string]time.Time // id of a session that was logged out -> when it expires
}

// maxLogouts bounds the logouts that are remembered. Beyond it, everybody has to log in again.
const maxLogouts = 10_000

func newLogouts(now time.Time) *logouts {
	return &logouts{begun: now, ended: map[string]time.Time{}}
}

func (l *logouts) end(t ticket) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if len(l.ended) >= maxLogouts {
		maps.DeleteFunc(l.ended, func(_ string, until time.Time) bool { return now.After(until) })
	}
	if len(l.ended) >= maxLogouts {
		l.begun = now
		clear(l.ended)
	}
	l.ended[t.Session] = t.Until
}

func (l *logouts) includes(t ticket) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ended := l.ended[t.Session]
	return ended || t.Begun.Before(l.begun)
}

func seconds(d time.Duration) string { return strconv.Itoa(int(math.Ceil(d.Seconds()))) }

// flash is a message for the page after a form.
type flash struct {
	Kind string `json:"kind"` // "ok" or "error"
	Text string `json:"text"`
	Link string `json:"link,omitempty"` // a share link to copy
}

func (v *visit) setFlash(f flash) error { return v.setSealed(flashCookie, f, flashTime) }

// takeFlash returns the message of the form before, once.
func (v *visit) takeFlash() *flash {
	var f flash
	if !v.openCookie(v.r, flashCookie, &f) {
		return nil
	}
	v.setCookie(flashCookie, "", -time.Second)
	return &f
}
