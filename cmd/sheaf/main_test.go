package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"reflect"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sheaf/cmd/sheaf/node"
	"sheaf/events/eventstest"
)

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" { // see command
		_ = os.Unsetenv(asCommand)
		main()
	}
	roomy()
	eventstest.InMemory()
	slog.SetLogLoggerLevel(slog.LevelError) // of servers within the tests' own process
	eventstest.Main(m)
}

// roomy gives the garbage collector of this process and of its children more memory: with the limit of a small
// process it takes a quarter of the processor time of these tests, which run several servers at once.
func roomy() {
	_ = os.Setenv("GOMEMLIMIT", "512MiB")
	_ = os.Setenv("GOGC", "300")
	debug.SetMemoryLimit(512 << 20)
	debug.SetGCPercent(300)
}

// output collects what a command writes, also while it still runs.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// sheaf runs a command line in this process, without its log: there is one log, and tests are parallel.
func sheaf(t testing.TB, ctx context.Context, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs output
	code = run(ctx, args, stdio{in: strings.NewReader(stdin), out: &out, err: &errs}, noLog)
	return code, out.String(), errs.String()
}

func noLog(*slog.Logger) {}

// logging is like sheaf, with the log in stderr. Its test cannot be parallel.
func logging(t testing.TB, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	keepLog(t)
	var out, errs output
	code = run(t.Context(), args, stdio{in: strings.NewReader(""), out: &out, err: &errs}, slog.SetDefault)
	return code, out.String(), errs.String()
}

func keepLog(t testing.TB) {
	before := slog.Default()
	t.Cleanup(func() { slog.SetDefault(before) })
}

func TestLogWritesDurationsWithTheirUnit(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"json", "text"} {
		var out output
		newLog(&out, logConfig{LogFormat: format}, "serve").Info("done", "elapsed", 1500*time.Millisecond)
		require.Contains(t, out.String(), "1.5s")
	}
}

func TestOutputIsAFile(t *testing.T) {
	t.Parallel()
	code, _, errs := sheaf(t, t.Context(), "", "export", "http://127.0.0.1:1/", "-o", "-")
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "name a file")
}

func TestHelpTeaches(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{nil, {"--help"}} {
		code, out, errs := sheaf(t, t.Context(), "", args...)
		require.Zero(t, code)
		require.Empty(t, errs)
		for _, want := range []string{"sheaf demo", "sheaf export http", "Exit codes", "SHEAF_", "demo", "serve", "callback-secret"} {
			require.Contains(t, out, want)
		}
	}
	for _, command := range []string{"demo", "serve", "export", "preview", "source", "submit", "status", "watch", "history", "cancel", "retry", "download", "callback-secret"} {
		code, out, errs := sheaf(t, t.Context(), "", command, "--help")
		require.Zero(t, code, command)
		require.Empty(t, errs, command)
		require.Contains(t, out, "Usage: sheaf "+command)
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	code, out, _ := sheaf(t, t.Context(), "", "--version")
	require.Zero(t, code)
	require.Regexp(t, `^sheaf \S+ \(go1\.\d+`, out)
}

func TestEverySettingHasItsEnvironmentName(t *testing.T) {
	t.Parallel()
	var check func(reflect.Type)
	check = func(typ reflect.Type) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			if f.Anonymous {
				check(f.Type)
				continue
			}
			if f.Tag.Get("kong") == "-" { // no setting
				continue
			}
			name := f.Tag.Get("name")
			if name == "" {
				name = kebab(f.Name)
			}
			require.Equal(t, "SHEAF_"+strings.ToUpper(strings.ReplaceAll(name, "-", "_")), f.Tag.Get("env"), f.Name)
		}
	}
	check(reflect.TypeFor[node.Config]())
	check(reflect.TypeFor[logConfig]())
}

