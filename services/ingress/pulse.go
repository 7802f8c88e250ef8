package ingress

import (
	"net/http"
	"time"

	"sheaf/services/ingress/sse"
)

const (
	// pulseEvery is the time between the two events of a pulse.
	pulseEvery = time.Second
	// maxPulses is how many pulses are sent at once, because no key is needed.
	maxPulses = 16
)

// pulse sends two events, a second apart. A caller who receives both at once is behind a proxy that buffers
// events, and would see no progress.
func (s *Service) pulse(w http.ResponseWriter, r *http.Request) {
	if s.pulses.Add(1) > maxPulses {
		s.pulses.Add(-1)
		respond(w, r, nil, unavailable("too many callers test the stream of events; try again", pulseEvery, nil))
		return
	}
	defer s.pulses.Add(-1)
	st := sse.New(w)
	if r.Method == http.MethodHead || st.Send("alive", "1") != nil {
		return
	}
	select {
	case <-time.After(pulseEvery):
		_ = st.Send("alive", "2") // or the caller has gone
	case <-r.Context().Done():
	}
}
