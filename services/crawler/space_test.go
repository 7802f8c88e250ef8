package crawler

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/embedded"
	"sheaf/events/eventstest"
	"sheaf/events/rows"
	"sheaf/services/crawler/sourcetest"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// streamBytes is the page stream of these tests.
const streamBytes = 8 << 20

func spaceKey(n int) string { return fmt.Sprintf("%032x", n) }

// noisySource serves n rows of about 1,000 bytes that do not compress further.
func noisySource(t *testing.T, n int) *sourcetest.Source {
	src := sourcetest.New(t, n)
	src.Row = func(n int) string { return noisyRow(n, 1000) }
	return src
}

func noisyRow(n, size int) string {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], uint64(n))
	b := make([]byte, size)
	_, _ = rand.NewChaCha8(seed).Read(b)
	return fmt.Sprintf(`{"id":%d,"name":"%s","amount":1}`, n, base64.StdEncoding.EncodeToString(b))
}

func requestKey(t *testing.T, s *events.Streams, key, url string) events.Export {
	t.Helper()
	x, err := s.Append(t.Context(), events.Export{Tenant: "default", Key: key}, "", func(*events.Export) (events.Payload, error) {
		return &events.ExportRequested{CreatedAt: time.Now().UTC(), Request: events.Request{
			ExtType: "XLSX", SourceType: events.SourceHTTP,
			HTTP: &events.HTTPRequest{URL: url, Method: http.MethodGet, Limit: 50, Conn: 4, Param: json.RawMessage(`{}`)},
		}}, nil
	})
	require.NoError(t, err)
	return x
}

// assemble stands in for the assembler: it reads every page of what was crawled
// and appends completed. It removes nothing.
func assemble(t *testing.T, s *events.Streams) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = s.Consume(ctx, events.StreamEvents, events.ConsumerAssembler, 2, func(ctx context.Context, d events.Delivery) error {
			ev, err := d.Event()
			if err != nil {
				return err
			}
			crawled := ev.Payload.(*events.ExportCrawled)
			ids, total := map[string]bool{}, int64(0)
			for n := 1; n <= crawled.Pages; n++ {
				p, err := s.GetPage(ctx, events.PageID{Tenant: ev.Tenant, Key: ev.Key, Run: crawled.Run, Number: n})
				if err != nil {
					return err
				}
				c := rows.NewCursor(p.Rows)
				for first := true; c.NextRow(); first = false {
					if _, _, v, _ := c.NextField(); !first || !p.HeaderRow {
						ids[string(v.Raw)] = true
					}
				}
				total = p.Total
			}
			x, err := s.Read(ctx, ev.Tenant, ev.Key)
			if err != nil || x.State != events.StateCrawled {
				return err
			}
			_, err = s.Append(ctx, x, "", func(*events.Export) (events.Payload, error) {
				if int64(len(ids)) != total {
					return &events.ExportFailed{Code: events.CodeSourceIncomplete, Reason: fmt.Sprintf("%d of %d rows", len(ids), total)}, nil
				}
				return &events.ExportCompleted{Run: x.Run, Pages: x.Pages, Rows: total}, nil
			})
			return err
		})
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
}

// awaitEnds waits until all exports have ended and returns them.
func awaitEnds(t *testing.T, s *events.Streams, keys ...string) map[string]events.Export {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	ends := map[string]events.Export{}
	err := s.Follow(ctx, 1, func(batch []events.Event) error {
		for _, ev := range batch {
			if slices.Contains([]events.Type{events.TypeCompleted, events.TypeFailed, events.TypeCancelled}, ev.Type()) && slices.Contains(keys, ev.Key) {
				x, err := s.Read(t.Context(), ev.Tenant, ev.Key)
				if err != nil {
					return err
				}
				ends[ev.Key] = x
			}
		}
		if len(ends) == len(keys) {
			cancel()
		}
		return nil
	})
	require.NoError(t, err)
	require.Len(t, ends, len(keys), "all end")
	return ends
}

