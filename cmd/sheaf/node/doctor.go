package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"sheaf/cmd/sheaf/egress"
	"sheaf/events"
	"sheaf/events/journal"
)

// Finding is the result of one check of the doctor.
type Finding struct {
	Check  string `json:"check"`
	Level  string `json:"level"` // FindingOK and so on
	Found  string `json:"found"`
	Advice string `json:"advice,omitempty"`
}

// Levels of findings.
const (
	FindingOK      = "ok"
	FindingWarning = "warning"
	FindingError   = "error"
)

// DoctorOptions says what the doctor looks at besides the settings.
type DoctorOptions struct {
	URLs   []string // sources and callbacks to explain the egress rules for
	Server string   // base URL of a running Sheaf, "" for none
	// Do sends requests to the server and the public URL.
	Do func(*http.Request) (*http.Response, error)
}

const (
	// doctorWait bounds each question to another machine.
	doctorWait = 5 * time.Second
	// clockSkew is the difference between two clocks above which it is reported.
	clockSkew = 2 * time.Second
	// certificateSoon is how long before its end a certificate is reported.
	certificateSoon = 14 * 24 * time.Hour
	// minFiles is the number of file descriptors that a busy process needs: its connections and files.
	minFiles = 8192
	// minMemory is the memory below which large exports may not fit.
	minMemory = 512 << 20
	// syncTooFast is the time of a sync that no disk reaches.
	syncTooFast = 20 * time.Microsecond
)

// doctor collects findings.
type doctor struct {
	cfg  Config
	opt  DoctorOptions
	list []Finding
}

func (d *doctor) ok(check, format string, args ...any) {
	d.list = append(d.list, Finding{check, FindingOK, fmt.Sprintf(format, args...), ""})
}

func (d *doctor) warn(check, advice, format string, args ...any) {
	d.list = append(d.list, Finding{check, FindingWarning, fmt.Sprintf(format, args...), advice})
}

func (d *doctor) fail(check, advice, format string, args ...any) {
	d.list = append(d.list, Finding{check, FindingError, fmt.Sprintf(format, args...), advice})
}

// Diagnose checks whether a process with these settings can work on this machine. It changes nothing: it
// writes one file to the data folder, if that exists, and removes it.
func Diagnose(ctx context.Context, cfg Config, opt DoctorOptions) []Finding {
	cfg.Log = slog.New(slog.DiscardHandler)
	d := &doctor{cfg: cfg, opt: opt}
	if err := d.cfg.Complete(); err != nil {
		for problem := range strings.Lines(err.Error()) {
			d.fail("settings", "correct the flag, variable or key of the YAML file", "%s", strings.TrimSpace(problem))
		}
		return d.list
	}
	version, _ := build()
	d.ok("settings", "complete, for version %s", version)
	d.dataFolder()
	d.secretKey()
	d.keysFile()
	d.losses()
	running := d.ports()
	d.limits()
	d.certificate()
	if len(cfg.NATS) > 0 || cfg.NATSContext != "" {
		d.cluster(ctx)
	} else {
		d.ok("nats", "embedded")
	}
	for _, text := range opt.URLs {
		d.egress(ctx, text)
	}
	if opt.Server != "" {
		d.server(ctx, "server", opt.Server)
	}
	if cfg.PublicURL != "" && (running || opt.Server != "") {
		d.server(ctx, "public-url", cfg.PublicURL)
	}
	return d.list
}

