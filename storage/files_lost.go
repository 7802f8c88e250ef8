package storage

import (
	"context"
	"errors"
	"log/slog"

	"sheaf/events"
	"sheaf/events/journal"
)

// SizeOnly makes [OpenFinished] compare only a file's size.
const SizeOnly = 0

// OpenFinished opens the file of a completed export. A file that is missing or has another size is lost, see
// [IsLost]. A file of at most readUpTo bytes is also read and verified first.
func OpenFinished(ctx context.Context, files Files, x *events.Export, readUpTo int64) (*CheckedFile, error) {
	entry := x.Files[0]
	file, err := OpenChecked(ctx, files, entry.Store, entry.Size, entry.SHA256)
	if err != nil || entry.Size > readUpTo {
		return file, err
	}
	if err := file.Verify(ctx, 0); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// LostReason describes to a caller why a file is lost.
func LostReason(err error) string {
	var damaged *DamagedError
	if errors.As(err, &damaged) {
		return "the finished file is damaged: " + damaged.What
	}
	return "the finished file is missing from the file store"
}

// errExpired aborts an Append: the export is no longer completed.
var errExpired = errors.New("expired by another")

// ExpireLost expires an export whose file is lost, and deletes the rest of the file. If several processes
// notice the loss, the first reason is kept.
func ExpireLost(ctx context.Context, streams *journal.Log, files Files, log *slog.Logger, x *events.Export,
	lost error) error {
	after, err := streams.Append(ctx, *x, "", func(now *events.Export) (events.Payload, error) {
		if now.State != events.StateCompleted || now.TerminalSeq != x.TerminalSeq {
			return nil, errExpired
		}
		return events.Expired(now, LostReason(lost)), nil
	})
	if errors.Is(err, errExpired) || errors.Is(err, events.ErrNotAllowed) {
		return nil
	}
	if err != nil {
		return err
	}
	LogLost(log, &after)
	DeleteFinished(ctx, files, log, &after)
	return nil
}

// LogLost logs that an export expired because its file is lost.
func LogLost(log *slog.Logger, x *events.Export) {
	x.With(log).Error("a finished file is lost; its export has expired", "reason",
		x.ExpiredReason)
}

// DeleteFinished deletes the files of an expired export.
func DeleteFinished(ctx context.Context, files Files, log *slog.Logger, x *events.Export) {
	for _, f := range x.Files {
		if err := files.Delete(ctx, f.Store); err != nil {
			x.With(log).Warn("expired file not deleted; the search for orphans will find it", "file", f.Store,
				"error", err)
		}
	}
}
