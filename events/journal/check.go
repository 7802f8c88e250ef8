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
	"sheaf/events/internal/streams"

	"github.com/nats-io/nats.go/jetstream"
)

// Mark is the last known position of a stream. A process stores the marks outside JetStream and compares the
// streams with them at its next start, because a server with a damaged file starts without an error. One
// flipped bit shortens a stream, and its sequences are assigned a second time (measured, nats-server 2.15.2).
type Mark struct {
	Created time.Time `json:"created"` // of the stream; identifies it forever
	Last    uint64    `json:"last"`    // sequence of the newest message ever
	// of the message at Last; "" if it was already deleted
	Subject string `json:"subject,omitempty"`
	SHA256  string `json:"sha256,omitempty"` // of that message's headers and data
	// by durable consumer: everything up to here is acknowledged
	Floors map[string]uint64 `json:"floors,omitempty"`
}

// Marks are the marks of the streams, by stream name.
type Marks map[string]Mark

// Damage is one contradiction between a stream and its mark.
type Damage struct {
	Stream string
	What   string // one sentence for the operator
	// Harmless means that nothing is lost: a consumer forgot its deliveries, and every handler expects
	// duplicates.
	Harmless bool
}

// Marks returns the current marks, from the leaders. It copies unchanged ones from before, which may be nil,
// to avoid reading the newest messages again.
func (s *Log) Marks(ctx context.Context, before Marks) (Marks, error) {
	marks := Marks{}
	for _, sc := range streamConfigs(s.cfg) {
		st, err := s.js.Stream(ctx, sc.Name)
		if err != nil {
			return nil, fmt.Errorf("%w: state of %s: %w", events.ErrUnavailable, sc.Name, err)
		}
		info := st.CachedInfo()
		if err := streams.ByLeader(info); err != nil {
			return nil, fmt.Errorf("%w: state of %s: %w", events.ErrUnavailable, sc.Name, err)
		}
		old := before[sc.Name]
		m := Mark{Created: info.Created, Last: info.State.LastSeq}
		if old.Last == m.Last && old.Created.Equal(m.Created) {
			m.Subject, m.SHA256 = old.Subject, old.SHA256
		} else if m.Last > 0 {
			if m.Subject, m.SHA256, err = messageAt(ctx, st, m.Last); err != nil {
				return nil, err
			}
		}
		for _, c := range consumerConfigs(s.cfg) {
			if c.stream != sc.Name {
				continue
			}
			cons, err := st.Consumer(ctx, c.config.Durable)
			if err != nil {
				return nil, fmt.Errorf("%w: state of consumer %s: %w", events.ErrUnavailable,
					c.config.Durable, err)
			}
			if m.Floors == nil {
				m.Floors = map[string]uint64{}
			}
			m.Floors[c.config.Durable] = cons.CachedInfo().AckFloor.Stream
		}
		marks[sc.Name] = m
	}
	return marks, nil
}

// MarkAt returns the mark of the log at a sequence: its Last is that sequence, and its Subject and SHA256 are
// empty if the event was deleted.
func (s *Log) MarkAt(ctx context.Context, seq uint64) (Mark, error) {
	log, err := s.LogState(ctx)
	if err != nil {
		return Mark{}, err
	}
	m := Mark{Created: log.Created, Last: seq}
	m.Subject, m.SHA256, err = messageAt(ctx, s.events, seq)
	return m, err
}

// messageAt returns subject and checksum of a message, "" if it does not exist or is unreadable.
func messageAt(ctx context.Context, st jetstream.Stream, seq uint64) (subject, sum string, err error) {
	m, err := st.GetMsg(ctx, seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return "", "", nil
	}
	if err != nil {
		return "", "", fmt.Errorf("%w: reading sequence %d: %w", events.ErrUnavailable, seq, err)
	}
	header, err := json.Marshal(m.Header) // sorts the names
	if err != nil {
		return "", "", fmt.Errorf("reading sequence %d: %w", seq, err)
	}
	h := sha256.New()
	h.Write(header)
	h.Write(m.Data)
	return m.Subject, hex.EncodeToString(h.Sum(nil)), nil
}

