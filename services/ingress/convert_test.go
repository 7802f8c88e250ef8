package ingress

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/pages"
	"sheaf/events/secrets"
)

// A finished export is converted from its pages, by REST and NATS, under a key of its own.
func TestConvert(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	in := start(t, srv, Config{Formats: []events.Format{events.XLSX, events.CSV}})
	key := in.post(t, "/v1/export/http", eventstest.HTTPBody("", `"title":"orders","callback":"http://127.0.0.1/done"`)).key(t)
	convert := func(members string) answer {
		return in.post(t, "/v1/export/convert", `{"key":"`+key+`",`+members+`}`)
	}
	require.Equal(t, http.StatusConflict, convert(`"ext_type":"CSV"`).Status, "it is under way")
	run := in.read(t, events.DefaultTenant, key).RequestedSeq
	_, err := in.pages.Publish(t.Context(), pages.Page{
		ID: pages.ID{Tenant: events.DefaultTenant, Key: key, Run: run, Number: 1}, Rows: []byte(`[{"a":"A"},{"a":1}]`), RowCount: 2, HeaderRow: true,
	})
	require.NoError(t, err)
	proof := &events.Proof{Kind: events.ProofTotal, Announced: 1, Rows: 1, Pages: 1}
	in.write(t, key, &events.ExportCrawled{Run: run, Pages: 1, Manifest: "m", Proof: proof})
	until := time.Now().Add(time.Hour).UTC()
	in.write(t, key, &events.ExportCompleted{Run: run, Pages: 1, Manifest: "m", Rows: 1, ExpiresAt: until, PagesUntil: until})

	a := convert(`"ext_type":"CSV","columns":[{"key":"a","type":"text"}],"options":{"zip":false}`)
	require.Zero(t, a.Errcode, a.Msg)
	require.NotEqual(t, key, a.key(t))
	x := in.read(t, events.DefaultTenant, a.key(t))
	require.Equal(t, &events.Origin{Key: key, Sheets: []events.SheetPages{{Run: run, Pages: 1, Rows: 1, Manifest: "m", Proof: proof}}}, x.Request.From)
	require.Equal(t, "orders", x.Request.Title)
	require.Equal(t, "CSV", x.Request.ExtType)
	require.Empty(t, x.Request.Callback)
	require.True(t, x.Request.Options.NoZip)
	require.Equal(t, []events.Column{{Key: "a", Type: "text"}}, x.Request.Columns)
	require.Equal(t, []string{events.NeedFile}, x.Request.Needs)

	nc := eventstest.Connect(t, srv)
	same := ask(t, nc, events.DefaultTenant, "convert", `{"key":"`+key+`","columns":[{"type":"text","title":"a","key":"a"}],"ext_type":["csv"],"options":{"zip":false,"manifest":false}}`)
	require.Equal(t, a.key(t), same.key(t), "an equal request is the same export, also by NATS")
	require.NotEmpty(t, in.get(t, "/v1/export/detail?key="+key).detail(t).PagesUntil)

	for members, want := range map[string]string{
		`"title":"a"`:      `ext_type: is required; supported: XLSX, CSV`,
		`"ext_type":"ODS"`: `ext_type: "ODS" is not supported`,
		`"ext_type":"CSV","options":{"flatten":1}`:    `options.flatten has no meaning here`,
		`"ext_type":"CSV","options":{"keep_pages":1}`: `options.keep_pages has no meaning here`,
		`"ext_type":"CSV","optons":{}`:                `optons is not known; known: key, ext_type, title, columns, options, user_id, callback, timestamp; did you mean options?`,
		`"ext_type":"CSV","source_http":{}`:           `source_http has no meaning here`,
		`"ext_type":"CSV","columns":[{}]`:             `columns[0].key is required`,
	} {
		a := convert(members)
		require.Equal(t, http.StatusBadRequest, a.Status)
		require.True(t, strings.HasPrefix(a.Msg, want), a.Msg)
	}
	require.Equal(t, http.StatusNotFound, in.post(t, "/v1/export/convert", `{"key":"`+strings.Repeat("0", 32)+`","ext_type":"CSV"}`).Status)
	require.Equal(t, errcodeNoKey, in.post(t, "/v1/export/convert", `{"ext_type":"CSV"}`).Errcode)

	require.NoError(t, in.pages.Purge(t.Context(), events.DefaultTenant, key))
	a = convert(`"ext_type":"CSV","title":"later"`)
	require.Equal(t, http.StatusGone, a.Status)
	require.Contains(t, a.Msg, "key: the pages of this export are no longer kept")
	require.Empty(t, in.get(t, "/v1/export/detail?key="+key).detail(t).PagesUntil, "the keeper took them early, for space")
}

