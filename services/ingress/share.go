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
	// sharedLog is the part of the log that tenants share: what they begin may fill
	// it up to here, but for the least that each may have. Above lies what ends
	// exports, up to where the log is crowded.
	sharedLog = 0.66
	// shareOfFree is how much of the log one tenant may take, in what is free of that
	// part. One that fills it is so left with two thirds of it, two with two fifths
	// each, and however many fill it, something is free for one that comes: the
	// dynamic thresholds of shared-memory switches (Choudhury and Hahne, 1998). A
	// fixed share would be too much of many tenants and too little of two.
	shareOfFree = 2
	// untoldBeyond is how far beyond its share, in parts of the log, a tenant is
	// told that submissions are rejected.
	untoldBeyond = 0.05
	// wantedFor is how long after a tenant was refused for its share its oldest
	// exports make room for new ones.
	wantedFor = 10 * time.Minute
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

func (p portion) share() int64 { return shareOf(p.log, p.tenants) }

// alone reports whether no other tenant has anything in the log. Such a one has all of
// it: when it is crowded its own history goes early, and nobody else's.
func (p portion) alone() bool { return p.log.Limit <= 0 || p.tenants <= 1 }

// over reports whether the tenant has more than its share.
func (p portion) over() bool { return !p.alone() && p.own > p.share() }

// less is the portion when so many bytes of the tenant are gone.
func (p portion) less(bytes int64) portion {
	p.own -= bytes
	p.log.Used -= bytes
	return p
}

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
			"try again when the oldest of them are forgotten", p.own, p.share()),
	}
}

// mayTell reports whether the log has room to tell a tenant that a submission of it
// was rejected, and takes that room.
func (s *Service) mayTell(tenant string) bool {
	p := s.portion(tenant)
	if p.over() && p.own-p.share() > int64(float64(p.log.Limit)*untoldBeyond) {
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
	now := time.Now()
	maps.DeleteFunc(w.at, func(_ string, at time.Time) bool { return now.Sub(at) > wantedFor })
	if w.at == nil {
		w.at = map[string]time.Time{}
	}
	w.at[tenant] = now
}

// lately reports whether a tenant was refused a short while ago.
func (w *wanted) lately(tenant string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	at, ok := w.at[tenant]
	return ok && time.Since(at) <= wantedFor
}