// Check compares the streams with marks and returns all contradictions. For a stream without a mark it only
// checks that no consumer is beyond its end. Gaps are normal, because keys are purged. It changes nothing.
//
// Call it after Provision and before this process writes: later writes could hide that a stream ended too
// early. Other processes of a cluster may write meanwhile.
func (s *Log) Check(ctx context.Context, marks Marks) ([]Damage, error) {
	now, err := s.Marks(ctx, nil)
	if err != nil {
		return nil, err
	}
	var found []Damage
	for _, sc := range streamConfigs(s.cfg) {
		is, was := now[sc.Name], marks[sc.Name]
		report := func(format string, args ...any) {
			found = append(found, Damage{Stream: sc.Name, What: fmt.Sprintf(format, args...)})
		}
		if !was.Created.IsZero() && !was.Created.Equal(is.Created) {
			if was.Last > 0 {
				report("the stream was re-created; all messages up to sequence %d are gone", was.Last)
			}
			continue // the rest of the mark is about another stream
		}
		st, err := s.js.Stream(ctx, sc.Name)
		if err != nil {
			return nil, fmt.Errorf("%w: state of %s: %w", events.ErrUnavailable, sc.Name, err)
		}
		if is.Last < was.Last {
			report("the stream ends at sequence %d although %d was acknowledged", is.Last, was.Last)
		} else if was.Subject != "" {
			subject, sum, err := messageAt(ctx, st, was.Last)
			if err != nil {
				return nil, err
			}
			if subject != "" && (subject != was.Subject || sum != was.SHA256) {
				report("the message at sequence %d is not the one that was acknowledged", was.Last)
			}
		}
		for name, floor := range is.Floors {
			cons, err := st.Consumer(ctx, name)
			if err != nil {
				return nil, fmt.Errorf("%w: state of consumer %s: %w", events.ErrUnavailable, name, err)
			}
			given := max(floor, cons.CachedInfo().Delivered.Stream)
			last := is.Last
			if given > last {
				// In a cluster others write meanwhile, so compare with the stream's end after the consumer's
				// state.
				later, err := s.js.Stream(ctx, sc.Name)
				if err != nil {
					return nil, fmt.Errorf("%w: state of %s: %w", events.ErrUnavailable, sc.Name, err)
				}
				last = later.CachedInfo().State.LastSeq
			}
			switch {
			case given > last:
				report("the consumer %s was given sequence %d, the stream ends at %d", name, given, last)
			case floor < was.Floors[name]:
				found = append(found, Damage{Stream: sc.Name, Harmless: true,
					What: fmt.Sprintf("the consumer %s goes back from sequence %d to %d; the messages in between are handled again", name, was.Floors[name], floor)})
			}
		}
	}
	return found, nil
}

// Readable reads the whole log and returns the sequences of all readable events, in order. It finds damage
// that no state shows. A server that stopped in order trusts its index, so a wrong checksum shows only when
// the message is read. The checksum also does not cover the length of a message's headers.
func (s *Log) Readable(ctx context.Context) ([]uint64, error) {
	log, err := s.LogState(ctx)
	if err != nil || log.First > log.Last {
		return nil, err
	}
	first, last := log.First, log.Last
	// Stop at the last readable message: no message would arrive after it.
	for ; last >= first; last-- {
		if _, err := s.events.GetMsg(ctx, last); err == nil {
			break
		} else if !errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil, fmt.Errorf("%w: reading sequence %d: %w", events.ErrUnavailable, last, err)
		}
	}
	if last < first {
		return nil, nil
	}
	cons, err := s.js.OrderedConsumer(ctx, events.StreamEvents, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: first,
	})
	if err != nil {
		return nil, fmt.Errorf("%w: reading the log: %w", events.ErrUnavailable, err)
	}
	iter, err := cons.Messages(jetstream.PullMaxMessages(4 * followBatch))
	if err != nil {
		return nil, fmt.Errorf("%w: reading the log: %w", events.ErrUnavailable, err)
	}
	defer iter.Stop()
	var whole []uint64
	for {
		m, err := iter.Next(jetstream.NextContext(ctx))
		if err != nil {
			return nil, fmt.Errorf("%w: reading the log: %w", events.ErrUnavailable, err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return nil, fmt.Errorf("reading the log: %w", err)
		}
		is := meta.Sequence.Stream
		if m.Headers().Get(events.HeaderID) != "" && json.Valid(m.Data()) {
			whole = append(whole, is)
		}
		if is >= last {
			return whole, nil
		}
	}
}

// Redeliver resets every durable consumer, so that all messages in the streams are handled again. Work that
// is done is recognised as done; work whose result was lost is repeated. Otherwise consumers beyond the end
// of their stream would ignore new messages until the reused sequences reach their position.
func (s *Log) Redeliver(ctx context.Context) error {
	for _, c := range consumerConfigs(s.cfg) {
		err := s.js.DeleteConsumer(ctx, c.stream, c.config.Durable)
		if err == nil || errors.Is(err, jetstream.ErrConsumerNotFound) {
			_, err = s.js.CreateOrUpdateConsumer(ctx, c.stream, c.config)
		}
		if err != nil {
			return fmt.Errorf("%w: resetting consumer %s of %s: %w", events.ErrUnavailable,
				c.config.Durable, c.stream, err)
		}
	}
	s.cfg.Log.Warn("resetting all consumers; finished work is recognised as done")
	return nil
}

// Contradicts returns an error if a stream lost messages between before and m, both taken while the process
// ran.
func (m Marks) Contradicts(before Marks) error {
	for name, old := range before {
		is := m[name]
		switch {
		case !is.Created.Equal(old.Created):
			return fmt.Errorf("stream %s was re-created", name)
		case is.Last < old.Last:
			return fmt.Errorf("stream %s ends at sequence %d although %d was acknowledged", name,
				is.Last, old.Last)
		}
	}
	return nil
}
