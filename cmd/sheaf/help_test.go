package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sheaf/events/client"
)

func TestHelpAndVersionAreCommands(t *testing.T) {
	t.Parallel()
	for command, same := range map[string]string{
		"help": "--help", "help export": "export --help", "help keys": "keys --help", "help keys add": "keys add --help",
		"help serve": "serve --help", "version": "--version", "help version": "version --help",
	} {
		code, out, errs := sheaf(t, t.Context(), "", strings.Fields(command)...)
		require.Zero(t, code, "%s: %s", command, errs)
		_, want, _ := sheaf(t, t.Context(), "", strings.Fields(same)...)
		require.Equal(t, want, out)
		require.NotEmpty(t, out)
	}
	code, out, errs := sheaf(t, t.Context(), "", "help", "exprot")
	require.Equal(t, exitUsage, code)
	require.Empty(t, out)
	require.Equal(t, "sheaf: unexpected argument exprot, did you mean \"export\"?\nsee: sheaf --help\n", errs)
}

func TestUsageErrorsPointToTheHelpOfTheirCommand(t *testing.T) {
	t.Parallel()
	for command, want := range map[string]string{
		"exprot": "sheaf", "--no-such-flag": "sheaf",
		"export": "sheaf export", "export http://x/ -o x.xlsx --limit 0": "sheaf export", "export http://x/ -o x.xlsx --limit ten": "sheaf export",
		"serve --htp x": "sheaf serve", "serve --roles x": "sheaf serve", "demo --rows=-1": "sheaf demo", "source": "sheaf source",
		"source x --max-limit 0": "sheaf source", "submit": "sheaf submit", "status": "sheaf status", "watch": "sheaf watch", "cancel": "sheaf cancel",
		"retry": "sheaf retry", "download x": "sheaf download", "history --limit x": "sheaf history", "seal --tenant A.B": "sheaf seal",
		"keys": "sheaf keys", "keys add --api-keys x": "sheaf keys add", "keys revoke --api-keys x": "sheaf keys revoke",
		"secret-key": "sheaf secret-key", "secret-key rotate --in=-1h": "sheaf secret-key rotate", "callback-secret --tenant A.B": "sheaf callback-secret",
	} {
		code, out, errs := sheaf(t, t.Context(), "", strings.Fields(command)...)
		require.Equal(t, exitUsage, code, command)
		require.Empty(t, out)
		require.True(t, strings.HasSuffix(errs, "\nsee: "+want+" --help\n"), "%s: %s", command, errs)
		require.Equal(t, 2, strings.Count(errs, "\n"), errs)
		code, _, errs = sheaf(t, t.Context(), "", append(strings.Fields(want)[1:], "--help")...)
		require.Zero(t, code, "%s: %s", want, errs)
	}
}

// The settings of serve are too many for one list.
func TestHelpOfServeIsGrouped(t *testing.T) {
	t.Parallel()
	var out output
	parser, err := newParser(&cli{}, stdio{out: &out, err: &out}, func(int) {})
	require.NoError(t, err)
	_, err = parser.Parse([]string{"serve", "--help"})
	require.NoError(t, err)
	help := out.String()
	at := 0
	for _, heading := range []string{
		"Flags:", "Callers:", "Data and secret key:", "NATS, and more than one process:", "Sources and callbacks:", "Quotas of each tenant:", "What is kept, and how long:",
	} {
		next := strings.Index(help, "\n"+heading+"\n")
		require.Greater(t, next, at, heading)
		at = next
	}
	for _, command := range parser.Model.Children {
		for _, flag := range command.Flags {
			if command.Name == "serve" && !flag.Hidden {
				require.NotNil(t, flag.Group, flag.Name)
			}
		}
	}
	require.Contains(t, help, "--secret-key-file sheaf-data/key\n")
}

func TestHelpOfSubmitSaysWhatIsOneExport(t *testing.T) {
	t.Parallel()
	for _, want := range []string{"only if their timestamp is equal too", "Idempotency-Key", "correlate and do not deduplicate"} {
		require.Contains(t, submitCmd{}.Help(), want)
	}
}

