package journal

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sheaf/events"
	"sheaf/events/internal/streams"
	"sheaf/events/pages"
	"sheaf/events/secrets"
	"sheaf/events/tracing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// maxAckPending is how many messages of a consumer may be in handlers or waiting for redelivery, in all
	// processes. Each notifier may have 4,000 for receivers that do not respond; reaching the limit would
	// stop all deliveries.
	maxAckPending = 100_000
	// minDedupeWindow is the server's minimum. Dedupe by Nats-Msg-Id is stream-wide, and Sheaf does not rely
	// on it.
	minDedupeWindow = 100 * time.Millisecond
	// keepLeases is how long the record of a crawler remains that has ended; well above its expiry.
	keepLeases = time.Minute
)

// Config bounds the streams.
type Config struct {
	// Shared says that other processes with their own settings use the streams too. Existing limits and
	// replica counts are then raised but never lowered, so the largest setting of all processes wins, in any
	// start order. A process started without a flag therefore deletes nothing that another one needs.
	Shared        bool
	Replicas      int   // of every stream; default 1
	MaxPagesBytes int64 // of SHEAF_PAGES; default 4 GiB
	// MaxEventsBytes is the limit of SHEAF_EVENTS; default 2 GiB, about 700,000 exports, or 100,000 with
	// large requests.
	MaxEventsBytes int64
	MaxSubmitBytes int64 // of SHEAF_SUBMIT; default 1 GiB
	// KeepLog is how long an event is kept, longer than any export or callback takes; 0: forever.
	KeepLog         time.Duration
	MaxQueued       int64                // submissions queued per subject in SHEAF_SUBMIT; default unlimited
	KeepCallbacks   time.Duration        // retention of results on SHEAF_CALLBACKS; default 168h
	KeepIdempotency time.Duration        // retention of Idempotency-Keys; default 168h
	SecretKey       []byte               // see secrets.NewKeyring
	NewerKeys       []secrets.KeyVersion // see secrets.NewKeyring
	// FilesURL is part of the fingerprint: every process must use the same file store.
	FilesURL string
	// FilesMade says that this start created the file store. Without Shared it then replaces a lost one.
	FilesMade       bool
	PublishTimeout  time.Duration // for the acknowledgement of one publish; default 5s
	PublishAttempts int           // per event, before ErrUnavailable; default 3
	SuspectPause    time.Duration // see Log.SuspectPause; default 500ms
	AckWait         time.Duration // redelivery delay after a crash; default 10s
	// Callers is the connection for messages from and to other programs: requests and progress. A flood of
	// them then does not delay events. Default: the connection of the log.
	Callers *nats.Conn
	// Appended is called after each event that this process has written with Append, once. ev.Export is the
	// export after the event. It must return at once. Default: nothing is called.
	Appended func(ev events.Event)
	// Tracer makes the spans of all services. Default: none are made.
	Tracer *tracing.Tracer
	// Log gets lines about streams, consumers and messages, with service "journal". Default: nothing is logged.
	Log *slog.Logger
}

func (c Config) withDefaults() Config {
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler)).With("service", "journal")
	if c.Replicas == 0 {
		c.Replicas = 1
	}
	if c.MaxPagesBytes == 0 {
		c.MaxPagesBytes = 4 << 30
	}
	if c.MaxEventsBytes == 0 {
		c.MaxEventsBytes = 2 << 30
	}
	if c.MaxSubmitBytes == 0 {
		c.MaxSubmitBytes = 1 << 30
	}
	if c.KeepIdempotency == 0 {
		c.KeepIdempotency = 168 * time.Hour
	}
	if c.KeepCallbacks == 0 {
		c.KeepCallbacks = 168 * time.Hour
	}
	if c.PublishTimeout == 0 {
		c.PublishTimeout = 5 * time.Second
	}
	if c.PublishAttempts == 0 {
		c.PublishAttempts = 3
	}
	if c.SuspectPause == 0 {
		c.SuspectPause = 500 * time.Millisecond
	}
	if c.AckWait == 0 {
		c.AckWait = 10 * time.Second
	}
	if c.Appended == nil {
		c.Appended = func(events.Event) {}
	}
	return c
}

