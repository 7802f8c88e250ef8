package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/services/crawler/source/sourcetest"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// heldList is a list that leaves one request for a page without an answer.
type heldList struct {
	*sourcetest.List
	at      int           // the page
	reached chan struct{} // closed when it is asked for
	once    sync.Once
}

func (l *heldList) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer := httptest.NewRecorder()
	l.List.ServeHTTP(answer, r)
	asked := l.Requests()
	held := false
	if asked[len(asked)-1].Page == l.at {
		l.once.Do(func() { held = true })
	}
	if held {
		close(l.reached)
		<-r.Context().Done() // until the process is killed
		return
	}
	for name, values := range answer.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(answer.Code)
	_, _ = answer.Body.WriteTo(w)
}

// A process is killed between any two pages of each style of paging. The next one asks for no page that is
// kept, and at most for one page twice. The file has the bytes of a crawl without a kill.
func TestKilledBetweenPages(t *testing.T) {
	if !eventstest.Full {
		t.Skip("starts ten processes; run it with the tag chaos")
	}
	t.Parallel()
	const count, size, pages = 23, 5, 5
	styles := map[string]sourcetest.Quirks{
		"ruoyi": {}, "feathers": {}, "laravel": {TotalNull: true}, "stripe": {}, "graphql-relay": {}, "drf-cursor": {}, "github": {},
	}
	type export struct {
		key  string
		list *heldList
	}
	submit := func(t *testing.T, server, preset string, quirks sourcetest.Quirks, at int) export {
		shape := sourcetest.ShapeOf(preset)
		l := &heldList{List: sourcetest.NewList(t, shape, count, quirks), at: at, reached: make(chan struct{})}
		front := httptest.NewServer(l)
		t.Cleanup(func() {
			front.CloseClientConnections()
			front.Close()
		})
		source := map[string]any{}
		require.NoError(t, json.Unmarshal(shape.SourceHTTP(front.URL+"/api/orders", size), &source))
		source["conn"] = 1
		body, err := json.Marshal(map[string]any{"timestamp": 1625106204, "ext_type": "XLSX", "title": "list", "user_id": "1", "source_http": source})
		require.NoError(t, err)
		var accepted struct {
			HashKey string `json:"hash_key"`
		}
		wireCall(t, http.MethodPost, server+"/v1/export/http", string(body), &accepted)
		return export{accepted.HashKey, l}
	}
	// file waits for an export and returns the hash of its file.
	file := func(t *testing.T, server string, x export) string {
		wireWait(t, server, x.key)
		var d struct {
			Status     int    `json:"status"`
			FailReason string `json:"fail_reason"`
			Files      []struct {
				SHA256 string `json:"sha256"`
				Rows   int    `json:"rows"`
			} `json:"files"`
		}
		wireCall(t, http.MethodGet, server+"/v1/export/detail?key="+x.key, "", &d)
		require.Equal(t, 2, d.Status, d.FailReason)
		require.Equal(t, count, d.Files[0].Rows)
		return d.Files[0].SHA256
	}
	for at := 1; at <= pages; at++ {
		t.Run(fmt.Sprintf("page %d is asked for", at), func(t *testing.T) {
			t.Parallel()
			data := t.TempDir()
			args := []string{"--data", data, "--http", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0"}
			p := startServe(t, args...)
			exports, want := map[string]export{}, ""
			for preset, quirks := range styles {
				exports[preset] = submit(t, p.http, preset, quirks, at)
			}
			for preset, quirks := range styles {
				sum := file(t, p.http, submit(t, p.http, preset, quirks, -1))
				require.True(t, want == "" || want == sum, "the styles have the same rows")
				want = sum
			}
			nc, err := nats.Connect(p.nats)
			require.NoError(t, err)
			defer nc.Close()
			js, err := jetstream.New(nc)
			require.NoError(t, err)
			stream, err := js.Stream(t.Context(), events.StreamPages)
			require.NoError(t, err)
			for preset, x := range exports {
				<-x.list.reached
				require.Eventually(t, func() bool { // the pages before it are kept
					info, err := stream.Info(t.Context(), jetstream.WithSubjectFilter(events.SubjectPage+"default."+x.key+".>"))
					return err == nil && len(info.State.Subjects) == at-1
				}, 20*time.Second, 5*time.Millisecond, preset)
			}
			require.NoError(t, p.cmd.Process.Kill())
			<-p.ended

			p = startServe(t, args...)
			for preset, x := range exports {
				require.Equal(t, want, file(t, p.http, x), preset)
				asked := map[int]int{}
				for _, r := range x.list.Requests() {
					asked[r.Page]++
				}
				for n := 1; n <= pages; n++ {
					require.Equal(t, map[bool]int{true: 2, false: 1}[n == at], asked[n], "%s: page %d of %s", preset, n, strings.TrimSpace(fmt.Sprint(asked)))
				}
			}
		})
	}
}
