package crawler

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/embedded"
	"sheaf/events/eventstest"
	"sheaf/events/journal"
	"sheaf/events/pages"
	"sheaf/events/rows"
	"sheaf/services/crawler/source/sourcetest"

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

func requestKey(t *testing.T, s *journal.Log, key, url string) events.Export {
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

// assemble replaces the assembler and the keeper: it reads every page of an export, appends completed and
// purges the pages.
func assemble(t *testing.T, s *journal.Log) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = s.Consume(ctx, events.StreamEvents, events.ConsumerAssembler, 2, func(ctx context.Context, d journal.Delivery) error {
			ev, err := d.Event()
			if err != nil {
				return err
			}
			crawled := ev.Payload.(*events.ExportCrawled)
			ids, total := map[string]bool{}, int64(0)
			for n := 1; n <= crawled.Pages; n++ {
				p, err := s.Pages().Get(ctx, pages.ID{Tenant: ev.Tenant, Key: ev.Key, Run: crawled.Run, Number: n})
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
			if err != nil {
				return err
			}
			return s.Pages().Purge(ctx, ev.Tenant, ev.Key)
		})
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
}

// awaitEnds waits until all exports have ended and returns them.
func awaitEnds(t *testing.T, s *journal.Log, keys ...string) map[string]events.Export {
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

func spaceStreams(t *testing.T, srv *embedded.Server) *journal.Log {
	return eventstest.JournalOn(t, srv, journal.Config{MaxPagesBytes: streamBytes})
}

// briefly makes crawls yield after 0.4 s, and fail after 1.2 s.
var briefly = Config{SpaceWait: 1200 * time.Millisecond}

// store publishes the first pages of a run.
func store(t *testing.T, s *journal.Log, src *sourcetest.Source, key string, run uint64, limit, pages int) {
	t.Helper()
	l := newLedger(limit, 1000, 1<<20, 1<<40)
	for n := 1; n <= pages; n++ {
		p, refused := admit(t, l, n, string(src.Page(n, limit)))
		require.Nil(t, refused)
		p.Tenant, p.Key, p.Run = "default", key, run
		_, err := s.Pages().Publish(t.Context(), p)
		require.NoError(t, err)
		require.Nil(t, l.take(p, nil))
	}
}

// Keys whose progress reports that they wait for space.
func told(t *testing.T, s *journal.Log) *sync.Map {
	t.Helper()
	var waited sync.Map
	stop, err := s.OnProgress(func(_, key string, p events.Progress) {
		if p.Phase == events.PhaseWaitingForSpace {
			waited.Store(key, true)
		}
	})
	require.NoError(t, err)
	t.Cleanup(stop)
	return &waited
}

func has(m *sync.Map, key string) bool {
	_, ok := m.Load(key)
	return ok
}

func asksOf(src *sourcetest.Source, page int) (n int) {
	for _, r := range src.Requests() {
		if r.Page == page {
			n++
		}
	}
	return n
}

// Three exports all complete although the page stream holds only one of them, in one process or in two.
func TestExportsThatDoNotFitTogetherAllEnd(t *testing.T) {
	t.Parallel()
	for _, processes := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d processes", processes), func(t *testing.T) {
			t.Parallel()
			srv := eventstest.Server(t, "")
			s := spaceStreams(t, srv)
			src := noisySource(t, streamBytes/1000*6/10)
			assemble(t, s)
			waited := told(t, s)
			var keys []string
			for n := range 3 {
				keys = append(keys, spaceKey(n))
				requestKey(t, s, keys[n], src.URL)
			}
			for range processes {
				start(t, spaceStreams(t, srv), src.Client, briefly)
			}
			for key, x := range awaitEnds(t, s, keys...) {
				require.Equal(t, events.StateCompleted, x.State, "%s: %+v", key, x.Failure)
			}
			require.True(t, has(waited, keys[1]) || has(waited, keys[2]), "waiting_for_space is told")
		})
	}
}

