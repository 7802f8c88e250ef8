package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// dataFolder checks the owner, the mode, the space and the syncs of --data.
func (d *doctor) dataFolder() {
	const check = "data-folder"
	folder := d.cfg.Data
	info, err := os.Stat(folder)
	if errors.Is(err, fs.ErrNotExist) {
		d.ok(check, "%s does not exist; the first start makes it", folder)
		return
	}
	if err != nil || !info.IsDir() {
		d.fail(check, "give another --data", "%s cannot be used as a folder: %v", folder, err)
		return
	}
	if owner, known := ownerOf(info); known && owner != os.Getuid() {
		d.warn(check, "run the doctor as the user that runs Sheaf, or chown the folder", "%s belongs to user %d, this is user %d", folder, owner, os.Getuid())
	}
	if info.Mode().Perm()&0o077 != 0 {
		d.warn(check, "chmod 700 "+folder, "other users can look into %s (mode %v)", folder, info.Mode().Perm())
	}
	if size, free, known := diskSpace(folder); known {
		reserve := reserveOf(size)
		report := func(format string, args ...any) { d.ok("disk", format, args...) }
		switch {
		case free < reserve:
			report = func(format string, args ...any) { d.fail("disk", "make room, or use a larger disk", format, args...) }
		case free < 2*reserve:
			report = func(format string, args ...any) { d.warn("disk", "make room soon", format, args...) }
		}
		report("%s free of %s; %s are kept free", ByteSize(free), ByteSize(size), ByteSize(reserve))
	}
	took, err := timeOfSync(folder)
	switch kind := networkOrMemory(folder); {
	case err != nil:
		d.fail(check, "let the user of Sheaf write there", "%s cannot be written: %v", folder, err)
	case kind != "":
		d.warn(check, "use a local disk: what was acknowledged may be lost", "%s is on %s", folder, kind)
	case took < syncTooFast:
		d.warn(check, "check that the file system and the disk write before they confirm", "a sync takes %v, faster than a disk: acknowledged events may be lost at a power failure", took)
	default:
		d.ok(check, "%s; a sync takes %v", folder, took.Round(time.Microsecond))
	}
}

// timeOfSync returns the median time to write and sync 4 KiB.
func timeOfSync(folder string) (time.Duration, error) {
	f, err := os.CreateTemp(folder, ".doctor-")
	if err != nil {
		return 0, withoutPath(err)
	}
	defer func() { _, _ = f.Close(), os.Remove(f.Name()) }()
	block := make([]byte, 4<<10)
	times := make([]time.Duration, 21)
	for i := range times {
		begin := time.Now()
		if _, err = f.Write(block); err == nil {
			err = f.Sync()
		}
		if err != nil {
			return 0, withoutPath(err)
		}
		times[i] = time.Since(begin)
	}
	slices.Sort(times)
	return times[len(times)/2], nil
}

// secretKey checks the secret key and who can read it.
func (d *doctor) secretKey() {
	const check = "secret-key"
	n := &node{cfg: d.cfg}
	err := n.checkSecretKey()
	switch {
	case errors.Is(err, fs.ErrNotExist) && d.cfg.SecretKeyFile == "":
		d.ok(check, "none yet; the first start makes one")
		return
	case err != nil:
		d.fail(check, "name the file with --secret-key-file, and chmod 600 it", "%v", err)
		return
	}
	cfg := d.cfg.KeyConfig
	if keys, err := cfg.secretKeys(d.cfg.Log); err != nil {
		d.fail(check, "restore it from the backup; without it links and sealed values are invalid", "%v", err)
	} else {
		d.ok(check, "%s", keyCount(len(keys)))
	}
}

func keyCount(n int) string {
	if n == 1 {
		return "1 key"
	}
	return fmt.Sprintf("%d keys", n)
}

func (d *doctor) keysFile() {
	const check = "keys-file"
	if d.cfg.APIKeys == "" {
		return
	}
	keys, err := openAPIKeys(d.cfg.APIKeys, d.cfg.Log)
	switch {
	case err != nil:
		d.fail(check, "correct the line; until then a running server keeps its earlier keys", "%v", err)
	case len(*keys.keys.Load()) == 0:
		d.warn(check, "sheaf keys add --api-keys "+d.cfg.APIKeys+" --tenant NAME", "no keys, so every caller is refused")
	default:
		d.ok(check, "%s", keyCount(len(*keys.keys.Load())))
	}
}

func (d *doctor) losses() {
	if n := countLosses(d.cfg.Data); n > 0 {
		d.fail("losses", "read "+filepath.Join(d.cfg.Data, lossesName)+" and move it away", "%d losses wait for a person", n)
		return
	}
	d.ok("losses", "none")
}
