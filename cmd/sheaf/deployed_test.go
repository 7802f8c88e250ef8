package main

import (
	"cmp"
	"encoding/json"
	"flag"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"sheaf/cmd/sheaf/node"
	"sheaf/events"
)

// The files of deploy, and the guides, name settings. These tests compare them with the flags of the parser.

var updateChart = flag.Bool("update-chart", false, "write the flags of serve into values.schema.json of the Helm chart")

const deployFolder = "../../deploy"

// deployed reads a file of the folder deploy.
func deployed(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(deployFolder, path))
	require.NoError(t, err)
	return string(text)
}

// commandFlags returns the flags of each command, and of all together as "".
func commandFlags(t *testing.T) map[string]map[string]*kong.Flag {
	t.Helper()
	parser, err := newParser(&cli{}, stdio{out: &output{}, err: &output{}}, func(int) {})
	require.NoError(t, err)
	commands := map[string]map[string]*kong.Flag{"": {}}
	require.NoError(t, kong.Visit(parser.Model, func(n kong.Visitable, next kong.Next) error {
		if command, ok := n.(*kong.Command); ok {
			commands[command.Name] = map[string]*kong.Flag{}
			for _, f := range flagsOf(command) {
				commands[command.Name][f.Name], commands[""][f.Name] = f, f
			}
		}
		return next(nil)
	}))
	return commands
}

// chartManages are the flags that the chart sets by values of its own, or that have no use in it.
var chartManages = map[string]bool{
	"roles": true, "http": true, "ops": true, "data": true, "files": true, "public-url": true, "api-keys": true,
	"insecure-no-auth": true, "nats": true, "nats-creds": true, "replicas": true, "secret-key-file": true,
	"shutdown-delay": true, "log-format": true, "s3-access-key-file": true, "s3-secret-key-file": true,
	// Without use: the pod has no such file, or no embedded server.
	"secret-key": false, "nats-context": false, "nats-listen": false, "tls-cert": false, "tls-key": false, "config": false,
	"time": false,
}

// settingSchema returns the schema of a flag as a value of the chart.
func settingSchema(f *kong.Flag) map[string]any {
	duration := map[string]any{"type": "string", "pattern": `^([0-9]+d)?([0-9.]+(ms|s|m|h))*$`}
	switch target := f.Target.Type(); {
	case f.Enum != "":
		return map[string]any{"enum": slices.DeleteFunc(strings.Split(f.Enum, ","), func(s string) bool { return s == "" })}
	case target == reflect.TypeFor[time.Duration]():
		return duration
	case target == reflect.TypeFor[node.ByteSize]():
		return map[string]any{"type": []any{"integer", "string"}, "pattern": `^[0-9.]+([KMGT]i?)?B?$`}
	case target == reflect.TypeFor[[]time.Duration]():
		return map[string]any{"type": "array", "items": duration}
	case f.Name == "allow-cidr":
		// The network policy would open the metadata of the cloud with them.
		return map[string]any{"type": "array", "items": map[string]any{"type": "string", "not": map[string]any{"pattern": `^169\.254\.|/[0-7]$`}}}
	case target.Kind() == reflect.Slice:
		return map[string]any{"type": "array", "items": map[string]any{"type": "string"}}
	case target.Kind() == reflect.Bool:
		return map[string]any{"type": "boolean"}
	case target.Kind() == reflect.Int || target.Kind() == reflect.Int64:
		return map[string]any{"type": "integer", "minimum": 0}
	}
	return map[string]any{"type": "string"}
}

// The chart takes every flag of serve as a setting, and refuses all else.
func TestChartSettingsAreTheFlags(t *testing.T) {
	t.Parallel()
	const file = "helm/sheaf/values.schema.json"
	templates := deployed(t, "helm/sheaf/templates/_helpers.tpl")
	serve := commandFlags(t)["serve"]
	properties := map[string]any{}
	for name, f := range serve {
		sets, managed := chartManages[name]
		if !managed && len(f.Envs) > 0 {
			require.Equal(t, "SHEAF_"+strings.ToUpper(strings.ReplaceAll(name, "-", "_")), f.Envs[0], "the chart makes the variable of the name")
			properties[name] = settingSchema(f)
		}
		if managed {
			require.Equal(t, sets, regexp.MustCompile(`\b`+f.Envs[0]+`\b`).MatchString(templates), "the template sets %s", f.Envs[0])
		}
	}
	for name := range chartManages {
		require.Contains(t, serve, name, "a flag that no longer exists")
	}
	want := map[string]any{"type": "object", "additionalProperties": false, "properties": properties}
	var schema map[string]any
	require.NoError(t, json.Unmarshal([]byte(deployed(t, file)), &schema))
	definitions := schema["$defs"].(map[string]any)
	if *updateChart {
		definitions["settings"] = want
		text, err := json.MarshalIndent(schema, "", "  ")
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(deployFolder, file), append(text, '\n'), 0o644))
		return
	}
	wanted, err := json.Marshal(want)
	require.NoError(t, err)
	got, err := json.Marshal(definitions["settings"])
	require.NoError(t, err)
	require.JSONEq(t, string(wanted), string(got), "run: go test ./cmd/sheaf -run TestChartSettings -update-chart")
}

