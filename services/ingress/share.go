package ingress

import (
	"fmt"
	"maps"
	"net/http"
	"sync"
	"time"

	"sheaf/events"
	"sheaf/storage"
)

const (
	// sharedLog is the part of the log that tenants share: an equal part of it is
	// everybody's, whatever others do. Above it is room for one that took more while
	// there were fewer, and for what ends exports: with a first one that has half of the
	// shared part, and any number of others that have their equal parts, the log is as
	// full as new exports may make it.
	sharedLog = 0.6
	// shareOfFree is how much of the log one tenant may take, in what is free of that
	// part, if that is more than an equal part. However many take all they may,
	// something is left for one that comes: the dynamic thresholds of shared-memory
	// switches (Choudhury and Hahne, 1998).
	shareOfFree = 1
	// untoldBeyond is how far beyond its share, in parts of the log, a tenant is
	// told that submissions are rejected.
	untoldBeyond = 0.05
	// newcomersLog is how much of the log may be filled for a tenant to begin its first
	// export: only then is a tenant that has filled it no longer alone.
	newcomersLog = 0.95
	// wantedFor is how long after a tenant was refused for its share its oldest
	// exports make room for new ones.
	wantedFor = 10 * time.Minute
	// asideFor is the part of its share that is made free for a tenant that was refused:
	// it goes on with that until the next look.
	asideFor = 0.1
)

// shareOf is how many bytes of the log one tenant may take while others use it too:
// an equal part in any case, and more while there is room.
func shareOf(log events.Space, tenants int) int64 {
	shared := int64(float64(log.Limit) * sharedLog)
	return max(shared/int64(max(tenants, 1)), shareOfFree*(shared-log.Used))
}

// portion is what a tenant has of the log, and what it may have.
type portion struct {
	log     events.Space
	own     int64 // bytes of the tenant
	tenants int   // that have any
}

func portionOf(tasks *storage.Tasks, log events.Space, tenant string) portion {
	own, all, tenants := tasks.LogBytes(tenant)
	log.Used = max(log.Used, all)
	return portion{log, own, tenants}
}

func (p portion) share(freed int64) int64 {
	p.log.Used -= freed
	return shareOf(p.log, p.tenants)
}

// alone reports whether no other tenant has anything in the log. Such a one has all of
// it: when it is crowded its own history goes early, and nobody else's.
func (p portion) alone() bool { return p.log.Limit <= 0 || p.tenants <= 1 }

// beyond returns how many bytes the tenant has more than a part of its share, if so many
// of the log were freed. Who is alone has none.
func (p portion) beyond(part float64, freed int64) int64 {
	if p.alone() {
		return 0
	}
	return max(p.own-int64(part*float64(p.share(freed))), 0)
}

// over reports whether the tenant has more than its share.
func (p portion) over() bool { return p.beyond(1, 0) > 0 }

func (s *Service) portion(tenant string) portion {
	s.outlook.mu.Lock()
	log := s.outlook.log
	s.outlook.mu.Unlock()
	return portionOf(s.tasks, log, tenant)
}

// withinShare refuses a further round of a tenant that takes as much of the log as
// it may: else it could fill it, and then nobody could begin anything.
func (s *Service) withinShare(tenant string) error {
	p := s.portion(tenant)
	if !p.over() {
		return nil
	}
	s.wanted.note(tenant)
	return &apiError{
		Errcode: errcodeQuota, Status: http.StatusTooManyRequests, RetryAfter: quotaWait,
		Msg: fmt.Sprintf("your exports take %d bytes of the event log, of %d that they may while others use it too; "+
			"try again when the oldest of them are forgotten", p.own, p.share(0)),
	}
}

// mayTell reports whether the log has room to tell a tenant that a submission of it
// was rejected, and takes that room.
func (s *Service) mayTell(tenant string) bool {
	p := s.portion(tenant)
	if p.beyond(1, 0) > int64(float64(p.log.Limit)*untoldBeyond) {
		return false
	}
	s.outlook.mu.Lock()
	defer s.outlook.mu.Unlock()
	s.outlook.log.Used += eventBytes // until the next look
	return true
}

// wanted are the tenants that were refused for their share, and when last. What they
// have goes early then; of one that asks for nothing it stays.
type wanted struct {
	mu sync.Mutex
	at map[string]time.Time
}

// note remembers that a tenant was refused.
func (w *wanted) note(tenant string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.at == nil {
		w.at = map[string]time.Time{}
	}
	w.at[tenant] = time.Now()
}

// lately returns the tenants that were refused a short while ago.
func (w *wanted) lately() map[string]time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	maps.DeleteFunc(w.at, func(_ string, at time.Time) bool { return time.Since(at) > wantedFor })
	return maps.Clone(w.at)
}
