package preview

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"sheaf/events/rows"
)

// show keeps the first rows for the answer. titled means that the first row holds the titles.
func (r *run) show(array []byte, titled bool) {
	r.answer.Columns, r.answer.Rows = []string{}, [][]any{}
	c := rows.NewCursor(array)
	var list []object
	for len(list) < shownRows+1 {
		raw, ok := c.NextRaw()
		if !ok {
			break
		}
		row, err := readObject(raw)
		if err != nil {
			break
		}
		list = append(list, row)
	}
	var names []string
	for _, row := range list {
		for _, m := range row {
			if !slices.Contains(names, m.name) && len(names) < shownNames {
				names = append(names, m.name)
			}
		}
	}
	if titled && len(list) > 0 {
		for _, name := range names {
			title := textOf(list[0].get(name))
			if title == "" {
				title = name
			}
			r.answer.Columns = append(r.answer.Columns, cut(r.hide(title)))
		}
		list = list[1:]
	} else {
		for _, name := range names {
			r.answer.Columns = append(r.answer.Columns, cut(r.hide(name)))
		}
	}
	for _, row := range list[:min(len(list), shownRows)] {
		cells := make([]any, len(names))
		for i, name := range names {
			cells[i] = r.cell(row.get(name))
		}
		r.answer.Rows = append(r.answer.Rows, cells)
	}
}

// cell returns a value for the answer. Long and nested ones become text.
func (r *run) cell(v jsontext.Value) any {
	switch v.Kind() {
	case 't':
		return true
	case 'f':
		return false
	case '0':
		if len(v) <= shownChars {
			return json.RawMessage(v.Clone())
		}
		return cut(string(v))
	case '"':
		return cut(r.hide(textOf(v)))
	case '{', '[':
		flat := v.Clone()
		_ = flat.Compact(lenient, jsontext.PreserveRawStrings(false)) // so that texts can be read and secrets found
		return cut(r.hide(string(flat)))
	}
	return nil
}

func cut(text string) string {
	n := 0
	for i := range text {
		if n++; n > shownChars {
			return text[:i] + "…"
		}
	}
	return strings.ToValidUTF8(text, "\ufffd")
}

// hide replaces the secrets of the submission in a text of the source. The text may be JSON, or hold JSON as a
// string, which escapes the characters of a secret once or twice.
func (r *run) hide(text string) string {
	for _, secret := range r.secrets {
		for range 3 {
			text = strings.ReplaceAll(text, secret, "***")
			escaped, _ := jsontext.AppendQuote(nil, secret) // of a checked request, so it is UTF-8
			if secret = string(escaped[1 : len(escaped)-1]); !strings.Contains(secret, `\`) {
				break
			}
		}
	}
	return text
}

func stringsOf(array jsontext.Value) (list []string) {
	_ = json.Unmarshal(array, &list)
	return list
}
