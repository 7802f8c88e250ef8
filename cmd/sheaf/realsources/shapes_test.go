package realsources

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/services/crawler/source/sourcetest"
	"sheaf/services/ingress/request"
)

func TestEachPresetHasAShape(t *testing.T) {
	t.Parallel()
	var presets, shapes []string
	for _, p := range request.Presets() {
		presets = append(presets, p.Name)
	}
	for _, s := range sourcetest.Shapes() {
		shapes = append(shapes, s.Name)
	}
	require.ElementsMatch(t, presets, shapes)
}

// quirk is a way in which a source misbehaves, and how the export of each shape ends.
type quirk struct {
	name   string
	rows   int // 47 if 0
	size   int // 10 if 0
	quirks sourcetest.Quirks
	with   func(s sourcetest.Shape) bool     // the shapes that can have it; nil for all
	fails  func(s sourcetest.Shape) []string // error codes; nil for a workbook with all rows
	reason string
	warns  string
}

func paged(s sourcetest.Shape) bool   { return !s.Chained() }
func totals(s sourcetest.Shape) bool  { return s.Total }
func chained(s sourcetest.Shape) bool { return s.Chained() }
func follows(s sourcetest.Shape) bool {
	return s.Paging == events.PagingNextURL || s.Paging == events.PagingLink
}

// TestEveryPresetWithEveryFault of cmd/sheaf has the plain faults; these are at their edges, or several at
// once.
var quirks = []quirk{
	{name: "the last page is full", rows: 50},
	{name: "all rows are on one page", rows: 7},
	{name: "no rows", rows: -1},
	{name: "the page size is cut", size: 4000, quirks: sourcetest.Quirks{Cap: 10}},
	{name: "the page size is cut and the total is null", size: 4000, quirks: sourcetest.Quirks{Cap: 10, TotalNull: true}, with: totals},
	{name: "the total is null and the last page is full", rows: 50, quirks: sourcetest.Quirks{TotalNull: true}, with: totals},
	{name: "past the end is the last page, of one row, and the total is null", rows: 41, quirks: sourcetest.Quirks{Clamp: true, TotalNull: true}, with: paged,
		fails: func(s sourcetest.Shape) []string {
			if s.More || s.Name == "sheaf" {
				return nil
			}
			return []string{events.CodePagingStuck}
		}},
	{name: "the place is ignored and the rows add up", rows: 50, quirks: sourcetest.Quirks{IgnorePlace: true}, fails: stuck},
	{name: "the place is ignored and the total is null", rows: 50, quirks: sourcetest.Quirks{IgnorePlace: true, TotalNull: true}, with: totals, fails: stuck},
	{name: "page 1 is a failure with status 200", quirks: sourcetest.Quirks{FailAt: 1}, fails: reported},
	{name: "the last page is empty and those before are full", rows: 50, quirks: sourcetest.Quirks{EmptyLast: true}, with: chained},
	{name: "the next page is on another port", quirks: sourcetest.Quirks{NextOrigin: "http://127.0.0.1:1"}, with: follows, warns: "NEXT_URL_REWRITTEN"},
}

func stuck(s sourcetest.Shape) []string {
	switch {
	case s.Chained():
		return []string{events.CodePagingLoop, events.CodePagingStuck}
	case s.Name == "sheaf": // has rules of its own
		return []string{events.CodeSourceChanged, events.CodePagingStuck}
	}
	return []string{events.CodePagingStuck}
}

func reported(s sourcetest.Shape) []string {
	if s.Errors {
		return []string{events.CodeSourceErrcode}
	}
	return []string{events.CodeSourcePath}
}

// shapes are those of all presets, without the tag chaos one of each style of paging.
func shapes() (chosen []sourcetest.Shape) {
	if eventstest.Full {
		return sourcetest.Shapes()
	}
	for _, preset := range []string{"sheaf", "pocketbase", "spring", "feathers", "notion", "stripe", "drf-cursor", "link"} {
		chosen = append(chosen, sourcetest.ShapeOf(preset))
	}
	return chosen
}

// With every preset and every quirk the workbook holds all rows, or the export fails and says why.
func TestQuirksOfSourcesCostNoRows(t *testing.T) {
	t.Parallel()
	sheaf := startSheaf(t)
	for _, q := range quirks {
		t.Run(q.name, func(t *testing.T) {
			t.Parallel()
			for _, shape := range shapes() {
				if q.with != nil && !q.with(shape) {
					continue
				}
				rows, size := q.rows, q.size
				if rows == 0 {
					rows = 47
				}
				if size == 0 {
					size = 10
				}
				list := sourcetest.NewList(t, shape, max(rows, 0), q.quirks)
				o := sheaf.export(t, list.SourceHTTP(size))
				var want []string
				if q.fails != nil {
					want = q.fails(shape)
				}
				if want == nil {
					requireList(t, sheaf, list, size, o)
					if q.warns != "" && !o.warned(q.warns) {
						t.Errorf("%s: no warning %s in %v", shape.Name, q.warns, o.Warnings)
					}
					continue
				}
				if o.Status != failed || !slices.Contains(want, o.ErrorCode) || !strings.Contains(o.FailReason, q.reason) {
					t.Errorf("%s: want %v %q, got status %d, %s: %s", shape.Name, want, q.reason, o.Status, o.ErrorCode, o.FailReason)
				}
			}
		})
	}
}

