package assembler

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/pages"
	"sheaf/events/rows"
	"sheaf/services/assembler/encode"
	"sheaf/services/assembler/encode/archive"

	"github.com/stretchr/testify/require"
	"github.com/xuri/excelize/v2"
	"pgregory.net/rapid"
)

// Two formats of the tests: LINES has a document for each sheet and reads it twice, first for the number of its
// rows. BOOK holds all sheets and is compressed already.
var (
	linesFormat = encode.Format{Format: events.Format{Name: "LINES", Ext: ".lines", MediaType: "text/x-lines"},
		Write: writeLines}
	bookFormat = encode.Format{Format: events.Format{Name: "BOOK", Ext: ".book", MediaType: "text/x-book", ManySheets: true},
		Compressed: true, Write: writeLines}
)

func init() { formats = append(formats, linesFormat, bookFormat) }

var errColumns = encode.TooManyColumnsError{Columns: 9, Max: 3}

func writeLines(ctx context.Context, out *archive.Output, doc encode.Document) (res encode.Result, err error) {
	w, err := archive.NewWriter(out)
	if err != nil {
		return res, err
	}
	for _, sheet := range doc.Sheets {
		var titles []string
		for _, c := range sheet.Columns {
			titles = append(titles, c.Title)
		}
		if slices.Contains(titles, "too many") {
			return res, &errColumns
		}
		count, err := eachRow(ctx, sheet, func([]byte) error { return nil })
		if err != nil {
			return res, err
		}
		fmt.Fprintf(w, "%s|%s|%s|%d\n", sheet.Title, strings.Join(titles, ","), doc.Created.Format(time.RFC3339), count)
		again, err := eachRow(ctx, sheet, func(row []byte) error {
			_, err := fmt.Fprintf(w, "%s\n", row)
			return err
		})
		if err != nil {
			return res, err
		}
		if again != count {
			return res, fmt.Errorf("%d rows and then %d", count, again)
		}
		res.Rows = append(res.Rows, count)
		res.Warnings = append(res.Warnings, encode.Warning{Code: "SAID", Message: "by every document"})
	}
	return res, w.Close()
}

func eachRow(ctx context.Context, sheet encode.Sheet, each func(row []byte) error) (count int64, err error) {
	next := sheet.Open()
	for number := 1; ; number++ {
		p, err := next(ctx)
		if errors.Is(err, io.EOF) {
			return count, nil
		}
		if err != nil {
			return count, fmt.Errorf("page %d: %w", number, err)
		}
		if p.Number != number {
			return count, fmt.Errorf("page %d came as %d", p.Number, number)
		}
		for n := range p.RowCount {
			if n == 0 && p.SkipFirst {
				continue
			}
			row := rows.Slice(nil, p.Rows, n, n+1)
			if err := each(row[1 : len(row)-1]); err != nil {
				return count, err
			}
			count++
		}
		if p.Release != nil {
			p.Release()
		}
	}
}

// listed is an export of one or several lists, as it is crawled: one slice of pages for each sheet. The first
// page of a sheet with paging is page 0.
func (st *stage) listed(req events.Request, sheets ...[]pages.Page) events.Export {
	st.t.Helper()
	x := st.append(events.Export{}, &events.ExportRequested{
		CreatedAt: time.Date(2026, 11, 30, 7, 0, 0, 123, time.UTC), Request: req})
	crawled := events.ExportCrawled{Run: x.RequestedSeq}
	for i, all := range sheets {
		manifest, one := pages.NewManifest(), x.Request.Sheet(i)
		from := events.SheetPages{Run: x.RequestedSeq}
		for n, p := range all {
			if !one.HasColumnsPage() {
				n++
			}
			p.ID = pages.ID{Tenant: "default", Key: testKey, Run: from.Run, Sheet: i, Number: n}
			rowsOf := p.DataRows()
			manifest.Add(p.Number, rowsOf, sha256.Sum256(p.Rows))
			_, err := st.journal.Pages().Publish(st.t.Context(), p)
			require.NoError(st.t, err)
			if n > 0 {
				from.Pages++
				from.Rows += int64(rowsOf)
			}
		}
		from.Manifest = manifest.Sum()
		crawled.Pages += from.Pages
		if crawled.Manifest = from.Manifest; len(req.Sheets) > 0 {
			crawled.Sheets = append(crawled.Sheets, from)
		}
	}
	return st.append(x, &crawled)
}

