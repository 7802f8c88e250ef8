package ingress

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"sheaf/events"
	"sheaf/services/ingress/request"
)

// errcodeUnauthorized answers a request without a valid API key. 401 was taken.
const errcodeUnauthorized = 40101

// errcodeForbidden answers a request that another web site made a browser send.
const errcodeForbidden = 403

// errcodeMisdirected answers a request for another host.
const errcodeMisdirected = 421

// callerOf returns the principal of a request's API key. Where no key is required, it is an admin of
// events.DefaultTenant. The error never repeats a key.
func (s *Service) callerOf(r *http.Request) (Principal, error) {
	if s.cfg.Authenticate == nil {
		return Principal{Tenant: events.DefaultTenant, Scope: ScopeAdmin}, nil
	}
	key, err := apiKeyOf(r.Header)
	if err != nil {
		return Principal{}, err
	}
	p, ok := s.cfg.Authenticate(key)
	if !ok {
		return Principal{}, unauthorized("the API key is not known, or was revoked")
	}
	return p, nil
}

// apiKeyOf returns the API key of a request. It refuses two different keys, because a proxy may have checked
// the other one.
func apiKeyOf(h http.Header) (string, error) {
	var keys []string
	for _, value := range h.Values("Authorization") {
		scheme, token, _ := strings.Cut(value, " ")
		if !strings.EqualFold(scheme, "Bearer") {
			return "", unauthorized("Authorization: want Bearer and an API key")
		}
		keys = append(keys, strings.TrimSpace(token))
	}
	keys = append(keys, h.Values("X-API-Key")...)
	if len(keys) == 0 {
		return "", unauthorized("an API key is required: send it as Authorization: Bearer KEY, or as X-API-Key: KEY")
	}
	for _, other := range keys[1:] {
		if other != keys[0] {
			return "", unauthorized("the request carries two different API keys; send one")
		}
	}
	return keys[0], nil
}

func unauthorized(msg string) *apiError {
	return &apiError{Errcode: errcodeUnauthorized, Status: http.StatusUnauthorized, Msg: msg}
}

// protect keeps other web sites from using a browser against Sheaf. Such a site can send requests with the
// trust of the browser's network.
//
// protect refuses changes from another origin (Sec-Fetch-Site, or Origin). Where only this machine may call
// and needs no key, protect also checks the Host: a foreign name that resolves to 127.0.0.1 would look like
// the same origin. Answers are not documents and are never cached.
func (s *Service) protect(next http.Handler) http.Handler {
	origin := http.NewCrossOriginProtection()
	origin.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		respond(w, r, nil, &apiError{
			Errcode: errcodeForbidden, Status: http.StatusForbidden,
			Msg: "a page of another site may not have a browser call this server; call it from your back-end",
		})
	}))
	if u, err := url.Parse(s.cfg.PublicURL); err == nil {
		// A proxy may have changed the Host that is compared with an older browser's Origin.
		_ = origin.AddTrustedOrigin(u.Scheme + "://" + u.Host)
	}
	next = origin.Handler(next)
	own := s.ownHosts()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("Cache-Control", "no-store")
		if own != nil && !own(r.Host) {
			respond(w, r, nil, &apiError{
				Errcode: errcodeMisdirected, Status: http.StatusMisdirectedRequest,
				Msg: fmt.Sprintf("this server is not %q; call it as 127.0.0.1 or localhost, or say --public-url", request.Cut(r.Host, 64)),
			})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// ownHosts returns a check of the request's host, or nil if every host is allowed.
func (s *Service) ownHosts() func(host string) bool {
	if s.cfg.Authenticate != nil || s.listener == nil {
		return nil
	}
	if address, ok := s.listener.Addr().(*net.TCPAddr); !ok || !address.IP.IsLoopback() {
		return nil // with --insecure-no-auth a proxy in front may use any name
	}
	public := ""
	if u, err := url.Parse(s.cfg.PublicURL); err == nil {
		public = u.Hostname()
	}
	return OwnHosts(s.listener.Addr(), public)
}

// OwnHosts reports which Host values name a server that listens at an address. It prevents DNS rebinding,
// where another site's name resolves to this server.
//
// localhost and the given names pass. Addresses pass too, because no site can redirect an address: only
// loopback ones if the server listens on loopback, otherwise all. A request without Host passes, because
// browsers always send one.
func OwnHosts(listen net.Addr, names ...string) func(host string) bool {
	own := map[string]bool{"": true, "localhost": true}
	for _, name := range names {
		own[bareHost(name)] = true
	}
	tcp, ok := listen.(*net.TCPAddr)
	onlyLoopback := ok && tcp.IP.IsLoopback()
	return func(host string) bool {
		name := bareHost(host)
		if own[name] || strings.HasSuffix(name, ".localhost") {
			return true
		}
		ip, err := netip.ParseAddr(name)
		return err == nil && (!onlyLoopback || ip.Unmap().IsLoopback())
	}
}

// bareHost returns a host in lower case without port, brackets and final dot.
func bareHost(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
}
