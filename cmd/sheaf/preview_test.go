package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"sheaf/services/crawler/source/sourcetest"
)

// The request that a preview prints, submitted as it is, gives every row of the list.
func TestThePreviewedRequestGivesEveryRow(t *testing.T) {
	t.Parallel()
	const rows = 1230
	server := startServe(t, "--http", "127.0.0.1:0", "--nats-listen", "none", "--data", t.TempDir())
	for _, api := range sourcetest.APIs() {
		t.Run(api.Name, func(t *testing.T) {
			t.Parallel()
			source := api.Serve(t, rows)
			answer := wireCall(t, "POST", server.http+"/v1/export/preview", string(api.Submission(source.URL)), nil)
			require.Zero(t, answer.Errcode, answer.Msg)
			var preview previewAnswer
			require.NoError(t, json.Unmarshal(answer.Data, &preview))
			require.NotNil(t, preview.Request, string(answer.Data))
			require.LessOrEqual(t, preview.Requests, 3)
			require.Equal(t, api.Preset, preview.Preset, string(answer.Data))
			require.NotEmpty(t, preview.Rows)
			for _, f := range preview.Findings {
				require.NotEqual(t, "assumed", f.How, string(answer.Data))
			}
			request := string(preview.Request)
			if api.Name == "PostgREST" { // its header is hidden
				request = strings.Replace(request, "…", "count=exact", 1)
			}
			accepted := wireCall(t, "POST", server.http+"/v1/export/http", request, nil)
			require.Zero(t, accepted.Errcode, accepted.Msg)
			var key struct {
				HashKey string `json:"hash_key"`
			}
			require.NoError(t, json.Unmarshal(accepted.Data, &key))
			d := wireWait(t, server.http, key.HashKey)
			require.Equal(t, 2, d.Status, "%s\n%s", d.FailReason, request)
			got := workbookOf(t, d.DownURL)
			require.Len(t, got, rows+1, request)
			number := 1 // of the column "no"
			if api.Name == "JSON:API" {
				return // its rows are type, id and attributes
			}
			require.Equal(t, []string{"id", "no", "amount"}, got[0])
			for i, row := range got[1:] {
				require.Equal(t, "NO-"+pad(i+1), row[number])
			}
		})
	}
}

func pad(n int) string {
	s := strconv.Itoa(n)
	return strings.Repeat("0", 6-len(s)) + s
}

// An export of a URL alone previews it, prints the request in a line and gives every row.
func TestExportFindsTheRequest(t *testing.T) {
	t.Parallel()
	for _, api := range sourcetest.APIs() {
		if api.Source != "" {
			continue
		}
		t.Run(api.Name, func(t *testing.T) {
			t.Parallel()
			name := filepath.Join(t.TempDir(), "orders.xlsx")
			source := api.Serve(t, 60)
			code, out, errs := sheaf(t, t.Context(), "", "export", source.URL+"/orders", "-o", name)
			require.Zero(t, code, errs)
			require.Contains(t, out, name)
			require.Contains(t, errs, "found: ")
			require.Contains(t, errs, "60 rows")
		})
	}
}

func TestPreviewPrintsARequestForExport(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	saved := filepath.Join(folder, "answer.json")
	var api sourcetest.API
	for _, a := range sourcetest.APIs() {
		if a.Name == "Laravel" {
			api = a
		}
	}
	source := api.Serve(t, 60)
	code, out, errs := sheaf(t, t.Context(), "", "preview", source.URL+"/orders", "-H", "Authorization: Bearer hush-hush")
	require.Zero(t, code, errs)
	require.Contains(t, out, "laravel")
	require.Contains(t, out, "NO-000001")
	require.Contains(t, out, `"preset": "laravel"`)
	require.NotContains(t, out, "hush")
	code, out, errs = sheaf(t, t.Context(), "", "preview", source.URL+"/orders", "-H", "Authorization: Bearer hush-hush", "--json")
	require.Zero(t, code, errs)
	require.NotContains(t, out, "hush")
	require.NoError(t, os.WriteFile(saved, []byte(out), 0o600))
	code, _, errs = sheaf(t, t.Context(), "", "export", "--request", saved, "-o", filepath.Join(folder, "refused.xlsx"))
	require.Equal(t, exitFailed, code, errs)
	require.Contains(t, errs, `"…"`)
	code, _, errs = sheaf(t, t.Context(), "", "export", "--request", saved, "-o", filepath.Join(folder, "orders.xlsx"), "-H", "authorization: Bearer hush-hush")
	require.Zero(t, code, errs)
	require.Contains(t, errs, "60 rows")
	code, _, errs = sheaf(t, t.Context(), out, "export", "--request", "-", "-o", filepath.Join(folder, "stdin.xlsx"), "-H", "authorization: Bearer hush-hush")
	require.Zero(t, code, errs)
	require.Contains(t, errs, "60 rows")
	for args, want := range map[string]string{
		"preview":          "give the URL of an API",
		"preview " + saved: "a file needs no preview; sheaf export " + saved + " -o FILE.xlsx",
	} {
		code, _, errs = sheaf(t, t.Context(), "", strings.Fields(args)...)
		require.Equal(t, exitUsage, code, args)
		require.Contains(t, errs, want)
	}
}

