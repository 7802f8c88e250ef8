package main

import (
	"encoding/json"
	"fmt"
	"slices"

	"sheaf/events"
	"sheaf/events/rows"
)

// untyped returns a draft without its columns: with them a preview proposes no types.
func untyped(draft []byte) ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(draft, &fields); err != nil {
		return nil, err
	}
	delete(fields, "columns")
	return json.Marshal(fields)
}

// adoptFrom completes the columns of a submission that are dates or times with the notation that a preview saw.
func adoptFrom(columns, preview json.RawMessage) json.RawMessage {
	var given []map[string]any
	var proposed struct{ Columns []events.Column }
	if json.Unmarshal(columns, &given) != nil || json.Unmarshal(preview, &proposed) != nil {
		return columns // the server names the mistake
	}
	adopted := false
	for _, column := range given {
		if column["from"] != nil || column["type"] != events.ColumnDate && column["type"] != events.ColumnDatetime {
			continue
		}
		for _, p := range proposed.Columns {
			if p.From != "" && column["key"] == p.Key {
				column["from"], adopted = p.From, true
			}
		}
	}
	if !adopted {
		return columns
	}
	completed, err := json.Marshal(given)
	if err != nil {
		return columns
	}
	return completed
}

// strangers returns a hint for each key of columns that no known column has, but a similar one.
func strangers(columns json.RawMessage, known []string) (hints []string) {
	var members []struct{ Key string }
	_ = json.Unmarshal(columns, &members)
	for _, column := range members {
		path, err := rows.ParsePath(column.Key)
		if err != nil || len(path.Steps()) != 1 || slices.Contains(known, column.Key) ||
			slices.Contains(known, path.Steps()[0].Name) {
			continue
		}
		if hint := didYouMean(column.Key, slices.Values(known)); hint != "" {
			hints = append(hints, fmt.Sprintf("--column %s: there is no column %[1]s%s", column.Key, hint))
		}
	}
	return hints
}
