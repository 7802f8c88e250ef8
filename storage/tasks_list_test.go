package storage

import (
	"cmp"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sheaf/events"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// listLog draws a log of exports of two tenants and three users, in all classes. Some are retried or
// forgotten.
func listLog(t *rapid.T, tasks *Tasks) *logOf {
	log := &logOf{t: t}
	for n := range rapid.IntRange(1, 60).Draw(t, "steps") {
		key := rapid.IntRange(1, 25).Draw(t, "key")
		tenant := []string{"shop", "shop2"}[key%2]
		// Clocks differ, by less than maxSkew.
		at := begin.Add(time.Duration(2*n+rapid.IntRange(0, 22).Draw(t, "hour")) * time.Hour)
		var p events.Payload
		switch x := log.now[keyOf(key)]; {
		case x.State == events.StateNone && rapid.IntRange(0, 9).Draw(t, "rejected") == 0:
			p = &events.SubmissionRejected{Reason: "no"}
		case x.State == events.StateRejected:
			continue
		case x.State == events.StateNone || x.State.Terminal() && x.State != events.StateCompleted:
			r := request(fmt.Sprint("u", rapid.IntRange(0, 2).Draw(t, "user")), cmpTime(x.CreatedAt, at))
			r.Request.Callback = ""
			r.Request.Title = rapid.SampledFrom([]string{"orders", "refunds"}).Draw(t, "title")
			p = r
		case x.State == events.StateCompleted:
			p = &events.ExportExpired{}
		case x.State == events.StateCrawled:
			p = completed(fmt.Sprint("f", n), at)
		default:
			p = rapid.SampledFrom([]events.Payload{&events.ExportCrawled{Run: 1, Pages: 1}, &events.ExportCancelled{},
				&events.ExportFailed{Code: events.CodeSourceHTTP}, &events.ExportFailed{Code: events.CodeLimitRows}}).Draw(t, "end")
		}
		log.add(tenant, keyOf(key), at, p)
		require.NoError(t, tasks.Apply(log.all[len(log.all)-1:]))
		if x := log.now[keyOf(key)]; x.Settled() && rapid.IntRange(0, 9).Draw(t, "forget") == 0 {
			require.NoError(t, tasks.Forget([]events.Export{x}))
			log.drop(x.Key)
		}
	}
	return log
}

func cmpTime(a, b time.Time) time.Time {
	if a.IsZero() {
		return b
	}
	return a
}

// A list equals the exports that a plain search finds, page by page, and the counts equal theirs.
func TestListsEqualAPlainSearch(t *testing.T) {
	t.Parallel()
	dir, n := t.TempDir(), 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		tasks, err := OpenTasks(filepath.Join(dir, fmt.Sprint(n)), slog.New(slog.DiscardHandler))
		require.NoError(t, err)
		defer func() { require.NoError(t, tasks.Close()) }()
		log := listLog(t, tasks)
		q := Query{
			Tenant:    rapid.SampledFrom([]string{"shop", "shop2", "shop3"}).Draw(t, "tenant"),
			Class:     rapid.SampledFrom([]Class{0, 0, Underway, Failed, Succeeded, Cancelled}).Draw(t, "class"),
			UserID:    rapid.SampledFrom([]string{"", "", "u0", "u1"}).Draw(t, "of user"),
			ErrorCode: rapid.SampledFrom([]string{"", "", events.CodeLimitRows}).Draw(t, "code"),
			Limit:     rapid.IntRange(1, 4).Draw(t, "limit"), MaxLoads: rapid.IntRange(1, 30).Draw(t, "loads"),
		}
		if rapid.Bool().Draw(t, "since") {
			q.Since = begin.Add(time.Duration(rapid.IntRange(0, 130).Draw(t, "from")) * time.Hour)
		}
		if rapid.Bool().Draw(t, "until") {
			q.Until = begin.Add(time.Duration(rapid.IntRange(0, 130).Draw(t, "to")) * time.Hour)
		}
		if rapid.IntRange(0, 3).Draw(t, "searched") == 0 {
			q.Match = func(x *events.Export) bool { return x.Request.Title == "orders" }
		}
		if rapid.IntRange(0, 5).Draw(t, "by key") == 0 {
			q.Key = keyOf(rapid.IntRange(1, 25).Draw(t, "its key"))
		}
		var want, counted = []string{}, Usage{}
		for _, x := range byID(log) {
			if x.Tenant == q.Tenant {
				counted = counted.plus(usageOf(&x, 0))
			}
			if selectedPlainly(q, &x) {
				want = append(want, x.Key)
			}
		}
		require.Equal(t, want, allPages(t, tasks, q))

		got, err := tasks.Usage(q.Tenant)
		require.NoError(t, err)
		got.Bytes, counted.Bytes = 0, 0
		require.Equal(t, counted, got)
		underway := 0
		require.NoError(t, tasks.EachUnderway(q.Tenant, func(key string, crawled bool) {
			underway++
			require.Equal(t, log.now[key].State == events.StateCrawled, crawled)
		}))
		require.Equal(t, counted.Unfinished, underway)
	})
}

