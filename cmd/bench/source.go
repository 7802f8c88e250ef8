//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// The source computes its rows on request from their number alone. It keeps no state and leaves the two cores
// to the measured program. Its rows resemble those of the sheet writer's benchmarks: integers, decimals,
// booleans, short and long strings, Chinese text, nulls and dates.

const sourceHeader = `{"id":"编号","sn":"订单号","name":"姓名","amount":"金额","paid":"已付款","city":"城市","created_at":"下单时间","note":"备注"}`

var cities = [...]string{"北京", "上海", "广州", "深圳", "杭州", "成都"}

// random returns the k-th random number of row i: SplitMix64's finaliser over a counter (Steele, Lea and
// Flood, 2014).
func random(i int, k uint64) uint64 {
	x := (uint64(i)<<4 | k) * 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// below maps r to 0 … n-1.
func below(r, n uint64) uint64 {
	high, _ := bits.Mul64(r, n)
	return high
}

// appendDigits appends n with exactly width digits.
func appendDigits(b []byte, n uint64, width int) []byte {
	for range width {
		b = append(b, '0')
	}
	for i := len(b) - 1; n > 0; i-- {
		b[i] = '0' + byte(n%10)
		n /= 10
	}
	return b
}

// appendRow appends data row i, counted from 0.
func appendRow(b []byte, i int) []byte {
	r := random(i, 0) // small values use the bits of one number
	b = append(b, `{"id":`...)
	b = strconv.AppendInt(b, int64(i)+1, 10)
	b = append(b, `,"sn":"SN`...)
	b = appendDigits(b, below(random(i, 1), 1e12), 12)
	b = append(b, `","name":"客户`...)
	b = strconv.AppendUint(b, below(random(i, 2), 50_000), 10)
	b = append(b, `","amount":`...)
	b = strconv.AppendUint(b, below(random(i, 3), 100_000), 10)
	b = append(b, '.')
	b = appendDigits(b, r%100, 2)
	b = append(b, `,"paid":`...)
	b = strconv.AppendBool(b, r>>8&3 > 0)
	b = append(b, `,"city":"`...)
	b = append(b, cities[r>>10&0xff%uint64(len(cities))]...)
	b = append(b, `","created_at":"2026-`...)
	b = appendDigits(b, 1+r>>18&0xff%12, 2)
	b = append(b, '-')
	b = appendDigits(b, 1+r>>26&0xff%28, 2)
	b = append(b, ' ')
	b = appendDigits(b, r>>34&0xff%24, 2)
	b = append(b, ':')
	b = appendDigits(b, r>>42&0xff%60, 2)
	b = append(b, ':')
	b = appendDigits(b, r>>50&0xff%60, 2)
	if r>>58%3 == 0 {
		b = append(b, `","note":"note `...)
		b = strconv.AppendUint(b, random(i, 4), 16)
		return append(b, ` & more"}`...)
	}
	return append(b, `","note":null}`...)
}

// appendRows appends page n of total rows as a JSON array, header first. It returns the number of rows,
// header included.
func appendRows(b []byte, n, limit, total int) ([]byte, int) {
	b = append(b, '[')
	b = append(b, sourceHeader...)
	from := min((n-1)*limit, total)
	to := min(from+limit, total)
	for i := from; i < to; i++ {
		b = append(b, ',')
		b = appendRow(b, i)
	}
	return append(b, ']'), to - from + 1
}

// appendPage appends the source's response for page n.
func appendPage(b []byte, n, limit, total int) []byte {
	b = append(b, `{"errcode":0,"msg":"","data":{"data":`...)
	b, _ = appendRows(b, n, limit, total)
	return fmt.Appendf(b, `,"pagetag":{"page":%d,"limit":%d,"total":%d,"total_page":%d}}}`, n, limit, total,
		pageCount(limit, total))
}

func pageCount(limit, total int) int { return (total + limit - 1) / limit }

// maxPageRows bounds the memory of a request.
const maxPageRows = 10_000

// sourceHandler serves GET /rows/TOTAL?page=&limit= with a page of TOTAL rows in the standard format, the
// lists of serveList, and GET /waited with the sum of their latencies in nanoseconds.
func sourceHandler() http.Handler {
	buffers := sync.Pool{New: func() any { return new([]byte) }}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /rows/{total}", func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		total, err := strconv.Atoi(r.PathValue("total"))
		page, err2 := strconv.Atoi(query.Get("page"))
		limit, err3 := strconv.Atoi(query.Get("limit"))
		if err := errors.Join(err, err2, err3); err != nil || total < 0 || page < 1 || limit < 1 ||
			limit > maxPageRows {
			http.Error(w, "want /rows/TOTAL?page=1&limit=1000", http.StatusBadRequest)
			return
		}
		b := buffers.Get().(*[]byte)
		defer buffers.Put(b)
		*b = appendPage((*b)[:0], page, limit, total)
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(len(*b)))
		_, _ = w.Write(*b) // a caller that disconnects is not the source's error
	})
	mux.HandleFunc("GET /lists/{total}", func(w http.ResponseWriter, r *http.Request) { serveList(w, r, &buffers) })
	mux.HandleFunc("GET /waited", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, waited.Load()) })
	return mux
}

