//go:build chaos && linux

package chaostest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"sheaf/events"
)

const (
	// neighbourFor is how long each attack lasts.
	neighbourFor = 2500 * time.Millisecond
	// victimEvery is the interval of the victim's exports, so that it stays within its own limits.
	victimEvery = 60 * time.Millisecond
	// An export beside an attack may take maxSlowdown times as long as alone. Times below slowdownFloor
	// always pass: an export takes about 20 ms, and attackers, victim and Sheaf share the processors, so one
	// pause of the machine is longer. On two idle cores no attack reaches 200 ms; without Sheaf's limits some
	// take 4 to 20 s.
	maxSlowdown   = 3
	slowdownFloor = 300 * time.Millisecond
	// maxResident is the maximum resident memory of the process at any time, in bytes.
	maxResident = 256 << 20
	// overRate is the messages per second of a flood, well above the 2,000 that a tenant may send. Without
	// pacing, the attacker would use the processors that Sheaf needs, and the test would measure the
	// attacker.
	overRate = 10_000
	// underRate is below that limit, so such an attack is never cut off.
	underRate = 1_900
	// restRate is the requests per second of a REST flood, more than Sheaf can answer.
	restRate = 3_000
)

// attack is one kind of abuse by a tenant. run starts it; everything that it runs with a.start ends with
// a.ctx.
type attack struct {
	name    string
	exports bool // its tenant has as many exports as one history response can list
	run     func(a *attacker)
}

// tenant returns the attacking tenant. Each attack has its own, because a tenant that was cut off stays
// disconnected for a minute. Attacks that need many exports share a tenant, which creates them once.
func (a attack) tenant(i int) string {
	if a.exports {
		return "attacker-exports"
	}
	return fmt.Sprintf("attacker-%d", i)
}

