package journal

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"sheaf/events"
	"sheaf/events/internal/streams"

	"github.com/nats-io/nats.go/jetstream"
)

// Mark is how far a stream had come when it was last seen. A process keeps the
// marks outside of JetStream and holds the streams against them at its next
// start, because a server with a damaged file starts without a word: one
// flipped bit makes a stream end earlier, and its sequences are given out a
// second time (measured, nats-server 2.15.2).
type Mark struct {
	Created time.Time         `json:"created"`           // of the stream; names it for ever
	Last    uint64            `json:"last"`              // sequence of the newest message there ever was
	Subject string            `json:"subject,omitempty"` // of the message at Last; "" when it was gone already
	SHA256  string            `json:"sha256,omitempty"`  // of that message's headers and data
	Floors  map[string]uint64 `json:"floors,omitempty"`  // of each durable consumer: up to where all is acknowledged
}

// Marks are the marks of the streams, by the name of the stream.
type Marks map[string]Mark

// Damage is one thing about a stream that contradicts its mark.
type Damage struct {
	Stream string
	What   string // a sentence for an operator
	// Harmless is set when nothing is lost: a consumer forgot what it had
	// delivered, and every handler expects repeats.
	Harmless bool
}

// Marks returns the present marks, from the leaders. What is unchanged since
// before is taken over from there, which spares reading the newest messages
// again; before may be nil.
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
				return nil, fmt.Errorf("%w: state of consumer %s: %w", events.ErrUnavailable, c.config.Durable, err)
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

// messageAt returns subject and checksum of a message, "" when it is not there
// or cannot be read.
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

// Check holds the streams against marks and returns what contradicts them. A
// stream without a mark is only checked against itself: no consumer may be beyond
// its stream's end. Gaps are normal: keys are purged. It changes nothing.
//
// It is called after Provision and before this process writes anything: later a
// stream that ended too early has reached its mark again. Other processes of a
// cluster may write meanwhile.
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
				report("the stream was made anew; everything that it held up to sequence %d is gone", was.Last)
			}
			continue // nothing else of the mark is about this stream
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
				// In a cluster others write meanwhile. What counts is where the
				// stream ends after the consumer was asked.
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
					What: fmt.Sprintf("the consumer %s goes back from sequence %d to %d; what lies between is handled again", name, was.Floors[name], floor)})
			}
		}
	}
	return found, nil
}

// Readable reads the log from end to end and returns the sequences of its events, in
// order, without those that cannot be read. It finds what no state tells:
// a server that was stopped in order trusts its index, so a message whose
// checksum is wrong shows only when it is read; and its checksum leaves out the
// length of a message's headers.
func (s *Log) Readable(ctx context.Context) ([]uint64, error) {
	log, err := s.LogState(ctx)
	if err != nil || log.First > log.Last {
		return nil, err
	}
	first, last := log.First, log.Last
	// Reading ends at the last message that can be read: nothing would come
	// after it.
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

// Redeliver makes every durable consumer begin anew, so that all that the
// streams still hold is handled once more. Work that was done is found done;
// work whose result was lost is done again. Consumers that were beyond the end
// of their stream would else wait for ever for sequences that are given out a
// second time.
func (s *Log) Redeliver(ctx context.Context) error {
	for _, c := range consumerConfigs(s.cfg) {
		err := s.js.DeleteConsumer(ctx, c.stream, c.config.Durable)
		if err == nil || errors.Is(err, jetstream.ErrConsumerNotFound) {
			_, err = s.js.CreateOrUpdateConsumer(ctx, c.stream, c.config)
		}
		if err != nil {
			return fmt.Errorf("%w: resetting consumer %s of %s: %w", events.ErrUnavailable, c.config.Durable, c.stream, err)
		}
	}
	slog.Warn("all consumers begin anew; what was done is found done")
	return nil
}

// Contradicts returns an error when a stream lost something between before and
// m, both taken while the process ran.
func (m Marks) Contradicts(before Marks) error {
	for name, old := range before {
		is := m[name]
		switch {
		case !is.Created.Equal(old.Created):
			return fmt.Errorf("stream %s was made anew", name)
		case is.Last < old.Last:
			return fmt.Errorf("stream %s ends at sequence %d although %d was acknowledged", name, is.Last, old.Last)
		}
	}
	return nil
}
