package main

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"

	"sheaf/cmd/sheaf/filesource"
)

// Config is every setting of a Sheaf process. A setting is a flag, an
// environment variable SHEAF_<FLAG> and a key of the YAML file, and the first
// of these that names it wins, in that order. Help shows the settings in this
// order, under the headings of their groups (helpGroups).
type Config struct {
	HTTP           string         `group:"callers" name:"http" env:"SHEAF_HTTP" default:"127.0.0.1:8080" placeholder:"HOST:PORT" help:"Where the ingress serves REST (${default})."`
	PublicURL      string         `group:"callers" env:"SHEAF_PUBLIC_URL" placeholder:"URL" help:"Base of the links that are handed out. Default: made from --http."`
	APIKeys        string         `group:"callers" name:"api-keys" env:"SHEAF_API_KEYS" type:"path" placeholder:"FILE" help:"File of hashed API keys, each with a tenant (see sheaf keys). Default: none, and only this machine may call."`
	TLSCert        string         `group:"callers" name:"tls-cert" env:"SHEAF_TLS_CERT" type:"path" placeholder:"FILE" help:"Certificate (PEM) with which REST and the embedded NATS server are served by TLS. Read again when it changes."`
	TLSKey         string         `group:"callers" name:"tls-key" env:"SHEAF_TLS_KEY" type:"path" placeholder:"FILE" help:"Private key of --tls-cert."`
	InsecureNoAuth bool           `group:"callers" env:"SHEAF_INSECURE_NO_AUTH" help:"Serve other machines without authentication. Only behind a proxy that authenticates."`
	MaxSkew        time.Duration  `group:"callers" env:"SHEAF_MAX_SKEW" default:"0s" placeholder:"DURATION" help:"How far the timestamp of a request may be from this clock, so that recorded requests cannot be sent again; 0s for any (${default})."`
	ShutdownDelay  *time.Duration `group:"callers" env:"SHEAF_SHUTDOWN_DELAY" placeholder:"DURATION" help:"How long a stopping ingress still answers while /readyz says 503, so that load balancers send requests elsewhere. Default: 0s embedded, 2s with --nats."`

	KeyConfig `embed:"" group:"data"` // --data, --secret-key, --secret-key-file
	Files     string                  `group:"data" env:"SHEAF_FILES" placeholder:"URL" help:"Where finished files are kept: file://FOLDER or nats://BUCKET. Default: file://<data>/files, with --nats nats://sheaf-files."`

	Roles       []string `group:"cluster" env:"SHEAF_ROLES" default:"ingress,crawler,assembler,notifier" placeholder:"ROLE" help:"What this process does: ${default}."`
	NATSListen  string   `group:"cluster" name:"nats-listen" env:"SHEAF_NATS_LISTEN" default:"127.0.0.1:4222" placeholder:"HOST:PORT" help:"Where the embedded NATS server takes producers; none for in-process only (${default})."`
	NATS        []string `group:"cluster" name:"nats" env:"SHEAF_NATS" placeholder:"URL" help:"NATS servers to use. Default: a server of its own inside the process."`
	NATSCreds   string   `group:"cluster" name:"nats-creds" env:"SHEAF_NATS_CREDS" placeholder:"FILE" help:"Credentials file for --nats."`
	NATSContext string   `group:"cluster" name:"nats-context" env:"SHEAF_NATS_CONTEXT" placeholder:"NAME" help:"Connect as this context of the nats command line tool does, instead of --nats."`
	Replicas    int      `group:"cluster" env:"SHEAF_REPLICAS" placeholder:"N" help:"Copies of every stream. Default: 1 embedded, 3 with --nats."`

	AllowCIDR        []string `group:"sources" name:"allow-cidr" env:"SHEAF_ALLOW_CIDR" placeholder:"CIDR" help:"Private address ranges that sources and callbacks may live in, or none. Default: loopback, only while --http and NATS are on loopback, and --public-url too."`
	ConnsPerHost     int      `group:"sources" env:"SHEAF_CONNS_PER_HOST" default:"32" placeholder:"N" help:"Most requests in flight to one host and port of sources, over all exports; 0 for no limit (${default}: half of the 64 of a process, so that a slow host leaves places to others)."`
	sourceLimits     `embed:"" group:"sources"`
	CallbackSchedule []time.Duration `group:"sources" env:"SHEAF_CALLBACK_SCHEDULE" placeholder:"DURATION" help:"Pauses before each further attempt at a callback. Default: 5s,5m,30m,2h,5h,10h,14h,20h,24h."`

	MaxUnfinished  int      `group:"tenants" name:"max-unfinished-per-tenant" env:"SHEAF_MAX_UNFINISHED_PER_TENANT" default:"10000" placeholder:"N" help:"Most exports of one tenant that were accepted and have not ended; more are answered 429. 0 for no limit (${default})."`
	MaxRunning     int      `group:"tenants" name:"max-running-per-tenant" env:"SHEAF_MAX_RUNNING_PER_TENANT" default:"128" placeholder:"N" help:"Most exports of one tenant that a process crawls at once; others wait. 0 for no limit (${default}: half of those that a process crawls)."`
	ConnsPerTenant int      `group:"tenants" env:"SHEAF_CONNS_PER_TENANT" default:"0" placeholder:"N" help:"Most requests in flight to sources for one tenant, over all exports; 0 for no limit (${default})."`
	MaxFilesBytes  byteSize `group:"tenants" name:"max-files-bytes-per-tenant" env:"SHEAF_MAX_FILES_BYTES_PER_TENANT" default:"0" placeholder:"SIZE" help:"Most bytes of finished files of one tenant; above it new exports are answered 429. 0 for no limit (${default}: the disk is the limit)."`

	KeepFiles     time.Duration `group:"kept" env:"SHEAF_KEEP_FILES" default:"7d" placeholder:"DURATION" help:"How long finished files can be downloaded (${default})."`
	KeepPages     time.Duration `group:"kept" env:"SHEAF_KEEP_PAGES" default:"24h" placeholder:"DURATION" help:"At most how long pages of ended exports are kept for a retry (${default})."`
	KeepHistory   time.Duration `group:"kept" env:"SHEAF_KEEP_HISTORY" default:"7d" placeholder:"DURATION" help:"How long ended exports are remembered at least, if their tenant has not too many (${default})."`
	MaxHistory    int           `group:"kept" env:"SHEAF_MAX_HISTORY" default:"100000" placeholder:"N" help:"Most exports of one tenant that are remembered; the oldest that have ended are forgotten first (${default})."`
	MaxPagesBytes byteSize      `group:"kept" env:"SHEAF_MAX_PAGES_BYTES" default:"4GiB" placeholder:"SIZE" help:"Most bytes of pages that are kept at once (${default})."`
	MaxLogBytes   byteSize      `group:"kept" env:"SHEAF_MAX_LOG_BYTES" default:"2GiB" placeholder:"SIZE" help:"Most bytes of the event log (${default}: some 700,000 exports). One tenant may have half of it; above 90 % new exports are answered 503."`

	passing bool // the data folder goes with the process, so it is not synced
}

