package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"time"

	"sheaf/events"
	"sheaf/events/internal/streams"
	"sheaf/events/pages"
	"sheaf/events/secrets"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// maxAckPending is how many messages of a consumer may be with handlers, or
	// wait for a repeat, in all processes. Each notifier may have 4,000 with
	// receivers that do not answer; a full set would stop all deliveries.
	maxAckPending = 100_000
	// minDedupeWindow is the shortest that the server takes. Dedupe by
	// Nats-Msg-Id is stream-wide, and nothing here relies on it.
	minDedupeWindow = 100 * time.Millisecond
)

// Config bounds the streams.
type Config struct {
	// Shared says that other processes use the streams too, each with settings of
	// its own, and that none may take away what another needs. A limit of a stream
	// that is there is then raised but never lowered, as is the number of copies: so
	// the largest that any process asks for holds, in whatever order they start, and
	// one that was started without a flag forgets nothing that another keeps.
	Shared          bool
	Replicas        int                  // of every stream; default 1
	MaxPagesBytes   int64                // of SHEAF_PAGES; default 4 GiB
	MaxEventsBytes  int64                // of SHEAF_EVENTS; default 2 GiB, some 700,000 exports, 100,000 with large requests
	MaxSubmitBytes  int64                // of SHEAF_SUBMIT; default 1 GiB
	KeepLog         time.Duration        // how long an event is kept; longer than any export or callback takes; 0: for ever
	MaxQueued       int64                // submissions of one subject in SHEAF_SUBMIT; default no limit
	KeepCallbacks   time.Duration        // how long results on SHEAF_CALLBACKS are kept; default 168h
	KeepIdempotency time.Duration        // how long an Idempotency-Key is remembered; default 168h
	SecretKey       []byte               // see secrets.NewKeyring
	NewerKeys       []secrets.KeyVersion // see secrets.NewKeyring
	FilesURL        string               // part of the fingerprint: every process must name the same file store
	FilesMade       bool                 // the file store was made for this start; a server of its own (not Shared) then takes it in place of a lost one
	PublishTimeout  time.Duration        // wait for the acknowledgement of one publish; default 5s
	PublishAttempts int                  // of one event before ErrUnavailable; default 3
	SuspectPause    time.Duration        // see Log.SuspectPause; default 500ms
	AckWait         time.Duration        // how long a crashed process keeps its work from the others; default 10s
	// Callers is the connection for what others than Sheaf send or receive: requests and
	// progress. A flood of them then delays no event. Default: the connection of the log.
	Callers *nats.Conn
}

func (c Config) withDefaults() Config {
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
	return c
}

// MaxBytes is what the streams may take together, of those that have a limit.
// The others hold a few hundred bytes for each export under way.
func (c Config) MaxBytes() int64 {
	total := int64(0)
	for _, sc := range streamConfigs(c.withDefaults()) {
		total += max(sc.MaxBytes, 0)
	}
	return total
}

// Log is a connection to the streams: the one handle through which every part of Sheaf
// writes and reads events. It is safe for concurrent use and holds no goroutines of its own.
type Log struct {
	cfg  Config
	nc   *nats.Conn
	js   jetstream.JetStream
	keys *secrets.Keyring

	events   jetstream.Stream
	pages    jetstream.Stream
	private  jetstream.Stream
	suspects chan struct{}     // holds the one suspect that is at work
	before   map[string]uint64 // last sequence of each stream when this process connected
	commits  commits
	claims   claims

	store        *pages.Store     // on SHEAF_PAGES
	logWriters   *streams.Writers // to SHEAF_EVENTS
	oneQuestion  chan struct{}    // holds the question that the log's leader is asked, see LastSequence
	asking       sync.Mutex       // guards what follows
	nextQuestion *question        // which waits for the one that is asked
}

