package journal_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/embedded"
	"sheaf/events/eventstest"
	"sheaf/events/journal"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

func configs(t *testing.T, js jetstream.JetStream) map[string]any {
	t.Helper()
	all := map[string]any{}
	streams := js.ListStreams(t.Context())
	for info := range streams.Info() {
		all[info.Config.Name] = info.Config
		st, err := js.Stream(t.Context(), info.Config.Name)
		require.NoError(t, err)
		consumers := st.ListConsumers(t.Context())
		for c := range consumers.Info() {
			all[info.Config.Name+"/"+c.Name] = c.Config
		}
		require.NoError(t, consumers.Err())
	}
	require.NoError(t, streams.Err())
	return all
}

func TestProvisionIsIdempotent(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	s := eventstest.JournalOn(t, srv, journal.Config{})
	before := configs(t, s.JetStream())
	require.Len(t, before, 7+5)
	x, err := s.Append(t.Context(), fresh(), "", always(requested()))
	require.NoError(t, err)
	updates, err := s.Conn().SubscribeSync("$JS.EVENT.ADVISORY.STREAM.UPDATED.>")
	require.NoError(t, err)
	require.NoError(t, s.Conn().Flush())
	again := eventstest.JournalOn(t, srv, journal.Config{MaxSubmitBytes: 3 << 20})
	said, err := updates.NextMsg(5 * time.Second)
	require.NoError(t, err)
	require.Contains(t, said.Subject, events.StreamSubmit,
		"of all streams only the one that changes is written")
	require.NoError(t, again.Conn().Flush())
	eventstest.JournalOn(t, srv, journal.Config{})
	said, err = updates.NextMsg(5 * time.Second)
	require.NoError(t, err)
	require.Contains(t, said.Subject, events.StreamSubmit)
	s = eventstest.JournalOn(t, srv, journal.Config{})
	require.Equal(t, before, configs(t, s.JetStream()))
	got, err := s.Read(t.Context(), "default", testKey)
	require.NoError(t, err)
	require.Equal(t, x, got)
}

// Settings changed by hand, or by an older version, are reverted. That includes settings that must not be
// set: the fence needs a log without direct gets.
func TestProvisionRevertsForeignSettings(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	s := eventstest.JournalOn(t, srv, journal.Config{})
	before := configs(t, s.JetStream())
	for stream, change := range map[string]func(*jetstream.StreamConfig){
		events.StreamEvents: func(c *jetstream.StreamConfig) { c.AllowDirect = true },
		events.StreamPages:  func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour },
		events.StreamPrivate: func(c *jetstream.StreamConfig) {
			c.RePublish = &jetstream.RePublish{Destination: "leak.>"}
		},
		events.StreamTimers: func(c *jetstream.StreamConfig) { c.Subjects = append(c.Subjects, "others") },
		events.StreamSubmit: func(c *jetstream.StreamConfig) {
			c.ConsumerLimits = jetstream.StreamConsumerLimits{InactiveThreshold: time.Hour}
		},
	} {
		config := before[stream].(jetstream.StreamConfig)
		config.Subjects = slices.Clone(config.Subjects)
		change(&config)
		_, err := s.JetStream().UpdateStream(t.Context(), config)
		require.NoError(t, err, stream)
	}
	require.NotEqual(t, before, configs(t, s.JetStream()))
	require.Equal(t, before, configs(t, eventstest.JournalOn(t, srv, journal.Config{}).JetStream()))
}

func TestProvisionInManyProcessesAtOnce(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	conns := make([]*nats.Conn, 8)
	for i := range conns {
		conns[i] = eventstest.Connect(t, srv)
	}
	var wg sync.WaitGroup
	for _, nc := range conns {
		wg.Go(func() {
			if _, err := journal.Provision(t.Context(), nc,
				journal.Config{SecretKey: eventstest.SecretKey, FilesURL: "nats://x"}); err != nil {
				t.Errorf("provisioning: %v", err)
			}
		})
	}
	wg.Wait()
}

