package ingress

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"sheaf/events/rows"

	"github.com/stretchr/testify/require"
)

func askDemo(t testing.TB, method, query, body string) answer {
	t.Helper()
	w := httptest.NewRecorder()
	quiet.identify(http.HandlerFunc(demoPage)).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, "/demo/page"+query, strings.NewReader(body)))
	return decode(t, w.Result())
}

func TestDemoPageAnswersTheStandardFormat(t *testing.T) {
	t.Parallel()
	const page1 = `{"errcode":0,"msg":"","data":{"data":[{"Age":"年龄","ID":"编号","Name":"姓名"},{"ID":0,"Name":"Demo","Age":15},{"ID":1,"Name":"Demo","Age":15}],` +
		`"pagetag":{"page":1,"limit":2,"total":500,"total_page":250}},"request_id":%q}` + "\n"
	for _, ask := range [][3]string{
		{"GET", "?page=1&limit=2", ""},
		{"GET", "?limit=2&shop=7", ""},
		{"POST", "", `{"page":1,"limit":2}`},
		{"POST", "", `{"page":"1","limit":"2","shop":[1]}`},
		{"POST", "?limit=9", `{"page":null,"limit":2}`},
	} {
		a := askDemo(t, ask[0], ask[1], ask[2])
		require.Equal(t, http.StatusOK, a.Status)
		require.NotEmpty(t, a.RequestID)
		require.Equal(t, fmt.Sprintf(page1, a.RequestID), a.Raw, "%v", ask)
		response, err := rows.ScanResponse([]byte(a.Raw), rows.Limits{})
		require.NoError(t, err, "the crawler must be able to read it")
		require.EqualValues(t, 500, response.Total)
	}
}

func TestDemoPageHasEveryRowOnce(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{1, 7, 10, 499, 500, 501, 10_000} {
		next, pages := 0, 1
		for page := 1; page <= pages; page++ {
			var d struct {
				Data    []map[string]any
				PageTag struct {
					Page, Limit, Total int
					TotalPage          int `json:"total_page"`
				}
			}
			a := askDemo(t, "GET", fmt.Sprintf("?page=%d&limit=%d", page, limit), "")
			require.NoError(t, json.Unmarshal(a.Data, &d))
			require.Equal(t, (500+limit-1)/limit, d.PageTag.TotalPage)
			require.Equal(t, []int{page, limit, 500}, []int{d.PageTag.Page, d.PageTag.Limit, d.PageTag.Total})
			pages = d.PageTag.TotalPage
			require.Equal(t, "编号", d.Data[0]["ID"])
			for _, row := range d.Data[1:] {
				require.EqualValues(t, next, row["ID"])
				next++
			}
		}
		require.Equal(t, 500, next, "limit %d", limit)
	}
}

func TestDemoPageDefaultsAndBounds(t *testing.T) {
	t.Parallel()
	a := askDemo(t, "GET", "", "")
	require.Contains(t, a.Raw, `"pagetag":{"page":1,"limit":10,"total":500,"total_page":50}`)
	a = askDemo(t, "POST", "", "")
	require.Contains(t, a.Raw, `"pagetag":{"page":1,"limit":10,"total":500,"total_page":50}`)
	for _, page := range []string{"51", "2147483648"} {
		a = askDemo(t, "GET", "?page="+page, "")
		require.Contains(t, a.Raw, `"data":[{"Age":"年龄","ID":"编号","Name":"姓名"}],`, "beyond the end there is the header alone")
	}

	for _, bad := range []struct{ method, query, body, field string }{
		{"GET", "?page=0", "", "page"},
		{"GET", "?page=-1", "", "page"},
		{"GET", "?page=a", "", "page"},
		{"GET", "?page=1.5", "", "page"},
		{"GET", "?page=99999999999999999999", "", "page"},
		{"GET", "?page=2147483649", "", "page"},
		{"GET", "?limit=0", "", "limit"},
		{"GET", "?limit=10001", "", "limit"},
		{"POST", "", `{"page":true}`, "page"},
		{"POST", "", `{"limit":[10]}`, "limit"},
		{"POST", "", `{"limit":1e3}`, "limit"},
		{"POST", "", `{"limit":` + strings.Repeat("9", 1000) + `}`, "limit"},
		{"POST", "", `[1]`, "body"},
		{"POST", "", `{"page":1`, "body"},
		{"POST", "", strings.Repeat(" ", demoBody+1), "body"},
	} {
		a := askDemo(t, bad.method, bad.query, bad.body)
		require.NotEqual(t, http.StatusOK, a.Status, "%+v", bad)
		require.Equal(t, a.Status, a.Errcode)
		if bad.field != "body" {
			require.Equal(t, 400, a.Errcode)
		}
		require.True(t, strings.HasPrefix(a.Msg, bad.field+":"), "%+v: %s", bad, a.Msg)
		require.Equal(t, "null", string(a.Data))
	}
}