var attacks = []attack{
	{"subscriptions to own events, nothing read", false, func(a *attacker) {
		for range 64 {
			a.connection(func(c *natsCaller) {
				for n := range 64 {
					c.send("SUB sheaf.event.%s.> %d\r\n", a.tenant, n+1)
				}
				c.hold()
			})
		}
		a.start(func() { // exports with large events; each is delivered 1,024 times
			for n := 0; a.pace(10); n++ {
				a.post("/v1/export/http",
					fmt.Sprintf(`{"timestamp":%d,"ext_type":"XLSX","title":"large","user_id":"7","source_http":{"url":%q,"param":{"limit":100,"pad":%q}}}`,
						n, a.source, strings.Repeat("x", 100<<10)))
			}
		})
	}},
	{"history without a reply", false, func(a *attacker) {
		a.connection(func(c *natsCaller) {
			c.flood(overRate, func() []byte {
				return fmt.Appendf(nil, "PUB sheaf.api.%s.history 15\r\n{\"user_id\":\"7\"}\r\n", a.tenant)
			})
		})
	}},
	{"history, replies not read", true, func(a *attacker) {
		for range 16 {
			a.connection(func(c *natsCaller) {
				c.send("SUB _INBOX.a 1\r\n")
				c.flood(underRate/16, func() []byte {
					return fmt.Appendf(nil,
						"PUB sheaf.api.%s.history _INBOX.a 15\r\n{\"user_id\":\"7\"}\r\n", a.tenant)
				})
			})
		}
	}},
	{"requests from many connections", false, func(a *attacker) {
		for range 64 {
			a.connection(func(c *natsCaller) {
				c.send("SUB _INBOX.a 1\r\n")
				a.start(c.read)
				c.flood(underRate/16, func() []byte {
					return fmt.Appendf(nil, "PUB sheaf.api.%s.detail _INBOX.a 42\r\n{\"key\":%q}\r\n",
						a.tenant, strings.Repeat("0", 32))
				})
			})
		}
	}},
	{"a flood of requests from many connections", false, func(a *attacker) {
		for range 64 {
			a.connection(func(c *natsCaller) {
				c.send("SUB _INBOX.a 1\r\n")
				a.start(c.read)
				c.flood(overRate/16, func() []byte {
					return fmt.Appendf(nil,
						"PUB sheaf.api.%s.history _INBOX.a 15\r\n{\"user_id\":\"7\"}\r\n", a.tenant)
				})
			})
		}
	}},
	{"PINGs, answers not read", false, func(a *attacker) {
		for range 64 {
			a.connection(func(c *natsCaller) {
				c.flood(4*overRate/16,
					func() []byte { return []byte("PING\r\n") })
			})
		}
	}},
	{"subscribing and unsubscribing", false, func(a *attacker) {
		for range 64 {
			a.connection(func(c *natsCaller) {
				c.flood(overRate/16, func() []byte {
					return fmt.Appendf(nil, "SUB sheaf.event.%s.> 1\r\nUNSUB 1\r\n", a.tenant)
				})
			})
		}
	}},
	{"connecting without end", false, func(a *attacker) {
		for range 16 {
			a.start(func() {
				for a.pace(50) {
					if c := a.dial(); c != nil {
						_ = c.Close()
					}
				}
			})
		}
	}},
	{"messages that never end", false, func(a *attacker) {
		for range 64 {
			a.connection(func(c *natsCaller) {
				c.send("PUB sheaf.submit.%s.raw 1048576\r\n%s", a.tenant, strings.Repeat("x", 1<<20-1))
				c.hold()
			})
			a.connection(func(c *natsCaller) {
				c.send("PUB sheaf.submit.%s.raw", a.tenant)
				c.hold()
			})
		}
		for range 200 {
			a.start(func() { // a connection that never authenticates
				if c, err := net.Dial("tcp", a.nats); err == nil {
					defer c.Close()
					_, _ = io.WriteString(c, "CONNECT {")
					<-a.ctx.Done()
				}
			})
		}
	}},
	{"large answers by REST, not read", true, func(a *attacker) {
		for range 128 {
			a.unread("/v1/export/history?user_id=7")
		}
	}},
	{"downloads, not read", false, func(a *attacker) {
		a.largeFile()
		for range 128 {
			a.unread(a.file)
		}
	}},
	{"many requests by REST", false, func(a *attacker) {
		for n := range 128 {
			path := []string{"/v1/export/history?user_id=7",
				"/v1/export/detail?key=" + strings.Repeat("0", 32)}[n%2]
			a.start(func() {
				for a.pace(restRate / 128) {
					a.get(path)
				}
			})
		}
	}},
	{"a flood of durable submissions", false, func(a *attacker) { a.submissions(overRate) }},
	{"durable submissions, fewer than are cut off", false, func(a *attacker) { a.submissions(underRate) }},
	{"a flood of one durable submission", false, func(a *attacker) {
		a.connection(func(c *natsCaller) {
			body := rawExport(1, "7", "flood")
			c.flood(underRate, func() []byte {
				return fmt.Appendf(nil, "PUB sheaf.submit.%s.raw %d\r\n%s\r\n", a.tenant, len(body), body)
			})
		})
	}},
	{"many exports by REST", false, func(a *attacker) {
		for lane := range 64 {
			a.start(func() {
				for n := lane; a.pace(restRate / 64); n += 64 {
					a.post("/v1/export/raw", rawExport(n, "7", "flood"))
				}
			})
		}
	}},
}