// requireServes fails unless serve would start with these arguments and variables.
func requireServes(t *testing.T, args []string, env map[string]string) node.Config {
	t.Helper()
	require.NotEmpty(t, args)
	require.Equal(t, "serve", args[0])
	for name, value := range env {
		t.Setenv(name, value)
	}
	var c cli
	parser, err := newParser(&c, stdio{out: &output{}, err: &output{}}, func(int) {})
	require.NoError(t, err)
	environ := make([]string, 0, len(env))
	for name, value := range env {
		environ = append(environ, name+"="+value)
	}
	require.NoError(t, checkVariables(parser.Model, environ))
	_, err = parser.Parse(args)
	require.NoError(t, err)
	require.NoError(t, c.Serve.Complete())
	return c.Serve.Config
}

// The processes of the chart get settings that serve accepts, whatever the values.
func TestChartSettingsAreAccepted(t *testing.T) {
	folder := os.Getenv("SHEAF_CHARTS")
	if folder == "" {
		folder = filepath.Join(os.Getenv("HOME"), ".cache", "sheaf-charts")
	}
	helm := filepath.Join(folder, "bin", "helm")
	if _, err := os.Stat(helm); err != nil {
		t.Skip("needs helm, which .ci/charts installs")
	}
	values, err := filepath.Glob(filepath.Join(deployFolder, "helm/sheaf/ci/*.yaml"))
	require.NoError(t, err)
	require.Len(t, values, 4)
	for _, file := range values {
		out, err := exec.CommandContext(t.Context(), helm, "template", "sheaf", filepath.Join(deployFolder, "helm/sheaf"),
			"--kube-version", "1.34.1", "--show-only", "templates/workloads.yaml", "-f", file).Output()
		require.NoError(t, err)
		var roles []string
		for document := range strings.SplitSeq(string(out), "\n---\n") {
			var workload struct {
				Spec struct {
					Template struct {
						Spec struct{ Containers []chartContainer }
					}
				}
			}
			require.NoError(t, yaml.Unmarshal([]byte(document), &workload))
			for _, c := range workload.Spec.Template.Spec.Containers {
				env := map[string]string{}
				for _, v := range c.Env {
					env[v.Name] = cmp.Or(v.Value, "nats://of-a-secret:4222")
				}
				t.Run(filepath.Base(file)+" "+env["SHEAF_ROLES"], func(t *testing.T) {
					cfg := requireServes(t, c.Args, env)
					require.Equal(t, "/data", cfg.Data)
					require.NotEmpty(t, cfg.NATS)
					roles = append(roles, cfg.Roles...)
				})
			}
		}
		require.ElementsMatch(t, node.AllRoles, roles)
	}
}

type chartContainer struct {
	Args []string
	Env  []struct{ Name, Value string }
}

var composeReference = regexp.MustCompile(`\$\{\w+:-([^}]*)\}`)

func TestComposeSettingsAreAccepted(t *testing.T) {
	for _, file := range []string{"compose.yaml", "compose-single.yaml"} {
		var compose struct {
			Services map[string]struct {
				Image       string
				Command     []string
				Environment map[string]string
			}
		}
		text := composeReference.ReplaceAllString(deployed(t, file), "$1")
		require.NoError(t, yaml.Unmarshal([]byte(text), &compose))
		roles := map[string]bool{}
		for name, s := range compose.Services {
			if strings.HasPrefix(s.Image, "sheaf:") {
				t.Run(file+" "+name, func(t *testing.T) {
					cfg := requireServes(t, s.Command, s.Environment)
					require.Equal(t, "/data", cfg.Data)
					roles[cfg.Roles[0]] = true
				})
			}
		}
		require.Len(t, roles, len(node.AllRoles), file)
	}
}

func TestUnitSettingsAreAccepted(t *testing.T) {
	t.Run("sheaf.service", func(t *testing.T) {
		cfg := requireServes(t, unitCommand(t, "sheaf.service", ""), unitEnvironment(t, "sheaf.service", ""))
		require.Equal(t, node.AllRoles, cfg.Roles)
	})
	for _, role := range node.AllRoles {
		t.Run("sheaf@"+role, func(t *testing.T) {
			env := unitEnvironment(t, "sheaf@.service", role)
			env["SHEAF_NATS"] = "nats://a:4222,nats://b:4222,nats://c:4222" // of sheaf.env
			cfg := requireServes(t, unitCommand(t, "sheaf@.service", role), env)
			require.Equal(t, []string{role}, cfg.Roles)
			require.Equal(t, "/var/lib/sheaf-"+role, cfg.Data)
			require.Contains(t, deployed(t, "sheaf@.service"), "\nStateDirectory=sheaf-%i\n")
		})
	}
}