// kebab returns kong's name for the flag of a field such as PublicURL.
func kebab(field string) string {
	var b strings.Builder
	for i, r := range field {
		upper := func(j int) bool { return j >= 0 && j < len(field) && field[j] >= 'A' && field[j] <= 'Z' }
		if upper(i) && i > 0 && (!upper(i-1) || i+1 < len(field) && !upper(i+1)) {
			b.WriteByte('-')
		}
		b.WriteRune(r)
	}
	return strings.ToLower(b.String())
}

func TestUsageErrors(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no key":               {[]string{"status"}, "sheaf: missing argument: <key>\n"},
		"unknown state":        {[]string{"list", "--state", "x"}, `--state must be one of "running","queued"`},
		"unknown command":      {[]string{"exprot"}, "unexpected argument exprot"},
		"unknown flag":         {[]string{"serve", "--htp", "x"}, "unknown flag --htp"},
		"unknown role":         {[]string{"serve", "--roles", "ingress,crwaler"}, `unknown role "crwaler"; the roles are ingress, crawler, assembler, notifier`},
		"no role":              {[]string{"serve", "--roles", ""}, "--roles"},
		"open HTTP":            {[]string{"serve", "--http", "0.0.0.0:0"}, "--insecure-no-auth"},
		"open HTTP, all hosts": {[]string{"serve", "--http", ":8080"}, "--insecure-no-auth"},
		"open HTTP, a name":    {[]string{"serve", "--http", "sheaf.example:8080"}, "--insecure-no-auth"},
		"open NATS":            {[]string{"serve", "--nats-listen", "0.0.0.0:4222"}, "--insecure-no-auth"},
		"no port":              {[]string{"serve", "--http", "127.0.0.1"}, "want HOST:PORT"},
		"bad port":             {[]string{"serve", "--http", "127.0.0.1:http"}, "want HOST:PORT"},
		"bad range":            {[]string{"serve", "--allow-cidr", "10.0.0.1"}, "want address ranges"},
		"cluster without key":  {[]string{"serve", "--nats", "nats://a"}, "--secret-key"},
		"embedded replicas":    {[]string{"serve", "--replicas", "3"}, "--nats"},
		"bad store":            {[]string{"serve", "--files", "s4://x"}, "want file://FOLDER"},
		"no bucket":            {[]string{"serve", "--files", "s3:///prefix"}, "want s3://BUCKET/PREFIX"},
		"keys in the store":    {[]string{"serve", "--files", "s3://key:geheim@bucket"}, "--files s3://…: want s3://BUCKET/PREFIX alone"},
		"S3 without a store":   {[]string{"serve", "--s3-region", "eu-west-1"}, "--s3-region needs --files s3://BUCKET/PREFIX"},
		"keys in the endpoint": {[]string{"serve", "--files", "s3://bucket", "--s3-endpoint", "https://key:geheim@host"}, "--s3-endpoint: want"},
		"path in the endpoint": {[]string{"serve", "--files", "s3://bucket", "--s3-endpoint", "https://host/bucket"}, "--s3-endpoint: want"},
		"no path style":        {[]string{"serve", "--files", "s3://bucket", "--s3-endpoint", "http://127.0.0.1:9000"}, "add --s3-path-style"},
		"half of the S3 keys":  {[]string{"serve", "--files", "s3://bucket", "--s3-access-key-file", "a"}, "belong together"},
		"bad size":             {[]string{"serve", "--max-pages-bytes", "lots"}, "not a size"},
		"small size":           {[]string{"serve", "--max-pages-bytes", "1KiB"}, "64MiB"},
		"bad duration":         {[]string{"serve", "--keep-files", "0s"}, "positive duration"},
		"bad schedule":         {[]string{"serve", "--callback-schedule", "5s,0s"}, "positive durations"},
		"bad public URL":       {[]string{"serve", "--public-url", "sheaf.example"}, "--public-url"},
		"two keys":             {[]string{"serve", "--secret-key", "a", "--secret-key-file", "b"}, "exclude each other"},
		"bad log level":        {[]string{"--log-level", "loud", "status", "x"}, "--log-level"},
		"no output":            {[]string{"export", "http://127.0.0.1/"}, "--output"},
		"no URL":               {[]string{"export", "orders", "-o", "x.xlsx"}, "is not a URL"},
		"output folder":        {[]string{"export", "http://127.0.0.1/", "-o", "/no/such/x.xlsx"}, "no folder"},
		"bad header":           {[]string{"export", "http://127.0.0.1/", "-o", "x.xlsx", "-H", "x"}, "NAME: VALUE"},
		"bad param":            {[]string{"export", "http://127.0.0.1/", "-o", "x.xlsx", "--param", "x:={"}, "not JSON"},
		"bad method":           {[]string{"export", "http://127.0.0.1/", "-o", "x.xlsx", "--method", "PUT"}, "--method"},
		"bad server":           {[]string{"status", "k", "--server", "127.0.0.1:8080"}, "--server"},
		"submit nothing":       {[]string{"submit"}, "either a file"},
		"bad key":              {[]string{"download", "../x"}, "32 hexadecimal"},
		"bad rows":             {[]string{"demo", "--rows", "-1"}, "--rows"},
		"bad tenant":           {[]string{"callback-secret", "--tenant", "A.B"}, "--tenant"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			code, out, errs := sheaf(t, t.Context(), "", c.args...)
			require.Equal(t, exitUsage, code, errs)
			require.Contains(t, errs, c.want)
			require.NotContains(t, errs, "geheim")
			require.Empty(t, out)
		})
	}
}