// dataFolder checks the owner, the mode, the space and the syncs of --data.
func (d *doctor) dataFolder() {
	const check = "data-folder"
	folder := d.cfg.Data
	info, err := os.Stat(folder)
	if errors.Is(err, fs.ErrNotExist) {
		d.ok(check, "%s does not exist; the first start makes it", folder)
		return
	}
	if err != nil || !info.IsDir() {
		d.fail(check, "give another --data", "%s cannot be used as a folder: %v", folder, err)
		return
	}
	if owner, known := ownerOf(info); known && owner != os.Getuid() {
		d.warn(check, "run the doctor as the user that runs Sheaf, or chown the folder", "%s belongs to user %d, this is user %d", folder, owner, os.Getuid())
	}
	if info.Mode().Perm()&0o077 != 0 {
		d.warn(check, "chmod 700 "+folder, "other users can look into %s (mode %v)", folder, info.Mode().Perm())
	}
	if size, free, known := diskSpace(folder); known {
		reserve := reserveOf(size)
		report := func(format string, args ...any) { d.ok("disk", format, args...) }
		switch {
		case free < reserve:
			report = func(format string, args ...any) { d.fail("disk", "make room, or use a larger disk", format, args...) }
		case free < 2*reserve:
			report = func(format string, args ...any) { d.warn("disk", "make room soon", format, args...) }
		}
		report("%s free of %s; %s are kept free", ByteSize(free), ByteSize(size), ByteSize(reserve))
	}
	took, err := timeOfSync(folder)
	switch kind := networkOrMemory(folder); {
	case err != nil:
		d.fail(check, "let the user of Sheaf write there", "%s cannot be written: %v", folder, err)
	case kind != "":
		d.warn(check, "use a local disk: what was acknowledged may be lost", "%s is on %s", folder, kind)
	case took < syncTooFast:
		d.warn(check, "check that the file system and the disk write before they confirm", "a sync takes %v, faster than a disk: acknowledged events may be lost at a power failure", took)
	default:
		d.ok(check, "%s; a sync takes %v", folder, took.Round(time.Microsecond))
	}
}

// timeOfSync returns the median time to write and sync 4 KiB.
func timeOfSync(folder string) (time.Duration, error) {
	f, err := os.CreateTemp(folder, ".doctor-")
	if err != nil {
		return 0, withoutPath(err)
	}
	defer func() { _, _ = f.Close(), os.Remove(f.Name()) }()
	block := make([]byte, 4<<10)
	times := make([]time.Duration, 21)
	for i := range times {
		begin := time.Now()
		if _, err = f.Write(block); err == nil {
			err = f.Sync()
		}
		if err != nil {
			return 0, withoutPath(err)
		}
		times[i] = time.Since(begin)
	}
	slices.Sort(times)
	return times[len(times)/2], nil
}

// secretKey checks the secret key and who can read it.
func (d *doctor) secretKey() {
	const check = "secret-key"
	n := &node{cfg: d.cfg}
	err := n.checkSecretKey()
	switch {
	case errors.Is(err, fs.ErrNotExist) && d.cfg.SecretKeyFile == "":
		d.ok(check, "none yet; the first start makes one")
		return
	case err != nil:
		d.fail(check, "name the file with --secret-key-file, and chmod 600 it", "%v", err)
		return
	}
	cfg := d.cfg.KeyConfig
	if keys, err := cfg.secretKeys(d.cfg.Log); err != nil {
		d.fail(check, "restore it from the backup; without it links and sealed values are invalid", "%v", err)
	} else {
		d.ok(check, "%s", keyCount(len(keys)))
	}
}

func keyCount(n int) string {
	if n == 1 {
		return "1 key"
	}
	return fmt.Sprintf("%d keys", n)
}

func (d *doctor) keysFile() {
	const check = "keys-file"
	if d.cfg.APIKeys == "" {
		return
	}
	keys, err := openAPIKeys(d.cfg.APIKeys, d.cfg.Log)
	switch {
	case err != nil:
		d.fail(check, "correct the line; until then a running server keeps its earlier keys", "%v", err)
	case len(*keys.keys.Load()) == 0:
		d.warn(check, "sheaf keys add --api-keys "+d.cfg.APIKeys+" --tenant NAME", "no keys, so every caller is refused")
	default:
		d.ok(check, "%s", keyCount(len(*keys.keys.Load())))
	}
}

func (d *doctor) losses() {
	if n := countLosses(d.cfg.Data); n > 0 {
		d.fail("losses", "read "+filepath.Join(d.cfg.Data, lossesName)+" and move it away", "%d losses wait for a person", n)
		return
	}
	d.ok("losses", "none")
}

// ports checks that the addresses are free. It reports whether a Sheaf runs on the data folder: then they are
// its own.
func (d *doctor) ports() (running bool) {
	if _, err := os.Stat(filepath.Join(d.cfg.Data, lockName)); err == nil && d.cfg.embedded() {
		unlock, err := lockData(d.cfg.Data)
		if err == nil {
			unlock()
		}
		running = err != nil
	}
	addresses := map[string]string{"--ops": d.cfg.Ops}
	if d.cfg.has(roleIngress) {
		addresses["--http"] = d.cfg.HTTP
	}
	if d.cfg.embedded() && d.cfg.NATSListen != "none" {
		addresses["--nats-listen"] = d.cfg.NATSListen
	}
	for _, flag := range []string{"--http", "--nats-listen", "--ops"} {
		address := addresses[flag]
		if address == "" {
			continue
		}
		l, err := net.Listen("tcp", address)
		switch {
		case err == nil:
			_ = l.Close()
			d.ok("ports", "%s %s is free", flag, address)
		case running:
			d.ok("ports", "%s %s is in use; a Sheaf runs on this data folder", flag, address)
		default:
			d.fail("ports", "stop the other program, or choose another "+flag, "%s %s: %v", flag, address, err)
		}
	}
	return running
}

