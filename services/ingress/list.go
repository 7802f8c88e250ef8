package ingress

import (
	"context"
	"strings"
	"time"

	"sheaf/events"
	"sheaf/services/ingress/request"
	"sheaf/storage"
)

const (
	// listPage and maxListPage are the default and the largest number of exports in one list.
	listPage    = 50
	maxListPage = 200
	// maxListLoads bounds the exports that a search reads: about 0.2 s.
	maxListLoads = 5000
	// maxSearch bounds the text of a search, in characters.
	maxSearch = 200
)

const (
	stateRunning         = events.ListRunning
	stateQueued          = events.ListQueued
	stateWaitingForSpace = events.ListWaitingForSpace
	stateFailed          = events.ListFailed
	stateSucceeded       = events.ListSucceeded
	stateCancelled       = events.ListCancelled
)

// classes are the states of lists, and where the projection finds them.
var classes = map[string]storage.Class{
	stateRunning: storage.Underway, stateQueued: storage.Underway, stateWaitingForSpace: storage.Underway,
	stateFailed: storage.Failed, stateSucceeded: storage.Succeeded, stateCancelled: storage.Cancelled,
}

// rowView is an export in a list.
type rowView struct {
	summaryView
	State      string          `json:"state"`
	UserID     string          `json:"user_id"`
	Rows       int64           `json:"rows"`
	Progress   events.Progress `json:"progress"`
	ErrorCode  string          `json:"error_code"`
	FinishedAt string          `json:"finished_at"`
	ExpiresAt  string          `json:"expires_at"`
}

// countsView counts a tenant's exports by state.
type countsView struct {
	All             int `json:"all"`
	Running         int `json:"running"`
	Queued          int `json:"queued"`
	WaitingForSpace int `json:"waiting_for_space"`
	Failed          int `json:"failed"`
	Succeeded       int `json:"succeeded"`
	Cancelled       int `json:"cancelled"`
}

type listView struct {
	Exports []rowView  `json:"exports"`
	Next    uint64     `json:"next"` // the before of the next page; 0 at the end
	Counts  countsView `json:"counts"`
	// Partial means that the search ended early, after maxListLoads exports. Next continues it.
	Partial bool `json:"partial"`
}

// list returns the exports of a tenant that match a filter, newest first.
func (s *Service) list(ctx context.Context, c call) (any, error) {
	q, err := s.filter(c)
	if err != nil {
		return nil, err
	}
	limit, err := request.Number(c.params, "limit", listPage, 1, maxListPage)
	if err != nil {
		return nil, err
	}
	if q.Before, err = request.Number(c.params, "before", 0, 1, 1<<63-1); err != nil {
		return nil, err
	}
	q.Limit = int(limit)
	if err := s.readYourWrites(ctx); err != nil {
		return nil, err
	}
	found, err := s.tasks.List(q)
	if err != nil {
		return nil, err
	}
	view := listView{Exports: make([]rowView, len(found.Exports)), Next: found.Next, Partial: found.Partial}
	for i := range found.Exports {
		view.Exports[i] = s.rowOf(&found.Exports[i])
	}
	view.Counts, err = s.counts(c.tenant)
	return view, err
}

// filter returns the query of a call's parameters.
func (s *Service) filter(c call) (q storage.Query, err error) {
	p := c.params
	q = storage.Query{Tenant: c.tenant, UserID: p.Get("user_id"), ErrorCode: p.Get("error_code"), MaxLoads: maxListLoads}
	state, text := p.Get("state"), p.Get("q")
	if state != "" {
		var known bool
		if q.Class, known = classes[state]; !known {
			return q, request.Invalid("state", "is %q; want running, queued, waiting_for_space, failed, succeeded or cancelled", request.Cut(state, 24))
		}
	}
	if q.ErrorCode != "" && q.Class != 0 && q.Class != storage.Failed {
		return q, request.Invalid("error_code", "only failed exports have one, and state is %s", state)
	}
	if len([]rune(text)) > maxSearch {
		return q, request.Invalid("q", "is longer than %d characters", maxSearch)
	}
	now := time.Now()
	if q.Since, err = request.Time(p, "since", now); err != nil {
		return q, err
	}
	if q.Until, err = request.Time(p, "until", now); err != nil {
		return q, err
	}
	if events.ValidKey(text) {
		q.Key, text = text, ""
	}
	if q.Class == storage.Underway || text != "" {
		text = strings.ToLower(text)
		q.Match = func(x *events.Export) bool {
			return (q.Class != storage.Underway || s.stateOf(x) == state) && (text == "" || matches(x, text))
		}
	}
	return q, nil
}

// matches reports whether an export's title or user contains a text in lower case, or its key begins with it.
func matches(x *events.Export, text string) bool {
	return strings.HasPrefix(x.Key, text) || strings.Contains(strings.ToLower(x.Request.Title), text) ||
		strings.Contains(strings.ToLower(x.Request.UserID), text)
}

func (s *Service) rowOf(x *events.Export) rowView {
	return rowView{
		summaryView: summaryOf(x), State: s.stateOf(x), UserID: x.Request.UserID, Rows: x.Rows,
		Progress: s.progress.of(x), ErrorCode: x.Failure.Code,
		FinishedAt: localTime(x.FinishedAt), ExpiresAt: localTime(x.ExpiresAt),
	}
}

// stateOf returns the state of an export in lists.
func (s *Service) stateOf(x *events.Export) string {
	switch x.State.Status() {
	case events.StatusSucceeded:
		return stateSucceeded
	case events.StatusFailed:
		return stateFailed
	case events.StatusCancelled:
		return stateCancelled
	}
	switch s.progress.of(x).Phase {
	case events.PhaseQueued:
		return stateQueued
	case events.PhaseWaitingForSpace:
		return stateWaitingForSpace
	}
	return stateRunning
}

// counts counts a tenant's exports by state.
func (s *Service) counts(tenant string) (countsView, error) {
	usage, err := s.tasks.Usage(tenant)
	if err != nil {
		return countsView{}, err
	}
	n := countsView{All: usage.Exports, Failed: usage.Failed, Succeeded: usage.Succeeded, Cancelled: usage.Cancelled}
	var unsure []string // only the number of their pages decides
	err = s.tasks.EachUnderway(tenant, func(key string, crawled bool) {
		switch phase := s.progress.phase(tenant, key); {
		case crawled && phase == events.PhaseWaitingForSpace:
			unsure = append(unsure, key)
		case crawled:
			n.Running++
		case phase == events.PhaseWaitingForSpace:
			n.WaitingForSpace++
		case phase == events.PhaseCrawling || phase == events.PhaseWaitingForSource:
			n.Running++
		default:
			n.Queued++
		}
	})
	for _, key := range unsure {
		if x, err := s.tasks.Get(key); err == nil && s.stateOf(&x) == stateWaitingForSpace {
			n.WaitingForSpace++
		} else {
			n.Running++
		}
	}
	return n, err
}

// timelineView answers events.
type timelineView struct {
	Key    string          `json:"key"`
	Events []events.Moment `json:"events"` // oldest first
}

// timeline returns the events of an export, of all its runs.
func (s *Service) timeline(ctx context.Context, c call) (any, error) {
	x, err := s.find(ctx, c)
	if err != nil {
		return nil, err
	}
	return timelineView{Key: x.Key, Events: append([]events.Moment{}, x.Timeline...)}, nil
}