// allPages returns the keys of every page of a list.
func allPages(t *rapid.T, tasks *Tasks, q Query) []string {
	keys := []string{}
	for page := 0; ; page++ {
		found, err := tasks.List(q)
		require.NoError(t, err)
		require.LessOrEqual(t, len(found.Exports), q.Limit)
		keys = append(keys, keysOf(found.Exports)...)
		if found.Next == 0 {
			require.False(t, found.Partial)
			return keys
		}
		require.True(t, found.Partial || len(found.Exports) == q.Limit)
		require.Less(t, page, 100, "the pages end")
		q.Before = found.Next
	}
}

// byID returns the exports of a log, newest id first.
func byID(log *logOf) []events.Export {
	var list []events.Export
	for _, x := range log.now {
		list = append(list, x)
	}
	slices.SortFunc(list, func(a, b events.Export) int { return cmp.Compare(b.ID, a.ID) })
	return list
}

func selectedPlainly(q Query, x *events.Export) bool {
	class := map[events.State]Class{events.StateRequested: Underway, events.StateCrawled: Underway,
		events.StateCompleted: Succeeded, events.StateExpired: Succeeded, events.StateFailed: Failed,
		events.StateRejected: Failed, events.StateCancelled: Cancelled}[x.State]
	return x.Tenant == q.Tenant && (q.Class == 0 || q.Class == class) &&
		(q.UserID == "" || x.Request.UserID == q.UserID) && (q.Key == "" || x.Key == q.Key) &&
		(q.ErrorCode == "" || x.Failure.Code == q.ErrorCode) &&
		(q.Since.IsZero() || !x.CreatedAt.Before(q.Since)) && (q.Until.IsZero() || x.CreatedAt.Before(q.Until)) &&
		(q.Match == nil || q.Match(x))
}

// BenchmarkList lists 50 of 100,000 exports of a tenant.
func BenchmarkList(b *testing.B) {
	tasks := openAt(b, filepath.Join(b.TempDir(), "tasks.db"))
	log := logOf{t: b}
	for n := range 100_000 {
		key, at := keyOf(n*7919), begin.Add(time.Duration(n)*time.Second)
		log.add("default", key, at, request(fmt.Sprint(n%100), at))
		if n%100 == 0 {
			log.add("default", key, at, &events.ExportFailed{Code: events.CodeSourceHTTP, Reason: "HTTP 503"})
		} else {
			log.add("default", key, at, &events.ExportCrawled{Run: uint64(n), Pages: 10})
			log.add("default", key, at, completed(fmt.Sprintf("default/%s/%d.zip", key, n), at.Add(time.Hour)))
		}
	}
	for batch := range slices.Chunk(log.all, 4096) {
		require.NoError(b, tasks.Apply(batch))
	}
	none := func(x *events.Export) bool { return strings.Contains(x.Request.Title, "nothing") }
	for name, q := range map[string]Query{
		"all":             {},
		"failed":          {Class: Failed},
		"rare code":       {ErrorCode: events.CodeLimitRows},
		"user":            {UserID: "7"},
		"old":             {Until: begin.Add(time.Hour)},
		"search of 5,000": {Match: none},
	} {
		q.Tenant, q.Limit, q.MaxLoads = "default", 50, 5000
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := tasks.List(q); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
