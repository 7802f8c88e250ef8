package keeper

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"

	"github.com/stretchr/testify/require"
)

// The pass over the sizes expires an export whose file is missing, cut or longer. The scrub expires one whose
// file was changed.
func TestLostFileExpiresItsExport(t *testing.T) {
	t.Parallel()
	node := start(t, eventstest.Server(t, ""), Config{})
	sizes, scrub := &node.another().checks, &node.another().checks
	scrub.rate = 0
	for n, kind := range []string{"missing", "shorter", "longer", "flipped"} {
		for m, by := range []*checks{sizes, scrub} {
			x := node.complete(t, testKey(10*n+m), kind, noise(1, 1000), time.Now().Add(time.Hour))
			path := filepath.Join(storeOf(t), x.Files[0].Store)
			eventstest.Damage(t, kind, path)
			if by == scrub {
				by.scrub(t.Context())
			} else {
				by.sizes(t.Context())
			}
			now := node.read(t, x.Tenant, x.Key)
			if kind == "flipped" && by == sizes {
				require.Equal(t, events.StateCompleted, now.State, "its size is right")
				scrub.scrub(t.Context())
				now = node.read(t, x.Tenant, x.Key)
			}
			require.Equal(t, events.StateExpired, now.State, kind)
			require.NoFileExists(t, path)
			if kind == "missing" {
				require.Equal(t, "the finished file is missing from the file store", now.ExpiredReason)
			} else {
				require.Contains(t, now.ExpiredReason, "the finished file is damaged: it")
			}
		}
	}
}

// Several keepers with one store find the same damage and write one event.
func TestLostFileIsDecidedOnce(t *testing.T) {
	t.Parallel()
	srv := eventstest.Server(t, "")
	first, second := start(t, srv, Config{}), start(t, srv, Config{})
	x := first.complete(t, testKey(1), "once", noise(4, 100), time.Now().Add(time.Hour))
	second.caughtUpTo(t)
	require.NoError(t, os.Remove(filepath.Join(storeOf(t), x.Files[0].Store)))
	var finders sync.WaitGroup
	for _, node := range []*node{first, second} {
		finders.Go(func() { node.another().checks.sizes(t.Context()) })
		finders.Go(func() { node.another().checks.scrub(t.Context()) })
	}
	finders.Wait()
	after := first.read(t, x.Tenant, x.Key)
	require.Equal(t, events.StateExpired, after.State)
	require.Equal(t, x.LastSeq+1, after.LastSeq, "one event")
}

// While the store is missing or unreadable, no check expires an export.
func TestAbsentStoreExpiresNothing(t *testing.T) {
	t.Parallel()
	for name, take := range map[string]func(t *testing.T, folder string){
		"removed": func(t *testing.T, folder string) { require.NoError(t, os.RemoveAll(folder)) },
		"empty mount point": func(t *testing.T, folder string) {
			require.NoError(t, os.RemoveAll(folder))
			require.NoError(t, os.Mkdir(folder, 0o700))
		},
		"unreadable folder": func(t *testing.T, folder string) { // refused like a missing permission
			require.NoError(t, os.Rename(filepath.Join(folder, "default"), folder+"-default"))
			require.NoError(t, os.Symlink(folder+"-default", filepath.Join(folder, "default")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			node := start(t, eventstest.Server(t, ""), Config{})
			var exports []events.Export
			for n := range maxUnreadable + 1 {
				exports = append(exports, node.complete(t, testKey(n), "a", noise(5, 100), time.Now().Add(time.Hour)))
			}
			take(t, storeOf(t))
			checks := &node.another().checks
			checks.sizes(t.Context())
			checks.scrub(t.Context())
			for _, x := range exports {
				require.Equal(t, x, node.read(t, x.Tenant, x.Key))
			}
		})
	}
}

// A scrub resumes where the last process stopped, and starts over after a day.
func TestScrubResumesWhereItStopped(t *testing.T) {
	t.Parallel()
	node := start(t, eventstest.Server(t, ""), Config{})
	keys := []string{testKey(1), testKey(2)}
	due := time.Now().Add(time.Hour)
	first := node.complete(t, keys[0], "one", []byte("x"), due)
	node.complete(t, keys[1], "two", noise(7, 1<<20), due)
	c := &node.another().checks
	now := time.Now()
	require.True(t, c.scrubDue(t.Context(), now), "there was none")

	c.scrubSave, c.rate = 0, 1000 // the second file would take 17 minutes
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { c.scrub(ctx); close(ended) }()
	require.Eventually(t, func() bool {
		mark, err := node.tasks.Scrub()
		return err == nil && mark.After == keys[0]
	}, 10*time.Second, time.Millisecond)
	stop()
	<-ended
	require.True(t, c.scrubDue(t.Context(), now), "it was cut short")

	eventstest.Damage(t, "flipped", filepath.Join(storeOf(t), first.Files[0].Store))
	c = &node.another().checks // as after a restart
	c.rate = 0
	c.scrub(t.Context())
	require.Equal(t, events.StateCompleted, node.read(t, "default", keys[0]).State, "it was read before")
	mark, err := node.tasks.Scrub()
	require.NoError(t, err)
	require.True(t, mark.Done)
	require.Equal(t, keys[1], mark.After)
	require.False(t, c.scrubDue(t.Context(), mark.Begun.Add(scrubEvery-time.Second)))
	require.True(t, c.scrubDue(t.Context(), mark.Begun.Add(scrubEvery)))
	require.True(t, c.scrubDue(t.Context(), mark.Begun.Add(-time.Second)), "the clock was put back")

	c.scrub(t.Context())
	require.Equal(t, events.StateExpired, node.read(t, "default", keys[0]).State)
}

// A slow scrub does not delay shutdown.
func TestFileChecksEndAtOnce(t *testing.T) {
	t.Parallel()
	node := start(t, eventstest.Server(t, ""), Config{})
	x := node.complete(t, testKey(1), "slow", noise(6, 1<<20), time.Now().Add(time.Hour))
	c := &node.another().checks
	c.scrubFirst, c.rate = 0, 1 // a week for this file
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { c.run(ctx); close(ended) }()
	cancel()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Fatal("held")
	}
	require.Equal(t, events.StateCompleted, node.read(t, x.Tenant, x.Key).State)
}
