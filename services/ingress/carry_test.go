package ingress

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/storage"

	"github.com/stretchr/testify/require"
)

// A busy tenant is not held by the old exports of a modest one, over and over, and
// the modest one notices nothing: what it asks answers the same, files are there,
// links live, and what was to happen happens.
func TestOldExportsDoNotHoldABusyTenant(t *testing.T) {
	t.Parallel()
	streams := eventstest.StreamsOn(t, eventstest.Server(t, ""), events.Config{MaxEventsBytes: 1 << 20})
	in := startOn(t, streams, Config{Authenticate: func(key string) (string, bool) { return key, true }})
	ask := func(tenant, method, path, body string) answer {
		return send(t, method, in.url+path, body, "X-API-Key", tenant)
	}
	submit := func(title string) answer { // what ends at once
		a := ask("busy", http.MethodPost, "/v1/export/raw", titled(title))
		if a.Errcode == 0 {
			require.Zero(t, ask("busy", http.MethodPost, "/v1/export/cancel", fmt.Sprintf(`{"key":%q}`, a.key(t))).Errcode)
		}
		return a
	}
	now := time.Now()
	modest := events.DefaultTenant
	content := testZip(t)
	done := in.complete(t, testKey(0), "done", content, now.Add(time.Hour))
	link := events.DownloadURL(in.streams.Keys(), in.url, &done)
	in.underway(t, testKey(1))
	in.write(t, testKey(1), &events.ExportFailed{Code: events.CodeSourceHTTP, Reason: "HTTP 500", Phase: events.PhaseCrawling})
	in.write(t, testKey(2), withCallback("told"))
	in.write(t, testKey(2), &events.ExportCancelled{})
	told := in.write(t, testKey(2), &events.CallbackAttempted{Attempt: 1, Status: 500, NextAt: now.Add(time.Hour)})
	in.write(t, testKey(3), &events.SubmissionRejected{Reason: "no"})
	in.complete(t, testKey(4), "gone", content, now)
	in.write(t, testKey(4), &events.ExportExpired{})
	state := func() string {
		in.caughtUpTo(t)
		var b strings.Builder
		for n := range 5 {
			a := ask(modest, http.MethodGet, "/v1/export/detail?key="+testKey(n), "")
			b.WriteString(string(a.Data) + a.Msg + "\n")
		}
		b.WriteString(string(ask(modest, http.MethodGet, "/v1/export/history?user_id=u&begin_timestamp=0", "").Data))
		return b.String()
	}
	before := state()
	require.Contains(t, before, testKey(4))

	s := in.sweeper()
	s.keepPages = time.Hour
	var carried uint64
	carries := 0
	for lap := 0; carries < 2; lap++ {
		n := 0
		for ; submit(fmt.Sprint(lap, "-", n)).Status != http.StatusTooManyRequests; n++ {
			in.caughtUpTo(t)
		}
		require.Greater(t, n, 5, "a pass makes room for more than a trickle")
		in.caughtUpTo(t)
		begins := in.log(t).First
		passes(t, s, 2)
		require.Greater(t, in.log(t).First, begins, "lap %d", lap)
		in.caughtUpTo(t)
		require.Eventually(t, func() bool { return submit(fmt.Sprint("room ", lap)).Errcode == 0 }, 10*time.Second, 20*time.Millisecond)
		require.Equal(t, before, state())
		_, body := fetch(t, http.MethodGet, link)
		require.Equal(t, content, body)
		x := in.read(t, modest, testKey(0))
		if x.CarriedSeq != carried {
			carried = x.CarriedSeq
			carries++
		}
		require.Equal(t, in.rebuilt(t), in.digest(t))
	}

	// The rounds go on where they were.
	require.Zero(t, ask(modest, http.MethodPost, "/v1/export/retry", fmt.Sprintf(`{"key":%q}`, testKey(1))).Errcode)
	again := in.read(t, modest, testKey(1))
	require.Equal(t, events.StateRequested, again.State)
	require.Zero(t, again.CarriedSeq)
	require.NotZero(t, again.ContinuesRun)
	in.write(t, testKey(1), &events.ExportCancelled{})
	x := in.write(t, testKey(2), &events.CallbackDelivered{Attempt: 2, Status: 200})
	require.Equal(t, told.WebhookID(), x.WebhookID())
	in.caughtUpTo(t)
	s.now = func() time.Time { return now.Add(2 * time.Hour) }
	passes(t, s, 1)
	require.Equal(t, events.StateExpired, in.read(t, modest, testKey(0)).State)
	require.False(t, in.has(t, done.Files[0].Store))

	// In the end they go as if they had never been carried.
	in.write(t, testKey(9), requestOf("the newest"))
	in.caughtUpTo(t)
	s.now = func() time.Time { return now.Add(s.keepHistory + 2*time.Hour) }
	passes(t, s, 2)
	for n := range 5 {
		require.False(t, in.knows(t, n), "key %d", n)
	}
	require.Equal(t, in.rebuilt(t), in.digest(t))
}

