package assembler

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/pages"
	"sheaf/services/assembler/encode/xlsx"

	"github.com/stretchr/testify/require"
)

type readManifest struct {
	Version  int              `json:"version"`
	Key      string           `json:"hash_key"`
	Created  time.Time        `json:"created"`
	Request  events.Request   `json:"request"`
	Files    []events.Content `json:"files"`
	Warnings []events.Warning `json:"warnings"`
	Sheets   []struct {
		Title    string        `json:"title"`
		Rows     int64         `json:"rows"`
		Proof    *events.Proof `json:"proof"`
		Manifest string        `json:"manifest"`
		Names    *readPage     `json:"names"`
		Pages    []readPage    `json:"pages"`
	} `json:"sheets"`
}

type readPage struct {
	Page   int        `json:"page"`
	Rows   int        `json:"rows"`
	SHA256 string     `json:"sha256"`
	Time   *time.Time `json:"time"`
}

func (st *stage) manifest(x events.Export) (m readManifest, names []string) {
	st.t.Helper()
	names, contents := st.entries(x.Files[0])
	require.Equal(st.t, manifestName, names[len(names)-1])
	for _, secret := range []string{"sesame", "user:pw", "hook"} {
		require.NotContains(st.t, contents[manifestName], secret)
	}
	d := json.NewDecoder(strings.NewReader(contents[manifestName]))
	d.DisallowUnknownFields()
	require.NoError(st.t, d.Decode(&m))
	for _, f := range m.Files {
		require.Equal(st.t, sumOf([]byte(contents[f.Name])), f.SHA256, f.Name)
		require.EqualValues(st.t, len(contents[f.Name]), f.Size)
	}
	return m, names
}

// The manifest names all documents and pages. Its sums are those of the pages, and its addresses hold no
// secret.
func TestManifest(t *testing.T) {
	t.Parallel()
	st := newStage(t)
	req := sheetsRequest("LINES,BOOK", events.Options{MaxRows: 2, Manifest: true}, "订单", "客户*")
	req.Callback = "https://hook.example/?key=1"
	x := st.listed(req, []pages.Page{page(3, 2, 0, 2), page(3, 2, 2, 1)},
		[]pages.Page{columnsPage(`{"id":"id"}`), bare(-1, rowText(7))})
	got := st.complete(Config{}, x)
	m, names := st.manifest(got)
	require.Equal(t, 1, m.Version)
	require.Equal(t, testKey, m.Key)
	require.Equal(t, time.Unix(1625106204, 0).UTC(), m.Created)
	require.Equal(t, "http://127.0.0.1/orders", m.Request.Sheets[1].HTTP.URL)
	require.Equal(t, "订单", m.Request.Title)
	require.Equal(t, got.Warnings, m.Warnings)
	require.Equal(t, got.Files[0].Contents, m.Files)
	require.Len(t, m.Files, len(names)-1)
	require.Len(t, m.Sheets, 2)
	for i, sheet := range m.Sheets {
		from := got.CrawledSheet(i)
		require.Equal(t, from.Rows, sheet.Rows)
		require.Equal(t, from.Manifest, sheet.Manifest)
		again := pages.NewManifest()
		all := sheet.Pages
		if sheet.Names != nil {
			all = append([]readPage{*sheet.Names}, all...)
		}
		require.Equal(t, from.Pages, len(sheet.Pages))
		for _, p := range all {
			sum, err := hex.DecodeString(p.SHA256)
			require.NoError(t, err)
			again.Add(p.Page, p.Rows, [sha256.Size]byte(sum))
			require.WithinDuration(t, time.Now(), *p.Time, time.Hour)
		}
		require.Equal(t, from.Manifest, again.Sum(), "the manifest can be computed from the list")
	}
	require.Nil(t, m.Sheets[0].Names, "the columns are on page 1")
	require.Equal(t, 0, m.Sheets[1].Names.Page)
	require.Equal(t, 1, m.Sheets[1].Pages[0].Page)
}

// A manifest stands beside a single workbook too, which has a checksum then.
func TestManifestOfOneWorkbook(t *testing.T) {
	t.Parallel()
	st := newStage(t)
	got := st.complete(Config{}, st.listed(listRequest("XLSX", events.Options{Manifest: true, NoZip: true, Reproducible: true}),
		[]pages.Page{page(2, 1, 0, 2)}))
	m, names := st.manifest(got)
	require.Equal(t, []string{"订单.xlsx", "manifest.json"}, names)
	require.Len(t, m.Files[0].SHA256, 64)
	require.Equal(t, m.Files, got.Files[0].Contents)
	require.Nil(t, m.Sheets[0].Pages[0].Time, "reproducible files have no times of pages")
	require.Equal(t, []events.Warning{}, m.Warnings)
}

