// Package retryafter reads the Retry-After header of responses from untrusted servers.
package retryafter

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// longest is far above any useful wait, and far below an overflow.
const longest = 365 * 24 * time.Hour

// Parse returns how long a response asks the client to wait, from 0 to 365 days: as seconds, possibly with a
// fraction, or as a date (RFC 9110, 10.2.3). A date in the past means 0. ok is false without a valid field.
func Parse(header http.Header, now time.Time) (wait time.Duration, ok bool) {
	value := strings.TrimSpace(header.Get("Retry-After"))
	if value != "" && value != "." && strings.Trim(value, "0123456789.") == "" {
		seconds, err := strconv.ParseFloat(value, 64)
		switch {
		case seconds >= longest.Seconds(): // also if out of range
			return longest, true
		case err != nil:
			return 0, false
		}
		return time.Duration(seconds * float64(time.Second)), true
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0, false
	}
	return min(max(at.Sub(now), 0), longest), true
}