// Who is refused need not wait for the next pass.
func TestRoomInTheLogIsMadeBetweenPasses(t *testing.T) {
	t.Parallel()
	streams := eventstest.StreamsOn(t, eventstest.Server(t, ""), events.Config{MaxEventsBytes: 1 << 20})
	in := startOn(t, streams, Config{Authenticate: func(key string) (string, bool) { return key, true }})
	in.write(t, testKey(0), requestOf("a"))
	in.write(t, testKey(0), &events.ExportCancelled{})
	submit := func(n int) int {
		in.caughtUpTo(t)
		a := send(t, http.MethodPost, in.url+"/v1/export/raw", titled(fmt.Sprint(n)), "X-API-Key", "busy")
		if a.Errcode == 0 {
			x := in.read(t, "busy", a.key(t))
			_, err := streams.Append(t.Context(), x, "", func(*events.Export) (events.Payload, error) { return &events.ExportCancelled{}, nil })
			require.NoError(t, err)
		}
		return a.Status
	}
	n := 0
	for submit(n) == http.StatusOK {
		n++
	}
	s := in.sweeper()
	passes(t, s, 1)
	first := in.log(t).First
	require.NoError(t, s.relieveLog(t.Context()))
	require.Equal(t, first, in.log(t).First, "there is no mark that lies a pause back")
	s.before, s.mark, s.trimmed = s.mark, events.PurgeMark{}, time.Time{}
	require.NoError(t, s.relieveLog(t.Context()))
	require.Greater(t, in.log(t).First, first)
	require.Zero(t, s.mark)
	first = in.log(t).First
	require.Eventually(t, func() bool { return submit(n) == http.StatusOK }, 10*time.Second, 20*time.Millisecond)
	require.NoError(t, s.relieveLog(t.Context()))
	require.Equal(t, first, in.log(t).First, "not again at once")
	require.True(t, in.knows(t, 0))
}

// Nothing is carried on that work is under way on, or when nobody wants room.
func TestWhatIsNotCarried(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		head    func(in *ingress)
		refused bool
	}{
		"nobody wants room": {func(in *ingress) {
			in.write(t, testKey(0), requestOf("a"))
			in.write(t, testKey(0), &events.ExportCancelled{})
		}, false},
		"under way": {func(in *ingress) { in.write(t, testKey(0), requestOf("a")) }, true},
		"a callback that was not tried": {func(in *ingress) {
			in.write(t, testKey(0), withCallback("a"))
			in.write(t, testKey(0), &events.ExportCancelled{})
		}, true},
		"a callback that is due": {func(in *ingress) {
			in.write(t, testKey(0), withCallback("a"))
			in.write(t, testKey(0), &events.ExportCancelled{})
			in.write(t, testKey(0), &events.CallbackAttempted{Attempt: 1, NextAt: time.Now()})
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			streams := eventstest.StreamsOn(t, eventstest.Server(t, ""), events.Config{MaxEventsBytes: 256 << 10})
			in := startOn(t, streams, Config{})
			tc.head(in)
			for n := 0; in.log(t).Full < 0.5; n++ {
				_, err := streams.Append(t.Context(), events.Export{Tenant: "busy", Key: testKey(100 + n)}, "", func(*events.Export) (events.Payload, error) {
					return &events.SubmissionRejected{Reason: strings.Repeat("x", 3000)}, nil
				})
				require.NoError(t, err)
			}
			in.caughtUpTo(t)
			s := in.sweeper()
			if tc.refused {
				in.wanted.note("busy")
			}
			last := in.log(t).Last
			passes(t, s, 3)
			l := in.log(t)
			require.Equal(t, [2]uint64{1, last}, [2]uint64{l.First, l.Last})
		})
	}
}