// MaxBytes returns the total limit of the streams that have one. The others hold a few hundred bytes for each
// export in progress.
func (c Config) MaxBytes() int64 {
	total := int64(0)
	for _, sc := range streamConfigs(c.withDefaults()) {
		total += max(sc.MaxBytes, 0)
	}
	return total
}

// Log is a connection to the streams. All parts of Sheaf write and read events through it. It is safe for
// concurrent use and runs no goroutines in the background.
type Log struct {
	cfg  Config
	nc   *nats.Conn
	js   jetstream.JetStream
	keys *secrets.Keyring

	events   jetstream.Stream
	pages    jetstream.Stream
	private  jetstream.Stream
	suspects chan struct{}     // holds the one suspect in work
	before   map[string]uint64 // last sequence of each stream at connect time
	commits  commits
	own      ownEvents
	claims   claims
	again    map[string]*atomic.Uint64 // redeliveries to this process, by consumer

	store        *pages.Store  // on SHEAF_PAGES
	oneQuestion  chan struct{} // holds the current question to the log's leader, see LastSequence
	asking       sync.Mutex    // guards nextQuestion
	nextQuestion *question     // waits for the current one
}

// Provision creates the streams and consumers, or updates existing ones, and returns the handle on them. Many
// processes may call it concurrently. It fails if another process of the cluster uses another secret key or
// file store.
func Provision(ctx context.Context, nc *nats.Conn, cfg Config) (*Log, error) {
	cfg = cfg.withDefaults()
	if cfg.Callers == nil {
		cfg.Callers = nc
	}
	keys, err := secrets.NewKeyring(cfg.SecretKey, cfg.NewerKeys...)
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("jetstream: %w", err)
	}
	s := &Log{cfg: cfg, nc: nc, js: js, keys: keys, suspects: make(chan struct{}, 1),
		before:      map[string]uint64{},
		again:       map[string]*atomic.Uint64{},
		oneQuestion: make(chan struct{}, 1)}
	// A process of another installation must not change anything.
	s.private, err = provisioned(ctx, nc, func(ctx context.Context) (jetstream.Stream, error) {
		st, err := js.Stream(ctx, events.StreamPrivate)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return nil, nil // it does not exist yet
		}
		return st, err
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("stream %s: %w", events.StreamPrivate, explain(err))
	case s.private != nil:
		if err := s.checkFingerprint(ctx); err != nil {
			return nil, err
		}
	}
	for _, sc := range append(streamConfigs(cfg), memoryStreams(cfg)...) {
		st, err := s.provisionStream(ctx, sc)
		if err != nil {
			return nil, fmt.Errorf("stream %s: %w", sc.Name, explain(err))
		}
		s.before[sc.Name] = st.CachedInfo().State.LastSeq
		switch sc.Name {
		case events.StreamEvents:
			s.events = st
		case events.StreamPages:
			s.pages = st
			s.store = pages.New(js, st,
				pages.Config{Shared: cfg.Shared, Timeout: cfg.PublishTimeout, Attempts: cfg.PublishAttempts})
		case events.StreamPrivate:
			s.private = st
		}
	}
	for _, c := range consumerConfigs(cfg) {
		s.again[c.config.Durable] = new(atomic.Uint64)
		_, err := provisioned(ctx, nc, func(ctx context.Context) (jetstream.Consumer, error) {
			return c.provision(ctx, js, cfg.Log)
		})
		if err != nil {
			return nil, fmt.Errorf("consumer %s of %s: %w", c.config.Durable, c.stream, explain(err))
		}
	}
	if err := s.checkFingerprint(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

const (
	// agreeFor is the pause, plus up to as much jitter, after which a process that changed a cluster's stream
	// checks it again: another one that read it at the same time may have lowered a limit since. agreeLooks
	// bounds the checks.
	agreeFor   = 150 * time.Millisecond
	agreeLooks = 5
	// fullestLog is how full a lower limit may make the log.
	fullestLog = 0.6
)

// provisionStream creates or updates a stream. On a cluster it checks its changes again.
func (s *Log) provisionStream(ctx context.Context,
	want jetstream.StreamConfig) (st jetstream.Stream, err error) {
	for look := 1; ; look++ {
		changed := false
		st, err = provisioned(ctx, s.nc, func(ctx context.Context) (st jetstream.Stream, err error) {
			st, changed, err = provisionStream(ctx, s.js, want, s.cfg.Shared, s.cfg.Log)
			return st, err
		})
		if err != nil || !changed || !s.cfg.Shared || look == agreeLooks {
			return st, err
		}
		streams.Wait(ctx, agreeFor+rand.N(agreeFor))
	}
}

// provisionStream creates or updates a stream. It does not write an unchanged configuration: the server
// stores a stream's configuration and its checksum in two files. If it is killed between the two writes, it
// treats the stream as new at every start (seen once in 20 kills with an encrypted store, where equal
// configurations differ in bytes).
func provisionStream(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig,
	shared bool, log *slog.Logger) (st jetstream.Stream, changed bool, err error) {
	st, err = js.Stream(ctx, want.Name)
	if err == nil {
		if err := streams.ByLeader(st.CachedInfo()); err != nil {
			return nil, false, err // its size is unknown
		}
	}
	if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, false, err
	}
	if err == nil {
		is := st.CachedInfo().Config
		if shared {
			want.Replicas = max(want.Replicas, is.Replicas)
			want.MaxBytes = looser(want.MaxBytes, is.MaxBytes)
			want.MaxAge = looser(want.MaxAge, is.MaxAge)
		}
		if used := st.CachedInfo().State.Bytes; want.Name == events.StreamEvents &&
			want.MaxBytes < is.MaxBytes && float64(used) > fullestLog*float64(want.MaxBytes) {
			log.Warn("the event log stays larger than configured, because it holds more; a later start will shrink it",
				"bytes", used, "max_bytes", is.MaxBytes, "asked_for", want.MaxBytes)
			want.MaxBytes = is.MaxBytes
		}
		if want.MaxMsgsPerSubject > 0 &&
			(is.MaxMsgsPerSubject <= 0 || is.MaxMsgsPerSubject > want.MaxMsgsPerSubject) &&
			st.CachedInfo().State.Msgs > uint64(want.MaxMsgsPerSubject) {
			// The server would delete submissions beyond the limit. A later start sets it.
			want.MaxMsgsPerSubject, want.DiscardNewPerSubject = is.MaxMsgsPerSubject, is.DiscardNewPerSubject
		}
		if has(is, want) {
			return st, false, nil
		}
		log.Info("changing the settings of a stream", "stream", want.Name,
			"max_bytes", want.MaxBytes, "max_bytes_before", is.MaxBytes, "max_age", want.MaxAge,
			"max_age_before", is.MaxAge,
			"copies", want.Replicas, "copies_before", is.Replicas)
	}
	st, err = js.CreateOrUpdateStream(ctx, want)
	return st, true, err
}

