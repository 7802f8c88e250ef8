package ingress

import (
	"context"
	"maps"
	"runtime"
	"slices"
	"time"
)

// Host describes the process and its machine to operators.
type Host struct {
	Version  string
	Revision string // the commit of the binary
	Disk     Disk
	Keys     []KeyInfo // API keys, without their secrets
	Losses   []string  // lines of LOSSES.txt, which waits for a person
}

// Disk is the space on the disk of the data folder, in bytes. The zero value is unknown.
type Disk struct {
	Size    int64 `json:"size"`
	Free    int64 `json:"free"`
	Reserve int64 `json:"reserve"` // new exports leave it free
}

// KeyInfo is an API key without its secret.
type KeyInfo struct {
	ID         string `json:"id"`
	Tenant     string `json:"tenant"`
	Scope      string `json:"scope"`
	Name       string `json:"name"`
	CreatedAt  string `json:"created_at"`
	LastUsedAt string `json:"last_used_at"` // by this process since its start; "" for never
}

// NewKeyInfo describes an API key. The zero used means never.
func NewKeyInfo(p Principal, name string, created, used time.Time) KeyInfo {
	return KeyInfo{ID: p.ID, Tenant: p.Tenant, Scope: p.Scope.String(), Name: name, CreatedAt: localTime(created), LastUsedAt: localTime(used)}
}

// systemView answers system.
type systemView struct {
	Version    string         `json:"version"`
	Revision   string         `json:"revision"`
	Go         string         `json:"go"`
	Ready      bool           `json:"ready"`
	Checks     []Check        `json:"checks"`
	Streams    []streamView   `json:"streams"`
	Consumers  []consumerView `json:"consumers"`
	Projection projectionView `json:"projection"`
	Disk       Disk           `json:"disk"`
	FileBytes  int64          `json:"file_bytes"` // of finished files that have not expired
	Memory     memoryView     `json:"memory"`
	Keys       []KeyInfo      `json:"keys"`
	Losses     []string       `json:"losses"`
}

type streamView struct {
	Name     string `json:"name"`
	Bytes    int64  `json:"bytes"`
	Limit    int64  `json:"limit"` // bytes
	Messages uint64 `json:"messages"`
}

type consumerView struct {
	Name           string `json:"name"`
	Stream         string `json:"stream"`
	Pending        uint64 `json:"pending"` // messages that were never delivered
	Unacknowledged int    `json:"unacknowledged"`
	Redelivered    uint64 `json:"redelivered"`       // to this process since its start
	OldestPending  string `json:"oldest_pending_at"` // "" without one
}

type projectionView struct {
	Applied uint64 `json:"applied"` // sequence of the newest applied event
	Behind  uint64 `json:"behind"`  // events
}

// memoryView is the memory of the process, in bytes.
type memoryView struct {
	Heap  uint64 `json:"heap"`  // in use
	Total uint64 `json:"total"` // from the operating system
}

// system returns the state of the server, for operators.
func (s *Service) system(ctx context.Context, _ call) (any, error) {
	sizes, consumers, err := s.journal.Stats(ctx)
	if err != nil {
		return nil, err
	}
	usages, err := s.tasks.Usages()
	if err != nil {
		return nil, err
	}
	host := s.cfg.Host()
	applied := s.tasks.Applied()
	behind, _ := s.lag.of(applied)
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	view := systemView{
		Version: host.Version, Revision: host.Revision, Go: runtime.Version(), Ready: true, Checks: s.Checks(ctx),
		Streams: []streamView{}, Consumers: []consumerView{}, Projection: projectionView{applied, behind},
		Disk: host.Disk, Memory: memoryView{memory.HeapAlloc, memory.Sys},
		Keys: append([]KeyInfo{}, host.Keys...), Losses: append([]string{}, host.Losses...),
	}
	for _, c := range view.Checks {
		view.Ready = view.Ready && c.OK
	}
	for _, u := range usages {
		view.FileBytes += u.FileBytes
	}
	for _, st := range sizes {
		view.Streams = append(view.Streams, streamView{st.Name, st.Space.Used, st.Space.Limit, st.Messages})
	}
	again := s.journal.Redeliveries()
	for _, c := range consumers {
		view.Consumers = append(view.Consumers, consumerView{c.Name, c.Stream, c.Pending, c.Unacknowledged, again[c.Name], localTime(c.OldestPending)})
	}
	return view, nil
}

// tenantView is the usage of one tenant.
type tenantView struct {
	Tenant     string `json:"tenant"`
	Exports    int    `json:"exports"` // remembered ones, rejected submissions included
	Unfinished int    `json:"unfinished"`
	Failed     int    `json:"failed"`
	Succeeded  int    `json:"succeeded"`
	Cancelled  int    `json:"cancelled"`
	FileBytes  int64  `json:"file_bytes"` // of finished files that have not expired
	LogBytes   int64  `json:"log_bytes"`  // about what its exports take in the log
}

type tenantsView struct {
	Tenants []tenantView `json:"tenants"`
}

// tenants returns the usage of every tenant that has exports, by name.
func (s *Service) tenants(ctx context.Context, _ call) (any, error) {
	if err := s.readYourWrites(ctx); err != nil {
		return nil, err
	}
	usages, err := s.tasks.Usages()
	if err != nil {
		return nil, err
	}
	view := tenantsView{Tenants: []tenantView{}}
	for _, name := range slices.Sorted(maps.Keys(usages)) {
		u := usages[name]
		view.Tenants = append(view.Tenants, tenantView{
			Tenant: name, Exports: u.Exports, Unfinished: u.Unfinished, Failed: u.Failed, Succeeded: u.Succeeded,
			Cancelled: u.Cancelled, FileBytes: u.FileBytes, LogBytes: u.Bytes,
		})
	}
	return view, nil
}
