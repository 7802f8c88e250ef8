package ingress

import (
	"context"
	"strconv"
	"time"

	"sheaf/events/secrets"
	"sheaf/services/ingress/request"
)

// maxReturnURL bounds the URL that a share page leads back to, in bytes. The console keeps the link, which
// holds the URL, in a cookie, and browsers keep 4 KiB of one.
const maxReturnURL = 1024

// minShareTime is the shortest validity of a share link. A shorter one has ended before its reader opens it.
const minShareTime = time.Minute

// shareView answers share.
type shareView struct {
	URL       string `json:"url"`
	ExpiresAt string `json:"expires_at"`
}

// share returns a signed link to the page of an export. Its holder needs no API key to watch the export and
// download its file. Nothing is stored.
func (s *Service) share(ctx context.Context, c call) (any, error) {
	ttl, err := request.Age(c.params, "ttl", s.cfg.KeepFiles)
	if err != nil {
		return nil, err
	}
	if ttl < minShareTime {
		return nil, request.Invalid("ttl", "is %s; links are good for at least %s", ttl, inDays(minShareTime))
	}
	if ttl > s.cfg.KeepFiles {
		return nil, request.Invalid("ttl", "is %s; links are good for at most %s here", inDays(ttl), inDays(s.cfg.KeepFiles))
	}
	back := c.params.Get("return_url")
	if back != "" {
		if err := request.URL("return_url", back, maxReturnURL); err != nil {
			return nil, err
		}
	}
	x, err := s.find(ctx, c)
	if err != nil {
		return nil, err
	}
	return s.shareOf(x.Key, time.Now().Add(ttl), back), nil
}

func (s *Service) shareOf(key string, exp time.Time, back string) shareView {
	return shareView{
		URL:       s.cfg.PublicURL + "/s/" + secrets.ShareToken(s.journal.Keys(), key, exp, back),
		ExpiresAt: localTime(exp),
	}
}

// inDays writes a duration as callers do: 7d for whole days.
func inDays(d time.Duration) string {
	const day = 24 * time.Hour
	if d > 0 && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	return d.String()
}
