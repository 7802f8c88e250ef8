package storage

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"sheaf/events/failpoint"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

const (
	// Every chunk costs the server a message, a round trip and, with sync_interval: always, an fsync. Half of
	// the server's default max_payload keeps the number of chunks low.
	maxChunk = 512 << 10

	// Part of max_payload reserved for a chunk's headers.
	chunkOverhead = 4 << 10

	// Timeout of each request to the server; ctx bounds the whole operation.
	requestTimeout = 10 * time.Second

	// Metadata key of the chunks' stream sequences, in the form of chunkList.
	chunksKey = "sheaf-chunks"
)

// natsFiles stores files in a bucket of the JetStream Object Store, in its format (NATS ADR-20): chunk
// messages on one subject per upload, and one meta message on the name's subject. Any Object Store client can
// read the files.
//
// It does not use ObjectStore.Put, which would break three promises of [Files]. Put sends the meta message
// before the chunks are acknowledged, so a full stream leaves a visible file without its last chunks. Put
// replaces an existing file of the same name. Its reader can only start at the first byte. Here the chunks
// are acknowledged, read back and verified by SHA-256 before the meta message makes them visible. The meta
// message is fenced with the expected last sequence of its subject. It lists the sequences of the chunks, so
// that a reader fetches any byte with one direct get.
//
// A crash between chunks and meta message leaves chunks that no meta message names. Their subject contains
// the file's name, so Sweep finds them with one listing.
type natsFiles struct {
	drafts *drafts
	root   *os.Root
	js     jetstream.JetStream
	stream jetstream.Stream
	bucket string
	made   bool // by this open
}

func openNATSFiles(ctx context.Context, bucket, dataDir string, js jetstream.JetStream,
	replicas int) (*natsFiles, error) {
	stream, made, err := openBucket(ctx, js, jetstream.ObjectStoreConfig{
		Bucket:      bucket,
		Description: "Sheaf: finished workbooks",
		Storage:     jetstream.FileStorage,
		Replicas:    replicas,
	})
	if err != nil {
		return nil, fmt.Errorf("open files nats://%s: %w", bucket, classifyNATS(err))
	}
	if err := os.MkdirAll(dataDir, 0o700); err != nil {
		return nil, fmt.Errorf("open files nats://%s: %w", bucket, err)
	}
	root, err := os.OpenRoot(dataDir)
	if err != nil {
		return nil, fmt.Errorf("open files nats://%s: %w", bucket, err)
	}
	drafts, err := openDrafts(root, "drafts")
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return &natsFiles{drafts: drafts, root: root, js: js, stream: stream, bucket: bucket, made: made}, nil
}

// openBucket returns the bucket's stream, and creates it if there is none. A cluster that creates it for
// several processes at once drops requests and reports an existing bucket as not found (seen with nats-server
// 2.15.2). openBucket therefore retries for up to a minute.
func openBucket(ctx context.Context, js jetstream.JetStream,
	cfg jetstream.ObjectStoreConfig) (stream jetstream.Stream, made bool, err error) {
	const answerWait, most = 3 * time.Second, 20
	for attempt := 1; ; attempt++ {
		asked, cancel := context.WithTimeout(ctx, answerWait)
		stream, err = js.Stream(asked, "OBJ_"+cfg.Bucket)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			made = true
			_, err = js.CreateObjectStore(asked, cfg)
			if err == nil || errors.Is(err, jetstream.ErrBucketExists) {
				stream, err = js.Stream(asked, "OBJ_"+cfg.Bucket)
			}
		}
		unmade := errors.Is(err, jetstream.ErrStreamNotFound)
		again := asked.Err() != nil || unmade
		if unmade && attempt < most {
			select {
			case <-time.After(500 * time.Millisecond):
			case <-asked.Done():
			}
		}
		cancel()
		if err == nil || !again || ctx.Err() != nil || attempt == most {
			return stream, made, err
		}
	}
}

func (s *natsFiles) Made() bool { return s.made }

func (s *natsFiles) Accept() error { return nil } // only folders need it

func (s *natsFiles) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_, err := s.js.Stream(ctx, "OBJ_"+s.bucket)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("%w: the bucket %s is gone", ErrNoStore, s.bucket)
	}
	if err != nil {
		return fmt.Errorf("checking the file store: %w", err)
	}
	return nil
}