// Another tenant's exports take at most three times as long during any attack, and the process stays small.
// The test measures, so it is not parallel.
func TestNeighbours(t *testing.T) {
	n := startNeighbours(t)
	alone, peak := n.measure(neighbourFor)
	limit := max(maxSlowdown*alone.p99(), slowdownFloor)
	t.Logf("| attack | exports | p50 | p99 | resident, MiB |")
	row := func(name string, s samples, peak int) {
		t.Logf("| %s | %d | %d ms | %d ms | %d |", name, len(s), s.at(50).Milliseconds(),
			s.p99().Milliseconds(), peak>>20)
	}
	row("none", alone, peak)
	stop := n.busy()
	beside, peak := n.measure(neighbourFor)
	stop()
	row("none, beside a busy process for each processor", beside, peak)
	for i, attack := range attacks {
		if only := os.Getenv("NEIGHBOURS"); only != "" && !regexp.MustCompile(only).MatchString(attack.name) {
			continue
		}
		ctx, cancel := context.WithCancel(t.Context())
		transport := &http.Transport{MaxIdleConnsPerHost: 128} // so that it reuses connections
		a := &attacker{t: t, client: http.Client{Transport: transport}, ctx: ctx, tenant: attack.tenant(i),
			http: n.http, nats: n.nats, source: n.source}
		a.key = n.keys[a.tenant]
		if attack.exports {
			a.manyExports()
		}
		attack.run(a)
		s, peak := n.measure(neighbourFor)
		cancel()
		a.wg.Wait()
		transport.CloseIdleConnections()
		row(attack.name, s, peak)
		if s.p99() > limit {
			t.Errorf("%s: p99 of another tenant's exports is %s, and %s alone", attack.name,
				s.p99(), alone.p99())
		}
		if peak > maxResident {
			t.Errorf("%s: %d MiB resident", attack.name, peak>>20)
		}
	}
}

// neighbours is a process that serves a victim and attackers.
type neighbours struct {
	t          *testing.T
	pid        int
	http, nats string
	source     string
	keys       map[string]string // by tenant
	conn       *nats.Conn        // of the victim
	completed  chan string       // correlation ids of the victim's completed exports
	n          int               // exports of the victim
}

func startNeighbours(t *testing.T) *neighbours {
	binary, _ := build(t)
	dir := t.TempDir()
	n := &neighbours{t: t, http: freeAddress(), nats: freeAddress(), keys: map[string]string{},
		completed: make(chan string, 10_000)}
	source := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, hostilePage(1, 1, `{"page":1,"limit":100,"total":1,"total_page":1}`))
	}))
	t.Cleanup(source.Close)
	n.source = source.URL
	file := filepath.Join(dir, "keys")
	tenants := []string{"victim"}
	for i, attack := range attacks {
		if tenant := attack.tenant(i); !slices.Contains(tenants, tenant) {
			tenants = append(tenants, tenant)
		}
	}
	for _, tenant := range tenants {
		out, err := exec.CommandContext(t.Context(), binary, "keys", "add", "--api-keys", file, "--tenant",
			tenant).Output()
		require.NoError(t, err)
		n.keys[tenant] = regexp.MustCompile(`sheaf_\S+`).FindString(string(out))
		require.NotEmpty(t, n.keys[tenant])
	}
	logs, err := os.Create(filepath.Join(dir, "log"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = logs.Close() })
	cmd := exec.Command(binary, "serve", "--http", n.http, "--nats-listen", n.nats, "--data",
		filepath.Join(dir, "data"), "--api-keys", file,
		"--log-level", "warn", "--allow-cidr", "127.0.0.0/8")
	cmd.Stdout, cmd.Stderr = logs, logs
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(t, cmd.Start())
	n.pid = cmd.Process.Pid
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			text, _ := os.ReadFile(logs.Name())
			t.Logf("the log:\n%s", text[max(0, len(text)-4000):])
		}
	})
	require.True(t, eventually(t.Context(), 30*time.Second, 20*time.Millisecond, func() bool {
		res, err := http.Get("http://" + n.http + "/readyz")
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return res.StatusCode == http.StatusOK
	}))
	n.conn, err = nats.Connect(n.nats, nats.Token(n.keys["victim"]))
	require.NoError(t, err)
	t.Cleanup(n.conn.Close)
	_, err = n.conn.Subscribe("sheaf.event.victim.completed.*", func(m *nats.Msg) {
		n.completed <- m.Header.Get("ce-correlationid")
	})
	require.NoError(t, err)
	require.NoError(t, n.conn.Flush())
	return n
}