// unitCommand returns the command of a unit after the program.
func unitCommand(t *testing.T, unit, instance string) []string {
	t.Helper()
	m := regexp.MustCompile(`(?m)^ExecStart=\S+/sheaf (.+)$`).FindStringSubmatch(deployed(t, unit))
	require.Len(t, m, 2)
	return strings.Fields(strings.ReplaceAll(m[1], "%i", instance))
}

func unitEnvironment(t *testing.T, unit, instance string) map[string]string {
	t.Helper()
	env := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^Environment=(\w+)=(.*)$`).FindAllStringSubmatch(deployed(t, unit), -1) {
		env[m[1]] = strings.NewReplacer("%i", instance, "%d", "/run/credentials/sheaf").Replace(m[2])
	}
	return env
}

// guides are the documents of people who run Sheaf or call it, from the top folder.
func guides(t *testing.T) map[string]string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(deployFolder, "*.md"))
	require.NoError(t, err)
	texts := map[string]string{}
	for _, name := range append(names, "../../README.md", "../../services/REFERENCE.md") {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		texts[strings.TrimPrefix(name, "../../")] = string(text)
	}
	require.Greater(t, len(texts), 5)
	return texts
}

var (
	codeSpan   = regexp.MustCompile("`([^`\n]+)`")
	codeBlock  = regexp.MustCompile("(?ms)^```sh$(.*?)^```$")
	flagWord   = regexp.MustCompile(`(?:^|[\s(])--([a-z][a-z0-9-]*)`)
	sheafStart = regexp.MustCompile(`^(?:[A-Z_]+=\S+ )*(?:\./|go run \./cmd/)?sheaf `)
	variable   = regexp.MustCompile(`\bSHEAF_[A-Z0-9_]*[A-Z0-9]\b`)
)

// A guide that names a flag of sheaf names one that exists: in a command, one of that command.
func TestGuidesNameExistingFlags(t *testing.T) {
	t.Parallel()
	commands := commandFlags(t)
	checked := 0
	check := func(file, code string) {
		known, where := commands[""], "any command"
		if at := sheafStart.FindString(code); at != "" {
			for _, word := range strings.Fields(code[len(at):]) { // keys add: the last word that is a command
				if flags, ok := commands[word]; ok {
					known, where = flags, word
				} else {
					break
				}
			}
		} else if !strings.HasPrefix(code, "--") {
			return // of another program
		}
		for _, m := range flagWord.FindAllStringSubmatch(code, -1) {
			require.Contains(t, known, m[1], "%s: %s: --%s is no flag of %s", file, code, m[1], where)
			checked++
		}
	}
	for file, text := range guides(t) {
		for _, block := range codeBlock.FindAllStringSubmatch(text, -1) {
			for line := range strings.Lines(strings.ReplaceAll(block[1], "\\\n", " ")) {
				line, _, _ = strings.Cut(strings.TrimSpace(line), " #")
				check(file, line)
			}
		}
		for _, span := range codeSpan.FindAllStringSubmatch(codeBlock.ReplaceAllString(text, ""), -1) {
			check(file, span[1])
		}
	}
	require.Greater(t, checked, 100)
}

// A variable SHEAF_… in a guide or a file of deploy is that of a flag. Streams have such names too.
func TestVariablesExist(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	for _, f := range commandFlags(t)[""] {
		for _, name := range f.Envs {
			known[name] = true
		}
	}
	for _, name := range []string{
		events.StreamSubmit, events.StreamEvents, events.StreamPages, events.StreamTimers, events.StreamPrivate,
		events.StreamCallbacks, events.StreamIdempotency, "SHEAF_WORK",
	} {
		known[name] = true
	}
	texts := guides(t)
	require.NoError(t, filepath.WalkDir(deployFolder, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == "examples" { // callers of their own
			return fs.SkipDir
		}
		if err == nil && d.Type().IsRegular() && !strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, ".png") {
			text, err := os.ReadFile(path)
			texts[path] = string(text)
			return err
		}
		return err
	}))
	for file, text := range texts {
		for _, name := range variable.FindAllString(text, -1) {
			require.True(t, known[name], "%s: %s is no variable of sheaf", file, name)
		}
	}
}

// Every flag of serve is in a guide: as itself, or as its variable.
func TestEveryFlagIsInAGuide(t *testing.T) {
	t.Parallel()
	all := strings.Builder{}
	for _, text := range guides(t) {
		all.WriteString(text)
	}
	for name, f := range commandFlags(t)["serve"] {
		if len(f.Envs) > 0 && name != "time" { // which has no effect on a server
			found := regexp.MustCompile(`--` + name + `\b[^-]|\b` + f.Envs[0] + `\b`).MatchString(all.String())
			require.True(t, found, "--%s: no guide explains it", name)
			require.NotEmpty(t, f.Help)
		}
	}
}
