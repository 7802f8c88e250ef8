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

// orphanAge is how long a file may lie in the store without an event that names it. A
// commit and its event are seconds apart unless the streams are away, and then there is
// no search.
const orphanAge = time.Hour

// orphans removes files that no export names.
type orphans struct {
	*parts
	maxAge   time.Duration // of any file that an export may still name
	searched time.Time     // when the last search began that was not cut short
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

// keep reports whether a stored file may be named by an export, now or soon. The
// projection says what is named; that a file is not, the leader must say.
func (o *orphans) keep(ctx context.Context, log journal.LogState, name string) bool {
	if named, err := o.tasks.Names(name); named || err != nil {
		return true
	}
	tenant, rest, _ := strings.Cut(name, "/")
	end := strings.IndexAny(rest, "-/") // older versions gave each export a folder
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

// ancient reports whether a file of an export that the log does not know is older than any
// file may become, and was made by this log. Any other is left alone: after a loss of the
// log the files are all there is.
func (o *orphans) ancient(log journal.LogState, file string) bool {
	id, _, _ := strings.Cut(file, ".")
	made, ok := events.IDTime(id)
	return ok && made.After(log.Created) && made.Add(o.maxAge).Before(o.now())
}
