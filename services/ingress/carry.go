package ingress

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"time"

	"sheaf/events"
	"sheaf/storage"
)

const (
	// carryWorth is how many bytes may be written anew for each that becomes free. In a
	// log whose shared part is full, and which n tenants share alike, a busy one of them
	// needs n-1.
	carryWorth = 8
	// carrySlice is how much of the log is written before it is trimmed: for as long both
	// what was carried and what it stands for take room. One export may be larger.
	carrySlice = 0.02
	// carryBelow is how full the log may become by it: less than new exports may make it.
	carryBelow = 0.88
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
	last, begun := uint64(0), time.Now()
	for _, key := range keys {
		if time.Since(begun) > carryFor {
			more = true
			break
		}
		x, err := s.tasks.Get(key)
		if errors.Is(err, storage.ErrUnknownKey) {
			continue
		}
		if err != nil {
			return carried, false, err
		}
		after, err := s.streams.Append(ctx, x, "", s.carriedOn(x))
		if err != nil && !overtaken(err) {
			x.Logger("ingress").Warn("export not carried on; the log stays as it is before it", "error", err)
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
	slice := int64(carrySlice * float64(log.Space.Limit))
	room := int64(carryBelow*float64(log.Space.Limit)) - log.Space.Used
	var freed, taken int64
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
				taken += int64(len(text)) + carryHeaders
				if taken > room || taken > slice && len(keys) > 0 {
					return keys, len(keys) > 0, nil
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
	pieces, err := s.tasks.LogPieces()
	if err != nil {
		return 0, err
	}
	tenants := map[string]*outlay{}
	for _, p := range pieces {
		if tenants[p.Tenant] != nil {
			continue
		}
		h, err := s.historyOf(p.Tenant, log)
		if err != nil {
			return 0, err
		}
		tenants[p.Tenant] = &outlay{stays: h.inUse * h.average(), goes: h.mayGo(log)}
	}
	return worthUntil(pieces, tenants), nil
}

// outlay is what a tenant has in the log, in bytes.
type outlay struct {
	stays int64 // for it is in use; where is not known, so it is taken for the oldest
	goes  int64 // behind that, if nothing else is before it
}

// worthUntil holds what becomes free against what has to be written anew for it, piece
// after piece, and returns the sequence that the last worthy one lies below; 0: none.
func worthUntil(pieces []storage.LogPiece, tenants map[string]*outlay) (until uint64) {
	var freed, cost int64
	for len(pieces) > 0 {
		below := pieces[0].Below
		n := slices.IndexFunc(pieces, func(p storage.LogPiece) bool { return p.Below != below })
		if n < 0 {
			n = len(pieces)
		}
		frees, behind := false, int64(0) // in this piece; and what comes after that in it
		for _, p := range pieces[:n] {
			t := tenants[p.Tenant]
			stays := min(t.stays, p.Bytes)
			goes := min(t.goes, p.Bytes-stays)
			t.stays, t.goes = t.stays-stays, t.goes-goes
			freed += goes
			if goes > 0 {
				frees = true
				cost, behind = cost+stays, behind+p.Bytes-stays-goes
			} else {
				cost += p.Bytes
			}
		}
		if frees && freed*carryWorth >= cost {
			until = below
		}
		cost += behind
		pieces = pieces[n:]
	}
	return until
}