// A crawl starts when the page stream and its disk have space, and sends no request before.
func TestACrawlWaitsToBegin(t *testing.T) {
	t.Parallel()
	for _, full := range []string{"stream", "disk"} {
		t.Run(full, func(t *testing.T) {
			t.Parallel()
			s := spaceStreams(t, eventstest.Server(t, ""))
			src := noisySource(t, 100)
			assemble(t, s)
			waited := told(t, s)
			cfg := briefly
			var diskFull atomic.Bool
			cfg.Room = func(int64) error {
				if diskFull.Load() {
					return errors.New("the disk is almost full")
				}
				return nil
			}
			if full == "disk" {
				diskFull.Store(true)
			} else {
				store(t, s, noisySource(t, streamBytes/1000), spaceKey(7), 7, 50, 90)
				space, err := s.Pages().Space(t.Context())
				require.NoError(t, err)
				require.Greater(t, float64(space.Used), startBelow*streamBytes)
			}
			start(t, s, src.Client, cfg)
			requestKey(t, s, spaceKey(1), src.URL)
			require.Eventually(t, func() bool { return has(waited, spaceKey(1)) }, 20*time.Second, time.Millisecond)
			require.Empty(t, src.Requests())
			diskFull.Store(false)
			require.NoError(t, s.Pages().Purge(t.Context(), "default", spaceKey(7)))
			require.Equal(t, events.StateCompleted, awaitEnds(t, s, spaceKey(1))[spaceKey(1)].State)
		})
	}
}

// Crawls that wait to start release their slots for one that already has pages: slots of the process and of
// their tenant.
func TestWaitingExportsGiveUpTheirSlots(t *testing.T) {
	t.Parallel()
	for claim, cfg := range map[string]Config{"of the process": {Exports: 2}, "of the tenant": {Running: 2}} {
		t.Run(claim, func(t *testing.T) {
			t.Parallel()
			s := spaceStreams(t, eventstest.Server(t, ""))
			src, few := noisySource(t, 100), sourcetest.New(t, 100)
			store(t, s, noisySource(t, streamBytes/1000), spaceKey(7), 7, 50, 90)
			requestKey(t, s, spaceKey(1), src.URL)
			requestKey(t, s, spaceKey(2), src.URL)
			begun := requestKey(t, s, spaceKey(3), few.URL)
			store(t, s, few, begun.Key, begun.RequestedSeq, 50, 1)
			assemble(t, s)
			cfg.SpaceWait = briefly.SpaceWait
			start(t, s, src.Client, cfg)
			require.Equal(t, events.StateCompleted, awaitEnds(t, s, begun.Key)[begun.Key].State)
			require.Empty(t, src.Requests(), "the others wait")
			require.NoError(t, s.Pages().Purge(t.Context(), "default", spaceKey(7)))
			for _, x := range awaitEnds(t, s, spaceKey(1), spaceKey(2)) {
				require.Equal(t, events.StateCompleted, x.State, "%+v", x.Failure)
			}
		})
	}
}

