package request

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/rows"
	"sheaf/events/secrets"

	"github.com/stretchr/testify/require"
)

var xlsx = []events.Format{events.XLSX}

func TestKeyIsOfTheRequestAndTheTenant(t *testing.T) {
	t.Parallel()
	keys, err := secrets.NewKeyring(eventstest.SecretKey)
	require.NoError(t, err)
	key := func(tenant, sourceType, body string) string {
		s, err := Parse(keys, tenant, sourceType, xlsx, []byte(body))
		require.NoError(t, err)
		return s.Key
	}
	of := func(body string) string { return key("default", "http", body) }
	same := of(`{"ext_type":"XLSX","title":"中","source_http":{"url":"http://h/p","param":{"a":1,"b":2}}}`)
	require.Equal(t, same, of(` { "source_http" : {"param":{"b":2,"a":1},"url":"http:\/\/h/p"}, "title":"\u4e2d", "ext_type":"XLSX"}`),
		"order, white space and escapes do not matter")
	require.NotEqual(t, same, of(`{"ext_type":"XLSX","title":"中","source_http":{"url":"http://h/p","param":{"a":1.0,"b":2}}}`),
		"numbers keep their digits, so two ids never become one")
	require.NotEqual(t, same, of(`{"ext_type":"XLSX","title":"中","source_http":{"url":"http://h/p","param":{"a":1,"b":2}},"x":0}`),
		"unknown fields count")
	require.NotEqual(t, of(eventstest.HTTPBody(`,"param":{"id":9007199254740993}`)), of(eventstest.HTTPBody(`,"param":{"id":9007199254740992}`)))
	require.NotEqual(t, same, key("other", "http", `{"ext_type":"XLSX","title":"中","source_http":{"url":"http://h/p","param":{"a":1,"b":2}}}`))
	require.NotEqual(t, key("default", "raw", eventstest.RawBody(`[{"a":1,"b":2}]`)), key("default", "raw", eventstest.RawBody(`[{"b":2,"a":1}]`)),
		"the order of a header's names is the order of the columns")
	require.NotEqual(t, key("default", "raw", eventstest.RawBody(`[{"a":1}]`)), key("default", "raw", eventstest.RawBody(`[{"a":2}]`)))
	require.Equal(t, "49baf791fddde7be7446a0efb7ffc4df", of(eventstest.SpecHTTP), "the key of a request is for ever")
}

// FuzzSubmission checks that every body gives an envelope's error or a request within all bounds, the same
// each time.
func FuzzSubmission(f *testing.F) {
	for _, body := range []string{
		eventstest.SpecHTTP, eventstest.SpecRaw, `{}`, `{"ext_type":"xlsx","source_http":{"url":"http://h","header":{"A":1},"param":{"limit":"9"}}}`,
		eventstest.RawBody(`[{"a":1},{"b":[1]}]`), eventstest.RawBody(`"[{\"a\":\"\\u4e2d\"} , {}]"`), "{ // \n}", `{"a":1,}`, `{"a":{"a":1,"a":2}}`,
		eventstest.HTTPBody(`,"preset":"sheaf","paging":{"total":"a['b']","end":["short"]},"method":"POST","body":{"a":{"b":1}},"error":{"ok":["0"]}`),
		eventstest.HTTPBody(`,"rows":"a[*].b","paging":{"type":"cursor","cursor":"row:id","cursor_param":"body:a.b","cursor_start":1,"limit_param":"header:X"},"method":"POST","header":{"X":"7"}`),
		eventstest.HTTPBody(`,"format":"csv","paging":{"type":"link","hosts":["::1","h"],"total":"header:Content-Range"},"auth":{"type":"api_key","name":"k","value":"v","in":"query"}`),
		eventstest.HTTPBody(`,"paging":{"type":"offset","limit_param":null,"more":"!last"},"body_type":"form","body":{"a":1},"method":"POST","max_wait":9`),
		eventstest.HTTPBody(`,"preset":"postgrest","auth":{"type":"oauth2","token_url":"http://h","client_id":"a","client_secret":"sealed:v1:"}`),
		`{"ext_type":"XLSX","source_http":{"url":"http://h","paging":{"type":"none"}},"options":{"flatten":2,"source_charset":"gbk"}}`,
		eventstest.HTTPBody("", `"columns":[{"key":"a.b","title":"t","type":"date","from":"%d/%m/%Y","format":"[h]:mm;\"x\"","width":9},{"key":"['a']","map":{"*":1},"join":",","link":"https://h/{a}"}]`),
		eventstest.HTTPBody("", `"columns":[{"key":"a","link":true}],"options":{"timezone":"GMT+8","csv":{"bom":false},"json":{"names":"title"},"max_rows":5,"keep_pages":1}`),
		`{"ext_type":["XLSX"],"sheets":[{"title":"a","source_http":{"url":"http://h","header":{"A":"b"}}},{"title":"b","source_raw":[{"a":"\ud800","a":1}],"columns":[{"key":"a"}]}]}`,
	} {
		f.Add([]byte(body), false)
		f.Add([]byte(body), true)
	}
	keys, err := secrets.NewKeyring(eventstest.SecretKey)
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, body []byte, raw bool) {
		sourceType := events.SourceHTTP
		if raw {
			sourceType = events.SourceRaw
		}
		kept := bytes.Clone(body)
		s, err := Parse(keys, "default", sourceType, xlsx, body)
		require.Equal(t, kept, body, "the body is only read")
		if err != nil {
			var e *Error
			require.True(t, errors.As(err, &e))
			require.NotEmpty(t, e.Field)
			require.Less(t, len(e.Msg), 2048)
			return
		}
		require.True(t, events.ValidKey(s.Key))
		data, err := json.Marshal(s.Request)
		require.NoError(t, err)
		var back events.Request
		require.NoError(t, json.Unmarshal(data, &back), "what is kept can be read back")
		checkColumns(t, keys, s.Request.Columns)
		if len(s.Request.Sheets) > 0 {
			for i := range s.Request.Sheets {
				one := s.Request.Sheet(i)
				require.True(t, (one.HTTP == nil) != (one.Raw == nil))
				checkColumns(t, keys, one.Columns)
			}
			return
		}
		if !raw {
			require.NotEmpty(t, s.Request.HTTP.URL)
			checkDeclared(t, s.Request.HTTP)
			require.True(t, s.Request.HTTP.Conn >= 1 && s.Request.HTTP.Conn <= maxConn)
			return
		}
		var n int64
		for i, p := range s.Pages {
			count, err := rows.Check(p.Array(), rows.Limits{})
			require.NoError(t, err)
			require.Equal(t, p.Count, count)
			n += int64(count)
			require.True(t, i == 0 || count <= rawPageRows)
		}
		require.Equal(t, s.Request.Raw.Rows+1, n)
		require.Equal(t, s.Request.Raw.Pages, len(s.Pages))
		again, err := Parse(keys, "default", sourceType, xlsx, body)
		require.NoError(t, err)
		require.Equal(t, s, again)
	})
}

