package preview

import (
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/go-json-experiment/json/jsontext"

	"sheaf/events"
	"sheaf/events/rows"
	"sheaf/events/times"
)

const (
	typedRows    = 5   // rows that page 1 must have, or its names may not be all
	typedValues  = 3   // that a column must have
	typedColumns = 500 // more are left as they are
)

// typeOf is what the values of a column on page 1 show about its type.
type typeOf struct {
	name, title string
	values      int // other than null and ""
	times, days int // of ISO 8601
	zoned, utc  int
	slashes     int
	unix, milli int // integers that are plausible as times
}

// columns proposes the columns of a request, with the types that page 1 shows, and says why. It returns nil
// if no column has a type that a file would not see by itself: dates and times. A request with columns leaves
// all other names out, so there are none either unless each row of page 1 has the same names. titled means
// that the first row holds the titles.
func (r *run) columns(array []byte, titled bool) (columns jsontext.Value, findings []Finding) {
	if r.submission.get("columns") != nil || r.submission.get("sheets") != nil {
		return nil, nil
	}
	list, n, ok := r.typesOf(array, titled)
	if !ok || n < typedRows {
		return nil, nil
	}
	columns = jsontext.Value("[")
	for i, t := range list {
		c := object{}
		key := t.name
		if _, err := rows.ParsePath(key); err != nil {
			key = rows.NewPath(rows.Member(key)).String()
		}
		c.setText("key", key)
		if title := t.title; title != key {
			c.setText("title", title)
		}
		if kind, from, why := t.decide(); kind != "" {
			c.setText("type", kind)
			field := fmt.Sprintf("columns[%d].", i)
			findings = append(findings, Finding{field + "type", kind, Seen, why})
			if from != "" {
				c.setText("from", from)
				findings = append(findings, Finding{field + "from", from, Seen, why})
			}
		}
		if i > 0 {
			columns = append(columns, ',')
		}
		columns = append(columns, c.raw()...)
	}
	if len(findings) == 0 {
		return nil, nil
	}
	why := fmt.Sprintf("each of the %d rows of page 1 has these names; others on later pages would be left out", n)
	findings = slices.Insert(findings, 0, Finding{"columns", len(list), Seen, why})
	return append(columns, ']'), findings
}

// typesOf reads the columns of an array. ok is false unless each row has the same names.
func (r *run) typesOf(array []byte, titled bool) (list []typeOf, n int, ok bool) {
	at, seen := map[string]int{}, []int{} // seen: the last row that has the column
	for c := rows.NewCursor(array); c.NextRow(); n++ {
		names := 0
		for {
			name, _, v, more := c.NextField()
			if !more {
				break
			}
			text := string(rows.Unquote(nil, name))
			i, known := at[text]
			switch {
			case known:
			case n > 0 || len(list) == typedColumns || text == "" || r.hide(text) != text:
				return nil, 0, false
			default:
				i = len(list)
				at[text] = i
				list, seen = append(list, typeOf{name: text, title: text}), append(seen, -1)
			}
			if seen[i] == n { // the last of a repeated name counts, and this reads each
				return nil, 0, false
			}
			seen[i] = n
			names++
			switch {
			case !titled || n > 0:
				list[i].add(v)
			case v.Kind == rows.String:
				if title := string(rows.Unquote(nil, v.Raw)); title != "" && r.hide(title) == title {
					list[i].title = title
				}
			}
		}
		if names != len(list) {
			return nil, 0, false
		}
	}
	if titled {
		n--
	}
	return list, n, true
}

// Bounds of plausible times, in seconds since 1970: the years 2000 to 2099.
const (
	minPlausible = 946_684_800
	maxPlausible = 4_102_444_800
)

func (t *typeOf) add(v rows.Value) {
	if v.Kind == rows.Null || v.Kind == rows.String && len(v.Raw) == len(`""`) {
		return
	}
	t.values++
	switch v.Kind {
	case rows.String:
		if len(v.Raw) > 64 {
			return
		}
		text := rows.Unquote(nil, v.Raw)
		at, ok := times.ISO(text)
		if !ok {
			return
		}
		t.times++
		if at.Day {
			t.days++
		}
		if at.Zoned {
			t.zoned++
		}
		if text[len(text)-1] == 'Z' {
			t.utc++
		}
		if text[4] == '/' {
			t.slashes++
		}
	case rows.Number:
		n := integer(v.Raw)
		if n >= minPlausible && n < maxPlausible {
			t.unix++
		}
		if n >= minPlausible*1000 && n < maxPlausible*1000 {
			t.milli++
		}
	}
}

// decide returns the type that all values show, "" for none.
func (t *typeOf) decide() (kind, from, why string) {
	if t.values < typedValues {
		return "", "", ""
	}
	written := "ISO 8601"
	switch {
	case t.slashes == t.values:
		written = "dates such as 2026/1/5"
	case t.slashes > 0:
		written = "ISO 8601 or dates such as 2026/1/5"
	}
	all := fmt.Sprintf("%d of %[1]d values are ", t.values)
	switch t.values {
	case t.days:
		return events.ColumnDate, "", all + written + " without a time"
	case t.utc:
		return events.ColumnDatetime, "", all + written + " with Z"
	case t.zoned:
		return events.ColumnDatetime, "", all + written + " with an offset"
	case t.times:
		if t.zoned == 0 {
			written += " without an offset"
		}
		return events.ColumnDatetime, "", all + written
	case t.unix, t.milli:
		if !namesTime(t.name) {
			break
		}
		unit, from := "seconds", events.FromUnix
		if t.milli == t.values {
			unit, from = "milliseconds", events.FromUnixMS
		}
		why := all + unit + " since 1970 in the years 2000 to 2099, and the name says time"
		return events.ColumnDatetime, from, why
	}
	return "", "", ""
}

// namesTime reports whether a name, such as createdAt or update_time, says that its values are times.
func namesTime(name string) bool {
	var words []string
	word := ""
	for i, c := range name {
		if !unicode.IsLetter(c) || unicode.IsUpper(c) && i > 0 && word != strings.ToUpper(word) {
			words, word = append(words, word), ""
		}
		if unicode.IsLetter(c) {
			word += string(c)
		}
	}
	for _, word := range append(words, word) {
		switch strings.ToLower(word) {
		case "at", "time", "date", "timestamp", "ts", "datetime", "created", "updated", "modified":
			return true
		}
		for _, part := range []string{"时间", "日期"} {
			if strings.Contains(word, part) {
				return true
			}
		}
	}
	return false
}
