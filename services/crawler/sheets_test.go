package crawler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/journal"
	"sheaf/events/pages"
	"sheaf/events/secrets"
	"sheaf/services/crawler/source"
	"sheaf/services/crawler/source/sourcetest"

	"github.com/stretchr/testify/require"
)

// apiSheet is a sheet of an api in a style of paging, standardSheet one of a source in the standard format, and
// rawSheet one of n pages of one row that came with the request.
func apiSheet(title, url string, paging *events.Paging) events.Sheet {
	limit := 0
	if paging.LimitParam != "" {
		limit = 10
	}
	return events.Sheet{Title: title, HTTP: &events.HTTPRequest{
		URL: url, Method: http.MethodGet, Limit: limit, Conn: 1, Rows: "items", Paging: paging,
	}}
}

func standardSheet(title, url string, limit int) events.Sheet {
	return events.Sheet{Title: title, HTTP: &events.HTTPRequest{
		URL: url, Method: http.MethodGet, Limit: limit, Conn: 4, Param: json.RawMessage(`{}`),
	}}
}

func rawSheet(title string, n int) events.Sheet {
	return events.Sheet{Title: title, Raw: &events.RawRows{Pages: n, Rows: int64(n)}}
}

// requestSheets appends a requested event for sheets, after the pages of those that are raw.
func requestSheets(t testing.TB, s *journal.Log, known events.Export, key string, continues uint64, sheets ...events.Sheet) events.Export {
	t.Helper()
	known.Tenant, known.Key = "default", key
	for i, sheet := range sheets {
		if sheet.Raw == nil {
			continue
		}
		for n := 1; n <= sheet.Raw.Pages; n++ {
			_, err := s.Pages().Publish(t.Context(), pages.Page{
				ID:   pages.ID{Tenant: "default", Key: key, Run: events.RawRun, Sheet: i, Number: n},
				Rows: fmt.Appendf(nil, `[{"id":%d}]`, n), RowCount: 1, Total: int64(sheet.Raw.Pages), TotalPages: sheet.Raw.Pages, Attempts: 1,
			})
			require.NoError(t, err)
		}
	}
	x, err := s.Append(t.Context(), known, "", func(*events.Export) (events.Payload, error) {
		return &events.ExportRequested{CreatedAt: time.Now().UTC(), ContinuesRun: continues, Request: events.Request{
			ExtType: "XLSX", Sheets: sheets, Needs: []string{events.NeedSource, events.NeedFile},
		}}, nil
	})
	require.NoError(t, err)
	return x
}