// finished completes an export of one page for each sheet, whose pages are kept until a time.
func finished(t *testing.T, in *ingress, body string, rows int64, until time.Time) string {
	t.Helper()
	key := in.post(t, "/v1/export/http", body).key(t)
	x := in.read(t, events.DefaultTenant, key)
	crawled := &events.ExportCrawled{Run: x.RequestedSeq, Pages: 1, Manifest: "m", Proof: &events.Proof{Kind: events.ProofEnd, Rows: rows, Pages: 1}}
	for i := range x.Request.SheetCount() {
		_, err := in.pages.Publish(t.Context(), pages.Page{Rows: []byte(`[{"a":"A"},{"a":1}]`), RowCount: 2, HeaderRow: true,
			ID: pages.ID{Tenant: events.DefaultTenant, Key: key, Run: x.RequestedSeq, Sheet: i, Number: 1}})
		require.NoError(t, err)
		if len(x.Request.Sheets) > 0 {
			crawled.Sheets = append(crawled.Sheets, events.SheetPages{Run: x.RequestedSeq, Pages: 1, Rows: rows, Manifest: "m"})
		}
	}
	in.write(t, key, crawled)
	in.write(t, key, &events.ExportCompleted{Run: x.RequestedSeq, Pages: 1, Manifest: "m", Rows: rows,
		ExpiresAt: time.Now().Add(time.Hour).UTC(), PagesUntil: until})
	return key
}

// A conversion that failed can be retried while the pages are there. It stays a conversion.
func TestAConversionIsRetried(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{Formats: []events.Format{events.XLSX, events.CSV}})
	of := finished(t, in, eventstest.HTTPBody(""), 1, time.Time{})
	key := in.post(t, "/v1/export/convert", `{"key":"`+of+`","ext_type":"CSV"}`).key(t)
	before := in.read(t, events.DefaultTenant, key)
	in.write(t, key, &events.ExportFailed{Code: events.CodeInternal, Reason: "r", Phase: events.PhaseAssembling})
	retry := func() answer { return in.post(t, "/v1/export/retry", `{"key":"`+key+`"}`) }
	require.Zero(t, retry().Errcode)
	again := in.read(t, events.DefaultTenant, key)
	require.Greater(t, again.RequestedSeq, before.RequestedSeq)
	require.Equal(t, events.StateRequested, again.State)
	require.Equal(t, before.Request, again.Request)

	in.write(t, key, &events.ExportFailed{Code: events.CodeInternal, Reason: "r", Phase: events.PhaseAssembling})
	require.NoError(t, in.pages.Purge(t.Context(), events.DefaultTenant, of))
	a := retry()
	require.Equal(t, http.StatusConflict, a.Status)
	require.Contains(t, a.Msg, "the pages of this export are no longer kept")
}

// An Idempotency-Key binds a conversion as it binds a submission.
func TestIdempotencyKeyOfAConversion(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{Formats: []events.Format{events.XLSX, events.CSV}})
	of := finished(t, in, eventstest.HTTPBody(""), 1, time.Time{})
	convert := func(extType string) answer {
		return send(t, http.MethodPost, in.url+"/v1/export/convert", `{"key":"`+of+`","ext_type":"`+extType+`"}`, "Idempotency-Key", "k")
	}
	key := convert("CSV").key(t)
	in.write(t, key, &events.ExportFailed{Code: events.CodeInternal, Reason: "r", Phase: events.PhaseAssembling})
	require.Equal(t, key, convert("csv").key(t))
	require.Equal(t, events.StateFailed, in.read(t, events.DefaultTenant, key).State, "it begins nothing again")
	require.Equal(t, errcodeIdempotency, convert("XLSX").Errcode)
	require.NoError(t, in.pages.Purge(t.Context(), events.DefaultTenant, of))
	require.Equal(t, key, convert("CSV").key(t), "also once the pages are gone")
}

