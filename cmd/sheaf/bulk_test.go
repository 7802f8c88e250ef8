package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A bulk action shows what it would change, and does it only with --yes, for the number that it has counted.
func TestBulkAsksFirst(t *testing.T) {
	t.Parallel()
	bodies := make(chan string, 1)
	found := 7
	server := answers(t, map[string]any{
		"/v1/export/list": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("state") != "failed" || r.URL.Query().Get("tenant") != "shop" {
				http.NotFound(w, r)
				return
			}
			exports := strings.TrimSuffix(strings.Repeat(`{"hash_key":"`+testKey+`","title":"Orders","state":"failed","status":3},`, found), ",")
			_, _ = fmt.Fprintf(w, `{"errcode":0,"data":{"exports":[%s],"next":0}}`, exports)
		}),
		"/v1/export/bulk": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			bodies <- string(body)
			_, _ = io.WriteString(w, `{"errcode":0,"data":{"matched":7,"done":6,"skipped":[{"key":"`+testKey+`","msg":"is under way"}]}}`)
		}),
	})
	bulk := []string{"bulk", "retry", "--server", server.URL, "--tenant", "shop"}
	failed := append(bulk, "--state", "failed")
	code, out, errs := sheaf(t, t.Context(), "", failed...)
	require.Zero(t, code, errs)
	require.Equal(t, "7 exports: nothing was changed; --yes will retry them\n", out)
	require.Equal(t, 5, strings.Count(errs, testKey+"  failed  Orders\n"))
	require.Contains(t, errs, "and 2 more\n")

	code, out, errs = sheaf(t, t.Context(), "", append(failed, "--yes")...)
	require.Equal(t, 1, code, "one was skipped")
	require.JSONEq(t, `{"action":"retry","filter":{"state":"failed","tenant":"shop"},"expect":7,"tolerance":0}`, <-bodies)
	require.Equal(t, "7 exports: 6 done, 1 skipped\n", out)
	require.Contains(t, errs, "skipped "+testKey+": is under way\n")

	found = maxBulk + 1
	code, _, errs = sheaf(t, t.Context(), "", append(failed, "--yes")...)
	require.Equal(t, 1, code)
	require.Contains(t, errs, "more than 1,000 exports match; narrow the filter")
	code, _, errs = sheaf(t, t.Context(), "", bulk...)
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "say which exports")
}