// Sheets with different styles of paging are crawled in order. Wherever a crawler stops, the next one asks for
// no stored page again, and the result is that of a crawl without a stop.
func TestSheetsGoOnAfterAStop(t *testing.T) {
	t.Parallel()
	type stop struct{ sheet, page int }
	stops := []stop{{0, 0}}
	for _, sheet := range []int{0, 2, 3} {
		for page := 1; page <= 3; page++ {
			stops = append(stops, stop{sheet, page})
		}
	}
	results := make(chan *events.ExportCrawled, len(stops))
	t.Run("all", func(t *testing.T) {
		for _, at := range stops {
			t.Run(fmt.Sprint(at), func(t *testing.T) {
				t.Parallel()
				s := eventstest.Journal(t)
				list := map[int]*api{0: newAPI(t, 13, 5), 2: newAPI(t, 14, 5), 3: newAPI(t, 12, 5)} // three pages each
				reached := make(chan struct{})
				var first atomic.Bool
				if a := list[at.sheet]; at.page > 0 {
					a.before = func(_ http.ResponseWriter, r *http.Request, page, _ int) bool {
						if page != at.page || !first.CompareAndSwap(false, true) {
							return false
						}
						close(reached)
						<-r.Context().Done() // until the crawler is stopped
						return true
					}
				}
				standard := sourcetest.New(t, 25)
				end := start(t, s, http.DefaultClient, Config{DrainFor: 50 * time.Millisecond})
				x := requestSheets(t, s, events.Export{}, key, 0,
					apiSheet("offset", list[0].url, styles()["offset"]), rawSheet("raw", 2), apiSheet("cursor", list[2].url, styles()["cursor"]),
					apiSheet("link", list[3].url, styles()["link"]), standardSheet("standard", standard.URL, 10))
				if at.page > 0 {
					<-reached
					end()
					start(t, s, http.DefaultClient, Config{})
				}
				crawled := ended(t, s, x)
				for sheet, a := range list {
					for n := 1; n <= 3; n++ {
						require.Equal(t, map[bool]int{true: 2, false: 1}[at == stop{sheet, n}], a.requests(n), "sheet %d page %d", sheet, n)
					}
				}
				require.Len(t, standard.Requests(), 3)
				require.Equal(t, x.RequestedSeq, crawled.Run)
				require.Equal(t, pages.SumSheets(crawled.Sheets), crawled.Manifest)
				require.Nil(t, crawled.Proof)
				pagesOf, rowsOf := []int{}, []int64{}
				for i, sheet := range crawled.Sheets {
					pagesOf, rowsOf = append(pagesOf, sheet.Pages), append(rowsOf, sheet.Rows)
					if i == 1 {
						require.Equal(t, events.RawRun, sheet.Run)
						require.Nil(t, sheet.Proof)
						continue
					}
					require.Equal(t, x.RequestedSeq, sheet.Run)
					require.Equal(t, sheet.Rows, sheet.Proof.Rows)
				}
				require.Equal(t, []int{3, 2, 3, 3, 3}, pagesOf)
				require.Equal(t, []int64{13, 2, 14, 12, 25}, rowsOf)
				require.Equal(t, 14, crawled.Pages)
				require.Equal(t, []events.Warning{
					{Code: "LIMIT_CAPPED", Message: `sheet 1 "offset": the source gives at most 5 rows a page where 10 were asked for`},
					{Code: "LIMIT_CAPPED", Message: `sheet 3 "cursor": the source gives at most 5 rows a page where 10 were asked for`},
				}, crawled.Warnings)
				for sheet, names := range map[int]string{0: `[{"id":"id","a":"a","b":"b"}]`, 2: `[{"id":"id","a":"a","b":"b"}]`} {
					p, err := s.Pages().Get(t.Context(), pages.ID{Tenant: "default", Key: key, Run: x.RequestedSeq, Sheet: sheet})
					require.NoError(t, err)
					require.Equal(t, names, string(p.Rows))
				}
				results <- crawled
			})
		}
	})
	close(results)
	want := <-results
	require.NotNil(t, want)
	for got := range results {
		require.Equal(t, want.Manifest, got.Manifest)
	}
}

// A sheet that fails fails the export, which names it. A retry asks for page 1 of a finished sheet and for
// nothing more of it.
func TestASheetFails(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	orders, clients := sourcetest.New(t, 40), sourcetest.New(t, 40)
	var broken atomic.Bool
	broken.Store(true)
	clients.Fault = func(page, _ int) sourcetest.Fault {
		if page == 3 && broken.Load() {
			return sourcetest.Status(404, "no such page")
		}
		return nil
	}
	start(t, s, http.DefaultClient, Config{})
	sheets := []events.Sheet{standardSheet("订单", orders.URL, 10), standardSheet("客户", clients.URL, 10)}
	x := requestSheets(t, s, events.Export{}, key, 0, sheets...)
	f := failure(t, s, x)
	require.Equal(t, events.CodeSourceHTTP, f.Code)
	require.Equal(t, 3, f.Page)
	require.Contains(t, f.Reason, `sheet 2 "客户": page 3: HTTP 404`)
	require.False(t, f.RunSpoiled)

	broken.Store(false)
	failed, err := s.Read(t.Context(), "default", key)
	require.NoError(t, err)
	run, ok := failed.Resumable()
	require.True(t, ok)
	require.Equal(t, x.RequestedSeq, run)
	crawled := ended(t, s, requestSheets(t, s, failed, key, run, sheets...))
	require.Equal(t, run, crawled.Run)
	require.Equal(t, 8, crawled.Pages)
	require.Len(t, orders.Requests(), 5, "four pages, and page 1 again")
}