// An export that exceeds the space alone fails, with the figures of its pages and of the space. It waits for
// leftovers of others that will be purged.
func TestAnExportThatDoesNotFitAloneFails(t *testing.T) {
	t.Parallel()
	t.Run("the stream", func(t *testing.T) {
		t.Parallel()
		s := spaceStreams(t, eventstest.Server(t, ""))
		src := noisySource(t, streamBytes/1000*11/10)
		start(t, s, src.Client, briefly)
		requestKey(t, s, spaceKey(1), src.URL)
		x := awaitEnds(t, s, spaceKey(1))[spaceKey(1)]
		require.Equal(t, events.CodeLimitBytes, x.Failure.Code)
		require.Regexp(t, `: \d+ of 185 pages take [78]\.\d MiB, and the page stream holds at most 8\.0 MiB, of which [78]\.\d MiB are used; raise --max-pages-bytes`, x.Failure.Reason)
		require.False(t, x.Failure.RunSpoiled)
	})
	t.Run("the disk", func(t *testing.T) {
		t.Parallel()
		s := spaceStreams(t, eventstest.Server(t, ""))
		src := noisySource(t, 2000)
		cfg := briefly
		cfg.Room = func(bytes int64) error {
			space, err := s.Pages().Space(context.Background())
			if err == nil && space.Used+bytes > 1<<20 {
				err = errors.New("the disk is almost full: 1 B free, 2 B needed")
			}
			return err
		}
		start(t, s, src.Client, cfg)
		requestKey(t, s, spaceKey(1), src.URL)
		x := awaitEnds(t, s, spaceKey(1))[spaceKey(1)]
		require.Equal(t, events.CodeLimitBytes, x.Failure.Code)
		require.Regexp(t, `of 40 pages take \d\.\d MiB, and there is no room for more: the disk is almost full: 1 B free, 2 B needed; make room there`, x.Failure.Reason)
	})
	t.Run("the disk, after those that wait to start", func(t *testing.T) {
		t.Parallel()
		s := spaceStreams(t, eventstest.Server(t, ""))
		large, small := noisySource(t, 2000), noisySource(t, 100)
		assemble(t, s)
		waited := told(t, s)
		start(t, s, large.Client, Config{SpaceWait: 3 * time.Second, Room: func(bytes int64) error {
			space, err := s.Pages().Space(context.Background())
			if err == nil && space.Used+bytes > 1<<20 {
				err = errors.New("the disk is almost full")
			}
			return err
		}})
		requestKey(t, s, spaceKey(1), large.URL)
		require.Eventually(t, func() bool { return has(waited, spaceKey(1)) }, 20*time.Second, time.Millisecond)
		requestKey(t, s, spaceKey(2), small.URL)
		ends := awaitEnds(t, s, spaceKey(1), spaceKey(2))
		require.Equal(t, events.StateCompleted, ends[spaceKey(2)].State, "%+v", ends[spaceKey(2)].Failure)
		require.Equal(t, events.CodeLimitBytes, ends[spaceKey(1)].Failure.Code)
		require.Less(t, ends[spaceKey(2)].LastSeq, ends[spaceKey(1)].LastSeq)
		require.GreaterOrEqual(t, asksOf(large, 1), 2, "the large one began again")
	})
	t.Run("until others are purged", func(t *testing.T) {
		t.Parallel()
		s := spaceStreams(t, eventstest.Server(t, ""))
		src := noisySource(t, streamBytes/1000*8/10)
		assemble(t, s)
		store(t, s, noisySource(t, streamBytes/1000), spaceKey(7), 7, 50, 50)
		waited := told(t, s)
		start(t, s, src.Client, Config{SpaceWait: 10 * time.Minute})
		requestKey(t, s, spaceKey(1), src.URL)
		require.Eventually(t, func() bool { return has(waited, spaceKey(1)) }, 20*time.Second, time.Millisecond)
		require.NoError(t, s.Pages().Purge(t.Context(), "default", spaceKey(7)))
	})
}

// When two exports fill the stream the newer one drops its pages, even if it is the faster, and both
// complete.
func TestTheYoungestYields(t *testing.T) {
	t.Parallel()
	s := spaceStreams(t, eventstest.Server(t, ""))
	older, younger := noisySource(t, streamBytes/1000*7/10), noisySource(t, streamBytes/1000*7/10)
	assemble(t, s)
	waited := told(t, s)
	full := make(chan struct{})
	var begun atomic.Bool
	older.Fault = func(page, _ int) sourcetest.Fault {
		if page < 50 {
			return nil
		}
		begun.Store(true)
		return func(w http.ResponseWriter, r *http.Request, body []byte) {
			select {
			case <-full:
			case <-r.Context().Done():
			}
			sourcetest.Body(string(body))(w, r, body)
		}
	}
	start(t, s, older.Client, briefly)
	requestKey(t, s, spaceKey(1), older.URL)
	require.Eventually(t, begun.Load, 20*time.Second, time.Millisecond)
	requestKey(t, s, spaceKey(2), younger.URL)
	require.Eventually(t, func() bool { return has(waited, spaceKey(2)) }, 20*time.Second, time.Millisecond)
	close(full)
	ends := awaitEnds(t, s, spaceKey(1), spaceKey(2))
	for _, x := range ends {
		require.Equal(t, events.StateCompleted, x.State, "%+v", x.Failure)
	}
	require.Less(t, ends[spaceKey(1)].LastSeq, ends[spaceKey(2)].LastSeq)
	require.Equal(t, 1, asksOf(older, 1))
	require.GreaterOrEqual(t, asksOf(younger, 1), 2, "the younger one began again")
}

