package deploy

import (
	"flag"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

type composeFile struct {
	Services map[string]composeService
	Volumes  map[string]any
	Secrets  map[string]struct{ File string }
}

type composeService struct {
	Image           string
	Command         []string
	Environment     map[string]string
	Restart         string
	ReadOnly        bool     `yaml:"read_only"`
	CapDrop         []string `yaml:"cap_drop"`
	SecurityOpt     []string `yaml:"security_opt"`
	StopGracePeriod string   `yaml:"stop_grace_period"`
	Healthcheck     struct{ Test []string }
	Volumes, Tmpfs  []string
	Ports, Secrets  []string
	Deploy          struct{ Replicas string }
	DependsOn       map[string]struct{ Condition string } `yaml:"depends_on"`
}

var reference = regexp.MustCompile(`\$\{(\w+):-([^}]*)\}`)

// readCompose reads a file as it is without variables of the environment.
func readCompose(t *testing.T, file string) (c composeFile) {
	t.Helper()
	text := reference.ReplaceAllString(read(t, file), "$2")
	require.NoError(t, yaml.Unmarshal([]byte(text), &c))
	return c
}

// role returns the role of a service that runs Sheaf, "" otherwise.
func (s composeService) role() string {
	if len(s.Command) < 3 || s.Command[0] != "serve" || s.Command[1] != "--roles" {
		return ""
	}
	return s.Command[2]
}

// inside returns the folders of the container that are writable.
func (s composeService) inside() (folders []string) {
	for _, mount := range s.Volumes {
		parts := strings.Split(mount, ":")
		folders = append(folders, parts[min(1, len(parts)-1)])
	}
	for _, mount := range s.Tmpfs {
		folder, _, _ := strings.Cut(mount, ":")
		folders = append(folders, folder)
	}
	return folders
}

func eachCompose(t *testing.T, check func(*testing.T, composeFile)) {
	t.Parallel()
	for _, file := range []string{"compose.yaml", "compose-single.yaml"} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			check(t, readCompose(t, file))
		})
	}
}

func TestComposeServicesAreWatched(t *testing.T) {
	eachCompose(t, func(t *testing.T, c composeFile) {
		for name, s := range c.Services {
			require.Equal(t, "unless-stopped", s.Restart, name)
			require.Regexp(t, `^[\w/.-]+:[\w.-]+$`, s.Image, name)
			require.NotContains(t, s.Image, ":latest", name)
			require.NotEmpty(t, s.Healthcheck.Test, name)
			for other, on := range s.DependsOn {
				require.Contains(t, c.Services, other)
				require.Equal(t, "service_healthy", on.Condition)
			}
			for _, port := range s.Ports {
				require.True(t, strings.HasPrefix(port, "127.0.0.1:"), "%s: callers need not authenticate on %s", name, port)
			}
			if s.role() == "" {
				continue
			}
			require.True(t, s.ReadOnly, name)
			require.Equal(t, []string{"ALL"}, s.CapDrop, name)
			require.Equal(t, []string{"no-new-privileges:true"}, s.SecurityOpt)
			require.Contains(t, s.inside(), "/tmp", name)
			require.Contains(t, s.inside(), s.Environment["SHEAF_DATA"], name)
			require.Equal(t, "http://"+s.Environment["SHEAF_OPS"]+"/readyz", s.Healthcheck.Test[len(s.Healthcheck.Test)-1], name)
			need := 15 * time.Second
			if s.role() == "ingress" {
				delay, err := time.ParseDuration(s.Environment["SHEAF_SHUTDOWN_DELAY"])
				require.NoError(t, err)
				need += delay
			}
			grace, err := time.ParseDuration(s.StopGracePeriod)
			require.NoError(t, err)
			require.Equal(t, need+5*time.Second, grace, name)
		}
	})
}

// Named volumes and secrets are declared, mounted files exist, and secrets are files that git ignores.
func TestComposeMountsExist(t *testing.T) {
	eachCompose(t, func(t *testing.T, c composeFile) {
		volumes, secrets := map[string]bool{}, map[string]bool{}
		for _, s := range c.Services {
			for _, mount := range s.Volumes {
				from, _, named := strings.Cut(mount, ":")
				switch {
				case strings.HasPrefix(from, "./"):
					require.FileExists(t, from)
				case named:
					volumes[from] = true
				}
			}
			for _, secret := range s.Secrets {
				secrets[secret] = true
			}
			for name, value := range s.Environment {
				if secret, ok := strings.CutPrefix(value, "/run/secrets/"); ok {
					require.Contains(t, s.Secrets, secret, name)
				}
			}
		}
		require.ElementsMatch(t, slices.Collect(maps.Keys(c.Volumes)), slices.Collect(maps.Keys(volumes)))
		require.ElementsMatch(t, slices.Collect(maps.Keys(c.Secrets)), slices.Collect(maps.Keys(secrets)))
		for _, secret := range c.Secrets {
			require.True(t, strings.HasSuffix(secret.File, ".key"), "git ignores *.key: %s", secret.File)
		}
	})
}