// withConn returns a source_http with a number of concurrent requests.
func withConn(t testing.TB, source []byte, conn int) []byte {
	t.Helper()
	var fields map[string]any
	require.NoError(t, json.Unmarshal(source, &fields))
	fields["conn"] = conn
	b, err := json.Marshal(fields)
	require.NoError(t, err)
	return b
}

// requireList reports an error unless the export completed with exactly the rows of the list.
func requireList(t testing.TB, s *sheaf, list *sourcetest.List, size int, o outcome) {
	t.Helper()
	if o.Status != completed {
		t.Errorf("%s: %s: %s", list.Shape.Name, o.ErrorCode, o.FailReason)
		return
	}
	if diff := difference(t, s, list, size, o); diff != "" {
		t.Errorf("%s: %s", list.Shape.Name, diff)
	}
}

// difference says how the workbook differs from the list, "" if it does not.
func difference(t testing.TB, s *sheaf, list *sourcetest.List, size int, o outcome) string {
	t.Helper()
	cells, numbers := s.cells(t, o), list.Numbers(size)
	if len(numbers) == 0 {
		if len(cells) <= 1 {
			return ""
		}
		return fmt.Sprintf("%d rows of none", len(cells)-1)
	}
	if len(cells) != len(numbers)+1 {
		return fmt.Sprintf("%d rows, want %d", len(cells)-1, len(numbers))
	}
	if !slices.Equal(cells[0], list.Columns()) {
		return fmt.Sprintf("the header is %q", cells[0])
	}
	for i, n := range numbers {
		if !slices.Equal(cells[i+1], list.Cells(n)) {
			return fmt.Sprintf("row %d is %q, want %q", i+1, cells[i+1], list.Cells(n))
		}
	}
	return ""
}

// A proxy that ends TLS makes servers name their own pages with http.
func TestHTTPSIsKeptThoughTheNextPageIsNamedWithHTTP(t *testing.T) {
	probe := sourcetest.NewTLSList(t, sourcetest.ShapeOf("link"), 1, sourcetest.Quirks{})
	file := filepath.Join(t.TempDir(), "ca")
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: probe.Certificate.Raw}), 0o600))
	t.Setenv("SSL_CERT_FILE", file) // the first connection of the process reads it
	sheaf := startSheaf(t)
	for _, shape := range sourcetest.Shapes() {
		if !follows(shape) {
			continue
		}
		for _, origin := range []string{"http://127.0.0.1", "http://127.0.0.1:8080"} {
			list := sourcetest.NewTLSList(t, shape, 47, sourcetest.Quirks{NextOrigin: origin})
			o := sheaf.export(t, list.SourceHTTP(10))
			requireList(t, sheaf, list, 10, o)
			require.True(t, o.warned("NEXT_URL_REWRITTEN"), shape.Name)
		}
	}
}

// Whatever the quirks: a completed export holds all rows.
func TestNoMixtureOfQuirksCostsRows(t *testing.T) {
	t.Parallel()
	sheaf := startSheaf(t)
	rapid.Check(t, func(r *rapid.T) {
		shape := rapid.SampledFrom(sourcetest.Shapes()).Draw(r, "shape")
		size := rapid.IntRange(2, 12).Draw(r, "size")
		count := rapid.IntRange(0, 5*size).Draw(r, "rows")
		flag := func(name string) bool { return rapid.IntRange(0, 5).Draw(r, name) == 0 }
		q := sourcetest.Quirks{
			TotalOff: rapid.SampledFrom([]int{0, 0, 0, 1, -1}).Draw(r, "total off"), TotalNull: flag("total null"), TotalOnce: flag("total once"),
			Clamp: flag("clamp"), Missing: flag("missing"), IgnorePlace: flag("ignore place"), RepeatNext: flag("repeat next"),
			Hidden: flag("hidden"), Short: flag("short"), EmptyLast: flag("empty last"), FailAt: rapid.SampledFrom([]int{0, 0, 0, 0, 1, 2, 4}).Draw(r, "fail at"),
		}
		asked := size
		if flag("cut") {
			q.Cap, asked = size, size+rapid.IntRange(1, 5000).Draw(r, "above")
		}
		if q.TotalOff < 0 && count%size == 1 {
			q.TotalOff = 0 // all pages that were announced are full: nothing shows that one is missing
		}
		list := sourcetest.NewList(t, shape, count, q)
		o := sheaf.export(t, withConn(t, list.SourceHTTP(asked), rapid.IntRange(1, 8).Draw(r, "conn")))
		if o.Status != completed {
			if !strings.HasPrefix(o.ErrorCode, "SOURCE_") && !strings.HasPrefix(o.ErrorCode, "PAGING_") {
				r.Fatalf("status %d, %s: %s", o.Status, o.ErrorCode, o.FailReason)
			}
			return
		}
		if diff := difference(t, sheaf, list, asked, o); diff != "" {
			r.Fatalf("%s", diff)
		}
	})
}