// What lies before what becomes free is carried on if it is not more than eight times
// as much. Pieces are parted by blanks; in one, tenants have no order.
func TestCarryingIsWorthIt(t *testing.T) {
	t.Parallel()
	for log, until := range map[string]uint64{
		"":                      0,
		"m m m":                 0, // nothing becomes free
		"m m b b":               4,
		"b b m m":               2, // what is needed and comes after stays
		"m m m m m m m m b":     9,
		"m m m m m m m m m b":   0,  // too little
		"m m m m m m m m m b b": 11, // together they are enough
		"b m m m m m m b":       8,
		"m b m m m m m m":       2,
		"b b b b b b b b":       3, // what may stay is needed too
		"n n n b b b b b":       6,
		"bmmmmmmmmm m":          0,
		"bmmmmmmmm m":           1,
		"u u u u":               4, // the first two are in use
	} {
		var pieces []storage.LogPiece
		for n, piece := range strings.Fields(log) {
			for _, tenant := range piece {
				pieces = append(pieces, storage.LogPiece{Below: uint64(n + 1), Tenant: string(tenant), Bytes: 100})
			}
		}
		tenants := map[string]*outlay{"m": {}, "n": {}, "b": {goes: 250}, "u": {stays: 150, goes: 200}}
		require.Equal(t, until, worthUntil(pieces, tenants), log)
	}
}

// rejections writes exports that have ended, of one event each.
func (in *ingress) rejections(t testing.TB, tenant string, first, n, size int) {
	t.Helper()
	for n := range n {
		_, err := in.streams.Append(t.Context(), events.Export{Tenant: tenant, Key: testKey(first + n)}, "", func(*events.Export) (events.Payload, error) {
			return &events.SubmissionRejected{Reason: strings.Repeat("x", size)}, nil
		})
		require.NoError(t, err)
	}
	in.caughtUpTo(t)
}

// However large what stands in the way is, carrying it does not fill the log, and goes on
// in slices where it does not fit at once.
func TestCarryingLeavesRoom(t *testing.T) {
	t.Parallel()
	streams := eventstest.StreamsOn(t, eventstest.Server(t, ""), events.Config{MaxEventsBytes: 4 << 20})
	in := startOn(t, streams, Config{})
	in.rejections(t, "modest", 0, 33, 36_000)
	for n := 10_000; in.log(t).Full < 0.78; n++ {
		for _, p := range []events.Payload{requestOf(strings.Repeat("b", 1500)), &events.ExportCrawled{Pages: 1}, &events.ExportCompleted{Pages: 1, ExpiresAt: time.Now().Add(time.Hour)}} {
			x, err := streams.Read(t.Context(), "busy", testKey(n))
			require.NoError(t, err)
			_, err = streams.Append(t.Context(), x, "", func(*events.Export) (events.Payload, error) { return p, nil })
			require.NoError(t, err)
		}
	}
	require.True(t, in.portionOf("busy").over())
	require.False(t, in.portionOf("modest").over())
	in.wanted.note("busy")
	s := in.sweeper()
	passes(t, s, 1)
	carried, more, err := s.carry(t.Context(), in.caughtUpTo(t))
	require.NoError(t, err)
	require.Positive(t, carried)
	require.True(t, more)
	require.Less(t, in.log(t).Full, 0.81)
	passes(t, s, 3)
	in.caughtUpTo(t)
	require.False(t, in.portionOf("busy").over())
	u, err := in.tasks.Usage("modest")
	require.NoError(t, err)
	require.Equal(t, 33, u.Exports)
}

func (in *ingress) portionOf(tenant string) portion {
	log, err := in.streams.LogState(bg)
	if err != nil {
		return portion{}
	}
	return portionOf(in.tasks, log.Space, tenant)
}

