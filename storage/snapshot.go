package storage

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"sheaf/events"
	"sheaf/events/journal"

	"github.com/klauspost/compress/zstd"
	"go.etcd.io/bbolt"
)

const (
	// snapshotEvents is the number of events below which reading the log takes less than half a second, so no
	// snapshot is made or read for them.
	snapshotEvents = 10_000
	// A snapshot follows the previous one after snapshotEvery, after snapshotSoon if many events came, and
	// after snapshotLast if none came, so that forgotten exports leave the snapshots.
	snapshotEvery, snapshotSoon, snapshotLast = time.Hour, 10 * time.Minute, 24 * time.Hour
	snapshotMany                              = 100 * snapshotEvents
	// snapshotLook is the mean pause between two looks whether a snapshot is due.
	snapshotLook = time.Minute
	// keptSnapshots of one log and version are kept, and others until they are this old.
	keptSnapshots    = 2
	keepOthers       = 24 * time.Hour
	snapshotCopied   = 4 << 20 // bytes per transaction of a copy
	maxSnapshotHead  = 4 << 10 // bytes of a head, with its newline
	snapshotTemp     = "tasks-snapshot-*.tmp"
	snapshotSuffix   = ".snapshot"
	snapshotTimeForm = "20060102t150405z"
)

// Snapshots stores copies of the projection as files, so that a new ingress reads one instead of the whole
// log. Several ingresses may share the store: a snapshot that two of them make is harmless.
//
// A snapshot holds what the log held for the projection at its sequence, and nothing that the projection has
// forgotten. It is a line of JSON, the head, and a compressed tasks.db.
type Snapshots struct {
	Min     uint64 // last sequence of the shortest log that is worth a snapshot; default 10,000
	files   Files
	dataDir string
	log     *slog.Logger
}

// NewSnapshots returns the snapshots in a store of [OpenSnapshotFiles]. Temporary files are in dataDir.
func NewSnapshots(files Files, dataDir string, log *slog.Logger) *Snapshots {
	return &Snapshots{files: files, dataDir: dataDir, log: log.With("service", "storage"),
		Min: snapshotEvents}
}

// snapshotHead describes a snapshot.
type snapshotHead struct {
	Version string       `json:"version"` // of Sheaf, see tasksVersion
	Log     journal.Mark `json:"log"`     // at the sequence of the snapshot
	Size    int64        `json:"size"`    // of the decompressed tasks.db
	SHA256  string       `json:"sha256"`  // of the decompressed tasks.db
}

// snapshotName is the name of a snapshot: time, version, log, sequence and random letters, joined by hyphens.
type snapshotName struct {
	at           time.Time
	version, log string // see tasksVersion and logName
	sequence     uint64
	text         string
}

// tasksVersion identifies the format of tasks.db and the events and fields that this version knows.
func tasksVersion() string {
	return hex.EncodeToString([]byte(hashed(fmt.Sprint(tasksFormat, events.Vocabulary()))))[:8]
}

// logName identifies a log by the creation time of its stream.
func logName(created time.Time) string {
	return hex.EncodeToString([]byte(hashed(created.UTC().Format(time.RFC3339Nano))))[:8]
}

func newSnapshotName(at time.Time, log journal.Mark) snapshotName {
	n := snapshotName{at: at.UTC().Truncate(time.Second), version: tasksVersion(), log: logName(log.Created),
		sequence: log.Last}
	n.text = fmt.Sprintf("%s-%s-%s-%020d-%08x%s", n.at.Format(snapshotTimeForm), n.version, n.log, n.sequence,
		rand.Uint32(), snapshotSuffix)
	return n
}

func parseSnapshotName(text string) (n snapshotName, ok bool) {
	bare, ok := strings.CutSuffix(text, snapshotSuffix)
	part := strings.Split(bare, "-")
	if !ok || len(part) != 5 {
		return n, false
	}
	at, err := time.Parse(snapshotTimeForm, part[0])
	sequence, wrong := strconv.ParseUint(part[3], 10, 64)
	return snapshotName{at: at, version: part[1], log: part[2], sequence: sequence, text: text},
		err == nil && wrong == nil
}

