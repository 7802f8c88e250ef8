package node

import (
	"context"
	"fmt"

	"sheaf/events/rows"
	"sheaf/services/assembler"
	"sheaf/services/crawler"
	"sheaf/services/crawler/source"
	"sheaf/services/ingress"
	"sheaf/services/keeper"
	"sheaf/services/notifier"
)

// Roles of a process.
const (
	roleIngress   = "ingress"
	roleCrawler   = "crawler"
	roleAssembler = "assembler"
	roleNotifier  = "notifier"
	// roleKeeper runs wherever an ingress keeps a projection.
	roleKeeper = "keeper"
)

// AllRoles are the roles that a process can have.
var AllRoles = []string{roleIngress, roleCrawler, roleAssembler, roleNotifier}

// role is a service of this process. Run returns nil after a clean drain.
type role interface{ Run(context.Context) error }

// makers is the table of roles.
var makers = map[string]func(*node) (role, error){
	roleIngress: func(n *node) (role, error) {
		var authenticate, keyByID func(string) (ingress.Principal, bool)
		if n.keys != nil {
			authenticate, keyByID = n.keys.Principal, n.keys.ByID
		}
		return ingress.New(ingress.Config{
			Log: n.cfg.Log, Metrics: n.metrics.registry, PublicURL: n.publicURL,
			ConsoleName: n.cfg.ConsoleName, ConsoleColour: n.cfg.ConsoleColour, EmbedOrigins: n.cfg.EmbedOrigins, Authenticate: authenticate, KeyByID: keyByID, KeepFiles: n.cfg.KeepFiles, MaxSkew: n.cfg.MaxSkew, MaxKeepPages: n.cfg.MaxKeepPages,
			MetricsTenants: n.cfg.MetricsTenants,
			Quota: ingress.Quota{Unfinished: n.cfg.MaxUnfinished, FileBytes: int64(n.cfg.MaxFilesBytes),
				NewPerSecond: n.cfg.MaxNew},
			Formats: assembler.Formats(), Previewer: serverPreviewer(n.cfg.SourceLimits, n.egress),
			MaxHistory: n.cfg.MaxHistory, Health: n.health, Checks: n.checks, Host: n.host, Room: n.disk.room, ShutdownDelay: *n.cfg.ShutdownDelay,
			Link: n.linkOfStore(),
		}, n.listener, n.journal, n.tasks, n.files)
	},
	roleCrawler: func(n *node) (role, error) {
		l := n.cfg.SourceLimits
		return crawler.New(crawler.Config{
			Log: n.cfg.Log, Metrics: n.metrics.registry, Fetches: n.cfg.Fetches,
			PerHost: n.cfg.ConnsPerHost, PerTenant: n.cfg.ConnsPerTenant, Running: n.cfg.MaxRunning, Room: n.disk.room,
			Spread:   !n.cfg.embedded(),
			MaxPages: l.MaxPages, MaxRows: l.MaxRows, MaxBytes: int64(l.MaxExportBytes),
			Policy: l.policy(),
		}, n.journal, n.egress)
	},
	roleAssembler: func(n *node) (role, error) {
		return assembler.New(assembler.Config{Log: n.cfg.Log, Metrics: n.metrics.registry, KeepFiles: n.cfg.KeepFiles, MaxKeepPages: n.cfg.MaxKeepPages, Room: n.disk.roomForWorkbook}, n.journal, n.files)
	},
	roleNotifier: func(n *node) (role, error) {
		return notifier.New(notifier.Config{
			Log: n.cfg.Log, Metrics: n.metrics.registry, PublicURL: n.publicURL, Schedule: n.cfg.CallbackSchedule, KeepHistory: n.cfg.KeepHistory,
		}, n.journal, n.egress)
	},
	roleKeeper: func(n *node) (role, error) {
		return keeper.New(keeper.Config{
			Log: n.cfg.Log, Metrics: n.metrics.registry, KeepFiles: n.cfg.KeepFiles, KeepPages: n.cfg.KeepPages, MaxHistory: n.cfg.MaxHistory, Room: n.disk.room,
		}, n.journal, n.tasks, n.files)
	},
}

// policy bounds the requests for one page.
func (l SourceLimits) policy() source.Policy {
	return source.Policy{
		PageTimeout: l.PageTimeout, HeaderTimeout: l.HeaderTimeout, MinRate: int64(l.MinThroughput), RateOver: minRateOver,
		MaxBodyBytes: int64(l.MaxPageBytes), MaxRatio: l.MaxRatio,
		Rows: rows.Limits{MaxDepth: l.MaxJSONDepth, MaxFields: l.MaxColumns, MaxRowBytes: int(l.MaxRowBytes)},
	}
}

func (n *node) makeRoles() (err error) {
	for _, name := range n.roleNames() {
		if n.roles[name], err = makers[name](n); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}