// Every command that prints something can print it as JSON. Files hold the scripts of shells and the manual.
func TestEveryCommandPrintsJSON(t *testing.T) {
	t.Parallel()
	parser, err := newParser(&cli{}, stdio{out: &output{}, err: &output{}}, func(int) {})
	require.NoError(t, err)
	for _, leaf := range parser.Model.Leaves(true) {
		switch leaf.Name {
		case "help", "completion", "man":
			continue
		}
		has := false
		for _, flag := range leaf.Flags {
			has = has || flag.Name == "json" && flag.IsBool()
		}
		require.True(t, has, "sheaf %s has no --json", leaf.Name)
	}
}

func TestJSONOfCommandsWithoutServer(t *testing.T) {
	t.Chdir(t.TempDir())
	object := func(args ...string) (got map[string]any) {
		t.Helper()
		code, out, errs := sheaf(t, t.Context(), "", append(args, "--json")...)
		require.Zero(t, code, errs)
		require.NoError(t, json.Unmarshal([]byte(out), &got), out)
		return got
	}
	require.Contains(t, object("version")["version"], "sheaf ")
	made := object("keys", "add", "--api-keys", "keys", "--tenant", "shop", "--scope", "read")
	require.Equal(t, "shop", made["tenant"])
	require.NotEmpty(t, made["key"])
	code, out, errs := sheaf(t, t.Context(), "", "keys", "list", "--api-keys", "keys", "--json")
	require.Zero(t, code, errs)
	var list []map[string]any
	require.NoError(t, json.Unmarshal([]byte(out), &list))
	require.Equal(t, made["id"], list[0]["id"])
	require.Equal(t, "read", list[0]["scope"])
	require.Equal(t, true, object("keys", "revoke", "--api-keys", "keys", made["id"].(string))["revoked"])
	require.Contains(t, object("callback-secret", "--secret-key", strings.Repeat("5e", 32))["secret"], "whsec_")
	demo := object("demo", "--rows", "10", "--quiet")
	require.EqualValues(t, 10, demo["rows"])
	require.FileExists(t, demo["workbook"].(string))
}

// --quiet leaves results and errors.
func TestQuiet(t *testing.T) {
	t.Chdir(t.TempDir())
	code, out, errs := sheaf(t, t.Context(), "", "keys", "add", "--api-keys", "keys", "--tenant", "shop", "-q")
	require.Zero(t, code)
	require.NotEmpty(t, out)
	require.Empty(t, errs)
	code, _, errs = sheaf(t, t.Context(), "", "keys", "add", "--api-keys", "keys", "--tenant", "A.B", "--quiet")
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "--tenant")
}
