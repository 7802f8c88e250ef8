package keeper

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"sheaf/events"
	"sheaf/events/journal"
)

// orphanAge is how long a file may exist without an event that names it. A commit and its event are seconds
// apart unless the streams are away, and then no search runs.
const orphanAge = time.Hour

// orphans removes files that no export names.
type orphans struct {
	*parts
	maxAge   time.Duration // of any file that an export may still name
	searched time.Time     // start of the last complete search
}

// remove searches the store once an hour.
func (o *orphans) remove(ctx context.Context) error {
	begun := o.now()
	if begun.Sub(o.searched) < searchEvery {
		return nil
	}
	log, err := o.journal.LogState(ctx)
	if err != nil {
		return err
	}
	removed, err := o.files.Sweep(ctx, func(name string) bool { return o.keep(ctx, log, name) }, begun.Add(-orphanAge))
	if removed > 0 {
		o.metrics.removed.WithLabelValues("orphans").Add(float64(removed))
		o.log.Info("orphaned files removed", "files", removed)
	}
	if err != nil {
		return fmt.Errorf("sweeping files: %w", err)
	}
	o.searched = begun
	return nil
}

// keep reports whether an export names a stored file, or may name it soon. The projection proves that a file
// is named; only the leader can prove that it is not.
func (o *orphans) keep(ctx context.Context, log journal.LogState, name string) bool {
	if named, err := o.tasks.Names(name); named || err != nil {
		return true
	}
	tenant, rest, _ := strings.Cut(name, "/")
	end := strings.IndexAny(rest, "-/") // older versions made a folder for each export
	if end < 0 {
		return true
	}
	key, file := rest[:end], rest[end+1:]
	if !events.ValidTenant(tenant) || !events.ValidKey(key) {
		return true
	}
	x, err := o.journal.Read(ctx, tenant, key)
	switch {
	case err != nil:
		return true
	case x.State == events.StateNone:
		return !o.ancient(log, file)
	case !x.State.Terminal():
		return true
	}
	return x.State == events.StateCompleted && slices.ContainsFunc(x.Files, func(f events.File) bool { return f.Store == name })
}

// ancient reports whether a file of an unknown export was made by this log and is older than any file may
// become. Other files stay: after a loss of the log nothing else is left.
func (o *orphans) ancient(log journal.LogState, file string) bool {
	id, _, _ := strings.Cut(file, ".")
	made, ok := events.IDTime(id)
	return ok && made.After(log.Created) && made.Add(o.maxAge).Before(o.now())
}