func spaceStreams(t *testing.T, srv *embedded.Server) *events.Streams {
	return eventstest.StreamsOn(t, srv, events.Config{MaxPagesBytes: streamBytes})
}

// Three exports of which no two fit into the page stream together all complete,
// one after the other, in one process or in two.
func TestExportsThatDoNotFitTogetherGoOneAfterAnother(t *testing.T) {
	t.Parallel()
	for _, processes := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d processes", processes), func(t *testing.T) {
			srv := eventstest.Server(t, "")
			s := spaceStreams(t, srv)
			src := noisySource(t, streamBytes/1000*6/10)
			assemble(t, s)
			var waited sync.Map
			stop, err := s.OnProgress(func(_, key string, p events.Progress) {
				if p.Phase == events.PhaseWaitingForSpace {
					waited.Store(key, true)
				}
			})
			require.NoError(t, err)
			defer stop()
			for range processes {
				start(t, spaceStreams(t, srv), src.Client, Config{})
			}
			var keys []string
			for n := range 3 {
				keys = append(keys, spaceKey(n))
				requestKey(t, s, keys[n], src.URL)
			}
			for key, x := range awaitEnds(t, s, keys...) {
				require.Equal(t, events.StateCompleted, x.State, "%s: %+v", key, x.Failure)
			}
			told := 0
			waited.Range(func(any, any) bool { told++; return true })
			require.GreaterOrEqual(t, told, 2, "waiting_for_space is told")
			left, err := s.Reservations(t.Context())
			require.NoError(t, err)
			require.Empty(t, left)
		})
	}
}

// With as many slots as exports that wait, the slots are given up for those
// that came later, and everything ends.
func TestWaitingExportsGiveUpTheirSlots(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	s := spaceStreams(t, srv)
	src, few := noisySource(t, streamBytes/1000*6/10), sourcetest.New(t, 100)
	requestKey(t, s, spaceKey(1), src.URL)
	hold := make(chan struct{})
	var held atomic.Int32
	src.Fault = func(page, _ int) sourcetest.Fault {
		if page == 40 && held.Add(1) == 1 {
			return func(w http.ResponseWriter, r *http.Request, body []byte) {
				<-hold
				sourcetest.Body(string(body))(w, r, body)
			}
		}
		return nil
	}
	assemble(t, s)
	start(t, s, src.Client, Config{Exports: 2})
	require.Eventually(t, func() bool { return held.Load() > 0 }, 20*time.Second, time.Millisecond)
	requestKey(t, s, spaceKey(2), src.URL)
	requestKey(t, s, spaceKey(3), few.URL)
	require.Equal(t, events.StateCompleted, awaitEnds(t, s, spaceKey(3))[spaceKey(3)].State, "while one of two slots waits and the other works")
	close(hold)
	for _, x := range awaitEnds(t, s, spaceKey(1), spaceKey(2)) {
		require.Equal(t, events.StateCompleted, x.State, "%+v", x.Failure)
	}
}

func TestAnExportLargerThanTheStreamFailsSoon(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		claim string
		bytes int
		pages int // most that are asked for
	}{
		{"three times", 3 * streamBytes, 30},
		{"by a tenth", streamBytes / 10 * 11, 1 << 20},
	} {
		t.Run(tc.claim, func(t *testing.T) {
			srv := eventstest.Server(t, "")
			s := spaceStreams(t, srv)
			src := noisySource(t, tc.bytes/1000)
			start(t, s, src.Client, Config{})
			requestKey(t, s, spaceKey(1), src.URL)
			begun := time.Now()
			x := awaitEnds(t, s, spaceKey(1))[spaceKey(1)]
			require.Less(t, time.Since(begun), 20*time.Second)
			require.Equal(t, events.CodeLimitBytes, x.Failure.Code)
			require.Regexp(t, `the pages need about \d+\.\d MiB \(\d+ of \d+ pages take \d+\.\d MiB\), the page stream holds at most 8\.0 MiB; raise --max-pages-bytes`, x.Failure.Reason)
			require.LessOrEqual(t, len(src.Requests()), tc.pages)
		})
	}
}