// With --server the server previews, and the command has its secrets again for the export.
func TestExportByAServerFindsTheRequest(t *testing.T) {
	t.Parallel()
	output := filepath.Join(t.TempDir(), "a.xlsx")
	server := startServe(t, "--http", "127.0.0.1:0", "--nats-listen", "none", "--data", t.TempDir())
	var without atomic.Int32
	source := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer hush-hush" {
			without.Add(1)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		page, _ := strconv.Atoi(cmp.Or(r.URL.Query().Get("page"), "1"))
		var rows []string
		for i := 20*page - 20; i < min(20*page, 70); i++ {
			rows = append(rows, sourcetest.Row(i))
		}
		fmt.Fprintf(w, `{"items":[%s],"total":70}`, strings.Join(rows, ","))
	}))
	defer source.Close()
	code, _, errs := sheaf(t, t.Context(), "", "export", source.URL, "-o", output, "--server", server.http, "-H", "Authorization: Bearer hush-hush")
	require.Zero(t, code, errs)
	require.Contains(t, errs, "found: rows items, paging page, proof total, 4 pages\n")
	require.Contains(t, errs, "70 rows")
	require.NotContains(t, errs, "hush")
	require.Zero(t, without.Load())
	code, out, errs := sheaf(t, t.Context(), "", "preview", source.URL, "--server", server.http)
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "SOURCE_AUTH")
	require.Empty(t, out)
}