// looser returns the larger of two limits, where 0 or less means unlimited.
func looser[T int64 | time.Duration](a, b T) T {
	if a <= 0 || b <= 0 {
		return 0
	}
	return max(a, b)
}

// has reports whether is, with the server's defaults and metadata, matches want: nothing is missing, and
// nothing is set that want omits.
func has(is, want jetstream.StreamConfig) bool {
	fields := func(c jetstream.StreamConfig) (m map[string]any) {
		if b, err := json.Marshal(c); err != nil || json.Unmarshal(b, &m) != nil {
			return nil
		}
		return m
	}
	there, asked := fields(is), fields(want)
	delete(there, "metadata")
	return there != nil && covers(there, asked)
}

// noLimit is how the server stores a limit of 0 or an omitted one.
const noLimit = -1.0

func covers(is, want any) bool {
	switch want := want.(type) {
	case map[string]any:
		is, ok := is.(map[string]any)
		for name, value := range want {
			ok = ok && covers(is[name], value)
		}
		for name, value := range is {
			_, asked := want[name]
			ok = ok && (asked || value == noLimit || reflect.DeepEqual(value, map[string]any{}))
		}
		return ok
	case float64:
		return is == want || want == 0 && is == noLimit
	}
	return reflect.DeepEqual(is, want)
}