// Pages are not used after their time, even if the keeper has not purged them yet.
func TestPagesWhoseTimeHasPassed(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{Formats: []events.Format{events.XLSX, events.CSV}})
	of := finished(t, in, eventstest.HTTPBody(""), 1, time.Now().Add(-time.Second).UTC())
	a := in.post(t, "/v1/export/convert", `{"key":"`+of+`","ext_type":"CSV"}`)
	require.Equal(t, http.StatusGone, a.Status)
	require.Equal(t, errcodeGone, a.Errcode)
	require.Contains(t, a.Msg, "key: the pages of this export were kept until ")
}

// The columns of one sheet can be replaced, those of several cannot. The rows are known, so max_rows is checked.
func TestConvertSheets(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{Formats: []events.Format{events.XLSX, events.CSV}})
	sheet := func(title string) string {
		return `{"title":"` + title + `","source_http":{"url":"http://source/p"},"columns":[{"key":"a","title":"` + title + `"}]}`
	}
	n := 0
	convert := func(sheets, members string) (answer, string) {
		n++
		of := finished(t, in, fmt.Sprintf(`{"ext_type":"XLSX","timestamp":%d,"sheets":[%s]}`, n, sheets), 600, time.Time{})
		return in.post(t, "/v1/export/convert", `{"key":"`+of+`","ext_type":"CSV",`+members+`}`), of
	}
	a, of := convert(sheet("A"), `"columns":[{"key":"b"}]`)
	x := in.read(t, events.DefaultTenant, a.key(t))
	require.Equal(t, []events.Column{{Key: "b"}}, x.Request.Sheets[0].Columns)
	require.Equal(t, []events.Column{{Key: "a", Title: "A"}}, in.read(t, events.DefaultTenant, of).Request.Sheets[0].Columns)

	two := sheet("B") + "," + sheet("C")
	a, _ = convert(two, `"columns":[{"key":"b"}]`)
	require.Equal(t, http.StatusBadRequest, a.Status)
	require.Equal(t, "columns: the export has 2 sheets with columns of their own; to change these, submit its request again", a.Msg)
	a, _ = convert(two, `"options":{"max_rows":1}`)
	require.Equal(t, "options.max_rows: 1 makes 1200 files; at most 1000 are allowed", a.Msg)
	a, of = convert(two, `"title":"t"`)
	x = in.read(t, events.DefaultTenant, a.key(t))
	require.Equal(t, "B", x.Request.Sheets[0].Columns[0].Title)
	require.Equal(t, "C", x.Request.Sheets[1].Columns[0].Title)
	require.Equal(t, &events.Origin{Key: of, Sheets: in.read(t, events.DefaultTenant, of).Sheets}, x.Request.From)
}

