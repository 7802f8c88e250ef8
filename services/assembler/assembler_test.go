package assembler

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/journal"
	"sheaf/events/pages"
	"sheaf/services/assembler/encode/xlsx"
	"sheaf/storage"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	"github.com/xuri/excelize/v2"
)

const testKey = "5ad5f7b92a816b76e70a21e4154c2485"

// bench holds the streams, a file store, and the pages of one export.
type stage struct {
	t       *testing.T
	journal *journal.Log
	files   storage.Files
}

func newStage(t *testing.T) *stage {
	t.Helper()
	return stageOn(t, eventstest.Journal(t), t.TempDir())
}

func stageOn(t *testing.T, s *journal.Log, dir string) *stage {
	t.Helper()
	files, err := storage.OpenFiles(t.Context(), "file://"+dir, storage.FilesConfig{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, files.Close()) })
	return &stage{t: t, journal: s, files: files}
}

func (st *stage) service(cfg Config) *Service {
	st.t.Helper()
	s, err := New(cfg, st.journal, st.files)
	require.NoError(st.t, err)
	s.running, err = st.journal.Watch()
	require.NoError(st.t, err)
	st.t.Cleanup(s.running.Close)
	return s
}

func (st *stage) append(known events.Export, p events.Payload) events.Export {
	st.t.Helper()
	known.Tenant, known.Key = "default", testKey
	x, err := st.journal.Append(st.t.Context(), known, "", func(*events.Export) (events.Payload, error) { return p, nil })
	require.NoError(st.t, err)
	return x
}

// crawled publishes pages and the events up to crawled.
func (st *stage) crawled(all ...pages.Page) events.Export {
	st.t.Helper()
	x := st.append(events.Export{}, &events.ExportRequested{CreatedAt: time.Now().UTC(), Request: events.Request{
		Timestamp: 1625106204, ExtType: "XLSX", Title: "订单", UserID: "123", SourceType: events.SourceHTTP,
		HTTP: &events.HTTPRequest{URL: "http://127.0.0.1/", Method: "GET", Limit: 2, Conn: 1},
	}})
	manifest := pages.NewManifest()
	for i, p := range all {
		p.ID = pages.ID{Tenant: "default", Key: testKey, Run: x.RequestedSeq, Number: i + 1}
		manifest.Add(p.Number, p.DataRows(), sha256.Sum256(p.Rows))
		_, err := st.journal.Pages().Publish(st.t.Context(), p)
		require.NoError(st.t, err)
	}
	return st.append(x, &events.ExportCrawled{Run: x.RequestedSeq, Pages: len(all), Manifest: manifest.Sum()})
}

// delivery returns the crawled event of x as its consumer receives it.
func (st *stage) delivery(x events.Export) journal.Delivery {
	st.t.Helper()
	ev := events.Event{ID: x.LastID, Tenant: x.Tenant, Key: x.Key, Time: time.Now(), Payload: &events.ExportCrawled{Run: x.Run, Pages: x.Pages}, Export: &x}
	m, err := events.Encode(ev)
	require.NoError(st.t, err)
	return journal.Delivery{Subject: m.Subject, Header: m.Header, Data: m.Data, Sequence: x.LastSeq, Delivered: 1}
}

func (st *stage) read() events.Export {
	st.t.Helper()
	x, err := st.journal.Read(st.t.Context(), "default", testKey)
	require.NoError(st.t, err)
	return x
}

func (st *stage) stored() []string {
	st.t.Helper()
	var names []string
	_, err := st.files.Sweep(st.t.Context(), func(name string) bool { names = append(names, name); return true }, time.Now().Add(time.Hour))
	require.NoError(st.t, err)
	return names
}

const headerRow = `{"id":"编号","name":"姓名"}`

// page returns a page of n data rows from id on, beginning with the header.
func page(total int64, of, from, n int) pages.Page {
	var b strings.Builder
	b.WriteString("[" + headerRow)
	for i := range n {
		fmt.Fprintf(&b, `,{"id":%d,"name":"客户 %d"}`, from+i, from+i)
	}
	b.WriteString("]")
	return pages.Page{Rows: []byte(b.String()), RowCount: n + 1, HeaderRow: true, Total: total, TotalPages: of, Attempts: 1}
}