// busy starts one busy process per processor. Their effect is that of any attack that keeps the processors
// busy, whatever Sheaf does.
func (n *neighbours) busy() (stop func()) {
	ctx, cancel := context.WithCancel(n.t.Context())
	var spinning []*exec.Cmd
	for range runtime.NumCPU() {
		cmd := exec.CommandContext(ctx, "sh", "-c", "while :; do :; done")
		require.NoError(n.t, cmd.Start())
		spinning = append(spinning, cmd)
	}
	return func() {
		cancel()
		for _, cmd := range spinning {
			_ = cmd.Wait()
		}
	}
}

// samples are durations of exports.
type samples []time.Duration

func (s samples) at(percent int) time.Duration {
	s = slices.Sorted(slices.Values(s))
	return s[min(len(s)-1, len(s)*percent/100)]
}

func (s samples) p99() time.Duration { return s.at(99) }

// measure runs small exports of the victim one after another, by REST, NATS and durable submission in turn.
// It returns their durations and the peak resident memory in bytes.
func (n *neighbours) measure(during time.Duration) (s samples, peak int) {
	// 5 resets the peak (proc_pid_clear_refs(5)).
	require.NoError(n.t, os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", n.pid), []byte("5"), 0))
	next := time.NewTicker(victimEvery)
	defer next.Stop()
	for end := time.Now().Add(during); time.Now().Before(end); <-next.C {
		n.n++
		begin := time.Now()
		switch n.n % 3 {
		case 0:
			n.export(n.byREST)
		case 1:
			n.export(n.byNATS)
		default:
			n.submit()
		}
		s = append(s, time.Since(begin))
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.pid))
	require.NoError(n.t, err)
	kib, err := strconv.Atoi(regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindStringSubmatch(string(status))[1])
	require.NoError(n.t, err)
	return s, kib << 10
}

// export runs one export, from its request to its file.
func (n *neighbours) export(ask func(operation, argument string) ([]byte, error)) {
	ctx, cancel := context.WithTimeout(n.t.Context(), time.Minute)
	defer cancel()
	var key, link string
	require.True(n.t, eventually(ctx, time.Minute, 5*time.Millisecond, func() bool {
		var a struct {
			Data struct {
				Key    string `json:"hash_key"`
				Status int    `json:"status"`
				URL    string `json:"down_url"`
			}
		}
		operation, argument := "raw", rawExport(n.n, "7", "of the victim")
		if key != "" {
			operation, argument = "detail", key
		}
		body, err := ask(operation, argument)
		if err != nil || json.Unmarshal(body, &a) != nil {
			return false // the retry counts towards the caller's time
		}
		key, link = a.Data.Key, a.Data.URL
		return a.Data.Status == events.StatusSucceeded
	}), "an export of the victim")
	res, err := http.Get(link)
	require.NoError(n.t, err)
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	require.NoError(n.t, err)
	require.Equal(n.t, http.StatusOK, res.StatusCode)
}

// submit runs one export that is submitted durably, from the submission to its event.
func (n *neighbours) submit() {
	id := fmt.Sprintf("victim-%d", n.n)
	m := nats.NewMsg("sheaf.submit.victim.raw")
	m.Header.Set("ce-id", id)
	m.Data = []byte(rawExport(n.n, "7", "of the victim"))
	stored, err := n.conn.RequestMsg(m, time.Minute)
	require.NoError(n.t, err)
	require.NotContains(n.t, string(stored.Data), "error")
	for done := ""; done != id; {
		select {
		case done = <-n.completed:
		case <-time.After(time.Minute):
			require.Fail(n.t, "a durable submission of the victim")
		}
	}
}

func (n *neighbours) byNATS(operation, argument string) ([]byte, error) {
	if operation == "detail" {
		argument = fmt.Sprintf(`{"key":%q}`, argument)
	}
	m, err := n.conn.Request("sheaf.api.victim."+operation, []byte(argument), 10*time.Second)
	if err != nil {
		return nil, err
	}
	return m.Data, nil
}

func (n *neighbours) byREST(operation, argument string) ([]byte, error) {
	method, path, body := http.MethodPost, "/v1/export/raw", argument
	if operation == "detail" {
		method, path, body = http.MethodGet, "/v1/export/detail?key="+argument, ""
	}
	return request(n.t.Context(), http.DefaultClient, method, "http://"+n.http+path, n.keys["victim"], body)
}

