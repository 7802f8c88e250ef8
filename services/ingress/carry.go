package ingress

import (
	"context"
	"errors"
	"log/slog"

	"sheaf/events"
	"sheaf/storage"
)

const (
	// carryWorth is how many bytes may be written anew for each that becomes free: twice
	// what a log needs whose shared part is full of what is needed.
	carryWorth = 4
	// carryBelow is how full the log may become by it.
	carryBelow = 0.95
)

// carry clears the way to what the log can do without: the exports before it that are
// still needed are repeated at the log's end, as a log-structured file system moves
// what lives out of a segment that it wants free (Rosenblum and Ousterhout, 1992).
// Without it one old export of a modest tenant would hold all that a busy one has
// written since, for as long as --keep-history.
//
// Only exports that have ended are carried: where work is under way its consumers hold
// a place in the log. And only when room is wanted, and enough becomes free by it.
func (s *sweeper) carry(ctx context.Context, log events.LogState) error {
	if log.Full < crowded && len(s.wanted()) == 0 {
		return nil
	}
	until, err := s.worthUntil(log)
	if err != nil {
		return err
	}
	keys, err := s.inTheWay(log, until)
	if err != nil || len(keys) == 0 {
		return err
	}
	last, carried := uint64(0), 0
	for _, key := range keys {
		x, err := s.tasks.Get(key)
		if errors.Is(err, storage.ErrUnknownKey) {
			continue
		}
		if err != nil {
			return err
		}
		after, err := s.streams.Append(ctx, x, "", func(now *events.Export) (events.Payload, error) {
			if now.TerminalSeq != x.TerminalSeq || now.CarriedSeq != x.CarriedSeq || !s.movable(now) {
				return nil, errNotDue
			}
			return &events.ExportCarried{Export: *now}, nil
		})
		switch {
		case err == nil:
			carried++
			last = max(last, after.LastSeq)
		case !overtaken(err):
			slog.Warn("export not carried on; the log stays as it is before it", "service", "ingress", "tenant", x.Tenant, "hash_key", x.Key, "error", err)
			return s.tasks.WaitApplied(ctx, last)
		}
	}
	slog.Info("exports carried on", "service", "ingress", "exports", carried)
	return s.tasks.WaitApplied(ctx, last)
}

// worth says up to where it is worth to carry on what is needed.
type worth struct {
	beyond      func(tenant string) int64 // bytes that a tenant has more than its share
	left        map[string]int64          // of those of each tenant, behind the pieces that were added
	freed, cost int64
	until       uint64 // the last sequence by which enough is freed; 0: none
}

// add adds a piece of the log, after all those before it.
func (w *worth) add(below uint64, tenant string, bytes int64) {
	if _, ok := w.left[tenant]; !ok {
		w.left[tenant] = w.beyond(tenant)
	}
	if w.left[tenant] <= 0 {
		w.cost += bytes
		return
	}
	w.left[tenant] -= bytes
	if w.freed += bytes; w.freed*carryWorth >= w.cost {
		w.until = below
	}
}

// worthUntil looks through the whole log.
func (s *sweeper) worthUntil(log events.LogState) (uint64, error) {
	w := worth{left: map[string]int64{}, beyond: func(tenant string) int64 {
		p := portionOf(s.tasks, log.Space, tenant)
		part, _ := s.trimTo(tenant)
		return p.beyond(part, 0)
	}}
	err := s.tasks.LogPieces(w.add)
	return w.until, err
}

// inTheWay returns the keys of the exports, below a sequence and in one step of the
// trimming, that have to be carried on for what lies between and behind them to go.
func (s *sweeper) inTheWay(log events.LogState, until uint64) (keys []string, err error) {
	useful := 0 // so many of the keys: before what may go
	tenants := map[string]*history{}
	room := int64(carryBelow*float64(log.Space.Limit)) - log.Space.Used
	var freed int64
	for n, from := 0, log.First; n < trimStep; {
		list, err := s.tasks.Oldest(from, sweepBatch)
		if err != nil || len(list) == 0 {
			return keys[:useful], err
		}
		for _, x := range list {
			begun := storage.Begun(&x)
			if begun >= min(until, log.Last) {
				return keys[:useful], nil
			}
			h := tenants[x.Tenant]
			if h == nil {
				if h, err = s.historyOf(x.Tenant, log); err != nil {
					return nil, err
				}
				tenants[x.Tenant] = h
			}
			early, now := s.early(h, log, freed)
			switch {
			case now || s.dispensable(&x, early):
				freed += h.oneLess()
				useful = len(keys)
			case room < h.average() || !s.movable(&x):
				return keys[:useful], nil
			default:
				keys = append(keys, x.Key)
				room -= h.average()
			}
			n, from = n+1, begun+1
		}
	}
	return keys, nil
}

// movable reports whether an export can be known by an event at the log's end: it
// ended a while ago, and its callback, if it is pending, waits for an attempt that is
// not the next thing to happen.
func (s *sweeper) movable(x *events.Export) bool {
	waits := x.Callback.Attempts > 0 && x.Callback.NextAt.After(s.now().Add(s.every))
	return s.settled(x) && (x.Callback.State != events.CallbackPending || waits)
}
