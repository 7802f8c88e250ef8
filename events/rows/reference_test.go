package rows_test

import (
	"bytes"
	"encoding/json"
	"math/big"
	"strings"
	"unicode/utf8"

	"sheaf/events/rows"
)

// Slow readers built on encoding/json, the reference for the scanner.

var deep = rows.Limits{MaxDepth: 10_000} // the depth of encoding/json

type field struct {
	Name string
	Raw  string
}

// referenceRows decodes an array of objects; ok is false if it is not one.
func referenceRows(array []byte) ([][]field, bool) {
	var elements []json.RawMessage
	if !utf8.Valid(array) || json.Unmarshal(array, &elements) != nil || elements == nil {
		return nil, false
	}
	all := [][]field{}
	for _, e := range elements {
		if e[0] != '{' {
			return nil, false
		}
		d := json.NewDecoder(bytes.NewReader(e))
		if _, err := d.Token(); err != nil {
			return nil, false
		}
		row := []field{}
		for d.More() {
			name, err := d.Token()
			if err != nil {
				return nil, false
			}
			var v json.RawMessage
			if d.Decode(&v) != nil {
				return nil, false
			}
			row = append(row, field{name.(string), string(bytes.TrimSpace(v))})
		}
		all = append(all, row)
	}
	return all, true
}

// cursorRows walks an array three times side by side: the second time expecting the names of the row before,
// the third time reading the fields with those names at once. ok is false if a walk takes more steps than the
// array has bytes, or if two differ.
func cursorRows(array []byte) (all [][]field, ok bool) {
	all = [][]field{}
	steps := 0
	var before [][]byte // the expected names
	expecting, atOnce := rows.NewCursor(array), rows.NewCursor(array)
	for c := rows.NewCursor(array); c.NextRow(); {
		if !expecting.NextRow() || !atOnce.NextRow() {
			return nil, false
		}
		row := []field{}
		spans := make([]rows.Span, len(before))
		run := atOnce.NextFields(before, spans)
		ended := atOnce.EndRow()
		for i := 0; ; i++ {
			if steps++; steps > 2*len(array)+2 {
				return nil, false
			}
			if i == len(before) {
				before = append(before, nil)
			}
			name, escaped, v, more := c.NextField()
			at, same, alsoMore := expecting.Next(before[i])
			if more != alsoMore || ended && more != (i < run) {
				return nil, false
			}
			if same != (i < run) && i <= run {
				return nil, false
			}
			if i < run {
				if spans[i] != at {
					return nil, false
				}
			} else if left, _, moreLeft := atOnce.Next(nil); moreLeft != more || more && left != at {
				return nil, false
			}
			if !more {
				break
			}
			if !bytes.Equal(expecting.Name(), name) || !bytes.Equal(expecting.Raw(at), v.Raw) ||
				at.Kind != v.Kind || at.Escaped != v.Escaped {
				return nil, false
			}
			expected := rows.Expect(nil, name)
			if same && !bytes.Equal(before[i], expected) {
				return nil, false
			}
			before[i] = expected
			if escaped != bytes.ContainsRune(name, '\\') ||
				v.Escaped != (v.Kind == rows.String && bytes.ContainsRune(v.Raw, '\\')) {
				return nil, false
			}
			row = append(row, field{string(rows.Unquote(nil, name)), string(v.Raw)})
		}
		all = append(all, row)
	}
	return all, !expecting.NextRow() && !atOnce.NextRow()
}

// referenceResponse does what ScanResponse does, with maps.
func referenceResponse(body []byte) (r rows.Response, ok bool) {
	body = bytes.TrimPrefix(body, []byte("\xef\xbb\xbf"))
	if !utf8.Valid(body) {
		return r, false
	}
	top, isObject := object(body)
	if !isObject {
		return r, false
	}
	r.Errcode = string(top["errcode"])
	for len(r.Errcode) > 128 {
		_, n := utf8.DecodeLastRuneInString(r.Errcode)
		r.Errcode = r.Errcode[:len(r.Errcode)-n]
	}
	if msg := top["msg"]; len(msg) > 0 {
		switch msg[0] {
		case '"':
			var s string
			_ = json.Unmarshal(msg, &s)
			r.Msg = s
		case '{', '[', 'n':
		default:
			r.Msg = string(msg)
		}
		if utf8.RuneCountInString(r.Msg) > 500 {
			r.Msg = string([]rune(r.Msg)[:500])
		}
	}
	right := true
	var data map[string]json.RawMessage
	if data, isObject = object(top["data"]); !isObject {
		right = false
	}
	if string(data["data"]) == "null" {
		data["data"] = json.RawMessage("[]")
	}
	if all, isRows := referenceRows(data["data"]); isRows {
		r.Rows, r.RowCount = data["data"], len(all)
		if len(all) > 0 {
			var elements []json.RawMessage
			_ = json.Unmarshal(r.Rows, &elements)
			r.FirstRow = elements[0]
		}
	} else {
		right = false
	}
	if tag := data["pagetag"]; tag != nil && string(tag) != "null" {
		var numbers map[string]json.RawMessage
		if numbers, r.HasPagetag = object(tag); !r.HasPagetag {
			right = false
		}
		for name, to := range map[string]struct {
			n   *int64
			has *bool
		}{
			"page": {&r.Page, &r.HasPage}, "limit": {&r.Limit, &r.HasLimit},
			"total": {&r.Total, &r.HasTotal}, "total_page": {&r.TotalPage, &r.HasTotalPage},
		} {
			raw := numbers[name]
			if raw == nil || string(raw) == "null" || name == "page" && string(raw) == `""` {
				continue
			}
			text := string(raw)
			if raw[0] == '"' {
				_ = json.Unmarshal(raw, &text)
			}
			var number json.Number
			if !json.Valid([]byte(text)) || strings.TrimSpace(text) != text ||
				json.Unmarshal([]byte(text), &number) != nil || text[0] == '"' {
				right = right && name != "page"
				*to.has = name != "page"
				continue
			}
			rat, isRat := new(big.Rat).SetString(text)
			if !isRat || !rat.IsInt() || rat.Sign() < 0 || !rat.Num().IsInt64() {
				nothing := name == "limit" || name != "page" && isRat && (!rat.IsInt() || rat.Sign() < 0)
				right, *to.has = right && nothing, nothing
				continue
			}
			*to.n, *to.has = rat.Num().Int64(), true
		}
	}
	return r, right || !r.OK()
}

func object(b []byte) (map[string]json.RawMessage, bool) {
	var m map[string]json.RawMessage
	if len(bytes.TrimSpace(b)) == 0 || bytes.TrimSpace(b)[0] != '{' || json.Unmarshal(b, &m) != nil {
		return nil, false
	}
	return m, true
}
