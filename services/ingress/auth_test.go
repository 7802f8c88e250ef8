package ingress

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"

	"github.com/stretchr/testify/require"
)

// twoTenants starts an ingress with an API key for each of two tenants.
func twoTenants(t *testing.T) (in *ingress, shop, mallory []string) {
	t.Helper()
	in = start(t, eventstest.Server(t, ""), Config{Authenticate: func(key string) (Principal, bool) {
		tenant, ok := map[string]string{"shop-key": "shop", "mallory-key": "mallory"}[key]
		return operator(tenant), ok
	}})
	return in, []string{"Authorization", "Bearer shop-key"}, []string{"X-API-Key", "mallory-key"}
}

const rawRequest = `{"timestamp":1625106207,"ext_type":"XLSX","title":"t","user_id":"7","source_raw":"[{\"name\":\"姓名\"},{\"name\":\"李雷\"}]"}`

// Every path of the API requires a valid key. Links, health checks and the demo require none.
func TestEveryOperationWantsAKey(t *testing.T) {
	t.Parallel()
	in, shop, _ := twoTenants(t)
	for _, r := range in.routes() {
		url := in.url + strings.NewReplacer("{year}", "2026", "{month}", "1", "{day}", "1", "{file}", strings.Repeat("0", 32)+".zip").Replace(r.path)
		for name, header := range map[string][]string{
			"none":         nil,
			"unknown":      {"Authorization", "Bearer other-key"},
			"unknown too":  {"X-API-Key", "other-key"},
			"empty":        {"X-API-Key", ""},
			"Basic":        {"Authorization", "Basic c2hvcC1rZXk6"},
			"bare":         {"Authorization", "shop-key"},
			"two of which": {"Authorization", "Bearer mallory-key", "X-API-Key", "shop-key"},
		} {
			req, err := http.NewRequestWithContext(t.Context(), r.method, url, strings.NewReader(`{}`))
			require.NoError(t, err)
			for i := 0; i < len(header); i += 2 {
				req.Header.Set(header[i], header[i+1])
			}
			resp, err := http.DefaultClient.Do(req)
			require.NoError(t, err)
			body, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			if !strings.HasPrefix(r.path, "/v1/export/") {
				require.NotEqual(t, http.StatusUnauthorized, resp.StatusCode, "%s %s", r.method, r.path)
				continue
			}
			require.Equal(t, http.StatusUnauthorized, resp.StatusCode, "%s %s: %s", r.path, name, body)
			require.Equal(t, `Bearer realm="sheaf"`, resp.Header.Get("WWW-Authenticate"))
			require.Contains(t, string(body), `"errcode":40101`)
			require.NotContains(t, string(body), "shop-key")
		}
	}
	require.Zero(t, send(t, http.MethodPost, in.url+"/v1/export/raw", rawRequest, shop...).Errcode)
	both := append([]string{"X-API-Key", "shop-key"}, shop...) // the same key twice
	require.Zero(t, send(t, http.MethodGet, in.url+"/v1/export/history?user_id=7", "", both...).Errcode)
}

// About another tenant's export, every answer equals the one about an unknown export, and no call changes it.
func TestTenantsSeeOnlyTheirOwn(t *testing.T) {
	t.Parallel()
	in, shop, mallory := twoTenants(t)
	key := send(t, http.MethodPost, in.url+"/v1/export/raw", rawRequest, shop...).key(t)
	never := strings.Repeat("0", 31) + "1"
	for _, ask := range []func(key string, as ...string) answer{
		func(key string, as ...string) answer {
			return send(t, http.MethodGet, in.url+"/v1/export/detail?key="+key, "", as...)
		},
		func(key string, as ...string) answer {
			return send(t, http.MethodPost, in.url+"/v1/export/cancel", fmt.Sprintf(`{"key":%q}`, key), as...)
		},
		func(key string, as ...string) answer {
			return send(t, http.MethodPost, in.url+"/v1/export/retry", fmt.Sprintf(`{"key":%q}`, key), as...)
		},
	} {
		theirs, unknown := ask(key, mallory...), ask(never, mallory...)
		require.Equal(t, http.StatusNotFound, theirs.Status)
		require.Equal(t, strings.ReplaceAll(unknown.Msg, never, key), theirs.Msg)
		require.Equal(t, unknown.Errcode, theirs.Errcode)
		require.Equal(t, unknown.Status, theirs.Status)
	}
	history := send(t, http.MethodGet, in.url+"/v1/export/history?user_id=7", "", mallory...)
	require.JSONEq(t, `[]`, string(history.Data))
	var own []json.RawMessage
	require.NoError(t, json.Unmarshal(send(t, http.MethodGet, in.url+"/v1/export/history?user_id=7", "", shop...).Data, &own))
	require.Len(t, own, 1)
	require.Equal(t, events.StatusProcessing, send(t, http.MethodGet, in.url+"/v1/export/detail?key="+key, "", shop...).detail(t).Status)

	// Equal requests of two tenants are two exports.
	require.NotEqual(t, key, send(t, http.MethodPost, in.url+"/v1/export/raw", rawRequest, mallory...).key(t))
}