func TestComposeHasEachPart(t *testing.T) {
	t.Parallel()
	c := readCompose(t, "compose.yaml")
	processes := map[string]int{}
	for _, s := range c.Services {
		n := 1
		if s.Deploy.Replicas != "" {
			var err error
			n, err = strconv.Atoi(s.Deploy.Replicas)
			require.NoError(t, err)
		}
		image, _, _ := strings.Cut(s.Image, ":")
		processes[image+" "+s.role()] += n
	}
	require.Equal(t, map[string]int{
		"nats ": 3, "versity/versitygw ": 1, "caddy ": 1,
		"sheaf ingress": 2, "sheaf crawler": 3, "sheaf assembler": 2, "sheaf notifier": 1,
	}, processes)
	upstreams := regexp.MustCompile(`(?m)reverse_proxy (.*) \{$`).FindStringSubmatch(read(t, "Caddyfile"))
	require.Len(t, upstreams, 2)
	require.Equal(t, []string{"ingress-1:8080", "ingress-2:8080"}, strings.Fields(upstreams[1]))
	require.Contains(t, c.Services["ingress-1"].Command, "0.0.0.0:8080")
}

// The commands of the NATS servers make one cluster, with the options of nats.conf, and Sheaf knows all servers.
func TestComposeNATSServersAreACluster(t *testing.T) {
	t.Parallel()
	c := readCompose(t, "compose.yaml")
	var names, urls []string
	for name, s := range c.Services {
		if !strings.HasPrefix(s.Image, "nats:") {
			continue
		}
		args := slices.Clone(s.Command)
		i := slices.Index(args, "/etc/nats/nats.conf")
		require.Positive(t, i)
		args[i] = "nats.conf"
		none := func() {}
		opts, err := server.ConfigureOptions(flag.NewFlagSet(name, flag.ContinueOnError), args, none, none, none)
		require.NoError(t, err)
		require.Equal(t, name, opts.ServerName)
		require.Equal(t, "sheaf", opts.Cluster.Name)
		require.Equal(t, 6222, opts.Cluster.Port)
		require.True(t, opts.SyncAlways)
		require.Equal(t, "/data/jetstream", opts.StoreDir)
		require.Contains(t, s.inside(), "/data")
		for _, route := range opts.Routes {
			require.NotEqual(t, name, route.Hostname())
			require.Contains(t, c.Services, route.Hostname())
		}
		require.Len(t, opts.Routes, 2)
		names, urls = append(names, opts.ServerName), append(urls, "nats://"+name+":4222")
	}
	require.Len(t, names, 3)
	for name, s := range c.Services {
		if s.role() != "" {
			require.ElementsMatch(t, urls, strings.Split(s.Environment["SHEAF_NATS"], ","), name)
			require.Equal(t, "3", s.Environment["SHEAF_REPLICAS"])
		}
	}
}

// The example names the variables of the file, with their defaults.
func TestComposeExampleOfTheEnvironment(t *testing.T) {
	t.Parallel()
	want, got := map[string]string{}, map[string]string{}
	for _, m := range reference.FindAllStringSubmatch(read(t, "compose.yaml"), -1) {
		want[m[1]] = m[2]
	}
	for line := range strings.Lines(read(t, ".env.example")) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(name, "#") {
			got[name] = value
		}
	}
	require.Equal(t, want, got)
}

// The script makes every secret of the file, once, for its owner alone.
func TestComposeSecretsAreMade(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("openssl"); err != nil || os.Getuid() != 0 {
		t.Skip("needs root and openssl")
	}
	folder := t.TempDir()
	script := filepath.Join(folder, "compose-secrets.sh")
	require.NoError(t, os.WriteFile(script, []byte(read(t, "compose-secrets.sh")), 0o700))
	contents := func() map[string]string {
		require.NoError(t, exec.CommandContext(t.Context(), script).Run())
		made := map[string]string{}
		for _, secret := range readCompose(t, "compose.yaml").Secrets {
			path := filepath.Join(folder, secret.File)
			info, err := os.Stat(path)
			require.NoError(t, err)
			require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			require.GreaterOrEqual(t, len(strings.TrimSpace(string(text))), 20)
			made[secret.File] = string(text)
		}
		return made
	}
	require.Equal(t, contents(), contents())
}