// entries returns the documents of a file: those of its zip, or the file itself under its name.
func (st *stage) entries(file events.File) (names []string, contents map[string]string) {
	st.t.Helper()
	f, err := st.files.Open(st.t.Context(), file.Store)
	require.NoError(st.t, err)
	defer func() { require.NoError(st.t, f.Close()) }()
	data, err := io.ReadAll(f)
	require.NoError(st.t, err)
	require.Equal(st.t, file.Size, int64(len(data)))
	require.Equal(st.t, file.SHA256, sumOf(data))
	contents = map[string]string{}
	if !strings.HasSuffix(file.Store, ".zip") {
		contents[file.Name] = string(data)
		return []string{file.Name}, contents
	}
	z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	require.NoError(st.t, err)
	for _, entry := range z.File {
		r, err := entry.Open()
		require.NoError(st.t, err)
		all, err := io.ReadAll(r)
		require.NoError(st.t, err)
		names, contents[entry.Name] = append(names, entry.Name), string(all)
	}
	require.Len(st.t, contents, len(z.File), "names are unique")
	total := int64(0)
	for i, c := range file.Contents {
		require.Equal(st.t, names[i], c.Name)
		require.EqualValues(st.t, len(contents[c.Name]), c.Size)
		if len(names) > 1 || c.SHA256 != "" {
			require.Equal(st.t, sumOf([]byte(contents[c.Name])), c.SHA256)
		}
		total += c.Rows
	}
	if file.Contents != nil {
		require.Zero(st.t, total%max(file.Rows, 1), "each format has all rows")
	}
	return names, contents
}

func sumOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// complete assembles an export and returns it completed.
func (st *stage) complete(cfg Config, x events.Export) events.Export {
	st.t.Helper()
	require.NoError(st.t, st.service(cfg).handle(st.t.Context(), st.delivery(x)))
	got := st.read()
	require.Equal(st.t, events.StateCompleted, got.State, "%+v", got.Failure)
	require.Equal(st.t, []string{got.Files[0].Store}, st.stored(), "and no other file or draft")
	return got
}

func listRequest(extType string, o events.Options) events.Request {
	req := events.Request{ExtType: extType, Title: "订单", UserID: "123", SourceType: events.SourceHTTP, Timestamp: 1625106204,
		HTTP: &events.HTTPRequest{URL: "http://user:pw@127.0.0.1/orders?token=sesame", Method: "GET", Limit: 2, Conn: 1}}
	if o != (events.Options{}) {
		req.Options = &o
	}
	return req
}

// sheetsRequest has a sheet for each title. Those that end in * are without a header row.
func sheetsRequest(extType string, o events.Options, titles ...string) events.Request {
	req := listRequest(extType, o)
	for _, title := range titles {
		from := *req.HTTP
		title, bare := strings.CutSuffix(title, "*")
		if bare {
			from.Paging = &events.Paging{Type: events.PagingPage}
		}
		req.Sheets = append(req.Sheets, events.Sheet{Title: title, HTTP: &from})
	}
	req.HTTP, req.SourceType = nil, ""
	return req
}

const stamp = "2021-07-01T02:23:24Z"

func rowText(id int) string { return fmt.Sprintf(`{"id":%d,"name":"客户 %d"}`, id, id) }

// lineText is the text of a sheet in the format LINES.
func lineText(title, columns string, ids ...int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s|%s|%s|%d\n", title, columns, stamp, len(ids))
	for _, id := range ids {
		b.WriteString(rowText(id) + "\n")
	}
	return b.String()
}

func columnsPage(names string) pages.Page {
	p := bare(-1, names)
	p.HeaderRow = true
	return p
}

