package ingress

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"

	"sheaf/events"
	"sheaf/storage"
)

const (
	// carryWorth is how many bytes may be written anew for each that becomes free. In a
	// log whose shared part is full, and which n tenants share alike, a busy one of them
	// needs n-1.
	carryWorth = 8
	// carryBelow is how full the log may become by it.
	carryBelow = 0.95
	// carryHeaders is what an event that carries an export takes besides its JSON, at most.
	carryHeaders = 1 << 10
)

// carry clears the way to what the log can do without: the exports before it that are
// still needed are repeated at the log's end, as a log-structured file system moves
// what lives out of a segment that it wants free (Rosenblum and Ousterhout, 1992).
// Without it one old export of a modest tenant would hold all that a busy one has
// written since, for as long as --keep-history.
//
// Only exports that have ended are carried: where work is under way its consumers hold
// a place in the log. And only when room is wanted, and enough becomes free by it. more
// says that there is more to carry when the log was trimmed.
func (s *sweeper) carry(ctx context.Context, log events.LogState) (carried int, more bool, err error) {
	if log.Full < crowded && len(s.wanted()) == 0 {
		return 0, false, nil
	}
	until, err := s.worthUntil(log)
	if err != nil {
		return 0, false, err
	}
	keys, more, err := s.inTheWay(log, until)
	if err != nil || len(keys) == 0 {
		return 0, more, err
	}
	last := uint64(0)
	for _, key := range keys {
		x, err := s.tasks.Get(key)
		if errors.Is(err, storage.ErrUnknownKey) {
			continue
		}
		if err != nil {
			return carried, false, err
		}
		after, err := s.streams.Append(ctx, x, "", s.carriedOn(x))
		if err != nil && !overtaken(err) {
			slog.Warn("export not carried on; the log stays as it is before it", "service", "ingress", "tenant", x.Tenant, "hash_key", x.Key, "error", err)
			more = false
			break
		}
		if err == nil {
			carried++
			last = after.LastSeq
		}
	}
	if carried > 0 {
		slog.Info("exports carried on", "service", "ingress", "exports", carried)
	}
	return carried, more, s.tasks.WaitApplied(ctx, last)
}

// carriedOn decides to carry an export on that is still where it was seen.
func (s *sweeper) carriedOn(seen events.Export) events.Decide {
	return func(x *events.Export) (events.Payload, error) {
		if storage.Begun(x) != storage.Begun(&seen) || !s.movable(x) {
			return nil, errNotDue
		}
		return &events.ExportCarried{Export: *x}, nil
	}
}

// movable reports whether an export can be known by an event at the log's end: it
// ended a while ago, and its callback, if it is pending, waits for an attempt that is
// not the next thing to happen.
func (s *sweeper) movable(x *events.Export) bool {
	waits := x.Callback.Attempts > 0 && x.Callback.NextAt.After(s.now().Add(s.every))
	return s.settled(x) && (x.Callback.State != events.CallbackPending || waits)
}

// inTheWay returns the keys of the exports, below a sequence, that have to be carried on
// for what lies between and behind them to go: as many as one step of the trimming and
// the room in the log allow. more says that these were the bounds.
func (s *sweeper) inTheWay(log events.LogState, until uint64) (keys []string, more bool, err error) {
	useful := 0 // so many of the keys lie before what may go
	tenants := map[string]*history{}
	room := int64(carryBelow*float64(log.Space.Limit)) - log.Space.Used
	var freed int64
	for n, from := 0, log.First; ; {
		list, err := s.tasks.Oldest(from, sweepBatch)
		if err != nil || len(list) == 0 {
			return keys[:useful], false, err
		}
		for _, x := range list {
			begun := storage.Begun(&x)
			if begun >= min(until, log.Last) {
				return keys[:useful], false, nil
			}
			if n >= s.step {
				return keys, true, nil
			}
			h := tenants[x.Tenant]
			if h == nil {
				if h, err = s.historyOf(x.Tenant, log); err != nil {
					return nil, false, err
				}
				tenants[x.Tenant] = h
			}
			early, now := h.early(log, freed)
			switch {
			case now || s.dispensable(&x, early):
				freed += h.oneLess()
				useful = len(keys)
			case !s.movable(&x):
				return keys[:useful], false, nil
			default:
				text, err := json.Marshal(&x)
				if err != nil {
					return nil, false, err
				}
				if room -= int64(len(text)) + carryHeaders; room < 0 {
					return keys, true, nil
				}
				keys = append(keys, x.Key)
			}
			n, from = n+1, begun+1
		}
	}
}

// worthUntil looks through the whole log for how far it is worth to carry on what is
// needed.
func (s *sweeper) worthUntil(log events.LogState) (until uint64, err error) {
	w := worth{left: map[string]int64{}}
	w.mayGo = func(tenant string) int64 {
		h, failed := s.historyOf(tenant, log)
		if err = errors.Join(err, failed); failed != nil {
			return 0
		}
		return h.mayGo(log)
	}
	failed := s.tasks.LogPieces(w.add)
	w.end()
	return w.until, errors.Join(failed, err)
}

// worth holds what becomes free against what has to be written anew for it, piece after
// piece of the log.
type worth struct {
	mayGo       func(tenant string) int64 // bytes of a tenant that become free, if nothing is before them
	left        map[string]int64          // of those, by tenant, what lies behind the pieces that were added
	freed, cost int64
	piece       uint64 // the last one lies below it,
	frees       bool   // something of it goes,
	behind      int64  // and these bytes of the same tenants stay and come after
	until       uint64 // the last worthy piece lies below it; 0: none
}

// add adds what one tenant has in a piece of the log, after all pieces before it.
func (w *worth) add(below uint64, tenant string, bytes int64) {
	if below != w.piece {
		w.end()
		w.piece, w.frees = below, false
		w.cost, w.behind = w.cost+w.behind, 0
	}
	if _, ok := w.left[tenant]; !ok {
		w.left[tenant] = w.mayGo(tenant)
	}
	goes := min(max(w.left[tenant], 0), bytes)
	w.left[tenant] -= goes
	w.freed += goes
	if goes > 0 {
		w.frees = true
		w.behind += bytes - goes
	} else {
		w.cost += bytes
	}
}

// end ends the last piece.
func (w *worth) end() {
	if w.frees && w.freed*carryWorth >= w.cost {
		w.until = w.piece
	}
}