// sourceLimits bound what a source may do, and how large an export becomes. The
// defaults let every well-meant source through, and are far below what would do
// harm. An export that meets one fails and names it.
type sourceLimits struct {
	MaxPageBytes   byteSize      `env:"SHEAF_MAX_PAGE_BYTES" default:"64MiB" placeholder:"SIZE" help:"Most bytes of one answer of a source, decompressed (${default}: 10,000 rows of 6 KiB). A page is in memory as a whole."`
	MaxRatio       int64         `name:"max-compression-ratio" env:"SHEAF_MAX_COMPRESSION_RATIO" default:"400" placeholder:"N" help:"Most decompressed bytes of an answer for each compressed one, above 8 MiB (${default}: a page of equal rows has 330)."`
	PageTimeout    time.Duration `env:"SHEAF_PAGE_TIMEOUT" default:"60s" placeholder:"DURATION" help:"Most time for one answer (${default})."`
	HeaderTimeout  time.Duration `env:"SHEAF_HEADER_TIMEOUT" default:"30s" placeholder:"DURATION" help:"Most time until an answer begins (${default}: slow queries)."`
	MaxHeaderBytes byteSize      `env:"SHEAF_MAX_HEADER_BYTES" default:"64KiB" placeholder:"SIZE" help:"Most bytes of the headers of an answer (${default}: servers send a few hundred)."`
	MinThroughput  byteSize      `env:"SHEAF_MIN_THROUGHPUT" default:"1KiB" placeholder:"SIZE" help:"Abort answers slower than this many bytes a second, averaged over 15 s (${default})."`
	MaxJSONDepth   int           `name:"max-json-depth" env:"SHEAF_MAX_JSON_DEPTH" default:"64" placeholder:"N" help:"How deep arrays and objects of an answer may nest (${default})."`
	MaxRowBytes    byteSize      `env:"SHEAF_MAX_ROW_BYTES" default:"16MiB" placeholder:"SIZE" help:"Most bytes of one row (${default}: 500 cells of the most that a cell holds)."`
	MaxColumns     int           `env:"SHEAF_MAX_COLUMNS" default:"16384" placeholder:"N" help:"Most columns (${default}: those of a worksheet)."`
	MaxPages       int           `env:"SHEAF_MAX_PAGES" default:"1000000" placeholder:"N" help:"Most pages of one export (${default})."`
	MaxRows        int64         `env:"SHEAF_MAX_ROWS" default:"100000000" placeholder:"N" help:"Most rows of one export (${default}: 96 full sheets)."`
	MaxExportBytes byteSize      `env:"SHEAF_MAX_EXPORT_BYTES" default:"64GiB" placeholder:"SIZE" help:"Most bytes of the rows of one export, as JSON (${default})."`
}

