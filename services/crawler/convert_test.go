package crawler

import (
	"context"
	"net/http"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/journal"
	"sheaf/events/pages"

	"github.com/stretchr/testify/require"
)

// finished crawls an export and completes it. The api reports how often it was asked.
func finished(t *testing.T, s *journal.Log, sheets ...events.Sheet) events.Export {
	t.Helper()
	x := requestSheets(t, s, events.Export{}, key, 0, sheets...)
	ended(t, s, x)
	crawled, err := s.Read(t.Context(), "default", key)
	require.NoError(t, err)
	done, err := s.Append(t.Context(), crawled, "", func(x *events.Export) (events.Payload, error) {
		return &events.ExportCompleted{Run: x.Run, Pages: x.Pages, Manifest: x.Manifest, Rows: 20,
			Warnings: append(x.Warnings, events.Warning{Code: "CELL_TYPE", Message: "of the file"})}, nil
	})
	require.NoError(t, err)
	return done
}

// convertOf appends a requested event for the pages of a finished export.
func convertOf(t *testing.T, s *journal.Log, of *events.Export) events.Export {
	t.Helper()
	req := of.Request
	req.ExtType, req.From = "CSV", &events.Origin{Key: of.Key}
	for i := range req.SheetCount() {
		req.From.Sheets = append(req.From.Sheets, of.CrawledSheet(i))
	}
	x, err := s.Append(t.Context(), events.Export{Tenant: "default", Key: spaceKey(99)}, "", func(*events.Export) (events.Payload, error) {
		return &events.ExportRequested{CreatedAt: time.Now().UTC(), Request: req}, nil
	})
	require.NoError(t, err)
	return x
}

// crawlOnce crawls an export that no running crawler takes.
func crawlOnce(t *testing.T, s *journal.Log, x events.Export) (*events.ExportCrawled, error) {
	t.Helper()
	service, err := New(Config{Policy: quick}, s, http.DefaultClient)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	return service.newCrawl(ctx, x, true).run(ctx)
}

// A conversion asks no source. Its event has the runs, the proofs and the warnings of the crawl.
func TestConvert(t *testing.T) {
	t.Parallel()
	for _, several := range []bool{false, true} {
		t.Run(map[bool]string{true: "sheets", false: "one source"}[several], func(t *testing.T) {
			t.Parallel()
			s := eventstest.Journal(t)
			a := newAPI(t, 14, 5)
			stop := start(t, s, http.DefaultClient, Config{})
			var origin events.Export
			if several {
				origin = finished(t, s, apiSheet("a", a.url, styles()["cursor"]), rawSheet("b", 2))
			} else {
				ended(t, s, requestDeclared(t, s, events.Export{}, a.url, styles()["cursor"], 1, 0))
				x, err := s.Read(t.Context(), "default", key)
				require.NoError(t, err)
				origin, err = s.Append(t.Context(), x, "", func(x *events.Export) (events.Payload, error) {
					return &events.ExportCompleted{Run: x.Run, Pages: x.Pages, Manifest: x.Manifest, Rows: 14, Warnings: x.Warnings}, nil
				})
				require.NoError(t, err)
			}
			stop()
			asked := a.all()
			reported := make(chan events.Progress, 1000)
			unheard, err := s.OnProgress(func(_, _ string, p events.Progress) { reported <- p })
			require.NoError(t, err)
			defer unheard()
			crawled, err := crawlOnce(t, s, convertOf(t, s, &origin))
			require.NoError(t, err)
			shown := progressUntil(t, reported, func(p events.Progress) bool { return p.PagesDone == origin.Pages })
			require.Equal(t, events.Progress{Phase: events.PhaseCrawling, PagesTotal: origin.Pages}, shown[0])
			want := events.Progress{Phase: events.PhaseCrawling, PagesDone: origin.Pages, PagesTotal: origin.Pages, Rows: 14}
			if several {
				want.Rows += 2
			}
			require.Equal(t, want, shown[len(shown)-1], "it ends with all pages")
			require.Equal(t, asked, a.all(), "the source is not asked")
			require.Equal(t, origin.Run, crawled.Run)
			require.Equal(t, origin.Pages, crawled.Pages)
			require.Equal(t, origin.Manifest, crawled.Manifest)
			require.Equal(t, origin.Proof, crawled.Proof)
			require.Equal(t, origin.Sheets, crawled.Sheets)
			require.Len(t, crawled.Warnings, 1)
			require.Equal(t, "LIMIT_CAPPED", crawled.Warnings[0].Code)
			list, err := s.Pages().Count(t.Context(), "default", spaceKey(99))
			require.NoError(t, err)
			require.Zero(t, list, "it stores no page of its own")
		})
	}
}

