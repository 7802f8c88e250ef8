package journal_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/embedded"
	"sheaf/events/eventstest"
	"sheaf/events/journal"
	"sheaf/events/pages"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

const otherKey = "68b5e20e3da35f7a4040844a63aaac89"

func fresh() events.Export { return events.Export{Tenant: "default", Key: testKey} }

func typesOf(msgs []*jetstream.RawStreamMsg) []string {
	types := make([]string, len(msgs))
	for i, m := range msgs {
		types[i] = strings.Split(m.Subject, ".")[3]
	}
	return types
}

// Many writers on separate connections race different endings of one export: one ending is written, and all
// writers see it.
func TestFenceAdmitsOneEnding(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	const connections, writers, rounds = 3, 4, 12
	handles := make([]*journal.Log, connections)
	for i := range handles {
		handles[i] = eventstest.JournalOn(t, srv, journal.Config{})
	}
	endings := []events.Payload{
		&events.ExportCompleted{Run: 1, Pages: 1, Rows: 1, Files: []events.File{{Name: "a", Store: "b"}}},
		&events.ExportFailed{Code: events.CodeInternal, Reason: "r", Phase: events.PhaseAssembling},
		&events.ExportCancelled{Reason: "r"},
	}
	x, err := handles[0].Append(t.Context(), fresh(), "", always(requested()))
	require.NoError(t, err)
	for round := range rounds {
		x, err = handles[0].Append(t.Context(), x, "",
			always(&events.ExportCrawled{Run: x.RequestedSeq, Pages: 1}))
		require.NoError(t, err)

		var wg sync.WaitGroup
		start := make(chan struct{})
		type outcome struct {
			x   events.Export
			err error
		}
		outcomes := make([]outcome, connections*writers)
		for n := range outcomes {
			wg.Go(func() {
				<-start
				got, err := handles[n%connections].Append(t.Context(), x, "", always(endings[n%len(endings)]))
				outcomes[n] = outcome{got, err}
			})
		}
		close(start)
		wg.Wait()

		won := 0
		final, err := handles[0].Read(t.Context(), "default", testKey)
		require.NoError(t, err)
		for _, o := range outcomes {
			if o.err == nil {
				won++
			} else {
				require.ErrorIs(t, o.err, events.ErrNotAllowed)
			}
			require.Equal(t, final, o.x, "every writer ends up with the one truth")
		}
		require.Equal(t, 1, won, "round %d", round)
		x = final
		if x.State == events.StateCompleted {
			x, err = handles[1].Append(t.Context(), x, "",
				always(&events.ExportExpired{Files: []string{"b"}}))
			require.NoError(t, err)
		}
		x, err = handles[2].Append(t.Context(), x, "", always(requested()))
		require.NoError(t, err)
	}
	require.LessOrEqual(t,
		len(eventstest.Stored(t, handles[0], events.StreamEvents, "sheaf.event.default.*."+testKey)),
		1+4*rounds)
}

// Writers that append one after another lose and duplicate nothing.
func TestFenceOfManyKeysAtOnce(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	a, b := eventstest.JournalOn(t, srv, journal.Config{}), eventstest.JournalOn(t, srv, journal.Config{})
	var wg sync.WaitGroup
	for n := range 20 {
		for _, s := range []*journal.Log{a, b} {
			wg.Go(func() {
				x := events.Export{Tenant: "default", Key: fmt.Sprintf("%032x", n)}
				_, _ = s.Append(t.Context(), x, "", func(x *events.Export) (events.Payload, error) {
					if x.State != events.StateNone {
						return nil, errors.New("there already")
					}
					return requested(), nil
				})
			})
		}
	}
	wg.Wait()
	require.Len(t, eventstest.Stored(t, a, events.StreamEvents, "sheaf.event.>"), 20)
}

// The same key of two tenants is two exports.
func TestFenceKeepsTenantsApart(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	for _, tenant := range []string{"a", "b", "a-b", "_"} {
		x, err := s.Append(t.Context(), events.Export{Tenant: tenant, Key: testKey}, "", always(requested()))
		require.NoError(t, err)
		require.Equal(t, x.ID, x.LastSeq)
	}
	_, err := s.Append(t.Context(), events.Export{Tenant: "b", Key: testKey}, "",
		always(&events.ExportCancelled{}))
	require.NoError(t, err)
	for tenant, want := range map[string]events.State{"a": events.StateRequested, "b": events.StateCancelled,
		"c": events.StateNone} {
		x, err := s.Read(t.Context(), tenant, testKey)
		require.NoError(t, err)
		require.Equal(t, want, x.State)
	}
}