// checkDeclared checks what the crawler relies on.
func checkDeclared(t *testing.T, req *events.HTTPRequest) {
	require.LessOrEqual(t, req.Limit, maxLimit)
	p := req.Paging
	if p == nil {
		require.GreaterOrEqual(t, req.Limit, 1)
		require.True(t, req.Body == nil && req.BodyType == "" && req.Format == "" && req.Rows == "" && !req.HeaderRow && req.Error == nil,
			"the standard format has no form of its own")
		return
	}
	require.Equal(t, p.LimitParam != "", req.Limit > 0)
	require.Equal(t, p.Type == events.PagingPage, p.PageParam != "")
	require.Equal(t, p.Type == events.PagingOffset, p.OffsetParam != "")
	require.Equal(t, p.Type == events.PagingCursor, p.CursorParam != "" && p.Cursor != "")
	require.Equal(t, p.Type == events.PagingNextURL, p.NextURL != "")
	require.Equal(t, p.Type == events.PagingLink, p.Rel != "")
	for _, place := range []string{p.PageParam, p.OffsetParam, p.LimitParam, p.CursorParam} {
		if path, ok := strings.CutPrefix(place, "body:"); ok {
			require.Equal(t, "POST", req.Method)
			_, err := rows.ParsePath(path)
			require.NoError(t, err)
		}
	}
	for _, place := range []string{p.Cursor, p.NextURL, p.Total, p.TotalPages, strings.TrimPrefix(p.More, "!")} {
		if place != "" && !strings.HasPrefix(place, "header:") {
			_, err := rows.ParsePath(strings.TrimPrefix(place, "row:"))
			require.NoError(t, err)
		}
	}
	_, err := rows.ParseRowsPath(req.Rows)
	require.NoError(t, err)
	if p.Type == events.PagingPage || p.Type == events.PagingOffset {
		require.True(t, len(p.End) > 0 || p.More != "" || p.TotalPages != "" || p.Total != "" && !p.Estimate, "the list has an end")
	}
}

// checkColumns checks that columns of an event, given again, are the same.
func checkColumns(t *testing.T, keys *secrets.Keyring, columns []events.Column) {
	t.Helper()
	if len(columns) == 0 {
		return
	}
	data, err := json.Marshal(columns)
	require.NoError(t, err)
	again := bytes.ReplaceAll(data, []byte(`"link":"true"`), []byte(`"link":true`))
	s, err := Parse(keys, "default", events.SourceHTTP, xlsx,
		[]byte(`{"ext_type":"XLSX","source_http":{"url":"http://h"},"columns":`+string(again)+`}`))
	require.NoError(t, err, string(again))
	require.Equal(t, columns, s.Request.Columns)
}

func FuzzParams(f *testing.F) {
	f.Add([]byte(`{"key":"x","limit":5}`))
	f.Add([]byte(` `))
	f.Fuzz(func(t *testing.T, body []byte) {
		if _, err := Params(body); err != nil {
			var e *Error
			require.True(t, errors.As(err, &e))
			require.False(t, e.TooLarge)
		}
	})
}
