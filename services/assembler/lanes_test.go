package assembler

import (
	"context"
	"crypto/sha256"
	"fmt"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/pages"
	"sheaf/storage"

	"github.com/stretchr/testify/require"
)

// gatedFiles blocks the first few drafts until the gate opens.
type gatedFiles struct {
	storage.Files
	first, waiting chan struct{} // a token for each draft that waits; one releases it
	gate           chan struct{}
}

func (g *gatedFiles) Create(ctx context.Context) (*storage.Draft, error) {
	select {
	case <-g.first:
		g.waiting <- struct{}{}
		select {
		case <-g.gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	default:
	}
	return g.Files.Create(ctx)
}

// While the maximum number of large workbooks is being written and more wait, small ones are written. Then
// the large ones follow.
func TestLargeWorkbooksKeepNoSmallOneWaiting(t *testing.T) {
	t.Parallel()
	st := newStage(t)
	gated := &gatedFiles{Files: st.files, first: make(chan struct{}, 2), waiting: make(chan struct{}, 2), gate: make(chan struct{})}
	gated.first <- struct{}{}
	gated.first <- struct{}{}
	s, err := New(Config{Workbooks: 2, Small: 2}, st.journal, gated)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()

	state := func(key string) events.State {
		x, err := st.journal.Read(t.Context(), "default", key)
		require.NoError(t, err)
		return x.State
	}
	completed := func(key string) func() bool {
		return func() bool { return state(key) == events.StateCompleted }
	}
	key := func(n int) string { return fmt.Sprintf("%032d", n) }
	for n := range 3 { // one more than the maximum
		crawlAs(t, st, key(n), smallRows)
		if n < 2 {
			<-gated.waiting
		}
	}
	for n := 10; n < 20; n++ {
		crawlAs(t, st, key(n), 2)
	}
	for n := 10; n < 20; n++ {
		require.Eventually(t, completed(key(n)), 30*time.Second, 5*time.Millisecond, "small workbook %d", n)
	}
	for n := range 3 {
		require.Equal(t, events.StateCrawled, state(key(n)), "large workbook %d", n)
	}
	close(gated.gate)
	for n := range 3 {
		require.Eventually(t, completed(key(n)), 60*time.Second, 5*time.Millisecond, "large workbook %d", n)
	}
	cancel()
	require.NoError(t, <-done)
}

// Small workbooks of one tenant leave slots for those of others, and are written later.
func TestSmallWorkbooksOfOneTenantLeaveSlots(t *testing.T) {
	t.Parallel()
	st := newStage(t)
	const small = 8
	gated := &gatedFiles{Files: st.files, first: make(chan struct{}, small/4), waiting: make(chan struct{}, small), gate: make(chan struct{})}
	s, err := New(Config{Small: small}, st.journal, gated)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	completed := func(tenant string, n int) bool {
		x, err := st.journal.Read(t.Context(), tenant, fmt.Sprintf("%032d", n))
		require.NoError(t, err)
		return x.State == events.StateCompleted
	}
	crawlFor(t, st, "other", fmt.Sprintf("%032d", 99), 2) // a tenant that is alone takes all slots
	require.Eventually(t, func() bool { return completed("other", 99) }, 30*time.Second, 5*time.Millisecond)
	for range small / 4 {
		gated.first <- struct{}{}
	}
	for n := range 3 * small {
		crawlFor(t, st, "busy", fmt.Sprintf("%032d", n), 2)
	}
	for range small / 4 {
		<-gated.waiting
	}
	crawlFor(t, st, "other", fmt.Sprintf("%032d", 100), 2)
	require.Eventually(t, func() bool { return completed("other", 100) }, 30*time.Second, 5*time.Millisecond)
	for n := range 3 * small {
		require.False(t, completed("busy", n))
	}
	close(gated.gate)
	for n := range 3 * small {
		require.Eventually(t, func() bool { return completed("busy", n) }, 30*time.Second, 5*time.Millisecond)
	}
	cancel()
	require.NoError(t, <-done)
}

// crawlAs is an export of one page whose limit is a number of rows.
func crawlAs(t *testing.T, st *stage, key string, limit int) {
	t.Helper()
	crawlFor(t, st, "default", key, limit)
}

func crawlFor(t *testing.T, st *stage, tenant, key string, limit int) {
	t.Helper()
	x, err := st.journal.Append(t.Context(), events.Export{Tenant: tenant, Key: key}, "", func(*events.Export) (events.Payload, error) {
		return &events.ExportRequested{CreatedAt: time.Now().UTC(), Request: events.Request{
			ExtType: "XLSX", SourceType: events.SourceHTTP, HTTP: &events.HTTPRequest{URL: "http://127.0.0.1/", Method: "GET", Limit: limit, Conn: 1},
		}}, nil
	})
	require.NoError(t, err)
	p := page(1, 1, 0, 1)
	p.ID = pages.ID{Tenant: tenant, Key: key, Run: x.RequestedSeq, Number: 1}
	_, err = st.journal.Pages().Publish(t.Context(), p)
	require.NoError(t, err)
	manifest := pages.NewManifest()
	manifest.Add(1, p.DataRows(), sha256.Sum256(p.Rows))
	_, err = st.journal.Append(t.Context(), x, "", func(*events.Export) (events.Payload, error) {
		return &events.ExportCrawled{Run: x.RequestedSeq, Pages: 1, Manifest: manifest.Sum()}, nil
	})
	require.NoError(t, err)
}
