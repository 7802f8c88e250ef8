//go:build linux

package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
)

// roles are the processes of Sheaf in the measurement of a cluster.
var roles = []string{"ingress", "crawler", "assembler,notifier"}

// deployment is Sheaf in three processes on three NATS servers, with three replicas of everything.
type deployment struct {
	dir      string
	servers  []*process
	urls     []string // of the servers' clients
	monitors []string
	sheaf    []*process
	*server  // the ingress
}

// startDeployment starts the servers and the processes of Sheaf.
func (b *bench) startDeployment(ctx context.Context) (d *deployment, err error) {
	d = &deployment{}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	if d.dir, err = os.MkdirTemp(b.dir, "cluster-*"); err != nil {
		return d, err
	}
	natsServer := filepath.Join(b.dir, "nats-server")
	if _, err := run(ctx, "go", "build", "-o", natsServer, "github.com/nats-io/nats-server/v2"); err != nil {
		return d, err
	}
	if err := d.startServers(ctx, natsServer); err != nil {
		return d, err
	}
	secret := make([]byte, 32)
	_, _ = rand.Read(secret)
	key := filepath.Join(d.dir, "key")
	if err := os.WriteFile(key, []byte(hex.EncodeToString(secret)), 0o600); err != nil {
		return d, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") // the notifier hands out links of the ingress
	if err != nil {
		return d, err
	}
	base := l.Addr().String()
	if err := l.Close(); err != nil {
		return d, err
	}
	for _, role := range roles {
		p, err := start(ctx, d.dir, b.sheaf, "serve", "--roles", role, "--nats", strings.Join(d.urls, ","),
			"--replicas", "3", "--files", "nats://sheaf-files", "--secret-key-file", key,
			"--http", base, "--public-url", "http://"+base, "--data", filepath.Join(d.dir, strings.ReplaceAll(role, ",", "-")))
		if err != nil {
			return d, err
		}
		d.sheaf = append(d.sheaf, p)
		if role == "ingress" {
			d.server = &server{process: p, base: "http://" + base, data: d.dir,
				client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}}
			if err := d.ready(ctx); err != nil {
				return d, err
			}
		}
	}
	return d, nil
}

// startServers starts three NATS servers that sync every message.
func (d *deployment) startServers(ctx context.Context, program string) error {
	var routes []string
	var reserved []net.Listener
	for range 3 {
		for _, list := range []*[]string{&d.urls, &d.monitors, &routes} {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			reserved = append(reserved, l)
			*list = append(*list, l.Addr().String())
		}
	}
	for i := range 3 {
		config := filepath.Join(d.dir, fmt.Sprintf("nats-%d.conf", i))
		if err := os.WriteFile(config, fmt.Appendf(nil, `
			server_name: nats-%d
			listen: %q
			http: %q
			max_payload: 8MB
			jetstream { store_dir: %q, sync_interval: always, max_file_store: 64GB }
			cluster { name: sheaf, listen: %q, routes: ["nats://%s"] }
			`, i, d.urls[i], d.monitors[i], filepath.Join(d.dir, fmt.Sprintf("nats-%d", i)), routes[i],
			strings.Join(routes, `", "nats://`)), 0o600); err != nil {
			return err
		}
		d.servers = append(d.servers, &process{cmd: exec.Command(program, "-c", config), ended: make(chan error, 1)})
	}
	for _, l := range reserved {
		_ = l.Close()
	}
	for _, s := range d.servers {
		s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := s.cmd.Start(); err != nil {
			return err
		}
		s.pid = s.cmd.Process.Pid
		go func() { s.ended <- s.cmd.Wait() }()
	}
	for _, monitor := range d.monitors {
		for {
			res, err := http.Get("http://" + monitor + "/healthz")
			if err == nil {
				_ = res.Body.Close()
				if res.StatusCode == http.StatusOK {
					break
				}
			}
			if err := pause(ctx, 50*time.Millisecond); err != nil {
				return err
			}
		}
	}
	return nil
}