// A page of another site cannot use a visitor's browser against Sheaf: neither to change something, nor under
// a host name of its own that resolves to this server.
func TestBrowsersAreNotUsedAgainstUs(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{PublicURL: "https://sheaf.example.com/x"})
	post := func(header ...string) answer {
		return send(t, http.MethodPost, in.url+"/v1/export/cancel", `{"key":"`+strings.Repeat("0", 32)+`"}`, header...)
	}
	for _, header := range [][]string{
		{"Sec-Fetch-Site", "cross-site"},
		{"Sec-Fetch-Site", "same-site"},
		{"Origin", "https://evil.example"},
		{"Origin", "null", "Content-Type", "text/plain"},
	} {
		a := post(header...)
		require.Equal(t, http.StatusForbidden, a.Status, header)
		require.Equal(t, errcodeForbidden, a.Errcode)
		require.Empty(t, a.Header.Get("Access-Control-Allow-Origin"))
	}
	require.Equal(t, http.StatusNotFound, post().Status, "a back-end")
	require.Equal(t, http.StatusNotFound, post("Sec-Fetch-Site", "same-origin").Status)

	for host, want := range map[string]int{
		"evil.example": 421, "evil.example:80": 421, "127.0.0.1.evil.example": 421, "10.0.0.1": 421, "[::ffff:10.0.0.1]:80": 421,
		"127.0.0.1": 200, "127.0.0.1:9": 200, "localhost": 200, "LOCALHOST.:80": 200, "[::1]:80": 200, "127.1.2.3": 200, "sheaf.example.com": 200,
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, in.url+"/healthz", nil)
		require.NoError(t, err)
		req.Host = host
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		a := decode(t, resp)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, want, a.Status, host)
		for name, value := range map[string]string{
			"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
			"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
		} {
			require.Equal(t, value, a.Header.Get(name))
		}
	}
}