// An export has a document for each format, sheet and part.
func TestDocuments(t *testing.T) {
	t.Parallel()
	five := []pages.Page{page(5, 3, 0, 2), page(5, 3, 2, 2), page(5, 3, 4, 1)}
	customers := []pages.Page{columnsPage(`{"id":"id","name":"name"}`), bare(3, rowText(7), rowText(8)), bare(3), bare(3, rowText(9))}
	headerOnly := []pages.Page{page(0, 1, 0, 0)}
	nothing := []pages.Page{bare(0)}
	const own, names = "编号,姓名", "id,name"
	for _, tc := range []struct {
		claim string
		req   events.Request
		pages [][]pages.Page
		rows  int64
		want  []string // name, content
	}{
		{"one format", listRequest("lines", events.Options{}), [][]pages.Page{five}, 5,
			[]string{"订单.lines", lineText("", own, 0, 1, 2, 3, 4)}},
		{"two formats", listRequest("LINES, book", events.Options{}), [][]pages.Page{five}, 5,
			[]string{"订单.lines", lineText("", own, 0, 1, 2, 3, 4), "订单.book", lineText("", own, 0, 1, 2, 3, 4)}},
		{"a part for each row", listRequest("LINES", events.Options{MaxRows: 1}), [][]pages.Page{five}, 5,
			[]string{"订单-001.lines", lineText("", own, 0), "订单-002.lines", lineText("", own, 1), "订单-003.lines", lineText("", own, 2),
				"订单-004.lines", lineText("", own, 3), "订单-005.lines", lineText("", own, 4)}},
		{"parts that end within pages", listRequest("BOOK", events.Options{MaxRows: 3}), [][]pages.Page{five}, 5,
			[]string{"订单-001.book", lineText("", own, 0, 1, 2), "订单-002.book", lineText("", own, 3, 4)}},
		{"parts that end with pages", listRequest("BOOK", events.Options{MaxRows: 2}),
			[][]pages.Page{{five[0], five[1], page(5, 3, 0, 0), five[2]}}, 5,
			[]string{"订单-001.book", lineText("", own, 0, 1), "订单-002.book", lineText("", own, 2, 3), "订单-003.book", lineText("", own, 4)}},
		{"as many rows as a part has", listRequest("LINES", events.Options{MaxRows: 5}), [][]pages.Page{five}, 5,
			[]string{"订单-001.lines", lineText("", own, 0, 1, 2, 3, 4)}},
		{"parts of no rows", listRequest("LINES", events.Options{MaxRows: 2}), [][]pages.Page{headerOnly}, 0,
			[]string{"订单-001.lines", lineText("", own)}},
		{"nothing at all", listRequest("LINES", events.Options{MaxRows: 2}), [][]pages.Page{nothing}, 0,
			[]string{"订单-001.lines", lineText("", "")}},
		{"sheets", sheetsRequest("LINES,BOOK", events.Options{}, "订单", "客户*", "空"), [][]pages.Page{five, customers, headerOnly}, 8,
			[]string{"订单-订单.lines", lineText("订单", own, 0, 1, 2, 3, 4), "订单-客户.lines", lineText("客户", names, 7, 8, 9), "订单-空.lines", lineText("空", own),
				"订单.book", lineText("订单", own, 0, 1, 2, 3, 4) + lineText("客户", names, 7, 8, 9) + lineText("空", own)}},
		{"sheets in parts", sheetsRequest("BOOK", events.Options{MaxRows: 2}, "a", "b*"), [][]pages.Page{{page(2, 1, 0, 2)}, customers}, 5,
			[]string{"订单-a-001.book", lineText("a", own, 0, 1), "订单-b-001.book", lineText("b", names, 7, 8), "订单-b-002.book", lineText("b", names, 9)}},
		{"one sheet", sheetsRequest("LINES", events.Options{}, "客户*"), [][]pages.Page{customers}, 3,
			[]string{"订单.lines", lineText("客户", names, 7, 8, 9)}},
		{"an empty sheet", sheetsRequest("BOOK", events.Options{}, "a*", "b"), [][]pages.Page{{bare(-1), bare(-1)}, nothing}, 0,
			[]string{"订单.book", lineText("a", "") + lineText("b", "")}},
		{"titles that make one name", sheetsRequest("LINES", events.Options{}, "a/", "A", "", "manifest"),
			[][]pages.Page{headerOnly, headerOnly, headerOnly, headerOnly}, 0,
			[]string{"订单-a.lines", lineText("a/", own), "订单-A-2.lines", lineText("A", own), "订单-3.lines", lineText("", own), "订单-manifest.lines", lineText("manifest", own)}},
	} {
		t.Run(tc.claim, func(t *testing.T) {
			t.Parallel()
			st := newStage(t)
			got := st.complete(Config{}, st.listed(tc.req, tc.pages...))
			require.Equal(t, tc.rows, got.Rows)
			require.Equal(t, tc.rows, got.Files[0].Rows)
			require.Equal(t, "订单.zip", got.Files[0].Name)
			names, contents := st.entries(got.Files[0])
			require.Len(t, got.Files[0].Contents, len(names))
			var have []string
			for i, name := range names {
				have = append(have, name, contents[name])
				require.EqualValues(t, strings.Count(contents[name], `{"id"`), got.Files[0].Contents[i].Rows)
			}
			require.Equal(t, tc.want, have)
		})
	}
}