// A tenant or key that is not a plain token could match other exports.
func TestWildcardsNameNoExport(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	_, err := s.Append(t.Context(), fresh(), "", always(requested()))
	require.NoError(t, err)
	for _, id := range [][2]string{{"default", "*"}, {"*", testKey}, {"default", ">"}, {"default", ""},
		{"", testKey}, {"default", testKey + ".x"}, {"default", "a b"}, {"default", testKey + "\r\n"},
		{"Default", testKey}, {"default", strings.ToUpper(testKey)}} {
		_, err := s.Read(t.Context(), id[0], id[1])
		require.Error(t, err, "%q", id)
		require.NotErrorIs(t, err, events.ErrUnavailable)
		_, err = s.Append(t.Context(), events.Export{Tenant: id[0], Key: id[1]}, "", always(requested()))
		require.Error(t, err, "%q", id)
		require.NotErrorIs(t, err, events.ErrUnavailable)
	}
	require.Len(t, eventstest.Stored(t, s, events.StreamEvents, "sheaf.event.>"), 1)
}

const ackOfLog = `{"stream":"SHEAF_EVENTS"`

func TestAppendAfterALostAcknowledgement(t *testing.T) {
	t.Parallel()
	p, behind, direct := eventstest.Proxied(t)
	x, err := behind.Append(t.Context(), fresh(), "", always(requested()))
	require.NoError(t, err)

	decided := 0
	eventstest.LoseOnce(&p.OnReply, ackOfLog, nil)
	x, err = behind.Append(t.Context(), x, "", func(x *events.Export) (events.Payload, error) {
		decided++
		return &events.ExportCrawled{Run: x.RequestedSeq, Pages: 2}, nil
	})
	require.NoError(t, err)
	require.Nil(t, p.OnReply.Load(), "an acknowledgement was lost")
	require.Equal(t, events.StateCrawled, x.State)
	require.Equal(t, 1, decided, "the event was found, decide was not called again")
	require.Equal(t, []string{"requested", "crawled"},
		typesOf(eventstest.Stored(t, direct, events.StreamEvents, "sheaf.event.>")))
}

func TestAppendAfterALostPublish(t *testing.T) {
	t.Parallel()
	p, behind, direct := eventstest.Proxied(t)
	eventstest.LoseOnce(&p.OnRequest, "sheaf.event.default.requested.", nil)
	x, err := behind.Append(t.Context(), fresh(), "", always(requested()))
	require.NoError(t, err)
	require.Nil(t, p.OnRequest.Load(), "a publish was lost")
	require.Equal(t, events.StateRequested, x.State)
	require.Equal(t, []string{"requested"},
		typesOf(eventstest.Stored(t, direct, events.StreamEvents, "sheaf.event.>")))
}

// While the response to a cancellation is lost, another caller sees the cancelled export and requests it
// again. The cancellation was written once and must not be written into the new round.
func TestAppendFindsItsEventBehindANewRound(t *testing.T) {
	t.Parallel()
	p, behind, direct := eventstest.Proxied(t)
	x, err := behind.Append(t.Context(), fresh(), "", always(requested()))
	require.NoError(t, err)
	again := make(chan error, 1)
	eventstest.LoseOnce(&p.OnReply, ackOfLog, func() {
		_, err := direct.Append(t.Context(), x, "", always(requested()))
		again <- err
	})
	x, err = behind.Append(t.Context(), x, "", always(&events.ExportCancelled{}))
	require.NoError(t, err)
	require.NoError(t, <-again)
	require.Equal(t, events.StateRequested, x.State, "the state is that of the new round")
	require.Equal(t, []string{"requested", "cancelled", "requested"},
		typesOf(eventstest.Stored(t, direct, events.StreamEvents, "sheaf.event.>")))
}