// A conversion has the options of the export but those that it gives, and is warned about its own alone.
func TestAConversionKeepsOptions(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{Formats: []events.Format{events.XLSX, events.CSV, events.JSON}, MaxKeepPages: time.Hour})
	of := finished(t, in, `{"ext_type":"CSV","source_http":{"url":"http://source/p","preset":"laravel"},"options":{"flatten":2,"timezone":"Asia/Shanghai","zip":false,`+
		`"keep_pages":1,"csv":{"bom":false,"delimiter":";"},"json":{"names":"title"}},"columns":[{"key":"a","type":"date"}]}`, 1, time.Time{})
	for given, want := range map[string]events.Options{
		``:     {NoZip: true, CSV: events.CSVOptions{NoBOM: true, Delimiter: ";"}, JSON: events.JSONOptions{Titles: true}, Timezone: "Asia/Shanghai"},
		`null`: {NoZip: true, CSV: events.CSVOptions{NoBOM: true, Delimiter: ";"}, JSON: events.JSONOptions{Titles: true}, Timezone: "Asia/Shanghai"},
		`{"zip":true,"manifest":true,"flatten":0}`: {Manifest: true, CSV: events.CSVOptions{NoBOM: true, Delimiter: ";"},
			JSON: events.JSONOptions{Titles: true}, Timezone: "Asia/Shanghai"},
		`{"timezone":"UTC","csv":{"delimiter":","},"json":{"names":"key"}}`: {NoZip: true, CSV: events.CSVOptions{NoBOM: true}},
	} {
		members := ""
		if given != "" {
			members = `,"options":` + given
		}
		a := in.post(t, "/v1/export/convert", `{"key":"`+of+`","ext_type":"JSON"`+members+`}`)
		require.Zero(t, a.Errcode, a.Msg)
		x := in.read(t, events.DefaultTenant, a.key(t))
		want.Flatten = 2
		require.Equal(t, &want, x.Request.Options, given)
		require.Empty(t, x.Request.Warnings, given)
	}
	a := in.post(t, "/v1/export/convert", `{"key":"`+of+`","ext_type":"JSON","options":{"csv":{"bom":false},"timezone":"Asia/Tokyo"}}`)
	require.Equal(t, []string{"options.csv changes nothing: ext_type has neither CSV nor TSV"}, in.read(t, events.DefaultTenant, a.key(t)).Request.Warnings)
}

func TestPagesAreKeptForAtMostTheServersMaximum(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{MaxKeepPages: 2 * time.Hour})
	require.Zero(t, in.post(t, "/v1/export/http", eventstest.HTTPBody("", `"options":{"keep_pages":2}`)).Errcode)
	require.Equal(t, "options.keep_pages: is 3 hours; this server keeps pages for at most 2",
		in.post(t, "/v1/export/http", eventstest.HTTPBody("", `"options":{"keep_pages":3}`)).Msg)
}

// A page of the source's rows runs nothing and loads nothing, even if a browser shows it.
func TestHTMLIsServedInASandbox(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{Formats: []events.Format{events.XLSX, events.HTML}})
	key := testKey(1)
	x := in.write(t, key, requestOf("a"))
	in.write(t, key, &events.ExportCrawled{Run: x.RequestedSeq, Pages: 1})
	content, store := []byte("<table></table>"), "default/"+key+"/"+events.NewID()+".html"
	in.commit(t, store, content)
	sum := sha256.Sum256(content)
	x = in.write(t, key, &events.ExportCompleted{Run: x.RequestedSeq, Pages: 1, Rows: 1, ExpiresAt: time.Now().Add(time.Hour).UTC(),
		Files: []events.File{{Name: "a.html", Store: store, Size: int64(len(content)), SHA256: hex.EncodeToString(sum[:]), Rows: 1}}})
	require.NoError(t, in.tasks.WaitApplied(t.Context(), x.LastSeq))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, secrets.DownloadURL(in.journal.Keys(), in.url, &x), nil)
	require.NoError(t, err)
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.Equal(t, "text/html; charset=utf-8", res.Header.Get("Content-Type"))
	require.Equal(t, "sandbox; default-src 'none'; style-src 'unsafe-inline'", res.Header.Get("Content-Security-Policy"))
	require.Equal(t, "nosniff", res.Header.Get("X-Content-Type-Options"))
	require.Contains(t, res.Header.Get("Content-Disposition"), `attachment; filename="a.html"`)
}

// The pages of raw sheets are stored before the event, each sheet under its own number.
func TestRowsOfSheetsAreStored(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	body := `{"ext_type":"XLSX","sheets":[{"title":"a","source_raw":[{"n":"N"},{"n":1}]},{"title":"b","source_raw":[{"m":"M"},{"m":2},{"m":3}]}]}`
	key := in.post(t, "/v1/export/raw", body).key(t)
	require.Equal(t, key, in.post(t, "/v1/export/http", body).key(t))
	for sheet, rows := range []int64{1, 2} {
		p, err := in.pages.Get(t.Context(), pages.ID{Tenant: events.DefaultTenant, Key: key, Run: events.RawRun, Sheet: sheet, Number: 1})
		require.NoError(t, err)
		require.Equal(t, rows, p.Total)
		require.True(t, p.HeaderRow)
	}
}