// A retry continues each sheet by itself: one whose source has changed begins a new run, the others continue the
// earlier one. If the pages must not be used, all are purged before the first sheet.
func TestSheetsHaveRunsOfTheirOwn(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	first, second := newAPI(t, 14, 5), newAPI(t, 14, 5)
	var broken, changed atomic.Bool
	broken.Store(true)
	second.before = func(w http.ResponseWriter, _ *http.Request, page, _ int) bool {
		if page == 3 && broken.Load() {
			http.Error(w, "no right", http.StatusForbidden)
			return true
		}
		return false
	}
	second.says = func(page, _ int, answer map[string]any) {
		if page == 1 && changed.Load() {
			answer["items"] = []any{map[string]any{"id": 100}}
		}
	}
	start(t, s, http.DefaultClient, Config{})
	sheets := []events.Sheet{apiSheet("a", first.url, styles()["cursor"]), apiSheet("b", second.url, styles()["cursor"])}
	retry := func(continues bool) (run uint64) {
		x, err := s.Read(t.Context(), "default", key)
		require.NoError(t, err)
		if continues {
			run, _ = x.Resumable()
		}
		return requestSheets(t, s, x, key, run, sheets...).RequestedSeq
	}
	pagesOf := func(run uint64, sheet int) []int {
		list, err := s.Pages().List(t.Context(), "default", key, run, sheet)
		require.NoError(t, err)
		return list
	}
	x := requestSheets(t, s, events.Export{}, key, 0, sheets...)
	require.Equal(t, 3, failure(t, s, x).Page)
	changed.Store(true)
	again := retry(true)
	require.NotNil(t, failure(t, s, events.Export{LastSeq: again}))
	require.Equal(t, []int{1, 2, 3}, pagesOf(x.RequestedSeq, 0))
	require.Empty(t, pagesOf(x.RequestedSeq, 1))
	require.Equal(t, []int{1, 2}, pagesOf(again, 1))

	broken.Store(false)
	third := retry(true)
	crawled := ended(t, s, events.Export{LastSeq: third})
	require.Equal(t, x.RequestedSeq, crawled.Run, "the oldest of the two")
	require.Equal(t, x.RequestedSeq, crawled.Sheets[0].Run)
	require.Equal(t, again, crawled.Sheets[1].Run)
	require.EqualValues(t, 10, crawled.Sheets[1].Rows)

	crawledState, err := s.Read(t.Context(), "default", key)
	require.NoError(t, err)
	_, err = s.Append(t.Context(), crawledState, "", func(*events.Export) (events.Payload, error) {
		return &events.ExportFailed{Code: events.CodeStore, RunSpoiled: true}, nil
	})
	require.NoError(t, err)
	first.before = func(http.ResponseWriter, *http.Request, int, int) bool {
		list, err := s.Pages().List(context.Background(), "default", key, again, 1)
		if err != nil || len(list) > 0 {
			t.Errorf("pages of sheet 2 are left: %v, %v", list, err)
		}
		return false
	}
	fourth := retry(false)
	crawled = ended(t, s, events.Export{LastSeq: fourth})
	require.Equal(t, fourth, crawled.Sheets[0].Run)
	require.Equal(t, fourth, crawled.Sheets[1].Run)
}

// The limits are those of the whole export, and the failure says what earlier sheets have used.
func TestLimitsCoverAllSheets(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		claim, code, reason string
		cfg                 Config
		raw                 bool
	}{
		{"rows", events.CodeLimitRows, `sheet 2 "b": page 3: more than 25 rows (--max-rows); the sheets before it have 40 rows`, Config{MaxRows: 65}, false},
		{"raw rows", events.CodeLimitRows, `sheet 3 "c": page 1: more than 0 rows (--max-rows); the sheets before it have 80 rows`, Config{MaxRows: 80}, true},
		{"pages", events.CodeLimitPages, `sheet 2 "b": page 1: the source announces 4 pages, at most 2 are allowed (--max-pages); the sheets before it have 4 pages`, Config{MaxPages: 6}, false},
		{"no page is left", events.CodeLimitPages, `sheet 2 "b": an export may have 4 pages (--max-pages); the sheets before it have 4 pages`, Config{MaxPages: 4}, false},
	} {
		t.Run(tc.claim, func(t *testing.T) {
			t.Parallel()
			s := eventstest.Journal(t)
			a, b := sourcetest.New(t, 40), sourcetest.New(t, 40)
			start(t, s, http.DefaultClient, tc.cfg)
			sheets := []events.Sheet{standardSheet("a", a.URL, 10), standardSheet("b", b.URL, 10)}
			if tc.raw {
				sheets = append(sheets, rawSheet("c", 1))
			}
			f := failure(t, s, requestSheets(t, s, events.Export{}, key, 0, sheets...))
			require.Equal(t, tc.code, f.Code)
			require.Equal(t, tc.reason, f.Reason)
		})
	}
}