func TestProvisionChangesALimit(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	eventstest.JournalOn(t, srv, journal.Config{})
	s := eventstest.JournalOn(t, srv,
		journal.Config{MaxPagesBytes: 1 << 20, MaxEventsBytes: 2 << 20, MaxSubmitBytes: 3 << 20,
			KeepCallbacks: time.Hour, KeepLog: 2 * time.Hour})
	all := configs(t, s.JetStream())
	require.EqualValues(t, 1<<20, all[events.StreamPages].(jetstream.StreamConfig).MaxBytes)
	require.EqualValues(t, 2<<20, all[events.StreamEvents].(jetstream.StreamConfig).MaxBytes)
	require.EqualValues(t, 3<<20, all[events.StreamSubmit].(jetstream.StreamConfig).MaxBytes)
	require.Equal(t, time.Hour, all[events.StreamCallbacks].(jetstream.StreamConfig).MaxAge)
	require.Equal(t, 2*time.Hour, all[events.StreamEvents].(jetstream.StreamConfig).MaxAge)
	s = eventstest.JournalOn(t, srv, journal.Config{})
	require.Zero(t, configs(t, s.JetStream())[events.StreamEvents].(jetstream.StreamConfig).MaxAge,
		"for ever")
}

// Processes of one cluster may be started with different flags. In any order, none removes what another
// needs: a crawler without --keep-history does not delete callers' keys.
func TestProvisionOfASharedStreamOnlyLoosens(t *testing.T) {
	t.Parallel()
	one := journal.Config{Shared: true, MaxPagesBytes: 8 << 20, KeepIdempotency: time.Hour,
		MaxEventsBytes: 1 << 20, KeepLog: 720 * time.Hour}
	two := journal.Config{Shared: true, MaxPagesBytes: 1 << 20, KeepIdempotency: 720 * time.Hour,
		MaxEventsBytes: 2 << 20, KeepLog: time.Hour}
	for name, order := range map[string][]journal.Config{"one, two": {one, two}, "two, one": {two, one},
		"with a restart": {one, two, one}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := eventstest.Server(t, "")
			var s *journal.Log
			for _, cfg := range order {
				s = eventstest.JournalOn(t, srv, cfg)
			}
			all := configs(t, s.JetStream())
			require.EqualValues(t, 8<<20, all[events.StreamPages].(jetstream.StreamConfig).MaxBytes)
			require.EqualValues(t, 2<<20, all[events.StreamEvents].(jetstream.StreamConfig).MaxBytes)
			require.Equal(t, 720*time.Hour, all[events.StreamIdempotency].(jetstream.StreamConfig).MaxAge)
			require.Equal(t, 720*time.Hour, all[events.StreamEvents].(jetstream.StreamConfig).MaxAge)

			// An operator who removed a limit by hand wants none.
			unlimited := all[events.StreamPages].(jetstream.StreamConfig)
			unlimited.MaxBytes = -1
			_, err := s.JetStream().UpdateStream(t.Context(), unlimited)
			require.NoError(t, err)
			s = eventstest.JournalOn(t, srv, one)
			require.EqualValues(t, -1,
				configs(t, s.JetStream())[events.StreamPages].(jetstream.StreamConfig).MaxBytes)

			// Alone on its own server, a process applies its own settings.
			cfg := one
			cfg.Shared = false
			s = eventstest.JournalOn(t, srv, cfg)
			require.Equal(t, time.Hour,
				configs(t, s.JetStream())[events.StreamIdempotency].(jetstream.StreamConfig).MaxAge)
		})
	}
}

// The same holds if they start at once.
func TestProvisionOfASharedStreamAtOnce(t *testing.T) {
	t.Parallel()
	for range 5 {
		srv := eventstest.Server(t, "")
		var wg sync.WaitGroup
		for n := range 4 {
			nc := eventstest.Connect(t, srv)
			wg.Go(func() {
				_, err := journal.Provision(t.Context(), nc, journal.Config{
					SecretKey: eventstest.SecretKey, FilesURL: "nats://x", Shared: true,
					MaxPagesBytes: int64(n+1) << 20, MaxEventsBytes: int64(4-n) << 20,
					KeepIdempotency: time.Duration(n+1) * time.Hour,
				})
				if err != nil {
					t.Errorf("provisioning: %v", err)
				}
			})
		}
		wg.Wait()
		js, err := jetstream.New(eventstest.Connect(t, srv))
		require.NoError(t, err)
		all := configs(t, js)
		require.EqualValues(t, 4<<20, all[events.StreamPages].(jetstream.StreamConfig).MaxBytes)
		require.EqualValues(t, 4<<20, all[events.StreamEvents].(jetstream.StreamConfig).MaxBytes)
		require.Equal(t, 4*time.Hour, all[events.StreamIdempotency].(jetstream.StreamConfig).MaxAge)
	}
}

