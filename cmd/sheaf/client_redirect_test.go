package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNoCommandFollowsARedirect(t *testing.T) {
	t.Chdir(t.TempDir())
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("%s %s came to the other server", r.Method, r.URL)
	}))
	defer other.Close()
	status := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Location", other.URL+"/elsewhere?token=hidden")
		w.WriteHeader(status)
	}))
	defer server.Close()
	for _, status = range []int{301, 302, 303, 307, 308} {
		for _, args := range [][]string{
			{"submit", "--url", "http://127.0.0.1:1/", "-H", "Authorization: Bearer secret"}, {"submit", "--url", "http://127.0.0.1:1/", "--wait"},
			{"status", testKey}, {"history", "--user-id", "1"}, {"watch", testKey}, {"cancel", testKey}, {"retry", testKey}, {"retry", testKey, "--wait"},
			{"download", testKey, "-o", "x.zip"}, {"export", "http://127.0.0.1:1/", "-o", "x.xlsx"}, {"seal"}, {"demo", "--rows", "1", "--out", "."},
		} {
			code, _, errs := sheaf(t, t.Context(), "secret", append(args, "--server", server.URL, "--api-key", "sheaf_key")...)
			require.Equal(t, exitFailed, code, errs)
			require.Contains(t, errs, "redirects to "+other.URL+" (HTTP ")
			require.Contains(t, errs, "name it with --server")
			require.NotContains(t, errs, "hidden")
		}
	}
	// The same holds for the link of a file.
	file := zipOf(t, "a.xlsx")
	server = answers(t, map[string]any{
		"/v1/export/detail": succeeded("/v1/down/x.zip", file),
		"/v1/down/x.zip":    http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL, http.StatusFound) }),
	})
	code, _, errs := sheaf(t, t.Context(), "", "download", testKey, "-o", "x.zip", "--server", server.URL)
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "redirects to "+other.URL)
	onlyFiles(t)
}