func request(ctx context.Context, client *http.Client, method, url, key, body string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-API-Key", key)
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", res.Status, answer)
	}
	return answer, err
}

// rawExport returns the n-th request with a title, with ten rows.
func rawExport(n int, user, title string) string {
	rows := `[{\"id\":\"ID\"}` + strings.Repeat(`,{\"id\":1}`, 10) + `]`
	return fmt.Sprintf(`{"timestamp":%d,"ext_type":"XLSX","title":%q,"user_id":%q,"source_raw":"%s"}`, n,
		title, user, rows)
}

// attacker is a hostile tenant.
type attacker struct {
	t                  *testing.T
	ctx                context.Context
	tenant, key        string
	http, nats, source string
	file               string // path and query of a large file
	client             http.Client
	wg                 sync.WaitGroup
}

// start runs a part of the attack.
func (a *attacker) start(run func()) { a.wg.Go(run) }

// pace waits so that its caller loops perSecond times per second.
func (a *attacker) pace(perSecond float64) bool {
	select {
	case <-time.After(time.Duration(float64(time.Second) / perSecond)):
		return true
	case <-a.ctx.Done():
		return false
	}
}

func (a *attacker) post(path, body string) {
	_, _ = request(a.ctx, &a.client, http.MethodPost, "http://"+a.http+path, a.key, body)
}

func (a *attacker) get(path string) {
	_, _ = request(a.ctx, &a.client, http.MethodGet, "http://"+a.http+path, a.key, "")
}

// dial connects with the attacker's key; it returns nil if that is refused.
func (a *attacker) dial() *natsCaller {
	conn, err := net.Dial("tcp", a.nats)
	if err != nil {
		return nil
	}
	_ = conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	stop := context.AfterFunc(a.ctx, func() { _ = conn.Close() })
	r := bufio.NewReaderSize(conn, 16)
	_, _ = r.ReadString('\n')
	_, _ = fmt.Fprintf(conn, "CONNECT {\"verbose\":false,\"auth_token\":%q}\r\nPING\r\n", a.key)
	for {
		line, err := r.ReadString('\n')
		if err != nil || strings.HasPrefix(line, "-ERR") {
			stop()
			_ = conn.Close()
			return nil
		}
		if strings.HasPrefix(line, "PONG") {
			return &natsCaller{Conn: conn, a: a}
		}
	}
}

// connection runs something on a connection, and reconnects whenever it is cut off.
func (a *attacker) connection(run func(*natsCaller)) {
	a.start(func() {
		for {
			if c := a.dial(); c != nil {
				run(c)
				_ = c.Close()
			}
			if !a.pace(5) {
				return
			}
		}
	})
}

// natsCaller is a raw connection of an attacker.
type natsCaller struct {
	net.Conn
	a      *attacker
	broken bool
}

func (c *natsCaller) send(format string, args ...any) {
	if _, err := fmt.Fprintf(c, format, args...); err != nil {
		c.broken = true
	}
}

// read discards all input.
func (c *natsCaller) read() { _, _ = io.Copy(io.Discard, c.Conn) }

// hold keeps the connection open without reading until the server closes it.
func (c *natsCaller) hold() {
	for !c.broken && c.a.pace(5) {
		raw, err := c.Conn.(*net.TCPConn).SyscallConn()
		if err != nil {
			return
		}
		_ = raw.Control(func(fd uintptr) {
			why, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_ERROR)
			c.broken = err != nil || why != 0
		})
	}
}

// flood sends messages at a rate until the connection ends.
func (c *natsCaller) flood(perSecond float64, message func() []byte) {
	limit := rate.NewLimiter(rate.Limit(perSecond), 1+int(perSecond/20))
	for {
		var b bytes.Buffer
		for range max(1, limit.Burst()/2) {
			b.Write(message())
		}
		if limit.WaitN(c.a.ctx, max(1, limit.Burst()/2)) != nil {
			return
		}
		if _, err := c.Write(b.Bytes()); err != nil {
			return
		}
	}
}

