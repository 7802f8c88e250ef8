package console

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// section is a part of the system page: facts, or a table.
type section struct {
	Title   string
	Facts   []fact
	Columns []fact // Name and Number
	Rows    [][]fact
}

type fact struct {
	Name, Value string
	Number      bool
	Href        string
	Used, Max   json.Number // of a bar; Max is "" without one
}

// system shows what the operations system and tenants answer, member by member, so that the page shows a
// newer member too.
func (v *visit) system() error {
	var sections []section
	var all map[string]any
	if err := v.call("system", nil, nil, &all); err != nil {
		return err
	}
	top := section{Title: v.word("server")}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if isPlain(all[name]) {
			if all[name] == "" {
				continue // such as the revision of a program that was built outside of git
			}
			top.Facts = append(top.Facts, v.fact(name, all[name]))
			continue
		}
		sections = append(sections, v.section(name, all[name]))
	}
	if len(top.Facts) > 0 {
		sections = append([]section{top}, sections...)
	}
	var tenants any
	if err := v.call("tenants", nil, nil, &tenants); err != nil {
		return err
	}
	if o, ok := tenants.(map[string]any); ok && len(o) == 1 {
		for _, tenants = range o { // {"tenants": […]}
		}
	}
	sections = append(sections, v.section("tenants", tenants))
	p := v.page(v.t("nav.system"), "system")
	p.Data = struct{ Sections []section }{sections}
	return v.render(http.StatusOK, "system", p)
}

// word returns the text of a member's name.
func (v *visit) word(name string) string {
	return wordOr(v.prefs.Lang, "system."+name, strings.ReplaceAll(name, "_", " "))
}

func isPlain(value any) bool {
	switch value.(type) {
	case map[string]any, []any:
		return false
	}
	return true
}

func (v *visit) section(name string, value any) section {
	s := section{Title: v.word(name)}
	switch x := value.(type) {
	case map[string]any:
		for _, member := range slices.Sorted(maps.Keys(x)) {
			f := v.fact(member, x[member])
			f.Used, f.Max = bar(x, member)
			s.Facts = append(s.Facts, f)
		}
	case []any:
		v.table(&s, name, x)
	}
	if len(s.Facts) == 0 && len(s.Rows) == 0 {
		s.Facts = []fact{{Name: s.Title, Value: v.t("system.none")}}
	}
	return s
}

// bar returns the numbers of a bar for a member bytes beside a limit.
func bar(o map[string]any, member string) (used, limit json.Number) {
	if member != "bytes" {
		return "", ""
	}
	used, _ = o["bytes"].(json.Number)
	limit, _ = o["limit"].(json.Number)
	if limit == "0" || strings.HasPrefix(limit.String(), "-") {
		limit = ""
	}
	return used, limit
}

// table shows an array of objects, with a column for each member of the first one.
func (v *visit) table(s *section, name string, list []any) {
	var columns []string
	for _, element := range list {
		o, ok := element.(map[string]any)
		if !ok {
			s.Rows = append(s.Rows, []fact{v.fact("", element)})
			continue
		}
		if columns == nil {
			columns = columnsOf(o)
		}
		var cells []fact
		for _, column := range columns {
			f := v.fact(column, o[column])
			if name == "tenants" && (column == "tenant" || column == "name") {
				f.Href = v.base + "/console/?" + url.Values{"tenant": {f.Value}}.Encode()
			}
			cells = append(cells, f)
		}
		s.Rows = append(s.Rows, cells)
	}
	for _, column := range columns {
		s.Columns = append(s.Columns, fact{Name: v.word(column), Number: isNumber(list[0], column)})
	}
	if columns == nil && len(list) > 0 {
		s.Columns = []fact{{Name: s.Title}}
	}
}

// isNumber reports whether a member of an object is a number.
func isNumber(element any, member string) bool {
	o, _ := element.(map[string]any)
	_, ok := o[member].(json.Number)
	return ok
}

// columnsOf returns the members of an object, its name first.
func columnsOf(o map[string]any) []string {
	columns := slices.Sorted(maps.Keys(o))
	for _, first := range []string{"name", "tenant", "id"} {
		if i := slices.Index(columns, first); i > 0 {
			columns = slices.Insert(slices.Delete(columns, i, i+1), 0, first)
		}
	}
	return columns
}

func (v *visit) fact(name string, value any) fact {
	f := fact{Name: v.word(name), Value: text(value)}
	switch x := value.(type) {
	case bool:
		f.Value = v.t("system.no")
		if x {
			f.Value = v.t("system.yes")
		}
	case string:
		if at, err := time.Parse(time.RFC3339, x); err == nil && strings.HasSuffix(name, "_at") {
			f.Value = v.moment(at).Text
		}
	}
	n, ok := value.(json.Number)
	if !ok {
		return f
	}
	f.Number = true
	i, err := n.Int64()
	switch {
	case err != nil:
	case i < 0 && name == "limit":
		f.Value = v.t("system.none")
	case isBytes(name):
		f.Value = size(i)
	default:
		f.Value = grouped(i)
	}
	return f
}

// isBytes reports whether a member is a number of bytes.
func isBytes(name string) bool {
	return strings.Contains(name, "bytes") || slices.Contains([]string{"limit", "size", "free", "reserve", "heap", "total"}, name)
}

// demoCommand returns a command that exports the demo source.
func (v *visit) demoCommand() string {
	f := &form{URL: v.PublicURL + "/demo/page", Method: http.MethodGet, Title: "Demo", Format: "XLSX", Limit: "100"}
	for _, c := range v.commands(f) {
		return string(bytes.TrimSpace([]byte(c.Text)))
	}
	return ""
}
