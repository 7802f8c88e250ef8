package journal

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"sheaf/events"
	"sheaf/events/failpoint"
	"sheaf/events/internal/streams"
	"sheaf/events/secrets"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Prefixes of internal subjects.
const (
	subjectTimer       = "sheaf.timer."       // sheaf.timer.callback.<tenant>.<key>: a schedule
	subjectDue         = "sheaf.due."         // sheaf.due.callback.<tenant>.<key>: a schedule that fired
	subjectPrivate     = "sheaf.private."     // sheaf.private.<what>.<tenant>.<key>
	subjectIdempotency = "sheaf.idempotency." // sheaf.idempotency.<tenant>.<HMAC of the caller's key>
)

func privateSubject(what, tenant, key string) string {
	return subjectPrivate + what + "." + tenant + "." + key
}

// SaveHeaders stores the header values of a source, and its secret parameters (see secrets.Param), sealed,
// until the export no longer needs them. Equal requests have equal headers, so a second writer changes
// nothing.
func (s *Log) SaveHeaders(ctx context.Context, tenant, key string, header secrets.Values) error {
	plain, err := json.Marshal(map[string]string(header))
	if err != nil {
		return fmt.Errorf("sealing headers: %w", err)
	}
	sealed, err := s.keys.Seal(tenant, key, plain)
	if err != nil {
		return err
	}
	if err := s.publishPrivate(ctx, privateSubject("headers", tenant, key), sealed); err != nil {
		return err
	}
	return nil
}

// Headers opens the sealed header values of a source. The error is ErrNoHeaders if they were purged.
func (s *Log) Headers(ctx context.Context, tenant, key string) (secrets.Values, error) {
	m, err := s.private.GetLastMsgForSubject(ctx, privateSubject("headers", tenant, key))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, events.ErrNoHeaders
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	}
	plain, err := s.keys.Open(tenant, key, m.Data)
	if err != nil {
		return nil, err
	}
	var header secrets.Values
	if err := json.Unmarshal(plain, &header); err != nil {
		return nil, events.ErrSealed
	}
	return header, nil
}

// leftByExports lists the kinds of data that an export leaves on SHEAF_PRIVATE.
var leftByExports = []string{"headers", "starts"}

// starts counts starts of work on an export without progress.
type starts struct {
	Mark  string `json:"mark"`
	Count int    `json:"count"`
}

// Starts returns how often work on an export started at mark, a text that identifies its progress.
func (s *Log) Starts(ctx context.Context, tenant, key, mark string) (int, error) {
	var st starts
	m, err := s.private.GetLastMsgForSubject(ctx, privateSubject("starts", tenant, key))
	switch {
	case err == nil:
		_ = json.Unmarshal(m.Data, &st) // unreadable counts as none
	case !errors.Is(err, jetstream.ErrMsgNotFound):
		return 0, fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	}
	if st.Mark != mark {
		return 0, nil
	}
	return st.Count, nil
}

// CountStart records a start of work on an export at mark, and returns the number of starts there, including
// this one. It is written before the work, so that a start that kills the process is counted.
func (s *Log) CountStart(ctx context.Context, tenant, key, mark string) (int, error) {
	count, err := s.Starts(ctx, tenant, key, mark)
	if err != nil {
		return 0, err
	}
	count++
	data, err := json.Marshal(starts{Mark: mark, Count: count})
	if err != nil {
		return 0, fmt.Errorf("counting starts: %w", err)
	}
	if err := s.publishPrivate(ctx, privateSubject("starts", tenant, key), data); err != nil {
		return 0, err
	}
	failpoint.Hit("starts.after")
	return count, nil
}

// UncountStart reverts the CountStart at mark that returned count: the work pauses, or was handed back in
// order, and is not responsible for a later crash. With ErrTakenOver another process has started since, and
// nothing changes.
func (s *Log) UncountStart(ctx context.Context, tenant, key, mark string, count int) error {
	latest, err := s.Starts(ctx, tenant, key, mark)
	if err != nil {
		return err
	}
	if latest != count {
		return ErrTakenOver
	}
	data, err := json.Marshal(starts{Mark: mark, Count: max(count-1, 0)})
	if err != nil {
		return fmt.Errorf("counting starts: %w", err)
	}
	return s.publishPrivate(ctx, privateSubject("starts", tenant, key), data)
}