// An export whose completeness would be assumed stops, and names what to set.
func TestExportAssumesNothing(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	first, second := filepath.Join(folder, "a.xlsx"), filepath.Join(folder, "b.xlsx")
	source := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"data":{"list":[%s,%s]}}`, sourcetest.Row(0), sourcetest.Row(1))
	}))
	defer source.Close()
	code, _, errs := sheaf(t, t.Context(), "", "export", source.URL, "-o", first)
	require.Equal(t, exitUsage, code, errs)
	require.Contains(t, errs, "source_http.paging: ")
	require.Contains(t, errs, "--paging")
	require.NoFileExists(t, first)
	code, _, errs = sheaf(t, t.Context(), "", "export", source.URL, "-o", first, "--rows", "data.list", "--paging", `{"type": "none"}`)
	require.Zero(t, code, errs)
	require.Contains(t, errs, "2 rows")
	code, _, errs = sheaf(t, t.Context(), "", "export", source.URL, "-o", second, "--paging", `{`)
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "--paging")
	code, _, errs = sheaf(t, t.Context(), "", "preview", source.URL, "--preset", "larvel")
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "laravel?")
	code, out, errs := sheaf(t, t.Context(), "", "preview", source.URL, "--json")
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "source_http.paging")
	require.True(t, json.Valid([]byte(out)), out)
}

// A failure says what happened and what to do, in words that fit the caller's own API.
func TestExportSaysWhatToDo(t *testing.T) {
	t.Parallel()
	output := filepath.Join(t.TempDir(), "a.xlsx")
	source := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/login":
			w.WriteHeader(http.StatusUnauthorized)
		case "/html":
			fmt.Fprint(w, "<!DOCTYPE html><p>Log in")
		case "/expired":
			fmt.Fprint(w, `{"code":401,"msg":"登录过期: hush-\u0068ush","data":null}`)
		case "/graphql":
			fmt.Fprint(w, `{"failed":[],"errors":[{"message":"no field"}]}`)
		default:
			fmt.Fprintf(w, `{"items":[%s],"total":70}`, sourcetest.Row(0))
		}
	}))
	defer source.Close()
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"/login", exitFailed, "HTTP 401 (SOURCE_AUTH); check the credentials"},
		{"/login --preset laravel", exitFailed, "HTTP 401 (SOURCE_AUTH); check the credentials"},
		{"/html", exitFailed, "not JSON (SOURCE_FORMAT); check that the URL is that of the API"},
		{"/expired", exitUsage, `the answer has code 401, msg "登录过期: ***", data;`},
		{"/graphql", exitUsage, `the answer has failed, errors "no field";`},
		{"/more", exitUsage, `such as {"type":"page","page_param":"NAME","total":"total"}`},
		{"/more --preset larvel", exitFailed, `sheaf: source_http.preset: "larvel" is not known; laravel?`},
		{"/more --preset mybatis-plus", exitFailed, `source_http.error.path "code" finds nothing; the answer has the keys "items", "total"`},
	} {
		args := append([]string{"export", "-o", output, "-H", "X-Key: hush-hush"}, strings.Fields(source.URL+c.args)...)
		code, _, errs := sheaf(t, t.Context(), "", args...)
		require.Equal(t, c.code, code, "%s: %s", c.args, errs)
		require.Contains(t, errs, c.want)
		require.NotContains(t, errs, "pagetag", c.args)
		require.NotContains(t, errs, "the server", c.args)
		require.NotContains(t, errs, "hush", c.args)
		require.NoFileExists(t, output)
	}
}

// A GraphQL query on the command line is all that an export of a connection needs.
func TestExportOfAGraphQLQuery(t *testing.T) {
	t.Parallel()
	const query = "query($after: String) { orders(after: $after) { nodes { id } pageInfo { hasNextPage endCursor } } }"
	source := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var asked struct {
			Query     string
			Variables struct{ After string }
		}
		if err := json.NewDecoder(r.Body).Decode(&asked); err != nil || asked.Query != query || r.URL.RawQuery != "" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		from, _ := strconv.Atoi(asked.Variables.After)
		to := min(from+20, 70)
		var nodes []string
		for i := from; i < to; i++ {
			nodes = append(nodes, sourcetest.Row(i))
		}
		fmt.Fprintf(w, `{"data":{"orders":{"nodes":[%s],"pageInfo":{"hasNextPage":%t,"endCursor":"%d"}}}}`, strings.Join(nodes, ","), to < 70, to)
	}))
	defer source.Close()
	code, _, errs := sheaf(t, t.Context(), "", "export", source.URL, "-o", filepath.Join(t.TempDir(), "a.xlsx"), "--body", fmt.Sprintf(`{"query":%q}`, query))
	require.Zero(t, code, errs)
	require.Contains(t, errs, "found: preset graphql-relay, rows data.orders.nodes, paging cursor, proof end\n")
	require.Contains(t, errs, "70 rows")
}

func TestExportOfAFile(t *testing.T) {
	t.Chdir(t.TempDir())
	for name, content := range map[string]string{
		"a.csv": "id,name\n1,x\n2,y\n", "a.json": `[{"id":1,"name":"x"},{"id":2,"name":"y"}]`, "a.ndjson": "{\"id\":1,\"name\":\"x\"}\n{\"id\":2,\"name\":\"y\"}\n",
	} {
		require.NoError(t, os.WriteFile(name, []byte(content), 0o600))
		code, _, errs := sheaf(t, t.Context(), "", "export", name, "-o", name+".xlsx")
		require.Zero(t, code, errs)
		require.Contains(t, errs, "2 rows")
		require.FileExists(t, filepath.Join(".", name+".xlsx"))
	}
	code, _, errs := sheaf(t, t.Context(), `[{"id":1}]`, "export", "-", "-o", "stdin.xlsx")
	require.Zero(t, code, errs)
	require.Contains(t, errs, "1 rows")
	code, _, errs = sheaf(t, t.Context(), "编号;名称\n1;a\n2;b\n", "export", "-", "-o", "csv.xlsx", "--delimiter", ";", "--encoding", "utf-8")
	require.Zero(t, code, errs)
	require.Contains(t, errs, "2 rows")
	for args, want := range map[string]string{
		"export a.csv -o b.xlsx --server http://127.0.0.1:1": "--server: it cannot read a file",
		"export a.csv -o b.xlsx --preset laravel":            "--preset: it goes with a URL",
		"export a.csv -o b.ods":                              "a file ends in .xlsx",
		"export none.csv -o b.xlsx":                          `there is no file "none.csv", and it is not a URL`,
		"export . -o b.xlsx":                                 ". is a folder",
		"export -o b.xlsx":                                   "give the URL of an API, a file, or - for stdin",
		"export http://127.0.0.1:1/ -o b.xlsx --delimiter ;": "they go with a file",
		"export http://127.0.0.1:1/ -o b.xlsx --body {":      "--body: it is not JSON",
		"export a.csv -o b.xlsx --body {}":                   "--body: it goes with a URL",
	} {
		code, _, errs := sheaf(t, t.Context(), "", strings.Fields(args)...)
		require.Equal(t, exitUsage, code, args)
		require.Contains(t, errs, want)
	}
}

// workbookOf downloads a finished export and reads its rows.
func workbookOf(t *testing.T, address string) [][]string {
	t.Helper()
	res, err := http.Get(address)
	require.NoError(t, err)
	defer res.Body.Close()
	archive, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return workbookIn(t, archive)
}
