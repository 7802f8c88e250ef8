package ingress

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"sheaf/events"
	"sheaf/storage"
)

const (
	// trimStep bounds the exports that one transaction of the projection forgets.
	// Much smaller steps would be dear: the server writes its index anew for each
	// purge.
	trimStep = 5000
	// callbackGrace is how long after --keep-history a callback may still be
	// pending. The notifier gives up by then, if one runs.
	callbackGrace = time.Hour
	// carryFor is how long one trimming goes on carrying, about: the disk is not looked
	// at meanwhile.
	carryFor = 5 * time.Second
)

// trim removes the head of the log: up to the first export that is still needed.
// An export is needed
//
//   - while it is under way, or its callback is pending;
//   - while its file is there, and until keepHistory after its end; unless it is
//     not among the newest maxHistory of its tenant, or its tenant has more of the
//     log than its share and was refused a further one.
//
// The place of an export in the log is the event that began its newest round, or
// carried it on since: without that one no reader can make sense of the others. Later
// events of an export that was trimmed stay for a while, and every reader passes over
// them. What is needed and stands before what is not is carried on first, see carry.
//
// While the log is crowded the head is not waited for if its tenant has more than its
// share, or is alone: its callback is given up, its file expires, and an unfinished
// export is failed. When new exports are refused altogether nobody's is waited for, for
// a full log takes no event of anybody.
//
// The order is purge, then the projection; other ingresses learn it from the log,
// each before its next pass. After a crash in between the next pass goes on. An
// export that is begun anew between look and purge moves behind what is purged;
// one that knows of it only what was purged loses at the fence.
func (s *sweeper) trim(ctx context.Context) error {
	s.trimmed = time.Now()
	for {
		log, err := s.upToDate(ctx)
		if err != nil {
			return err
		}
		carried, carryMore, err := s.carry(ctx, log)
		if err != nil {
			return err
		}
		// What was carried lies behind the end that log knows, so it is not looked at
		// while both it and what it stands for count for its tenant.
		below, more, err := s.trimPoint(ctx, log)
		if err != nil {
			return err
		}
		if below <= log.First {
			return nil
		}
		if err := s.streams.TrimLog(ctx, log, below); err != nil {
			return err
		}
		after, err := s.streams.LogState(ctx)
		if err != nil {
			return err
		}
		forgotten, err := s.tasks.Trim(after.Trimmed)
		if err != nil {
			return err
		}
		slog.Info("log trimmed", "service", "ingress", "below", after.Trimmed, "exports", forgotten)
		if !more && !(carried > 0 && carryMore && time.Since(s.trimmed) < carryFor) {
			return nil
		}
	}
}

// trimPoint returns the sequence below which nothing of the log is needed, as far
// as one step goes, and whether there may be more.
func (s *sweeper) trimPoint(ctx context.Context, log events.LogState) (below uint64, more bool, err error) {
	counts, err := s.tasks.Counts()
	if err != nil {
		return 0, false, err
	}
	total := 0
	for _, n := range counts {
		total += n
	}
	step, littleByLittle := s.step, total/10+1 // then look how full it is
	tenants := map[string]*history{}
	var freed int64
	// Of a head that is not waited for, what runs is ended at once, as far as one step
	// goes; held is the first that can only be trimmed when it has settled.
	held := uint64(0)
	done := func(at uint64, more bool) (uint64, bool, error) {
		if held != 0 {
			return held, false, nil
		}
		return at, more, nil
	}
	for n, from := 0, log.First; ; {
		list, err := s.tasks.Oldest(from, sweepBatch)
		if err != nil {
			return 0, false, err
		}
		if len(list) == 0 {
			return done(log.Last, false) // the rest is of exports that are forgotten
		}
		for _, x := range list {
			begun := storage.Begun(&x)
			if begun >= log.Last {
				return done(log.Last, false) // it began after the state was taken, or is the newest event
			}
			if n >= step {
				return done(begun, true)
			}
			h := tenants[x.Tenant]
			if h == nil {
				if h, err = s.historyOf(x.Tenant, log); err != nil {
					return 0, false, err
				}
				tenants[x.Tenant] = h
			}
			early, now := h.early(log, freed)
			now = now || log.Full >= logShare
			dispensable, err := s.dispense(ctx, x, early || now, now)
			if errors.Is(err, events.ErrNoSpace) && begun > log.First {
				return done(begun, true) // what is before it makes room
			}
			if err != nil {
				return 0, false, fmt.Errorf("trimming key %s: %w", x.Key, err)
			}
			switch {
			case !dispensable && !now:
				return done(begun, false)
			case !dispensable && held == 0:
				held = begun
			}
			if now {
				step = littleByLittle
			}
			freed += h.oneLess()
			n, from = n+1, begun+1
		}
	}
}