// A log is not shrunk below its content.
func TestProvisionKeepsALogThatIsFull(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	s := eventstest.JournalOn(t, srv, journal.Config{MaxEventsBytes: 4 << 20})
	limit := func() int64 {
		return configs(t, s.JetStream())[events.StreamEvents].(jetstream.StreamConfig).MaxBytes
	}
	for n := range 40 {
		_, err := s.Append(t.Context(), events.Export{Tenant: "default", Key: fmt.Sprintf("%032x", n)}, "",
			always(&events.SubmissionRejected{Reason: strings.Repeat("x", 10_000)}))
		require.NoError(t, err)
	}
	s = eventstest.JournalOn(t, srv, journal.Config{MaxEventsBytes: 1 << 20})
	require.EqualValues(t, 4<<20, limit(), "it holds 0.8 MiB")
	s = eventstest.JournalOn(t, srv, journal.Config{MaxEventsBytes: 2 << 20})
	require.EqualValues(t, 2<<20, limit())
	st, err := s.JetStream().Stream(t.Context(), events.StreamEvents)
	require.NoError(t, err)
	require.NoError(t, st.Purge(t.Context()))
	s = eventstest.JournalOn(t, srv, journal.Config{MaxEventsBytes: 1 << 20})
	require.EqualValues(t, 1<<20, limit())
}

// An older version may have created a consumer with settings that the server never changes.
func TestProvisionRecreatesAConsumer(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	s := eventstest.JournalOn(t, srv, journal.Config{})
	js := s.JetStream()
	old, err := js.Consumer(t.Context(), events.StreamEvents, events.ConsumerCrawler)
	require.NoError(t, err)
	cfg := old.CachedInfo().Config
	want := cfg.MaxWaiting
	cfg.MaxWaiting = 512
	require.NoError(t, js.DeleteConsumer(t.Context(), events.StreamEvents, events.ConsumerCrawler))
	_, err = js.CreateConsumer(t.Context(), events.StreamEvents, cfg)
	require.NoError(t, err)

	eventstest.JournalOn(t, srv, journal.Config{})
	now, err := js.Consumer(t.Context(), events.StreamEvents, events.ConsumerCrawler)
	require.NoError(t, err)
	require.Equal(t, want, now.CachedInfo().Config.MaxWaiting)
}

// A process with another secret key or file store would give wrong answers, so it does not start, and the
// error says what to do.
func TestProvisionRefusesAnotherInstallation(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	cfg := journal.Config{SecretKey: eventstest.SecretKey, FilesURL: "s3://bucket"}
	s := eventstest.JournalOn(t, srv, cfg)
	eventstest.JournalOn(t, srv, cfg)

	other := cfg
	other.SecretKey = []byte(strings.Repeat("k", 32))
	other.MaxPagesBytes = 64 << 20
	_, err := journal.Provision(t.Context(), eventstest.Connect(t, srv), other)
	require.EqualError(t, err,
		"this process has another secret key than the streams were made with: give every process the same --secret-key")
	st, err := s.JetStream().Stream(t.Context(), events.StreamPages)
	require.NoError(t, err)
	require.EqualValues(t, 4<<30, st.CachedInfo().Config.MaxBytes, "and nothing was changed before")

	other = cfg
	other.FilesURL = "s3://another"
	_, err = journal.Provision(t.Context(), eventstest.Connect(t, srv), other)
	require.ErrorContains(t, err,
		"this process has another file store than the streams were made with: give the same --files as before")

	other.SecretKey = nil
	_, err = journal.Provision(t.Context(), eventstest.Connect(t, srv), other)
	require.ErrorContains(t, err, "at least 32")
}