// submissions submits durably, half of each kind.
func (a *attacker) submissions(perSecond float64) {
	n := 0
	a.connection(func(c *natsCaller) {
		c.flood(perSecond, func() []byte {
			n++
			kind, body := "raw", rawExport(n, "7", "flood")
			if n%2 == 0 {
				kind, body = "http", fmt.Sprintf(`{"timestamp":%d,"ext_type":"XLSX","title":"flood","user_id":"7","source_http":{"url":%q}}`, n, a.source)
			}
			return fmt.Appendf(nil, "PUB sheaf.submit.%s.%s %d\r\n%s\r\n", a.tenant, kind, len(body), body)
		})
	})
}

// unread sends a REST request and does not read the response; it reconnects whenever it is cut off.
func (a *attacker) unread(path string) {
	a.start(func() {
		for a.pace(20) {
			conn, err := net.Dial("tcp", a.http)
			if err != nil {
				continue
			}
			_ = conn.(*net.TCPConn).SetReadBuffer(4 << 10)
			stop := context.AfterFunc(a.ctx, func() { _ = conn.Close() })
			_, _ = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nX-API-Key: %s\r\n\r\n",
				path, a.http, a.key)
			(&natsCaller{Conn: conn, a: a}).hold()
			stop()
			_ = conn.Close()
		}
	})
}

// manyExports creates as many exports as one history response can list. Their titles make the response as
// large as NATS callers may receive.
func (a *attacker) manyExports() {
	var wg sync.WaitGroup
	for lane := range 16 {
		wg.Go(func() {
			for n := range 63 {
				a.finish(a.begin(rawExport(lane*63+n, "7", strings.Repeat("订单", 80))))
			}
		})
	}
	wg.Wait()
}

// largeFile creates a file of almost 4 MiB, the largest that is read completely before its first byte is
// sent.
func (a *attacker) largeFile() {
	noise := make([]byte, 3500<<10)
	_, _ = rand.NewChaCha8([32]byte{}).Read(noise)
	var rows strings.Builder
	rows.WriteString(`[{\"id\":\"ID\"}`)
	for part := range slices.Chunk(noise, 1<<10) {
		fmt.Fprintf(&rows, `,{\"id\":\"%x\"}`, part)
	}
	key := a.begin(fmt.Sprintf(`{"timestamp":1,"ext_type":"XLSX","title":"large","user_id":"8","source_raw":"%s]"}`, rows.String()))
	_, a.file, _ = strings.Cut(a.finish(key), a.http)
}

// finish waits until an export has ended, and returns the link to its file.
func (a *attacker) finish(key string) (link string) {
	var detail struct {
		Data struct {
			URL string `json:"down_url"`
		}
	}
	if !eventually(a.ctx, 30*time.Second, 20*time.Millisecond, func() bool {
		body, err := request(a.ctx, &a.client, http.MethodGet,
			"http://"+a.http+"/v1/export/detail?key="+key, a.key, "")
		return err == nil && json.Unmarshal(body, &detail) == nil && detail.Data.URL != ""
	}) {
		a.t.Error("an export of the attacker does not end")
	}
	return detail.Data.URL
}

// begin submits an export and returns its key.
func (a *attacker) begin(body string) (key string) {
	var accepted struct {
		Data struct {
			Key string `json:"hash_key"`
		}
	}
	var answer []byte
	var err error
	eventually(a.ctx, time.Minute, 50*time.Millisecond, func() bool { // while the tenant exceeds its rate
		answer, err = request(a.ctx, &a.client, http.MethodPost, "http://"+a.http+"/v1/export/raw", a.key, body)
		return err == nil || !strings.Contains(err.Error(), "429")
	})
	if err == nil {
		err = json.Unmarshal(answer, &accepted)
	}
	if err != nil {
		a.t.Errorf("an export of the attacker: %v", err)
	}
	return accepted.Data.Key
}
