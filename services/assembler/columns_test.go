package assembler

import (
	"crypto/sha256"
	"strings"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/pages"

	"github.com/stretchr/testify/require"
)

// declared publishes a run whose columns are on page 0, and the events up to crawled. names is page 0.
func (st *stage) declared(paging events.Paging, proof string, names string, all ...pages.Page) events.Export {
	st.t.Helper()
	x := st.append(events.Export{}, &events.ExportRequested{CreatedAt: time.Now().UTC(), Request: events.Request{
		Timestamp: 1625106204, ExtType: "XLSX", Title: "订单", UserID: "123", SourceType: events.SourceHTTP,
		HTTP: &events.HTTPRequest{URL: "http://127.0.0.1/", Method: "GET", Limit: 2, Conn: 1, Paging: &paging},
	}})
	manifest := pages.NewManifest()
	columns := bare(-1, names)
	columns.HeaderRow = true
	if names == "" {
		columns = bare(-1)
	}
	for i, p := range append([]pages.Page{columns}, all...) {
		p.ID = pages.ID{Tenant: "default", Key: testKey, Run: x.RequestedSeq, Number: i}
		manifest.Add(p.Number, p.DataRows(), sha256.Sum256(p.Rows))
		_, err := st.journal.Pages().Publish(st.t.Context(), p)
		require.NoError(st.t, err)
	}
	listed, err := st.journal.Pages().List(st.t.Context(), "default", testKey, x.RequestedSeq, 0)
	require.NoError(st.t, err)
	require.Len(st.t, listed, len(all), "page 0 is no page of rows")
	return st.append(x, &events.ExportCrawled{Run: x.RequestedSeq, Pages: len(all), Manifest: manifest.Sum(), Proof: &events.Proof{Kind: proof}})
}

// Without a header row, the columns are those of page 0, and the first row of every page is data.
func TestColumnsOfPageZero(t *testing.T) {
	t.Parallel()
	const names = `{"a":"a","b":"b"}`
	first, second := `{"a":1}`, `{"b":"x","a":2}`
	for _, tc := range []struct {
		claim    string
		paging   events.Paging
		proof    string
		names    string
		pages    []pages.Page
		reason   string // of a failure
		sheet    [][]string
		warnings string // codes
	}{
		{"a total that fits", events.Paging{}, events.ProofTotal, names, []pages.Page{bare(2, first), bare(2, second)}, "", [][]string{{"a", "b"}, {"1"}, {"2", "x"}}, ""},
		{"one more row than announced", events.Paging{}, events.ProofTotal, names, []pages.Page{bare(1, first), bare(1, second)}, "2 rows were read, but the source announced 1", nil, ""},
		{"rows although 0 are announced", events.Paging{}, events.ProofTotal, names, []pages.Page{bare(0, first, second)}, "2 rows were read, but the source announced 0", nil, ""},
		{"an estimate proves nothing", events.Paging{Estimate: true}, events.ProofEnd, names, []pages.Page{bare(9, first), bare(7, second)}, "", [][]string{{"a", "b"}, {"1"}, {"2", "x"}}, "TOTAL_MISSING"},
		{"no number", events.Paging{}, events.ProofEnd, names, []pages.Page{bare(-1, first, second)}, "", [][]string{{"a", "b"}, {"1"}, {"2", "x"}}, "TOTAL_MISSING"},
		{"a number of pages", events.Paging{}, events.ProofPages, names, []pages.Page{bare(-1, first, second)}, "", [][]string{{"a", "b"}, {"1"}, {"2", "x"}}, ""},
		{"a total on page 1 alone", events.Paging{}, events.ProofTotal, names, []pages.Page{bare(2, first), bare(-1, second)}, "", [][]string{{"a", "b"}, {"1"}, {"2", "x"}}, ""},
		{"an empty first page", events.Paging{}, events.ProofTotal, names, []pages.Page{bare(2), bare(2, first, second)}, "", [][]string{{"a", "b"}, {"1"}, {"2", "x"}}, ""},
		{"no rows", events.Paging{}, events.ProofEnd, "", []pages.Page{bare(-1)}, "", nil, "EMPTY"},
		{"no rows, as announced", events.Paging{}, events.ProofTotal, "", []pages.Page{bare(0)}, "", nil, "EMPTY"},
	} {
		t.Run(tc.claim, func(t *testing.T) {
			st := newStage(t)
			x := st.declared(tc.paging, tc.proof, tc.names, tc.pages...)
			require.NoError(t, st.service(Config{}).handle(t.Context(), st.delivery(x)))
			got := st.read()
			if tc.reason != "" {
				require.Equal(t, events.CodeSourceIncomplete, got.Failure.Code)
				require.Equal(t, tc.reason, got.Failure.Reason)
				return
			}
			require.Equal(t, events.StateCompleted, got.State, "%+v", got.Failure)
			require.ElementsMatch(t, tc.sheet, st.sheet(got))
			var codes []string
			for _, w := range got.Warnings {
				codes = append(codes, w.Code)
			}
			require.Equal(t, tc.warnings, strings.Join(codes, " "))
		})
	}
}

// Without a limit in the request a page may have any number of rows, so those of the proof decide.
func TestDeclaredWorkbookIsLargeByItsRows(t *testing.T) {
	t.Parallel()
	x := events.Export{Pages: 1, Request: events.Request{HTTP: &events.HTTPRequest{Paging: &events.Paging{Type: events.PagingNone}}}}
	for rows, small := range map[int64]bool{smallRows: true, smallRows + 1: false} {
		x.Proof = &events.Proof{Rows: rows, Pages: 1}
		require.Equal(t, small, isSmall(&x), "%d rows", rows)
	}
}

// A run without its page 0 makes no file.
func TestPageZeroIsMissing(t *testing.T) {
	t.Parallel()
	st := newStage(t)
	x := st.append(events.Export{}, &events.ExportRequested{CreatedAt: time.Now().UTC(), Request: events.Request{
		ExtType: "XLSX", SourceType: events.SourceHTTP,
		HTTP: &events.HTTPRequest{URL: "http://127.0.0.1/", Method: "GET", Limit: 2, Conn: 1, Paging: &events.Paging{}},
	}})
	p := bare(-1, `{"a":1}`)
	p.ID = pages.ID{Tenant: "default", Key: testKey, Run: x.RequestedSeq, Number: 1}
	_, err := st.journal.Pages().Publish(t.Context(), p)
	require.NoError(t, err)
	x = st.append(x, &events.ExportCrawled{Run: x.RequestedSeq, Pages: 1, Manifest: "-"})
	require.NoError(t, st.service(Config{}).handle(t.Context(), st.delivery(x)))
	require.Equal(t, events.CodeStore, st.read().Failure.Code)
}