// Only the crawl that started last purges the run. Another would purge pages that the last one relies on.
func TestOnlyTheLatestCrawlYields(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	src := noisySource(t, 100)
	x := requestKey(t, s, spaceKey(1), src.URL)
	store(t, s, src, x.Key, x.RequestedSeq, 50, 2)
	service, err := New(Config{}, s, src.Client)
	require.NoError(t, err)
	crawlOf := func() *crawl {
		c := service.newCrawl(t.Context(), x, false)
		c.into, c.attempt.mark = x.RequestedSeq, markAt(x.RequestedSeq, 2)
		c.have = newInventory(newLedger(50, 10, 1000, 1<<30))
		require.NoError(t, c.attempt.count(t.Context()))
		return c
	}
	first, second := crawlOf(), crawlOf()
	require.ErrorIs(t, first.retreat(t.Context()), journal.ErrTakenOver)
	pages, err := s.Pages().List(t.Context(), "default", x.Key, x.RequestedSeq, 0)
	require.NoError(t, err)
	require.Len(t, pages, 2)
	require.ErrorIs(t, second.retreat(t.Context()), errYield)
	pages, err = s.Pages().List(t.Context(), "default", x.Key, x.RequestedSeq, 0)
	require.NoError(t, err)
	require.Empty(t, pages)
}

// A small export writes its pages and its event, and nothing else.
func TestASmallExportWritesNothingElse(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	src := noisySource(t, 100)
	start(t, s, src.Client, Config{})
	last := func() (list []uint64) {
		for _, name := range []string{events.StreamEvents, events.StreamPages, events.StreamPrivate} {
			stream, err := s.JetStream().Stream(t.Context(), name)
			require.NoError(t, err)
			list = append(list, stream.CachedInfo().State.LastSeq)
		}
		return list
	}
	before := last()
	requestKey(t, s, spaceKey(1), src.URL)
	require.Eventually(t, func() bool {
		x, err := s.Read(t.Context(), "default", spaceKey(1))
		return err == nil && x.State == events.StateCrawled
	}, 20*time.Second, time.Millisecond)
	require.Equal(t, []uint64{before[0] + 2, before[1] + 2, before[2]}, last())
}

func TestJudge(t *testing.T) {
	t.Parallel()
	const wait = 15 * time.Second
	begun := time.Now()
	at := func(s int) time.Time { return begun.Add(time.Duration(s) * time.Second) }
	three := []string{"young", "middle", "old"}
	disk := errors.New("full")
	for _, tc := range []struct {
		claim string
		room  room
		key   string
		after int // seconds
		want  verdict
	}{
		{"not full", room{}, "old", 0, goOn},
		{"the youngest has some time", room{full: begun, freed: begun}, "young", 4, goOn},
		{"the youngest", room{full: begun, freed: begun, crawled: three[:2]}, "young", 5, yield},
		{"the next one", room{full: begun, freed: begun, crawled: three[:2]}, "middle", 5, goOn},
		{"the next one, when the youngest is dead", room{full: begun, freed: begun, crawled: three}, "middle", 10, yield},
		{"the next one, when the youngest yielded", room{full: begun, freed: at(9), crawled: three}, "middle", 10, goOn},
		{"the oldest of several", room{full: begun, freed: begun, crawled: three}, "old", 100, goOn},
		{"alone", room{full: begun, freed: begun, alone: begun, crawled: three[2:]}, "old", 14, goOn},
		{"alone for long", room{full: begun, freed: begun, alone: begun, crawled: three[2:]}, "old", 15, fail},
		{"alone, and others were just purged", room{full: begun, freed: at(10), alone: begun, crawled: three[2:]}, "old", 20, goOn},
		{"alone, and another has just ended", room{full: begun, freed: begun, alone: at(10), crawled: three[2:]}, "old", 20, goOn},
		{"alone on a full disk", room{full: begun, freed: begun, alone: begun, crawled: three[2:], disk: disk}, "old", 15, fail},
		{"alone on a full disk, and others wait to start", room{full: begun, freed: begun, alone: begun, crawled: three[2:], disk: disk, waiting: true}, "old", 15, yield},
		{"the same, not for long", room{full: begun, freed: begun, alone: at(10), crawled: three[2:], disk: disk, waiting: true}, "old", 20, goOn},
		{"alone in a full stream, and others wait to start", room{full: begun, freed: begun, alone: begun, crawled: three[2:], waiting: true}, "old", 15, fail},
		{"with a workbook in progress", room{full: begun, freed: begun, crawled: three[2:], assembling: 1}, "old", 100, goOn},
		{"with a workbook in progress, on a full disk", room{full: begun, freed: begun, crawled: three[2:], assembling: 1, disk: disk}, "old", 15, yield},
		{"without a page", room{full: begun, freed: begun, crawled: three}, "other", 100, goOn},
	} {
		require.Equal(t, tc.want, tc.room.judge(tc.key, true, at(tc.after), wait), tc.claim)
	}
	alone := room{full: begun, freed: begun, alone: begun, crawled: three[2:]}
	require.Equal(t, goOn, alone.judge("old", false, at(100), wait), "its pages find room")
}