// answerWait is the timeout of one request to JetStream's API during set-up. A cluster that has just elected
// a leader, or creates one stream for several processes at once, drops requests (measured with three servers
// and seven processes: each lost one request). A repeated request succeeds.
const answerWait = 2 * time.Second

// provisioned calls create until it succeeds or is refused three times. If several processes create the same
// stream at once, the server reserves space for each and may refuse all but one; the others then update its
// stream. Requests without a response are repeated as long as ctx lasts, unless the server denied permission.
func provisioned[T any](ctx context.Context, nc *nats.Conn,
	create func(context.Context) (T, error)) (T, error) {
	for refused := uint64(0); ; {
		asked, cancel := context.WithTimeout(ctx, answerWait)
		made, err := create(asked)
		unanswered := asked.Err() != nil
		cancel()
		if err == nil || ctx.Err() != nil {
			return made, err
		}
		var api *jetstream.APIError
		switch {
		case unanswered && errors.Is(nc.LastError(), nats.ErrPermissionViolation):
			return made, nc.LastError()
		case errors.As(err, &api):
			if refused++; refused == 3 {
				return made, err
			}
			streams.Wait(ctx, streams.Backoff(refused))
		case errors.Is(err, streams.ErrNoLeader):
			streams.Wait(ctx, streams.Backoff(1))
		case !unanswered:
			return made, err
		}
	}
}

// Conn returns the NATS connection of the log, for health checks.
func (s *Log) Conn() *nats.Conn { return s.nc }

// Embedded reports whether this process is the only one on the log, with a server of its own. Such a server never
// loses the count of a delivery while the process lives, so [Delivery.Fresh] is certain.
func (s *Log) Embedded() bool { return !s.cfg.Shared }

// Callers returns the NATS connection for requests and progress, see [Config].
func (s *Log) Callers() *nats.Conn { return s.cfg.Callers }

// Leases returns the connection for the exchange of leases, nil if no other process uses the streams.
func (s *Log) Leases() *nats.Conn {
	if !s.cfg.Shared {
		return nil
	}
	return s.nc
}

// JetStream returns the JetStream context, for the object store.
func (s *Log) JetStream() jetstream.JetStream { return s.js }

// Pages returns the handle on the pages.
func (s *Log) Pages() *pages.Store { return s.store }

// Tracer returns the tracer of the process, nil if it makes no spans.
func (s *Log) Tracer() *tracing.Tracer { return s.cfg.Tracer }

// Keys returns the keys derived from the secret key.
func (s *Log) Keys() *secrets.Keyring { return s.keys }

