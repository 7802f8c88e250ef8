package cells

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ncruces/go-strftime"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"sheaf/events"
	"sheaf/events/rows"
	"sheaf/services/assembler/encode"
)

// misfit is the cell of a text that is no time.
const misfit = "does not fit"

func timeOf(t testing.TB, column events.Column, zones encode.Zones, value string) string {
	cell, fits := one(t, column, zones, value)
	if !fits {
		require.Contains(t, cell, "text ", "a misfit is text")
		return misfit
	}
	return cell
}

func TestTimesOfISO8601(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][2]string{ // as datetime and as date, in UTC
		"2026-01-05":                     {"time 2026-01-05T00:00:00", "date 2026-01-05"},
		"2026/1/5":                       {"time 2026-01-05T00:00:00", "date 2026-01-05"},
		"2026/01/05":                     {"time 2026-01-05T00:00:00", "date 2026-01-05"},
		"2026/1/5 8:05":                  {"time 2026-01-05T08:05:00", "date 2026-01-05"},
		"2026-01-05T08:30":               {"time 2026-01-05T08:30:00", "date 2026-01-05"},
		"2026-01-05 08:30:15":            {"time 2026-01-05T08:30:15", "date 2026-01-05"},
		"2026-01-05 01:00:00.000Z":       {"time 2026-01-05T01:00:00 = 2026-01-05T01:00:00Z", "date 2026-01-05"},
		"2026-01-05T08:30:15.123456789Z": {"time 2026-01-05T08:30:15.123456789 = 2026-01-05T08:30:15Z", "date 2026-01-05"},
		"2026-01-05T08:30:15,5Z":         {"time 2026-01-05T08:30:15.5 = 2026-01-05T08:30:15Z", "date 2026-01-05"},
		"2026-01-05T20:30:00-06:00":      {"time 2026-01-06T02:30:00 = 2026-01-06T02:30:00Z", "date 2026-01-06"},
		"2026-01-05T02:30:00+0800":       {"time 2026-01-04T18:30:00 = 2026-01-04T18:30:00Z", "date 2026-01-04"},
		"2026-01-05 08:30:00+08":         {"time 2026-01-05T00:30:00 = 2026-01-05T00:30:00Z", "date 2026-01-05"},
		"2026-01-05T08:30:00-00:00":      {"time 2026-01-05T08:30:00 = 2026-01-05T08:30:00Z", "date 2026-01-05"},
		"1900-02-28":                     {"time 1900-02-28T00:00:00", "date 1900-02-28"},
		"1969-12-31T23:59:59.5Z":         {"time 1969-12-31T23:59:59.5 = 1969-12-31T23:59:59Z", "date 1969-12-31"},
		"0001-01-01":                     {"time 0001-01-01T00:00:00", "date 0001-01-01"},
		"9999-12-31T23:59:59Z":           {"time 9999-12-31T23:59:59 = 9999-12-31T23:59:59Z", "date 9999-12-31"},
		"2024-02-29":                     {"time 2024-02-29T00:00:00", "date 2024-02-29"},
		"1900-02-29":                     {misfit, misfit}, // a day of Excel, but of no calendar
		"2026-02-29":                     {misfit, misfit},
		"2026-04-31":                     {misfit, misfit},
		"2026-00-01":                     {misfit, misfit},
		"2026-13-01":                     {misfit, misfit},
		"0000-01-01":                     {misfit, misfit},
		"10000-01-01":                    {misfit, misfit},
		"-2026-01-01":                    {misfit, misfit},
		"9999-12-31T23:59:59-01:00":      {misfit, misfit}, // the year 10000
		"0001-01-01T00:00:00+01:00":      {misfit, misfit}, // the year 0
		"2026-01-05T24:00:00Z":           {misfit, misfit},
		"2016-12-31T23:59:60Z":           {misfit, misfit}, // a leap second
		"2026-01-05T08:60Z":              {misfit, misfit},
		"2026-01-05T08":                  {misfit, misfit},
		"2026-01-05T08:30:":              {misfit, misfit},
		"2026-01-05T08:30:15.":           {misfit, misfit},
		"2026-01-05T08:30:15.1234567891": {misfit, misfit},
		"2026-01-05T08:30:15+24:00":      {misfit, misfit},
		"2026-01-05T08:30:15+08:60":      {misfit, misfit},
		"2026-01-05T08:30:15+8":          {misfit, misfit},
		"2026-01-05T08:30:15+08:":        {misfit, misfit},
		"2026-01-05T08:30:15ZZ":          {misfit, misfit},
		"2026-01-05T08:30:15 Z":          {misfit, misfit},
		"2026-01-05Z":                    {misfit, misfit},
		"2026-1-5":                       {misfit, misfit},
		"2026-01/05":                     {misfit, misfit},
		"20260105":                       {misfit, misfit},
		"26-01-05":                       {misfit, misfit},
		"05.01.2026":                     {misfit, misfit},
		" 2026-01-05":                    {misfit, misfit},
		"2026-01-05 ":                    {misfit, misfit},
		"today":                          {misfit, misfit},
		"２０２６-01-05":                     {misfit, misfit},
	} {
		zones := encode.Zones{Display: time.UTC}
		require.Equal(t, want[0], timeOf(t, events.Column{Type: "datetime"}, zones, `"`+text+`"`), text)
		require.Equal(t, want[1], timeOf(t, events.Column{Type: "date", From: "iso"}, zones, `"`+text+`"`), text)
	}
	for _, value := range []string{"0", "1767600000", "true", "[]", `{"date":"2026-01-05"}`} {
		require.Equal(t, misfit, timeOf(t, events.Column{Type: "datetime"}, encode.Zones{}, value), value)
	}
}