// The first pages of the older export are small, so its need is believed to be
// small and the younger one goes on beside it. Then the stream is full, the
// younger one gives its pages up, and both complete.
func TestTheYoungestGivesWayWhenEstimatesWereWrong(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	s := spaceStreams(t, srv)
	older, younger := noisySource(t, 7500), noisySource(t, streamBytes/1000*5/10)
	older.Row = func(n int) string {
		if n < 2000 {
			return noisyRow(n, 60)
		}
		return noisyRow(n, 950)
	}
	// The older one waits at its page 30 until the younger one has filled the
	// stream by a half, and hangs.
	var hanging atomic.Int64
	enough := make(chan struct{})
	younger.Fault = func(page, attempt int) sourcetest.Fault {
		if page <= 80 || attempt > 1 {
			return nil
		}
		if hanging.Add(1) == 4 {
			close(enough)
		}
		return sourcetest.Hang
	}
	older.Fault = func(page, _ int) sourcetest.Fault {
		if page < 30 {
			return nil
		}
		return func(w http.ResponseWriter, r *http.Request, body []byte) {
			select {
			case <-enough:
			case <-r.Context().Done():
			}
			sourcetest.Body(string(body))(w, r, body)
		}
	}
	assemble(t, s)
	start(t, s, older.Client, Config{})
	requestKey(t, s, spaceKey(1), older.URL)
	requestKey(t, s, spaceKey(2), younger.URL)
	ends := awaitEnds(t, s, spaceKey(1), spaceKey(2))
	for _, x := range ends {
		require.Equal(t, events.StateCompleted, x.State, "%+v", x.Failure)
	}
	require.Less(t, ends[spaceKey(1)].LastSeq, ends[spaceKey(2)].LastSeq)
	firsts := 0
	for _, r := range younger.Requests() {
		if r.Page == 1 {
			firsts++
		}
	}
	require.GreaterOrEqual(t, firsts, 2, "the younger one began again")
}

// What a dead process reserved, and what a dead export did, holds nobody up.
func TestTheDeadHoldNobodyUp(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	s := spaceStreams(t, srv)
	src := noisySource(t, streamBytes/1000*6/10)
	dead := requestKey(t, s, spaceKey(1), src.URL)
	require.NoError(t, s.Reserve(t.Context(), &events.Reservation{Tenant: "default", Key: dead.Key, Requested: dead.RequestedSeq, Run: dead.RequestedSeq, Remaining: streamBytes / 2}))
	_, err := s.Append(t.Context(), dead, "", func(*events.Export) (events.Payload, error) { return &events.ExportCancelled{}, nil })
	require.NoError(t, err)

	crashed := requestKey(t, s, spaceKey(2), src.URL)
	// It had written pages, and was about to give way, when its process died.
	var m events.Page
	for n := 1; n <= 4; n++ {
		m = events.Page{PageID: events.PageID{Tenant: "default", Key: crashed.Key, Run: crashed.RequestedSeq, Number: n},
			Rows: src.Page(n, 50), RowCount: 51, HeaderRow: true, Total: int64(src.Rows), TotalPages: src.Pages(50)}
		_, err = s.PublishPage(t.Context(), m)
		require.NoError(t, err)
	}
	require.NoError(t, s.Reserve(t.Context(), &events.Reservation{Tenant: "default", Key: crashed.Key, Requested: crashed.RequestedSeq,
		Run: crashed.RequestedSeq, Remaining: streamBytes / 2, GaveWay: 1 << 40}))

	third := requestKey(t, s, spaceKey(3), src.URL)
	assemble(t, s)
	start(t, s, src.Client, Config{})
	for _, x := range awaitEnds(t, s, crashed.Key, third.Key) {
		require.Equal(t, events.StateCompleted, x.State, "%+v", x.Failure)
	}
}

