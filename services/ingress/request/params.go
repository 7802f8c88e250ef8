package request

import (
	"bytes"
	"net/url"
	"slices"
	"strconv"
	"time"
)

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
			s, err := textOrNumber(m, maxUserID)
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