// bare returns a page whose first row is data.
func bare(total int64, rowTexts ...string) pages.Page {
	return pages.Page{Rows: []byte("[" + strings.Join(rowTexts, ",") + "]"), RowCount: len(rowTexts), Total: total, Attempts: 1}
}

// sheet opens the workbook of a completed export and returns its rows.
func (st *stage) sheet(x events.Export) [][]string {
	st.t.Helper()
	require.Len(st.t, x.Files, 1)
	f, err := st.files.Open(st.t.Context(), x.Files[0].Store)
	require.NoError(st.t, err)
	defer func() { require.NoError(st.t, f.Close()) }()
	data, err := io.ReadAll(f)
	require.NoError(st.t, err)
	require.Equal(st.t, x.Files[0].Size, int64(len(data)))
	sum := sha256.Sum256(data)
	require.Equal(st.t, x.Files[0].SHA256, hex.EncodeToString(sum[:]))
	z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	require.NoError(st.t, err)
	require.Len(st.t, z.File, 1)
	require.Equal(st.t, "订单-1.XLSX", z.File[0].Name)
	r, err := z.File[0].Open()
	require.NoError(st.t, err)
	book, err := excelize.OpenReader(r)
	require.NoError(st.t, err)
	defer func() { require.NoError(st.t, book.Close()) }()
	got, err := book.GetRows("Sheet1")
	require.NoError(st.t, err)
	return got
}

func TestAssembleCompletes(t *testing.T) {
	t.Parallel()
	st := newStage(t)
	x := st.crawled(page(5, 3, 0, 2), page(5, 3, 2, 2), page(5, 3, 4, 1))
	require.NoError(t, st.service(Config{}).handle(t.Context(), st.delivery(x)))
	got := st.read()
	require.Equal(t, events.StateCompleted, got.State, "%+v", got.Failure)
	require.EqualValues(t, 5, got.Rows)
	require.Equal(t, "订单.zip", got.Files[0].Name)
	require.Empty(t, got.Warnings)
	require.Equal(t, [][]string{{"编号", "姓名"}, {"0", "客户 0"}, {"1", "客户 1"}, {"2", "客户 2"}, {"3", "客户 3"}, {"4", "客户 4"}}, st.sheet(got))
	require.Len(t, st.stored(), 1)
}

// An export completes only if its file is proven complete.
func TestProof(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		claim    string
		pages    []pages.Page
		code     string   // of the failure
		reason   string   // part of it
		warnings []string // codes, of a success
	}{
		{"all there", []pages.Page{page(3, 2, 0, 2), page(3, 2, 2, 1)}, "", "", nil},
		{"too few rows", []pages.Page{page(9, 2, 0, 2), page(9, 2, 2, 1)}, events.CodeSourceIncomplete, "3 rows were read, but the source announced 9", nil},
		{"too many rows", []pages.Page{page(2, 2, 0, 2), page(2, 2, 2, 1)}, events.CodeSourceIncomplete, "3 rows were read, but the source announced 2", nil},
		{"a total that moved, and the rows within", []pages.Page{page(3, 2, 0, 2), page(4, 2, 2, 2)}, "", "", []string{"TOTAL_MOVED"}},
		{"a total that moved, and the rows outside", []pages.Page{page(8, 2, 0, 2), page(9, 2, 2, 2)}, events.CodeSourceIncomplete, "between 8 and 9", nil},
		{"no total", []pages.Page{page(-1, 2, 0, 2), page(-1, 2, 2, 2)}, "", "", []string{"TOTAL_MISSING"}},
		{"the same rows on two pages", []pages.Page{page(4, 2, 0, 2), page(4, 2, 0, 2)}, "", "", nil},
		{"only the header", []pages.Page{page(0, 1, 0, 0)}, "", "", nil},
		{"nothing at all", []pages.Page{bare(0)}, "", "", []string{"EMPTY"}},
		{"later pages without the header", []pages.Page{page(4, 2, 0, 2), bare(4, `{"id":2,"name":"客户 2"}`, `{"id":3,"name":"客户 3"}`)}, "", "", []string{"HEADER_MISSING"}},
	} {
		t.Run(tc.claim, func(t *testing.T) {
			st := newStage(t)
			x := st.crawled(tc.pages...)
			require.NoError(t, st.service(Config{}).handle(t.Context(), st.delivery(x)))
			got := st.read()
			if tc.code != "" {
				require.Equal(t, events.StateFailed, got.State)
				require.Equal(t, tc.code, got.Failure.Code)
				require.Contains(t, got.Failure.Reason, tc.reason)
				require.True(t, got.Failure.RunSpoiled)
				require.Empty(t, st.stored(), "no file is left")
				return
			}
			require.Equal(t, events.StateCompleted, got.State, "%+v", got.Failure)
			var codes []string
			for _, w := range got.Warnings {
				codes = append(codes, w.Code)
			}
			require.Equal(t, tc.warnings, codes)
			want := 0
			for _, p := range tc.pages {
				want += p.DataRows()
			}
			require.EqualValues(t, want, got.Rows)
		})
	}
}