// Progress counts the pages and rows of all sheets. How many there will be is known in the last sheet.
func TestProgressOfSheets(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	a, b := sourcetest.New(t, 20), sourcetest.New(t, 30)
	reported := make(chan events.Progress, 1000)
	stop, err := s.OnProgress(func(_, _ string, p events.Progress) { reported <- p })
	require.NoError(t, err)
	defer stop()
	start(t, s, http.DefaultClient, Config{})
	requestSheets(t, s, events.Export{}, key, 0, standardSheet("a", a.URL, 10), standardSheet("b", b.URL, 10))
	last := events.Progress{}
	for whole := time.After(30 * time.Second); last.PagesDone < 5; {
		var p events.Progress
		select {
		case p = <-reported:
		case <-whole:
			require.Fail(t, "the last page is not shown", "%+v", last)
		}
		require.GreaterOrEqual(t, p.PagesDone, last.PagesDone)
		require.GreaterOrEqual(t, p.Rows, last.Rows)
		if p.PagesDone < 2 {
			require.Zero(t, p.PagesTotal)
		}
		last = p
	}
	require.Equal(t, events.Progress{Phase: events.PhaseCrawling, PagesDone: 5, PagesTotal: 5, Rows: 50}, last)
}

// A cancellation in a later sheet stops its requests at once.
func TestCancelInASheet(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	a, b := sourcetest.New(t, 20), sourcetest.New(t, 20)
	b.Fault = func(int, int) sourcetest.Fault { return sourcetest.Hang }
	service, err := New(Config{Policy: quick}, s, http.DefaultClient)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- service.Run(ctx) }()
	x := requestSheets(t, s, events.Export{}, key, 0, standardSheet("a", a.URL, 10), standardSheet("b", b.URL, 10))
	require.Eventually(t, func() bool { return len(b.Requests()) == 1 }, 10*time.Second, time.Millisecond)
	_, err = s.Append(t.Context(), x, "", func(*events.Export) (events.Payload, error) { return &events.ExportCancelled{}, nil })
	require.NoError(t, err)
	require.Eventually(t, func() bool { return service.running.Len() == 0 }, 5*time.Second, time.Millisecond)
	cancel()
	require.NoError(t, <-done)
	got, err := s.Read(t.Context(), "default", key)
	require.NoError(t, err)
	require.Equal(t, events.StateCancelled, got.State)
	run, ok := got.Resumable()
	require.True(t, ok)
	require.Equal(t, x.RequestedSeq, run, "a retry continues with the first sheet's pages")
}

// Each sheet is asked for with its own secrets alone.
func TestSecretsOfSheets(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	a, b := sourcetest.New(t, 5), sourcetest.New(t, 5)
	require.NoError(t, s.SaveHeaders(t.Context(), "default", key, secrets.Values{
		secrets.Sheet(0, "X-One"): "first", secrets.Sheet(1, "X-Two"): "second", secrets.Sheet(1, secrets.Param("token")): `"third"`,
	}))
	start(t, s, http.DefaultClient, Config{})
	one, two := standardSheet("a", a.URL, 10), standardSheet("b", b.URL, 10)
	one.HTTP.Header, two.HTTP.Header, two.HTTP.SecretParam = []string{"X-One"}, []string{"X-Two"}, []string{"token"}
	ended(t, s, requestSheets(t, s, events.Export{}, key, 0, one, two))
	require.Equal(t, "first", a.Requests()[0].Header.Get("X-One"))
	require.Empty(t, a.Requests()[0].Header.Get("X-Two"))
	require.Equal(t, "second", b.Requests()[0].Header.Get("X-Two"))
	require.Empty(t, b.Requests()[0].Header.Get("X-One"))
}