// Every format can be the file itself, and be beside others in a zip. However often it is made, by however
// many goroutines, the bytes are the same.
func TestEveryFormat(t *testing.T) {
	t.Parallel()
	var all []pages.Page
	for n := range 20 {
		all = append(all, page(2000, 20, n*100, 100))
	}
	shas := func(st *stage, x events.Export) {
		want := ""
		for _, cfg := range []Config{{Parallel: 1}, {Parallel: 8}, {Parallel: 3, ReadAhead: 1 << 10}} {
			completed, err := st.service(cfg).assemble(t.Context(), &x)
			require.NoError(t, err)
			if want == "" {
				want = completed.Files[0].SHA256
			}
			require.Equal(t, want, completed.Files[0].SHA256)
			require.EqualValues(t, 2000, completed.Rows)
			names, contents := st.entries(completed.Files[0])
			for _, name := range names {
				require.NotEmpty(t, contents[name])
			}
		}
	}
	var every []string
	for _, f := range Formats() {
		every = append(every, f.Name)
		t.Run(f.Name, func(t *testing.T) {
			t.Parallel()
			st := newStage(t)
			x := st.listed(listRequest(f.Name, events.Options{NoZip: true}), all)
			shas(st, x)
			completed, err := st.service(Config{}).assemble(t.Context(), &x)
			require.NoError(t, err)
			file := completed.Files[0]
			require.Equal(t, "订单"+f.Ext, file.Name)
			require.True(t, strings.HasSuffix(file.Store, f.Ext))
			require.Empty(t, file.Contents)
		})
	}
	t.Run("all in one zip", func(t *testing.T) {
		t.Parallel()
		st := newStage(t)
		shas(st, st.listed(listRequest(strings.Join(every, ","), events.Options{Manifest: true}), all))
	})
	t.Run("all in parts", func(t *testing.T) {
		t.Parallel()
		st := newStage(t)
		shas(st, st.listed(listRequest(strings.Join(every, ","), events.Options{MaxRows: 333}), all))
	})
}