// A flag without effect is refused. In the environment or in the YAML file it may be meant for another
// command.
func TestFlagsThatWouldDoNothingAreRefused(t *testing.T) {
	t.Parallel()
	down := httptest.NewServer(nil)
	down.Close()
	folder := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(folder, "request.json"), []byte(`{"source_raw":[]}`), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "sheaf.yaml"), []byte("max-rows: 7\n"), 0o600))
	run := func(args string) (int, string) {
		t.Helper()
		cmd := command(t, folder, strings.Fields(args)...)
		cmd.Env = append(cmd.Env, "SHEAF_MAX_PAGES=5", "SHEAF_API_KEY=x")
		var stderr strings.Builder
		cmd.Stderr = &stderr
		require.NoError(t, cmd.Start())
		return exitStatus(t, cmd), stderr.String()
	}
	for args, want := range map[string]string{
		"export http://x/ -o x.xlsx --server " + down.URL + " --max-rows 9":      "--max-rows: with --server the limits are those of the server",
		"export http://x/ -o x.xlsx --server " + down.URL + " --page-timeout=1h": "--page-timeout: with --server",
		"export http://x/ -o x.xlsx --api-key k":                                 "--api-key: it is for a server; name that with --server",
		"demo --ca-cert f":                                                       "--ca-cert: it is for a server; name that with --server",
		"demo --stay --server " + down.URL:                                       "--stay: ",
		"submit request.json --limit 500":                                        "--limit: it goes with --url; of a file the body says it",
		"submit request.json -H a:b":                                             "--header: it goes with --url",
		"submit request.json --param a=b":                                        "--param: ",
		"submit request.json --conn 8":                                           "--conn: ",
		"submit request.json --method GET":                                       "--method: ",
		"submit request.json --title x":                                          "--title: ",
		"submit request.json --callback http://h/":                               "--callback: ",
	} {
		code, errs := run(args)
		require.Equal(t, exitUsage, code, "%s: %s", args, errs)
		require.Contains(t, errs, "sheaf: "+want, args)
	}
	for _, args := range []string{
		"export http://x/ -o x.xlsx --limit 7 --server " + down.URL,
		"export http://x/ -o x.xlsx --config sheaf.yaml --server " + down.URL,
		"submit request.json --user-id 7 --json --server " + down.URL,
		"submit --url http://x/ --limit 7 --title x --server " + down.URL,
	} {
		code, errs := run(args)
		require.Equal(t, exitUnreachable, code, "%s: %s", args, errs)
	}
}

// With --json stdout contains exactly one JSON document.
func TestJSONErrors(t *testing.T) {
	t.Chdir(t.TempDir())
	source := httptest.NewServer(http.NotFoundHandler())
	defer source.Close()
	refusing := answers(t, nil)
	failing := answers(t, map[string]any{
		"/v1/export/http":   map[string]any{"hash_key": testKey},
		"/v1/export/retry":  map[string]any{"hash_key": testKey},
		"/v1/export/detail": map[string]any{"hash_key": testKey, "status": client.Failed, "fail_reason": "page 3: HTTP 503", "error_code": "SOURCE_HTTP"},
	})
	for name, c := range map[string]struct {
		args string
		exit int
		code string
	}{
		"unknown flag":      {"status " + testKey + " --no", exitUsage, "USAGE"},
		"bad value":         {"export nowhere -o x.xlsx", exitUsage, "USAGE"},
		"bad output":        {"download " + testKey + " -o /no/such/x", exitUsage, "USAGE"},
		"not there":         {"status " + testKey + " --server http://127.0.0.1:1", exitUnreachable, "UNREACHABLE"},
		"refused":           {"history --server " + refusing.URL, exitFailed, "REFUSED"},
		"refused action":    {"cancel " + testKey + " --server " + refusing.URL, exitFailed, "REFUSED"},
		"refused submit":    {"submit --url http://x/ --server " + refusing.URL, exitFailed, "REFUSED"},
		"failed, in here":   {"export " + source.URL + " -o x.xlsx", exitFailed, "SOURCE_HTTP"},
		"failed, elsewhere": {"export http://x/ -o x.xlsx --server " + failing.URL, exitFailed, "SOURCE_HTTP"},
		"no file":           {"download " + testKey + " -o x.xlsx --server " + failing.URL, exitFailed, "SOURCE_HTTP"},
		"no request":        {"submit nowhere.json", exitFailed, "FAILED"},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errs := sheaf(t, t.Context(), "", append(strings.Fields(c.args), "--json")...)
			require.Equal(t, c.exit, code, errs)
			var got map[string]map[string]any
			require.NoError(t, json.Unmarshal([]byte(out), &got), out)
			require.Len(t, got, 1)
			require.Equal(t, c.code, got["error"]["code"])
			require.Contains(t, errs, "sheaf: "+got["error"]["message"].(string)+"\n")
			if c.code == "REFUSED" {
				require.EqualValues(t, 404, got["error"]["errcode"])
			}
		})
	}
	for _, args := range []string{"watch " + testKey, "submit --url http://x/ --wait", "retry --wait " + testKey} {
		code, out, _ := sheaf(t, t.Context(), "", append(strings.Fields(args), "--json", "--server", failing.URL)...)
		require.Equal(t, exitFailed, code)
		var got map[string]any
		require.NoError(t, json.Unmarshal([]byte(out), &got), out)
		require.Equal(t, "SOURCE_HTTP", got["error_code"], "the export, and no second document")
	}
	ctx, interrupt := context.WithCancel(t.Context())
	hanging := answers(t, map[string]any{"/v1/export/detail": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		interrupt()
		_, _ = io.WriteString(w, `{"errcode":0,"data":{"status":1}}`)
	})})
	code, out, _ := sheaf(t, ctx, "", "watch", testKey, "--json", "--server", hanging.URL)
	require.Equal(t, exitInterrupted, code)
	require.JSONEq(t, `{"error":{"message":"interrupted","code":"INTERRUPTED"}}`, out)
}

