//go:build chaos && linux

package chaostest

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"time"
)

// order is one export that the suite submits, and its outcome.
type order struct {
	n     int
	raw   bool // the request contains the rows
	pages int
	limit int // rows of each page except the last
	last  int // rows of the last page
	wide  bool

	at       time.Duration // when it is submitted
	durable  bool          // by NATS instead of REST
	headers  bool          // the source requires a secret header
	callback string        // "", "http" or "nats"
	hangs    bool          // the first callback attempt gets no response
	refuses  int           // callback attempts that always get 500
	cancel   time.Duration // after acceptance; 0: never
	retry    bool          // after it failed or was cancelled
	broken   int           // page that returns an errcode until it is repaired; 0: none
	slow     time.Duration // before each page
	poison   bool          // every crawl crashes the process

	mu        sync.Mutex
	accepted  bool
	key       string
	repeated  int  // how often its submission was repeated after a lost response
	cancelled bool // a response confirmed the cancellation
}

func (o *order) total() int { return (o.pages-1)*o.limit + o.last }

// kind is the last part of its submission path or subject.
func (o *order) kind() string {
	if o.raw {
		return "raw"
	}
	return "http"
}

func (o *order) correlation() string { return fmt.Sprintf("order-%d", o.n) }

// rowsOf returns the number of rows of a page.
func (o *order) rowsOf(page int) int {
	switch {
	case page < 1 || page > o.pages:
		return 0
	case page == o.pages:
		return o.last
	}
	return o.limit
}

var columns = [][2]string{{"id", "编号"}, {"name", "姓名"}, {"amount", "金额"}, {"paid", "已付"},
	{"note", "备注"}, {"end", "结束"}}

// cells returns the values of one row, which depend only on its position.
func (o *order) cells(seed uint64, page, row int) []any {
	r := rand.New(rand.NewPCG(seed, uint64(o.n)<<40|uint64(page)<<16|uint64(row)))
	note := any(nil)
	switch {
	case o.wide:
		b := make([]byte, 600)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		note = hex.EncodeToString(b)
	case r.IntN(3) > 0:
		note = fmt.Sprintf("<%d> & \"%x\" 备注", r.IntN(1000), r.Uint32())
	}
	return []any{(page-1)*o.limit + row, fmt.Sprintf("客户 %x", r.Uint64()),
		json.Number(fmt.Sprintf("%d.%d", r.IntN(100000), 1+r.IntN(9))), r.IntN(2) == 0, note, "·"}
}

// text returns a cell's text in the workbook.
func text(cell any) string {
	switch v := cell.(type) {
	case nil:
		return ""
	case bool:
		return strings.ToUpper(strconv.FormatBool(v))
	}
	return fmt.Sprint(cell)
}

// appendRows appends the header and the rows of a page.
func (o *order) appendRows(b []byte, seed uint64, page int) []byte {
	b = append(b, "[{"...)
	for i, c := range columns {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(append(b, '"'), c[0]...), `":"`+c[1]+`"`...)
	}
	b = append(b, '}')
	for row := 1; row <= o.rowsOf(page); row++ {
		b = append(b, ",{"...)
		for i, cell := range o.cells(seed, page, row) {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(append(append(b, '"'), columns[i][0]...), `":`...)
			value, _ := json.Marshal(cell)
			b = append(b, value...)
		}
		b = append(b, '}')
	}
	return append(b, ']')
}

// body returns the request. A quiet one has no faults and no callback.
func (o *order) body(w *world, quiet bool) []byte {
	request := map[string]any{
		"timestamp": 1_700_000_000 + o.n, "ext_type": "XLSX", "title": fmt.Sprintf("订单 %d", o.n),
		"user_id": "chaos",
	}
	switch {
	case quiet:
	case o.callback == "http":
		request["callback"] = w.receiver.url(o)
	case o.callback == "nats":
		request["callback"] = "nats:" + o.callbackSubject()
	}
	if o.raw {
		request["source_raw"] = string(o.appendRows(nil, w.seed, 1))
	} else {
		kind := "noisy"
		if quiet {
			kind = "quiet"
		}
		from := map[string]any{"url": fmt.Sprintf("%s/%s/%d", w.source.server.URL, kind, o.n),
			"method": "GET", "conn": 1 + o.n%8, "param": map[string]any{"limit": o.limit}}
		if o.headers {
			from["header"] = map[string]string{"Authorization": "Bearer " + o.correlation()}
		}
		request["source_http"] = from
	}
	body, _ := json.Marshal(request)
	return body
}