// An assembly that ends anywhere leaves nothing, and the next one makes the same bytes.
func TestAssembliesThatEndAnywhere(t *testing.T) {
	t.Parallel()
	st := newStage(t)
	x := st.listed(sheetsRequest("LINES,BOOK", events.Options{MaxRows: 3, Manifest: true}, "a", "b"),
		[]pages.Page{page(4, 2, 0, 2), page(4, 2, 2, 2)}, []pages.Page{page(1, 1, 0, 1)})
	want, err := st.service(Config{}).assemble(t.Context(), &x)
	require.NoError(t, err)
	for at := 1; ; at++ {
		reads := 0
		ctx, cancel := context.WithCancel(t.Context())
		s := st.service(Config{Room: func(bytes int64) error {
			if reads++; reads == at {
				cancel()
			}
			return nil
		}})
		_, err := s.assemble(ctx, &x)
		ended := ctx.Err() != nil
		cancel()
		if !ended {
			require.NoError(t, err)
			require.Greater(t, at, 12, "pages were read")
			break
		}
		require.ErrorIs(t, err, context.Canceled)
	}
	got, err := st.service(Config{}).assemble(t.Context(), &x)
	require.NoError(t, err)
	require.Equal(t, want.Files[0].SHA256, got.Files[0].SHA256)
	require.Len(t, st.stored(), 3)
}

// A page that is lost or replaced after a format was written fails the export.
func TestPagesChangeBetweenTwoFormats(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		claim    string
		sheet    int
		extType  string
		options  events.Options
		at       int // readings of page 2 of the sheet until it changes
		replaced bool
		code     string
		reason   string
	}{
		{"lost between formats", 0, "BOOK,LINES", events.Options{}, 2, false, events.CodeStore, `LINES, sheet 1 "a": page 1: page missing`},
		{"lost in the other sheet", 1, "BOOK,LINES", events.Options{}, 2, false, events.CodeStore, `LINES, sheet 2 "b": `},
		{"replaced between formats", 1, "BOOK,LINES", events.Options{}, 2, true, events.CodeSourceIncomplete, `sheet 2 "b": the 2 pages are not those that were crawled`},
		{"replaced between two readings of a format", 0, "LINES", events.Options{}, 1, true, events.CodeSourceIncomplete, "are not those that were crawled"},
		{"lost between parts", 0, "LINES", events.Options{MaxRows: 1}, 2, false, events.CodeStore, `LINES, sheet 1 "a": page 1: `},
		{"lost before the manifest", 0, "BOOK", events.Options{Manifest: true}, 2, false, events.CodeStore, `manifest.json: sheet 1 "a": `},
		{"replaced before the manifest", 0, "BOOK", events.Options{Manifest: true}, 2, true, events.CodeSourceIncomplete, `manifest.json: sheet 1 "a": the 2 pages`},
	} {
		t.Run(tc.claim, func(t *testing.T) {
			t.Parallel()
			st := newStage(t)
			x := st.listed(sheetsRequest(tc.extType, tc.options, "a", "b"),
				[]pages.Page{page(4, 2, 0, 2), page(4, 2, 2, 2)}, []pages.Page{page(4, 2, 0, 2), page(4, 2, 2, 2)})
			s := st.service(Config{})
			a, err := s.newAssembly(t.Context(), &x)
			require.NoError(t, err)
			sh, reads := a.sheets[tc.sheet], 0
			get := sh.get
			sh.get = func(ctx context.Context, n int) (pages.Page, error) {
				if n == 1 {
					if reads++; reads > tc.at {
						if !tc.replaced {
							return pages.Page{}, events.ErrPageMissing
						}
						p := page(4, 2, 90, 2)
						p.Number, p.SHA256 = 1, sha256.Sum256(p.Rows)
						return p, nil
					}
				}
				return get(ctx, n)
			}
			draft, err := st.files.Create(t.Context())
			require.NoError(t, err)
			defer draft.Discard()
			_, err = a.write(t.Context(), draft.File())
			var f *failure
			require.ErrorAs(t, err, &f)
			require.Equal(t, tc.code, f.code)
			require.Contains(t, f.reason, tc.reason)
		})
	}
}

// unzipped returns an entry of a zip.
func unzipped(t *testing.T, data, name string) string {
	t.Helper()
	z, err := zip.NewReader(strings.NewReader(data), int64(len(data)))
	require.NoError(t, err)
	f, err := z.Open(name)
	require.NoError(t, err)
	all, err := io.ReadAll(f)
	require.NoError(t, err)
	return string(all)
}