// Of two crawlers that have one export only the last that took it over can
// give its pages up.
func TestReservationIsHeldByOneCrawler(t *testing.T) {
	t.Parallel()
	s := eventstest.Streams(t)
	x := requestKey(t, s, spaceKey(1), "http://127.0.0.1:1/")
	first := events.Reservation{Tenant: "default", Key: x.Key, Requested: x.RequestedSeq, Run: x.RequestedSeq, Remaining: 10}
	require.NoError(t, s.Reserve(t.Context(), &first))
	second, err := s.TakeOver(t.Context(), &x)
	require.NoError(t, err)
	id := events.PageID{Tenant: "default", Key: x.Key, Run: x.RequestedSeq, Number: 1}
	_, err = s.PublishPage(t.Context(), events.Page{PageID: id, Rows: []byte(`[]`)})
	require.NoError(t, err)

	require.ErrorIs(t, s.Reserve(t.Context(), &first), events.ErrReservationLost)
	require.ErrorIs(t, s.GiveWay(t.Context(), &first), events.ErrReservationLost)
	pages, err := s.ListPages(t.Context(), "default", x.Key, x.RequestedSeq)
	require.NoError(t, err)
	require.Equal(t, []int{1}, pages)
	require.NoError(t, s.Release(t.Context(), first), "too old to remove anything")

	late := second
	require.NoError(t, s.GiveWay(t.Context(), &second))
	third, err := s.TakeOver(t.Context(), &x)
	require.NoError(t, err)
	require.Zero(t, third.GaveWay)
	_, err = s.PublishPage(t.Context(), events.Page{PageID: id, Rows: []byte(`[]`)})
	require.NoError(t, err)
	require.ErrorIs(t, s.GiveWay(t.Context(), &late), events.ErrReservationLost)
	pages, err = s.ListPages(t.Context(), "default", x.Key, x.RequestedSeq)
	require.NoError(t, err)
	require.Equal(t, []int{1}, pages, "what the next crawl wrote stays")
	list, err := s.Reservations(t.Context())
	require.NoError(t, err)
	require.Equal(t, []events.Reservation{{Tenant: "default", Key: x.Key, Requested: x.RequestedSeq, Run: x.RequestedSeq, Remaining: 10}},
		[]events.Reservation{{Tenant: list[0].Tenant, Key: list[0].Key, Requested: list[0].Requested, Run: list[0].Run, Remaining: list[0].Remaining, Stored: list[0].Stored, GaveWay: list[0].GaveWay}})
	require.NoError(t, s.Release(t.Context(), third))
	list, err = s.Reservations(t.Context())
	require.NoError(t, err)
	require.Empty(t, list)
}

// Pages of stopped exports go for a crawl that waits, but not the rows that
// came with a request.
func TestWaitingCrawlGetsTheRoomOfStoppedExports(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	s := spaceStreams(t, srv)
	src := noisySource(t, streamBytes/1000*6/10)
	stopped := requestKey(t, s, spaceKey(1), src.URL)
	var number int
	fill := func(key string, run uint64, n int) {
		for range n {
			number++
			_, err := s.PublishPage(t.Context(), events.Page{PageID: events.PageID{Tenant: "default", Key: key, Run: run, Number: number}, Rows: src.Page(number, 50)})
			require.NoError(t, err)
		}
	}
	fill(stopped.Key, stopped.RequestedSeq, 80)
	_, err := s.Append(t.Context(), stopped, "", func(*events.Export) (events.Payload, error) { return &events.ExportCancelled{}, nil })
	require.NoError(t, err)
	raw, err := s.Append(t.Context(), events.Export{Tenant: "default", Key: spaceKey(2)}, "", func(*events.Export) (events.Payload, error) {
		return &events.ExportRequested{CreatedAt: time.Now().UTC(), Request: events.Request{ExtType: "XLSX", SourceType: events.SourceRaw, Raw: &events.RawRows{Pages: 1}}}, nil
	})
	require.NoError(t, err)
	number = 0
	fill(raw.Key, events.RawRun, 10)
	_, err = s.Append(t.Context(), raw, "", func(*events.Export) (events.Payload, error) { return &events.ExportCancelled{}, nil })
	require.NoError(t, err)

	assemble(t, s)
	start(t, s, src.Client, Config{})
	requestKey(t, s, spaceKey(3), src.URL)
	x := awaitEnds(t, s, spaceKey(3))[spaceKey(3)]
	require.Equal(t, events.StateCompleted, x.State, "%+v", x.Failure)
	pages, err := s.ListPages(t.Context(), "default", raw.Key, events.RawRun)
	require.NoError(t, err)
	require.Len(t, pages, 10)
}