// Complete pages that differ from the crawled ones are a failure.
func TestOtherPagesThanCrawledFail(t *testing.T) {
	t.Parallel()
	st := newStage(t)
	x := st.crawled(page(4, 2, 0, 2), page(4, 2, 2, 2))
	require.NoError(t, st.journal.Pages().PurgeRun(t.Context(), "default", testKey, x.Run, 0))
	for n, from := range []int{0, 7} {
		p := page(4, 2, from, 2)
		p.ID = pages.ID{Tenant: "default", Key: testKey, Run: x.Run, Number: n + 1}
		_, err := st.journal.Pages().Publish(t.Context(), p)
		require.NoError(t, err)
	}
	require.NoError(t, st.service(Config{}).handle(t.Context(), st.delivery(x)))
	got := st.read()
	require.Equal(t, events.StateFailed, got.State)
	require.Contains(t, got.Failure.Reason, "not those that were crawled")
}

func TestMissingPageFails(t *testing.T) {
	t.Parallel()
	st := newStage(t)
	x := st.crawled(page(4, 2, 0, 2), page(4, 2, 2, 2))
	require.NoError(t, st.journal.Pages().PurgeRun(t.Context(), "default", testKey, x.Run, 0))
	require.NoError(t, st.service(Config{}).handle(t.Context(), st.delivery(x)))
	got := st.read()
	require.Equal(t, events.StateFailed, got.State)
	require.Equal(t, events.CodeStore, got.Failure.Code)
	require.Contains(t, got.Failure.Reason, "page 1")
}

// However often and wherever the event is handled, there is one outcome and one file.
func TestTwoAssemblersOnOneExport(t *testing.T) {
	t.Parallel()
	srv, dir := eventstest.Server(t, ""), t.TempDir()
	a := stageOn(t, eventstest.JournalOn(t, srv, journal.Config{}), dir)
	b := stageOn(t, eventstest.JournalOn(t, srv, journal.Config{}), dir)
	x := a.crawled(page(5, 3, 0, 2), page(5, 3, 2, 2), page(5, 3, 4, 1))
	d := a.delivery(x)
	d.Fresh = true // six concurrent assemblies would otherwise count as crashes
	var wg sync.WaitGroup
	for range 3 {
		for _, st := range []*stage{a, b} {
			service := st.service(Config{})
			wg.Go(func() { require.NoError(t, service.handle(t.Context(), d)) })
		}
	}
	wg.Wait()
	got := a.read()
	require.Equal(t, events.StateCompleted, got.State)
	require.Equal(t, []string{got.Files[0].Store}, a.stored())
	require.NoError(t, a.service(Config{}).handle(t.Context(), d), "a late redelivery changes nothing")
	require.Equal(t, got.LastSeq, a.read().LastSeq)
}

func TestCancelledExportLeavesNoFile(t *testing.T) {
	t.Parallel()
	st := newStage(t)
	x := st.crawled(page(5, 3, 0, 2), page(5, 3, 2, 2), page(5, 3, 4, 1))
	st.append(x, &events.ExportCancelled{})
	require.NoError(t, st.service(Config{}).handle(t.Context(), st.delivery(x)))
	require.Equal(t, events.StateCancelled, st.read().State)
	require.Empty(t, st.stored())
}