// list returns the snapshots, newest first.
func (s *Snapshots) list(ctx context.Context) ([]snapshotName, error) {
	names, err := s.files.List(ctx)
	if err != nil {
		return nil, err
	}
	var list []snapshotName
	for _, text := range names {
		if n, ok := parseSnapshotName(text); ok {
			list = append(list, n)
		}
	}
	slices.SortFunc(list, func(a, b snapshotName) int {
		return cmp.Or(b.at.Compare(a.at), cmp.Compare(b.sequence, a.sequence), cmp.Compare(a.text, b.text))
	})
	return list, nil
}

// Run stores a snapshot whenever one is due, until ctx ends. It logs failures and tries again.
func (s *Snapshots) Run(ctx context.Context, tasks *Tasks, log *journal.Log) {
	select {
	case <-tasks.BoundToLog():
	case <-ctx.Done():
		return
	}
	s.removeTemps()
	for {
		// Other ingresses started at the same time, so look at another one.
		select {
		case <-time.After(snapshotLook/2 + rand.N(snapshotLook)):
		case <-ctx.Done():
			return
		}
		err := s.keep(ctx, tasks, log)
		tasks.Release()
		if err != nil && ctx.Err() == nil {
			s.log.Warn("no snapshot of the projection; trying again", "error", err)
		}
	}
}

// keep stores a snapshot if one is due, and removes old ones.
func (s *Snapshots) keep(ctx context.Context, tasks *Tasks, log *journal.Log) error {
	created, applied, err := tasks.Bound()
	if err != nil {
		return err
	}
	list, err := s.list(ctx)
	if err != nil {
		return err
	}
	own := func(n snapshotName) bool { return n.version == tasksVersion() && n.log == logName(created) }
	now := time.Now()
	if i := slices.IndexFunc(list, own); i < 0 && applied < s.Min ||
		i >= 0 && !list[i].followed(applied, now) {
		return nil
	}
	if err := s.Save(ctx, tasks, log); err != nil {
		return err
	}
	return s.prune(ctx, own, now)
}

// followed reports whether it is time for the next snapshot.
func (n *snapshotName) followed(applied uint64, now time.Time) bool {
	age, more := now.Sub(n.at), uint64(0)
	if applied > n.sequence {
		more = applied - n.sequence
	}
	return age >= snapshotLast || age >= snapshotEvery && more >= snapshotEvents ||
		age >= snapshotSoon && more >= snapshotMany
}

// prune removes all but the newest own snapshots, old ones of other logs and versions, and what crashes left.
func (s *Snapshots) prune(ctx context.Context, own func(snapshotName) bool, now time.Time) error {
	list, err := s.list(ctx)
	if err != nil {
		return err
	}
	kept := 0
	for _, n := range list {
		if own(n) {
			if kept++; kept <= keptSnapshots {
				continue
			}
		} else if now.Sub(n.at) < keepOthers {
			continue
		}
		if err := s.files.Delete(ctx, n.text); err != nil {
			return err
		}
	}
	all := func(string) bool { return true }
	_, err = s.files.Sweep(ctx, all, now.Add(-keepOthers))
	return err
}

// Save stores a snapshot of the projection as it is now. It reads and writes the whole projection. Meanwhile
// the projection works on, see [OpenTasksForSnapshots].
func (s *Snapshots) Save(ctx context.Context, tasks *Tasks, log *journal.Log) error {
	begun := time.Now()
	temp, err := os.CreateTemp(s.dataDir, snapshotTemp)
	if err != nil {
		return fmt.Errorf("snapshot: %w", classify(err))
	}
	defer func() { _ = errors.Join(temp.Close(), os.Remove(temp.Name())) }()
	created, applied, err := tasks.copyTo(ctx, temp.Name())
	if err != nil {
		return fmt.Errorf("snapshot: %w", classify(err))
	}
	head := snapshotHead{Version: tasksVersion()}
	if head.Log, err = log.MarkAt(ctx, applied); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	if !head.Log.Created.Equal(created) {
		return fmt.Errorf("snapshot: the log of %s was replaced by that of %s", created, head.Log.Created)
	}
	name := newSnapshotName(begun, head.Log)
	stored, err := s.store(ctx, name.text, &head, temp)
	if err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	s.log.Info("snapshot of the projection stored", "sequence", applied, "bytes", stored, "of", head.Size,
		"took", time.Since(begun).Round(time.Millisecond))
	return nil
}

