package storage

import (
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

func TestScrubIsKept(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "tasks.db")
	tasks, err := OpenTasks(path, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	none, err := tasks.Scrub()
	require.NoError(t, err)
	require.Zero(t, none)
	want := Scrub{Begun: time.Unix(7, 8).UTC(), After: "k", Done: true}
	require.NoError(t, tasks.SaveScrub(want))
	require.NoError(t, tasks.db.View(func(tx *bbolt.Tx) error {
		require.Nil(t, tx.Bucket(bucketMeta).Get(metaClean), "a crash from now on has the file checked")
		return nil
	}))
	require.NoError(t, tasks.Close())

	tasks, err = OpenTasks(path, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	defer func() { require.NoError(t, tasks.Close()) }()
	got, err := tasks.Scrub()
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.NoError(t, tasks.update(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketMeta).Put(metaScrub, []byte("{"))
	}))
	got, err = tasks.Scrub()
	require.NoError(t, err)
	require.Zero(t, got)
}