// Malformed requests get a refusal or a closed connection: never another tenant's data, and never a 500.
func TestHostileRequests(t *testing.T) {
	t.Parallel()
	in, shop, _ := twoTenants(t)
	key := send(t, http.MethodPost, in.url+"/v1/export/raw", rawRequest, shop...).key(t)
	host := strings.TrimPrefix(in.url, "http://")
	auth := "Host: " + host + "\r\nAuthorization: Bearer shop-key\r\n"
	as := "Host: " + host + "\r\nX-API-Key: mallory-key\r\n"
	ask := func(raw string) string {
		t.Helper()
		conn, err := net.Dial("tcp", host)
		require.NoError(t, err)
		defer conn.Close()
		require.NoError(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
		_, _ = io.WriteString(conn, raw) // the server may close it meanwhile
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			return "closed"
		}
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		_ = resp.Body.Close()
		require.NotContains(t, string(body), "goroutine")
		return resp.Status[:3] + " " + string(body)
	}
	require.Contains(t, ask("GET /v1/export/detail?key="+key+" HTTP/1.1\r\n"+auth+"\r\n"), "200 ")
	for name, c := range map[string]struct{ raw, want string }{
		"two slashes":                   {"GET //v1/export/detail?key=" + key + " HTTP/1.1\r\n" + as + "\r\n", "404"},
		"dots":                          {"GET /v1/down/../export/detail?key=" + key + " HTTP/1.1\r\n" + as + "\r\n", "404"},
		"encoded slashes":               {"GET /v1%2fexport%2fdetail?key=" + key + " HTTP/1.1\r\nHost: " + host + "\r\n\r\n", "404|401"},
		"encoded path, no key":          {"GET /v1/export/%64etail?key=" + key + " HTTP/1.1\r\nHost: " + host + "\r\n\r\n", "401|404"},
		"NUL":                           {"GET /v1/export/detail?key=%00" + key + " HTTP/1.1\r\n" + as + "\r\n", "404|400"},
		"absolute form":                 {"GET http://evil.example/v1/export/detail?key=" + key + " HTTP/1.1\r\n" + as + "\r\n", "404"},
		"a method of none":              {"BREW / HTTP/1.1\r\n" + as + "\r\n", "405|404"},
		"TRACE":                         {"TRACE /v1/export/detail HTTP/1.1\r\n" + as + "\r\n", "405"},
		"CONNECT":                       {"CONNECT evil.example:443 HTTP/1.1\r\n" + as + "\r\n", "404|405|400"},
		"two lengths":                   {"POST /v1/export/cancel HTTP/1.1\r\n" + as + "Content-Length: 3\r\nContent-Length: 4\r\n\r\n{}xy", "400"},
		"a length and chunks":           {"POST /v1/export/cancel HTTP/1.1\r\n" + as + "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"},
		"an odd encoding":               {"POST /v1/export/cancel HTTP/1.1\r\n" + as + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "501|400"},
		"a folded header":               {"GET / HTTP/1.1\r\n" + as + "X: a\r\n b\r\n\r\n", "400|200"},
		"a header with a space":         {"GET / HTTP/1.1\r\n" + as + "X : a\r\n\r\n", "400"},
		"headers without end":           {"GET / HTTP/1.1\r\n" + as + "X: " + strings.Repeat("a", 1<<20) + "\r\n\r\n", "431|closed"},
		"very many headers":             {"GET / HTTP/1.1\r\n" + as + strings.Repeat("X: a\r\n", 100_000) + "\r\n", "431|closed"},
		"two hosts":                     {"GET / HTTP/1.1\r\n" + as + "Host: evil.example\r\n\r\n", "400"},
		"no host":                       {"GET / HTTP/1.1\r\n\r\n", "400"},
		"HTTP/1.0":                      {"GET /v1/export/detail?key=" + key + " HTTP/1.0\r\n" + as + "\r\n", "404"},
		"HTTP/9":                        {"GET / HTTP/9.9\r\n" + as + "\r\n", "505"},
		"no HTTP":                       {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "400|closed"},
		"two keys in Authorization":     {"GET /v1/export/detail?key=" + key + " HTTP/1.1\r\n" + auth + "Authorization: Bearer mallory-key\r\n\r\n", "401"},
		"a range of a file of no link":  {"GET /v1/down/2026/1/1/" + key + ".zip HTTP/1.1\r\n" + auth + "Range: bytes=0-\r\n\r\n", "404"},
		"a link out of the folder":      {"GET /v1/down/2026/1/1/..%2f..%2fsecret.key?exp=1&sig=x HTTP/1.1\r\n" + auth + "\r\n", "404"},
		"a body that is announced long": {"POST /v1/export/http HTTP/1.1\r\n" + as + "Content-Length: 99999999999\r\n\r\n{", "413"},
	} {
		t.Run(name, func(t *testing.T) {
			got := ask(c.raw)
			ok := false
			for _, want := range strings.Split(c.want, "|") {
				ok = ok || strings.HasPrefix(got, want)
			}
			require.True(t, ok, "%.200s", got)
			require.False(t, strings.HasPrefix(got, "500"))
		})
	}
}

// A caller that announces a body and never sends it gets an answer or loses its connection, even where no
// handler reads the body.
func TestUnsentBodiesHoldNoConnection(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{
		ReadTimeout:  300 * time.Millisecond,
		Authenticate: func(string) (Principal, bool) { return Principal{}, false },
	})
	host := strings.TrimPrefix(in.url, "http://")
	for _, line := range []string{"POST /v1/export/http", "GET /healthz", "POST /nowhere", "POST /v1/export/cancel"} {
		conn, err := net.Dial("tcp", host)
		require.NoError(t, err)
		defer conn.Close()
		_, err = io.WriteString(conn, line+" HTTP/1.1\r\nHost: "+host+"\r\nContent-Length: 1000\r\n\r\n{")
		require.NoError(t, err)
		require.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
		_, err = io.Copy(io.Discard, conn)
		require.NoError(t, err, "%s: the connection is still there", line)
	}
}
