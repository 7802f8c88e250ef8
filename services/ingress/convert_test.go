package ingress

import (
	"crypto/sha256"
	"encoding/hex"
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

	a := convert(`"ext_type":"CSV","columns":[{"key":"a","type":"text"}],"options":{"zip":false},"x":1`)
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
	require.Equal(t, []string{`unknown field "x" was ignored`}, x.Request.Warnings)

	nc := eventstest.Connect(t, srv)
	same := ask(t, nc, events.DefaultTenant, "convert", `{"key":"`+key+`","x":1,"ext_type":"CSV","columns":[{"key":"a","type":"text"}],"options":{"zip":false}}`)
	require.Equal(t, a.key(t), same.key(t), "an equal request is the same export, also by NATS")
	require.NotEmpty(t, in.get(t, "/v1/export/detail?key="+key).detail(t).PagesUntil)

	for members, want := range map[string]string{
		`"title":"a"`:      `ext_type: is required; supported: XLSX, CSV`,
		`"ext_type":"ODS"`: `ext_type: "ODS" is not supported`,
		`"ext_type":"CSV","options":{"flatten":1}`:    `options.flatten has no meaning here`,
		`"ext_type":"CSV","options":{"keep_pages":1}`: `options.keep_pages has no meaning here`,
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
}

func TestPagesAreKeptForAtMostTheServersMaximum(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{MaxKeepPages: 2 * time.Hour})
	require.Zero(t, in.post(t, "/v1/export/http", eventstest.HTTPBody("", `"options":{"keep_pages":2}`)).Errcode)
	require.Equal(t, "options.keep_pages: is 3; this server keeps pages for at most 2 hours",
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