// Provision creates the streams and consumers, or brings existing ones to
// these settings, and returns the handle on them. It may run in many
// processes at once. It fails when another process of the cluster uses another
// secret key or file store.
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
	s := &Log{cfg: cfg, nc: nc, js: js, keys: keys, suspects: make(chan struct{}, 1), before: map[string]uint64{},
		logWriters: streams.NewWriters(cfg.Shared, streams.TenantEvents), oneQuestion: make(chan struct{}, 1)}
	// A process that does not belong here must not change what it finds.
	s.private, err = provisioned(ctx, nc, func(ctx context.Context) (jetstream.Stream, error) {
		st, err := js.Stream(ctx, events.StreamPrivate)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return nil, nil //nolint:nilnil // it is still to be made
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
	for _, sc := range streamConfigs(cfg) {
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
			s.store = pages.New(js, st, pages.Config{Shared: cfg.Shared, Timeout: cfg.PublishTimeout, Attempts: cfg.PublishAttempts})
		case events.StreamPrivate:
			s.private = st
		}
	}
	for _, c := range consumerConfigs(cfg) {
		_, err := provisioned(ctx, nc, func(ctx context.Context) (jetstream.Consumer, error) { return c.provision(ctx, js) })
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
	// agreeFor is the pause, and as much again by chance, after which a process that
	// has changed a stream of a cluster looks at it again: another that read it at the
	// same moment may have written since, and taken less. agreeLooks bounds the looks.
	agreeFor   = 150 * time.Millisecond
	agreeLooks = 5
	// fullestLog is how full a log may become by a lower limit.
	fullestLog = 0.6
)

// provisionStream makes a stream, or changes it if it is another. What is changed in a
// cluster is looked at again.
func (s *Log) provisionStream(ctx context.Context, want jetstream.StreamConfig) (st jetstream.Stream, err error) {
	for look := 1; ; look++ {
		changed := false
		st, err = provisioned(ctx, s.nc, func(ctx context.Context) (st jetstream.Stream, err error) {
			st, changed, err = provisionStream(ctx, s.js, want, s.cfg.Shared)
			return st, err
		})
		if err != nil || !changed || !s.cfg.Shared || look == agreeLooks {
			return st, err
		}
		streams.Wait(ctx, agreeFor+rand.N(agreeFor))
	}
}

// provisionStream makes a stream, or changes it if it is another. One that is as it
// shall be is not written again: the server keeps a stream's configuration and its
// checksum in two files, and killed between the two it takes the stream for new at
// every start (seen once in a run of 20 kills on an encrypted store, where the same
// configuration never has the same bytes).
func provisionStream(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig, shared bool) (st jetstream.Stream, changed bool, err error) {
	st, err = js.Stream(ctx, want.Name)
	if err == nil {
		if err := streams.ByLeader(st.CachedInfo()); err != nil {
			return nil, false, err // what it holds is not known
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
		if used := st.CachedInfo().State.Bytes; want.Name == events.StreamEvents && want.MaxBytes < is.MaxBytes && float64(used) > fullestLog*float64(want.MaxBytes) {
			slog.Warn("the event log stays larger than is asked for, because of what it holds; a later start makes it smaller",
				"bytes", used, "max_bytes", is.MaxBytes, "asked_for", want.MaxBytes)
			want.MaxBytes = is.MaxBytes
		}
		if want.MaxMsgsPerSubject > 0 && is.MaxMsgsPerSubject <= 0 && st.CachedInfo().State.Msgs > uint64(want.MaxMsgsPerSubject) {
			// The server would delete what is beyond the limit. A later start sets it.
			want.MaxMsgsPerSubject, want.DiscardNewPerSubject = is.MaxMsgsPerSubject, is.DiscardNewPerSubject
		}
		if has(is, want) {
			return st, false, nil
		}
		slog.Info("the settings of a stream are changed", "stream", want.Name,
			"max_bytes", want.MaxBytes, "max_bytes_before", is.MaxBytes, "max_age", want.MaxAge, "max_age_before", is.MaxAge,
			"copies", want.Replicas, "copies_before", is.Replicas)
	}
	st, err = js.CreateOrUpdateStream(ctx, want)
	return st, true, err
}

// looser is the larger of two limits, of which 0 or less is none.
func looser[T int64 | time.Duration](a, b T) T {
	if a <= 0 || b <= 0 {
		return 0
	}
	return max(a, b)
}

// has reports whether is, where the server has put its defaults and its metadata, is
// what want asks for: nothing is missing, and nothing is set that want leaves out.
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

// noLimit is what the server makes of a limit that is 0 or left out.
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

// answerWait is how long one request to JetStream's API may take while it is
// set up. A cluster that has just elected a leader, or makes the same stream for
// several processes at once, leaves requests without an answer (measured with
// three servers and seven processes: each of them waited for nothing). Asked
// again it answers.
const answerWait = 2 * time.Second

// provisioned calls create until it succeeds or refuses three times. Of several
// processes that create the same stream at once the server counts the space of
// each and may refuse them all but one, which then updates for the others. What
// gets no answer is asked again for as long as ctx lasts, unless the server did not
// permit the request.
func provisioned[T any](ctx context.Context, nc *nats.Conn, create func(context.Context) (T, error)) (T, error) {
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

// Conn is the NATS connection of the log, for health.
func (s *Log) Conn() *nats.Conn { return s.nc }

// Callers is the NATS connection for requests and progress, see [Config].
func (s *Log) Callers() *nats.Conn { return s.cfg.Callers }

// JetStream is the JetStream context underneath, for the object store.
func (s *Log) JetStream() jetstream.JetStream { return s.js }

// Pages is the handle on the pages.
func (s *Log) Pages() *pages.Store { return s.store }

// Keys are the keys derived from the secret key.
func (s *Log) Keys() *secrets.Keyring { return s.keys }

// streamConfigs are the streams and their limits.
func streamConfigs(cfg Config) []jetstream.StreamConfig {
	base := func(name, description string, subjects ...string) jetstream.StreamConfig {
		return jetstream.StreamConfig{
			Name: name, Description: description, Subjects: subjects,
			Storage: jetstream.FileStorage, Replicas: cfg.Replicas,
			Duplicates: minDedupeWindow, Discard: jetstream.DiscardNew,
		}
	}

	submit := base(events.StreamSubmit, "submissions of producers, until an ingress has taken them", events.SubmitSubject("*", "*"))
	submit.Retention = jetstream.WorkQueuePolicy
	submit.MaxBytes = cfg.MaxSubmitBytes
	if cfg.MaxQueued > 0 {
		// A producer is refused before anything of its message is written.
		submit.MaxMsgsPerSubject, submit.DiscardNewPerSubject = cfg.MaxQueued, true
	}
	// A producer may publish here and do nothing else.
	submit.DenyDelete, submit.DenyPurge = true, true
	// Nor may one suppress another's submission by a Nats-Msg-Id. The server dedupes by
	// it in every stream for 100 ms at least, but in one that has sources: there a window
	// of 0 means none (nats-server 2.14, pull request 7651). Nothing is ever published on
	// the subject of this source.
	submit.Duplicates = 0
	submit.Sources = []*jetstream.StreamSource{{Name: events.StreamPrivate, FilterSubject: subjectPrivate + "nothing"}}

	log := base(events.StreamEvents, "the log: every fact of every export", events.SubjectEvent+"*.*.*")
	log.MaxBytes = cfg.MaxEventsBytes
	log.MaxAge = cfg.KeepLog
	// Keys are purged; single events are never deleted.
	log.DenyDelete = true
	// No direct gets: the fence needs the leader's word.
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
	timers.AllowRollup = true             // schedules imply it
	timers.Discard = jetstream.DiscardOld // schedules refuse DiscardNew

	private := base(events.StreamPrivate, "sealed source headers and other inner state, last value of each", subjectPrivate+">")
	private.MaxMsgsPerSubject = 1
	private.Discard = jetstream.DiscardOld

	callbacks := base(events.StreamCallbacks, "results of exports whose callback is a NATS subject", events.SubjectCallback+">")
	callbacks.Discard = jetstream.DiscardOld
	callbacks.MaxAge = cfg.KeepCallbacks
	callbacks.MaxBytes = maxResultsBytes
	// At about 1 KiB each, a flood of results on one subject takes a fifth of
	// the space and pushes out its own oldest ones, not those of others.
	callbacks.MaxMsgsPerSubject = 50_000

	idempotency := base(events.StreamIdempotency, "which export the Idempotency-Key of a caller began", subjectIdempotency+"*.*")
	idempotency.MaxMsgsPerSubject = 1
	idempotency.DiscardNewPerSubject = true // the first one counts
	idempotency.MaxAge = cfg.KeepIdempotency
	idempotency.MaxBytes = maxClaimsBytes

	return []jetstream.StreamConfig{private, submit, log, pages, timers, callbacks, idempotency}
}

type consumerConfig struct {
	stream string
	config jetstream.ConsumerConfig
}

// consumerConfigs are the durable consumers. Deliveries are never limited:
// giving up is an event of the log, not a silence of the server.
func consumerConfigs(cfg Config) []consumerConfig {
	durable := func(stream, name string, filters ...string) consumerConfig {
		return consumerConfig{stream, jetstream.ConsumerConfig{
			Durable: name, FilterSubjects: filters,
			AckPolicy: jetstream.AckExplicitPolicy, AckWait: cfg.AckWait,
			MaxDeliver: -1, MaxAckPending: maxAckPending,
			// Each free slot of each process waits with a pull of its own;
			// the server's default admits 512.
			MaxWaiting: 8192,
		}}
	}
	of := func(t events.Type) string { return events.EventSubject("*", t, "*") }
	return []consumerConfig{
		durable(events.StreamSubmit, events.ConsumerSubmissions, events.SubmitSubject("*", "*")),
		durable(events.StreamEvents, events.ConsumerCrawler, of(events.TypeRequested)),
		durable(events.StreamEvents, events.ConsumerAssembler, of(events.TypeCrawled)),
		durable(events.StreamEvents, events.ConsumerNotifier, of(events.TypeCompleted), of(events.TypeFailed), of(events.TypeCancelled)),
		durable(events.StreamTimers, events.ConsumerDueCallback, subjectDue+"callback.*.*"),
	}
}

// provision creates the consumer or brings it to its settings. Some the server
// never changes, such as how many pulls may wait; a consumer that an older Sheaf
// made with others is then made anew. It delivers all that its stream holds once
// more, and every handler finds done what is done.
func (c consumerConfig) provision(ctx context.Context, js jetstream.JetStream) (jetstream.Consumer, error) {
	cons, err := js.CreateOrUpdateConsumer(ctx, c.stream, c.config)
	var api *jetstream.APIError
	if !errors.As(err, &api) || !strings.Contains(api.Description, "can not be updated") {
		return cons, err
	}
	slog.Warn("a consumer is made anew; what was done is found done", "stream", c.stream, "consumer", c.config.Durable, "reason", api.Description)
	if err := js.DeleteConsumer(ctx, c.stream, c.config.Durable); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return nil, err
	}
	return js.CreateOrUpdateConsumer(ctx, c.stream, c.config)
}

// SubmitStreamCreated is when the stream of submissions was created: with a
// sequence it names a submission for ever, also after the stream was lost.
func (s *Log) SubmitStreamCreated(ctx context.Context) (time.Time, error) {
	st, err := s.js.Stream(ctx, events.StreamSubmit)
	if err != nil {
		return time.Time{}, fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	}
	return st.CachedInfo().Created, nil
}

// explain adds what to do to errors of the server that operators meet.
func explain(err error) error {
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return err
	}
	switch {
	case api.ErrorCode == jetstream.JSErrCodeJetStreamNotEnabled || api.ErrorCode == jetstream.JSErrCodeJetStreamNotEnabledForAccount:
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
