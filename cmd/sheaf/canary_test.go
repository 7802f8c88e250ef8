package main

import (
	"archive/zip"
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/secrets"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

// canaries are secrets that are planted in requests, by place.
type canaries map[string]string

func newCanaries(places ...string) canaries {
	c := canaries{}
	for _, place := range places {
		c[place] = "canary" + strings.ToLower(rand.Text())
	}
	return c
}

// sought finds a canary in data, in any form that careless code may write.
func (c canaries) sought(where string, data []byte) (found []string) {
	data = bytes.ToLower(data)
	for place, secret := range c {
		for form, text := range map[string]string{
			"plain": secret, "base64": base64.StdEncoding.EncodeToString([]byte(secret))[:28], "hex": hex.EncodeToString([]byte(secret)), "query": url.QueryEscape(secret),
		} {
			if bytes.Contains(data, []byte(strings.ToLower(text))) {
				found = append(found, fmt.Sprintf("the secret of %s, %s, is in %s", place, form, where))
			}
		}
	}
	return found
}

// The secrets of a source reach the source, and no file, log, answer, event or callback, whatever the outcome
// of the export.
func TestSecretsAreNowhere(t *testing.T) {
	t.Parallel()
	planted := newCanaries("a header", "another header", "a parameter", "a sealed header", "a sealed parameter",
		"an auth value", "a sealed auth value", "an access token")
	var mu sync.Mutex
	var told [][]byte // answers, messages and callbacks
	tell := func(data []byte) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, bytes.Clone(data))
	}
	// The secrets of a GET and those of a POST differ; the source repeats those that it was given.
	all := map[string]string{}
	for method, others := range map[string][]string{
		http.MethodGet: {"a sealed auth value", "an access token"}, http.MethodPost: {"a header", "an auth value"},
	} {
		for place, s := range planted {
			if !slices.Contains(others, place) {
				all[method] += " " + s + " Bearer " + s + " " + url.QueryEscape(s)
			}
		}
	}
	release := make(chan struct{})
	source := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path, all := strings.Trim(r.URL.Path, "/"), all[r.Method]
		if strings.HasPrefix(path, "token") {
			if got := r.FormValue("client_secret"); got != planted["a sealed auth value"] {
				t.Errorf("the token server was given %q", got)
			}
			w.Header().Set("Content-Type", "application/json")
			if path == "token/refused" {
				w.WriteHeader(http.StatusUnauthorized)
				fmt.Fprintf(w, `{"error":"invalid_client","error_description":"secret %s"}`, planted["a sealed auth value"])
				return
			}
			fmt.Fprintf(w, `{"access_token":%q,"token_type":"Bearer","expires_in":3600}`, planted["an access token"])
			return
		}
		q := r.URL.Query()
		authorization := "Bearer " + planted["a header"]
		if r.Method == http.MethodPost {
			authorization = "Bearer " + planted["an access token"]
			var body map[string]any
			_ = json.NewDecoder(r.Body).Decode(&body)
			for name, value := range body {
				q.Set(name, fmt.Sprint(value))
			}
		}
		for got, want := range map[string]string{
			r.Header.Get("Authorization"): authorization, r.Header.Get("X-Token"): planted["another header"], q.Get("token"): planted["a parameter"],
			r.Header.Get("X-Sealed"): planted["a sealed header"], q.Get("sealed"): planted["a sealed parameter"], q.Get("shop"): "7",
		} {
			if got != want {
				t.Errorf("the source was given %q, not %q", got, want)
			}
		}
		if got := r.Header.Get("X-Api-Key"); r.Method == http.MethodGet && got != planted["an auth value"] {
			t.Errorf("the source was given the key %q", got)
		}
		switch path {
		case "errcode":
			fmt.Fprintf(w, `{"errcode":7,"msg":"no such user: %s","data":null}`, all)
		case "status":
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprintf(w, `{"errcode":403,"msg":"forbidden for %s","data":null}`, all)
		case "html":
			fmt.Fprintf(w, "<html>%s</html>", all)
		case "redirect":
			w.Header().Set("Location", "http://127.0.0.1:1/?"+url.Values{"all": {all}}.Encode())
			w.WriteHeader(http.StatusFound)
		case "broken":
			fmt.Fprintf(w, `{"errcode":0,"data":{"data":[{"id":"%s`, all)
		case "slow":
			select {
			case <-release:
			case <-r.Context().Done():
			}
		default:
			_, _ = io.WriteString(w, `{"errcode":0,"data":{"data":[{"id":"ID"},{"id":1}],"pagetag":{"page":1,"limit":10,"total":1,"total_page":1}}}`)
		}
	}))
	defer source.Close()
	defer close(release)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		tell(fmt.Appendf(body, "%v", r.Header))
	}))
	defer receiver.Close()

	data := t.TempDir()
	p := startServe(t, "--http", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0", "--data", data, "--log-level", "debug", "--log-format", "json")
	nc, err := nats.Connect(p.nats)
	require.NoError(t, err)
	defer nc.Close()
	_, err = nc.Subscribe(">", func(m *nats.Msg) { tell(fmt.Appendf(nil, "%s %v %s", m.Subject, m.Header, m.Data)) })
	require.NoError(t, err)
	require.NoError(t, nc.Flush())
	ask := func(method, path, body string) (data json.RawMessage) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, p.http+path, strings.NewReader(body))
		require.NoError(t, err)
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		raw, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		tell(fmt.Appendf(raw, "%v", resp.Header))
		var a struct{ Data json.RawMessage }
		require.NoError(t, json.Unmarshal(raw[:bytes.LastIndexByte(raw, '}')+1], &a), string(raw))
		return a.Data
	}
	var seal struct{ Key string }
	require.NoError(t, json.Unmarshal(ask(http.MethodGet, "/v1/seal-key", ""), &seal))
	sealed := func(place string) string {
		text, err := secrets.SealValue(seal.Key, "default", planted[place])
		require.NoError(t, err)
		return text
	}
	request := func(what, method, callback string) string {
		// A GET has a key beside its headers. A POST has a token, for which the client's secret is sealed.
		header := map[string]string{"X-Token": planted["another header"], "X-Sealed": sealed("a sealed header")}
		auth := map[string]string{"type": "api_key", "in": "header", "name": "X-Api-Key", "value": planted["an auth value"]}
		if method == http.MethodGet {
			header["Authorization"] = "Bearer " + planted["a header"]
		} else {
			auth = map[string]string{
				"type": "oauth2", "token_url": source.URL + "/token", "client_id": "7", "client_secret": sealed("a sealed auth value"), "client_auth": "body",
			}
			if what == "token" {
				auth["token_url"] += "/refused"
			}
		}
		body, err := json.Marshal(map[string]any{
			"timestamp": 1, "ext_type": "XLSX", "title": what, "user_id": "7", "callback": callback,
			"source_http": map[string]any{
				"url": source.URL + "/" + what, "method": method,
				"header":       header,
				"auth":         auth,
				"param":        map[string]any{"limit": 10, "token": planted["a parameter"], "sealed": sealed("a sealed parameter"), "shop": 7},
				"secret_param": []string{"token", "sealed"},
			},
		})
		require.NoError(t, err)
		return string(body)
	}
	status := func(key string) int {
		var d struct{ Status int }
		require.NoError(t, json.Unmarshal(ask(http.MethodGet, "/v1/export/detail?key="+key, ""), &d))
		return d.Status
	}
	ended := func(key string, want int) {
		t.Helper()
		require.Eventually(t, func() bool { return status(key) != events.StatusProcessing }, 30*time.Second, 10*time.Millisecond)
		require.Equal(t, want, status(key))
	}
	submit := func(what, method string) string {
		t.Helper()
		var accepted struct {
			Key string `json:"hash_key"`
		}
		require.NoError(t, json.Unmarshal(ask(http.MethodPost, "/v1/export/http", request(what, method, receiver.URL)), &accepted))
		require.True(t, events.ValidKey(accepted.Key))
		return accepted.Key
	}
	var good []string
	for _, method := range []string{"GET", "POST"} {
		good = append(good, submit("good", method))
		ended(good[len(good)-1], events.StatusSucceeded)
		failures := []string{"errcode", "status", "html", "redirect", "broken"}
		if method == "POST" {
			failures = append(failures, "token")
		}
		for _, what := range failures {
			key := submit(what, method)
			ended(key, events.StatusFailed)
			ask(http.MethodPost, "/v1/export/retry", fmt.Sprintf(`{"key":%q}`, key))
			ended(key, events.StatusFailed)
		}
		key := submit("slow", method)
		ask(http.MethodPost, "/v1/export/cancel", fmt.Sprintf(`{"key":%q}`, key))
		ended(key, events.StatusCancelled)
	}
	// A link is enough to download, so the log must contain no link, neither of a successful download nor of
	// a refused one.
	links := canaries{}
	for _, key := range good {
		var d struct {
			Link string `json:"down_url"`
		}
		require.NoError(t, json.Unmarshal(ask(http.MethodGet, "/v1/export/detail?key="+key, ""), &d))
		link, err := url.Parse(d.Link)
		require.NoError(t, err)
		links["link "+key] = link.Query().Get("sig")
		require.NotEmpty(t, links["link "+key])
		for _, u := range []string{d.Link, d.Link + "x", strings.Replace(d.Link, "exp=", "exp=1", 1)} {
			for _, method := range []string{http.MethodGet, http.MethodHead} {
				req, err := http.NewRequestWithContext(t.Context(), method, u, nil)
				require.NoError(t, err)
				resp, err := http.DefaultClient.Do(req)
				require.NoError(t, err)
				_, _ = io.Copy(io.Discard, resp.Body)
				require.NoError(t, resp.Body.Close())
				require.Equal(t, u == d.Link, resp.StatusCode == http.StatusOK, u)
			}
		}
	}
	// Responses to refused requests do not quote the request.
	for _, body := range []string{
		strings.Replace(request("x", "GET", ""), `"X-Token":"`, `"Content-Length":"`, 1),
		strings.Replace(request("x", "GET", ""), `"in":"header"`, `"in":"heder"`, 1),
		strings.Replace(request("x", "GET", ""), `"X-Api-Key"`, `"X-Token"`, 1),
		strings.Replace(request("x", "POST", ""), `"client_secret":"sealed:v1:`, `"client_secret":"sealed:v1:!`, 1),
		strings.Replace(request("x", "POST", ""), `"X-Token":`, `"Authorization":`, 1),
		strings.Replace(request("x", "GET", ""), `"secret_param":[`, `"secret_param":["absent",`, 1),
		strings.Replace(request("x", "GET", ""), `"ext_type":"XLSX"`, `"ext_type":"`+"CSV"+`"`, 1),
		request("x", "GET", "")[:200],
	} {
		ask(http.MethodPost, "/v1/export/http", body)
	}
	ask(http.MethodGet, "/v1/export/history?user_id=7", "")
	ask(http.MethodGet, "/readyz", "")
	p.stop()
	require.Zero(t, <-p.ended)

	var found []string
	require.NoError(t, filepath.WalkDir(data, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		found = append(found, planted.sought(path, content)...)
		return unpack(content, func(name string, content []byte) { found = append(found, planted.sought(path+": "+name, content)...) })
	}))
	log := p.err.String() + p.out.String()
	require.Contains(t, log, "/v1/down/", "downloads are logged")
	found = append(found, planted.sought("the log", []byte(log))...)
	found = append(found, links.sought("the log", []byte(log))...)
	mu.Lock()
	defer mu.Unlock()
	for _, text := range told {
		found = append(found, planted.sought(fmt.Sprintf("%.200q", text), text)...)
	}
	require.Empty(t, found)
	require.Greater(t, len(told), 100)
	// The search finds a canary that exists.
	require.NotEmpty(t, planted.sought("a proof", []byte(`{"a":"`+planted["a header"]+`"}`)))
}

// unpack visits the content of a zip, and of a zip in it.
func unpack(data []byte, visit func(name string, content []byte)) error {
	z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return nil //nolint:nilerr // no zip
	}
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			return err
		}
		content, err := io.ReadAll(r)
		_ = r.Close()
		if err != nil {
			return err
		}
		visit(f.Name, content)
		if err := unpack(content, visit); err != nil {
			return err
		}
	}
	return nil
}
