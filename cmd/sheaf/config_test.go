package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sheaf/cmd/sheaf/node"
)

// parseServe returns the settings that serve would get.
func parseServe(t testing.TB, args ...string) (node.Config, error) {
	t.Helper()
	var c cli
	parser, err := newParser(&c, stdio{out: &output{}, err: &output{}}, func(int) {})
	require.NoError(t, err)
	_, err = parser.Parse(append([]string{"serve"}, args...))
	return c.Serve.Config, err
}

func TestDefaults(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	dir, err := os.Getwd()
	require.NoError(t, err)
	cfg, err := parseServe(t)
	require.NoError(t, err)
	require.NoError(t, cfg.Complete())
	cfg.Log = nil // nothing is logged
	require.Equal(t, node.Config{
		HTTP: "127.0.0.1:8080", Roles: node.AllRoles, KeyConfig: node.KeyConfig{Data: filepath.Join(dir, "sheaf-data")},
		NATSListen: "127.0.0.1:4222", Replicas: 1, Files: "file://" + filepath.Join(dir, "sheaf-data", "files"),
		Fetches: 64, ConnsPerHost: 32, MaxPagesBytes: 4 << 30, MaxLogBytes: 2 << 30, MaxHistory: 100_000,
		KeepFiles: 168 * time.Hour, KeepPages: 24 * time.Hour, MaxKeepPages: 7 * 24 * time.Hour, KeepHistory: 168 * time.Hour,
		ShutdownDelay: new(time.Duration), MaxUnfinished: 10_000, MaxRunning: 128, MaxNew: 20,
		SourceLimits: node.SourceLimits{
			MaxPageBytes: 64 << 20, MaxRatio: 400, PageTimeout: time.Minute, HeaderTimeout: 30 * time.Second,
			MaxHeaderBytes: 64 << 10, MinThroughput: 1 << 10,
			MaxJSONDepth: 64, MaxRowBytes: 16 << 20, MaxColumns: 16_384, MaxPages: 1_000_000, MaxRows: 100_000_000, MaxExportBytes: 64 << 30,
		},
	}, cfg)

	cfg, err = parseServe(t, "--nats", "a:4222,nats://b:4222", "--secret-key", "x")
	require.NoError(t, err)
	require.NoError(t, cfg.Complete())
	require.Equal(t, []string{"a:4222", "nats://b:4222"}, cfg.NATS)
	require.Equal(t, 3, cfg.Replicas)
	require.Equal(t, 2*time.Second, *cfg.ShutdownDelay)
	require.Equal(t, "nats://sheaf-files", cfg.Files)
}

func TestFlagsGoBeforeEnvironmentBeforeFile(t *testing.T) {
	t.Chdir(t.TempDir())
	write := func(text string) {
		require.NoError(t, os.WriteFile("sheaf.yaml", []byte(text), 0o600))
	}
	write("http: 127.0.0.1:1001\nmax-history: 7\nkeep-files: 1h\nroles: [crawler, notifier]\nallow-cidr:\n- 10.0.0.0/8\nnats-creds:\nmax-pages-bytes: 1073741824\n")

	cfg, err := parseServe(t, "--config", "sheaf.yaml")
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1:1001", cfg.HTTP)
	require.Equal(t, 7, cfg.MaxHistory)
	require.Equal(t, time.Hour, cfg.KeepFiles)
	require.Equal(t, []string{"crawler", "notifier"}, cfg.Roles)
	require.Equal(t, []string{"10.0.0.0/8"}, cfg.AllowCIDR)
	require.Equal(t, node.ByteSize(1<<30), cfg.MaxPagesBytes)

	t.Setenv("SHEAF_HTTP", "127.0.0.1:1002")
	t.Setenv("SHEAF_ROLES", "assembler")
	cfg, err = parseServe(t, "--config", "sheaf.yaml")
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1:1002", cfg.HTTP)
	require.Equal(t, []string{"assembler"}, cfg.Roles)
	require.Equal(t, 7, cfg.MaxHistory)

	t.Setenv("SHEAF_CONFIG", "sheaf.yaml")
	cfg, err = parseServe(t, "--http", "127.0.0.1:1003")
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1:1003", cfg.HTTP)
	require.Equal(t, 7, cfg.MaxHistory, "the file is found by the environment")

	for text, want := range map[string]string{
		"htp: x":             `unknown setting "htp", did you mean http?`,
		"keep_files: 1h":     `unknown setting "keep_files", did you mean keep-files?`,
		"nothing-of-ours: x": `unknown setting "nothing-of-ours"; settings are named`,
		"config: x":          `unknown setting "config"`,
		"help: true":         `unknown setting "help"`,
		"keep-files: {a: b}": "want a text",
		"allow-cidr: [[a]]":  "want a list of texts",
		"\tnot yaml":         "sheaf.yaml",
		"max-history: lot":   "max-history",
	} {
		write(text)
		_, err := parseServe(t)
		require.ErrorContains(t, err, want, text)
	}
	t.Setenv("SHEAF_CONFIG", "missing.yaml")
	_, err = parseServe(t)
	require.ErrorContains(t, err, "missing.yaml")
}