// limits checks what the system allows this process.
func (d *doctor) limits() {
	if files, known := maxFiles(); known && files < minFiles {
		d.warn("file-descriptors", fmt.Sprintf("raise the limit to %d or more, such as LimitNOFILE= of systemd", minFiles), "at most %d", files)
	} else if known {
		d.ok("file-descriptors", "at most %d", files)
	}
	if memory, known := maxMemory(); known && memory < minMemory {
		d.warn("memory", fmt.Sprintf("allow %s or more", ByteSize(minMemory)), "at most %s", ByteSize(memory))
	} else if known {
		d.ok("memory", "at most %s", ByteSize(memory))
	}
}

// certificate checks --tls-cert.
func (d *doctor) certificate() {
	const check = "tls"
	if d.cfg.TLSCert == "" {
		return
	}
	c, err := openCertificate(d.cfg.TLSCert, d.cfg.TLSKey)
	if err != nil {
		d.fail(check, "give a certificate and its private key in PEM", "%v", err)
		return
	}
	pair := c.current.Load()
	between := x509.NewCertPool()
	for _, der := range pair.Certificate[1:] {
		if cert, err := x509.ParseCertificate(der); err == nil {
			between.AddCert(cert)
		}
	}
	left := time.Until(pair.Leaf.NotAfter)
	_, err = pair.Leaf.Verify(x509.VerifyOptions{Intermediates: between})
	switch {
	case left <= 0:
		d.fail(check, "renew it", "the certificate expired on %s", pair.Leaf.NotAfter.UTC().Format(time.DateOnly))
	case left < certificateSoon:
		d.warn(check, "renew it", "the certificate expires in %d days", int(left.Hours()/24))
	case err != nil:
		d.warn(check, "put the intermediate certificates into the file, or let callers trust the authority", "this machine does not trust the certificate: %v", err)
	default:
		d.ok(check, "good for %d days", int(left.Hours()/24))
	}
}

// cluster checks the NATS servers, their JetStream and the streams that are there.
func (d *doctor) cluster(ctx context.Context) {
	const check = "nats"
	n := &node{cfg: d.cfg, log: d.cfg.Log}
	n.metrics = n.newProcessMetrics()
	conn, err := n.dial()
	if err != nil {
		d.fail(check, "check --nats, --nats-creds and whether the servers run", "%v", err)
		return
	}
	defer conn.Close()
	version := conn.ConnectedServerVersion()
	js, err := jetstream.New(conn)
	if err != nil || !newEnough(version) {
		d.fail(check, "update the servers to 2.14.0 or newer", "the server is %s", version)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, doctorWait)
	defer cancel()
	if _, err := js.AccountInfo(ctx); err != nil {
		d.fail(check, "enable JetStream on the servers and for this account, and check that most servers run", "JetStream: %v", err)
		return
	}
	d.ok(check, "connected to %s, version %s, messages of at most %s", conn.ConnectedUrlRedacted(), version, ByteSize(conn.MaxPayload()))
	if conn.MaxPayload() < 1<<20 {
		d.warn(check, "set max_payload to 8MB", "messages may have %s; large pages and requests need more", ByteSize(conn.MaxPayload()))
	}
	if servers := len(conn.Servers()); d.cfg.Replicas > servers {
		d.warn(check, "start more servers, or lower --replicas", "%d servers are known, --replicas asks for %d copies", servers, d.cfg.Replicas)
	}
	d.streams(ctx, js, conn)
}

