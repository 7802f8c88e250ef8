package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

// A hundred small exports that arrive while a large one is crawled do not wait for its end: most complete
// before it.
func TestALargeExportKeepsNoSmallOneWaiting(t *testing.T) {
	t.Parallel()
	const rows, limit, small = 300_000, 500, 100
	begun := make(chan struct{})
	var asked atomic.Int64
	page := func(p, rows, total, limit int) []byte {
		body := []byte(`{"errcode":0,"data":{"data":[{"id":"ID","name":"Name","note":"Note"}`)
		for i := range rows {
			body = fmt.Appendf(body, `,{"id":%d,"name":"name %d","note":"a note of row %d"}`, (p-1)*limit+i, i%97, i)
		}
		return fmt.Appendf(body, `],"pagetag":{"page":%d,"limit":%d,"total":%d,"total_page":%d}}}`, p, limit, total, total/limit)
	}
	source := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/small" {
			_, _ = w.Write(page(1, 100, 100, 100))
			return
		}
		if asked.Add(1) == 20 {
			close(begun)
		}
		p, _ := strconv.Atoi(r.URL.Query().Get("page"))
		_, _ = w.Write(page(p, limit, rows, limit))
	}))
	defer source.Close()
	p := startServe(t, "--http", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0", "--data", t.TempDir())
	nc, err := nats.Connect(p.nats)
	require.NoError(t, err)
	defer nc.Close()
	completed := make(chan string, small+1)
	_, err = nc.Subscribe("sheaf.event.default.completed.*", func(m *nats.Msg) {
		completed <- m.Subject[strings.LastIndexByte(m.Subject, '.')+1:]
	})
	require.NoError(t, err)
	require.NoError(t, nc.Flush())

	large := wireSubmit(t, p.http, source.URL+"/large", "", limit)
	<-begun
	var wg errgroup.Group
	wg.SetLimit(32) // the maximum number of concurrent calls of a tenant; further ones may get 503
	for n := range small {
		wg.Go(func() error {
			wireSubmit(t, p.http, source.URL+fmt.Sprintf("/small?n=%d", n), "", 100)
			return nil
		})
	}
	_ = wg.Wait()
	before, largeDone := 0, false
	for n := range small + 1 {
		select {
		case key := <-completed:
			switch {
			case key == large:
				largeDone = true
			case !largeDone:
				before++
			}
		case <-time.After(2 * time.Minute):
			t.Fatalf("%d of %d exports completed", n, small+1)
		}
	}
	require.True(t, largeDone)
	require.GreaterOrEqual(t, before, small/2, "small exports that completed before the large one")
	t.Logf("%d of %d small exports completed before the large one", before, small)
	p.drain(t)
}
