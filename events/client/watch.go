package client

import (
	"context"
	"iter"
	"time"
)

// maxOutage is how long a watch continues without an answer.
const maxOutage = time.Minute

// Watch iterates over the reports about an export until it has ended; the last one says how. Reports come at
// least every half second, also when nothing has changed. A server that does not answer for a minute, or
// refuses, ends the iteration with an error.
func (c *Client) Watch(ctx context.Context, key string) iter.Seq2[*Export, error] {
	return func(yield func(*Export, error) bool) {
		var outage time.Time
		for begun := time.Now(); ; {
			x, err := c.detailOnce(ctx, key)
			switch {
			case err == nil:
				outage = time.Time{}
				if !yield(x, nil) || x.Status != Processing {
					return
				}
			case !temporary(err) || !outage.IsZero() && time.Since(outage) > maxOutage:
				yield(nil, err)
				return
			case outage.IsZero():
				outage = time.Now()
			}
			if err := pause(ctx, max(pollWait(begun), min(retryAfter(err), maxOutage))); err != nil {
				yield(nil, err)
				return
			}
		}
	}
}

// pollWait is a 25th of the time since an export is watched, so that polling adds at most that to it.
func pollWait(begun time.Time) time.Duration {
	return min(max(time.Since(begun)/25, 10*time.Millisecond), 500*time.Millisecond)
}

func (c *Client) detailOnce(ctx context.Context, key string) (*Export, error) {
	data, err := c.via.call(ctx, call{operation: "detail", query: map[string]string{"key": key}})
	if err != nil {
		return nil, err
	}
	return readExport(data)
}

// Wait waits until an export has ended and returns it. The error is nil only for one that succeeded; an export
// that ended without a file is returned with an [*ExportError].
func (c *Client) Wait(ctx context.Context, key string) (x *Export, err error) {
	for report, err := range c.Watch(ctx, key) {
		if err != nil {
			return x, err
		}
		x = report
	}
	return x, x.Err()
}