// A failure says which document and which sheet it is about, and leaves no file.
func TestFailuresOfDocuments(t *testing.T) {
	t.Parallel()
	wide := bare(1, `{"a":"too many"}`, `{"a":1}`)
	wide.HeaderRow = true
	short := page(9, 1, 0, 2)
	header := page(0, 1, 0, 0)
	late := []pages.Page{bare(-1), bare(-1, rowText(1))} // page 1 is empty, so there is no header
	zone := listRequest("LINES", events.Options{Timezone: "Mars/Olympus"})
	sheetsLost := sheetsRequest("BOOK", events.Options{}, "a", "b")
	var many []pages.Page
	for n := range 11 {
		many = append(many, page(1100, 11, n*100, 100))
	}
	for _, tc := range []struct {
		claim  string
		req    events.Request
		pages  [][]pages.Page
		code   string
		reason string
	}{
		{"too many columns", listRequest("LINES", events.Options{}), [][]pages.Page{{wide}}, events.CodeLimitColumns, "LINES: " + errColumns.Error()},
		{"too many columns in a sheet", sheetsRequest("LINES", events.Options{}, "a", "b"), [][]pages.Page{{header}, {wide}}, events.CodeLimitColumns, `LINES, sheet 2 "b": ` + errColumns.Error()},
		{"too few rows in a sheet", sheetsRequest("BOOK", events.Options{}, "a", "b"), [][]pages.Page{{header}, {short}}, events.CodeSourceIncomplete, `sheet 2 "b": 2 rows were read, but the source announced 9`},
		{"too few rows in parts", listRequest("LINES", events.Options{MaxRows: 1}), [][]pages.Page{{short}}, events.CodeSourceIncomplete, "2 rows were read, but the source announced 9"},
		{"no header", listRequest("XLSX,LINES", events.Options{}), [][]pages.Page{late}, events.CodeSourceIncomplete, "XLSX: write the workbook: page 1 is empty"},
		{"an unknown zone", zone, [][]pages.Page{{header}}, events.CodeInternal, "options.timezone: unknown time zone Mars/Olympus"},
		{"too many files", listRequest("LINES", events.Options{MaxRows: 1}), [][]pages.Page{many}, events.CodeLimitRows, "options.max_rows: 1 makes more files than an export may have: 1000"},
		{"too many files, as is known before", sheetsRequest("LINES,BOOK", events.Options{MaxRows: 2}, "a", "b"), [][]pages.Page{many, {header}}, events.CodeLimitRows, "options.max_rows: 2 makes more files"},
		{"fewer sheets than asked for", sheetsLost, [][]pages.Page{{header}}, events.CodeInternal, "1 sheets were crawled of 2"},
	} {
		t.Run(tc.claim, func(t *testing.T) {
			t.Parallel()
			st := newStage(t)
			x := st.listed(tc.req, tc.pages...)
			require.NoError(t, st.service(Config{}).handle(t.Context(), st.delivery(x)))
			got := st.read()
			require.Equal(t, events.StateFailed, got.State)
			require.Equal(t, tc.code, got.Failure.Code)
			require.Contains(t, got.Failure.Reason, tc.reason)
			require.Empty(t, st.stored())
		})
	}
}

