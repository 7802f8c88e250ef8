//go:build chaos && !race

package main

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"sheaf/cmd/sheaf/node"
)

// A whole export has a budget of allocations per page, and none per row. The budget covers everything from
// the submission to the finished file: all roles, the embedded server, and this test's source and polling. A
// change that decodes a row, or copies a page once more, shows up here, where a timing would be noise. (The
// race detector makes pools forget, so this runs without it. Other load adds objects, so it runs alone, with
// the tag chaos.)
func TestExportAllocatesNothingPerRow(t *testing.T) {
	const (
		pages        = 100
		few, many    = 200, 1000 // rows per page
		objectsARow  = 0.5       // measured 0.03 to 0.04: polling, and larger messages; 0.15 on a busy machine, which polls more
		bytesARow    = 200       // measured 93 to 125; the rows are 62 bytes each
		objectsAPage = 500       // measured 400
	)
	body := func(page, limit int) []byte {
		b := []byte(`{"errcode":0,"data":{"data":[{"id":"ID","sn":"Number","name":"Name","paid":"Paid"}`)
		for i := range limit {
			n := page*limit + i
			b = fmt.Appendf(b, `,{"id":%d,"sn":"SN%012d","name":"name %d","paid":%t}`, n, n*7919%1_000_003*999_983, n*31%977, n%3 > 0)
		}
		return fmt.Appendf(b, `],"pagetag":{"page":%d,"limit":%d,"total":%d,"total_page":%d}}}`, page, limit, pages*limit, pages)
	}
	bodies := map[int][][]byte{few: nil, many: nil}
	for limit := range bodies {
		for page := range pages {
			bodies[limit] = append(bodies[limit], body(page+1, limit))
		}
	}
	source := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		page, _ := strconv.Atoi(r.URL.Query().Get("page"))
		limit, _ := strconv.Atoi(r.URL.Query().Get("limit"))
		b := bodies[limit][page-1]
		w.Header().Set("Content-Length", strconv.Itoa(len(b)))
		_, _ = w.Write(b)
	}))
	defer source.Close()
	cfg := node.OneShot(t.TempDir())
	cfg.Ephemeral = false
	ctx, drain := context.WithCancel(t.Context())
	opened, ended := make(chan node.Info, 1), make(chan error, 1)
	go func() { ended <- node.Run(ctx, cfg, func(at node.Info) { opened <- at }) }()
	server := (<-opened).HTTP

	n := 0
	allocated := func(limit int) (objects, size float64) {
		objects, size = math.Inf(1), math.Inf(1)
		for range 4 { // the first export fills the pools; other work in the process is noise
			n++
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			d := wireWait(t, server, wireSubmit(t, server, fmt.Sprintf("%s/?n=%d", source.URL, n), "", limit))
			runtime.ReadMemStats(&after)
			require.Equal(t, 2, d.Status, "%+v", d)
			objects = min(objects, float64(after.Mallocs-before.Mallocs))
			size = min(size, float64(after.TotalAlloc-before.TotalAlloc))
		}
		return objects, size
	}
	fewObjects, fewBytes := allocated(few)
	manyObjects, manyBytes := allocated(many)
	objects, size := (manyObjects-fewObjects)/(pages*(many-few)), (manyBytes-fewBytes)/(pages*(many-few))
	t.Logf("%.3f objects and %.0f bytes a row, %.0f objects a page", objects, size, fewObjects/pages)
	require.LessOrEqual(t, objects, objectsARow)
	require.LessOrEqual(t, size, float64(bytesARow))
	require.LessOrEqual(t, fewObjects/pages, float64(objectsAPage))
	drain()
	require.NoError(t, <-ended)
}