func TestTimesOfUnix(t *testing.T) {
	t.Parallel()
	for value, want := range map[string][2]string{ // in seconds and in milliseconds
		"0":                     {"time 1970-01-01T00:00:00 = 1970-01-01T00:00:00Z", "time 1970-01-01T00:00:00 = 1970-01-01T00:00:00Z"},
		"-0":                    {"time 1970-01-01T00:00:00 = 1970-01-01T00:00:00Z", "time 1970-01-01T00:00:00 = 1970-01-01T00:00:00Z"},
		"1767600000":            {"time 2026-01-05T08:00:00 = 2026-01-05T08:00:00Z", "time 1970-01-21T11:00:00 = 1970-01-21T11:00:00Z"},
		`"1767600000"`:          {"time 2026-01-05T08:00:00 = 2026-01-05T08:00:00Z", "time 1970-01-21T11:00:00 = 1970-01-21T11:00:00Z"},
		"1767600000123":         {misfit, "time 2026-01-05T08:00:00.123 = 2026-01-05T08:00:00Z"},
		"1.767600000123e12":     {misfit, "time 2026-01-05T08:00:00.123 = 2026-01-05T08:00:00Z"},
		"1767600000.5":          {"time 2026-01-05T08:00:00.5 = 2026-01-05T08:00:00Z", "time 1970-01-21T11:00:00.0005 = 1970-01-21T11:00:00Z"},
		"1767600000.123456789":  {"time 2026-01-05T08:00:00.123456789 = 2026-01-05T08:00:00Z", misfit},
		"1767600000.1234567891": {misfit, misfit},
		"1767600000.100000000000000": {"time 2026-01-05T08:00:00.1 = 2026-01-05T08:00:00Z",
			"time 1970-01-21T11:00:00.0001 = 1970-01-21T11:00:00Z"},
		"-0.25":          {"time 1969-12-31T23:59:59.75 = 1969-12-31T23:59:59Z", "time 1969-12-31T23:59:59.99975 = 1969-12-31T23:59:59Z"},
		"-1":             {"time 1969-12-31T23:59:59 = 1969-12-31T23:59:59Z", "time 1969-12-31T23:59:59.999 = 1969-12-31T23:59:59Z"},
		"253402300799":   {"time 9999-12-31T23:59:59 = 9999-12-31T23:59:59Z", "time 1978-01-11T21:31:40.799 = 1978-01-11T21:31:40Z"},
		"253402300800":   {misfit, "time 1978-01-11T21:31:40.8 = 1978-01-11T21:31:40Z"},
		"-62135596801":   {misfit, "time 1968-01-12T20:06:43.199 = 1968-01-12T20:06:43Z"},
		"1e308":          {misfit, misfit},
		"1e999999999999": {misfit, misfit},
		"1e-400":         {misfit, misfit},
		`"2026-01-05"`:   {misfit, misfit},
		`"1e"`:           {misfit, misfit},
		"true":           {misfit, misfit},
	} {
		zones := encode.Zones{Display: time.UTC, Source: mustZone("Asia/Tokyo")} // the source's zone makes no difference
		require.Equal(t, want[0], timeOf(t, events.Column{Type: "datetime", From: "unix"}, zones, value), value)
		require.Equal(t, want[1], timeOf(t, events.Column{Type: "datetime", From: "unix_ms"}, zones, value), value)
	}
}