// Cut into documents anywhere, the rows of any pages are each there once, in order, and every document but the
// last is full.
func TestWindows(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		headers := rapid.Bool().Draw(t, "headers")
		var all []pages.Page
		var want []string
		manifest := pages.NewManifest()
		for n, count := range rapid.SliceOfN(rapid.IntRange(0, 4), 1, 8).Draw(t, "rows") {
			var texts []string
			if headers {
				texts = append(texts, headerRow)
			}
			for range count {
				want = append(want, rowText(len(want)))
				texts = append(texts, want[len(want)-1])
			}
			p := bare(-1, texts...)
			p.HeaderRow, p.Number, p.SHA256 = headers, n+1, sha256.Sum256(p.Rows)
			manifest.Add(p.Number, p.DataRows(), p.SHA256)
			all = append(all, p)
		}
		from := events.HTTPRequest{Paging: &events.Paging{}, HeaderRow: headers}
		req := events.Request{SourceType: events.SourceHTTP, HTTP: &from}
		sh := &sheet{request: req, keys: newRowKeys(""), crawled: events.SheetPages{Pages: len(all)},
			get: func(_ context.Context, n int) (pages.Page, error) {
				p := all[n-1]
				p.Rows = bytes.Clone(p.Rows)
				return p, nil
			}}
		sh.start = newProof(&req, sh.crawled)
		a := &assembly{s: &Service{cfg: Config{}.withDefaults()}, ahead: 1 << 20,
			progress: progress{reported: time.Now(), publish: func(events.Progress) {}}}
		max := rapid.Int64Range(1, 9).Draw(t, "max")
		table := a.newTable(context.Background(), sh, max)
		var got []string
		for {
			var document []string
			for range rapid.IntRange(1, 2).Draw(t, "readings") {
				document = nil
				if _, err := eachRow(context.Background(), table.document(), func(row []byte) error {
					document = append(document, string(row))
					return nil
				}); err != nil {
					t.Fatal(err)
				}
			}
			if err := table.finish(context.Background()); err != nil {
				t.Fatal(err)
			}
			got = append(got, document...)
			if table.count != int64(len(document)) {
				t.Fatalf("%d rows were counted of %d", table.count, len(document))
			}
			if !table.more {
				if len(document) == 0 && len(want) > 0 {
					t.Fatal("an empty document after the last row")
				}
				break
			}
			if int64(len(document)) != max {
				t.Fatalf("%d rows of %d, and more follow", len(document), max)
			}
			table.advance()
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%v instead of %v", got, want)
		}
		if _, problem := table.check.judge(len(all), manifest.Sum()); problem != "" {
			t.Fatal(problem)
		}
	})
}

// Chosen columns are looked for in all parts: one that a part lacks is no news, one that all lack is, and a
// list that has none of them fails. That holds for each format.
func TestChosenColumnsInParts(t *testing.T) {
	t.Parallel()
	all := []pages.Page{bare(-1, headerRow, `{"id":1}`, `{"name":"x","user":{"no":1}}`, `{}`)}
	all[0].HeaderRow = true
	for _, f := range Formats() {
		if f.Name == linesFormat.Name || f.Name == bookFormat.Name {
			continue // they do not look into rows
		}
		t.Run(f.Name, func(t *testing.T) {
			t.Parallel()
			for _, tc := range []struct {
				claim    string
				keys     []string
				link     string // of the first column
				code     string
				warnings []string // but TOTAL_MISSING
			}{
				{"in different parts", []string{"id", "name"}, "https://x/{user.no}", "", nil},
				{"one is in no row", []string{"id", "nmae"}, "", "",
					[]string{`COLUMN_EMPTY Column "nmae" is empty: no row has that key; did you mean "name"?`}},
				{"a nested one is in no row", []string{"id", "user.on", "gone"}, "", "",
					[]string{`COLUMN_EMPTY Column "user.on" is empty: no row has that key; did you mean "user.no"?`,
						`COLUMN_EMPTY Column "gone" is empty: no row has that key.`}},
				{"that of a link is in no row", []string{"id"}, "https://x/{id}/{usr.no}", "",
					[]string{`LINKS_CUT Column "id" has no links: no row has the key "usr.no" of its template; did you mean "user.no"?`}},
				{"all are in no row", []string{"di", "nmae"}, "", events.CodeSourcePath, nil},
			} {
				for _, maxRows := range []int64{0, 1} {
					st := newStage(t)
					req := listRequest(f.Name, events.Options{MaxRows: maxRows, Manifest: true})
					for _, key := range tc.keys {
						req.Columns = append(req.Columns, events.Column{Key: key})
					}
					req.Columns[0].Link = tc.link
					x := st.listed(req, all)
					require.NoError(t, st.service(Config{}).handle(t.Context(), st.delivery(x)))
					got := st.read()
					require.Equal(t, tc.code, got.Failure.Code, "%s: %s", tc.claim, got.Failure.Reason)
					if tc.code != "" {
						require.Contains(t, got.Failure.Reason, f.Name+`: no row has any of the chosen columns: "di", "nmae"`)
						continue
					}
					if maxRows > 0 {
						require.Len(t, got.Files[0].Contents, 3)
					}
					var warnings []string
					for _, w := range got.Warnings {
						if w.Code != "TOTAL_MISSING" {
							warnings = append(warnings, w.Code+" "+w.Message)
						}
					}
					require.Equal(t, tc.warnings, warnings, tc.claim)
				}
			}
		})
	}
}

