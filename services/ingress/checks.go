package ingress

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"
)

// Check is the result of one check of readiness, for operators.
type Check struct {
	Name         string  `json:"name"`
	OK           bool    `json:"ok"`
	Milliseconds float64 `json:"ms"`
	Reason       string  `json:"reason,omitempty"`
}

// RunCheck runs a check and measures its time.
func RunCheck(name string, check func() error) Check {
	begin := time.Now()
	err := check()
	c := Check{Name: name, OK: err == nil, Milliseconds: float64(time.Since(begin).Microseconds()) / 1000}
	if err != nil {
		c.Reason = err.Error()
	}
	return c
}

// Checks returns the checks of the process, then those of the ingress.
func (s *Service) Checks(ctx context.Context) []Check {
	return append(s.cfg.Checks(ctx),
		RunCheck("requests", func() error {
			if !s.onNATS.Load() {
				return errors.New("starting")
			}
			return nil
		}),
		RunCheck("projection", func() error {
			if why := s.lagging(); why != "" {
				return errors.New(why)
			}
			return nil
		}),
		RunCheck("files", s.store.health),
		RunCheck("draining", func() error {
			if s.draining.Load() {
				return errors.New("shutting down")
			}
			return nil
		}))
}

// verboseReady answers an admin with each check. Reasons can name folders of this machine. The status is 200
// even if a check fails; load balancers ask without verbose.
func (s *Service) verboseReady(w http.ResponseWriter, r *http.Request) {
	p, err := s.callerOf(r)
	if err == nil {
		err = p.require(ScopeAdmin, "readyz?verbose")
	}
	if err != nil {
		respond(w, r, nil, err)
		return
	}
	list := s.Checks(r.Context())
	ready := !slices.ContainsFunc(list, func(c Check) bool { return !c.OK })
	respond(w, r, map[string]any{"ready": ready, "checks": list}, nil)
}
