package events_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"sheaf/events"
	"sheaf/events/eventstest"
)

// reads counts the messages of the log that s asks its leader for. What others ask is
// heard too, and at any time: theirs are not behind the marker of s.
func reads(t *testing.T, s *events.Streams) func() int {
	t.Helper()
	heard, marker := make(chan *nats.Msg, 100), nats.NewInbox()
	for _, subject := range []string{"$JS.API.STREAM.MSG.GET." + events.StreamEvents, marker} {
		sub, err := s.Conn().ChanSubscribe(subject, heard)
		require.NoError(t, err)
		t.Cleanup(func() { _ = sub.Unsubscribe() })
	}
	require.NoError(t, s.Conn().Flush())
	_, err := s.Read(t.Context(), "default", strings.Repeat("0", 32))
	require.NoError(t, err)
	inbox := func(m *nats.Msg) string { return m.Reply[:strings.LastIndexByte(m.Reply, '.')] }
	own := inbox(<-heard)
	return func() int {
		require.NoError(t, s.Conn().Publish(marker, nil)) // comes behind what was asked before
		for n := 0; ; {
			switch m := <-heard; {
			case m.Subject == marker:
				return n
			case inbox(m) == own:
				n++
			}
		}
	}
}

// An export whose state was read is read again with one question, for its newest
// event, however many it has; and never is the answer another than that of somebody
// who reads all.
func TestReadAsksForWhatIsNew(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	writer, reader := eventstest.StreamsOn(t, srv, events.Config{}), eventstest.StreamsOn(t, srv, events.Config{})
	asked := reads(t, reader)
	read := func(want int) events.Export {
		t.Helper()
		x, err := reader.Read(t.Context(), "default", testKey)
		require.NoError(t, err)
		require.Equal(t, want, asked())
		fresh, err := eventstest.StreamsOn(t, srv, events.Config{}).Read(t.Context(), "default", testKey)
		require.NoError(t, err)
		asked()
		require.Equal(t, fresh, x)
		return x
	}
	write := func(known events.Export, p events.Payload) events.Export {
		t.Helper()
		x, err := writer.Append(t.Context(), known, "", func(*events.Export) (events.Payload, error) { return p, nil })
		require.NoError(t, err)
		return x
	}
	request := &events.ExportRequested{CreatedAt: time.Now().UTC(), Request: events.Request{
		ExtType: "XLSX", SourceType: events.SourceHTTP, Callback: "http://127.0.0.1/", HTTP: &events.HTTPRequest{URL: "http://127.0.0.1/", Method: "GET", Limit: 1, Conn: 1},
	}}
	require.Equal(t, events.StateNone, read(1).State)
	x := write(events.Export{Tenant: "default", Key: testKey}, request)
	read(1)
	read(1)
	x = write(x, &events.ExportCrawled{Run: x.RequestedSeq, Pages: 1})
	read(1)
	x = write(x, &events.ExportFailed{Code: events.CodeStore, Reason: "a", Phase: events.PhaseAssembling})
	x = write(x, &events.CallbackAttempted{Terminal: x.TerminalSeq, Attempt: 1, Reason: "b"})
	read(4) // two are new, so all of the round is read
	x = write(x, &events.CallbackAttempted{Terminal: x.TerminalSeq, Attempt: 2, Reason: "c"})
	read(1)
	x = write(x, &events.CallbackDelivered{Terminal: x.TerminalSeq, Attempt: 3, Status: 200})
	read(1)
	read(6) // all was done, and could have been trimmed
	x = write(x, request)
	require.Equal(t, events.StateRequested, read(1).State)

	// An event that came by no fence names none before it.
	_, err := writer.JetStream().PublishMsg(t.Context(), &nats.Msg{Subject: events.EventSubject("default", events.TypeCancelled, testKey), Data: []byte(`{}`)})
	require.NoError(t, err)
	require.Equal(t, x.State, read(8).State) // so all that the log has of the key is read
}

// Callers who ask for the newest sequence at once share questions, and none is
// given an answer to a question that was put before it asked.
func TestLastSequenceIsAskedForTogether(t *testing.T) {
	t.Parallel()
	s := eventstest.Streams(t)
	var questions atomic.Int64
	sub, err := s.Conn().Subscribe("$JS.API.STREAM.INFO."+events.StreamEvents, func(*nats.Msg) { questions.Add(1) })
	require.NoError(t, err)
	defer func() { _ = sub.Unsubscribe() }()
	const callers, each = 16, 50
	failed := make(chan error, callers)
	for n := range callers {
		go func() {
			failed <- func() error {
				x := events.Export{Tenant: "default", Key: fmt.Sprintf("%032x", n)}
				for range each {
					var err error
					if x, err = s.Append(t.Context(), x, "", func(x *events.Export) (events.Payload, error) {
						if x.State == events.StateRequested {
							return &events.ExportCancelled{}, nil
						}
						return &events.ExportRequested{CreatedAt: time.Now().UTC(), Request: events.Request{ExtType: "XLSX", SourceType: events.SourceRaw, Raw: &events.RawRows{Pages: 1}}}, nil
					}); err != nil {
						return err
					}
					last, err := s.LastSequence(t.Context())
					if err != nil {
						return err
					}
					if last < x.LastSeq {
						t.Errorf("the newest sequence is said to be %d after %d was acknowledged", last, x.LastSeq)
					}
				}
				return nil
			}()
		}()
	}
	for range callers {
		require.NoError(t, <-failed)
	}
	t.Logf("%d questions for %d callers", questions.Load(), callers*each)
	require.Less(t, questions.Load(), int64(callers*each/2))
}
