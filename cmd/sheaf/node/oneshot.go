package node

import (
	"context"
	"errors"
	"path/filepath"
	"time"
)

// OneShot returns the configuration of a Sheaf that lives as long as one command: in its own folder, on free
// ports of this machine.
func OneShot(data string) Config {
	// A single export has the disk to itself, so the disk is its limit.
	pages := int64(256 << 30)
	if size, _, known := diskSpace(filepath.Dir(data)); known {
		pages = max(min(size, pages), 64<<20)
	}
	return Config{
		HTTP: "127.0.0.1:0", NATSListen: "none", Roles: AllRoles,
		KeyConfig: KeyConfig{Data: data}, Ephemeral: true,
		MaxPagesBytes: ByteSize(pages), MaxHistory: 1000,
		KeepFiles: 24 * time.Hour, KeepPages: 24 * time.Hour, MaxKeepPages: 24 * time.Hour, KeepHistory: 24 * time.Hour,
	}
}

// ErrEnded is the cause of the cancellation of work in Use when its Sheaf has failed.
var ErrEnded = errors.New("the server in this process has ended")

// Use starts a Sheaf, runs work with it, and stops it. The Sheaf outlives ctx until work has returned.
func Use(ctx context.Context, cfg Config, work func(context.Context, Info) error) error {
	own, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	opened, ended := make(chan Info, 1), make(chan error, 1)
	go func() { ended <- Run(own, cfg, func(at Info) { opened <- at }) }()
	var at Info
	select {
	case at = <-opened:
	case err := <-ended:
		return err
	}
	within, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	var result error
	done := make(chan struct{})
	go func() {
		defer close(done)
		result = work(within, at)
	}()
	select {
	case <-done:
		stop()
		return errors.Join(result, <-ended)
	case err := <-ended:
		giveUp(ErrEnded)
		<-done
		return err
	}
}