// The manifest of many pages has them all, in order.
func TestManifestOfManyPages(t *testing.T) {
	t.Parallel()
	st := newStage(t)
	var all []pages.Page
	for n := range 600 {
		all = append(all, page(600, 600, n, 1))
	}
	x := st.listed(listRequest("LINES", events.Options{Manifest: true}), all)
	completed, err := st.service(Config{}).assemble(t.Context(), &x)
	require.NoError(t, err)
	m, _ := st.manifest(events.Export{Files: completed.Files})
	require.Len(t, m.Sheets[0].Pages, 600)
	for i, p := range m.Sheets[0].Pages {
		require.Equal(t, i+1, p.Page)
	}
}

// A document names the time of its request. Without one, a request of before columns, sheets and options has
// the writer's fixed date, as before, and any other the time of its export, unless it is to be reproducible.
func TestCreated(t *testing.T) {
	t.Parallel()
	const at, none, export = "2021-07-01T02:23:24Z", "1980-01-01T00:00:00Z", "2026-11-30T07:00:00Z"
	for _, tc := range []struct {
		claim     string
		extType   string
		timestamp int64
		options   events.Options
		want      string
	}{
		{"as before, with a timestamp", "XLSX", 1625106204, events.Options{}, at},
		{"as before, without", "XLSX", 0, events.Options{}, none},
		{"with a timestamp", "XLSX", 1625106204, events.Options{Manifest: true}, at},
		{"reproducible, with a timestamp", "XLSX", 1625106204, events.Options{Manifest: true, Reproducible: true}, at},
		{"the time of the export", "XLSX", 0, events.Options{Manifest: true}, export},
		{"reproducible", "XLSX", 0, events.Options{Manifest: true, Reproducible: true}, none},
		{"two formats", "XLSX,BOOK", 0, events.Options{}, export},
	} {
		t.Run(tc.claim, func(t *testing.T) {
			t.Parallel()
			st := newStage(t)
			req := listRequest(tc.extType, tc.options)
			req.Timestamp = tc.timestamp
			got := st.complete(Config{}, st.listed(req, []pages.Page{page(2, 1, 0, 2)}))
			names, contents := st.entries(got.Files[0])
			require.Contains(t, unzipped(t, contents[names[0]], "docProps/core.xml"), ">"+tc.want+"</dcterms:created>")
		})
	}
}

// A request of before columns, sheets and options has the file it always had: these sums are of the release
// before them. Options about reading the source change nothing.
func TestEarlierRequestsKeepTheirBytes(t *testing.T) {
	t.Parallel()
	warned := bare(2, headerRow, `{"id":12345678901234567890,"name":"=1+1"}`, `{"id":3.3000000000000003,"name":"a\nb"}`)
	warned.HeaderRow, warned.TotalPages = true, 1
	for _, tc := range []struct {
		claim  string
		req    events.Request
		pages  []pages.Page
		sha256 string
	}{
		{"a list", listRequest("XLSX", events.Options{}), []pages.Page{page(3, 2, 0, 2), page(3, 2, 2, 1)},
			"53043e0b784555ecf1013affe4519c4583b5b09b3e29888d87f5c778100e2ad3"},
		{"in lower case, with options of reading", listRequest("xlsx", events.Options{SourceCharset: "gbk"}), []pages.Page{warned},
			"bd8c343657d0b9bf68cecb6db1da2e5bdd814aa615e1e1bde3d5d646d2e57a09"},
		{"without a timestamp", func() events.Request {
			req := listRequest("XLSX", events.Options{})
			req.Timestamp, req.SourceType, req.HTTP, req.Raw = 0, events.SourceRaw, nil, &events.RawRows{Pages: 1, Rows: 2}
			return req
		}(), []pages.Page{page(-1, 1, 0, 2)}, "cabdc5fc8c9801ade2b54a226f5dce8a6f993224c8cd762d16dc6c52127c1b2d"},
	} {
		t.Run(tc.claim, func(t *testing.T) {
			t.Parallel()
			st := newStage(t)
			got := st.complete(Config{}, st.listed(tc.req, tc.pages))
			require.Nil(t, got.Files[0].Contents)
			require.Zero(t, got.PagesUntil)
			require.Equal(t, tc.sha256, got.Files[0].SHA256)
		})
	}
}