func (o *order) callbackSubject() string { return fmt.Sprintf("sheaf.callback.default.chaos-%d", o.n) }

// pageOf identifies one page of one order.
type pageOf struct{ order, page int }

// source serves the rows of every order, with faults, and counts the requests.
type source struct {
	seed   uint64
	orders []*order
	server *httptest.Server
	busy   func() // called for each request
	poison func() // crashes the process that sends the request

	mu     sync.Mutex
	asked  map[pageOf][]time.Time // every request
	served map[pageOf]int         // complete responses
	faults map[pageOf]int         // faulty responses
	mended map[int]bool
	bad    []string
}

func newSource(seed uint64, orders []*order, busy func()) *source {
	s := &source{seed: seed, orders: orders, busy: busy,
		asked: map[pageOf][]time.Time{}, served: map[pageOf]int{}, faults: map[pageOf]int{},
		mended: map[int]bool{}}
	s.server = quietServer(s)
	return s
}

func quietServer(h http.Handler) *httptest.Server {
	server := httptest.NewUnstartedServer(h)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.Start()
	return server
}

// faultsOf returns the faults of the first requests for a page.
func (s *source) faultsOf(at pageOf) []string {
	r := rand.New(rand.NewPCG(s.seed^0xfa17, uint64(at.order)<<32|uint64(at.page)))
	if r.IntN(100) >= 5 {
		return nil
	}
	kinds := []string{"500", "429", "reset", "cut", "503"}
	faults := make([]string, 1+r.IntN(2))
	for i := range faults {
		faults[i] = kinds[r.IntN(len(kinds))]
	}
	return faults
}

func (s *source) mend(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mended[n] = true
}

func (s *source) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	kind, number, _ := strings.Cut(strings.Trim(r.URL.Path, "/"), "/")
	n, err := strconv.Atoi(number)
	page, pageErr := strconv.Atoi(r.URL.Query().Get("page"))
	if err != nil || pageErr != nil || n < 0 || n >= len(s.orders) {
		http.NotFound(w, r)
		return
	}
	o := s.orders[n]
	answer := func() []byte {
		b := append([]byte(nil), `{"errcode":0,"msg":"","data":{"data":`...)
		b = o.appendRows(b, s.seed, page)
		return fmt.Appendf(b, `,"pagetag":{"page":%d,"limit":%d,"total":%d,"total_page":%d}}}`, page, o.limit,
			o.total(), o.pages)
	}
	w.Header().Set("Content-Type", "application/json")
	// After a single full page the crawler requests page 2, to check whether the total counts only page 1.
	beyond := page == 2 && o.pages == 1 && o.last == o.limit
	if kind == "quiet" || beyond {
		_, _ = w.Write(answer())
		return
	}
	s.busy()
	at := pageOf{n, page}
	s.mu.Lock()
	if o.headers && r.Header.Get("Authorization") != "Bearer "+o.correlation() {
		s.bad = append(s.bad, fmt.Sprintf("order %d page %d was asked for without its header", n, page))
	}
	if got := r.URL.Query().Get("limit"); got != strconv.Itoa(o.limit) || page < 1 || page > o.pages {
		s.bad = append(s.bad, fmt.Sprintf("order %d was asked for page %d with limit %s; it has %d pages", n,
			page, got, o.pages))
	}
	s.asked[at] = append(s.asked[at], time.Now())
	fault := ""
	if o.broken == page && !s.mended[n] {
		fault = "errcode"
	} else if list := s.faultsOf(at); s.faults[at] < len(list) {
		fault = list[s.faults[at]]
	}
	if fault != "" {
		s.faults[at]++
	}
	s.mu.Unlock()

	if o.poison {
		s.poison()
		<-r.Context().Done()
		return
	}
	select {
	case <-time.After(o.slow):
	case <-r.Context().Done():
		return
	}
	switch fault {
	case "errcode":
		_, _ = io.WriteString(w, `{"errcode":4711,"msg":"the report is broken","data":null}`)
		return
	case "500":
		http.Error(w, "oops", http.StatusInternalServerError)
		return
	case "503":
		http.Error(w, "<html>later</html>", http.StatusServiceUnavailable)
		return
	case "429":
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusTooManyRequests)
		return
	case "reset":
		reset(w)
		return
	case "cut":
		body := answer()
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body[:len(body)*2/3])
		panic(http.ErrAbortHandler)
	}
	delay := rand.New(rand.NewPCG(s.seed^0x510, uint64(n)<<32|uint64(page)))
	d := time.Duration(delay.IntN(12)) * time.Millisecond
	if delay.IntN(40) == 0 {
		d = time.Duration(200+delay.IntN(600)) * time.Millisecond
	}
	if o.cancel > 0 {
		d += 30 * time.Millisecond // so that there is something to cancel
	}
	select {
	case <-time.After(d):
	case <-r.Context().Done():
		return
	}
	if _, err := w.Write(answer()); err == nil {
		s.mu.Lock()
		s.served[at]++
		s.mu.Unlock()
	}
}