// genRoom draws a stream and who wants what of it.
func genRoom(t *rapid.T) room {
	r := room{limit: rapid.Int64Range(1<<10, 1<<40).Draw(t, "limit")}
	r.used = rapid.Int64Range(0, r.limit).Draw(t, "used")
	n := rapid.IntRange(1, 12).Draw(t, "claims")
	for i := range n {
		r.claims = append(r.claims, events.Reservation{
			Requested: uint64(i + 1),
			Stored:    rapid.Int64Range(0, r.limit/int64(n)).Draw(t, "stored"),
			Remaining: rapid.Int64Range(0, r.limit).Draw(t, "remaining"),
		})
	}
	if rapid.Bool().Draw(t, "starved") {
		r.claims[0].Starved = rapid.Int64Range(1, 1<<20).Draw(t, "page")
	}
	shuffle := rapid.Permutation(r.claims).Draw(t, "order")
	r.claims = shuffle
	return r
}

func TestJudge(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := genRoom(t)
		oldest := slices.MinFunc(r.claims, func(a, b events.Reservation) int { return int(a.Requested) - int(b.Requested) })
		var sum int64
		var on, away []events.Reservation
		for _, c := range r.claims {
			switch r.judge(c) {
			case goOn:
				on, sum = append(on, c), sum+c.Remaining
			case giveWay:
				away = append(away, c)
			}
		}
		require.Equal(t, goOn, r.judge(oldest), "the oldest may always go on")
		if len(on) > 1 {
			require.LessOrEqual(t, sum, r.usable()-r.used, "what goes on fits, unless it is the oldest alone")
		}
		for _, w := range r.claims {
			for _, c := range on {
				if w.Requested < c.Requested && r.judge(w) != goOn {
					require.Less(t, c.Remaining, w.Remaining, "nobody overtakes who wants as much")
				}
			}
		}
		holders := slices.DeleteFunc(slices.Clone(r.claims), func(c events.Reservation) bool { return c.Stored == 0 || c.Requested == oldest.Requested })
		if oldest.Starved > r.limit-r.used && len(holders) > 0 {
			youngest := slices.MaxFunc(holders, func(a, b events.Reservation) int { return int(a.Requested) - int(b.Requested) })
			require.Equal(t, []events.Reservation{youngest}, away, "one gives way to the starved")
		} else {
			require.Empty(t, away)
		}
	})
}