// minRateOver is the span over which the throughput of an answer is taken.
const minRateOver = 15 * time.Second

func (l sourceLimits) check() error {
	for flag, n := range map[string]int64{
		"--max-page-bytes": int64(l.MaxPageBytes), "--max-compression-ratio": l.MaxRatio, "--page-timeout": int64(l.PageTimeout), "--header-timeout": int64(l.HeaderTimeout),
		"--max-header-bytes": int64(l.MaxHeaderBytes), "--min-throughput": int64(l.MinThroughput), "--max-json-depth": int64(l.MaxJSONDepth), "--max-row-bytes": int64(l.MaxRowBytes), "--max-columns": int64(l.MaxColumns),
		"--max-pages": int64(l.MaxPages), "--max-rows": l.MaxRows, "--max-export-bytes": int64(l.MaxExportBytes),
	} {
		if n < 0 {
			return usagef("%s: want more than 0; leave it out for the default", flag)
		}
	}
	if l.MaxPageBytes > 256<<20 {
		return usagef("--max-page-bytes %d: at most 256MiB, for pages are in memory as a whole", l.MaxPageBytes)
	}
	if l.MaxColumns > 16_384 {
		return usagef("--max-columns %d: a worksheet has 16384", l.MaxColumns)
	}
	return nil
}

// KeyConfig says where the secret key is.
type KeyConfig struct {
	Data          string `env:"SHEAF_DATA" default:"./sheaf-data" type:"path" placeholder:"FOLDER" help:"Folder of the embedded JetStream, the projection, finished files and the secret key (./sheaf-data)."`
	SecretKey     string `env:"SHEAF_SECRET_KEY" placeholder:"KEY" help:"At least 32 random bytes as hex or base64, or @FILE. Seals, signs and keys. Default: made and kept in --data; required with --nats."`
	SecretKeyFile string `env:"SHEAF_SECRET_KEY_FILE" type:"path" placeholder:"FILE" help:"File that holds the secret key."`
}