// A crawl starts while pages take at most 70 % of their limit, in the stream and on the disk. So an export
// that has just freed space does not take it again at once.
func TestMayBegin(t *testing.T) {
	t.Parallel()
	full := errors.New("full")
	free := func(free int64) func(int64) error {
		return func(bytes int64) error {
			if bytes > free {
				return full
			}
			return nil
		}
	}
	for _, tc := range []struct {
		claim string
		room  room
		free  int64 // bytes of the disk
		want  bool
	}{
		{"nothing is used", room{limit: 100}, 0, true},
		{"70 % of the stream", room{limit: 100, used: 70}, 1000, true},
		{"more of the stream", room{limit: 100, used: 71}, 1000, false},
		{"no limit", room{used: 70}, 30, true},
		{"70 % of the disk", room{limit: 1000, used: 70}, 30, true},
		{"more of the disk", room{limit: 1000, used: 70}, 29, false},
		{"a page finds no room on the disk", room{limit: 1000, disk: full}, 1000, false},
	} {
		require.Equal(t, tc.want, tc.room.mayBegin(free(tc.free)) == nil, tc.claim)
	}
}

// Following the verdicts completes all exports if each fits alone, in the stream or on the disk.
func TestFollowingTheVerdictsEnds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		const limit, wait = 1 << 20, 15 * time.Second
		type export struct {
			key           string
			needs, stored int64
			refused       int64
			left          int // seconds until its pages are purged, once all are stored
		}
		var all []*export // oldest first
		for n := range rapid.IntRange(1, 6).Draw(t, "exports") {
			all = append(all, &export{key: fmt.Sprint(n), needs: rapid.Int64Range(1, limit).Draw(t, "needs"), left: rapid.IntRange(0, 20).Draw(t, "assembly")})
		}
		streamLimit := rapid.SampledFrom([]int64{limit, 0}).Draw(t, "streamLimit") // otherwise of the disk
		r := room{limit: streamLimit}
		for now := time.Unix(0, 0); len(all) > 0; now = now.Add(time.Second) {
			require.Less(t, now.Unix(), int64(10_000), "it ends")
			before, largest := r, int64(0)
			r = room{limit: streamLimit}
			for _, x := range slices.Backward(all) {
				r.used += x.stored
				switch {
				case x.stored == x.needs:
					r.assembling++
				case x.stored > 0:
					r.crawled = append(r.crawled, x.key)
				}
			}
			free := limit - r.used
			for _, x := range all {
				largest = max(largest, x.refused)
				if x.refused <= free { // it is requested again
					free -= x.refused
					x.refused = 0
				}
			}
			disk := func(bytes int64) error {
				if streamLimit == 0 && bytes > limit-r.used {
					return errors.New("full")
				}
				return nil
			}
			r.disk = disk(largest)
			r.begin = r.mayBegin(disk)
			r.since(&before, now, largest > limit-r.used)
			if r.yielding(now, wait) > 0 {
				r.sinceAlone(&before, now)
			} else {
				r.crawled, r.assembling = nil, 0
			}
			if rapid.Bool().Draw(t, "order") {
				slices.Reverse(all)
			}
			for _, x := range all {
				switch {
				case x.stored == x.needs:
					x.left--
				case x.stored == 0 && r.begin != nil:
				default:
					verdict := r.judge(x.key, x.refused > 0, now, wait)
					require.NotEqual(t, fail, verdict, "each fits alone")
					if verdict == yield {
						x.stored, x.refused = 0, 0
						continue
					}
					used := int64(0)
					for _, x := range all {
						used += x.stored
					}
					page := min(x.needs-x.stored, rapid.Int64Range(1, limit/4).Draw(t, "page"))
					if x.refused = 0; used+page > limit {
						x.refused = page
						continue
					}
					x.stored += page
				}
			}
			slices.SortFunc(all, func(a, b *export) int { return cmp.Compare(a.key, b.key) })
			all = slices.DeleteFunc(all, func(x *export) bool { return x.stored == x.needs && x.left < 0 })
		}
	})
}

// Responses that exceed the memory together are read one after another, complete.
func TestAnswersInMemoryAreBounded(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
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