// Whatever the exports need, and however wrong they estimate it, following the
// verdicts ends them all if each fits alone.
func TestFollowingTheVerdictsEnds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		const limit = 1 << 20
		type export struct{ needs, stored, guess int64 }
		var all []*export
		for range rapid.IntRange(1, 8).Draw(t, "exports") {
			needs := rapid.Int64Range(1, limit).Draw(t, "needs")
			all = append(all, &export{needs: needs, guess: rapid.Int64Range(1, 2*limit).Draw(t, "guess")})
		}
		crawled := int64(0) // bytes that are in the stream until they are assembled
		starved := false
		for step := 0; ; step++ {
			require.Less(t, step, 10_000, "it ends")
			r := room{limit: limit, used: crawled}
			for i, x := range all {
				if x == nil {
					continue
				}
				r.used += x.stored
				// What is believed comes closer to the truth the more is there.
				c := events.Reservation{Requested: uint64(i + 1), Stored: x.stored, Remaining: x.needs - x.stored}
				if x.stored*4 < x.needs {
					c.Remaining = x.guess
				}
				r.claims = append(r.claims, c)
			}
			if len(r.claims) == 0 {
				return
			}
			if starved {
				r.claims[0].Starved = 1
			}
			turn := rapid.IntRange(0, len(r.claims)-1).Draw(t, "turn")
			if step%3 == 0 { // nobody is left out for ever
				turn = step / 3 % len(r.claims)
			}
			c := r.claims[turn]
			x := all[c.Requested-1]
			switch r.judge(c) {
			case goOn:
				write := min(x.needs-x.stored, rapid.Int64Range(1, limit/4).Draw(t, "write"), limit-r.used)
				x.stored += write
				if turn == 0 {
					starved = write == 0
				}
				if x.stored == x.needs {
					crawled += x.needs
					all[c.Requested-1] = nil
					if turn == 0 {
						starved = false
					}
				}
			case giveWay:
				x.stored = 0
			}
			if rapid.IntRange(0, 3).Draw(t, "assembled") == 0 || step%7 == 0 {
				crawled = 0
			}
		}
	})
}

func TestTooLarge(t *testing.T) {
	t.Parallel()
	full := time.Now()
	for _, tc := range []struct {
		claim string
		need  need
		want  bool
	}{
		{"half the stream", need{stored: 10, more: 40, pages: 10, total: 50}, false},
		{"a little over, by an early guess", need{stored: 5, more: 115, pages: 5, total: 120}, false},
		{"twice, by an early guess", need{stored: 2, more: 198, pages: 1, total: 100}, true},
		{"a little over, near the end", need{stored: 95, more: 12, pages: 95, total: 107}, true},
		{"over, and the stream is full of it", need{stored: 90, more: 20, pages: 9, total: 11, full: full}, true},
		{"over, and the stream is full of others", need{stored: 10, more: 100, pages: 9, total: 99, full: full}, false},
		{"a page that is larger than the stream", need{more: 101, refused: 101, full: full}, true},
	} {
		require.Equal(t, tc.want, tc.need.tooLarge(100), tc.claim)
	}
}

// Answers that do not fit into the memory together are read one after another,
// whole.
func TestAnswersInMemoryAreBounded(t *testing.T) {
	t.Parallel()
	s := eventstest.Streams(t)
	src := sourcetest.New(t, 400)
	wide := string(bytes.Repeat([]byte("x"), 60<<10))
	src.Row = func(n int) string { return fmt.Sprintf(`{"id":%d,"name":"%s","amount":1}`, n, wide) }
	start(t, s, src.Client, Config{BodyBytes: 8 << 20})
	x := requestKey(t, s, spaceKey(1), src.URL)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	require.NoError(t, s.Follow(ctx, x.LastSeq+1, func(batch []events.Event) error {
		require.Equal(t, events.TypeCrawled, batch[0].Type(), "%+v", batch[0].Payload)
		cancel()
		return nil
	}))
	require.ErrorIs(t, ctx.Err(), context.Canceled)
}

func TestMemory(t *testing.T) {
	t.Parallel()
	m := newMemory(10 << 20)
	a, err := m.take(t.Context(), 0)
	require.NoError(t, err)
	b, err := m.take(t.Context(), 8<<20)
	require.NoError(t, err)
	require.NoError(t, a.grow(2<<20))
	short := (*shortError)(nil)
	require.ErrorAs(t, a.grow(3<<20), &short)
	require.EqualValues(t, 3<<20, short.want)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = m.take(ctx, 1)
	require.ErrorIs(t, err, context.Canceled)
	b.release()
	b.release()
	require.NoError(t, a.grow(64<<20), "alone it may have all")
	require.NoError(t, a.grow(128<<20), "and more")
	a.release()
	all, err := m.take(t.Context(), 1<<40)
	require.NoError(t, err)
	all.release()
	var none *share
	require.NoError(t, none.grow(1<<40))
	none.release()
}

