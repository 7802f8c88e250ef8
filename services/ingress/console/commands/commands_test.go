package commands_test

import (
	"encoding/json"
	"fmt"
	"go/parser"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sheaf/services/ingress/console/commands"

	"github.com/stretchr/testify/require"
)

// nasty holds what shells, Go, Python and JSON treat specially.
const nasty = "订单 $HOME `touch pwned` $(touch pwned) \\ ' \" ''' \"\"\" \nEND\n; touch pwned #"

func call(server string) commands.Call {
	body, _ := json.Marshal(map[string]any{"title": nasty, "header": map[string]string{"Authorization": commands.Secret}, "n": 1})
	return commands.Call{
		Server: server, Tenant: "shop", Operation: "http", Method: http.MethodPost, Path: "/v1/export/http", Body: body, Key: true,
	}
}

func form(t *testing.T, c commands.Call, name string) string {
	t.Helper()
	for _, f := range commands.Forms(c) {
		if f.Name == name {
			return f.Text
		}
	}
	t.Fatalf("no form %s", name)
	return ""
}

// TestShellFormsSendTheBodyUnchanged runs the forms for a shell with commands that record their arguments.
func TestShellFormsSendTheBodyUnchanged(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"curl", "nats", "sheaf"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			script := "#!/bin/sh\ncat >" + filepath.Join(dir, "body") + "\nprintf '%s\\n' \"$@\" >" + filepath.Join(dir, "args") + "\n"
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755))
			cmd := exec.Command("sh", "-c", form(t, call("https://sheaf.example"), name))
			cmd.Dir = dir
			cmd.Env = []string{"PATH=" + dir + ":" + os.Getenv("PATH"), "TOKEN=s3cret", "SHEAF_API_KEY=key"}
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, string(out))
			body, err := os.ReadFile(filepath.Join(dir, "body"))
			require.NoError(t, err)
			var got struct {
				Title  string
				Header map[string]string
			}
			require.NoError(t, json.Unmarshal(body, &got), string(body))
			require.Equal(t, nasty, got.Title)
			require.Equal(t, "s3cret", got.Header["Authorization"])
			_, err = os.Stat(filepath.Join(dir, "pwned"))
			require.ErrorIs(t, err, os.ErrNotExist)
		})
	}
}

func TestPythonFormSendsTheBodyUnchanged(t *testing.T) {
	t.Parallel()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 is not installed")
	}
	var title, token, auth string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var got struct {
			Title  string
			Header map[string]string
		}
		_ = json.NewDecoder(r.Body).Decode(&got)
		title, token, auth = got.Title, got.Header["Authorization"], r.Header.Get("Authorization")
		fmt.Fprint(w, `{"data":{"hash_key":"k"}}`)
	}))
	defer server.Close()
	cmd := exec.Command(python, "-c", form(t, call(server.URL), "python"))
	cmd.Env = []string{"TOKEN=s3cret", "SHEAF_API_KEY=key"}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Equal(t, nasty, title)
	require.Equal(t, "s3cret", token)
	require.Equal(t, "Bearer key", auth)
}

func TestGoFormParses(t *testing.T) {
	t.Parallel()
	text := form(t, call("https://sheaf.example"), "go")
	_, err := parser.ParseExpr("func() error {\n" + text + "return nil }")
	require.NoError(t, err, text)
	require.Contains(t, text, `os.Getenv("TOKEN")`)
}

func TestGetForms(t *testing.T) {
	t.Parallel()
	c := commands.Call{
		Server: "http://127.0.0.1:8080", Tenant: "default", Operation: "detail", Method: http.MethodGet, Path: "/v1/export/detail",
		Params: url.Values{"key": {"5ad5f7b92a816b76e70a21e4154c2485"}},
	}
	require.Equal(t, "curl -sS 'http://127.0.0.1:8080/v1/export/detail?key=5ad5f7b92a816b76e70a21e4154c2485'\n", form(t, c, "curl"))
	require.Equal(t, "nats req 'sheaf.api.default.detail' <<END\n{\n  \"key\": \"5ad5f7b92a816b76e70a21e4154c2485\"\n}\nEND\n", form(t, c, "nats"))
	require.Equal(t, "sheaf status --server 'http://127.0.0.1:8080' '5ad5f7b92a816b76e70a21e4154c2485'\n", form(t, c, "sheaf"))
	for _, f := range commands.Forms(c) {
		require.False(t, strings.Contains(f.Text, "Authorization"), "no key is required")
	}
}
