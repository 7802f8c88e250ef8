package node

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sheaf/events/eventstest"
)

// find returns the first finding of a check at a level, nil without one.
func find(list []Finding, check, level string) *Finding {
	for i, f := range list {
		if f.Check == check && f.Level == level {
			return &list[i]
		}
	}
	return nil
}

func doctorConfig(t *testing.T) Config {
	cfg := OneShot(filepath.Join(t.TempDir(), "data"))
	cfg.HTTP = fmt.Sprintf("127.0.0.1:%d", eventstest.FreePort())
	require.NoError(t, os.Mkdir(cfg.Data, 0o700))
	return cfg
}

func TestDoctorFindsNoFaultInASoundMachine(t *testing.T) {
	t.Parallel()
	cfg := doctorConfig(t)
	for _, f := range Diagnose(t.Context(), cfg, DoctorOptions{}) {
		require.NotEqual(t, FindingError, f.Level, "%+v", f)
	}
	entries, err := os.ReadDir(cfg.Data)
	require.NoError(t, err)
	require.Empty(t, entries, "it leaves nothing behind")
}

// Each fault is found by the check that knows it, with what to do.
func TestDoctorFindsFaults(t *testing.T) {
	t.Parallel()
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = busy.Close() })
	write := func(t *testing.T, file, text string, mode os.FileMode) string {
		require.NoError(t, os.WriteFile(file, []byte(text), mode))
		return file
	}
	for name, tc := range map[string]struct {
		change       func(t *testing.T, c *Config)
		urls         []string
		check, level string
		found        string
	}{
		"settings":   {func(_ *testing.T, c *Config) { c.Replicas = 2 }, nil, "settings", FindingError, "--replicas 2"},
		"port":       {func(_ *testing.T, c *Config) { c.HTTP = busy.Addr().String() }, nil, "ports", FindingError, "address already in use"},
		"losses":     {func(t *testing.T, c *Config) { write(t, filepath.Join(c.Data, lossesName), "x\n  a\n", 0o600) }, nil, "losses", FindingError, "1 losses"},
		"secret key": {func(t *testing.T, c *Config) { write(t, filepath.Join(c.Data, keptKeyName), "x", 0o644) }, nil, "secret-key", FindingError, "other users can read it"},
		"bad key":    {func(t *testing.T, c *Config) { write(t, filepath.Join(c.Data, keptKeyName), "x", 0o600) }, nil, "secret-key", FindingError, "neither hexadecimal"},
		"keys file": {func(t *testing.T, c *Config) {
			c.APIKeys = write(t, filepath.Join(c.Data, "keys"), "nonsense\n", 0o600)
		}, nil, "keys-file", FindingError, "keys"},
		"no keys":      {func(t *testing.T, c *Config) { c.APIKeys = filepath.Join(c.Data, "keys") }, nil, "keys-file", FindingWarning, "no keys"},
		"open folder":  {func(t *testing.T, c *Config) { require.NoError(t, os.Chmod(c.Data, 0o755)) }, nil, "data-folder", FindingWarning, "other users can look"},
		"not a folder": {func(t *testing.T, c *Config) { c.Data = write(t, c.Data+".file", "", 0o600) }, nil, "data-folder", FindingError, "cannot be used as a folder"},
		"expires soon": {func(t *testing.T, c *Config) { c.TLSCert, c.TLSKey = makeCertificate(t, c.Data, 1) }, nil, "tls", FindingWarning, "expires in 0 days"},
		"half a pair":  {func(t *testing.T, c *Config) { _, c.TLSCert = makeCertificate(t, c.Data, 1); c.TLSKey = c.TLSCert }, nil, "tls", FindingError, "--tls-cert"},
		"metadata":     {nil, []string{"http://169.254.169.254/x"}, "egress", FindingError, "metadata services"},
		"private":      {nil, []string{"http://10.1.2.3/x"}, "egress", FindingError, "--allow-cidr"},
		"mail":         {nil, []string{"http://192.0.2.1:25/x"}, "egress", FindingError, "refused"},
		"no URL":       {nil, []string{"ftp://x/"}, "egress", FindingError, "not a URL"},
		"allowed":      {func(_ *testing.T, c *Config) { c.AllowCIDR = []string{"10.0.0.0/8"} }, []string{"http://10.1.2.3/x"}, "egress", FindingOK, "10.1.2.3 is allowed"},
		"no NATS there": {func(_ *testing.T, c *Config) {
			c.NATS, c.SecretKey = []string{"nats://" + busy.Addr().String()[:10] + "1"}, "x"
		}, nil, "nats", FindingError, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := doctorConfig(t)
			if tc.change != nil {
				tc.change(t, &cfg)
			}
			list := Diagnose(t.Context(), cfg, DoctorOptions{URLs: tc.urls})
			f := find(list, tc.check, tc.level)
			require.NotNil(t, f, "%+v", list)
			require.Contains(t, f.Found, tc.found)
			require.Equal(t, tc.level != FindingOK, f.Advice != "", "%+v", f)
		})
	}
}