// logConfig says how to log.
type logConfig struct {
	LogFormat string `env:"SHEAF_LOG_FORMAT" enum:",text,json" default:"" placeholder:"text|json" help:"Default: text on a terminal, else json."`
	LogLevel  string `env:"SHEAF_LOG_LEVEL" enum:",debug,info,warn,error" default:"" placeholder:"LEVEL" help:"debug, info, warn or error. Default: info for serve, error for demo and export, warn else."`
}

// The roles of a process.
const (
	roleIngress   = "ingress"
	roleCrawler   = "crawler"
	roleAssembler = "assembler"
	roleNotifier  = "notifier"
)

var allRoles = []string{roleIngress, roleCrawler, roleAssembler, roleNotifier}

func (c *Config) has(role string) bool { return slices.Contains(c.Roles, role) }

// embedded reports whether the process runs its own NATS server.
func (c *Config) embedded() bool { return len(c.NATS) == 0 && c.NATSContext == "" }

// complete checks the settings against each other and fills in the defaults
// that depend on others. It touches neither disk nor network. Every error is
// one of usage.
func (c *Config) complete() error {
	for _, r := range c.Roles {
		if !slices.Contains(allRoles, r) {
			return usagef("--roles: unknown role %q; the roles are %s", r, strings.Join(allRoles, ", "))
		}
	}
	if len(c.Roles) == 0 {
		return usagef("--roles: name at least one of %s", strings.Join(allRoles, ", "))
	}
	if c.has(roleIngress) {
		if err := checkAddress("--http", c.HTTP); err != nil {
			return err
		}
		if !loopbackAddress(c.HTTP) && c.APIKeys == "" && !c.InsecureNoAuth {
			return usagef("--http %s can be reached from other machines, and nobody has to authenticate: make API keys with "+
				"sheaf keys add --api-keys FILE --tenant NAME and say --api-keys FILE, or listen on 127.0.0.1, "+
				"or put a proxy that authenticates in front and say --insecure-no-auth", c.HTTP)
		}
	}
	if c.embedded() {
		if c.NATSListen != "none" {
			if err := checkAddress("--nats-listen", c.NATSListen); err != nil {
				return err
			}
			if !loopbackAddress(c.NATSListen) && c.APIKeys == "" && !c.InsecureNoAuth {
				return usagef("--nats-listen %s can be reached from other machines, and nobody has to authenticate: make API keys with "+
					"sheaf keys add --api-keys FILE --tenant NAME and say --api-keys FILE, or listen on 127.0.0.1, "+
					"use a NATS server of your own with --nats, or say --insecure-no-auth", c.NATSListen)
			}
		}
		if c.NATSCreds != "" {
			return usagef("--nats-creds needs --nats: the embedded server asks for no credentials")
		}
	} else {
		if len(c.NATS) > 0 && c.NATSContext != "" {
			return usagef("--nats and --nats-context exclude each other")
		}
		if c.NATSContext != "" && c.NATSCreds != "" {
			return usagef("--nats-creds and --nats-context exclude each other: a context names its own credentials")
		}
		if c.SecretKey == "" && c.SecretKeyFile == "" {
			return usagef("--nats needs --secret-key or --secret-key-file, the same for every process; make one with: openssl rand -hex 32")
		}
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		return usagef("--tls-cert and --tls-key belong together: give both or neither")
	}
	if c.SecretKey != "" && c.SecretKeyFile != "" {
		return usagef("--secret-key and --secret-key-file exclude each other")
	}
	switch {
	case c.Replicas == 0 && c.embedded():
		c.Replicas = 1
	case c.Replicas == 0:
		c.Replicas = 3
	case c.embedded() && c.Replicas != 1:
		return usagef("--replicas %d: the embedded server is alone and keeps one copy; use --nats for more", c.Replicas)
	case c.Replicas != 1 && c.Replicas != 3 && c.Replicas != 5:
		return usagef("--replicas %d: want 1, 3 or 5", c.Replicas)
	}
	if c.Files == "" {
		c.Files = "nats://sheaf-files"
		if c.embedded() {
			c.Files = "file://" + filepath.Join(c.Data, "files")
		}
	}
	if !strings.HasPrefix(c.Files, "file://") && !strings.HasPrefix(c.Files, "nats://") {
		return usagef("--files %s: want file://FOLDER or nats://BUCKET", c.Files)
	}
	if c.ShutdownDelay == nil {
		// An embedded Sheaf has no other that could take its requests.
		delay := 2 * time.Second
		if c.embedded() {
			delay = 0
		}
		c.ShutdownDelay = &delay
	}
	if *c.ShutdownDelay < 0 {
		return usagef("--shutdown-delay %s: want a duration such as 5s, or 0s", *c.ShutdownDelay)
	}
	if c.MaxPagesBytes < 64<<20 {
		return usagef("--max-pages-bytes %d: want at least 64MiB", c.MaxPagesBytes)
	}
	if c.MaxLogBytes != 0 && c.MaxLogBytes < 64<<20 {
		return usagef("--max-log-bytes %d: want at least 64MiB", c.MaxLogBytes)
	}
	for flag, n := range map[string]int{"--conns-per-host": c.ConnsPerHost, "--conns-per-tenant": c.ConnsPerTenant} {
		if n < 0 {
			return usagef("%s %d: want a number of requests, or 0 for no limit", flag, n)
		}
	}
	for flag, n := range map[string]int{"--max-unfinished-per-tenant": c.MaxUnfinished, "--max-running-per-tenant": c.MaxRunning} {
		if n < 0 {
			return usagef("%s %d: want a number of exports, or 0 for no limit", flag, n)
		}
	}
	if c.MaxSkew < 0 {
		return usagef("--max-skew %s: want a duration such as 5s, or 0s for any", c.MaxSkew)
	}
	if err := c.sourceLimits.check(); err != nil {
		return err
	}
	if c.MaxHistory < 1 {
		return usagef("--max-history %d: want at least 1", c.MaxHistory)
	}
	for flag, d := range map[string]time.Duration{"--keep-files": c.KeepFiles, "--keep-pages": c.KeepPages, "--keep-history": c.KeepHistory} {
		if d <= 0 {
			return usagef("%s %s: want a positive duration such as 12h or 7d", flag, d)
		}
	}
	for _, d := range c.CallbackSchedule {
		if d <= 0 {
			return usagef("--callback-schedule %s: want positive durations such as 5s,5m,1h", d)
		}
	}
	if c.PublicURL != "" {
		u, err := url.Parse(c.PublicURL)
		if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
			return usagef("--public-url %q: want http://HOST or https://HOST, with an optional path", c.PublicURL)
		}
		c.PublicURL = strings.TrimRight(c.PublicURL, "/")
	}
	_, err := c.allowed()
	return err
}