func TestTimesOfPatterns(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ pattern, text, want string }{
		{"%d/%m/%Y %H:%M", "05/01/2026 08:30", "time 2026-01-05T08:30:00"},
		{"%d/%m/%Y %H:%M", "5/1/2026 8:30", "time 2026-01-05T08:30:00"},
		{"%d/%m/%Y %H:%M", "31/02/2026 08:30", misfit},
		{"%d/%m/%Y", "05/01/2026 08:30", misfit},
		{"%m/%d/%y", "1/5/26", "time 2026-01-05T00:00:00"},
		{"%Y年%m月%d日", "2026年1月5日", "time 2026-01-05T00:00:00"},
		{"%Y%m%d%H%M%S", "20260105083015", "time 2026-01-05T08:30:15"},
		{"%Y%m%d", "20260105", "time 2026-01-05T00:00:00"},
		{"%b %d, %Y %I:%M %p", "Jan 5, 2026 8:30 PM", "time 2026-01-05T20:30:00"},
		{"%Y-%m-%dT%H:%M:%S.%f", "2026-01-05T08:30:15.123456", "time 2026-01-05T08:30:15.123456"},
		{"%Y-%m-%dT%H:%M:%S.%f", "2026-01-05T08:30:15.12", "time 2026-01-05T08:30:15.12"},
		{"%F %T", "2026-01-05 08:30:15", "time 2026-01-05T08:30:15"},
		{"%F %T%z", "2026-01-05 08:30:15+0800", "time 2026-01-05T00:30:15 = 2026-01-05T00:30:15Z"},
		{"%F %T%z", "2026-01-05 08:30:15+08:00", "time 2026-01-05T00:30:15 = 2026-01-05T00:30:15Z"},
		{"%F %T%z", "2026-01-05 08:30:15Z", "time 2026-01-05T08:30:15 = 2026-01-05T08:30:15Z"},
		{"%a, %d %b %Y %H:%M:%S %Z", "Mon, 05 Jan 2026 08:30:15 GMT", "time 2026-01-05T08:30:15 = 2026-01-05T08:30:15Z"},
		{"%a, %d %b %Y %H:%M:%S %Z", "Mon, 05 Jan 2026 08:30:15 UTC", "time 2026-01-05T08:30:15 = 2026-01-05T08:30:15Z"},
		// The abbreviation stands for five zones.
		{"%a, %d %b %Y %H:%M:%S %Z", "Mon, 05 Jan 2026 08:30:15 CST", misfit},
		{"%H:%M", "08:30", misfit},   // no day
		{"%d.%m.", "05.01.", misfit}, // no year
	} {
		require.Equal(t, c.want, timeOf(t, events.Column{Type: "datetime", From: c.pattern}, encode.Zones{}, `"`+c.text+`"`),
			"%s as %s", c.text, c.pattern)
	}
	require.Equal(t, "time 2026-01-05T00:00:00", timeOf(t, events.Column{Type: "datetime", From: "%Y%m%d"}, encode.Zones{}, "20260105"))
	require.Equal(t, "date 2026-01-05", timeOf(t, events.Column{Type: "date", From: "%Y%m%d"},
		encode.Zones{Display: mustZone("America/New_York"), Source: mustZone("Asia/Shanghai")}, "20260105"), "a day has no zone")
	for _, pattern := range []string{"%s", "%U", "%Q", "%", "Mon %d", "%d.%m.%Y 24"} {
		_, err := newTimeReader(pattern)
		if _, unknown := strftime.Parse(pattern, "x"); pattern != "%" {
			require.Error(t, unknown, pattern)
			require.Error(t, err, pattern)
		}
	}
}

// A pattern that package strftime reads means the same here.
func TestPatternsReadAsStrftimeDoes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		directives := []string{"%Y", "%m", "%d", "%H", "%M", "%S", "%y", "%b", "%B", "%j", "%I", "%p", "%e", "%F", "%T", "%D",
			"%R", "%z", "%:z", "%a", "%%", "-", "/", " ", ":", ".", "年", "T", "%-m", "%-d", "%c", "%x", "%X", "%r"}
		var pattern string
		for _, d := range rapid.SliceOfN(rapid.SampledFrom(directives), 1, 9).Draw(t, "pattern") {
			pattern += d
		}
		at := time.Unix(rapid.Int64Range(minWall, maxWall).Draw(t, "unix"), 0).UTC()
		text := strftime.Format(pattern, at)
		want, err := strftime.Parse(pattern, text)
		if err != nil || want.Year() < 1 || strings.Contains(pattern, "%z") && strings.Contains(pattern, "%:z") {
			return
		}
		r, err := newTimeReader(pattern)
		require.NoError(t, err)
		got, ok := r.read(rows.String, []byte(text))
		require.True(t, ok, "%q as %q", text, pattern)
		require.Equal(t, want.Unix(), got.Seconds, "%q as %q", text, pattern)
	})
}