// streams compares the streams that are there with the settings, and the clock with that of the servers.
func (d *doctor) streams(ctx context.Context, js jetstream.JetStream, conn *nats.Conn) {
	want := journal.Config{MaxPagesBytes: int64(d.cfg.MaxPagesBytes), MaxEventsBytes: int64(d.cfg.MaxLogBytes)}
	for name, limit := range map[string]int64{events.StreamPages: want.MaxPagesBytes, events.StreamEvents: want.MaxEventsBytes} {
		asked := time.Now()
		st, err := js.Stream(ctx, name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			d.ok("streams", "%s does not exist; the first start makes it", name)
			continue
		}
		if err != nil {
			d.fail("streams", "check that most servers run", "%s: %v", name, err)
			continue
		}
		info := st.CachedInfo()
		if limit > 0 && info.Config.MaxBytes < limit {
			d.ok("streams", "%s has %s; the next start raises the limit to %s", name, ByteSize(info.Config.MaxBytes), ByteSize(limit))
		} else {
			d.ok("streams", "%s has %s of %s", name, ByteSize(info.State.Bytes), ByteSize(info.Config.MaxBytes))
		}
		if name == events.StreamEvents && !info.TimeStamp.IsZero() {
			d.clock("the NATS server "+conn.ConnectedServerName(), asked, info.TimeStamp)
		}
	}
}

// clock compares this clock with another machine's, which was read between asked and now.
func (d *doctor) clock(whose string, asked, theirs time.Time) {
	skew := time.Duration(0)
	switch now := time.Now(); {
	case theirs.Before(asked):
		skew = asked.Sub(theirs)
	case theirs.After(now):
		skew = theirs.Sub(now)
	}
	if skew > clockSkew {
		d.warn("clock", "let both machines set their clocks by NTP", "%v away from that of %s", skew.Round(time.Second), whose)
		return
	}
	d.ok("clock", "agrees with %s", whose)
}

// egress explains whether exports may reach a URL.
func (d *doctor) egress(ctx context.Context, text string) {
	const check = "egress"
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		d.fail(check, "give http://HOST or https://HOST", "%q is not a URL of a source or callback", text)
		return
	}
	allowed, err := d.cfg.allowed()
	if err != nil {
		d.fail(check, "correct --allow-cidr", "%v", err)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, doctorWait)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip", u.Hostname())
	if err != nil {
		d.fail(check, "check the name, and the DNS of this machine", "%s: the name cannot be resolved", u.Host)
		return
	}
	port, _ := net.LookupPort("tcp", u.Port())
	if u.Port() == "" {
		port = map[string]int{"http": 80, "https": 443}[u.Scheme]
	}
	for _, ip := range addresses {
		to := netip.AddrPortFrom(ip.Unmap(), uint16(port))
		if why := egress.Refusal(allowed, to); why != "" {
			d.fail(check, "allow its range with --allow-cidr, if it is yours and harmless", "%s resolves to %s, which is refused: %s", u.Host, to, why)
			return
		}
	}
	d.ok(check, "%s is allowed", u.Host)
}

// server checks that a URL leads to a Sheaf, with its path, certificate and clock.
func (d *doctor) server(ctx context.Context, check, base string) {
	ctx, cancel := context.WithTimeout(ctx, doctorWait)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(base, "/")+"/healthz", nil)
	if err != nil {
		d.fail(check, "give http://HOST:PORT or https://HOST", "%q is not a URL", base)
		return
	}
	asked := time.Now().Truncate(time.Second) // Date has whole seconds
	resp, err := d.opt.Do(req)
	if err != nil {
		if bad := (*tls.CertificateVerificationError)(nil); errors.As(err, &bad) {
			d.fail(check, "serve the whole chain of certificates, or give --ca-cert", "%s: the certificate is not trusted: %v", base, bad.Err)
			return
		}
		d.fail(check, "check that it runs, and the proxies on the way", "%s cannot be reached: %v", base, err)
		return
	}
	defer resp.Body.Close()
	var answer struct{ Data struct{ Alive bool } }
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if resp.StatusCode != http.StatusOK || json.Unmarshal(body, &answer) != nil || !answer.Data.Alive {
		d.fail(check, "check the path: a proxy must pass "+req.URL.Path+" on to /healthz", "%s answers %d, and not like Sheaf", base, resp.StatusCode)
		return
	}
	d.ok(check, "%s is a Sheaf", base)
	if resp.TLS != nil && len(resp.TLS.PeerCertificates) > 0 {
		if left := time.Until(resp.TLS.PeerCertificates[0].NotAfter); left < certificateSoon {
			d.warn(check, "renew it", "the certificate of %s expires in %d days", base, int(left.Hours()/24))
		}
	}
	if theirs, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		d.clock(base, asked, theirs)
	}
}