// A log that takes no event any more makes room nevertheless, and keeps no file of what it
// forgot.
func TestAFullLogMakesRoom(t *testing.T) {
	t.Parallel()
	streams := eventstest.StreamsOn(t, eventstest.Server(t, ""), events.Config{MaxEventsBytes: 256 << 10})
	in := startOn(t, streams, Config{})
	var stored []string
	for n := range 10 {
		x := in.complete(t, testKey(n), "a", []byte("zip"), time.Now().Add(time.Hour))
		stored = append(stored, x.Files[0].Store)
	}
	in.write(t, testKey(20), withCallback("told"))
	in.write(t, testKey(20), &events.ExportCancelled{})
	for _, size := range []int{3000, 1} { // to the last byte
		for n, err := 0, error(nil); err == nil; n++ {
			_, err = streams.Append(t.Context(), events.Export{Tenant: "other", Key: testKey(1000*size + n)}, "", func(*events.Export) (events.Payload, error) {
				return &events.SubmissionRejected{Reason: strings.Repeat("x", size)}, nil
			})
			if err != nil {
				require.ErrorIs(t, err, events.ErrNoSpace)
			}
		}
	}
	in.caughtUpTo(t)
	s := in.sweeper()
	for range 20 {
		passes(t, s, 1)
		in.caughtUpTo(t)
	}
	require.Less(t, in.log(t).Full, logShare)
	for n, name := range stored {
		require.Equal(t, in.knows(t, n), in.has(t, name))
	}
	require.False(t, in.knows(t, 0))
	require.Equal(t, in.rebuilt(t), in.digest(t))
}

// What a tenant over its share still needs itself is no reason to turn the log round.
func TestWhatFreesNothingIsNotCarried(t *testing.T) {
	t.Parallel()
	streams := eventstest.StreamsOn(t, eventstest.Server(t, ""), events.Config{MaxEventsBytes: 1 << 20})
	in := startOn(t, streams, Config{})
	in.rejections(t, "modest", 0, 1, 1)
	for n := 1; !in.portionOf(events.DefaultTenant).over(); n++ {
		in.write(t, testKey(n), withCallback("a"))
		in.write(t, testKey(n), &events.ExportCancelled{})
		in.write(t, testKey(n), &events.CallbackAttempted{Attempt: 1, Status: 500, NextAt: time.Now().Add(8 * time.Hour)})
		in.caughtUpTo(t)
	}
	in.wanted.note(events.DefaultTenant)
	last := in.log(t).Last
	s := in.sweeper()
	s.step = 10
	passes(t, s, 3)
	l := in.log(t)
	require.Equal(t, [2]uint64{1, last}, [2]uint64{l.First, l.Last})
}

// Who was refused makes room of what is its own: those of others that are in the way are
// carried on, also of whoever has more than its share and asks for nothing; and what runs
// is failed only if its tenant is over its share.
func TestNobodyLosesByOthersWishes(t *testing.T) {
	t.Parallel()
	streams := eventstest.StreamsOn(t, eventstest.Server(t, ""), events.Config{MaxEventsBytes: 4 << 20})
	in := startOn(t, streams, Config{})
	victim := 0
	for ; in.log(t).Full < 0.28; victim++ {
		in.complete(t, testKey(victim), strings.Repeat("v", 3000), []byte("zip"), time.Now().Add(100*time.Hour))
	}
	for n := range 3 {
		in.rejections(t, fmt.Sprint("t", n), 1000*(n+1), 70, 2500)
	}
	in.rejections(t, "hostile", 9000, 150, 6000)
	require.True(t, in.portionOf(events.DefaultTenant).over())
	require.True(t, in.portionOf("hostile").over())
	in.wanted.note("hostile")
	s := in.sweeper()
	passes(t, s, 3)
	in.caughtUpTo(t)
	require.False(t, in.portionOf("hostile").over())
	for n := range victim {
		require.True(t, in.knows(t, n), "key %d", n)
	}
}

