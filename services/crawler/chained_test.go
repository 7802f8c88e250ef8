package crawler

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/journal"
	"sheaf/events/pages"
	"sheaf/services/crawler/source"

	"github.com/stretchr/testify/require"
)

// cursor is a shape whose pages are chained: {"items": [...], "next": "c3"}, without a header row and without
// a number.
type cursor struct{ url string }

func (c cursor) Request(ctx context.Context, at source.Position) (*http.Request, error) {
	return http.NewRequestWithContext(ctx, http.MethodGet, c.url+"?after="+url.QueryEscape(at.Token), nil)
}

func (c cursor) Parse(body []byte, _ http.Header, at source.Position) (source.Answer, error) {
	var got struct {
		Items []json.RawMessage
		Total int64
		Next  string
	}
	if err := json.Unmarshal(body, &got); err != nil {
		return source.Answer{}, &source.Failure{Code: events.CodeSourceFormat, Msg: err.Error()}
	}
	a := source.Answer{Page: int64(at.Page), Total: got.Total, Next: got.Next, Last: got.Next == ""}
	if at.Page == 1 {
		a.Header = []byte(`{"id":"id"}`)
		got.Items = append([]json.RawMessage{a.Header}, got.Items...)
	}
	a.RowCount = len(got.Items)
	var err error
	a.Rows, err = json.Marshal(got.Items)
	return a, err
}

// chained serves pages of 10 rows and counts the requests per token. next returns the token of the page after
// page n.
func chained(t *testing.T, pages int, next func(r *http.Request, n int) string) (url string, asked func(token string) int) {
	var mu sync.Mutex
	counts := map[string]int{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token := r.URL.Query().Get("after")
		mu.Lock()
		counts[token]++
		mu.Unlock()
		n := 1
		if token != "" {
			n, _ = strconv.Atoi(token[len("secret-"):])
		}
		items := make([]map[string]int, 10)
		for i := range items {
			items[i] = map[string]int{"id": (n-1)*10 + i}
		}
		answer := map[string]any{"items": items, "total": pages * 10}
		if n < pages {
			answer["next"] = next(r, n)
		}
		_ = json.NewEncoder(w).Encode(answer)
	}))
	t.Cleanup(server.Close)
	return server.URL, func(token string) int {
		mu.Lock()
		defer mu.Unlock()
		return counts[token]
	}
}

func startChained(t *testing.T, s *journal.Log, url string) (stop func()) {
	return startWith(t, s, http.DefaultClient, Config{DrainFor: 100 * time.Millisecond}, func(service *Service) {
		service.newSource = func(client source.Client, req source.Request, policy source.Policy) (*source.Fetcher, error) {
			f, err := source.New(client, req, policy)
			if err == nil {
				f.Shape = cursor{url}
			}
			return f, err
		}
	})
}

func token(n int) string { return fmt.Sprintf("secret-%d", n) }

// A source that names its next page gets one request after another. A crawler that finds some of the pages
// stored continues with the token of the last one, which is sealed in the stream.
func TestChainedPages(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	reached := make(chan struct{})
	var first atomic.Bool
	url, asked := chained(t, 12, func(r *http.Request, n int) string {
		if n == 6 && first.CompareAndSwap(false, true) {
			close(reached)
			<-r.Context().Done() // until the crawler is stopped
		}
		return token(n + 1)
	})
	x := request(t, s, events.Export{}, url, 10, 0)
	stop := startChained(t, s, url)
	<-reached
	stop()
	have, err := s.Pages().List(t.Context(), x.Tenant, x.Key, x.RequestedSeq, 0)
	require.NoError(t, err)
	require.Len(t, have, 5)
	stored, err := s.Pages().Get(t.Context(), pages.ID{Tenant: x.Tenant, Key: x.Key, Run: x.RequestedSeq, Number: 5})
	require.NoError(t, err)
	require.NotEmpty(t, stored.Next)
	require.NotContains(t, stored.Next, "secret")

	startChained(t, s, url)
	crawled, ok := await(t, s, x.LastSeq, events.TypeCrawled, events.TypeFailed).Payload.(*events.ExportCrawled)
	require.True(t, ok)
	require.Equal(t, wantRows(120), dataRows(t, s, crawled.Run, crawled.Pages))
	require.Empty(t, crawled.Warnings)
	for n := 2; n <= 12; n++ {
		require.Equal(t, map[bool]int{true: 2, false: 1}[n == 6], asked(token(n)), "page %d", n)
	}
}

// A chain that leads back ends the crawl.
func TestAChainThatLeadsBack(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	url, _ := chained(t, 12, func(_ *http.Request, n int) string { return token(n%3 + 1) })
	x := request(t, s, events.Export{}, url, 10, 0)
	startChained(t, s, url)
	failed, ok := await(t, s, x.LastSeq, events.TypeCrawled, events.TypeFailed).Payload.(*events.ExportFailed)
	require.True(t, ok)
	require.Equal(t, events.CodePagingStuck, failed.Code)
	require.Contains(t, failed.Reason, "the source names the same page as the next one as on page 1")
}
