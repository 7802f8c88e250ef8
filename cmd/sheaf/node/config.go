package node

import (
	"cmp"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// SettingError reports a setting that is wrong, alone or together with another. It names the flag.
type SettingError struct{ error }

func settingf(format string, args ...any) error { return SettingError{fmt.Errorf(format, args...)} }

// Config is every setting of a Sheaf process. A setting is a flag, an environment variable SHEAF_<FLAG> or a
// key of the YAML file, in this order of precedence. Help shows the settings in the order of the fields,
// under the headings of their groups.
type Config struct {
	HTTP           string         `group:"callers" name:"http" env:"SHEAF_HTTP" default:"127.0.0.1:8080" placeholder:"HOST:PORT" help:"Where the ingress serves REST (${default})."`
	PublicURL      string         `group:"callers" env:"SHEAF_PUBLIC_URL" placeholder:"URL" help:"Base of the links that are handed out. Default: made from --http."`
	ConsoleName    string         `group:"callers" env:"SHEAF_CONSOLE_NAME" placeholder:"TEXT" help:"Name of this installation on the pages of the console, such as PROD."`
	ConsoleColour  string         `group:"callers" env:"SHEAF_CONSOLE_COLOUR" enum:",grey,red,orange,green,blue" default:"" placeholder:"COLOUR" help:"Colour of --console-name: grey, red, orange, green or blue (grey)."`
	EmbedOrigins   []string       `group:"callers" name:"embed-origin" env:"SHEAF_EMBED_ORIGIN" placeholder:"ORIGIN" help:"Origin such as https://panel.example whose pages may show share pages and their progress. May be repeated."`
	APIKeys        string         `group:"callers" name:"api-keys" env:"SHEAF_API_KEYS" type:"path" placeholder:"FILE" help:"File of hashed API keys, each with a tenant (see sheaf keys). Default: none, and only this machine may call."`
	TLSCert        string         `group:"callers" name:"tls-cert" env:"SHEAF_TLS_CERT" type:"path" placeholder:"FILE" help:"Certificate (PEM) with which REST and the embedded NATS server are served by TLS. Read again when it changes."`
	TLSKey         string         `group:"callers" name:"tls-key" env:"SHEAF_TLS_KEY" type:"path" placeholder:"FILE" help:"Private key of --tls-cert."`
	InsecureNoAuth bool           `group:"callers" env:"SHEAF_INSECURE_NO_AUTH" help:"Serve other machines without authentication. Only behind a proxy that authenticates."`
	Ops            string         `group:"callers" env:"SHEAF_OPS" placeholder:"HOST:PORT" help:"Where operators find /metrics, /healthz, /readyz and /debug/pprof/, without authentication. Default: nowhere."`
	MetricsTenants int            `group:"callers" env:"SHEAF_METRICS_TENANTS" default:"0" placeholder:"N" help:"How many tenants, those with most exports first, have metrics of their own at --ops; all others are summed up as other (${default}: none has)."`
	MaxSkew        time.Duration  `group:"callers" env:"SHEAF_MAX_SKEW" default:"0s" placeholder:"DURATION" help:"How far the timestamp of a request may be from this clock, so that recorded requests cannot be sent again; 0s for any (${default})."`
	ShutdownDelay  *time.Duration `group:"callers" env:"SHEAF_SHUTDOWN_DELAY" placeholder:"DURATION" help:"How long a stopping ingress still answers while /readyz says 503, so that load balancers send requests elsewhere. Default: 0s embedded, 2s with --nats."`

	KeyConfig `embed:"" group:"data"` // --data, --secret-key, --secret-key-file
	Files     string                  `group:"data" env:"SHEAF_FILES" placeholder:"URL" help:"Where finished files are kept: file://FOLDER, nats://BUCKET or s3://BUCKET/PREFIX. Default: file://<data>/files, with --nats nats://sheaf-files."`
	S3Config  `embed:"" group:"data"`

	Roles       []string `group:"cluster" env:"SHEAF_ROLES" default:"ingress,crawler,assembler,notifier" placeholder:"ROLE" help:"What this process does: ${default}."`
	NATSListen  string   `group:"cluster" name:"nats-listen" env:"SHEAF_NATS_LISTEN" default:"127.0.0.1:4222" placeholder:"HOST:PORT" help:"Where the embedded NATS server takes producers; none for in-process only (${default})."`
	NATS        []string `group:"cluster" name:"nats" env:"SHEAF_NATS" placeholder:"URL" help:"NATS servers to use. Default: a server of its own inside the process."`
	NATSCreds   string   `group:"cluster" name:"nats-creds" env:"SHEAF_NATS_CREDS" placeholder:"FILE" help:"Credentials file for --nats."`
	NATSContext string   `group:"cluster" name:"nats-context" env:"SHEAF_NATS_CONTEXT" placeholder:"NAME" help:"Connect as this context of the nats command line tool does, instead of --nats."`
	Replicas    int      `group:"cluster" env:"SHEAF_REPLICAS" placeholder:"N" help:"Copies of every stream. Default: 1 embedded, 3 with --nats."`

	AllowCIDR        []string `group:"sources" name:"allow-cidr" env:"SHEAF_ALLOW_CIDR" placeholder:"CIDR" help:"Private address ranges that sources and callbacks may live in, or none. Default: loopback, only while --http and NATS are on loopback, and --public-url too."`
	Fetches          int      `group:"sources" env:"SHEAF_FETCHES" default:"64" placeholder:"N" help:"Most requests to sources in flight in this process (${default}). A request without an answer for a second does not count."`
	ConnsPerHost     int      `group:"sources" env:"SHEAF_CONNS_PER_HOST" default:"32" placeholder:"N" help:"Most requests in flight to one host and port of sources, over all exports and all processes; 0 for no limit (${default}: half of --fetches, so that a slow host leaves places to others). Give all crawlers the same."`
	SourceLimits     `embed:"" group:"sources"`
	CallbackSchedule []time.Duration `group:"sources" env:"SHEAF_CALLBACK_SCHEDULE" placeholder:"DURATION" help:"Pauses before each further attempt at a callback. Default: 5s,5m,30m,2h,5h,10h,14h,20h,24h."`

	MaxUnfinished  int      `group:"tenants" name:"max-unfinished-per-tenant" env:"SHEAF_MAX_UNFINISHED_PER_TENANT" default:"10000" placeholder:"N" help:"Most exports of one tenant that were accepted and have not ended; more are answered 429. 0 for no limit (${default})."`
	MaxRunning     int      `group:"tenants" name:"max-running-per-tenant" env:"SHEAF_MAX_RUNNING_PER_TENANT" default:"128" placeholder:"N" help:"Most exports of one tenant that a process crawls at once; others wait. 0 for no limit (${default}: half of those that a process crawls)."`
	MaxNew         int      `group:"tenants" name:"max-new-exports-per-tenant" env:"SHEAF_MAX_NEW_EXPORTS_PER_TENANT" default:"20" placeholder:"N" help:"Most exports that one tenant begins per second, with bursts of twice as many; more are answered 429, and durable submissions wait. 0 for no limit (${default}; without --api-keys the tenant default has none)."`
	ConnsPerTenant int      `group:"tenants" env:"SHEAF_CONNS_PER_TENANT" default:"0" placeholder:"N" help:"Most requests in flight to sources for one tenant, over all exports and all processes; 0 for no limit (${default}). Give all crawlers the same."`
	MaxFilesBytes  ByteSize `group:"tenants" name:"max-files-bytes-per-tenant" env:"SHEAF_MAX_FILES_BYTES_PER_TENANT" default:"0" placeholder:"SIZE" help:"Most bytes of finished files of one tenant; above it new exports are answered 429. 0 for no limit (${default}: the disk is the limit)."`

	KeepFiles     time.Duration `group:"kept" env:"SHEAF_KEEP_FILES" default:"7d" placeholder:"DURATION" help:"How long finished files can be downloaded (${default})."`
	KeepPages     time.Duration `group:"kept" env:"SHEAF_KEEP_PAGES" default:"24h" placeholder:"DURATION" help:"At most how long pages of ended exports are kept for a retry (${default})."`
	MaxKeepPages  time.Duration `group:"kept" env:"SHEAF_MAX_KEEP_PAGES" default:"7d" placeholder:"DURATION" help:"At most how long an export may keep its pages for sheaf convert, by options.keep_pages (${default})."`
	KeepHistory   time.Duration `group:"kept" env:"SHEAF_KEEP_HISTORY" default:"7d" placeholder:"DURATION" help:"How long ended exports are remembered at least, if their tenant has not too many (${default})."`
	MaxHistory    int           `group:"kept" env:"SHEAF_MAX_HISTORY" default:"100000" placeholder:"N" help:"Most exports of one tenant that are remembered; the oldest that have ended are forgotten first (${default})."`
	MaxPagesBytes ByteSize      `group:"kept" env:"SHEAF_MAX_PAGES_BYTES" default:"4GiB" placeholder:"SIZE" help:"Most bytes of pages that are kept at once (${default})."`
	MaxLogBytes   ByteSize      `group:"kept" env:"SHEAF_MAX_LOG_BYTES" default:"2GiB" placeholder:"SIZE" help:"Most bytes of the event log (${default}: some 700,000 exports). One tenant may have half of it; above 90 % new exports are answered 503."`

	Ephemeral bool         `kong:"-"` // the data folder goes with the process, so it is not synced
	Log       *slog.Logger `kong:"-"` // default: nothing is logged
	// Spans receives each span of an export as it ends. Default: the server that OTEL_EXPORTER_OTLP_* names;
	// without one there are no spans.
	Spans sdktrace.SpanExporter `kong:"-"`
}

// SourceLimits bound a source and the size of an export. The defaults admit every well-behaved source and are
// far below any harm. An export that exceeds a limit fails with its name.
type SourceLimits struct {
	MaxPageBytes   ByteSize      `env:"SHEAF_MAX_PAGE_BYTES" default:"64MiB" placeholder:"SIZE" help:"Most bytes of one answer of a source, decompressed (${default}: 10,000 rows of 6 KiB). A page is in memory as a whole."`
	MaxRatio       int64         `name:"max-compression-ratio" env:"SHEAF_MAX_COMPRESSION_RATIO" default:"400" placeholder:"N" help:"Most decompressed bytes of an answer for each compressed one, above 8 MiB (${default}: a page of equal rows has 330)."`
	PageTimeout    time.Duration `env:"SHEAF_PAGE_TIMEOUT" default:"60s" placeholder:"DURATION" help:"Most time for one answer (${default})."`
	HeaderTimeout  time.Duration `env:"SHEAF_HEADER_TIMEOUT" default:"30s" placeholder:"DURATION" help:"Most time until an answer begins (${default}: slow queries)."`
	MaxHeaderBytes ByteSize      `env:"SHEAF_MAX_HEADER_BYTES" default:"64KiB" placeholder:"SIZE" help:"Most bytes of the headers of an answer (${default}: servers send a few hundred)."`
	MinThroughput  ByteSize      `env:"SHEAF_MIN_THROUGHPUT" default:"1KiB" placeholder:"SIZE" help:"Abort answers slower than this many bytes a second, averaged over 15 s (${default})."`
	MaxJSONDepth   int           `name:"max-json-depth" env:"SHEAF_MAX_JSON_DEPTH" default:"64" placeholder:"N" help:"How deep arrays and objects of an answer may nest (${default})."`
	MaxRowBytes    ByteSize      `env:"SHEAF_MAX_ROW_BYTES" default:"16MiB" placeholder:"SIZE" help:"Most bytes of one row (${default}: 500 cells of the most that a cell holds)."`
	MaxColumns     int           `env:"SHEAF_MAX_COLUMNS" default:"16384" placeholder:"N" help:"Most columns (${default}: those of a worksheet)."`
	MaxPages       int           `env:"SHEAF_MAX_PAGES" default:"1000000" placeholder:"N" help:"Most pages of one export (${default})."`
	MaxRows        int64         `env:"SHEAF_MAX_ROWS" default:"100000000" placeholder:"N" help:"Most rows of one export (${default}: 96 full sheets)."`
	MaxExportBytes ByteSize      `env:"SHEAF_MAX_EXPORT_BYTES" default:"64GiB" placeholder:"SIZE" help:"Most bytes of the rows of one export, as JSON (${default})."`
}

// minRateOver is the span over which the throughput of a response is averaged.
const minRateOver = 15 * time.Second

func (l SourceLimits) check(refuse func(wrong bool, format string, args ...any)) {
	for flag, n := range map[string]int64{
		"--max-page-bytes":        int64(l.MaxPageBytes),
		"--max-compression-ratio": l.MaxRatio,
		"--page-timeout":          int64(l.PageTimeout),
		"--header-timeout":        int64(l.HeaderTimeout),
		"--max-header-bytes":      int64(l.MaxHeaderBytes),
		"--min-throughput":        int64(l.MinThroughput),
		"--max-json-depth":        int64(l.MaxJSONDepth),
		"--max-row-bytes":         int64(l.MaxRowBytes),
		"--max-columns":           int64(l.MaxColumns),
		"--max-pages":             int64(l.MaxPages),
		"--max-rows":              l.MaxRows,
		"--max-export-bytes":      int64(l.MaxExportBytes),
	} {
		refuse(n < 0, "%s: want more than 0; leave it out for the default", flag)
	}
	refuse(l.MaxPageBytes > 256<<20,
		"--max-page-bytes %d: at most 256MiB, for pages are in memory as a whole", l.MaxPageBytes)
	refuse(l.MaxColumns > 16_384, "--max-columns %d: a worksheet has 16384", l.MaxColumns)
}

// KeyConfig says where the secret key is.
type KeyConfig struct {
	Data          string `env:"SHEAF_DATA" default:"./sheaf-data" type:"path" placeholder:"FOLDER" help:"Folder of the embedded JetStream, the projection, finished files and the secret key (./sheaf-data)."`
	SecretKey     string `env:"SHEAF_SECRET_KEY" placeholder:"KEY" help:"At least 32 random bytes as hex or base64, or @FILE. Seals, signs and keys. Default: made and kept in --data; required with --nats."`
	SecretKeyFile string `env:"SHEAF_SECRET_KEY_FILE" type:"path" placeholder:"FILE" help:"File that holds the secret key."`
}

func (c *Config) has(role string) bool { return slices.Contains(c.Roles, role) }

// embedded reports whether the process runs its own NATS server.
func (c *Config) embedded() bool { return len(c.NATS) == 0 && c.NATSContext == "" }

// Complete checks the settings against each other and sets the defaults that depend on others. It touches
// neither disk nor network. Every error is a SettingError.
func (c *Config) Complete() (err error) {
	refuse := func(wrong bool, format string, args ...any) {
		if wrong && err == nil {
			err = settingf(format, args...)
		}
	}
	refuseAddress := func(flag, address string) {
		_, port, split := net.SplitHostPort(address)
		_, number := strconv.ParseUint(port, 10, 16)
		refuse(split != nil || number != nil, "%s %q: want HOST:PORT such as 127.0.0.1:8080", flag, address)
	}
	open := func(address string) bool {
		return !loopbackAddress(address) && c.APIKeys == "" && !c.InsecureNoAuth
	}
	const (
		openToAll = "%s %s can be reached from other machines without authentication: make API keys with " +
			"sheaf keys add --api-keys FILE --tenant NAME and say --api-keys FILE, " +
			"or listen on 127.0.0.1, or %s --insecure-no-auth"
		wantLimit = "%s %d: want a number of %s, or 0 for no limit"
		wantTime  = "%s %s: want a duration such as %s"
	)

	refuse(len(c.Roles) == 0, "--roles: name at least one of %s", strings.Join(AllRoles, ", "))
	for _, r := range c.Roles {
		refuse(!slices.Contains(AllRoles, r),
			"--roles: unknown role %q; the roles are %s", r, strings.Join(AllRoles, ", "))
	}
	if c.has(roleIngress) {
		refuseAddress("--http", c.HTTP)
		refuse(open(c.HTTP), openToAll, "--http", c.HTTP, "put a proxy that authenticates in front and say")
	}
	if c.Ops != "" {
		refuseAddress("--ops", c.Ops)
	}
	if c.embedded() {
		if c.NATSListen != "none" {
			refuseAddress("--nats-listen", c.NATSListen)
			refuse(open(c.NATSListen), openToAll,
				"--nats-listen", c.NATSListen, "use a NATS server of your own with --nats, or say")
		}
		refuse(c.NATSCreds != "", "--nats-creds needs --nats: the embedded server asks for no credentials")
		refuse(c.Replicas > 1,
			"--replicas %d: the embedded server is alone and keeps one copy; use --nats for more", c.Replicas)
	} else {
		refuse(len(c.NATS) > 0 && c.NATSContext != "", "--nats and --nats-context exclude each other")
		refuse(c.NATSContext != "" && c.NATSCreds != "",
			"--nats-creds and --nats-context exclude each other: a context names its own credentials")
		refuse(c.SecretKey == "" && c.SecretKeyFile == "",
			"--nats needs --secret-key or --secret-key-file, the same for every process; "+
				"make one with: openssl rand -hex 32")
	}
	refuse(!slices.Contains([]int{0, 1, 3, 5}, c.Replicas), "--replicas %d: want 1, 3 or 5", c.Replicas)
	refuse((c.TLSCert == "") != (c.TLSKey == ""),
		"--tls-cert and --tls-key belong together: give both or neither")
	refuse(c.SecretKey != "" && c.SecretKeyFile != "", "--secret-key and --secret-key-file exclude each other")
	c.checkFiles(refuse)
	refuse(c.ShutdownDelay != nil && *c.ShutdownDelay < 0, wantTime,
		"--shutdown-delay", c.ShutdownDelay, "5s, or 0s")
	refuse(c.MaxSkew < 0, wantTime, "--max-skew", c.MaxSkew, "5s, or 0s for any")
	refuse(c.MaxPagesBytes < 64<<20, "--max-pages-bytes %d: want at least 64MiB", c.MaxPagesBytes)
	refuse(c.MaxLogBytes != 0 && c.MaxLogBytes < 64<<20,
		"--max-log-bytes %d: want at least 64MiB", c.MaxLogBytes)
	refuse(c.Fetches < 0, "--fetches %d: want at least 1; leave it out for the default", c.Fetches)
	refuse(c.ConnsPerHost < 0, wantLimit, "--conns-per-host", c.ConnsPerHost, "requests")
	refuse(c.MetricsTenants < 0 || c.MetricsTenants > 100, "--metrics-tenants %d: want 0 to 100, because each is four series", c.MetricsTenants)
	refuse(c.ConnsPerTenant < 0, wantLimit, "--conns-per-tenant", c.ConnsPerTenant, "requests")
	refuse(c.MaxUnfinished < 0, wantLimit, "--max-unfinished-per-tenant", c.MaxUnfinished, "exports")
	refuse(c.MaxRunning < 0, wantLimit, "--max-running-per-tenant", c.MaxRunning, "exports")
	refuse(c.MaxNew < 0, wantLimit, "--max-new-exports-per-tenant", c.MaxNew, "exports per second")
	refuse(c.MaxHistory < 1, "--max-history %d: want at least 1", c.MaxHistory)
	for flag, d := range map[string]time.Duration{
		"--keep-files": c.KeepFiles, "--keep-pages": c.KeepPages, "--max-keep-pages": c.MaxKeepPages,
		"--keep-history": c.KeepHistory,
	} {
		refuse(d <= 0, "%s %s: want a positive duration such as 12h or 7d", flag, d)
	}
	for _, d := range c.CallbackSchedule {
		refuse(d <= 0, "--callback-schedule %s: want positive durations such as 5s,5m,1h", d)
	}
	if c.PublicURL != "" {
		u, malformed := url.Parse(c.PublicURL)
		refuse(malformed != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https"),
			"--public-url %q: want http://HOST or https://HOST, with an optional path", c.PublicURL)
	}
	for _, origin := range c.EmbedOrigins { // each becomes part of headers
		u, malformed := url.Parse(origin)
		refuse(malformed != nil || u.Scheme != "http" && u.Scheme != "https" ||
			origin != u.Scheme+"://"+u.Host || u.Hostname() == "" || strings.ContainsAny(origin, " ;,*"),
			"--embed-origin %q: want http://HOST or https://HOST, without a path", origin)
	}
	c.SourceLimits.check(refuse)
	if _, malformed := c.allowed(); err == nil {
		err = malformed
	}
	if err != nil {
		return err
	}

	replicas, files, delay := 3, "nats://sheaf-files", 2*time.Second
	if c.embedded() { // no other ingress could take its requests
		replicas, files, delay = 1, "file://"+filepath.Join(c.Data, "files"), 0
	}
	c.Replicas, c.Files = cmp.Or(c.Replicas, replicas), cmp.Or(c.Files, files)
	if c.ShutdownDelay == nil {
		c.ShutdownDelay = &delay
	}
	c.PublicURL = strings.TrimRight(c.PublicURL, "/")
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// allowed returns the private ranges that this process may call. Loopback is the default only while requests
// can come from this machine alone. Otherwise a stranger's export could read the services that listen here. A
// public URL means that a proxy on this machine forwards requests of others.
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
			return nil, settingf("--allow-cidr %q: want address ranges such as 10.0.0.0/8 or fd00::/8, or none", s)
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
		if s = strings.TrimSpace(s); !strings.Contains(s, "://") {
			s = "nats://" + s
		}
		if u, err := url.Parse(s); err != nil || !loopbackHost(u.Hostname()) {
			return false
		}
	}
	return true
}

func loopbackAddress(address string) bool {
	host, _, err := net.SplitHostPort(address)
	return err == nil && loopbackHost(host)
}

// loopbackHost does not resolve names: a name other than localhost may point anywhere tomorrow.
func loopbackHost(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// ByteSize is a number of bytes. As text it is 4294967296, 4GiB, 512MiB or 10GB.
type ByteSize int64

// String writes 31457280 as 30.0 MiB.
func (b ByteSize) String() string {
	const units = "KMGT"
	if b < 1<<10 {
		return strconv.FormatInt(int64(b), 10) + " B"
	}
	v, i := float64(b)/1024, 0
	for v >= 1024 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	return strconv.FormatFloat(v, 'f', 1, 64) + " " + units[i:i+1] + "iB"
}

var byteUnits = []struct {
	suffix string
	factor float64
}{
	{"KIB", 1 << 10}, {"MIB", 1 << 20}, {"GIB", 1 << 30}, {"TIB", 1 << 40},
	{"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12},
	{"K", 1 << 10}, {"M", 1 << 20}, {"G", 1 << 30}, {"T", 1 << 40}, {"B", 1},
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *ByteSize) UnmarshalText(text []byte) error {
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
	*b = ByteSize(n)
	return nil
}