// store compresses a copy of the projection into the store and returns the number of bytes stored.
func (s *Snapshots) store(ctx context.Context, name string, head *snapshotHead, temp *os.File) (int64, error) {
	sum := sha256.New()
	size, err := io.Copy(sum, contextReader{ctx, temp})
	if err != nil {
		return 0, classify(err)
	}
	head.Size, head.SHA256 = size, hex.EncodeToString(sum.Sum(nil))
	first, err := json.Marshal(head)
	if err != nil {
		return 0, err
	}
	d, err := s.files.Create(ctx)
	if err != nil {
		return 0, err
	}
	defer d.Discard()
	if _, err := d.File().Write(append(first, '\n')); err != nil {
		return 0, classify(err)
	}
	z, err := zstd.NewWriter(d.File(), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(z, contextReader{ctx, io.NewSectionReader(temp, 0, size)})
	if err = errors.Join(err, z.Close()); err != nil {
		return 0, classify(err)
	}
	info, err := d.File().Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), s.files.Commit(ctx, d, name)
}

// copyTo copies the projection into a file, without free pages: they hold exports that were forgotten. The
// copy says that it was never closed, so that a power failure after [Snapshots.Restore] rebuilds it. copyTo
// returns the bound log and the applied sequence of the copy.
func (t *Tasks) copyTo(ctx context.Context, path string) (created time.Time, applied uint64, err error) {
	to, err := bbolt.Open(path, 0o600, &bbolt.Options{NoSync: true, NoGrowSync: true, Timeout: lockWait,
		FreelistType: bbolt.FreelistMapType})
	if err != nil {
		return created, 0, err
	}
	err = t.view(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(name []byte, from *bbolt.Bucket) error { return copyBucket(ctx, to, name, from) })
	})
	if err == nil {
		err = to.Update(func(tx *bbolt.Tx) error {
			meta := tx.Bucket(bucketMeta)
			return cmp.Or(meta.Delete(metaClean), meta.Delete(metaBoot))
		})
	}
	if err == nil {
		created, applied, err = boundOf(to.View)
	}
	return created, applied, errors.Join(err, to.Close())
}