// streamConfigs returns the streams and their limits.
func streamConfigs(cfg Config) []jetstream.StreamConfig {
	base := func(name, description string, subjects ...string) jetstream.StreamConfig {
		return jetstream.StreamConfig{
			Name: name, Description: description, Subjects: subjects,
			Storage: jetstream.FileStorage, Replicas: cfg.Replicas,
			Duplicates: minDedupeWindow, Discard: jetstream.DiscardNew,
		}
	}

	submit := base(events.StreamSubmit, "submissions of producers, until an ingress has taken them",
		events.SubmitSubject("*", "*"))
	submit.Retention = jetstream.WorkQueuePolicy
	submit.MaxBytes = cfg.MaxSubmitBytes
	if cfg.MaxQueued > 0 {
		// The server refuses a message before it writes any of it.
		submit.MaxMsgsPerSubject, submit.DiscardNewPerSubject = cfg.MaxQueued, true
	}
	// A producer can only publish here.
	submit.DenyDelete, submit.DenyPurge = true, true
	// No producer may suppress another's submission by a Nats-Msg-Id. The server dedupes by it in every
	// stream for at least 100 ms, except in a stream with sources: there a window of 0 disables it
	// (nats-server 2.14, pull request 7651). Nothing is ever published on the subject of this source.
	submit.Duplicates = 0
	submit.Sources = []*jetstream.StreamSource{{Name: events.StreamPrivate,
		FilterSubject: subjectPrivate + "nothing"}}

	log := base(events.StreamEvents, "the log: every fact of every export", events.SubjectEvent+"*.*.*")
	log.MaxBytes = cfg.MaxEventsBytes
	log.MaxAge = cfg.KeepLog
	// Keys are purged; single events are never deleted.
	log.DenyDelete = true
	// No direct gets: the fence needs the leader's answers.
	log.AllowDirect = false
	log.AllowAtomicPublish = true // see commits

	pages := base(events.StreamPages, "pages of rows, each written once", events.SubjectPage+"*.*.*.*.*")
	pages.MaxBytes = cfg.MaxPagesBytes
	pages.MaxMsgsPerSubject = 1
	pages.DiscardNewPerSubject = true
	pages.AllowDirect = true
	pages.AllowAtomicPublish = true

	timers := base(events.StreamTimers, "when to try callbacks again", subjectTimer+">", subjectDue+">")
	timers.Retention = jetstream.WorkQueuePolicy
	timers.AllowMsgSchedules = true
	timers.AllowRollup = true             // required by schedules
	timers.Discard = jetstream.DiscardOld // schedules do not allow DiscardNew

	private := base(events.StreamPrivate, "sealed source headers and other inner state, last value of each",
		subjectPrivate+">")
	private.MaxMsgsPerSubject = 1
	private.Discard = jetstream.DiscardOld

	callbacks := base(events.StreamCallbacks, "results of exports whose callback is a NATS subject",
		events.SubjectCallback+">")
	callbacks.Discard = jetstream.DiscardOld
	callbacks.MaxAge = cfg.KeepCallbacks
	callbacks.MaxBytes = maxResultsBytes
	// At about 1 KiB each, a flood of results on one subject uses a fifth of the space and displaces only its
	// own oldest ones.
	callbacks.MaxMsgsPerSubject = 50_000

	idempotency := base(events.StreamIdempotency, "which export the Idempotency-Key of a caller began",
		subjectIdempotency+"*.*")
	idempotency.MaxMsgsPerSubject = 1
	idempotency.DiscardNewPerSubject = true // the first one wins
	idempotency.MaxAge = cfg.KeepIdempotency
	idempotency.MaxBytes = maxClaimsBytes

	return []jetstream.StreamConfig{private, submit, log, pages, timers, callbacks, idempotency}
}

// leasesConfig returns the stream of leases. It is in memory and nothing that must last, so it is not among
// those that are checked.
func leasesConfig(cfg Config) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: events.StreamLeases, Description: "what each crawler wants and holds of limits",
		Subjects: []string{events.SubjectLease + "*"}, Storage: jetstream.MemoryStorage, Replicas: cfg.Replicas,
		MaxMsgsPerSubject: 1, MaxAge: keepLeases, Duplicates: minDedupeWindow,
		RePublish: &jetstream.RePublish{
			Source: events.SubjectLease + "*", Destination: events.SubjectLeased + "{{wildcard(1)}}"},
	}
}

type consumerConfig struct {
	stream string
	config jetstream.ConsumerConfig
}