func TestProvisionReportsMissingFeatures(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	_, err := journal.Provision(t.Context(), eventstest.Connect(t, srv),
		journal.Config{SecretKey: eventstest.SecretKey, MaxPagesBytes: 1 << 50})
	require.ErrorContains(t, err, "--max-pages-bytes")
	_, err = journal.Provision(t.Context(), eventstest.Connect(t, srv),
		journal.Config{SecretKey: eventstest.SecretKey, Replicas: 3})
	require.ErrorContains(t, err, "--replicas")
}

// A producer may publish submissions and do nothing else to them.
func TestSubmissionsCannotBeRemoved(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	submit(t, s, 1)
	st, err := s.JetStream().Stream(t.Context(), events.StreamSubmit)
	require.NoError(t, err)
	require.Error(t, st.Purge(t.Context()))
	require.Error(t, st.DeleteMsg(t.Context(), 1))
	_, err = s.JetStream().PublishMsg(t.Context(),
		&nats.Msg{Subject: events.SubmitSubject("default", "raw"),
			Header: nats.Header{"Nats-Rollup": {"all"}}})
	require.Error(t, err)
	left, _ := queue(t, s)
	require.Equal(t, 1, left)

	created, err := s.SubmitStreamCreated(t.Context())
	require.NoError(t, err)
	require.WithinDuration(t, time.Now(), created, time.Minute)
}

// Two submissions with one Nats-Msg-Id, by two producers or by chance, are both kept, also by a stream of an
// older version and after a restart. No id hides an event.
func TestMessageIDsSuppressNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	start := func() *embedded.Server {
		srv, err := embedded.Start(embedded.Options{Dir: dir, MaxStore: 8 << 30, Ephemeral: true})
		require.NoError(t, err)
		t.Cleanup(srv.Stop)
		return srv
	}
	srv := start()
	older, err := jetstream.New(eventstest.Connect(t, srv))
	require.NoError(t, err)
	_, err = older.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: events.StreamSubmit, Subjects: []string{"sheaf.submit.*.*"},
		Retention: jetstream.WorkQueuePolicy, Duplicates: 100 * time.Millisecond,
	})
	require.NoError(t, err)
	want := uint64(0)
	publish := func(s *journal.Log) {
		t.Helper()
		for range 3 {
			for _, tenant := range []string{"shop", "bank"} {
				ack, err := s.JetStream().PublishMsg(t.Context(),
					&nats.Msg{Subject: events.SubmitSubject(tenant, "raw"),
						Header: nats.Header{"Nats-Msg-Id": {"order-1"}}})
				require.NoError(t, err)
				want++
				require.False(t, ack.Duplicate, tenant)
				require.Equal(t, want, ack.Sequence)
			}
		}
	}
	s := eventstest.JournalOn(t, srv, journal.Config{})
	publish(s)
	srv.Stop()
	srv = start()
	s = eventstest.JournalOn(t, srv, journal.Config{})
	publish(s)
	for stream, c := range configs(t, s.JetStream()) {
		if c, ok := c.(jetstream.StreamConfig); ok {
			require.LessOrEqual(t, c.Duplicates, 100*time.Millisecond, stream)
			require.True(t, c.Duplicates == 0 || stream != events.StreamSubmit, stream)
			require.False(t, c.AllowRollup && stream != events.StreamTimers, stream)
		}
	}
}

func TestLaterScheduleReplacesTheEarlier(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	require.NoError(t, s.ScheduleCallback(t.Context(), "default", testKey, time.Now().Add(time.Hour)))
	require.NoError(t, s.ScheduleCallback(t.Context(), "default", testKey, time.Now().Add(-time.Hour)))
	require.NoError(t, s.ScheduleCallback(t.Context(), "other", testKey, time.Now().Add(time.Hour)))
	require.Eventually(t, func() bool {
		return len(eventstest.Stored(t, s, events.StreamTimers,
			"sheaf.due.>")) > 0
	}, 5*time.Second, 10*time.Millisecond)
	due := eventstest.Stored(t, s, events.StreamTimers, "sheaf.due.>")
	require.Len(t, due, 1)
	tenant, key, err := journal.DueCallback(due[0].Subject)
	require.NoError(t, err)
	require.Equal(t, []string{"default", testKey}, []string{tenant, key})
	_, _, err = journal.DueCallback("sheaf.due.callback.default")
	require.Error(t, err)
}