// A process that dies again and again in the second sheet, after the first was read back, is found.
func TestStartsOfSheetsAreCounted(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	a, b := sourcetest.New(t, 20), sourcetest.New(t, 20)
	x := requestSheets(t, s, events.Export{}, key, 0, standardSheet("a", a.URL, 10), standardSheet("b", b.URL, 10))
	service, err := New(Config{Policy: quick, MaxStarts: 2}, s, http.DefaultClient)
	require.NoError(t, err)
	var dies context.CancelFunc
	b.Fault = func(int, int) sourcetest.Fault {
		dies()
		return sourcetest.Reset
	}
	for begun := 1; ; begun++ {
		var ctx context.Context
		ctx, dies = context.WithCancel(t.Context())
		_, err := service.newCrawl(t.Context(), x, begun == 1).run(ctx)
		require.Error(t, err)
		dies()
		var failure *source.Failure
		if errors.As(err, &failure) && failure.Code != "" {
			require.Equal(t, events.CodeCrashedWorker, failure.Code)
			require.Contains(t, failure.Msg, "past 2 pages")
			require.Equal(t, 4, begun, "two recorded starts after the first one")
			break
		}
		require.Less(t, begun, 6)
	}
	require.Len(t, a.Requests(), 2)
}

// A crawl that yields frees the pages of all its sheets. Rows that came with the request stay.
func TestAllSheetsYield(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	a := sourcetest.New(t, 20)
	x := requestSheets(t, s, events.Export{}, key, 0, standardSheet("a", a.URL, 10), rawSheet("b", 1), standardSheet("c", a.URL, 5))
	service, err := New(Config{Policy: quick}, s, http.DefaultClient)
	require.NoError(t, err)
	c := service.newCrawl(t.Context(), x, true)
	_, err = c.run(t.Context())
	require.NoError(t, err)
	n, err := s.Pages().Count(t.Context(), "default", key)
	require.NoError(t, err)
	require.Equal(t, 6, n)
	require.ErrorIs(t, c.retreat(t.Context()), errYield)
	n, err = s.Pages().Count(t.Context(), "default", key)
	require.NoError(t, err)
	require.Zero(t, n)
	raw, err := s.Pages().List(t.Context(), "default", key, events.RawRun, 1)
	require.NoError(t, err)
	require.Equal(t, []int{1}, raw)
	start(t, s, http.DefaultClient, Config{})
	require.Equal(t, 7, ended(t, s, x).Pages)
}

// Exports with sheets that do not fit into the stream together all end.
func TestSheetsThatDoNotFitTogetherAllEnd(t *testing.T) {
	t.Parallel()
	s := spaceStreams(t, eventstest.Server(t, ""))
	src := noisySource(t, 1200) // 1.6 MB a sheet
	var keys []string
	for n := range 3 {
		keys = append(keys, spaceKey(n))
		requestSheets(t, s, events.Export{}, spaceKey(n), 0, standardSheet("a", src.URL, 50), standardSheet("b", src.URL, 50), standardSheet("c", src.URL, 50))
	}
	assembleSheets(t, s)
	start(t, s, http.DefaultClient, briefly)
	for key, x := range awaitEnds(t, s, keys...) {
		require.Equal(t, events.StateCompleted, x.State, "%s: %+v", key, x.Failure)
		require.Equal(t, 72, x.Pages)
	}
}

// assembleSheets replaces the assembler and the keeper for exports with sheets: it reads every page, appends
// completed and purges the pages.
func assembleSheets(t *testing.T, s *journal.Log) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- s.Consume(ctx, events.StreamEvents, events.ConsumerAssembler, 2, func(ctx context.Context, d journal.Delivery) error {
			ev, err := d.Event()
			if err != nil {
				return err
			}
			x, err := s.Read(ctx, ev.Tenant, ev.Key)
			if err != nil || x.State != events.StateCrawled {
				return err
			}
			for i := range x.Request.Sheets {
				sheet := x.CrawledSheet(i)
				for n := 1; n <= sheet.Pages; n++ {
					if _, err := s.Pages().Get(ctx, pages.ID{Tenant: x.Tenant, Key: x.PagesKey(), Run: sheet.Run, Sheet: i, Number: n}); err != nil {
						return err
					}
				}
			}
			_, err = s.Append(ctx, x, "", func(*events.Export) (events.Payload, error) {
				return &events.ExportCompleted{Run: x.Run, Pages: x.Pages, Manifest: x.Manifest}, nil
			})
			if err != nil {
				return err
			}
			return s.Pages().Purge(ctx, ev.Tenant, ev.Key)
		})
	}()
	t.Cleanup(func() { cancel(); require.NoError(t, <-done) })
}
