package node

import (
	"context"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"time"
)

// watchEvery is the interval between two checks of the files.
const watchEvery = 500 * time.Millisecond

// watchedFiles reads files again when they change, so that new keys and certificates need no restart. While a
// file cannot be read, as during a renewal, its earlier content stays valid.
type watchedFiles struct {
	what   string
	names  []string
	read   func() error
	seen   []fs.FileInfo // from before the read, nil for a missing file
	broken bool
}

func (w *watchedFiles) stat() (infos []fs.FileInfo) {
	for _, name := range w.names {
		info, _ := os.Stat(name)
		infos = append(infos, info)
	}
	return infos
}

func (w *watchedFiles) load() error {
	seen := w.stat()
	if err := w.read(); err != nil {
		return err
	}
	w.seen = seen
	return nil
}

// watch reads the files again when they change, until ctx ends. A nil w watches none.
func (w *watchedFiles) watch(ctx context.Context, log *slog.Logger) {
	if w == nil {
		return
	}
	same := func(a, b fs.FileInfo) bool {
		return a == nil && b == nil || a != nil && b != nil && os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
	}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if slices.EqualFunc(w.seen, w.stat(), same) {
			continue
		}
		err := w.load()
		switch {
		case err == nil:
			log.Info(w.what+" read again", "files", w.names)
		case !w.broken:
			log.Error(w.what+" cannot be read; what was read before stays good", "files", w.names, "error", err)
		}
		w.broken = err != nil
	}
}