func (s *natsFiles) Create(ctx context.Context) (*Draft, error) { return s.drafts.createUnnamed(ctx) }

func (s *natsFiles) Commit(ctx context.Context, d *Draft, name string) error {
	if err := checkFileName(name); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	if err := s.drafts.owns(d); err != nil {
		return fmt.Errorf("commit %s: %w", name, err)
	}
	if err := s.commit(ctx, d, name); err != nil {
		return fmt.Errorf("commit %s: %w", name, classifyNATS(err))
	}
	d.Discard()
	return nil
}

func (s *natsFiles) commit(ctx context.Context, d *Draft, name string) error {
	stat, err := d.file.Stat()
	if err != nil {
		return err
	}
	digest, err := digestOf(ctx, io.NewSectionReader(d.file, 0, stat.Size()))
	if err != nil {
		return err
	}
	placed, err := s.meta(ctx, name)
	if err != nil && !errors.Is(err, ErrNoFile) {
		return err
	}
	if err == nil {
		return placed.equal(stat.Size(), digest)
	}
	object := s.encode(name) + "-" + nuid.Next()
	info, err := s.upload(ctx, d, object, stat.Size())
	if err == nil {
		err = s.verify(ctx, info, digest)
	}
	if err != nil {
		s.purgeChunks(ctx, object) // no meta message names them yet
		return err
	}
	info.Name, info.Digest = name, digest
	return s.publishMeta(ctx, info, placed.sequence)
}

// upload stores the draft's bytes as chunks and describes them.
func (s *natsFiles) upload(ctx context.Context, d *Draft, object string,
	size int64) (*jetstream.ObjectInfo, error) {
	chunk := min(maxChunk, s.js.Conn().MaxPayload()-chunkOverhead)
	if chunk < chunkOverhead {
		return nil, fmt.Errorf("server's max_payload of %d bytes is too small for files",
			s.js.Conn().MaxPayload())
	}
	buf := make([]byte, chunk)
	var chunks chunkList
	for offset := int64(0); offset < size; {
		n := int(min(int64(len(buf)), size-offset))
		if _, err := d.file.ReadAt(buf[:n], offset); err != nil {
			return nil, fmt.Errorf("read draft: %w", err)
		}
		// The fence prevents a publish retried after a lost ack from storing the chunk twice. Pipelined
		// publishes could be reordered, which the fence would refuse; so there is one at a time.
		ack, err := s.publish(ctx, s.chunkSubject(object), buf[:n], chunks.last(), "")
		if err != nil {
			return nil, err
		}
		chunks.add(ack.Sequence)
		offset += int64(n)
	}
	return &jetstream.ObjectInfo{
		ObjectMeta: jetstream.ObjectMeta{
			Metadata: map[string]string{chunksKey: chunks.String()},
			Opts:     &jetstream.ObjectMetaOptions{ChunkSize: uint32(chunk)},
		},
		Bucket: s.bucket,
		NUID:   object,
		Size:   uint64(size),
		Chunks: uint32(chunks.count),
	}, nil
}

// verify reads the chunks back as a reader does.
func (s *natsFiles) verify(ctx context.Context, info *jetstream.ObjectInfo, digest string) error {
	file, err := s.file(ctx, info, time.Time{})
	if err != nil {
		return err
	}
	stored, err := digestOf(ctx, file)
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	if stored != digest {
		return fmt.Errorf("read back: stored bytes have digest %s, want %s", stored, digest)
	}
	return nil
}

// publishMeta makes the file visible, unless another Commit was first.
func (s *natsFiles) publishMeta(ctx context.Context, info *jetstream.ObjectInfo, lastSequence uint64) error {
	data, err := json.Marshal(info)
	if err != nil {
		return err
	}
	_, err = s.publish(ctx, s.metaSubject(info.Name), data, lastSequence, jetstream.MsgRollupSubject)
	failpoint.Hit("object.meta.after")
	var refused *jetstream.APIError
	if err == nil || !errors.As(err, &refused) {
		// The outcome is unknown. The message may be stored, so the chunks must stay.
		return err
	}
	if refused.ErrorCode != jetstream.JSErrCodeStreamWrongLastSequence &&
		refused.ErrorCode != jetstream.JSErrCodeStreamWrongLastSequenceConstant {
		s.purgeChunks(ctx, info.NUID)
		return err
	}
	placed, metaErr := s.meta(ctx, info.Name)
	if metaErr != nil {
		return errors.Join(err, metaErr)
	}
	if placed.info.NUID == info.NUID {
		return nil // our own message, whose ack was lost
	}
	s.purgeChunks(ctx, info.NUID)
	return placed.equal(int64(info.Size), info.Digest)
}

