package node

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"
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
// writes one file to the data folder, if that exists, and one to an S3 store, and removes them.
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
	d.files(ctx)
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
