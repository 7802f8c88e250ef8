package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"sheaf/events"
	"sheaf/events/embedded"
	"sheaf/events/failpoint"
	"sheaf/events/journal"
	"sheaf/services/ingress"
	"sheaf/storage"
)

const (
	// markEvery is the interval between two watermarks. A crash can lose an event that was acknowledged
	// within the last interval; only the projection can reveal that, if it had applied the event.
	markEvery = time.Second
	// marksName and lossesName are files in --data.
	marksName  = "watermarks.json"
	lossesName = "LOSSES.txt"
)

// checkStreams compares the streams with their last known state. It repairs losses where it can and lists the
// others in LOSSES.txt. The process is not ready until a person moves that file.
//
// It runs after the streams are provisioned and before the roles start.
func (n *node) checkStreams(ctx context.Context) error {
	if n.tasks == nil && n.server == nil {
		return nil // an ingress of the cluster does it
	}
	var err error
	if n.marks, err = storage.OpenWatermarks(filepath.Join(n.cfg.Data, marksName)); err != nil {
		n.log.Warn("a loss before this start may go unnoticed", "error", err)
	}
	known, applied, err := n.known()
	if err != nil {
		return err
	}
	var damage []journal.Damage
	err = n.retryWhileStarting(ctx, "checking the streams", func(ctx context.Context) (err error) {
		damage, err = n.journal.Check(ctx, known)
		return err
	})
	if err != nil {
		return err
	}
	if n.server != nil && !lost(damage, events.StreamEvents) {
		// A cluster has other copies, and its own repair.
		what, err := n.missing(ctx, known[events.StreamEvents], applied)
		if err != nil {
			return err
		}
		if what != "" {
			damage = append(damage, journal.Damage{Stream: events.StreamEvents, What: what})
		}
	}
	err = n.retryWhileStarting(ctx, "repairing the streams", func(context.Context) error {
		return n.mend(ctx, damage, known, applied) // reading a large log takes longer than one attempt may
	})
	if err != nil {
		return err
	}
	var now journal.Marks
	err = n.retryWhileStarting(ctx, "checking the streams", func(ctx context.Context) (err error) {
		now, err = n.journal.Marks(ctx, nil)
		return err
	})
	if err != nil {
		return err
	}
	if err := n.marks.Save(now); err != nil {
		return fmt.Errorf("--data: %w", err)
	}
	return nil
}

// missing describes the unreadable part of a log that looks whole, "" for none. It reads the newest event of
// every export in the projection, because that event holds the whole export. Without a projection it reads
// the last acknowledged event.
func (n *node) missing(ctx context.Context, was journal.Mark, applied uint64) (what string, err error) {
	log, err := n.journal.LogState(ctx)
	if err != nil || applied == 0 && was.Last == 0 {
		return "", err
	}
	readable, err := n.journal.Readable(ctx)
	if err != nil {
		return "", fmt.Errorf("reading the log: %w", err)
	}
	gone := func(sequence uint64) bool {
		_, ok := slices.BinarySearch(readable, sequence)
		return !ok && sequence >= log.First
	}
	if applied == 0 {
		if was.Subject != "" && gone(was.Last) {
			what = fmt.Sprintf("the message at sequence %d cannot be read", was.Last)
		}
		return what, nil
	}
	unreadable := 0
	err = n.tasks.LastSequences(func(_ string, last uint64) error {
		if gone(last) {
			unreadable++
		}
		return nil
	})
	if unreadable > 0 {
		what = fmt.Sprintf("the newest events of %d exports cannot be read", unreadable)
	}
	return what, err
}

// maxLostFiles is the maximum number of lost files named in LOSSES.txt.
const maxLostFiles = 100