func TestParseDuration(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for text, want := range map[string]time.Duration{
		"7d": 7 * day, "1d12h": day + 12*time.Hour, "1d1.5h30m": day + 2*time.Hour, "0d": 0, "99999d": 99999 * day, "1d.5h": day + 30*time.Minute,
		"0": 0, "168h": 7 * day, "1.5h": 90 * time.Minute, "-1h": -time.Hour,
	} {
		got, err := parseDuration(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{"", "d", "7", "7 d", "12h1d", "1.5d", "-7d", "1d-12h", "1d2d", "1d12", "100000d", "99999d2000000h", "7days", "7D", "1w"} {
		_, err := parseDuration(text)
		require.EqualError(t, err, strconv.Quote(text)+" is not a duration; want one such as 30s, 12h, 7d or 1d12h")
	}
}

// Days are durations in flags, variables and the file, also in lists and for settings without a default.
func TestDaysAreDurations(t *testing.T) {
	const day = 24 * time.Hour
	want := func(cfg node.Config, err error) {
		t.Helper()
		require.NoError(t, err)
		require.Equal(t, 2*day, cfg.KeepFiles)
		require.Equal(t, day+12*time.Hour, *cfg.ShutdownDelay)
		require.Equal(t, []time.Duration{5 * time.Second, day, 7 * day}, cfg.CallbackSchedule)
	}
	want(parseServe(t, "--keep-files", "2d", "--shutdown-delay=1d12h", "--callback-schedule", "5s,1d,7d"))

	file := filepath.Join(t.TempDir(), "sheaf.yaml")
	require.NoError(t, os.WriteFile(file, []byte("keep-files: 2d\nshutdown-delay: 1d12h\ncallback-schedule: [5s, 1d, 7d]\n"), 0o600))
	want(parseServe(t, "--config", file))

	t.Setenv("SHEAF_KEEP_FILES", "2d")
	t.Setenv("SHEAF_SHUTDOWN_DELAY", "1d12h")
	t.Setenv("SHEAF_CALLBACK_SCHEDULE", "5s,1d,7d")
	want(parseServe(t))

	for _, args := range []string{"serve --keep-pages 7days", "serve --callback-schedule 5s,1w", "serve --shutdown-delay 1w", "secret-key rotate --in 1w", "export http://x/ -o x.xlsx --page-timeout 1w"} {
		code, _, errs := sheaf(t, t.Context(), "", strings.Fields(args)...)
		require.Equal(t, exitUsage, code, args)
		require.Contains(t, errs, "is not a duration; want one such as 30s, 12h, 7d or 1d12h")
	}
	_, help, _ := sheaf(t, t.Context(), "", "serve", "--help")
	require.Contains(t, strings.Join(strings.Fields(help), " "), "How long finished files can be downloaded (7d)")
}

func TestEmptyEnvironmentVariablesSetNothing(t *testing.T) {
	want, err := parseServe(t)
	require.NoError(t, err)
	for _, name := range []string{"SHEAF_NATS", "SHEAF_DATA", "SHEAF_KEEP_FILES", "SHEAF_SECRET_KEY_FILE", "SHEAF_CONFIG", "SHEAF_ROLES"} {
		t.Setenv(name, "")
	}
	dropEmptyVariables()
	got, err := parseServe(t)
	require.NoError(t, err)
	require.Equal(t, want, got)
}

func TestUnknownEnvironmentVariables(t *testing.T) {
	t.Parallel()
	var c cli
	parser, err := newParser(&c, stdio{out: &output{}, err: &output{}}, func(int) {})
	require.NoError(t, err)
	for variable, want := range map[string]string{
		"SHEAF_KEEP_FILE=1h":                "unknown environment variable SHEAF_KEEP_FILE, did you mean SHEAF_KEEP_FILES?",
		"SHEAF_APIKEYS=keys":                "unknown environment variable SHEAF_APIKEYS, did you mean SHEAF_API_KEYS?",
		"SHEAF_MAX_UNFINISHED=7":            "unknown environment variable SHEAF_MAX_UNFINISHED, did you mean SHEAF_MAX_UNFINISHED_PER_TENANT?",
		"SHEAF_http=127.0.0.1:80":           "unknown environment variable SHEAF_http",
		"SHEAF_NOTHING_OF_OURS=x":           "unknown environment variable SHEAF_NOTHING_OF_OURS",
		"SHEAF_HTTP=127.0.0.1:80":           "",
		"SHEAF_SERVER=http://127.0.0.1:80":  "", // of the client's commands
		"SHEAF_LOG_LEVEL=warn":              "",
		"SHEAF_CONFIG=sheaf.yaml":           "",
		"SHEAF_FAILPOINT=ack.before":        "",
		"SHEAFS=x":                          "",
		"SHEAF_SERVICE_HOST=10.0.0.1":       "", // a Kubernetes service named sheaf
		"SHEAF_SERVICE_PORT=8080":           "",
		"SHEAF_SERVICE_PORT_HTTP=8080":      "",
		"SHEAF_PORT=tcp://10.0.0.1:8080":    "",
		"SHEAF_PORT_8080_TCP_ADDR=10.0.0.1": "",
		"SHEAF_HTTP_SERVICE_HOST=10.0.0.1":  "", // and one named sheaf-http
	} {
		err := checkVariables(parser.Model, []string{"PATH=/bin", variable})
		if want == "" {
			require.NoError(t, err, variable)
			continue
		}
		require.EqualError(t, err, want)
		require.True(t, isUsage(err))
	}
}

// Every command refuses them, also where they may be the reason for another missing setting. Help does not.
func TestCommandsRefuseUnknownEnvironmentVariables(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]int{
		"serve": exitUsage, "status " + testKey: exitUsage, "keys list": exitUsage, "version": exitUsage, "--help": exitOK, "keys list --help": exitOK,
	} {
		cmd, stderr := command(t, t.TempDir(), strings.Fields(args)...), &bytes.Buffer{}
		cmd.Env, cmd.Stderr = append(cmd.Env, "SHEAF_API_KEY_S=x"), stderr
		require.NoError(t, cmd.Start())
		require.Equal(t, want, exitStatus(t, cmd), args)
		if want == exitUsage {
			require.Contains(t, stderr.String(), "sheaf: unknown environment variable SHEAF_API_KEY_S, did you mean SHEAF_API_KEYS?\n")
		}
	}
}

// FuzzConfigFile reads any file of settings. The file is valid, or refused with a sentence.
func FuzzConfigFile(f *testing.F) {
	f.Add("http: 127.0.0.1:9000\nroles: [crawler]\n")
	f.Add("allow-cidr:\n- 10.0.0.0/8\nmax-pages-bytes: 1GiB\n")
	f.Add("a: &a [*a]\n")
	f.Add("\x00")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		name := filepath.Join(dir, "sheaf.yaml")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := parseServe(t, "--config", name)
		if err == nil {
			_ = cfg.Complete()
		}
	})
}