func TestRunHandsBackOnDrain(t *testing.T) {
	t.Parallel()
	st := newStage(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- st.service(Config{}).Run(ctx) }()
	st.crawled(page(1, 1, 0, 1))
	require.Eventually(t, func() bool { return st.read().State == events.StateCompleted }, 10*time.Second, 5*time.Millisecond)
	cancel()
	require.NoError(t, <-done)
}

// An event of an unknown type still carries the export.
func TestAnUnknownEventIsNoReasonNotToAssemble(t *testing.T) {
	t.Parallel()
	st := newStage(t)
	x := st.crawled(page(1, 1, 0, 1))
	export, err := json.Marshal(x)
	require.NoError(t, err)
	_, err = st.journal.JetStream().PublishMsg(t.Context(), &nats.Msg{
		Subject: "sheaf.event.default.paused." + testKey, Data: fmt.Appendf(nil, `{"export":%s}`, export), Header: nats.Header{
			"ce-specversion": {"1.0"}, "ce-id": {events.NewID()}, "ce-source": {"/sheaf/default"}, "ce-type": {"sheaf.export.paused.v1"},
			"ce-subject": {testKey}, "ce-time": {time.Now().UTC().Format(time.RFC3339Nano)},
		},
	})
	require.NoError(t, err)
	require.NoError(t, st.service(Config{}).handle(t.Context(), st.delivery(x)))
	require.Equal(t, events.StateCompleted, st.read().State)
}

func TestPoisonAssemblyEndsAfterFiveStarts(t *testing.T) {
	t.Parallel()
	st := stageOn(t, eventstest.JournalOn(t, eventstest.Server(t, ""), journal.Config{SuspectPause: time.Millisecond}), t.TempDir())
	x := st.crawled(page(1, 1, 0, 1))
	for range 5 { // five processes that crashed on it
		_, err := st.journal.CountStart(t.Context(), "default", testKey, fmt.Sprintf("assemble:%d", x.LastSeq))
		require.NoError(t, err)
	}
	require.NoError(t, st.service(Config{}).handle(t.Context(), st.delivery(x)))
	require.Equal(t, events.CodeCrashedWorker, st.read().Failure.Code)
}

// Pages are returned in order, whatever the order in which they were read, and the reader never exceeds its
// budget.
func TestReadPagesInOrderWithinBudget(t *testing.T) {
	t.Parallel()
	const size, budget = 1000, 3500
	var mu sync.Mutex
	out, most := 0, 0
	r := readPages(t.Context(), 1, 50, budget, func(_ context.Context, n int) (pages.Page, error) {
		mu.Lock()
		out++
		most = max(most, out)
		mu.Unlock()
		p := pages.Page{Rows: make([]byte, size)}
		p.Number = n
		return p, nil
	})
	defer r.Close()
	for n := 1; n <= 50; n++ {
		p, err := r.Next(t.Context())
		require.NoError(t, err)
		require.Equal(t, n, p.Number)
		mu.Lock()
		out--
		mu.Unlock()
	}
	_, err := r.Next(t.Context())
	require.ErrorIs(t, err, io.EOF)
	require.LessOrEqual(t, (most-1)*size, budget, "besides the page that was handed out last")
}

// Warnings of the writer are in the event that completes the export.
func TestWarningsOfTheWorkbookAreKept(t *testing.T) {
	t.Parallel()
	st := newStage(t)
	p := bare(2, headerRow, `{"id":12345678901234567890,"name":"a"}`, `{"id":3.3000000000000003,"name":1}`)
	p.HeaderRow, p.TotalPages = true, 1
	x := st.crawled(p)
	require.NoError(t, st.service(Config{}).handle(t.Context(), st.delivery(x)))
	got := st.read()
	require.Equal(t, events.StateCompleted, got.State, "%+v", got.Failure)
	require.Equal(t, []events.Warning{{Code: xlsx.WarnNumberAsText,
		Message: `1 number in column "编号" is text, because a number cell would lose digits; the first is Sheet1!A2.`}}, got.Warnings)
}
