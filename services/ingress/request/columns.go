package request

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/ncruces/go-strftime"

	"sheaf/events"
	"sheaf/events/rows"
)

// Bounds of columns.
const (
	maxColumns      = 1000
	maxMap          = 1000 // entries of a column
	maxMapText      = 255  // characters of a key or a text
	maxJoin         = 64   // characters
	maxFrom         = 64   // characters
	maxNumberFormat = 255  // characters, as in Excel
	maxLink         = 2048 // characters
	maxWidth        = 255
)

const columnsField = "columns"

// columnNames are the members of a column.
var columnNames = []string{"key", "title", "type", "from", "format", "map", "join", "link", "width"}

// columnTypes are the types of a column.
var columnTypes = []string{
	events.ColumnText, events.ColumnNumber, events.ColumnBool, events.ColumnDate, events.ColumnDatetime, events.ColumnJSON, events.ColumnAuto,
}

// columns reads the columns of a file. null, an empty array and an absent value are none.
func columns(value jsontext.Value) ([]events.Column, error) {
	if value == nil || value.Kind() == 'n' {
		return nil, nil
	}
	values, err := atMost(member{name: columnsField, value: value}, maxColumns)
	if err != nil {
		return nil, err
	}
	if len(values) == 0 {
		return nil, nil
	}
	list := make([]events.Column, len(values))
	same := map[string]int{} // position by key and title
	for i, v := range values {
		field := fmt.Sprintf("%s[%d]", columnsField, i)
		c, err := column(field, v)
		if err != nil {
			return nil, err
		}
		id := keyOf(c.Key) + "\x00" + titleOf(c)
		if first, twice := same[id]; twice {
			return nil, fieldError(field+".key", "repeats columns[%d]; give it another title", first)
		}
		same[id], list[i] = i, c
	}
	return list, nil
}

func titleOf(c events.Column) string {
	if c.Title != "" {
		return c.Title
	}
	return c.Key
}

// keyOf returns one text for all forms of a key.
func keyOf(key string) string {
	if p, err := rows.ParsePath(key); err == nil {
		return p.String()
	}
	return rows.NewPath(rows.Member(key)).String()
}

// column reads one column.
func column(field string, value jsontext.Value) (c events.Column, err error) {
	given, _, err := knownFields(field, value, columnNames)
	if err != nil {
		return c, err
	}
	at := func(name string) (member, bool) {
		return member{name: field + "." + name, value: given[name]}, given[name] != nil
	}
	m, ok := at("key")
	if !ok {
		return c, fieldError(m.name, "is required")
	}
	s, err := text(m, maxPlace)
	if err != nil {
		return c, err
	}
	var title string
	if c.Key, title, err = columnKey(m.name, s); err != nil {
		return c, err
	}
	if m, ok := at("title"); ok {
		if c.Title, err = text(m, maxTitle); err != nil {
			return c, err
		}
	}
	switch {
	case c.Title == "" && title != c.Key:
		c.Title = title
	case c.Title == c.Key && title == c.Key:
		c.Title = "" // the default
	}
	if m, ok := at("type"); ok {
		if c.Type, err = columnType(m); err != nil {
			return c, err
		}
	}
	for _, read := range []struct {
		name string
		read func(*events.Column, member) error
	}{
		{"from", readFrom}, {"format", readNumberFormat}, {"map", readMap}, {"link", readLink},
		{"join", func(c *events.Column, m member) error {
			s, err := text(m, maxJoin)
			c.Join = &s
			return err
		}},
		{"width", func(c *events.Column, m member) error {
			n, err := integer(m, 1, maxWidth)
			c.Width = int(n)
			return err
		}},
	} {
		if m, ok := at(read.name); ok {
			if err := read.read(&c, m); err != nil {
				return c, err
			}
		}
	}
	return c, nil
}

