package ingress

import (
	"fmt"
	"net/http"

	"sheaf/events"
)

const (
	// sharedLog is the part of the log that tenants share: what they begin may fill
	// it up to here. Above lies what ends exports, up to where the log is crowded.
	sharedLog = 0.7
	// shareOfFree is how much of the log one tenant may take, in what is free of that
	// part. A tenant that fills it is so left with two thirds of it, two with two
	// fifths each, and however many fill it, something is free for one that comes:
	// the dynamic thresholds of shared-memory switches (Choudhury and Hahne, 1998).
	// A fixed share would be too much of many tenants and too little of two.
	shareOfFree = 2
)

// shareOf is how many bytes of the log one tenant may take while others use it too.
func shareOf(log events.Space) int64 {
	return shareOfFree * max(int64(float64(log.Limit)*sharedLog)-log.Used, 0)
}

// overShare reports whether the events of a tenant take more of the log than its
// share. Who is alone in the log has all of it, for its history goes early when the
// log is crowded, and nobody else's.
func (s *Service) overShare(tenant string) (own, share int64, over bool) {
	s.outlook.mu.Lock()
	log := s.outlook.log
	s.outlook.mu.Unlock()
	own, others := s.tasks.LogBytes(tenant)
	share = shareOf(log)
	return own, share, log.Limit > 0 && others > 0 && own > share
}

// withinShare refuses a further round of a tenant that takes as much of the log as
// it may: else it could fill it, and then nobody could begin anything.
func (s *Service) withinShare(tenant string) error {
	own, share, over := s.overShare(tenant)
	if !over {
		return nil
	}
	return &apiError{
		Errcode: errcodeQuota, Status: http.StatusTooManyRequests, RetryAfter: quotaWait,
		Msg: fmt.Sprintf("your exports take %d bytes of the event log, of %d that they may while others use it too; "+
			"try again when the oldest of them are forgotten", own, share),
	}
}

// mayTell reports whether the log has room to tell a tenant that a submission of it
// was rejected, and takes that room.
func (s *Service) mayTell(tenant string) bool {
	if _, share, over := s.overShare(tenant); over && share == 0 {
		return false
	}
	s.outlook.mu.Lock()
	defer s.outlook.mu.Unlock()
	s.outlook.log.Used += eventBytes // until the next look
	return true
}