// appendList appends a response that names its next page in each way, without titles. from is the number of
// rows before the page.
func appendList(b []byte, path string, from, limit, total int, wait time.Duration) []byte {
	b = append(b, `{"items":[`...)
	to := min(from+limit, total)
	for i := from; i < to; i++ {
		if i > from {
			b = append(b, ',')
		}
		b = appendRow(b, i)
	}
	b = fmt.Appendf(b, `],"total":%d,"pages":%d`, total, pageCount(limit, total))
	if to < total {
		b = fmt.Appendf(b, `,"next":"%d","next_url":%q`, to, nextURL(path, to, limit, wait))
	}
	return append(b, '}')
}

func nextURL(path string, after, limit int, wait time.Duration) string {
	return fmt.Sprintf("%s?after=%d&limit=%d&wait=%s", path, after, limit, wait)
}

// waited is the sum of the latencies of all lists.
var waited atomic.Int64

// serveList serves GET /lists/TOTAL?limit= with a page of TOTAL rows, from page=, offset= or after=. wait= is
// a latency before the response.
func serveList(w http.ResponseWriter, r *http.Request, buffers *sync.Pool) {
	query := r.URL.Query()
	total, err := strconv.Atoi(r.PathValue("total"))
	limit, err2 := strconv.Atoi(query.Get("limit"))
	from := 0
	var err3 error
	switch {
	case query.Has("page"):
		from, err3 = strconv.Atoi(query.Get("page"))
		from = (from - 1) * limit
	case query.Has("offset"):
		from, err3 = strconv.Atoi(query.Get("offset"))
	case query.Has("after"):
		from, err3 = strconv.Atoi(query.Get("after"))
	}
	if err := errors.Join(err, err2, err3); err != nil || total < 0 || from < 0 || limit < 1 || limit > maxPageRows {
		http.Error(w, "want /lists/TOTAL?limit=1000 with page, offset, after or none", http.StatusBadRequest)
		return
	}
	wait, _ := time.ParseDuration(query.Get("wait"))
	if wait > 0 {
		begin := time.Now()
		time.Sleep(wait) // the simulated latency
		waited.Add(int64(time.Since(begin)))
	}
	b := buffers.Get().(*[]byte)
	defer buffers.Put(b)
	*b = appendList((*b)[:0], r.URL.Path, from, limit, total, wait)
	if to := from + limit; to < total {
		w.Header().Set("Link", fmt.Sprintf(`<%s>; rel="next"`, nextURL(r.URL.Path, to, limit, wait)))
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(*b)))
	_, _ = w.Write(*b)
}

// serveSource is the process "bench source": it prints its address and serves until ctx ends.
func serveSource(ctx context.Context) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Printf("http://%s\n", l.Addr())
	server := &http.Server{Handler: sourceHandler()}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