// allowed are the private ranges that this process may call. Loopback is the
// default only while nothing but this machine can hand requests in, nor is told
// where to: else a stranger's export could read what listens here. A public URL
// says that something on this machine passes requests of others on.
func (c *Config) allowed() ([]netip.Prefix, error) {
	if len(c.AllowCIDR) == 0 {
		if c.reachableFromLoopbackOnly() {
			return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}, nil
		}
		return nil, nil
	}
	if slices.Equal(c.AllowCIDR, []string{"none"}) {
		return nil, nil
	}
	var prefixes []netip.Prefix
	for _, s := range c.AllowCIDR {
		p, err := netip.ParsePrefix(strings.TrimSpace(s))
		if err != nil {
			return nil, usagef("--allow-cidr %q: want address ranges such as 10.0.0.0/8 or fd00::/8, or none", s)
		}
		prefixes = append(prefixes, p.Masked())
	}
	return prefixes, nil
}

func (c *Config) reachableFromLoopbackOnly() bool {
	if !loopbackAddress(c.HTTP) || c.NATSContext != "" {
		return false
	}
	if u, err := url.Parse(c.PublicURL); c.PublicURL != "" && (err != nil || !loopbackHost(u.Hostname())) {
		return false
	}
	if c.embedded() {
		return c.NATSListen == "none" || loopbackAddress(c.NATSListen)
	}
	for _, s := range c.NATS {
		if u, err := url.Parse(natsURL(s)); err != nil || !loopbackHost(u.Hostname()) {
			return false
		}
	}
	return true
}