func TestZones(t *testing.T) {
	t.Parallel()
	shanghai, newYork := mustZone("Asia/Shanghai"), mustZone("America/New_York")
	for _, c := range []struct {
		name            string
		display, source *time.Location
		text, time, day string
	}{
		{"a moment is shown in the zone", shanghai, nil, "2026-01-05T20:00:00Z",
			"time 2026-01-06T04:00:00 = 2026-01-05T20:00:00Z", "date 2026-01-06"},
		{"a time without an offset stays", shanghai, nil, "2026-01-05T20:00:00", "time 2026-01-05T20:00:00", "date 2026-01-05"},
		{"or is in the source's zone", shanghai, newYork, "2026-01-05T20:00:00",
			"time 2026-01-06T09:00:00 = 2026-01-06T01:00:00Z", "date 2026-01-06"},
		{"which an offset overrules", shanghai, newYork, "2026-01-05T20:00:00Z",
			"time 2026-01-06T04:00:00 = 2026-01-05T20:00:00Z", "date 2026-01-06"},
		{"a day is a midnight or the day", newYork, shanghai, "2026-01-05",
			"time 2026-01-04T11:00:00 = 2026-01-04T16:00:00Z", "date 2026-01-05"},
		{"summer time", newYork, nil, "2026-07-01T12:00:00Z", "time 2026-07-01T08:00:00 = 2026-07-01T12:00:00Z", "date 2026-07-01"},
		{"the hour that is skipped counts as later", time.UTC, newYork, "2026-03-08T02:30:00",
			"time 2026-03-08T07:30:00 = 2026-03-08T07:30:00Z", "date 2026-03-08"},
		{"the hour that occurs twice is the first", time.UTC, newYork, "2026-11-01T01:30:00",
			"time 2026-11-01T05:30:00 = 2026-11-01T05:30:00Z", "date 2026-11-01"},
		{"the hour after it is not", time.UTC, newYork, "2026-11-01T02:30:00",
			"time 2026-11-01T07:30:00 = 2026-11-01T07:30:00Z", "date 2026-11-01"},
		{"the last day of a leap year", newYork, newYork, "2128-12-31T12:00:00",
			"time 2128-12-31T12:00:00 = 2128-12-31T17:00:00Z", "date 2128-12-31"},
		{"a whole day that was skipped", time.UTC, mustZone("Pacific/Apia"), "2011-12-30T12:00:00",
			"time 2011-12-30T22:00:00 = 2011-12-30T22:00:00Z", "date 2011-12-30"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			zones := encode.Zones{Display: c.display, Source: c.source}
			require.Equal(t, c.time, timeOf(t, events.Column{Type: "datetime"}, zones, `"`+c.text+`"`))
			require.Equal(t, c.day, timeOf(t, events.Column{Type: "date"}, zones, `"`+c.text+`"`))
		})
	}
}

// The cache of a zone makes no difference, and each wall clock that a zone shows leads back to a moment that
// it shows so, the earliest one.
func TestMomentsOfWallClocks(t *testing.T) {
	t.Parallel()
	names := []string{"UTC", "Asia/Shanghai", "America/New_York", "Europe/London", "Pacific/Apia", "Africa/Casablanca",
		"Antarctica/Troll", "Asia/Manila", "Australia/Lord_Howe"}
	rapid.Check(t, func(t *rapid.T) {
		loc := mustZone(rapid.SampledFrom(names).Draw(t, "zone"))
		z := zone{loc: loc}
		for range 20 {
			at := rapid.Int64Range(-5e9, 5e9).Draw(t, "unix")
			if rapid.Bool().Draw(t, "near a change") {
				if start, _ := time.Unix(at, 0).In(loc).ZoneBounds(); !start.IsZero() {
					at = start.Unix() + rapid.Int64Range(-8000, 8000).Draw(t, "after")
				}
			}
			_, offset := time.Unix(at, 0).In(loc).Zone()
			require.EqualValues(t, offset, z.offset(at))
			wall := at + int64(offset)
			got := z.moment(wall)
			require.LessOrEqual(t, got, at)
			require.Equal(t, wall, got+z.offset(got))
			fresh := zone{loc: loc}
			require.Equal(t, fresh.moment(wall), got)
			skipped := wall + rapid.Int64Range(-9000, 9000).Draw(t, "skipped")
			fresh = zone{loc: loc}
			require.Equal(t, fresh.moment(skipped), z.moment(skipped))
		}
	})
}

func ExampleReader() {
	page := []byte(`[{"id":1,"at":"2026-01-05T20:00:00Z"},{"id":2,"at":"soon"}]`)
	sheet := sheetOf(events.Column{Key: "id"}, events.Column{Key: "at", Type: "date"})
	r, _ := NewReader(sheet)
	for c := rows.NewCursor(page); c.NextRow(); {
		for _, cell := range r.Row(&c) {
			fmt.Println(show(cell))
		}
	}
	for _, w := range r.Notes().Warnings(sheet) {
		fmt.Println(w.Code, w.Message)
	}
	// Output:
	// number 1
	// date 2026-01-05
	// number 2
	// text soon
	// CELL_TYPE 1 value of column "at" does not fit its type and is text; the first is "soon" in data row 2.
}