func (s *Log) publishPrivate(ctx context.Context, subject string, data []byte) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.PublishTimeout)
	defer cancel()
	if _, err := s.js.Publish(ctx, subject, data); err != nil {
		return streams.PublishError(err)
	}
	return nil
}

// fingerprint holds the settings that all processes of a cluster must share.
type fingerprint struct {
	SecretKey string `json:"secret_key"`
	Files     string `json:"files"`
}

// checkFingerprint compares this process with the first one that ever used these streams. Two secret keys
// would give one request two keys, and links that half of the ingresses refuse. Two file stores would hide
// finished files.
func (s *Log) checkFingerprint(ctx context.Context) error {
	const subject = subjectPrivate + "fingerprint"
	files := sha256.Sum256([]byte(s.cfg.FilesURL))
	mine := fingerprint{SecretKey: s.keys.Fingerprint(), Files: hex.EncodeToString(files[:8])}
	data, err := json.Marshal(mine)
	if err != nil {
		return fmt.Errorf("fingerprint: %w", err)
	}
	var m *jetstream.RawStreamMsg
	for attempt := uint64(1); ; attempt++ {
		_, err = s.publishFenced(ctx, &nats.Msg{Subject: subject, Data: data}, 0, subject)
		if err == nil {
			return nil
		}
		if !errors.Is(err, streams.ErrWrongLastSequence) {
			return fmt.Errorf("fingerprint: %w", err)
		}
		m, err = s.private.GetLastMsgForSubject(ctx, subject)
		if err == nil {
			break
		}
		// A cluster refuses a write while another process's write is in flight and not yet readable.
		if !errors.Is(err, jetstream.ErrMsgNotFound) || attempt >= uint64(s.cfg.PublishAttempts) {
			return fmt.Errorf("fingerprint: %w: %w", events.ErrUnavailable, err)
		}
		streams.Wait(ctx, streams.Backoff(attempt))
	}
	var theirs fingerprint
	if err := json.Unmarshal(m.Data, &theirs); err != nil {
		return fmt.Errorf("fingerprint: %w", err)
	}
	if theirs.SecretKey != mine.SecretKey {
		return errors.New("this process has another secret key than the streams were made with: give every process the same --secret-key")
	}
	const another = "this process has another file store than the streams were made with: "
	switch {
	case theirs.Files == mine.Files:
		return nil
	case s.cfg.Shared && s.cfg.FilesMade:
		return errors.New(another +
			"the folder had no .sheaf-store; give every process the same --files, mount that folder or restore it; " +
			"to start without its files, stop every process and run: nats stream purge " +
			events.StreamPrivate + " --subject " + subject)
	case s.cfg.Shared:
		return errors.New(another + "give every process the same --files")
	case !s.cfg.FilesMade:
		return errors.New(another +
			"give the same --files as before; to take this folder as it is, remove .sheaf-store from it")
	}
	if _, err := s.publishFenced(ctx, &nats.Msg{Subject: subject, Data: data}, m.Sequence,
		subject); err != nil {
		return fmt.Errorf("fingerprint: %w", err)
	}
	s.cfg.Log.Warn("the file store is gone; a new one was created in its place")
	return nil
}

// ScheduleCallback makes ConsumerDueCallback deliver the key at a time. A later schedule of the same key
// replaces it. The server fires on whole seconds and may be early by less than one (measured).
func (s *Log) ScheduleCallback(ctx context.Context, tenant, key string, at time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.PublishTimeout)
	defer cancel()
	_, err := s.js.Publish(ctx, subjectTimer+"callback."+tenant+"."+key, nil,
		jetstream.WithScheduleAt(at), jetstream.WithScheduleTarget(subjectDue+"callback."+tenant+"."+key))
	if err != nil {
		return streams.PublishError(err)
	}
	return nil
}

// DueCallback returns the export of a fired schedule.
func DueCallback(subject string) (tenant, key string, err error) {
	t, err := events.SplitSubject(subject, subjectDue+"callback.", 2)
	if err != nil {
		return "", "", err
	}
	return t[0], t[1], nil
}
