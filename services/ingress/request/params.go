package request

import (
	"bytes"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxParam bounds the text of a parameter, in characters. The longest is the return URL of a share link.
const maxParam = 1024

// Params reads the small JSON object that replaces a query: strings and numbers by name. An empty body is an
// empty query. With integers, these must be numbers or strings, and other fields are ignored.
func Params(body []byte, integers ...string) (url.Values, error) {
	q := url.Values{}
	if len(bytes.TrimSpace(body)) == 0 {
		return q, nil
	}
	members, err := readObject(body)
	if err != nil {
		return nil, err
	}
	for _, m := range members {
		wanted := slices.Contains(integers, m.name)
		if len(integers) > 0 && !wanted {
			continue
		}
		switch kind := m.value.Kind(); {
		case kind == '"' || kind == '0':
			s, err := textOrNumber(m, maxParam)
			if err != nil {
				return nil, err
			}
			q.Set(m.name, s)
		case wanted && kind != 'n':
			return nil, Invalid(m.name, "must be an integer, not %s", kindName(kind))
		}
	}
	return q, nil
}

// Number reads an optional positive integer of a query.
func Number(q url.Values, field string, absent, least, most uint64) (uint64, error) {
	text := q.Get(field)
	if text == "" {
		return absent, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n < least || n > most {
		return 0, Invalid(field, "is %q; want an integer from %d to %d", Cut(text, 24), least, most)
	}
	return n, nil
}

// Time reads an optional time of a query: RFC 3339, a date in the server's time zone, or a time before now
// such as 90m, 24h or 7d. It is zero if absent.
func Time(q url.Values, field string, now time.Time) (time.Time, error) {
	text := q.Get(field)
	if text == "" {
		return time.Time{}, nil
	}
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return at, nil
	}
	if at, err := time.ParseInLocation(time.DateOnly, text, time.Local); err == nil {
		return at, nil
	}
	if ago, err := Age(q, field, 0); err == nil {
		return now.Add(-ago), nil
	}
	return time.Time{}, Invalid(field, "is %q; want a time such as 2026-11-30T08:00:00Z, a date, or an age such as 90m, 24h or 7d", Cut(text, 32))
}

// Age reads an optional positive duration of a query: seconds, or a text such as 90m, 24h or 7d.
func Age(q url.Values, field string, absent time.Duration) (time.Duration, error) {
	text := q.Get(field)
	if text == "" {
		return absent, nil
	}
	d, err := time.ParseDuration(text)
	if n, number := strconv.ParseUint(text, 10, 31); number == nil {
		d, err = time.Duration(n)*time.Second, nil
	}
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, number := strconv.ParseUint(days, 10, 16); number == nil {
			d, err = time.Duration(n)*24*time.Hour, nil
		}
	}
	if err != nil || d <= 0 {
		return 0, Invalid(field, "is %q; want seconds, or a duration such as 90m, 24h or 7d", Cut(text, 24))
	}
	return d, nil
}

// Fresh refuses a request whose timestamp differs from the clock by more than maxSkew, because it may be a
// replay. at is its time of arrival; a maxSkew of 0 allows any timestamp.
func Fresh(timestamp int64, at time.Time, maxSkew time.Duration) error {
	if maxSkew <= 0 {
		return nil
	}
	if off := at.Sub(time.Unix(timestamp, 0)); off > maxSkew || off < -maxSkew {
		return Invalid("timestamp", "请求时间与标准时间差不可大于%s (is %s off the server's clock; at most %s is allowed)", maxSkew, off.Round(time.Second), maxSkew)
	}
	return nil
}

// maxIdempotencyKey is the maximum length of an Idempotency-Key.
const maxIdempotencyKey = 255

// CheckIdempotencyKey checks that the Idempotency-Key header is visible ASCII.
func CheckIdempotencyKey(key string) error {
	if len(key) > maxIdempotencyKey {
		return Invalid("Idempotency-Key", "has %d characters, at most %d are allowed", len(key), maxIdempotencyKey)
	}
	for _, c := range []byte(key) {
		if c < 0x21 || c > 0x7e {
			return Invalid("Idempotency-Key", "must be visible ASCII characters")
		}
	}
	return nil
}