// A workbook holds all sheets under their titles, beside one document of each sheet in another format.
func TestWorkbookOfSheets(t *testing.T) {
	t.Parallel()
	st := newStage(t)
	got := st.complete(Config{}, st.listed(sheetsRequest("XLSX,LINES", events.Options{}, "订单", "客户*", "空"),
		[]pages.Page{page(3, 2, 0, 2), page(3, 2, 2, 1)},
		[]pages.Page{columnsPage(`{"id":"id"}`), bare(1, `{"id":7}`)}, []pages.Page{page(0, 1, 0, 0)}))
	names, contents := st.entries(got.Files[0])
	require.Equal(t, []string{"订单.xlsx", "订单-订单.lines", "订单-客户.lines", "订单-空.lines"}, names)
	book, err := excelize.OpenReader(strings.NewReader(contents[names[0]]))
	require.NoError(t, err)
	defer func() { require.NoError(t, book.Close()) }()
	require.Equal(t, []string{"订单", "客户", "空"}, book.GetSheetList())
	for sheet, want := range map[string][][]string{
		"订单": {{"编号", "姓名"}, {"0", "客户 0"}, {"1", "客户 1"}, {"2", "客户 2"}},
		"客户": {{"id"}, {"7"}},
		"空":  {{"编号", "姓名"}},
	} {
		rows, err := book.GetRows(sheet)
		require.NoError(t, err)
		require.Equal(t, want, rows)
	}
}

// Progress never falls, and ends where all readings of all pages end.
func TestProgressOfManyReadings(t *testing.T) {
	t.Parallel()
	st := newStage(t)
	x := st.listed(sheetsRequest("LINES,BOOK", events.Options{MaxRows: 1, Manifest: true}, "a", "b"),
		[]pages.Page{page(4, 2, 0, 2), page(4, 2, 2, 2)}, []pages.Page{page(1, 1, 0, 1)})
	s := st.service(Config{})
	a, err := s.newAssembly(t.Context(), &x)
	require.NoError(t, err)
	var seen []int
	s.cfg.Room = func(int64) error {
		a.progress.reported = time.Time{} // publish each page
		return nil
	}
	a.progress.publish = func(p events.Progress) {
		require.Equal(t, 9, p.PagesTotal, "3 pages for two formats and the manifest")
		require.LessOrEqual(t, p.Rows, int64(5))
		seen = append(seen, p.PagesDone)
	}
	draft, err := st.files.Create(t.Context())
	require.NoError(t, err)
	defer draft.Discard()
	_, err = a.write(t.Context(), draft.File())
	require.NoError(t, err)
	require.True(t, slices.IsSorted(seen))
	require.Equal(t, 9, seen[len(seen)-1])
}

// An export is small by the rows of all its sheets in all its formats.
func TestSmallByAllDocuments(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		extType string
		pages   []int // of sheets with 9 rows a page
		small   bool
	}{
		{"LINES", []int{500}, true}, {"LINES", []int{501}, false},
		{"LINES,BOOK", []int{250}, true}, {"LINES,BOOK", []int{251}, false},
		{"LINES", []int{250, 250}, true}, {"LINES", []int{250, 251}, false},
	} {
		x := events.Export{Request: sheetsRequest(tc.extType, events.Options{}, make([]string, len(tc.pages))...)}
		for i, n := range tc.pages {
			x.Request.Sheets[i].HTTP.Limit = 9
			x.Sheets = append(x.Sheets, events.SheetPages{Pages: n})
		}
		require.Equal(t, tc.small, isSmall(&x), "%+v", tc)
	}
}
