package node

import (
	"context"
	"time"

	"sheaf/storage"
)

const (
	// snapshotOpenWait bounds the opening of the store of snapshots, and snapshotReadWait the reading of one.
	// A start never depends on either.
	snapshotOpenWait = 10 * time.Second
	snapshotReadWait = 10 * time.Minute
)

// openSnapshots opens the snapshots of the projection, and lets an empty projection begin with the newest.
// The embedded server has the log and the projection on one disk, so it has none.
func (n *node) openSnapshots(ctx context.Context) error {
	if n.tasks == nil || n.cfg.embedded() {
		return nil
	}
	opening, cancel := context.WithTimeout(ctx, snapshotOpenWait)
	defer cancel()
	files, err := storage.OpenSnapshotFiles(opening, n.cfg.Files, n.filesConfig())
	if err != nil {
		n.log.Warn("no snapshots of the projection are read or made until the next start", "error", err)
		return nil
	}
	n.onClose(func() { n.logClose("snapshots", files.Close()) })
	n.snapshots = storage.NewSnapshots(files, n.cfg.Data, n.cfg.Log)
	if n.tasks.Applied() > 0 {
		return nil
	}
	n.startup.say("starting: reading a snapshot of the projection")
	reading, stop := context.WithTimeout(ctx, snapshotReadWait)
	defer stop()
	tasks, err := n.snapshots.Restore(reading, n.tasks, n.journal)
	if err != nil {
		return err
	}
	n.tasks = tasks
	return nil
}