func TestSubjects(t *testing.T) {
	t.Parallel()
	for subject, ok := range map[string]bool{
		"sheaf.submit.default.http": true, "sheaf.submit.a_b-9.raw": true,
		"sheaf.submit.default": false, "sheaf.submit.default.http.x": false,
		"sheaf.submit.Default.http": false,
		"sheaf.submit.*.http":       false, "sheaf.submit..http": false,
		"sheaf.event.default.http": false, "": false,
		"sheaf.submit." + strings.Repeat("a", 33) + ".http": false,
	} {
		tenant, source, err := events.ParseSubmitSubject(subject)
		require.Equal(t, ok, err == nil, subject)
		if ok {
			require.Equal(t, subject, events.SubmitSubject(tenant, source))
		}
	}
	tenant, operation, err := events.ParseAPISubject(events.APISubject("default", "detail"))
	require.NoError(t, err)
	require.Equal(t, []string{"default", "detail"}, []string{tenant, operation})
	_, _, err = events.ParseAPISubject("sheaf.api.*.detail")
	require.Error(t, err)

	for callback, ok := range map[string]bool{
		"nats:sheaf.callback.default.done": true, "nats:sheaf.callback.default.a.B-_9": true,
		"sheaf.callback.default.done": false, "nats:sheaf.callback.other.done": false,
		"nats:sheaf.callback.default":  false,
		"nats:sheaf.callback.default.": false, "nats:sheaf.callback.default.>": false,
		"nats:sheaf.callback.default.*":    false,
		"nats:sheaf.callback.default.a..b": false, "nats:sheaf.callback.default.a b": false,
		"nats:sheaf.event.default.completed." + testKey:           false,
		"nats:sheaf.callback.default." + strings.Repeat("a", 200): false, "nats:": false, "": false,
		"nats:sheaf.callback.default.a\r\n": false,
	} {
		subject, err := events.CallbackSubject("default", callback)
		require.Equal(t, ok, err == nil, callback)
		if ok {
			require.Equal(t, "nats:"+subject, callback)
		}
	}
}

// A tenant can queue a limited number of submissions. Those queued before the limit, or under a higher one,
// stay.
func TestQueuedSubmissionsAreBounded(t *testing.T) {
	t.Parallel()
	for claim, before := range map[string]int64{"no limit": 0, "a higher limit": 5} {
		t.Run(claim, func(t *testing.T) {
			t.Parallel()
			queuedSubmissionsAreBounded(t, before)
		})
	}
}

func queuedSubmissionsAreBounded(t *testing.T, before int64) {
	srv := eventstest.Server(t, "")
	limited := journal.Config{MaxQueued: 3}
	s := eventstest.JournalOn(t, srv, journal.Config{MaxQueued: before})
	submit := func(subject string) error {
		_, err := s.JetStream().Publish(t.Context(), subject, []byte("{}"))
		return err
	}
	queued := func() uint64 {
		st, err := s.JetStream().Stream(t.Context(), events.StreamSubmit)
		require.NoError(t, err)
		return st.CachedInfo().State.Msgs
	}
	for range 5 {
		require.NoError(t, submit("sheaf.submit.busy.raw"))
	}
	eventstest.JournalOn(t, srv, limited)
	require.EqualValues(t, 5, queued())
	st, err := s.JetStream().Stream(t.Context(), events.StreamSubmit)
	require.NoError(t, err)
	cons, err := st.Consumer(t.Context(), events.ConsumerSubmissions)
	require.NoError(t, err)
	got, err := cons.Fetch(2)
	require.NoError(t, err)
	for m := range got.Messages() {
		require.NoError(t, m.DoubleAck(t.Context()))
	}
	eventstest.JournalOn(t, srv, limited)
	require.EqualValues(t, 3, queued())
	err = submit("sheaf.submit.busy.raw")
	var refused *jetstream.APIError
	require.ErrorAs(t, err, &refused)
	require.Contains(t, refused.Description, "maximum messages per subject exceeded")
	require.NoError(t, submit("sheaf.submit.busy.http"))
	require.NoError(t, submit("sheaf.submit.other.raw"))
}
