package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestCompletion(t *testing.T) {
	t.Parallel()
	server := answers(t, map[string]any{"/v1/export/list": map[string]any{"exports": []map[string]any{
		{"hash_key": testKey, "state": "running", "title": "Orders"}, {"hash_key": strings.Repeat("a", 32), "state": "failed"},
	}}})
	for line, want := range map[string][]string{
		"re":                                  {"retry", "redeliver"},
		"keys ":                               {"add", "list", "revoke"},
		"list --st":                           {"--state"},
		"list --state=wai":                    {"--state=waiting_for_space"},
		"list --state f":                      {"failed"},
		"--time ":                             {"local", "utc"},
		"--log-level w":                       {"warn"},
		"submit --method P":                   {"POST"},
		"completion ":                         {"bash", "zsh", "fish"},
		"help retr":                           {"retry"},
		"status --server " + server.URL + " ": {testKey, strings.Repeat("a", 32)},
		"retry --wait --json --server=" + server.URL + " 5":   {testKey},
		"cancel --server http://127.0.0.1:1 ":                 {},
		"cancel " + testKey + " --server " + server.URL + " ": {},
		"no-such-command ": {},
		"export ":          {},
	} {
		words := append([]string{"__complete", "--"}, strings.Split(line, " ")...)
		code, out, errs := sheaf(t, t.Context(), "", words...)
		require.Zero(t, code, errs)
		got := []string{}
		for text := range strings.Lines(out) {
			word, _, _ := strings.Cut(strings.TrimSuffix(text, "\n"), "\t")
			got = append(got, word)
		}
		if line == "no-such-command " {
			require.Contains(t, got, "export")
			continue
		}
		require.ElementsMatch(t, want, got, line)
	}
	_, out, _ := sheaf(t, t.Context(), "", "__complete", "--", "exp")
	require.Equal(t, "export\tExport a URL or a file, with a progress bar\n", out)
}

// shellTests complete "sheaf re", and in zsh also "sheaf open ", in each shell. SCRIPT is the completion script.
// A sheaf in the search path stands for the program.
var shellTests = map[string]string{
	"bash": `source SCRIPT
COMP_WORDS=(sheaf --quiet re); COMP_CWORD=2; COMP_LINE="sheaf --quiet re"; COMP_POINT=${#COMP_LINE}
_sheaf; printf '%s\n' "${COMPREPLY[@]}"`,
	"zsh": `zmodload zsh/zpty
zpty -b z zsh -f -i
zpty -w z "PS1=; autoload -Uz compinit; compinit -u -D; source SCRIPT; echo rea''dy"
zpty -r z out '*ready*'
zpty -w -n z $'sheaf re\t\t'
zpty -r z out '*retry*again*'
print -r -- "$out"
zpty -w -n z $'\x15sheaf open SCR\t'
zpty -r z out '*SCRIPT*'
print -r -- "$out"
zpty -d z`,
	"fish": `source SCRIPT; complete -C "sheaf re"`,
}

// The scripts complete in the shells that are installed.
func TestCompletionScripts(t *testing.T) {
	t.Parallel()
	for shell, test := range shellTests {
		t.Run(shell, func(t *testing.T) {
			t.Parallel()
			code, script, errs := sheaf(t, t.Context(), "", "completion", shell)
			require.Zero(t, code, errs)
			path, err := exec.LookPath(shell)
			if err != nil {
				t.Skip(shell + " is not installed")
			}
			folder := t.TempDir()
			program := "#!/bin/sh\ncase $* in *re) printf 'retry\\tRun: again\\nredeliver\\tSend again\\n';; esac\n"
			require.NoError(t, os.WriteFile(filepath.Join(folder, "sheaf"), []byte(program), 0o700))
			require.NoError(t, os.WriteFile(filepath.Join(folder, "SCRIPT"), []byte(script), 0o600))
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, path, "-c", test)
			cmd.Dir = folder
			cmd.Env = append(os.Environ(), "PATH="+folder+":"+os.Getenv("PATH"), "HOME="+folder, "TERM=dumb")
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, string(out))
			for _, want := range []string{"retry", "redeliver"} {
				require.Contains(t, string(out), want)
			}
		})
	}
}

func TestManual(t *testing.T) {
	t.Parallel()
	code, page, errs := sheaf(t, t.Context(), "", "man")
	require.Zero(t, code, errs)
	for _, want := range []string{
		".TH SHEAF 1", ".SH COMMANDS", `.SS "serve `, `.SS "keys add`, `\fB\-\-keep\-files`, ".B SHEAF_MAX_PAGES_BYTES",
		`\fB\-\-server=URL\fR`, ".EX\n    sheaf list\n",
	} {
		require.Contains(t, page, want)
	}
	require.NotContains(t, page, "__complete")
	for line := range strings.Lines(page) {
		require.NotRegexp(t, `^\.[a-z/]|^'`, line, "text that roff would take for a command")
	}
	groff, err := exec.LookPath("groff")
	if err != nil {
		t.Skip("groff is not installed")
	}
	cmd := exec.Command(groff, "-man", "-ww", "-Kutf8", "-Tutf8", "-z")
	cmd.Stdin = strings.NewReader(page)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Empty(t, string(out))
}
