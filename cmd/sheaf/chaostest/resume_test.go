//go:build chaos && linux

package chaostest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/services/crawler/source/sourcetest"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

const (
	resumeRows = 95 // ten pages, the last of five rows
	resumeSize = 10
	resumeConn = 3 // concurrent requests of lists whose pages are independent
)

// gatedList is a list that answers only pages before its gate. The others wait until the gate moves.
type gatedList struct {
	name string
	*sourcetest.List

	mu       sync.Mutex
	moved    *sync.Cond
	gate     int
	asked    map[int]int // requests by page
	answered map[int]int // those that passed the gate
}

func newGatedList(t testing.TB, name, preset string, quirks sourcetest.Quirks) *gatedList {
	l := &gatedList{name: name, List: sourcetest.NewList(t, sourcetest.ShapeOf(preset), resumeRows, quirks)}
	l.moved = sync.NewCond(&l.mu)
	l.reset(0)
	t.Cleanup(func() { l.move(1 << 30) }) // a list closes only after its last response
	l.Before = func(r sourcetest.Request) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.asked[r.Page]++
		waited := false
		for r.Page >= l.gate {
			waited = true
			l.moved.Wait()
		}
		if !waited { // the process that sent a waiting request was killed before the gate moved
			l.answered[r.Page]++
		}
	}
	return l
}

// reset forgets all requests and sets the gate.
func (l *gatedList) reset(gate int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gate, l.asked, l.answered = gate, map[int]int{}, map[int]int{}
}

func (l *gatedList) move(gate int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gate = gate
	l.moved.Broadcast()
}

func (l *gatedList) reached(page int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.asked[page] > 0
}

func (l *gatedList) request(t testing.TB) []byte {
	var source map[string]any
	require.NoError(t, json.Unmarshal(l.SourceHTTP(resumeSize), &source))
	source["conn"] = resumeConn
	body, err := json.Marshal(map[string]any{"timestamp": 1_700_000_000, "ext_type": "xlsx", "title": l.name, "user_id": "resume", "source_http": source})
	require.NoError(t, err)
	return body
}

// resuming is a world in which lists of every style are exported.
type resuming struct {
	*world
	lists []*gatedList
	keys  map[string]string // by list
}

func newResuming(t testing.TB) *resuming {
	r := &resuming{world: newWorld(t, 1, nil), keys: map[string]string{}}
	add := func(name, preset string, quirks sourcetest.Quirks) {
		r.lists = append(r.lists, newGatedList(t, name, preset, quirks))
	}
	add("page, total", "laravel", sourcetest.Quirks{})
	add("page, nothing announced", "pocketbase", sourcetest.Quirks{TotalNull: true})
	add("offset, total", "feathers", sourcetest.Quirks{})
	add("offset, nothing announced", "couchdb", sourcetest.Quirks{TotalNull: true})
	add("cursor in a body", "notion", sourcetest.Quirks{})
	add("cursor in the query", "hubspot", sourcetest.Quirks{})
	add("cursor of a row", "stripe", sourcetest.Quirks{})
	add("cursor and a total", "graphql-relay", sourcetest.Quirks{})
	add("next URL", "drf-cursor", sourcetest.Quirks{})
	add("next URL and a total", "odata", sourcetest.Quirks{})
	add("Link", "github", sourcetest.Quirks{})
	return r
}

// start starts a process with a data folder of its own. It stops at the end of the test.
func (r *resuming) start(ctx context.Context, name string) *process {
	at, natsAt := freeAddress(), freeAddress()
	r.ingresses, r.natsURL = []string{"http://" + at}, "nats://"+natsAt
	p := r.serve(name, "--http", at, "--nats-listen", natsAt)
	p.start("")
	r.t.Cleanup(func() { p.shutdown(syscall.SIGTERM) })
	return p
}

// submitAll begins all exports with closed gates.
func (r *resuming) submitAll(ctx context.Context, gate int) {
	for _, l := range r.lists {
		l.reset(gate)
		status, a, err := r.insist(ctx, http.MethodPost, "/v1/export/http", l.request(r.t))
		require.NoError(r.t, err)
		require.Equal(r.t, http.StatusOK, status, "%s: %s", l.name, a.Msg)
		var data struct {
			HashKey string `json:"hash_key"`
		}
		require.NoError(r.t, json.Unmarshal(a.Data, &data))
		r.keys[l.name] = data.HashKey
	}
}

func (r *resuming) moveAll(gate int) {
	for _, l := range r.lists {
		l.move(gate)
	}
}