func TestAppendGivesUpWithUnavailable(t *testing.T) {
	t.Parallel()
	p, behind, direct := eventstest.Proxied(t)
	var lost atomic.Int64
	f := func(chunk []byte) bool {
		if strings.Contains(string(chunk), "sheaf.event.default.requested.") {
			lost.Add(1)
			return true
		}
		return false
	}
	p.OnRequest.Store(&f)
	_, err := behind.Append(t.Context(), fresh(), "", always(requested()))
	require.ErrorIs(t, err, events.ErrUnavailable)
	require.GreaterOrEqual(t, lost.Load(), int64(3))
	require.Empty(t, eventstest.Stored(t, direct, events.StreamEvents, "sheaf.event.>"))
}

func TestAppendOfACancelledContextWritesAtMostOnce(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	for n := range 30 {
		key := fmt.Sprintf("%032x", n)
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(n)*20*time.Microsecond)
		_, err := s.Append(ctx, events.Export{Tenant: "default", Key: key}, "", always(requested()))
		cancel()
		if err != nil {
			require.ErrorIs(t, err, events.ErrUnavailable)
		}
		x, err := s.Append(t.Context(), events.Export{Tenant: "default", Key: key}, "",
			func(x *events.Export) (events.Payload, error) {
				if x.State == events.StateRequested {
					return nil, errors.New("under way")
				}
				return requested(), nil
			})
		require.Equal(t, events.StateRequested, x.State)
		require.Len(t, eventstest.Stored(t, s, events.StreamEvents, "sheaf.event.default.*."+key),
			1, "err %v", err)
	}
}

// foreign publishes past the fence, as no part of Sheaf does.
func foreign(t *testing.T, s *journal.Log, subject string, h nats.Header, data string) uint64 {
	t.Helper()
	ack, err := s.JetStream().PublishMsg(t.Context(),
		&nats.Msg{Subject: subject, Header: h, Data: []byte(data)})
	require.NoError(t, err)
	return ack.Sequence
}

// An unreadable message advances the sequence of its key, and otherwise counts only if it contains the
// export. The key can start again, through the fence as always.
func TestForeignEventsDoNotBreakAKey(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	n := 0
	export := func(key, state string) string {
		return fmt.Sprintf(`{"run":1,"pages":1,"manifest":"","export":{"tenant":"default","hash_key":"%s","id":1,"state":"%s"}}`, key, state)
	}
	for name, tc := range map[string]struct {
		typ     string
		ceType  string
		ceTime  string
		data    func(key string) string
		state   events.State // none if it is unreadable
		payload bool
	}{
		"unknown type": {"archived", "sheaf.export.archived.v1",
			"2026-01-02T03:04:05Z", func(string) string { return `{}` }, "", false},
		"unknown type with the export": {"archived", "sheaf.export.archived.v1",
			"2026-01-02T03:04:05Z", func(key string) string { return export(key, "failed") },
			"failed", false},
		"newer version": {"crawled", "sheaf.export.crawled.v2", "2026-01-02T03:04:05Z",
			func(string) string { return `{}` }, "", false},
		"no headers": {"crawled", "", "",
			func(string) string { return `{"run":1,"pages":1}` }, "", false},
		"no export": {"crawled", "sheaf.export.crawled.v1", "2026-01-02T03:04:05Z",
			func(string) string { return `{"run":1,"pages":1}` }, "", false},
		"another key's export": {"crawled", "sheaf.export.crawled.v1", "2026-01-02T03:04:05Z",
			func(string) string { return export(otherKey, "crawled") }, "", false},
		"not JSON": {"crawled", "sheaf.export.crawled.v1", "2026-01-02T03:04:05Z",
			func(string) string { return `{` }, "", false},
		"another JSON type": {"crawled", "sheaf.export.crawled.v1", "2026-01-02T03:04:05Z",
			func(string) string { return `[]` }, "", false},
		"no time": {"crawled", "sheaf.export.crawled.v1", "yesterday",
			func(key string) string { return export(key, "crawled") }, "crawled", false},
		"one past the fence, with the export": {"crawled", "sheaf.export.crawled.v1", "2026-01-02T03:04:05Z",
			func(key string) string { return export(key, "crawled") }, "crawled", true},
	} {
		t.Run(name, func(t *testing.T) {
			n++
			x, err := s.Append(t.Context(), events.Export{Tenant: "default", Key: fmt.Sprintf("%032x", n)},
				"c", always(requested()))
			require.NoError(t, err)
			h := nats.Header{"ce-id": {"f"}, "ce-type": {tc.ceType}, "ce-time": {tc.ceTime}}
			last := foreign(t, s, "sheaf.event.default."+tc.typ+"."+x.Key, h, tc.data(x.Key))

			got, err := s.Read(t.Context(), "default", x.Key)
			require.NoError(t, err)
			require.Equal(t, []any{last, "f", tc.state}, []any{got.LastSeq, got.LastID, got.State})

			// Followers of the log receive the same.
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			require.NoError(t, s.Follow(ctx, last, func(batch []events.Event) error {
				require.Equal(t, last, batch[0].Sequence)
				require.Equal(t, tc.payload, batch[0].Payload != nil)
				require.Equal(t, tc.state != "", batch[0].Export != nil)
				cancel()
				return nil
			}))

			// The next event is written after it, by a writer that knows it and by one that does not.
			ended, err := s.Append(t.Context(), x, "", func(x *events.Export) (events.Payload, error) {
				if x.State == events.StateNone || x.State.Terminal() {
					return requested(), nil
				}
				return &events.ExportCancelled{}, nil
			})
			require.NoError(t, err)
			require.Equal(t, last+1, ended.LastSeq)
			again, err := s.Read(t.Context(), "default", x.Key)
			require.NoError(t, err)
			require.Equal(t, again, ended)
		})
	}
}