// close stops everything and removes its data.
func (d *deployment) close() (err error) {
	if d.server != nil {
		d.client.CloseIdleConnections()
	}
	for _, p := range d.sheaf {
		err = errors.Join(err, p.stop())
	}
	for _, p := range d.servers {
		if p.pid != 0 {
			_ = syscall.Kill(p.pid, syscall.SIGKILL)
			<-p.ended //nolint:errcheck // it was killed
		}
	}
	return errors.Join(err, os.RemoveAll(d.dir))
}

// traffic is what a deployment has used so far.
type traffic struct {
	clients        int64 // messages between Sheaf and the servers, in both directions
	in, out        int64 // messages of the servers: of clients, and among themselves
	sheaf, servers time.Duration
	at             time.Time
}

// read reads the counters of all processes.
func (d *deployment) read() (t traffic, err error) {
	t.at = time.Now()
	for _, monitor := range d.monitors {
		var all struct {
			InMsgs  int64 `json:"in_msgs"`
			OutMsgs int64 `json:"out_msgs"`
		}
		var clients struct {
			Connections []struct {
				InMsgs  int64 `json:"in_msgs"`
				OutMsgs int64 `json:"out_msgs"`
			} `json:"connections"`
		}
		if err := errors.Join(getJSON("http://"+monitor+"/varz", &all),
			getJSON("http://"+monitor+"/connz?limit=1000", &clients)); err != nil {
			return t, err
		}
		t.in += all.InMsgs
		t.out += all.OutMsgs
		for _, c := range clients.Connections {
			t.clients += c.InMsgs + c.OutMsgs
		}
	}
	for list, sum := range map[*[]*process]*time.Duration{&d.servers: &t.servers, &d.sheaf: &t.sheaf} {
		for _, p := range *list {
			cpu, err := p.cpu()
			if err != nil {
				return t, err
			}
			*sum += cpu
		}
	}
	return t, nil
}

func getJSON(link string, v any) error {
	res, err := http.Get(link)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	return json.NewDecoder(res.Body).Decode(v)
}

// subjects counts the messages of a deployment by kind of subject until stop is called.
func (d *deployment) subjects() (stop func() map[string]int, err error) {
	nc, err := nats.Connect("nats://" + d.urls[0])
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	counts := map[string]int{}
	_, err = nc.Subscribe(">", func(m *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		counts[kindOf(m)]++
	})
	if err != nil {
		return nil, err
	}
	return func() map[string]int {
		nc.Close()
		mu.Lock()
		defer mu.Unlock()
		return maps.Clone(counts)
	}, nc.Flush()
}

// kindOf names a message by its subject, without ids.
func kindOf(m *nats.Msg) string {
	parts := strings.Split(m.Subject, ".")
	switch {
	case parts[0] == "_INBOX" && m.Header.Get("Status") != "":
		return "status of a pull: " + m.Header.Get("Status")
	case parts[0] == "_INBOX" && strings.HasPrefix(m.Reply, "$JS.ACK."):
		return "delivery"
	case parts[0] == "_INBOX":
		return "answer"
	case parts[0] == "$JS" && parts[1] == "ACK":
		return "acknowledgement: " + parts[3]
	case parts[0] == "$JS" && len(parts) > 4:
		return strings.Join(parts[:4], ".") + " " + strings.Join(parts[4:min(len(parts), 7)], ".")
	case parts[0] == "$O":
		return strings.Join(parts[:3:3], ".")
	}
	return strings.Join(parts[:min(len(parts), 2)], ".")
}

// cost counts the messages and the processor time of a small export on a cluster.
func (b *bench) cost(ctx context.Context) (string, error) {
	d, err := b.startDeployment(ctx)
	if err != nil {
		return "", err
	}
	text, err := b.measureCost(ctx, d)
	return text, errors.Join(err, d.close())
}