// columnKey checks the key of a column: a path, or the name of a field without dots and brackets. A quoted
// name is returned without its quotes where that is the same. title is the default.
func columnKey(field, s string) (key, title string, err error) {
	p, err := rows.ParsePath(s)
	if err != nil {
		if s != "" && !strings.ContainsAny(s, ".[]$*") && len(s) <= maxMapText {
			return s, s, nil
		}
		return "", "", pathError(field, s, err)
	}
	steps := p.Steps()
	if len(steps) == 0 || steps[0].Index >= 0 {
		return "", "", Invalid(field, "%q is not in a row; give the name of a field", Cut(s, 64))
	}
	if len(steps) > 1 {
		return s, s, nil
	}
	name := steps[0].Name
	if name != "" && !strings.ContainsAny(name, ".[]$*") {
		return name, name, nil
	}
	return s, name, nil
}

func columnType(m member) (string, error) {
	s, err := text(m, maxTitle)
	switch {
	case err != nil || s == "" || s == events.ColumnAuto:
		return "", err
	case !slices.Contains(columnTypes, s):
		return "", Invalid(m.name, "%q is not known; %s", Cut(s, 64), strings.Join(columnTypes, ", "))
	}
	return s, nil
}

func isDate(c *events.Column) bool {
	return c.Type == events.ColumnDate || c.Type == events.ColumnDatetime
}

// readFrom reads how a date is written.
func readFrom(c *events.Column, m member) error {
	s, err := text(m, maxFrom)
	if err != nil || s == "" || s == "auto" {
		return err
	}
	if !isDate(c) {
		return fieldError(m.name, "needs type date or datetime")
	}
	known := []string{"auto", events.FromISO, events.FromUnix, events.FromUnixMS}
	switch {
	case slices.Contains(known, s):
	case !strings.Contains(s, "%"):
		return Invalid(m.name, "%q is not known; %s, or a pattern such as %%d/%%m/%%Y %%H:%%M", Cut(s, 64), strings.Join(known, ", "))
	default:
		if why := badPattern(s); why != "" {
			return Invalid(m.name, "%q %s", s, why)
		}
	}
	c.From = s
	return nil
}

// badPattern says why no date can be read by a strftime pattern, "" if one can.
func badPattern(pattern string) string {
	// A day whose parts differ, and whose two-digit year is of this century.
	day := time.Date(2017, time.November, 23, 21, 45, 56, 0, time.UTC)
	got, err := strftime.Parse(pattern, strftime.Format(pattern, day))
	if err != nil {
		why := strings.TrimSpace(strings.TrimPrefix(err.Error(), "strftime: "))
		if !strings.HasPrefix(err.Error(), "strftime: ") {
			why = "a directive cannot be read"
		}
		return "cannot read dates: " + Cut(why, 120)
	}
	if y, month, d := got.Date(); y != day.Year() || month != day.Month() || d != day.Day() {
		return "must name the year, the month and the day, such as %Y-%m-%d"
	}
	return ""
}

// readMap reads the texts that replace values.
func readMap(c *events.Column, m member) error {
	members, err := objectMembers(m.name, m.value)
	if err != nil {
		return err
	}
	if len(members) > maxMap {
		return Invalid(m.name, "has %d entries, at most %d are allowed", len(members), maxMap)
	}
	for _, e := range members {
		field := fmt.Sprintf("%s[%q]", m.name, Cut(e.name, maxWarningField))
		if len([]rune(e.name)) > maxMapText {
			return Invalid(field, "the value has more than %d characters", maxMapText)
		}
		var to string
		switch e.value.Kind() {
		case '{', '[':
			return Invalid(field, "must be text, not %s", kindName(e.value.Kind()))
		case 't', 'f':
			to = string(e.value)
		default:
			if to, err = textOrNumber(member{name: field, value: e.value}, maxMapText); err != nil {
				return err
			}
		}
		if c.Map == nil {
			c.Map = map[string]string{}
		}
		c.Map[e.name] = to
	}
	return nil
}