func TestKeysOfAMissingFile(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, args := range [][]string{{"list"}, {"revoke", "k3x7q2ab"}} {
		code, out, errs := sheaf(t, t.Context(), "", append([]string{"keys", args[0], "--api-keys", "nofile"}, args[1:]...)...)
		require.Equal(t, exitFailed, code)
		require.Contains(t, errs, "there is no file ")
		require.Contains(t, errs, "sheaf keys add")
		require.Empty(t, out)
		onlyFiles(t)
	}
}

// The default user_id of history is that of submit and export.
func TestSubmitAndHistoryAgree(t *testing.T) {
	t.Chdir(t.TempDir())
	source := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"errcode":0,"data":{"data":[{"id":"ID"},{"id":1}],"pagetag":{"page":1,"limit":500,"total":1,"total_page":1}}}`)
	}))
	defer source.Close()
	p := startServe(t, "--http", "127.0.0.1:0", "--nats-listen", "none", "--data", t.TempDir(), "--log-level", "error")
	server := p.http
	t.Setenv("SHEAF_SERVER", server)
	require.NoError(t, os.WriteFile("raw.json", []byte(` { "source_raw": "[{\"a\":\"A\"}]", "title": "no user", "ext_type": "XLSX", "timestamp": 1 } `), 0o600))
	require.NoError(t, os.WriteFile("user.json", []byte(`{"source_raw":"[{\"a\":\"A\"}]","title":"own user","user_id":7,"ext_type":"XLSX","timestamp":1}`), 0o600))
	for _, args := range [][]string{
		{"submit", "--url", source.URL, "--title", "by flags"}, {"submit", "raw.json"}, {"submit", "user.json"},
		{"submit", "raw.json", "--user-id", "someone"}, {"export", source.URL, "-o", "x.xlsx", "--server", server},
	} {
		code, _, errs := sheaf(t, t.Context(), "", args...)
		require.Zero(t, code, "%v: %s", args, errs)
	}
	for user, want := range map[string][]string{"": {"by flags", "no user", "x"}, "7": {"own user"}, "someone": {"no user"}} {
		args := []string{"history", "--json"}
		if user != "" {
			args = append(args, "--user-id", user)
		}
		code, out, errs := sheaf(t, t.Context(), "", args...)
		require.Zero(t, code, errs)
		var got []struct{ Title string }
		require.NoError(t, json.Unmarshal([]byte(out), &got))
		var titles []string
		for _, x := range got {
			titles = append(titles, x.Title)
		}
		require.ElementsMatch(t, want, titles)
	}
	code, _, errs := sheaf(t, t.Context(), "", "submit", "user.json", "--user-id", "8")
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "names a user already")
	p.drain(t)
}

func TestUserIsAddedToARequest(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`{}`: `{"user_id":"a\"b"}`, ` { "x" : 1.0 } `: `{"user_id":"a\"b","x" : 1.0 }`, `null`: `null`, `[]`: `[]`,
	} {
		require.Equal(t, want, string(withMember([]byte(body), "user_id", `a"b`)))
	}
}