func TestWhatRunsWithinItsShareGoesOn(t *testing.T) {
	t.Parallel()
	streams := eventstest.StreamsOn(t, eventstest.Server(t, ""), events.Config{MaxEventsBytes: 1 << 20})
	in := startOn(t, streams, Config{})
	n := 0
	for ; in.log(t).Full < 0.20; n++ {
		in.write(t, testKey(n), requestOf(strings.Repeat("s", 5000)))
	}
	for k := 0; in.log(t).Full < 0.81; k++ {
		_, err := streams.Append(t.Context(), events.Export{Tenant: "big", Key: testKey(1000 + k)}, "", func(*events.Export) (events.Payload, error) {
			return requestOf(strings.Repeat("b", 5000)), nil
		})
		require.NoError(t, err)
	}
	in.caughtUpTo(t)
	p := in.portionOf(events.DefaultTenant)
	require.False(t, p.over())
	require.Positive(t, p.beyond(1-asideFor, 0))
	in.wanted.note(events.DefaultTenant)
	passes(t, in.sweeper(), 2)
	for k := range n {
		require.Equal(t, events.StateRequested, in.read(t, events.DefaultTenant, testKey(k)).State)
	}
}

// Whoever was faster decides: what began anew, or was carried on by another, stays where
// it is.
func TestCarryingLosesToOthers(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	s := in.sweeper()
	in.write(t, testKey(0), requestOf("a"))
	seen := in.write(t, testKey(0), &events.ExportCancelled{})
	in.caughtUpTo(t)
	passes(t, s, 2)
	_, err := s.carriedOn(seen)(&seen)
	require.NoError(t, err)
	carried := in.write(t, testKey(0), &events.ExportCarried{Export: seen})
	again := in.write(t, testKey(0), requestOf("a"))
	ended := in.write(t, testKey(0), &events.ExportCancelled{})
	for _, now := range []events.Export{carried, again, ended} {
		_, err := s.carriedOn(seen)(&now)
		require.ErrorIs(t, err, errNotDue)
	}
	_, err = s.streams.Append(t.Context(), seen, "", s.carriedOn(seen))
	require.ErrorIs(t, err, errNotDue)
	require.Equal(t, ended, in.read(t, events.DefaultTenant, testKey(0)))
}

// Where more stands in the way than one step takes, one look takes several.
func TestCarryingGoesOnAfterAStep(t *testing.T) {
	t.Parallel()
	streams := eventstest.StreamsOn(t, eventstest.Server(t, ""), events.Config{MaxEventsBytes: 4 << 20})
	in := startOn(t, streams, Config{})
	in.rejections(t, "modest", 0, 400, 1)
	for n := 1000; !in.portionOf("busy").over() || in.log(t).Full < 0.6; n++ {
		in.rejections(t, "busy", n, 1, 10_000)
	}
	in.wanted.note("busy")
	s := in.sweeper()
	s.step = 100
	passes(t, s, 2)
	in.caughtUpTo(t)
	require.False(t, in.portionOf("busy").over())
	u, err := in.tasks.Usage("modest")
	require.NoError(t, err)
	require.Equal(t, 400, u.Exports)
}

// A key that was bound by a process that died begins its export, though what was there
// before was carried on and the log trimmed.
func TestIdempotencyKeyOfWhatWasCarried(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	key := in.post(t, "/v1/export/raw", titled("a")).key(t)
	x := in.write(t, key, &events.ExportCancelled{})
	claim := events.IdempotencyClaim{Key: key, Before: x.RequestedSeq, Log: x.LastSeq}
	_, err := in.streams.ClaimIdempotencyKey(t.Context(), events.DefaultTenant, "my-key", claim)
	require.NoError(t, err)
	in.underway(t, testKey(1))
	carried := in.write(t, key, &events.ExportCarried{Export: x})
	require.NoError(t, in.streams.TrimLog(t.Context(), in.log(t), carried.CarriedSeq))
	require.Zero(t, send(t, http.MethodPost, in.url+"/v1/export/raw", titled("a"), "Idempotency-Key", "my-key").Errcode)
	again := in.read(t, events.DefaultTenant, key)
	require.Equal(t, events.StateRequested, again.State)
	require.Equal(t, x.ID, again.ID)
}