// A key needs no event but its newest.
func TestLogWithoutItsOldestEvents(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	purge := func(below uint64) {
		st, err := s.JetStream().Stream(t.Context(), events.StreamEvents)
		require.NoError(t, err)
		require.NoError(t, st.Purge(t.Context(), jetstream.WithPurgeSequence(below)))
	}
	x, err := s.Append(t.Context(), fresh(), "", always(requested()))
	require.NoError(t, err)
	x, err = s.Append(t.Context(), x, "", always(&events.ExportCrawled{Run: 1, Pages: 1}))
	require.NoError(t, err)
	x, err = s.Append(t.Context(), x, "",
		always(&events.ExportFailed{Code: events.CodeStore, Reason: "r", Phase: events.PhaseAssembling}))
	require.NoError(t, err)

	purge(3) // only the ending is left
	got, err := s.Read(t.Context(), "default", testKey)
	require.NoError(t, err)
	require.Equal(t, x, got)

	// The key can start again for a caller that knows nothing of it, and has the same id.
	x, err = s.Append(t.Context(), fresh(), "", func(x *events.Export) (events.Payload, error) {
		p := requested()
		p.ExportID, p.CreatedAt = x.ID, x.CreatedAt
		return p, nil
	})
	require.NoError(t, err)
	require.EqualValues(t, []uint64{1, 4}, []uint64{x.ID, x.RequestedSeq})
	require.Equal(t, got.CreatedAt, x.CreatedAt)

	purge(1000) // nothing is left
	got, err = s.Read(t.Context(), "default", testKey)
	require.NoError(t, err)
	require.Equal(t, fresh(), got)
	x, err = s.Append(t.Context(), x, "", always(&events.ExportCancelled{}))
	require.ErrorIs(t, err, events.ErrNotAllowed, "it is gone")
	x, err = s.Append(t.Context(), x, "", always(requested()))
	require.NoError(t, err)
	require.Equal(t, x.LastSeq, x.ID)
	last, err := s.LastSequence(t.Context())
	require.NoError(t, err)
	require.Equal(t, last, x.LastSeq)
}

// A request leaves space in a message for the growth of its export, because later events contain it too.
func TestARequestLeavesRoomForTheEndOfItsExport(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	most := int(s.Conn().MaxPayload())
	size := func(n int) *events.ExportRequested {
		p := requested()
		p.Request.Title = strings.Repeat("x", n)
		return p
	}
	_, err := s.Append(t.Context(), fresh(), "", always(size(most-64<<10)))
	require.ErrorIs(t, err, nats.ErrMaxPayload)
	require.NotErrorIs(t, err, events.ErrUnavailable)
	x, err := s.Append(t.Context(), fresh(), "", always(size(most-66<<10)))
	require.NoError(t, err)
	x, err = s.Append(t.Context(), x, "",
		always(&events.ExportFailed{Code: events.CodeInternal, Reason: strings.Repeat("r", 20<<10)}))
	require.NoError(t, err)
	require.Equal(t, events.StateFailed, x.State)
}