// copyBucket copies a bucket in transactions of snapshotCopied bytes.
func copyBucket(ctx context.Context, to *bbolt.DB, name []byte, from *bbolt.Bucket) error {
	c := from.Cursor()
	k, v := c.First()
	for first := true; first || k != nil; first = false {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := to.Update(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists(name)
			if err != nil {
				return err
			}
			b.FillPercent = 0.9
			for n := 0; k != nil && n < snapshotCopied; k, v = c.Next() {
				if err := b.Put(k, v); err != nil {
					return err
				}
				n += len(k) + len(v)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Restore replaces a projection that has applied nothing by the newest snapshot of the log, and returns the
// projection to use. Following the log from its applied sequence brings it up to date. If no snapshot can be
// used it logs one warning and returns the empty projection, which then reads the whole log. An error is
// final: there is no projection.
func (s *Snapshots) Restore(ctx context.Context, empty *Tasks, log *journal.Log) (*Tasks, error) {
	path := empty.db.Path()
	s.removeTemps()
	begun := time.Now()
	temp, n, err := s.fetch(ctx, log)
	if err != nil {
		s.log.Warn("no snapshot of the projection can be used; reading the log instead", "error", err)
	}
	if temp == "" {
		return empty, nil
	}
	if err := cmp.Or(empty.Close(), os.Rename(temp, path)); err != nil {
		return nil, fmt.Errorf("replacing the projection by a snapshot: %w", err)
	}
	tasks, err := openOrMake(path, opening{checked: true, mapped: mappedSize}, s.log)
	if err == nil {
		s.log.Info("the projection begins with a snapshot", "sequence", n.sequence, "made", n.at,
			"took", time.Since(begun).Round(time.Millisecond))
	}
	return tasks, err
}

// removeTemps removes what a crash has left.
func (s *Snapshots) removeTemps() {
	left, _ := filepath.Glob(filepath.Join(s.dataDir, snapshotTemp))
	for _, path := range left {
		_ = os.Remove(path)
	}
}

// fetch writes the newest usable snapshot to a temporary file. Without one path is "", and err says why not,
// or is nil if no snapshot is needed or none exists.
func (s *Snapshots) fetch(ctx context.Context, log *journal.Log) (path string, n snapshotName, err error) {
	is, err := log.LogState(ctx)
	if err != nil || is.Last < s.Min {
		return "", n, err
	}
	list, err := s.list(ctx)
	if err != nil {
		return "", n, err
	}
	var failed error
	for _, n := range list {
		path, err := s.fetchOne(ctx, log, is, n)
		if err == nil {
			return path, n, nil
		}
		failed = cmp.Or(failed, fmt.Errorf("%s: %w", n.text, err))
	}
	return "", n, failed
}

// fetchOne writes a snapshot to a temporary file after checking that it is whole and of this log and version.
func (s *Snapshots) fetchOne(ctx context.Context, log *journal.Log, is journal.LogState,
	n snapshotName) (path string, err error) {
	switch {
	case n.log != logName(is.Created):
		return "", errors.New("it is of another log")
	case n.version != tasksVersion():
		return "", errors.New("it was made by another version of Sheaf")
	case n.sequence > is.Last:
		return "", fmt.Errorf("it ends at sequence %d, the log at %d", n.sequence, is.Last)
	}
	file, err := s.files.Open(ctx, n.text)
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }()
	in := bufio.NewReaderSize(file, 1<<20)
	head, err := readHead(in)
	if err != nil {
		return "", err
	}
	if head.Version != n.version || head.Log.Last != n.sequence || !head.Log.Created.Equal(is.Created) {
		return "", errors.New("it is damaged: its head contradicts its name")
	}
	// A log that lost its end uses sequences again.
	now, err := log.MarkAt(ctx, n.sequence)
	if err != nil {
		return "", err
	}
	if now.Subject != "" && head.Log.Subject != "" && now.SHA256 != head.Log.SHA256 {
		return "", fmt.Errorf("the event at sequence %d is another one now", n.sequence)
	}
	return s.decompress(in, &head)
}

func readHead(in *bufio.Reader) (head snapshotHead, err error) {
	var line []byte
	for len(line) < maxSnapshotHead {
		b, err := in.ReadByte()
		if err != nil {
			return head, fmt.Errorf("reading its head: %w", err)
		}
		if b == '\n' {
			break
		}
		line = append(line, b)
	}
	if err := json.Unmarshal(line, &head); err != nil {
		return head, fmt.Errorf("it is damaged: its head: %w", err)
	}
	return head, nil
}

// decompress writes the projection of a snapshot to a temporary file.
func (s *Snapshots) decompress(in io.Reader, head *snapshotHead) (path string, err error) {
	temp, err := os.CreateTemp(s.dataDir, snapshotTemp)
	if err != nil {
		return "", classify(err)
	}
	defer func() {
		if err = errors.Join(err, temp.Close()); err != nil {
			path = ""
			_ = os.Remove(temp.Name())
		}
	}()
	z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(2))
	if err != nil {
		return "", err
	}
	defer z.Close()
	sum := sha256.New()
	size, err := io.Copy(io.MultiWriter(temp, sum), io.LimitReader(z, head.Size+1))
	switch {
	case IsNoSpace(err):
		return "", classify(err)
	case err != nil:
		return "", fmt.Errorf("it cannot be read: %w", err)
	case size != head.Size || hex.EncodeToString(sum.Sum(nil)) != head.SHA256:
		return "", errors.New("it is damaged: its checksum differs")
	}
	return temp.Name(), nil
}
