package times

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// FuzzISO compares ISO with package time.
func FuzzISO(f *testing.F) {
	for _, seed := range []string{"2026-01-05", "2026-01-05T08:30:15.123Z", "2026-01-05 08:30:15+08:00", "2026-01-05T08:30-0800",
		"2026-02-30", "2026-01-05T24:00:00", "2026-01-05T08:30:60Z", "0000-01-01", "2026/1/5", "2026-01-05T08:30:15,000-00:00",
		"2026-01-05T08:30:15.12345678901Z", "9999-12-31T23:59:59.999999999-23:59",
		"2026-01-05T08:30:15Z", "2000-02-29 23:59:59", "1900-02-29 00:00:00", "0001-01-01T00:00:00Z", "0000-12-31 23:59:59",
		"2026-01-05 08:3a:15", "2026-13-05 08:30:15", "2026-01-05 08:30:60", "2026-01-05 24:00:00Z", "1969-12-31T23:59:59Z"} {
		f.Add([]byte(seed))
	}
	layouts := []string{"2006-01-02", "2006/1/2", "2006/01/02"}
	for _, day := range []string{"2006-01-02T", "2006-01-02 ", "2006/1/2T", "2006/1/2 "} {
		for _, clock := range []string{"15:04", "15:04:05"} {
			for _, offset := range []string{"", "Z07:00", "Z0700", "Z07"} {
				layouts = append(layouts, day+clock+offset)
			}
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got, ok := ISO(text)
		var want time.Time
		known := false
		for _, layout := range layouts {
			var err error
			if want, err = time.ParseInLocation(layout, string(text), time.UTC); err == nil {
				known = true
				break
			}
		}
		if ok {
			require.True(t, known, "%q is no time for package time", text)
			require.Equal(t, want.Unix(), got.Seconds, "%q", text)
			require.EqualValues(t, want.Nanosecond(), got.Nanos, "%q", text)
			return
		}
		// Package time also accepts the year 0, long fractions, short hours, and offsets of 24:00 or :60.
		long := bytes.LastIndexFunc(text, func(r rune) bool { return r == '.' || r == ',' }) >= 0 && len(text) > len("2026-01-05T08:30:15.123456789")
		short := len(text) > 12 && bytes.IndexByte(text, ':') == len("2026-01-05T8")
		offset := bytes.ContainsAny(text, "+") || bytes.Count(text, []byte("-")) == 3 || bytes.Count(text, []byte("-")) == 1
		require.False(t, known && want.Year() > 0 && !long && !short && !offset, "%q is a time", text)
	})
}