// checkFiles reports the finished files that were lost with a missing file store. The ingress finds them too,
// and expires their exports. It runs before checkStreams, which may empty the projection.
func (n *node) checkFiles(ctx context.Context) error {
	if n.files == nil || !n.files.Made() {
		return nil
	}
	if n.tasks != nil {
		finished, gone := 0, []string{}
		err := n.tasks.Each(func(x events.Export) error {
			if x.State != events.StateCompleted || len(x.Files) == 0 || !time.Now().Before(x.ExpiresAt) {
				return nil
			}
			finished++
			file, err := n.files.Open(ctx, x.Files[0].Store)
			switch {
			case err == nil:
				return file.Close()
			case storage.IsLost(err):
				gone = append(gone, x.Key)
			}
			return ctx.Err() // a read error does not prove a loss
		})
		if err != nil {
			return err
		}
		if len(gone) > 0 {
			n.log.Error("the file store had to be made again: finished files are lost", "lost", len(gone), "finished", finished)
			named := strings.Join(gone[:min(len(gone), maxLostFiles)], " ")
			if len(gone) > maxLostFiles {
				named += " ..."
			}
			if err := n.keepReport([]string{fmt.Sprintf("--files: the file store had to be made again, and %d of %d finished files are not in it. "+
				"Their exports expire; a retry or an equal request makes them again. hash_keys: %s", len(gone), finished, named)}); err != nil {
				return err
			}
		}
	}
	if err := n.files.Accept(); err != nil {
		return fmt.Errorf("--files: %w", err)
	}
	return nil
}

// known returns the watermarks, extended by the projection as a second witness of the log. applied is the
// last sequence that the projection has applied, 0 if it belongs to another log than the marks.
func (n *node) known() (marks journal.Marks, applied uint64, err error) {
	marks = journal.Marks{}
	for name, m := range n.marks.Marks() {
		marks[name] = m
	}
	if n.tasks == nil {
		return marks, 0, nil
	}
	created, applied, err := n.tasks.Bound()
	if err != nil || applied == 0 {
		return marks, 0, err
	}
	log, ok := marks[events.StreamEvents]
	if !ok {
		log.Created = created
	}
	if !log.Created.Equal(created) {
		return marks, 0, nil
	}
	if applied > log.Last {
		log.Last, log.Subject, log.SHA256 = applied, "", ""
	}
	marks[events.StreamEvents] = log
	return marks, applied, nil
}

// lost reports whether a stream has lost something.
func lost(damage []journal.Damage, stream string) bool {
	for _, d := range damage {
		if d.Stream == stream && !d.Harmless {
			return true
		}
	}
	return false
}

// mend logs the damage and repairs as much as it can.
func (n *node) mend(ctx context.Context, damage []journal.Damage, known journal.Marks, applied uint64) error {
	var report []string // permanent losses
	any := false
	for _, d := range damage {
		if d.Harmless {
			n.log.Info("JetStream went back", "stream", d.Stream, "what", d.What)
			continue
		}
		any = true
		n.log.Error("JetStream has lost data", "stream", d.Stream, "what", d.What)
		switch d.Stream {
		case events.StreamSubmit:
			report = append(report, d.Stream+": "+d.What+". Submissions that no ingress had taken yet are lost; their producers must send them again.")
		case events.StreamCallbacks:
			report = append(report, d.Stream+": "+d.What+". Results that producers had not read yet are lost; GET /v1/export/detail has them.")
		case events.StreamIdempotency:
			report = append(report, d.Stream+": "+d.What+". A request that is repeated with its Idempotency-Key may begin its export again.")
		}
		// The other streams need no repair: missing pages are fetched again or fail their export, missing
		// headers fail theirs, and due callbacks restart their schedule.
	}
	if !any {
		return nil
	}
	restored := false
	if lost(damage, events.StreamEvents) {
		var lines []string
		var err error
		if lines, restored, err = n.restoreLog(ctx, known[events.StreamEvents], applied); err != nil {
			return err
		}
		report = append(report, lines...)
	}
	failpoint.Hit("losses.restored")
	// Write the report first: if the process dies here, the next start repeats it.
	if err := n.keepReport(report); err != nil {
		return err
	}
	failpoint.Hit("losses.reported")
	if restored {
		// Sequences are reused after a loss, so the projection's applied sequence is meaningless.
		if err := n.tasks.Reset(); err != nil {
			return err
		}
	}
	return n.journal.Redeliver(ctx)
}