// history is what one tenant has in the log.
type history struct {
	exports    int
	inUse      int64 // of those, under way or with a callback pending
	bytes      int64 // without what is owed
	portion    portion
	maxHistory int
	wanted     bool // it was refused for its share a short while ago
}

func (s *sweeper) historyOf(tenant string, log events.LogState) (*history, error) {
	u, err := s.tasks.Usage(tenant)
	if err != nil {
		return nil, err
	}
	h := &history{exports: u.Exports, inUse: int64(u.Unfinished + u.Untold), portion: portionOf(s.tasks, log.Space, tenant), maxHistory: s.maxHistory}
	h.bytes = max(h.portion.own-u.Owed, 0)
	_, h.wanted = s.wanted()[tenant]
	return h, nil
}

// average is how many bytes of the log an export has.
func (h *history) average() int64 { return h.bytes / int64(max(h.exports, 1)) }

// oneLess takes an export away, as large as the average, and returns its bytes.
func (h *history) oneLess() int64 {
	bytes := h.average()
	h.bytes -= bytes
	h.portion.own -= bytes
	h.exports--
	return bytes
}

// early reports whether exports of the tenant go before their time, and whether nothing
// of them is waited for, if so many bytes of the log were freed.
func (h *history) early(log events.LogState, freed int64) (early, now bool) {
	now = log.Full >= crowded && (h.portion.beyond(1, freed) > 0 || h.portion.alone())
	return now || h.exports > h.maxHistory || h.wanted && h.portion.beyond(1-asideFor, freed) > 0, now
}

// mayGo returns how many bytes of the tenant's history are to go because it takes too much
// of the log.
func (h *history) mayGo(log events.LogState) int64 {
	switch {
	case h.wanted:
		return h.portion.beyond(1-asideFor, 0)
	case log.Full >= crowded:
		return h.portion.beyond(1, 0)
	}
	return 0
}

// dispense reports whether the log can do without an export. It does what has to
// be done before: with early, a file that is still there expires; with now,
// nothing is waited for.
func (s *sweeper) dispense(ctx context.Context, x events.Export, early, now bool) (bool, error) {
	if !now && !s.dispensable(&x, early) {
		return false, nil
	}
	var err error
	if !x.State.Terminal() {
		if x, err = s.fail(ctx, x, "the event log is almost full and this export is the oldest in it"); err != nil {
			return false, unlessOvertaken(err)
		}
	}
	if !s.settled(&x) {
		return false, nil
	}
	if x.Callback.State == events.CallbackPending {
		x, err = s.giveUpCallback(ctx, x)
	}
	if err == nil && x.State == events.StateCompleted {
		terminal := x.TerminalSeq
		x, err = s.expireFile(ctx, x, func(x *events.Export) bool {
			return x.TerminalSeq == terminal && x.Callback.State != events.CallbackPending
		})
	}
	if errors.Is(err, events.ErrNoSpace) && now {
		// The log takes not even such an event. What it would say comes true without it:
		// the export is forgotten next.
		deleteFiles(ctx, s.files, x)
		err = nil
	}
	if err != nil {
		return false, unlessOvertaken(err)
	}
	cleared, err := s.tasks.IsCleared(&x)
	if cleared || err != nil {
		return cleared, err
	}
	if err := s.streams.PurgeEnded(ctx, x, s.mark); err != nil {
		return false, unlessOvertaken(err)
	}
	return true, s.tasks.Cleared([]events.Export{x})
}

// dispensable reports whether nothing need be waited for before the log can do
// without an export.
func (s *sweeper) dispensable(x *events.Export, early bool) bool {
	old := func(more time.Duration) bool { return !s.now().Before(x.FinishedAt.Add(s.keepHistory + more)) }
	if !s.settled(x) || x.Callback.State == events.CallbackPending && !old(callbackGrace) {
		return false
	}
	return early || x.State != events.StateCompleted && old(0)
}

// settled reports whether an export has ended so long ago that what it leaves can be
// cleared.
func (s *sweeper) settled(x *events.Export) bool {
	return x.State.Terminal() && x.FinishedAt.Before(s.mark.At.Add(-s.settle))
}

func unlessOvertaken(err error) error {
	if overtaken(err) {
		return nil
	}
	return err
}

// giveUpCallback ends the attempts at telling how an export ended.
func (s *sweeper) giveUpCallback(ctx context.Context, x events.Export) (events.Export, error) {
	after, err := s.streams.Append(ctx, x, "", func(now *events.Export) (events.Payload, error) {
		if now.TerminalSeq != x.TerminalSeq || now.Callback.State != events.CallbackPending {
			return nil, errNotDue
		}
		return &events.CallbackFailed{
			Terminal: now.TerminalSeq, Attempt: now.Callback.Attempts, Status: now.Callback.LastStatus,
			Reason: "given up: the history has no room or time left for this export",
		}, nil
	})
	if err == nil {
		x.Logger("ingress").Warn("callback given up", "webhook_id", x.WebhookID())
	}
	return after, err
}
