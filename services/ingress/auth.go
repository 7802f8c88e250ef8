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

// errcodeUnauthorized is of a request without a good API key. 401 was taken.
const errcodeUnauthorized = 40101

// errcodeForbidden is of a request that another web site made a browser send.
const errcodeForbidden = 403

// errcodeMisdirected is of a request for another host than this one.
const errcodeMisdirected = 421

// tenantOf returns whose request it is: that of its API key, and events.DefaultTenant
// where nobody has to have one. The error never repeats a key.
func (s *Service) tenantOf(r *http.Request) (string, error) {
	if s.cfg.Authenticate == nil {
		return events.DefaultTenant, nil
	}
	key, err := apiKeyOf(r.Header)
	if err != nil {
		return "", err
	}
	tenant, ok := s.cfg.Authenticate(key)
	if !ok {
		return "", unauthorized("the API key is not known, or was revoked")
	}
	return tenant, nil
}

// apiKeyOf returns the key that a request carries. One that carries two is not
// guessed at: a proxy in between may have looked at the other.
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

// protect keeps browsers from being used against Sheaf. A page of another site can
// have a browser send requests here, with the network's trust: those that change
// something are refused by what browsers say of their origin (Sec-Fetch-Site, or
// Origin). And where this machine alone may call, and needs no key for it, a name
// that somebody points at 127.0.0.1 would make another site look like this one:
// so the Host must be this one's. Answers are no documents, and are kept nowhere.
func (s *Service) protect(next http.Handler) http.Handler {
	origin := http.NewCrossOriginProtection()
	origin.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		respond(w, r, nil, &apiError{
			Errcode: errcodeForbidden, Status: http.StatusForbidden,
			Msg: "a page of another site may not have a browser call this server; call it from your back-end",
		})
	}))
	if u, err := url.Parse(s.cfg.PublicURL); err == nil {
		// A proxy may have changed the Host that an older browser's Origin is held to.
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

// ownHosts tells the hosts that a request may be for, nil if for any.
func (s *Service) ownHosts() func(host string) bool {
	if s.cfg.Authenticate != nil || s.listener == nil {
		return nil
	}
	if address, ok := s.listener.Addr().(*net.TCPAddr); !ok || !address.IP.IsLoopback() {
		return nil // whoever says --insecure-no-auth has a proxy in front, whose name may be any
	}
	public := ""
	if u, err := url.Parse(s.cfg.PublicURL); err == nil {
		public = u.Hostname()
	}
	return OwnHosts(s.listener.Addr(), public)
}

// OwnHosts reports which values of Host name a server that listens at an address, so that a name which another
// site points here does not (DNS rebinding). These are localhost, the given names, and addresses: of loopback
// only if the server listens there, else any, because no site can point an address elsewhere. A request
// without Host passes, for no browser sends one.
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

// bareHost is a host without port, brackets and the dot at its end, in small letters.
func bareHost(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
}