// restoreLog writes the projection's exports back to the log. If it has, restored is true and the projection
// must be rebuilt. It returns the remaining losses.
func (n *node) restoreLog(ctx context.Context, was journal.Mark, applied uint64) (remains []string, restored bool, err error) {
	log, err := n.journal.LogState(ctx)
	if err != nil {
		return nil, false, err
	}
	if n.server == nil && !log.Created.Equal(was.Created) {
		// An operator may have replaced the log on purpose, and this folder may be old.
		return []string{events.StreamEvents + ": the cluster's log was re-created, and nothing was written to it. " +
			"Exports that callers have a key of must be requested again."}, false, nil
	}
	written, failed := 0, 0
	if applied > 0 {
		err := n.tasks.Each(func(x events.Export) error {
			if x.Settled() && log.Created.Equal(was.Created) && x.LastSeq < log.First && log.Last >= was.Last {
				return nil // too old for the log
			}
			done, err := n.journal.Restore(ctx, x)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				failed++
				remains = append(remains, fmt.Sprintf("%s: the export %s could not be restored: %v", events.StreamEvents, x.Key, err))
			}
			if done {
				written++
				x.With(n.cfg.Log.With("service", "start")).Warn("export restored to the log", "state", x.State)
			}
			return nil
		})
		if err != nil {
			return nil, false, fmt.Errorf("restoring the log: %w", err)
		}
	}
	if applied < was.Last {
		remains = append(remains, fmt.Sprintf("%s: the projection tasks.db had seen sequence %d of %d, so it is not known which exports the lost events were of. "+
			"Exports that callers have a key of and that are now unknown must be requested again.", events.StreamEvents, applied, was.Last))
	}
	n.log.Warn("the log was restored from the projection", "exports", written, "failed", failed, "known_to_sequence", applied, "acknowledged_to_sequence", was.Last)
	return remains, applied > 0, nil
}

// keepReport writes the losses to LOSSES.txt.
func (n *node) keepReport(report []string) error {
	if len(report) == 0 {
		return nil
	}
	path := filepath.Join(n.cfg.Data, lossesName)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("--data: %w", err)
	}
	_, err = fmt.Fprintf(f, "%s: data was lost before this start.\n  %s\nSheaf works, and /readyz answers 503 until this file is moved away.\n\n",
		time.Now().UTC().Format(time.RFC3339), strings.Join(report, "\n  "))
	if err = errors.Join(err, f.Sync(), f.Close(), embedded.SyncFolder(n.cfg.Data)); err != nil {
		return fmt.Errorf("--data: %w", err)
	}
	n.log.Error("not ready until a person has seen to the losses", "file", path)
	return nil
}

// health returns an error while this process must not receive requests.
func (n *node) health() error {
	if err := n.natsHealth(); err != nil {
		return err
	}
	if err := n.losses(); err != nil {
		return err
	}
	return n.disk.room(0)
}

// losses returns an error while LOSSES.txt waits for a person.
func (n *node) losses() error {
	if n.marks == nil {
		return nil
	}
	if _, err := os.Stat(filepath.Join(n.cfg.Data, lossesName)); err == nil {
		return ingress.NotReady("data was lost; read " + lossesName + " in the data folder and move it away")
	}
	return nil
}

// keepMarks updates the watermarks until ctx ends. It returns an error when a stream has lost something
// meanwhile; the check at the next start repairs it.
func (n *node) keepMarks(ctx context.Context) error {
	if n.marks == nil {
		return nil
	}
	tick := time.NewTicker(markEvery)
	defer tick.Stop()
	complained := false
	for bad := 0; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now, err := n.journal.Marks(ctx, n.marks.Marks())
		if n.natsHealth() != nil {
			// A message whose write failed counts in the stream's state but was never acknowledged. The
			// watchdog ends the process.
			continue
		}
		if err == nil {
			err = now.Contradicts(n.marks.Marks())
		} else if !errors.Is(err, jetstream.ErrStreamNotFound) {
			continue // an outage; the watchdog logs it
		}
		if err != nil {
			// A cluster that changes its leader may report a loss once by mistake.
			if bad++; bad >= 3 {
				return fmt.Errorf("data was lost: %w", err)
			}
			continue
		}
		bad = 0
		err = n.marks.Save(now)
		if err != nil && !complained {
			n.log.Warn("a loss before the next start may go unnoticed", "error", err)
		}
		complained = err != nil
	}
}

// lastMarks updates the watermarks once more after the roles have ended, so that the start after an orderly
// stop checks the very last event.
func (n *node) lastMarks() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	now, err := n.journal.Marks(ctx, n.marks.Marks())
	if err == nil && n.natsHealth() == nil && now.Contradicts(n.marks.Marks()) == nil {
		err = n.marks.Save(now)
	}
	if err != nil {
		n.log.Warn("watermarks not taken", "error", err)
	}
}