// consumerConfigs returns the durable consumers. Deliveries are unlimited: giving up is an event of the log,
// not a silent decision of the server.
func consumerConfigs(cfg Config) []consumerConfig {
	durable := func(stream, name string, filters ...string) consumerConfig {
		return consumerConfig{stream, jetstream.ConsumerConfig{
			Durable: name, FilterSubjects: filters,
			AckPolicy: jetstream.AckExplicitPolicy, AckWait: cfg.AckWait,
			MaxDeliver: -1, MaxAckPending: maxAckPending,
			// Each process waits with a pull per level, at most ten; the server's default allows 512.
			MaxWaiting: 8192,
		}}
	}
	// The server answers a pull without a group with an error, so processes before priorities get nothing here.
	prioritized := func(c consumerConfig) consumerConfig {
		c.config.PriorityPolicy = jetstream.PriorityPolicyPrioritized
		c.config.PriorityGroups = []string{priorityGroup}
		return c
	}
	of := func(t events.Type) string { return events.EventSubject("*", t, "*") }
	all := []consumerConfig{
		durable(events.StreamSubmit, events.ConsumerSubmissions, events.SubmitSubject("*", "*")),
		prioritized(durable(events.StreamEvents, events.ConsumerCrawler, of(events.TypeRequested))),
		prioritized(durable(events.StreamEvents, events.ConsumerAssembler, of(events.TypeCrawled))),
		durable(events.StreamEvents, events.ConsumerNotifier, of(events.TypeCompleted), of(events.TypeFailed),
			of(events.TypeCancelled), of(events.TypeCallbackRequested)),
		durable(events.StreamTimers, events.ConsumerDueCallback, subjectDue+"callback.*.*"),
	}
	if cfg.Shared {
		all = append(all, prioritized(durable(events.StreamWork, events.ConsumerSpans)))
	}
	return all
}

// provision creates or updates the consumer. The server cannot change some settings, such as the number of
// waiting pulls; a consumer of an older Sheaf with other settings is then re-created. It redelivers
// everything in its stream, and the handlers recognise work that is done.
func (c consumerConfig) provision(ctx context.Context, js jetstream.JetStream,
	log *slog.Logger) (jetstream.Consumer, error) {
	cons, err := js.CreateOrUpdateConsumer(ctx, c.stream, c.config)
	var api *jetstream.APIError
	if !errors.As(err, &api) || !strings.Contains(api.Description, "can not be updated") {
		return cons, err
	}
	log.Warn("re-creating a consumer; finished work is recognised as done", "stream", c.stream, "consumer",
		c.config.Durable, "reason", api.Description)
	if err := js.DeleteConsumer(ctx, c.stream, c.config.Durable); err != nil &&
		!errors.Is(err, jetstream.ErrConsumerNotFound) {
		return nil, err
	}
	return js.CreateOrUpdateConsumer(ctx, c.stream, c.config)
}

// SubmitStreamCreated returns when the stream of submissions was created. Together with a sequence it
// identifies a submission forever, even if the stream is lost.
func (s *Log) SubmitStreamCreated(ctx context.Context) (time.Time, error) {
	st, err := s.js.Stream(ctx, events.StreamSubmit)
	if err != nil {
		return time.Time{}, fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	}
	return st.CachedInfo().Created, nil
}

// explain adds advice to server errors that operators may meet.
func explain(err error) error {
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return err
	}
	switch {
	case api.ErrorCode == jetstream.JSErrCodeJetStreamNotEnabled ||
		api.ErrorCode == jetstream.JSErrCodeJetStreamNotEnabledForAccount:
		return fmt.Errorf("%w: enable JetStream on the server and for this account", err)
	case api.ErrorCode == 10047 || api.ErrorCode == 10023: // insufficient storage or resources
		return fmt.Errorf("%w: the server cannot reserve that much; lower --max-pages-bytes or raise max_file_store", err)
	case api.ErrorCode == 10005 || api.ErrorCode == 10074: // no suitable peers; not clustered
		return fmt.Errorf("%w: fewer servers than --replicas", err)
	case api.ErrorCode == 10008: // system temporarily unavailable
		return fmt.Errorf("%w: the servers' cluster has no leader; most of them must run, and all of them until they first met", err)
	}
	return err
}
