package ingress

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"sheaf/services/ingress/request"

	"golang.org/x/sync/errgroup"
)

const (
	// maxBulkLoads is the number of exports that one call may read to find those that it changes.
	maxBulkLoads = 20_000
	// bulkAtOnce is the number of concurrent changes of one call, and maxBulkCalls of calls.
	bulkAtOnce   = 8
	maxBulkCalls = 4
	// bulkWait bounds a call. bulkPause is the longest wait for the limit on new exports a second.
	bulkWait  = time.Minute
	bulkPause = 2 * time.Second
)

const bulkOperation = "bulk"

// bulkActions are the operations that bulk repeats.
var bulkActions = map[string]func(*Service, context.Context, call) (any, error){
	"cancel": (*Service).cancel, "retry": (*Service).retry, "redeliver": (*Service).redeliver,
}

// bulkView answers bulk.
type bulkView struct {
	Matched int           `json:"matched"` // exports that the filter selected
	Done    int           `json:"done"`
	Skipped []skippedView `json:"skipped"` // the others, newest first
}

type skippedView struct {
	Key string `json:"key"`
	Msg string `json:"msg"`
}

// bulk repeats an operation for every export that a filter selects. It changes nothing if their number
// differs from the expected one by more than the tolerance: the caller has seen another list.
func (s *Service) bulk(ctx context.Context, c call) (any, error) {
	b, err := request.ParseBulk(c.body)
	if err != nil {
		return nil, err
	}
	act, ok := bulkActions[b.Action]
	if !ok {
		return nil, request.Invalid("action", "is %q; want cancel, retry or redeliver", request.Cut(b.Action, 24))
	}
	c.params = b.Filter
	if err := c.chooseTenant(); err != nil {
		return nil, err
	}
	keys, err := s.selected(ctx, c)
	if err != nil {
		return nil, err
	}
	if off := len(keys) - b.Expect; max(off, -off) > b.Tolerance {
		return nil, &apiError{
			Errcode: errcodeState, Status: http.StatusConflict, Field: "expect",
			Msg: fmt.Sprintf("expect: the filter now selects %d exports, not %d; nothing was changed", len(keys), b.Expect),
		}
	}
	return s.repeat(ctx, c, act, keys), nil
}

// selected returns the keys of the exports that a call's filter selects, newest first.
func (s *Service) selected(ctx context.Context, c call) ([]string, error) {
	q, err := s.filter(c)
	if err != nil {
		return nil, err
	}
	if err := s.readYourWrites(ctx); err != nil {
		return nil, err
	}
	q.Limit, q.MaxLoads = request.MaxBulk, maxBulkLoads
	found, err := s.tasks.List(q)
	if err != nil {
		return nil, err
	}
	switch {
	case found.Partial:
		return nil, request.Invalid("filter", "searches more than %d exports; narrow it, such as with since and until", maxBulkLoads)
	case found.Next != 0:
		return nil, request.Invalid("filter", "selects more than %d exports; narrow it, such as with since and until", request.MaxBulk)
	}
	keys := make([]string, len(found.Exports))
	for i := range found.Exports {
		keys[i] = found.Exports[i].Key
	}
	return keys, nil
}

// repeat calls an operation for each key. An export that it refuses is skipped, and so are all that are left
// when ctx ends.
func (s *Service) repeat(ctx context.Context, c call, act func(*Service, context.Context, call) (any, error), keys []string) bulkView {
	skipped := make([]string, len(keys)) // the reasons, "" for those that are done
	var group errgroup.Group
	group.SetLimit(bulkAtOnce)
	for i, key := range keys {
		group.Go(func() error {
			one := c
			one.params = url.Values{"key": {key}}
			if err := s.inTurn(ctx, one, act); err != nil {
				skipped[i] = asAPIError(err).Msg
			}
			return nil
		})
	}
	_ = group.Wait()
	view := bulkView{Matched: len(keys), Skipped: []skippedView{}}
	for i, msg := range skipped {
		if msg == "" {
			view.Done++
		} else {
			view.Skipped = append(view.Skipped, skippedView{Key: keys[i], Msg: msg})
		}
	}
	return view
}

// inTurn calls an operation, again while the tenant begins too many exports a second.
func (s *Service) inTurn(ctx context.Context, c call, act func(*Service, context.Context, call) (any, error)) error {
	for {
		if ctx.Err() != nil {
			return unavailable("not done in time; repeat the call", time.Second, nil)
		}
		_, err := act(s, ctx, c)
		var refused *apiError
		if !errors.As(err, &refused) || refused.Errcode != errcodeQuota || refused.RetryAfter == 0 || refused.RetryAfter > bulkPause {
			return err
		}
		pause(ctx, refused.RetryAfter)
	}
}
