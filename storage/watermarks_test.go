package storage

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/journal"

	"github.com/stretchr/testify/require"
)

func TestWatermarksOutliveTheProcess(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "watermarks.json")
	w, err := OpenWatermarks(path)
	require.NoError(t, err)
	require.Nil(t, w.Marks())
	marks := journal.Marks{events.StreamEvents: {Created: time.Unix(7, 8).UTC(), Last: 9, Subject: "s",
		SHA256: "ab", Floors: map[string]uint64{"crawler": 3}}}
	require.NoError(t, w.Save(marks))
	again, err := OpenWatermarks(path)
	require.NoError(t, err)
	require.Equal(t, marks, again.Marks())

	before, err := os.Stat(path)
	require.NoError(t, err)
	require.NoError(t, again.Save(marks))
	after, err := os.Stat(path)
	require.NoError(t, err)
	require.True(t, os.SameFile(before, after), "unchanged marks are not written")

	// A failed Save changes neither the file nor the known marks.
	require.NoError(t, os.Mkdir(path+".new", 0o700))
	newer := journal.Marks{events.StreamEvents: {Last: 10}}
	require.Error(t, again.Save(newer))
	require.Equal(t, marks, again.Marks())
	require.NoError(t, os.Remove(path+".new"))
	require.NoError(t, again.Save(newer))
	entries, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, entries, 1)
}

func TestUnreadableWatermarksAreReported(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "watermarks.json")
	for _, content := range []string{"", "{", `{"SHEAF_EVENTS":7}`, "\x00\x00"} {
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		w, err := OpenWatermarks(path)
		require.ErrorIs(t, err, ErrWatermarks)
		require.Nil(t, w.Marks())
		require.NoError(t, w.Save(journal.Marks{}))
		_, err = OpenWatermarks(path)
		require.NoError(t, err)
	}
}

func TestTasksEachAndReset(t *testing.T) {
	t.Parallel()
	tasks, err := OpenTasks(filepath.Join(t.TempDir(), "tasks.db"), slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	defer func() { require.NoError(t, tasks.Close()) }()
	created, applied, err := tasks.Bound()
	require.NoError(t, err)
	require.True(t, created.IsZero())
	require.Zero(t, applied)

	made := time.Unix(5, 0).UTC()
	require.NoError(t, tasks.Bind(made, 0))
	const n = 2*pageOfExports + 1
	log := logOf{t: t}
	for i := range n {
		log.add("default", keyOf(i), made, request("u", made))
	}
	batch := log.all
	require.NoError(t, tasks.Apply(batch))
	created, applied, err = tasks.Bound()
	require.NoError(t, err)
	require.Equal(t, made, created)
	require.EqualValues(t, n, applied)
	seen := map[string]bool{}
	require.NoError(t, tasks.Each(func(x events.Export) error { seen[x.Key] = true; return nil }))
	require.Len(t, seen, n)
	stop := errors.New("enough")
	require.ErrorIs(t, tasks.Each(func(events.Export) error { return stop }), stop)

	require.NoError(t, tasks.Reset())
	require.Zero(t, tasks.Applied())
	created, _, err = tasks.Bound()
	require.NoError(t, err)
	require.True(t, created.IsZero())
	require.NoError(t, tasks.Each(func(events.Export) error { return stop }))
	require.NoError(t, tasks.Apply(batch), "it can be rebuilt")
	require.EqualValues(t, n, tasks.Applied())
}