func (b *bench) measureCost(ctx context.Context, d *deployment) (string, error) {
	receiver, err := startReceiver()
	if err != nil {
		return "", err
	}
	defer receiver.close()
	e := &exporter{server: d.server, receiver: receiver, source: b.rowsURL(smallRows)}
	for range 10 {
		if _, err := e.byCallback(ctx); err != nil {
			return "", err
		}
	}
	progress("an idle cluster")
	idleFrom, err := d.read()
	if err != nil {
		return "", err
	}
	if err := pause(ctx, max(b.sustained/2, 3*time.Second)); err != nil {
		return "", err
	}
	from, err := d.read()
	if err != nil {
		return "", err
	}
	progress("small exports on a cluster")
	end := time.Now().Add(b.sustained)
	latencies, took, err := e.crowd(ctx, b.callers, func(int) bool { return !time.Now().Before(end) }, e.byCallback)
	to, err2 := d.read()
	if err := errors.Join(err, err2); err != nil {
		return "", err
	}
	n := len(latencies)
	idle := from.at.Sub(idleFrom.at).Seconds()
	each := func(of func(traffic) float64) (perExport, perSecond float64) {
		perSecond = (of(from) - of(idleFrom)) / idle
		return (of(to) - of(from) - perSecond*to.at.Sub(from.at).Seconds()) / float64(n), perSecond
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%d rows in %d pages with a callback, by %d callers, in the processes %s, on three NATS servers with three replicas of everything, "+
		"files in the object store: %s exports in %.0f s, %.0f a second, p50 %s ms. The traffic of the idle cluster is subtracted.\n\n"+
		"| | each export | idle, a second |\n|---|---|---|\n", smallRows, pageCount(smallLimit, smallRows), b.callers,
		strings.Join(roles, "; "), thousands(n), took.Seconds(), float64(n)/took.Seconds(), milliseconds(percentile(latencies, 50)))
	for _, row := range []struct {
		name, unit string
		of         func(traffic) float64
	}{
		{"messages between Sheaf and the servers", "", func(t traffic) float64 { return float64(t.clients) }},
		{"messages into the servers, Raft included", "", func(t traffic) float64 { return float64(t.in) }},
		{"messages out of the servers, Raft included", "", func(t traffic) float64 { return float64(t.out) }},
		{"processor time of Sheaf", " ms", func(t traffic) float64 { return t.sheaf.Seconds() * 1000 }},
		{"processor time of the servers", " ms", func(t traffic) float64 { return t.servers.Seconds() * 1000 }},
	} {
		perExport, perSecond := each(row.of)
		fmt.Fprintf(&text, "| %s | %.1f%s | %.0f%s |\n", row.name, perExport, row.unit, perSecond, row.unit)
	}
	counts, err := d.count(ctx, e)
	return text.String() + counts, err
}

// counted is the number of exports whose messages are counted by subject.
const counted = 50

// count counts the messages of exports by subject, one export after another.
func (d *deployment) count(ctx context.Context, e *exporter) (string, error) {
	stop, err := d.subjects()
	if err != nil {
		return "", err
	}
	_, _, err = e.crowd(ctx, 1, func(started int) bool { return started >= counted }, e.byCallback)
	if err == nil {
		err = pause(ctx, 500*time.Millisecond) // the acknowledgements of the last one
	}
	counts := stop()
	if err != nil {
		return "", err
	}
	var text strings.Builder
	sum := 0
	fmt.Fprintf(&text, "\nWhat a subscriber to every subject counted during %d exports in sequence, heartbeats of the waiting pulls included:\n\n"+
		"| subject | each export |\n|---|---|\n", counted)
	for _, kind := range slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(counts[b]-counts[a], strings.Compare(a, b))
	}) {
		sum += counts[kind]
		if counts[kind]*20 >= counted {
			fmt.Fprintf(&text, "| `%s` | %.2f |\n", kind, float64(counts[kind])/counted)
		}
	}
	fmt.Fprintf(&text, "| **all** | %.1f |\n", float64(sum)/counted)
	return text.String(), nil
}