// Pages are kept as long as the request asks, within the server's bound.
func TestPagesUntil(t *testing.T) {
	t.Parallel()
	for hours, want := range map[int]time.Duration{1: time.Hour, 5: 5 * time.Hour, 1 << 20: 6 * time.Hour} {
		st := newStage(t)
		x := st.listed(listRequest("LINES", events.Options{KeepPages: hours}), []pages.Page{page(1, 1, 0, 1)})
		got := st.complete(Config{MaxKeepPages: 6 * time.Hour}, x)
		require.WithinDuration(t, time.Now().Add(want), got.PagesUntil, time.Minute)
	}
}

// The pages of another export make a file like its own. They are kept as long as that one asks.
func TestPagesOfAnotherExport(t *testing.T) {
	t.Parallel()
	st := newStage(t)
	origin := st.complete(Config{}, st.listed(sheetsRequest("LINES", events.Options{}, "a", "b*"),
		[]pages.Page{page(2, 1, 0, 2)}, []pages.Page{columnsPage(`{"id":"id"}`), bare(-1, rowText(7))}))
	req := sheetsRequest("BOOK", events.Options{KeepPages: 9}, "a", "b*")
	req.From = &events.Origin{Key: testKey, Sheets: origin.Sheets}
	x, err := st.journal.Append(t.Context(), events.Export{Tenant: "default", Key: strings.Repeat("c", 32)}, "",
		func(*events.Export) (events.Payload, error) { return &events.ExportRequested{Request: req}, nil })
	require.NoError(t, err)
	x, err = st.journal.Append(t.Context(), x, "", func(*events.Export) (events.Payload, error) {
		return &events.ExportCrawled{Run: x.RequestedSeq, Pages: 2, Manifest: origin.Manifest, Sheets: origin.Sheets}, nil
	})
	require.NoError(t, err)
	completed, err := st.service(Config{}).assemble(t.Context(), &x)
	require.NoError(t, err)
	require.Zero(t, completed.PagesUntil)
	require.EqualValues(t, 3, completed.Rows)
	_, contents := st.entries(completed.Files[0])
	require.Equal(t, lineText("a", "编号,姓名", 0, 1)+lineText("b", "id", 7), contents["订单.book"])
}

// Warnings are kept once each, and no more than a hundred.
func TestWarningsOfAnExport(t *testing.T) {
	t.Parallel()
	var all []events.Warning
	for range 3 {
		for i := range 120 {
			all = append(all, events.Warning{Code: xlsx.WarnCellCut, Message: fmt.Sprint(i)})
		}
	}
	got := distinct(all)
	require.Len(t, got, maxWarnings+1)
	require.Equal(t, all[:maxWarnings], got[:maxWarnings])
	require.Equal(t, events.Warning{Code: "WARNINGS_MORE", Message: "20 further warnings are left out"}, got[maxWarnings])
	require.Nil(t, distinct(nil))

	st := newStage(t)
	x := st.listed(sheetsRequest("LINES,BOOK", events.Options{}, "a", "b"), []pages.Page{page(-1, 1, 0, 2)}, []pages.Page{page(-1, 1, 0, 2)})
	missing := "the source gave no total, so the number of rows could not be checked"
	require.Equal(t, []events.Warning{
		{Code: "TOTAL_MISSING", Message: `sheet 1 "a": ` + missing}, {Code: "TOTAL_MISSING", Message: `sheet 2 "b": ` + missing},
		{Code: "SAID", Message: "by every document"},
	}, st.complete(Config{}, x).Warnings)

	// A part speaks of its own rows, so its warnings name it.
	st = newStage(t)
	x = st.listed(listRequest("LINES", events.Options{MaxRows: 2}), []pages.Page{page(3, 1, 0, 3)})
	done := st.complete(Config{}, x)
	require.Len(t, done.Files[0].Contents, 2)
	for i, w := range done.Warnings {
		require.Equal(t, events.Warning{Code: "SAID", Message: done.Files[0].Contents[i].Name + ": by every document"}, w)
	}
	require.Len(t, done.Warnings, 2)
}
