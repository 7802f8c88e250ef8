//go:build chaos && linux

package chaostest

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/services/crawler/source/sourcetest"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// submitSheets begins one export with a sheet for each list, with closed gates. It returns its
// key.
func (r *resuming) submitSheets(ctx context.Context, gate int) string {
	var sheets []map[string]any
	for i, l := range r.lists {
		l.reset(gate)
		if i > 0 {
			l.reset(1)
		}
		var source map[string]any
		require.NoError(r.t, json.Unmarshal(l.SourceHTTP(resumeSize), &source))
		source["conn"] = 1
		sheets = append(sheets, map[string]any{"title": l.name, "source_http": source})
	}
	body, err := json.Marshal(map[string]any{"timestamp": 1_700_000_000, "ext_type": "XLSX", "title": "sheets", "user_id": "resume",
		"sheets": sheets, "options": map[string]any{"reproducible": true}})
	require.NoError(r.t, err)
	status, a, err := r.insist(ctx, http.MethodPost, "/v1/export/http", body)
	require.NoError(r.t, err)
	require.Equal(r.t, http.StatusOK, status, a.Msg)
	var data struct {
		HashKey string `json:"hash_key"`
	}
	require.NoError(r.t, json.Unmarshal(a.Data, &data))
	return data.HashKey
}

// storedSheets waits until so many pages of an export are stored.
func (r *resuming) storedSheets(ctx context.Context, key string, want int) {
	nc, err := nats.Connect(r.natsURL, nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	require.NoError(r.t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(r.t, err)
	stored := 0
	ok := eventually(ctx, time.Minute, 20*time.Millisecond, func() bool {
		stream, err := js.Stream(ctx, events.StreamPages)
		if err != nil {
			return false
		}
		info, err := stream.Info(ctx, jetstream.WithSubjectFilter(">"))
		if err != nil {
			return false
		}
		stored = 0
		for subject := range info.State.Subjects {
			if strings.Contains(subject, key) {
				stored++
			}
		}
		return stored == want
	})
	require.True(r.t, ok, "%d of %d pages are stored", stored, want)
}

// file waits until an export has completed, and returns the hash of its file.
func (r *resuming) file(ctx context.Context, key string) string {
	var d detail
	ok := eventually(ctx, time.Minute, 20*time.Millisecond, func() bool {
		var err error
		d, err = r.detail(ctx, key)
		return err == nil && d.Status != events.StatusProcessing
	})
	require.True(r.t, ok, "the export does not end")
	require.Equal(r.t, events.StatusSucceeded, d.Status, d.Reason)
	require.EqualValues(r.t, len(r.lists)*resumeRows, d.Rows)
	require.Len(r.t, d.Files, 1)
	return d.Files[0].SHA256
}

// A process is killed in each of three sheets. The next one continues after the pages that are stored, asks
// for none of them again, and the file has the same bytes as without a kill.
func TestSheetsGoOnBehindTheStoredPages(t *testing.T) {
	if testing.Short() {
		t.Skip("restarts processes")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	r := &resuming{world: newWorld(t, 1, nil), keys: map[string]string{}}
	for _, l := range [][2]string{{"page", "laravel"}, {"cursor", "notion"}, {"next URL", "drf-cursor"}} {
		r.lists = append(r.lists, newGatedList(t, l[0], l[1], sourcetest.Quirks{}))
	}
	calm := r.start(ctx, "calm")
	key := r.submitSheets(ctx, 1<<30)
	r.moveAll(1 << 30)
	want := r.file(ctx, key)
	calm.shutdown(syscall.SIGTERM)

	p := r.start(ctx, "killed")
	gates := []int{4, 1, 8} // of the sheets, in order
	key = r.submitSheets(ctx, gates[0])
	const whole = 11 // ten pages, and the columns
	for i, gate := range gates {
		l := r.lists[i]
		l.move(gate)
		r.storedSheets(ctx, key, i*whole+gate-1)
		require.True(t, eventually(ctx, time.Minute, time.Millisecond, func() bool { return l.reached(gate) }))
		r.kill(ctx, p)
		l.move(1 << 30)
	}
	require.Equal(t, want, r.file(ctx, key))
	for _, l := range r.lists {
		require.Empty(t, l.again(), "%s: no stored page is asked for again", l.name)
	}
	require.Empty(t, r.problems)
}
