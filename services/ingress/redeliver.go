package ingress

import (
	"context"

	"sheaf/events"
)

// redeliver makes the callback of an ended export due again after it was delivered or given up. The notifier
// makes the attempt; the answer is the state of the callback before it.
func (s *Service) redeliver(ctx context.Context, c call) (any, error) {
	x, err := s.find(ctx, c)
	if err != nil {
		return nil, err
	}
	x, err = s.journal.Append(ctx, x, c.correlation, func(x *events.Export) (events.Payload, error) {
		switch {
		case x.State == events.StateNone: // removed from the log meanwhile
			return nil, unknownKey(x.Key)
		case x.Request.Callback == "":
			return nil, conflict("the export has no callback")
		case !x.State.Terminal():
			return nil, conflict("the export is under way; its callback follows when it ends")
		case x.Callback.State == events.CallbackPending:
			return nil, conflict("the callback is pending; attempt %d follows by itself", x.Callback.Attempts+1)
		}
		return &events.CallbackRequested{Terminal: x.TerminalSeq}, nil
	})
	if err != nil {
		return nil, err
	}
	return callbackOf(&x), nil
}
