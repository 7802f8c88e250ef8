package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestListForPeopleAndForPrograms(t *testing.T) {
	t.Parallel()
	queries := make(chan string, 10)
	server := answers(t, map[string]any{"/v1/export/list": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		queries <- r.URL.RawQuery
		next, title := 7, `first\u001b[2J`
		if r.URL.Query().Get("before") == "7" {
			next, title = 0, "second"
		}
		_, _ = fmt.Fprintf(w, `{"errcode":0,"data":{"exports":[{"hash_key":%q,"title":"%s","state":"waiting_for_space","status":1,"user_id":"u",
			"created_at":"2026-11-30T12:00:00+08:00","progress":{"phase":"crawling","pages_done":12,"pages_total":5000,"rows":12000}}],
			"next":%d,"counts":{"all":1204,"running":3,"waiting_for_space":1,"failed":7,"succeeded":1190,"cancelled":3},"partial":false}}`, testKey, title, next)
	})})
	code, out, errs := sheaf(t, t.Context(), "", "list", "--server", server.URL, "--time", "utc", "--state", "waiting_for_space", "--since", "2026-11-29", "--search", "a b")
	require.Zero(t, code, errs)
	require.Equal(t, "limit=50&q=a+b&since=2026-11-29T00%3A00%3A00Z&state=waiting_for_space", <-queries)
	require.Contains(t, out, "2026-11-30 04:00:00  waiting for space  12/5,000  12,000  u     "+testKey+"  first [2J")
	require.Contains(t, errs, "1,204 exports: 3 running, 0 queued, 1 waiting for space, 7 failed, 1,190 succeeded, 3 cancelled\n")
	require.Contains(t, errs, "more: --before 7\n")
	require.NotContains(t, out+errs, "\x1b")

	code, out, errs = sheaf(t, t.Context(), "", "list", "--server", server.URL, "--all", "--quiet")
	require.Zero(t, code)
	require.Equal(t, 3, strings.Count(out, "\n"), "a header and both pages: %s", out)
	require.Empty(t, errs, "--quiet")

	code, out, _ = sheaf(t, t.Context(), "", "list", "--server", server.URL, "--all", "--json")
	require.Zero(t, code)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	require.Len(t, lines, 2)
	var x struct{ Title string }
	require.NoError(t, json.Unmarshal([]byte(lines[1]), &x))
	require.Equal(t, "second", x.Title)

	code, out, _ = sheaf(t, t.Context(), "", "list", "--server", server.URL, "--json")
	require.Zero(t, code)
	var page struct{ Counts map[string]int }
	require.NoError(t, json.Unmarshal([]byte(out), &page))
	require.Equal(t, 1204, page.Counts["all"])
}

func TestTimesOfFlags(t *testing.T) {
	t.Parallel()
	std := stdio{zone: time.FixedZone("", 8*3600)}
	for text, want := range map[string]string{
		"":                          "",
		"2026-11-30":                "2026-11-30T00:00:00+08:00",
		"2026-11-30 12:30:00":       "2026-11-30T12:30:00+08:00",
		"2026-11-30T12:30:00":       "2026-11-30T12:30:00+08:00",
		"2026-11-30T12:30:00-05:00": "2026-11-30T12:30:00-05:00",
	} {
		at, err := std.parseTime("--since", text)
		require.NoError(t, err)
		if want == "" {
			require.True(t, at.IsZero())
		} else {
			require.Equal(t, want, at.Format(time.RFC3339))
		}
	}
	at, err := std.parseTime("--since", "1d12h")
	require.NoError(t, err)
	require.WithinDuration(t, time.Now().Add(-36*time.Hour), at, time.Minute)
	for _, wrong := range []string{"yesterday", "-2h", "30.11.2026"} {
		_, err := std.parseTime("--since", wrong)
		require.ErrorContains(t, err, "--since")
	}
}

func TestEventsShareRedeliverOpen(t *testing.T) {
	t.Parallel()
	bodies := make(chan string, 1)
	data := func(answer string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				var body any
				_ = json.NewDecoder(r.Body).Decode(&body)
				text, _ := json.Marshal(body)
				bodies <- string(text)
			}
			_, _ = fmt.Fprintf(w, `{"errcode":0,"data":%s}`, answer)
		}
	}
	server := answers(t, map[string]any{
		"/v1/export/events": data(`{"key":"k","events":[{"type":"crawled","time":"2026-11-30T12:00:00Z","run":4},{"time":"2026-11-30T12:00:01Z","events":30},
			{"type":"callback_attempted","time":"2026-11-30T12:00:02Z","attempt":2,"outcome":"HTTP\u001b503"}]}`),
		"/v1/export/share":     data(`{"url":"http://x/s/t","expires_at":"2026-12-06T12:00:00Z"}`),
		"/v1/export/redeliver": data(`{"state":"pending","attempts":3,"last_status":500}`),
	})
	run := func(args ...string) (string, string) {
		t.Helper()
		code, out, errs := sheaf(t, t.Context(), "", append(args, "--time", "utc", "--server", server.URL)...)
		require.Zero(t, code, errs)
		return out, errs
	}
	out, _ := run("events", testKey)
	require.Contains(t, out, "2026-11-30 12:00:00  crawled             4    -        \n")
	require.Contains(t, out, "(30 events)")
	require.Contains(t, out, "2026-11-30 12:00:02  callback attempted  -    2        HTTP 503\n")
	out, _ = run("events", testKey, "--json")
	require.Contains(t, out, `"run": 4`)

	out, errs := run("share", testKey, "--ttl", "1d", "--return-url", "http://shop/")
	require.Equal(t, "http://x/s/t\n", out)
	require.Equal(t, "good until 2026-12-06 12:00:00\n", errs)
	require.Contains(t, <-bodies, `"return_url":"http://shop/"`)
	out, _ = run("redeliver", testKey)
	require.Equal(t, "callback pending after 3 attempts, last status 500\n", out)
	require.JSONEq(t, `{"key":"`+testKey+`"}`, <-bodies)

	out, _ = run("open")
	require.Equal(t, server.URL+"/console/\n", out)
	out, _ = run("open", testKey)
	require.Equal(t, server.URL+"/console/x/"+testKey+"\n", out)
	code, _, errs := sheaf(t, t.Context(), "", "open", "../x")
	require.Equal(t, exitUsage, code, errs)
}

// The answers for administrators are printed whatever their members are.
func TestStateOfTheServer(t *testing.T) {
	t.Parallel()
	server := answers(t, map[string]any{
		"/v1/export/system": json.RawMessage(`{"ready":true,"disk":{"free_bytes":7,"path":"a\u001bb"},"roles":["ingress","keeper"],
			"streams":[{"name":"SHEAF_EVENTS","bytes":1,"note":null},{"bytes":3221225472,"name":"SHEAF_PAGES"}],"losses":[]}`),
		"/v1/export/tenants": json.RawMessage(`{"tenants":[{"tenant":"shop","exports":12345678901234567890}]}`),
	})
	code, out, errs := sheaf(t, t.Context(), "", "system", "--server", server.URL)
	require.Zero(t, code, errs)
	require.Equal(t, "ready   true\nroles   ingress, keeper\nlosses  \ndisk:\n  free bytes  7\n  path        a b\n"+
		"streams:\n  NAME          BYTES    NOTE\n  SHEAF_EVENTS  1        -\n  SHEAF_PAGES   3.0 GiB  -\n", out)
	code, out, _ = sheaf(t, t.Context(), "", "tenants", "--server", server.URL)
	require.Zero(t, code)
	require.Contains(t, out, "shop    12345678901234567890\n")
}
