package ingress

import (
	"net/http"
	"net/url"

	"sheaf/services/ingress/request"
)

// The demo source: 500 rows in the standard page format.
const (
	demoRows     = 500
	demoMaxPage  = 1 << 31
	demoMaxLimit = 10_000
	// demoBody limits a body. The demo needs no key, and may have thousands of callers.
	demoBody = 16 << 10
)

type demoHeader struct{ Age, ID, Name string }

type demoRow struct {
	ID   uint64
	Name string
	Age  int
}

type pageTag struct {
	Page      uint64 `json:"page"`
	Limit     uint64 `json:"limit"`
	Total     uint64 `json:"total"`
	TotalPage uint64 `json:"total_page"`
}

// demoPage is a source for trying exports. Every page begins with the header, which does not count towards
// limit. total_page is rounded up to include the last page.
func demoPage(w http.ResponseWriter, r *http.Request) {
	data, err := demoData(w, r)
	respond(w, r, data, err)
}

func demoData(w http.ResponseWriter, r *http.Request) (any, error) {
	q, err := demoQuery(w, r)
	if err != nil {
		return nil, err
	}
	page, err := request.Number(q, "page", 1, 1, demoMaxPage)
	if err != nil {
		return nil, err
	}
	limit, err := request.Number(q, "limit", 10, 1, demoMaxLimit)
	if err != nil {
		return nil, err
	}
	list := []any{demoHeader{Age: "年龄", ID: "编号", Name: "姓名"}}
	for id := (page - 1) * limit; id < min(page*limit, demoRows); id++ {
		list = append(list, demoRow{ID: id, Name: "Demo", Age: 15})
	}
	return struct {
		Data    []any   `json:"data"`
		PageTag pageTag `json:"pagetag"`
	}{list, pageTag{Page: page, Limit: limit, Total: demoRows, TotalPage: (demoRows + limit - 1) / limit}}, nil
}

// demoQuery reads the parameters from the query, or from the JSON object in the
// body of a POST.
func demoQuery(w http.ResponseWriter, r *http.Request) (url.Values, error) {
	if r.Method != http.MethodPost {
		return r.URL.Query(), nil
	}
	body, err := readBody(w, r, demoBody)
	if err != nil {
		return nil, err
	}
	return request.Params(body, "page", "limit")
}