// The server's dedupe is stream-wide: anyone allowed to publish could suppress another's event by using its
// id first.
func TestNoEventCarriesAMessageID(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	_, err := s.Append(t.Context(), fresh(), "", always(requested()))
	require.NoError(t, err)
	_, err = s.Pages().Publish(t.Context(),
		pages.Page{ID: pages.ID{Tenant: "default", Key: testKey, Number: 1}, Rows: []byte(`[]`), Total: -1})
	require.NoError(t, err)
	require.NoError(t, s.SaveHeaders(t.Context(), "default", testKey, nil))
	require.NoError(t, s.ScheduleCallback(t.Context(), "default", testKey, time.Now().Add(time.Hour)))
	require.NoError(t, s.PublishCallback(t.Context(), "sheaf.callback.default.x",
		&events.Export{Tenant: "default", Key: testKey}, "t", nil))
	for stream, n := range map[string]int{events.StreamEvents: 1, events.StreamPages: 1,
		events.StreamPrivate: 2, events.StreamTimers: 1, events.StreamCallbacks: 1} {
		msgs := eventstest.Stored(t, s, stream, ">")
		require.Len(t, msgs, n, stream)
		for _, m := range msgs {
			require.Empty(t, m.Header.Get(nats.MsgIdHdr), stream)
		}
	}
}

func TestLogIsFull(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	s := eventstest.JournalOn(t, srv, journal.Config{MaxEventsBytes: 64 << 10})
	var err error
	n := 0
	for ; n < 1000; n++ {
		p := requested()
		p.Request.Title = strings.Repeat("x", 1000)
		if _, err = s.Append(t.Context(), events.Export{Tenant: "default", Key: fmt.Sprintf("%032x", n)}, "",
			always(p)); err != nil {
			break
		}
	}
	require.ErrorIs(t, err, events.ErrNoSpace)
	require.Greater(t, n, 10)
	_, err = s.Append(t.Context(), events.Export{Tenant: "default", Key: fmt.Sprintf("%032x", 0)}, "",
		always(&events.ExportCancelled{Reason: strings.Repeat("x", 1000)}))
	require.ErrorIs(t, err, events.ErrNoSpace)
	x, err := s.Read(t.Context(), "default", fmt.Sprintf("%032x", 0))
	require.NoError(t, err)
	require.Equal(t, events.StateRequested, x.State)
}

func TestUnavailableServerIsReported(t *testing.T) {
	t.Parallel()
	srv, err := embedded.Start(embedded.Options{Dir: t.TempDir(), MaxStore: 8 << 30, Ephemeral: true})
	require.NoError(t, err)
	defer srv.Stop()
	s := eventstest.JournalOn(t, srv,
		journal.Config{PublishTimeout: 100 * time.Millisecond, PublishAttempts: 2})
	srv.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err = s.Append(ctx, fresh(), "", always(requested()))
	require.ErrorIs(t, err, events.ErrUnavailable)
	_, err = s.Read(ctx, "default", testKey)
	require.ErrorIs(t, err, events.ErrUnavailable)
	_, err = s.LastSequence(ctx)
	require.ErrorIs(t, err, events.ErrUnavailable)
	_, err = s.Headers(ctx, "default", testKey)
	require.ErrorIs(t, err, events.ErrUnavailable)
}

func TestCorrelationOfTheSubmissionIsKept(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	for n, id := range []string{"", "c-1", strings.Repeat("c", 10_000), "中文"} {
		x := events.Export{Tenant: "default", Key: fmt.Sprintf("%032x", n)}
		x, err := s.Append(t.Context(), x, id, always(requested()))
		require.NoError(t, err)
		x, err = s.Append(t.Context(), x, "", always(&events.ExportCancelled{}))
		require.NoError(t, err)
		msgs := eventstest.Stored(t, s, events.StreamEvents, "sheaf.event.*.*."+x.Key)
		require.Len(t, msgs, 2)
		for i, m := range msgs {
			require.Equal(t, x.CorrelationID, m.Header.Get("ce-correlationid"), strconv.Itoa(i))
			require.Len(t, m.Header["ce-id"], 1)
		}
	}
}