// readLink reads true, or the template of a link.
func readLink(c *events.Column, m member) error {
	switch m.value.Kind() {
	case 't':
		c.Link = events.LinkValue
		return nil
	case 'f':
		return nil
	case '"':
	default:
		return Invalid(m.name, "must be true or a template such as https://shop.example/orders/{id}, not %s", kindName(m.value.Kind()))
	}
	s, err := text(m, maxLink)
	if err != nil {
		return err
	}
	scheme, _, found := strings.Cut(strings.ToLower(s), ":")
	switch {
	case !found || scheme != "http" && scheme != "https" && scheme != "mailto",
		scheme != "mailto" && !strings.HasPrefix(strings.ToLower(s), scheme+"://"):
		return Invalid(m.name, "must begin with http://, https:// or mailto:")
	case strings.ContainsFunc(s, unicode.IsControl):
		return Invalid(m.name, "holds a control character, such as a line break")
	}
	for left := s; ; {
		before, after, opened := strings.Cut(left, "{")
		if strings.Contains(before, "}") {
			return Invalid(m.name, "has a } without a {; write %%7D in a URL")
		}
		if !opened {
			break
		}
		key, rest, closed := strings.Cut(after, "}")
		if !closed || key == "" {
			return Invalid(m.name, "lacks a key in braces, such as {id}")
		}
		if _, _, err := columnKey(m.name, key); err != nil {
			return err
		}
		left = rest
	}
	c.Link = s
	return nil
}

// readNumberFormat reads an Excel number format. A wrong one would make Excel repair the file.
func readNumberFormat(c *events.Column, m member) error {
	s, err := text(m, maxNumberFormat)
	if err != nil || s == "" {
		return err
	}
	if c.Type != "" && c.Type != events.ColumnNumber && !isDate(c) {
		return fieldError(m.name, "has no meaning with type %s", c.Type)
	}
	if at, why := badNumberFormat(s); why != "" {
		return Invalid(m.name, "%q at %d: %s", Cut(s, 64), at, why)
	}
	c.Format = s
	return nil
}

// inBrackets matches what may be in the brackets of a number format: a colour, a condition, a currency or
// locale, an elapsed time, or a system of digits.
var inBrackets = regexp.MustCompile(`^(?i:black|blue|cyan|green|magenta|red|white|yellow|color ?[1-9][0-9]?|h+|m+|s+|dbnum[1-4]|\$[^\[\]"]*|(<|>|=|<=|>=|<>)-?[0-9]+(\.[0-9]+)?)$`)

// badNumberFormat says what is wrong with a number format, and at which character; "" if nothing is.
func badNumberFormat(s string) (at int, why string) {
	runes := []rune(s)
	until := func(from int, end rune) int {
		if n := slices.Index(runes[from:], end); n >= 0 {
			return from + n
		}
		return -1
	}
	sections := 1
	for i := 0; i < len(runes); i++ {
		r, rest := runes[i], string(runes[i:])
		switch {
		case unicode.IsControl(r) || !unicode.IsPrint(r) && r != '\u00a0':
			return i + 1, "a control character is not allowed"
		case r == '"':
			end := until(i+1, '"')
			if end < 0 {
				return i + 1, "the quote is not closed"
			}
			i = end
		case r == '[':
			end := until(i+1, ']')
			if end < 0 {
				return i + 1, "the bracket is not closed"
			}
			if in := string(runes[i+1 : end]); !inBrackets.MatchString(in) {
				return i + 1, fmt.Sprintf("[%s] is not known; want a colour, a condition, [h] or [$¥]", Cut(in, 32))
			}
			i = end
		case r == '\\' || r == '_' || r == '*':
			if i++; i == len(runes) {
				return i, fmt.Sprintf("a character must follow %c", r)
			}
		case r == ';':
			if sections++; sections > 4 {
				return i + 1, "more than four sections"
			}
		case len(rest) >= 7 && strings.EqualFold(rest[:7], "general"):
			i += 6
		case len(rest) >= 5 && strings.EqualFold(rest[:5], "am/pm"):
			i += 4
		case len(rest) >= 3 && strings.EqualFold(rest[:3], "a/p"):
			i += 2
		case (r == 'E' || r == 'e') && i+1 < len(runes) && (runes[i+1] == '+' || runes[i+1] == '-'):
			i++
		case r < 0x80 && !strings.ContainsRune(`0123456789#?.,%/ $-+():!^&'~{}<>=@ymdhsYMDHS`, r):
			return i + 1, fmt.Sprintf("%q is not allowed outside quotes", r)
		}
	}
	return 0, ""
}
