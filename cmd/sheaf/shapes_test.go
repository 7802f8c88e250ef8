package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/services/crawler/source/sourcetest"

	"github.com/stretchr/testify/require"
)

// A list in the form of each preset, with each fault, gives its rows or a failure with the code that names
// the fault. It never gives other rows.
func TestEveryPresetWithEveryFault(t *testing.T) {
	t.Parallel()
	const count, size = 23, 5
	server := startServe(t, "--data", t.TempDir(), "--http", "127.0.0.1:0", "--nats-listen", "none")
	const (
		always = "" // the export succeeds
		stuck  = events.CodePagingStuck
		fewer  = events.CodeSourceIncomplete
	)
	choose := func(yes bool, one, other string) string {
		if yes {
			return one
		}
		return other
	}
	numbered := func(s sourcetest.Shape) bool { return !s.Chained() }
	faults := []struct {
		name   string
		quirks sourcetest.Quirks
		code   func(s sourcetest.Shape) string // of the failure, several with a bar between
	}{
		{"nothing", sourcetest.Quirks{}, func(sourcetest.Shape) string { return always }},
		{"the limit is cut", sourcetest.Quirks{Cap: 3}, func(sourcetest.Shape) string { return always }},
		{"one row too many announced", sourcetest.Quirks{TotalOff: 1}, func(s sourcetest.Shape) string { return choose(s.Total, fewer, always) }},
		{"one row too few announced", sourcetest.Quirks{TotalOff: -1}, func(s sourcetest.Shape) string { return choose(s.Total, fewer, always) }},
		{"one row too many announced, clamped", sourcetest.Quirks{TotalOff: 1, Clamp: true}, func(s sourcetest.Shape) string { return choose(s.Total, fewer+"|"+stuck, always) }},
		{"null totals", sourcetest.Quirks{TotalNull: true}, func(sourcetest.Shape) string { return always }},
		{"a total on page 1 alone", sourcetest.Quirks{TotalOnce: true}, func(sourcetest.Shape) string { return always }},
		{"clamped pages", sourcetest.Quirks{Clamp: true}, func(sourcetest.Shape) string { return always }},
		{"clamped pages, null totals", sourcetest.Quirks{Clamp: true, TotalNull: true}, func(s sourcetest.Shape) string {
			return choose(numbered(s) && !s.More && s.Name != "sheaf", stuck, always)
		}},
		{"404 past the end", sourcetest.Quirks{Missing: true}, func(sourcetest.Shape) string { return always }},
		{"404 past the end, null totals", sourcetest.Quirks{Missing: true, TotalNull: true}, func(s sourcetest.Shape) string {
			return choose(numbered(s) && !s.More && !strings.HasPrefix(s.Name, "drf"), events.CodeSourceHTTP, always)
		}},
		{"the place of the page is ignored", sourcetest.Quirks{IgnorePlace: true}, func(s sourcetest.Shape) string { return stuck + "|" + events.CodeSourceChanged }},
		{"a next page that was read", sourcetest.Quirks{RepeatNext: true}, func(s sourcetest.Shape) string {
			return choose(s.Chained() && s.Name != "stripe", events.CodePagingLoop, always)
		}},
		{"a row that is hidden", sourcetest.Quirks{Hidden: true}, func(s sourcetest.Shape) string { return choose(s.Total, fewer, always) }},
		{"a short page in the middle", sourcetest.Quirks{Short: true}, func(sourcetest.Shape) string { return always }},
		{"a failure with status 200", sourcetest.Quirks{FailAt: 3}, func(s sourcetest.Shape) string {
			return choose(s.Errors, events.CodeSourceErrcode, events.CodeSourcePath+"|"+events.CodeSourceFormat)
		}},
		{"an empty last page", sourcetest.Quirks{EmptyLast: true}, func(sourcetest.Shape) string { return always }},
		{"a next page on another host", sourcetest.Quirks{NextOrigin: "http://elsewhere.example"}, func(s sourcetest.Shape) string {
			return choose(s.Paging == events.PagingNextURL || s.Paging == events.PagingLink, events.CodeSourcePaging, always)
		}},
		{"a next page on another port", sourcetest.Quirks{NextOrigin: "http://127.0.0.1:1"}, func(sourcetest.Shape) string { return always }},
	}
	for _, shape := range sourcetest.Shapes() {
		for _, fault := range faults {
			// In brief, each preset has a list without a fault, and one of each style of paging has all faults.
			if !eventstest.Full && fault.quirks != (sourcetest.Quirks{}) &&
				!slices.Contains([]string{"mybatis-plus", "feathers", "graphql-relay", "odata", "github"}, shape.Name) {
				continue
			}
			conns := []int{8}
			if numbered(shape) && fault.quirks.TotalNull || fault.quirks == (sourcetest.Quirks{}) {
				conns = append(conns, 1)
			}
			for _, conn := range conns {
				t.Run(fmt.Sprintf("%s, %s, conn %d", shape.Name, fault.name, conn), func(t *testing.T) {
					t.Parallel()
					list := sourcetest.NewList(t, shape, count, fault.quirks)
					d := exportList(t, server.http, list, size, conn)
					want := fault.code(shape)
					if d.Status == 2 {
						require.Equal(t, wantList(list, size), d.table(t))
						require.Empty(t, want, "it succeeds")
						return
					}
					require.NotEmpty(t, want, "%s: %s", d.ErrorCode, d.FailReason)
					require.Contains(t, strings.Split(want, "|"), d.ErrorCode, d.FailReason)
					require.NotContains(t, d.FailReason, "sk_test_1")
				})
			}
		}
	}
}

// listDetail is the state of an export of a list.
type listDetail struct {
	wireDetail
	ErrorCode string           `json:"error_code"`
	Proof     *events.Proof    `json:"proof"`
	Warnings  []events.Warning `json:"warnings"`
}

// exportList submits a list and waits for its export.
func exportList(t *testing.T, server string, list *sourcetest.List, size, conn int) (d listDetail) {
	t.Helper()
	source := map[string]any{}
	require.NoError(t, json.Unmarshal(list.SourceHTTP(size), &source))
	source["conn"] = conn
	body, err := json.Marshal(map[string]any{"timestamp": 1625106204, "ext_type": "XLSX", "title": "list", "user_id": "1", "source_http": source})
	require.NoError(t, err)
	var accepted struct {
		HashKey string `json:"hash_key"`
	}
	wireCall(t, http.MethodPost, server+"/v1/export/http", string(body), &accepted)
	wireWait(t, server, accepted.HashKey)
	wireCall(t, http.MethodGet, server+"/v1/export/detail?key="+accepted.HashKey, "", &d)
	return d
}

// table downloads the workbook of an export.
func (d *listDetail) table(t *testing.T) [][]string {
	t.Helper()
	res, err := http.Get(d.DownURL)
	require.NoError(t, err)
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return workbookIn(t, data)
}

// wantList is the table of a list: its columns and rows.
func wantList(list *sourcetest.List, size int) [][]string {
	table := [][]string{list.Columns()}
	for _, n := range list.Numbers(size) {
		table = append(table, slices.Clone(list.Cells(n)))
	}
	return table
}