// progressUntil returns the reported progress, up to the first report for which last is true.
func progressUntil(t *testing.T, reported <-chan events.Progress, last func(events.Progress) bool) (all []events.Progress) {
	t.Helper()
	for whole := time.After(30 * time.Second); len(all) == 0 || !last(all[len(all)-1]); {
		select {
		case p := <-reported:
			all = append(all, p)
		case <-whole:
			require.Fail(t, "the last progress is not shown", "%+v", all)
		}
	}
	return all
}

// Pages that are gone, or that are not those of the file, fail the export, whichever they are. Page 0 is one of
// them.
func TestConvertWithoutPages(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	a := newAPI(t, 14, 5)
	stop := start(t, s, http.DefaultClient, Config{})
	origin := finished(t, s, apiSheet("a", a.url, styles()["cursor"]), apiSheet("b", a.url, styles()["page"]))
	stop()
	x := convertOf(t, s, &origin)
	other := x
	other.Request.From = &events.Origin{Key: key, Sheets: append([]events.SheetPages(nil), x.Request.From.Sheets...)}
	other.Request.From.Sheets[1].Manifest = origin.Sheets[0].Manifest + "0"
	gone := "the pages of " + key + " are no longer kept; submit the export again"
	check := func(x events.Export, reason string) {
		t.Helper()
		_, err := crawlOnce(t, s, x)
		require.EqualError(t, err, reason)
	}
	check(other, "the pages of "+key+" are no longer those of its file; submit the export again")
	other.Request.From.Sheets = other.Request.From.Sheets[:1]
	check(other, "the request has 2 sheets and names the pages of 1")

	// Page 0 of sheet 2 is gone: sheet 1 was read by then.
	id := pages.ID{Tenant: "default", Key: key, Run: x.Request.From.Sheets[1].Run, Sheet: 1}
	stream, err := s.JetStream().Stream(t.Context(), events.StreamPages)
	require.NoError(t, err)
	m, err := stream.GetLastMsgForSubject(t.Context(), pages.Subject(id, 1))
	require.NoError(t, err)
	require.NoError(t, stream.DeleteMsg(t.Context(), m.Sequence))
	check(x, gone)
	require.NoError(t, s.Pages().Purge(t.Context(), "default", key))
	check(x, gone)

	start(t, s, http.DefaultClient, Config{})
	f, ok := awaitOf(t, s, x.Key).Payload.(*events.ExportFailed)
	require.True(t, ok)
	require.Equal(t, events.CodeStore, f.Code)
	require.Equal(t, gone, f.Reason)
}

// awaitOf follows the log until an export has ended.
func awaitOf(t *testing.T, s *journal.Log, key string) events.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var found events.Event
	require.NoError(t, s.Follow(ctx, 1, func(batch []events.Event) error {
		for _, ev := range batch {
			if ev.Key == key && (ev.Type() == events.TypeFailed || ev.Type() == events.TypeCrawled) {
				found = ev
				cancel()
			}
		}
		return nil
	}))
	require.NotNil(t, found.Payload)
	return found
}