// A source that answers quickly until much is reserved for it, and then a page now and
// then, keeps no others waiting for the room that it will not fill for hours.
func TestASlowSourceReservesLittle(t *testing.T) {
	t.Parallel()
	const limit = 50
	srv := eventstest.Server(t, "")
	s := spaceStreams(t, srv)
	assemble(t, s)
	release := make(chan struct{})
	page := func(w http.ResponseWriter, r *http.Request, total int) {
		n, _ := strconv.Atoi(r.URL.Query().Get("page"))
		pages := (total + limit - 1) / limit
		b := []byte(`{"errcode":0,"data":{"data":[{"id":"ID","name":"Name","amount":"Amount"}`)
		for i := range min(limit, total-(n-1)*limit) {
			b = append(append(b, ','), noisyRow((n-1)*limit+i, 1000)...)
		}
		b = fmt.Appendf(b, `],"pagetag":{"page":%d,"limit":%d,"total":%d,"total_page":%d}}}`, n, limit, total, pages)
		_, _ = w.Write(b)
	}
	const all = streamBytes / 1000 / 10 // a tenth of the stream
	sources := http.NewServeMux()
	sources.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		if n, _ := strconv.Atoi(r.URL.Query().Get("page")); n > 10 {
			select {
			case <-release:
			case <-r.Context().Done():
				return
			}
		}
		page(w, r, 6*all)
	})
	sources.HandleFunc("/other", func(w http.ResponseWriter, r *http.Request) { page(w, r, 4*all) })
	server := httptest.NewServer(sources)
	defer server.Close()

	service, err := New(Config{Policy: quick}, s, server.Client())
	require.NoError(t, err)
	service.space.paceWindow, service.space.paceAhead, service.space.paceLong = 200*time.Millisecond, time.Second, time.Second
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- service.Run(ctx) }()
	defer func() {
		cancel()
		require.NoError(t, <-done)
	}()
	slow, other := spaceKey(0), spaceKey(1)
	requestKey(t, s, slow, server.URL+"/slow")
	require.Eventually(t, func() bool {
		held, err := s.Reservations(t.Context())
		return err == nil && len(held) == 1 && held[0].Remaining > streamBytes/3
	}, 20*time.Second, 5*time.Millisecond, "it is the oldest, and has reserved most of the stream")
	requestKey(t, s, other, server.URL+"/other")
	require.Equal(t, events.StateCompleted, awaitEnds(t, s, other)[other].State)
	x, err := s.Read(t.Context(), "default", slow)
	require.NoError(t, err)
	require.Equal(t, events.StateRequested, x.State)
	close(release)
	require.Equal(t, events.StateCompleted, awaitEnds(t, s, slow)[slow].State)
}

func TestPace(t *testing.T) {
	t.Parallel()
	begun := time.Now()
	at := func(s float64) time.Time { return begun.Add(time.Duration(s * float64(time.Second))) }
	var p pace
	require.EqualValues(t, 1000, p.atMost(1000, 1, time.Minute, time.Second), "nothing is known of it yet")
	p.look(at(0), 0, 10*time.Second)
	p.look(at(9), 900, 10*time.Second)
	require.EqualValues(t, 1000, p.atMost(1000, 1, 5*time.Second, time.Second))
	p.look(at(10), 1000, 10*time.Second)
	require.EqualValues(t, 500, p.atMost(1000, 1, 5*time.Second, time.Second))
	require.EqualValues(t, 1000, p.atMost(1000, 1, 5*time.Second, 10*time.Second), "it is done soon")
	require.EqualValues(t, 700, p.atMost(1000, 700, 5*time.Second, time.Second), "one page in any case")
	p.look(at(15), 1000, 10*time.Second)
	require.EqualValues(t, 500, p.atMost(1000, 1, 5*time.Second, time.Second), "by the newest whole window")
	p.look(at(20), 1000, 10*time.Second)
	require.EqualValues(t, 1, p.atMost(1000, 1, 5*time.Second, time.Second))
}