func checkAddress(flag, address string) error {
	_, port, err := net.SplitHostPort(address)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return usagef("%s %q: want HOST:PORT such as 127.0.0.1:8080", flag, address)
	}
	return nil
}

func loopbackAddress(address string) bool {
	host, _, err := net.SplitHostPort(address)
	return err == nil && loopbackHost(host)
}

// loopbackHost does not ask DNS: a name other than localhost may point
// anywhere tomorrow.
func loopbackHost(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// byteSize is a number of bytes: 4294967296, 4GiB, 512MiB, 10GB.
type byteSize int64

var byteUnits = []struct {
	suffix string
	factor float64
}{
	{"KIB", 1 << 10}, {"MIB", 1 << 20}, {"GIB", 1 << 30}, {"TIB", 1 << 40},
	{"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12},
	{"K", 1 << 10}, {"M", 1 << 20}, {"G", 1 << 30}, {"T", 1 << 40}, {"B", 1},
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *byteSize) UnmarshalText(text []byte) error {
	s, factor := strings.ToUpper(strings.TrimSpace(string(text))), 1.0
	for _, u := range byteUnits {
		if rest, ok := strings.CutSuffix(s, u.suffix); ok {
			s, factor = strings.TrimSpace(rest), u.factor
			break
		}
	}
	n, err := strconv.ParseFloat(s, 64)
	if n *= factor; err != nil || !(n >= 0 && n < 1<<62) {
		return fmt.Errorf("%q is not a size; want a number of bytes such as 4GiB or 500MB", text)
	}
	*b = byteSize(n)
	return nil
}

// inDays is a duration that begins with whole days. At most 99999, or they would not fit.
var inDays = regexp.MustCompile(`^([0-9]{1,5})d([0-9.].*)?$`)

// parseDuration is time.ParseDuration with days of 24 hours in front: 7d, 1d12h.
func parseDuration(text string) (time.Duration, error) {
	var days, rest time.Duration
	var err error
	clock := text
	if m := inDays.FindStringSubmatch(text); m != nil {
		n, _ := strconv.Atoi(m[1]) // up to five digits
		days, clock = time.Duration(n)*24*time.Hour, cmp.Or(m[2], "0")
	}
	if rest, err = time.ParseDuration(clock); err != nil || days > math.MaxInt64-max(rest, 0) {
		return 0, fmt.Errorf("%q is not a duration; want one such as 30s, 12h, 7d or 1d12h", text)
	}
	return days + rest, nil
}

// decodeDuration has every flag of this type take days, also in lists and behind pointers.
func decodeDuration(ctx *kong.DecodeContext, target reflect.Value) error {
	var text string
	if err := ctx.Scan.PopValueInto("duration", &text); err != nil {
		return err
	}
	d, err := parseDuration(text)
	if err != nil {
		return err
	}
	target.SetInt(int64(d))
	return nil
}

// configFile is the path of the YAML file. Its keys are the names of flags
// without the dashes; an unknown key is an error, for a setting that is
// silently ignored is worse than none.
type configFile string

// BeforeResolve has the file's settings looked up for every flag that was not
// given otherwise.
func (configFile) BeforeResolve(ctx *kong.Context, trace *kong.Path) error {
	path := string(ctx.FlagValue(trace.Flag).(configFile))
	if path == "" {
		return nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	settings := fileSettings{path: path}
	if err := yaml.Unmarshal(data, &settings.values); err != nil {
		return fmt.Errorf("--config %s: %w", path, err)
	}
	ctx.AddResolver(settings)
	// Kong validates only resolvers that it was made with.
	return settings.Validate(ctx.Model)
}

type fileSettings struct {
	path   string
	values map[string]yaml.Node
}

// Validate refuses keys that name no setting.
func (f fileSettings) Validate(app *kong.Application) error {
	known := map[string]bool{}
	for _, flag := range settings(app) {
		known[flag.Name] = true
	}
	delete(known, "config")
	for _, key := range slices.Sorted(maps.Keys(f.values)) {
		if !known[key] {
			return fmt.Errorf("--config %s: unknown setting %q%s; settings are named like the flags of sheaf serve, without dashes in front",
				f.path, key, didYouMean(key, maps.Keys(known)))
		}
	}
	return nil
}

// settings are the flags of all commands that the environment and the YAML file can set too.
func settings(app *kong.Application) (flags []*kong.Flag) {
	_ = kong.Visit(app, func(n kong.Visitable, next kong.Next) error { // no visit fails
		if flag, ok := n.(*kong.Flag); ok && len(flag.Envs) > 0 {
			flags = append(flags, flag)
		}
		return next(nil)
	})
	return flags
}

// ofServices are the variables that Kubernetes and Docker set for a service whose name begins with sheaf.
var ofServices = regexp.MustCompile(`^SHEAF_(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?)?)$`)

// checkVariables refuses SHEAF_ variables that set nothing: a setting that is silently ignored is worse than none.
func checkVariables(app *kong.Application, environ []string) error {
	known := map[string]bool{"SHEAF_FAILPOINT": true} // see package failpoint
	for _, flag := range settings(app) {
		known[flag.Envs[0]] = true
	}
	for _, variable := range slices.Sorted(slices.Values(environ)) {
		name, _, _ := strings.Cut(variable, "=")
		if strings.HasPrefix(name, "SHEAF_") && !known[name] && !ofServices.MatchString(name) {
			return usagef("unknown environment variable %s%s", name, didYouMean(name, maps.Keys(known)))
		}
	}
	return nil
}

// didYouMean names the known name that is nearest to a wrong one, if any is near.
func didYouMean(wrong string, known iter.Seq[string]) string {
	best, least := "", max(2, len(wrong)/4)+1
	for _, name := range slices.Sorted(known) {
		d := editDistance(wrong, name)
		if strings.HasPrefix(name, wrong) {
			d = 1
		}
		if d < least {
			best, least = name, d
		}
	}
	if best == "" {
		return ""
	}
	return ", did you mean " + best + "?"
}

// editDistance counts the bytes to insert, remove or replace to make one text of another.
func editDistance(from, to string) int {
	row := make([]int, len(to)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(from) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(to) {
			replace := diagonal
			if from[i] != to[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(to)]
}

// Resolve returns the file's text for a flag. The environment goes before the
// file.
func (f fileSettings) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	node, ok := f.values[flag.Name]
	if !ok || node.Tag == "!!null" {
		return nil, nil
	}
	for _, name := range flag.Envs {
		if _, set := os.LookupEnv(name); set {
			return nil, nil
		}
	}
	switch node.Kind {
	case yaml.ScalarNode:
		return node.Value, nil
	case yaml.SequenceNode:
		var texts []string
		if err := node.Decode(&texts); err != nil {
			return nil, fmt.Errorf("%s, line %d: want a list of texts", f.path, node.Line)
		}
		return strings.Join(texts, ","), nil
	}
	return nil, fmt.Errorf("%s, line %d: want a text or a list of texts", f.path, node.Line)
}

// dropEmptyVariables makes an empty SHEAF_ variable as good as none, which is
// what container platforms make of a setting that was left out.
func dropEmptyVariables() {
	for _, variable := range os.Environ() {
		if name, value, _ := strings.Cut(variable, "="); value == "" && strings.HasPrefix(name, "SHEAF_") {
			_ = os.Unsetenv(name)
		}
	}
}

// usageError is a command line that cannot be carried out as it stands.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func isUsage(err error) bool {
	var usage usageError
	var option filesource.OptionError
	return errors.As(err, &usage) || errors.As(err, &option)
}