// reset ends the connection with an RST.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// delivery is one callback that arrived.
type delivery struct {
	id     string
	event  string
	status int // status of the response; 0: none
	at     time.Time
}

// receiver records callbacks, with faults.
type receiver struct {
	seed    uint64
	orders  []*order
	servers []*httptest.Server
	ending  chan struct{}

	mu    sync.Mutex
	calls map[int][]delivery
	bad   []string
}

// newReceiver listens on several ports, because a notifier limits the concurrent requests per host.
func newReceiver(seed uint64, orders []*order) *receiver {
	r := &receiver{seed: seed, orders: orders, ending: make(chan struct{}), calls: map[int][]delivery{}}
	for range 6 {
		r.servers = append(r.servers, quietServer(r))
	}
	return r
}

func (r *receiver) close() {
	close(r.ending)
	for _, s := range r.servers {
		s.Close()
	}
}

// url returns an order's callback URL. Orders whose callback hangs have a separate host.
func (r *receiver) url(o *order) string {
	i := 0
	if !o.hangs {
		i = 1 + o.n%(len(r.servers)-1)
	}
	return fmt.Sprintf("%s/done/%d", r.servers[i].URL, o.n)
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	n, err := strconv.Atoi(strings.TrimPrefix(req.URL.Path, "/done/"))
	if err != nil || n < 0 || n >= len(r.orders) {
		http.NotFound(w, req)
		return
	}
	var body struct {
		Event string `json:"event"`
		Log   struct {
			HashKey string `json:"hash_key"`
		} `json:"log"`
	}
	id := req.Header.Get("webhook-id")
	wrong := json.NewDecoder(req.Body).Decode(&body)

	r.mu.Lock()
	if wrong != nil || !strings.HasPrefix(id, body.Log.HashKey+"-") || body.Log.HashKey == "" {
		r.bad = append(r.bad, fmt.Sprintf("order %d: callback %q with key %q: %v", n, id,
			body.Log.HashKey, wrong))
	}
	before := 0
	for _, c := range r.calls[n] {
		if c.id == id {
			before++
		}
	}
	pick := rand.New(rand.NewPCG(r.seed^0xca11, uint64(n)))
	faults := []string{"", "", "", "500", "reset", "503"}
	fault := ""
	switch {
	case r.orders[n].hangs && before == 0:
		fault = "hang"
	case before < r.orders[n].refuses:
		fault = "500"
	case before < 2:
		for range before + 1 {
			fault = faults[pick.IntN(len(faults))]
		}
	}
	status := map[string]int{"": 200, "500": 500, "503": 503}[fault]
	r.calls[n] = append(r.calls[n], delivery{id: id, event: body.Event, status: status, at: time.Now()})
	r.mu.Unlock()

	switch fault {
	case "reset":
		reset(w)
	case "hang":
		select {
		case <-r.ending:
		case <-req.Context().Done():
		}
	default:
		w.WriteHeader(status)
	}
}