// Events that a proxy on the way collects are a warning; so is a server without events.
func TestDoctorChecksTheStreamOfEvents(t *testing.T) {
	t.Parallel()
	for want, send := range map[string]func(w http.ResponseWriter){
		FindingOK: func(w http.ResponseWriter) {
			_, _ = w.Write([]byte("event: alive\ndata: 1\n\n"))
			_ = http.NewResponseController(w).Flush()
			<-time.After(time.Second) // between the events of a real server
			_, _ = w.Write([]byte("event: alive\ndata: 2\n\n"))
		},
		FindingWarning: func(w http.ResponseWriter) { // collected
			_, _ = w.Write([]byte("event: alive\ndata: 1\n\nevent: alive\ndata: 2\n\n"))
		},
		FindingError: func(w http.ResponseWriter) { // cut off
			_, _ = w.Write([]byte("event: alive\ndata: 1\n\n"))
		},
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Accept") != "text/event-stream" {
					_, _ = w.Write([]byte(`{"errcode":0,"data":{"alive":true}}`))
					return
				}
				w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
				send(w)
			}))
			defer server.Close()
			list := Diagnose(t.Context(), doctorConfig(t), DoctorOptions{Server: server.URL, Do: server.Client().Do})
			require.NotNil(t, find(list, "events", want), "%+v", list)
		})
	}
}

// The doctor asks a server for its path, and compares the clocks.
func TestDoctorChecksAServer(t *testing.T) {
	t.Parallel()
	date := time.Now()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/ops/healthz" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Date", date.UTC().Format(http.TimeFormat))
		_, _ = w.Write([]byte(`{"errcode":0,"data":{"alive":true}}`))
	}))
	defer server.Close()
	check := func(base string) []Finding {
		return Diagnose(t.Context(), doctorConfig(t), DoctorOptions{Server: base, Do: server.Client().Do})
	}
	list := check(server.URL + "/ops/")
	require.NotNil(t, find(list, "server", FindingOK), "%+v", list)
	require.NotNil(t, find(list, "clock", FindingOK), "%+v", list)
	require.Contains(t, find(list, "events", FindingWarning).Found, "sends no events")
	require.Contains(t, find(check(server.URL), "server", FindingError).Found, "not like Sheaf")
	date = date.Add(-time.Minute)
	require.NotNil(t, find(check(server.URL+"/ops"), "clock", FindingWarning))
	server.Close()
	require.NotNil(t, find(check(server.URL), "server", FindingError))
}

// With a cluster the doctor looks at its servers and streams.
func TestDoctorChecksACluster(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "127.0.0.1:0")
	cfg := doctorConfig(t)
	cfg.NATS, cfg.SecretKey, cfg.Replicas = []string{srv.URL()}, fmt.Sprintf("%064x", 7), 1
	list := Diagnose(t.Context(), cfg, DoctorOptions{})
	require.NotNil(t, find(list, "nats", FindingOK), "%+v", list)
	require.Contains(t, find(list, "streams", FindingOK).Found, "does not exist")
	cfg.Replicas = 3
	require.Contains(t, find(Diagnose(t.Context(), cfg, DoctorOptions{}), "nats", FindingWarning).Found, "3 copies")
}
