package events

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// LogState is how the log stands, as its leader says.
type LogState struct {
	Created   time.Time // of the stream; names the log for ever
	First     uint64    // sequence of the oldest event; one more than Last in an empty log
	FirstTime time.Time // when that event was stored; zero in an empty log
	Last      uint64    // sequence of the newest event there ever was
	// Trimmed is the sequence below which all was removed on purpose; 0 before
	// the first trimming. Below First, the events from Trimmed to First were
	// lost.
	Trimmed uint64
	Space   Space
	Full    float64 // how much of the log's space is taken, 0 to 1
}

// trimmed is what the stream of private values keeps of the newest trimming.
type trimmed struct {
	Created time.Time `json:"log_created"`
	Below   uint64    `json:"below"`
}

const subjectTrimmed = subjectPrivate + "trimmed"

// LogState returns the present state of the log.
func (s *Streams) LogState(ctx context.Context) (LogState, error) {
	info, err := leaderInfo(ctx, s.events)
	if err != nil {
		return LogState{}, fmt.Errorf("%w: state of %s: %w", ErrUnavailable, StreamEvents, err)
	}
	l := LogState{Created: info.Created, First: info.State.FirstSeq, FirstTime: info.State.FirstTime, Last: info.State.LastSeq}
	if info.State.Msgs == 0 {
		l.First, l.FirstTime = l.Last+1, time.Time{}
	}
	l.Space = Space{Limit: info.Config.MaxBytes, Used: int64(info.State.Bytes)}
	if l.Space.Limit > 0 {
		l.Full = float64(l.Space.Used) / float64(l.Space.Limit)
	}
	noted, _, err := s.trimmed(ctx)
	if err != nil {
		return LogState{}, err
	}
	// The note comes before the removal, and a damaged log may have fallen
	// behind the note: only what both say is so.
	if noted.Created.Equal(l.Created) {
		l.Trimmed = min(noted.Below, l.First)
	}
	return l, nil
}

func (s *Streams) trimmed(ctx context.Context) (note trimmed, seq uint64, err error) {
	m, err := s.private.GetLastMsgForSubject(ctx, subjectTrimmed)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return trimmed{}, 0, nil
	}
	if err != nil {
		return trimmed{}, 0, fmt.Errorf("%w: reading how far the log is trimmed: %w", ErrUnavailable, err)
	}
	if err := json.Unmarshal(m.Data, &note); err != nil {
		return trimmed{}, m.Sequence, nil // as if there was none; the next trimming writes it anew
	}
	return note, m.Sequence, nil
}

// TrimLog removes the events below a sequence from the log that l is a state
// of. The newest event always stays, whatever is asked for: it carries the
// sequence over a restart. That it is done on purpose is noted first, so that
// nobody takes it for a loss; after a crash between the two the trimming has to
// be asked for again. Trimming twice, or less than before, changes nothing.
func (s *Streams) TrimLog(ctx context.Context, l LogState, below uint64) error {
	below = min(below, l.Last)
	if below <= l.First {
		return nil
	}
	for {
		note, seq, err := s.trimmed(ctx)
		if err != nil {
			return err
		}
		if note.Created.Equal(l.Created) && note.Below >= below {
			break
		}
		data, err := json.Marshal(trimmed{Created: l.Created, Below: below})
		if err != nil {
			return fmt.Errorf("trimming the log: %w", err)
		}
		_, err = s.publishFenced(ctx, &nats.Msg{Subject: subjectTrimmed, Data: data}, seq, subjectTrimmed)
		if err == nil {
			break
		}
		if !errors.Is(err, errWrongLastSequence) {
			return fmt.Errorf("trimming the log: %w", err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.PublishTimeout)
	defer cancel()
	defer s.known.forget()
	if err := s.events.Purge(ctx, jetstream.WithPurgeSequence(below)); err != nil {
		return fmt.Errorf("%w: trimming the log below %d: %w", ErrUnavailable, below, err)
	}
	return nil
}