func (s *natsFiles) publish(ctx context.Context, subject string, data []byte, lastSequence uint64,
	rollup string) (*jetstream.PubAck, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	msg := nats.NewMsg(subject)
	msg.Data = data
	if rollup != "" {
		msg.Header.Set(jetstream.MsgRollup, rollup)
	}
	return s.js.PublishMsg(ctx, msg, jetstream.WithExpectLastSequencePerSubject(lastSequence))
}

func (s *natsFiles) Open(ctx context.Context, name string) (File, error) {
	if err := checkFileName(name); err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	placed, err := s.meta(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	file, err := s.file(ctx, &placed.info, placed.time)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	return file, nil
}

func (s *natsFiles) Delete(ctx context.Context, name string) error {
	if err := checkFileName(name); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	placed, err := s.meta(ctx, name)
	if errors.Is(err, ErrNoFile) {
		return nil
	}
	if err == nil {
		err = s.remove(ctx, name, placed.info.NUID)
	}
	if err != nil {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	return nil
}

// remove deletes the name first: a crash in between leaves orphaned chunks, not a damaged file.
func (s *natsFiles) remove(ctx context.Context, name, object string) error {
	if err := s.stream.Purge(ctx, jetstream.WithPurgeSubject(s.metaSubject(name))); err != nil {
		return err
	}
	return s.stream.Purge(ctx, jetstream.WithPurgeSubject(s.chunkSubject(object)))
}

// purgeChunks cleans up after a failed Commit. Sweep finds the chunks that it misses.
func (s *natsFiles) purgeChunks(ctx context.Context, object string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
	defer cancel()
	_ = s.stream.Purge(ctx, jetstream.WithPurgeSubject(s.chunkSubject(object)))
}

// List asks the stream's leader.
func (s *natsFiles) List(ctx context.Context) ([]string, error) {
	info, err := s.stream.Info(ctx, jetstream.WithSubjectFilter(s.metaSubject("")+">"))
	if err != nil {
		return nil, fmt.Errorf("list files: %w", classifyNATS(err))
	}
	var names []string
	for subject := range info.State.Subjects {
		if name, ok := s.decode(strings.TrimPrefix(subject, s.metaSubject(""))); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

func (s *natsFiles) Sweep(ctx context.Context, keep func(name string) bool,
	olderThan time.Time) (removed int, err error) {
	removed, failed := s.drafts.sweep(ctx, olderThan)
	n, err := s.sweepBucket(ctx, keep, olderThan)
	if failed == nil {
		failed = err
	}
	if failed != nil {
		return removed + n, fmt.Errorf("sweep files: %w", failed)
	}
	return removed + n, nil
}

func (s *natsFiles) sweepBucket(ctx context.Context, keep func(name string) bool,
	olderThan time.Time) (removed int, err error) {
	info, err := s.stream.Info(ctx, jetstream.WithSubjectFilter("$O."+s.bucket+".>"))
	if err != nil {
		return 0, err
	}
	objects := map[string][]string{} // uploads with chunks, by name
	names := map[string]bool{}
	for subject := range info.State.Subjects {
		if token, ok := strings.CutPrefix(subject, s.metaSubject("")); ok {
			if name, ok := s.decode(token); ok {
				names[name] = true
			}
		} else if object, ok := strings.CutPrefix(subject, s.chunkSubject("")); ok {
			// Cut at the last hyphen: base64's alphabet has hyphens, nuid's does not.
			if i := strings.LastIndexByte(object, '-'); i > 0 {
				if name, ok := s.decode(object[:i]); ok {
					objects[name] = append(objects[name], object)
				}
			}
		}
	}
	var failed error
	note := func(ok bool, err error) {
		if ok {
			removed++
		}
		if failed == nil {
			failed = err
		}
	}
	for name := range names {
		if err := ctx.Err(); err != nil {
			return removed, err
		}
		if !keep(name) {
			note(s.sweepFile(ctx, name, olderThan))
		}
	}
	for name, uploads := range objects {
		if names[name] && len(uploads) == 1 {
			continue // the file's own chunks, or deleted meanwhile
		}
		for _, object := range uploads {
			if err := ctx.Err(); err != nil {
				return removed, err
			}
			note(s.sweepChunks(ctx, name, object, olderThan))
		}
	}
	return removed, failed
}

func (s *natsFiles) sweepFile(ctx context.Context, name string, olderThan time.Time) (bool, error) {
	placed, err := s.meta(ctx, name)
	if errors.Is(err, ErrNoFile) || (err == nil && !placed.time.Before(olderThan)) {
		return false, nil
	}
	if err == nil {
		err = s.remove(ctx, name, placed.info.NUID)
	}
	return err == nil, err
}

// sweepChunks deletes an upload's chunks if the last one is old and the name's meta message, read after that,
// does not refer to the upload.
func (s *natsFiles) sweepChunks(ctx context.Context, name, object string, olderThan time.Time) (bool, error) {
	last, err := s.leaderGet(ctx, messageGet{LastFor: s.chunkSubject(object)})
	if errors.Is(err, ErrNoFile) || (err == nil && !last.Time.Before(olderThan)) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	placed, err := s.meta(ctx, name)
	if err != nil && !errors.Is(err, ErrNoFile) {
		return false, err
	}
	if err == nil && placed.info.NUID == object {
		return false, nil
	}
	if err := s.stream.Purge(ctx, jetstream.WithPurgeSubject(s.chunkSubject(object))); err != nil {
		return false, err
	}
	return true, nil
}

func (s *natsFiles) Close() error { return s.root.Close() }

func (s *natsFiles) metaSubject(name string) string    { return "$O." + s.bucket + ".M." + s.encode(name) }
func (s *natsFiles) chunkSubject(object string) string { return "$O." + s.bucket + ".C." + object }

// encode encodes a name as the Object Store does, so that its clients find it.
func (s *natsFiles) encode(name string) string {
	return base64.URLEncoding.EncodeToString([]byte(name))
}

func (s *natsFiles) decode(token string) (name string, ok bool) {
	b, err := base64.URLEncoding.DecodeString(token)
	return string(b), err == nil && checkFileName(string(b)) == nil
}

// placedObject is a name's meta message.
type placedObject struct {
	info     jetstream.ObjectInfo
	time     time.Time
	sequence uint64 // with ErrNoFile: of a deletion marker, else 0
}

func (p *placedObject) equal(size int64, digest string) error {
	if p.info.Size != uint64(size) || p.info.Digest != digest {
		return ErrFileExists
	}
	return nil
}

// meta asks the leader, as a direct get may reach a lagging replica.
func (s *natsFiles) meta(ctx context.Context, name string) (placedObject, error) {
	msg, err := s.leaderGet(ctx, messageGet{LastFor: s.metaSubject(name)})
	if err != nil {
		return placedObject{}, err
	}
	placed := placedObject{time: msg.Time, sequence: msg.Sequence}
	if err := json.Unmarshal(msg.Data, &placed.info); err != nil {
		return placed, &DamagedError{What: "its metadata in the bucket cannot be read", cause: err}
	}
	if placed.info.Deleted {
		return placed, ErrNoFile
	}
	return placed, nil
}

// messageGet is the request of the JetStream API's STREAM.MSG.GET.
type messageGet struct {
	Sequence uint64 `json:"seq,omitempty"`
	LastFor  string `json:"last_by_subj,omitempty"`
}

type storedMessage struct {
	Subject  string    `json:"subject"`
	Sequence uint64    `json:"seq"`
	Data     []byte    `json:"data"`
	Time     time.Time `json:"time"`
}

// leaderGet reads one message from the stream's leader. jetstream.Stream cannot do that for a bucket: it
// always asks any replica. If there is no such message, the error is ErrNoFile.
func (s *natsFiles) leaderGet(ctx context.Context, get messageGet) (storedMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	request, err := json.Marshal(get)
	if err != nil {
		return storedMessage{}, err
	}
	prefix := jetstream.DefaultAPIPrefix
	if opts := s.js.Options(); opts.APIPrefix != "" {
		prefix = strings.TrimSuffix(opts.APIPrefix, ".") + "."
	} else if opts.Domain != "" {
		prefix = "$JS." + opts.Domain + ".API."
	}
	reply, err := s.js.Conn().RequestWithContext(ctx, prefix+"STREAM.MSG.GET.OBJ_"+s.bucket, request)
	if err != nil {
		return storedMessage{}, err
	}
	var response struct {
		Error   *jetstream.APIError `json:"error"`
		Message *storedMessage      `json:"message"`
	}
	if err := json.Unmarshal(reply.Data, &response); err != nil {
		return storedMessage{}, fmt.Errorf("get message: %w", err)
	}
	switch {
	case response.Error != nil && response.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return storedMessage{}, ErrNoFile
	case response.Error != nil && response.Error.ErrorCode == jetstream.JSErrCodeStreamNotFound:
		return storedMessage{}, fmt.Errorf("%w: the bucket %s is gone", ErrNoStore, s.bucket)
	case response.Error != nil:
		return storedMessage{}, response.Error
	case response.Message == nil:
		return storedMessage{}, jetstream.ErrInvalidJetStreamResponse
	}
	return *response.Message, nil
}

// chunk reads one message of a file from any replica, and from the leader if that replica does not have it.
// It asks several times, because the disk of a single replica may be damaged.
func (s *natsFiles) chunk(ctx context.Context, sequence uint64, subject string) ([]byte, error) {
	const looks = 3
	for range looks {
		direct, cancel := context.WithTimeout(ctx, requestTimeout)
		msg, err := s.stream.GetMsg(direct, sequence)
		cancel()
		if err == nil && msg.Subject == subject {
			return msg.Data, nil
		}
		if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil, err
		}
	}
	stored, err := s.leaderGet(ctx, messageGet{Sequence: sequence})
	if errors.Is(err, ErrNoFile) {
		return nil, &DamagedError{What: "a part of it is missing", cause: err}
	}
	if err != nil {
		return nil, err
	}
	if stored.Subject != subject {
		return nil, &DamagedError{What: "a part of it was replaced"}
	}
	return stored.Data, nil
}

func (s *natsFiles) file(ctx context.Context, info *jetstream.ObjectInfo,
	modTime time.Time) (*natsFile, error) {
	const damaged = "its metadata in the bucket has changed"
	chunks, err := parseChunkList(info.Metadata[chunksKey])
	if err != nil {
		return nil, &DamagedError{What: damaged, cause: err}
	}
	if info.Opts == nil || info.Opts.ChunkSize == 0 {
		return nil, &DamagedError{What: damaged, cause: errors.New("meta message has no chunk size")}
	}
	size := int64(info.Opts.ChunkSize)
	if want := (int64(info.Size) + size - 1) / size; int64(chunks.count) != want {
		return nil, &DamagedError{What: damaged,
			cause: fmt.Errorf("meta message lists %d chunks, want %d", chunks.count, want)}
	}
	return &natsFile{ctx: ctx, files: s, subject: s.chunkSubject(info.NUID), chunks: chunks,
		chunkSize: size, size: int64(info.Size), modTime: modTime, loaded: -1}, nil
}

// natsFile buffers one chunk at a time.
type natsFile struct {
	ctx       context.Context // passed to Open
	files     *natsFiles
	subject   string
	chunks    chunkList
	chunkSize int64
	size      int64
	modTime   time.Time

	offset int64
	loaded int64 // index of the chunk in data; -1 if there is none
	data   []byte
	closed bool
}

func (f *natsFile) Size() int64        { return f.size }
func (f *natsFile) ModTime() time.Time { return f.modTime }

func (f *natsFile) Read(p []byte) (int, error) {
	switch {
	case f.closed:
		return 0, os.ErrClosed
	case len(p) == 0:
		return 0, nil
	case f.offset >= f.size:
		return 0, io.EOF
	}
	if index := f.offset / f.chunkSize; index != f.loaded {
		data, err := f.files.chunk(f.ctx, f.chunks.sequence(index), f.subject)
		if err != nil {
			return 0, fmt.Errorf("read chunk %d: %w", index, err)
		}
		if want := min(f.chunkSize, f.size-index*f.chunkSize); int64(len(data)) != want {
			return 0, &DamagedError{What: fmt.Sprintf("a part of it has %d bytes, of %d", len(data), want)}
		}
		f.data, f.loaded = data, index
	}
	n := copy(p, f.data[f.offset%f.chunkSize:])
	f.offset += int64(n)
	return n, nil
}

func (f *natsFile) Seek(offset int64, whence int) (int64, error) {
	at, err := seekTo(offset, whence, f.offset, f.size, f.closed)
	if err == nil {
		f.offset = at
	}
	return at, err
}

func (f *natsFile) Close() error {
	if f.closed {
		return os.ErrClosed
	}
	f.closed, f.data = true, nil
	return nil
}

// chunkList holds the stream sequences of a file's chunks, as runs of consecutive ones: concurrent uploads
// interleave, while a lone upload is one run. Its text is FIRST+COUNT for each run, joined by commas.
type chunkList struct {
	runs  []chunkRun
	count int
}

type chunkRun struct {
	first uint64 // sequence of the run's first chunk
	index int64  // index of that chunk in the file
	count int
}

// last returns the sequence of the last chunk, 0 if there is none.
func (l *chunkList) last() uint64 {
	if len(l.runs) == 0 {
		return 0
	}
	run := l.runs[len(l.runs)-1]
	return run.first + uint64(run.count) - 1
}

func (l *chunkList) add(sequence uint64) {
	if l.count > 0 && sequence == l.last()+1 {
		l.runs[len(l.runs)-1].count++
	} else {
		l.runs = append(l.runs, chunkRun{first: sequence, index: int64(l.count), count: 1})
	}
	l.count++
}

// sequence returns the sequence of the chunk at index, which must be less than count.
func (l *chunkList) sequence(index int64) uint64 {
	low, high := 0, len(l.runs)-1
	for low < high {
		if mid := (low + high + 1) / 2; l.runs[mid].index <= index {
			low = mid
		} else {
			high = mid - 1
		}
	}
	return l.runs[low].first + uint64(index-l.runs[low].index)
}

func (l *chunkList) String() string {
	var b strings.Builder
	for i, run := range l.runs {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%d+%d", run.first, run.count)
	}
	return b.String()
}

func parseChunkList(text string) (chunkList, error) {
	var l chunkList
	if text == "" {
		return l, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		first, count, ok := strings.Cut(part, "+")
		sequence, err := strconv.ParseUint(first, 10, 64)
		n, countErr := strconv.ParseUint(count, 10, 31)
		if !ok || err != nil || countErr != nil || n == 0 {
			return chunkList{}, fmt.Errorf("meta message lists chunks as %.50q", part)
		}
		l.runs = append(l.runs, chunkRun{first: sequence, index: int64(l.count), count: int(n)})
		l.count += int(n)
	}
	return l, nil
}

// digestOf returns the SHA-256 of r's content in the Object Store's form.
func digestOf(ctx context.Context, r io.Reader) (string, error) {
	h := sha256.New()
	if _, err := io.Copy(h, contextReader{ctx, r}); err != nil {
		return "", err
	}
	return jetstream.GetObjectDigestValue(h), nil
}

type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// JetStream API error codes for exhausted limits (nats-server errors.json).
const (
	codeAccountResources      jetstream.ErrorCode = 10002 // resource limits exceeded for account
	codeInsufficientResources jetstream.ErrorCode = 10023 // insufficient resources
	codeStorageResources      jetstream.ErrorCode = 10047 // insufficient storage resources available
	codeStoreFailed           jetstream.ErrorCode = 10077 // "maximum bytes exceeded", and other refusals
)

func classifyNATS(err error) error {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		switch api.ErrorCode {
		case codeAccountResources, codeInsufficientResources, codeStorageResources:
			return fmt.Errorf("%w: %w", ErrNoSpace, err)
		case codeStoreFailed:
			if strings.Contains(api.Description, "maximum bytes") {
				return fmt.Errorf("%w: %w", ErrNoSpace, err)
			}
		}
	}
	return classify(err)
}