// kept waits until the pages of every list are stored, up to the one before a gate, and the next one is asked
// for.
func (r *resuming) kept(ctx context.Context, gate int) {
	nc, err := nats.Connect(r.natsURL, nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	require.NoError(r.t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(r.t, err)
	var stream jetstream.Stream
	require.True(r.t, eventually(ctx, 30*time.Second, 50*time.Millisecond, func() bool {
		stream, err = js.Stream(ctx, events.StreamPages)
		return err == nil
	}), "%v", err)
	for _, l := range r.lists {
		stored := 0
		ok := eventually(ctx, time.Minute, 20*time.Millisecond, func() bool {
			info, err := stream.Info(ctx, jetstream.WithSubjectFilter(">"))
			if err != nil {
				return false
			}
			stored = 0
			for subject := range info.State.Subjects {
				if strings.Contains(subject, r.keys[l.name]) {
					stored++
				}
			}
			return stored == gate-1 && l.reached(gate)
		})
		require.True(r.t, ok, "%s: %d pages are stored, page %d asked for: %t", l.name, stored, gate, l.reached(gate))
	}
}

// kill ends the process with SIGKILL and waits until the kernel has reaped it.
func (r *resuming) kill(ctx context.Context, p *process) {
	starts := func() int {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.starts
	}
	before := starts()
	p.hit(syscall.SIGKILL, "")
	require.True(r.t, eventually(ctx, 20*time.Second, time.Millisecond, func() bool { return starts() > before }), "%s is not started again", p.name)
}

// files waits until all exports have completed, and returns the hash of each file.
func (r *resuming) files(ctx context.Context) map[string]string {
	hashes := map[string]string{}
	for _, l := range r.lists {
		var d detail
		ok := eventually(ctx, time.Minute, 20*time.Millisecond, func() bool {
			var err error
			d, err = r.detail(ctx, r.keys[l.name])
			return err == nil && d.Status != events.StatusProcessing
		})
		require.True(r.t, ok, "%s does not end", l.name)
		require.Equal(r.t, events.StatusSucceeded, d.Status, "%s: %s", l.name, d.Reason)
		require.EqualValues(r.t, resumeRows, d.Rows, l.name)
		require.Len(r.t, d.Files, 1, l.name)
		hashes[l.name] = d.Files[0].SHA256
	}
	return hashes
}

// again lists the pages that the source answered more than once.
func (l *gatedList) again() (pages []int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for page, n := range l.answered {
		if n > 1 {
			pages = append(pages, page)
		}
	}
	slices.Sort(pages)
	return pages
}

// A process is killed between pages of a list of every style. The next one continues after the pages that are
// stored, and the file has the same bytes as without a kill.
func TestACrawlGoesOnBehindTheStoredPages(t *testing.T) {
	if testing.Short() {
		t.Skip("restarts processes for a minute")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	r := newResuming(t)
	calm := r.start(ctx, "calm")
	r.submitAll(ctx, 1<<30)
	want := r.files(ctx)
	for _, l := range r.lists {
		require.Empty(t, l.again(), "%s, without a kill", l.name)
	}
	calm.shutdown(syscall.SIGTERM)

	t.Run("all pages before are stored", func(t *testing.T) {
		r.t = t
		p := r.start(ctx, "stored")
		gates := []int{2, 6, 10}
		r.submitAll(ctx, gates[0])
		for i := range gates {
			r.kept(ctx, gates[i])
			r.kill(ctx, p)
			next := 1 << 30
			if i+1 < len(gates) {
				next = gates[i+1]
			}
			r.moveAll(next)
		}
		require.Equal(t, want, r.files(ctx))
		for _, l := range r.lists {
			require.Empty(t, l.again(), "%s: no stored page is asked for again", l.name)
		}
	})

	// One page may be about to be stored while the next is asked for; of independent pages conn are under
	// way.
	t.Run("at any moment", func(t *testing.T) {
		r.t = t
		p := r.start(ctx, "moment")
		const gate = 5
		r.submitAll(ctx, gate)
		require.True(t, eventually(ctx, time.Minute, time.Millisecond, func() bool {
			return slices.ContainsFunc(r.lists, func(l *gatedList) bool { return l.reached(gate - 1) })
		}))
		r.kill(ctx, p)
		r.moveAll(1 << 30)
		require.Equal(t, want, r.files(ctx))
		for _, l := range r.lists {
			most := 2
			if !l.Shape.Chained() {
				most = resumeConn
			}
			require.LessOrEqual(t, len(l.again()), most, "%s: pages %v", l.name, l.again())
		}
	})
	require.Empty(t, r.problems, fmt.Sprint(r.problems))
}
