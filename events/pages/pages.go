// Package pages writes and reads the rows of exports, SHEAF_PAGES. It promises:
//
//   - A page is written once. [Store.Publish] keeps the first writer's page, completely, even if it takes
//     several messages. When it returns without an error, the page is on disk.
//   - [Store.Get] returns one writer's page, verified by a checksum, or an error. Only the stream's leader
//     decides that a page is missing.
//   - A full stream refuses pages with events.ErrNoSpace and loses none.
package pages

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sheaf/events"
	"sheaf/events/failpoint"
	"sheaf/events/internal/streams"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"
)

// ID identifies a page of a run.
type ID struct {
	Tenant string
	Key    string
	Run    uint64
	Sheet  int // of a request with sheets, from 0
	Number int // from 1; 0 holds the columns of a run, see events.Request.HasColumnsPage
}

// Page is the payload of a PageFetched event: the rows of one response of the source, byte for byte as sent,
// and its metadata.
type Page struct {
	ID
	Rows       []byte // a JSON array of row objects
	RowCount   int    // number of rows, header included
	HeaderRow  bool   // the first row is the header, not data
	Total      int64  // pagetag.total, -1 if absent
	TotalPages int    // pagetag.total_page, 0 if absent
	Limit      int    // pagetag.limit, 0 if absent
	Next       string // token of the next page, sealed; "" if pages are numbered
	Last       bool   // the source says that no page follows
	Attempts   int    // number of requests until the source responded
	SHA256     [sha256.Size]byte
	Stored     int64     // its size in SHEAF_PAGES; set by Get, not written
	StoredAt   time.Time // when it was written, by the writer's clock; set by Get
}

// DataRows returns the number of data rows of the page.
func (p Page) DataRows() int {
	if p.HeaderRow {
		return p.RowCount - 1
	}
	return p.RowCount
}

// Subject returns the subject of one part of a page. Parts count from 1.
func Subject(id ID, part int) string {
	return runPrefix(id.Tenant, id.Key, id.Run, id.Sheet) + strconv.Itoa(id.Number) + "." + strconv.Itoa(part)
}

// runPrefix returns the prefix of the subjects of a run's pages. Sheets after the first have runs of their
// own, such as "123-1".
func runPrefix(tenant, key string, run uint64, sheet int) string {
	token := strconv.FormatUint(run, 10)
	if sheet > 0 {
		token += "-" + strconv.Itoa(sheet)
	}
	return events.SubjectPage + tenant + "." + key + "." + token + "."
}

// splitRun returns the run and the sheet that such a token names.
func splitRun(token string) (run uint64, sheet int, ok bool) {
	number, of, several := strings.Cut(token, "-")
	run, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return 0, 0, false
	}
	if several {
		sheet, err = strconv.Atoi(of)
		return run, sheet, err == nil && sheet > 0
	}
	return run, 0, true
}

const (
	headerPage       = "ce-page"
	headerPart       = "ce-part"
	headerParts      = "ce-parts"
	headerRows       = "ce-rows"
	headerHeaderRow  = "ce-headerrow"
	headerTotal      = "ce-total"
	headerTotalPages = "ce-totalpages"
	headerLimit      = "ce-limit"
	headerNext       = "ce-next"
	headerLast       = "ce-last"
	headerAttempts   = "ce-attempts"
	headerSHA256     = "ce-sha256" // of the rows before compression
	headerCRC32C     = "ce-crc32c" // of the same
	headerTime       = "ce-time"
	headerEncoding   = "Content-Encoding"

	encodingZstd = "zstd"
	encodingS2   = "s2" // one S2 block, https://github.com/klauspost/compress/tree/master/s2

	// partOverhead is the space for headers below the server's max_payload.
	partOverhead = 4 << 10
	// storedOverhead is what the file store adds to the subject, headers and body of a message.
	storedOverhead = 34
	// partSize is how much of a page one message carries if the server's max_payload allows it; the server's
	// default is 1 MiB. Few pages are larger, which matters: a page of several messages is an atomic batch,
	// for which the server writes and syncs a separate store. (Measured: a million rows in pages of 220 KB
	// took 2.3 to 7.5 s to crawl in parts of 64 KiB, 0.8 to 2.5 s whole.) Pages are read by direct gets,
	// which large messages do not slow down.
	partSize = 1 << 20
	// maxParts is the server's limit on messages in one atomic batch.
	maxParts = 1000
	// maxBatchesInFlight is below the server's limit of 50 per stream, to leave some for other processes.
	maxBatchesInFlight = 8
	// maxPageBytes bounds a page after decompression, so that a damaged or hostile message cannot exhaust
	// memory. Sources have lower limits.
	maxPageBytes = 1 << 30
)

// zstd's encoder and decoder keep tables; EncodeAll and DecodeAll are safe for concurrent use. Their options
// are constant, so creating them cannot fail at run time.
var (
	pageEncoder = sync.OnceValues(func() (*zstd.Encoder, error) {
		return zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(2),
			zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(1<<20))
	})
	pageDecoder = sync.OnceValues(func() (*zstd.Decoder, error) {
		return zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecodeAllCapLimit(true),
			zstd.WithDecoderLowmem(true))
	})
)

// buffers are reused; otherwise they would be most of a large export's allocations. Giant ones are left to
// the garbage collector.
type buffers struct{ pool sync.Pool }

var packedPages, pageRows buffers

const maxPooled = 4 << 20

// get returns an empty buffer with a capacity of at least size bytes.
func (p *buffers) get(size int) []byte {
	if b, ok := p.pool.Get().(*[]byte); ok && cap(*b) >= size {
		return (*b)[:0]
	}
	return make([]byte, 0, size)
}

func (p *buffers) put(b []byte) {
	if cap(b) > 0 && cap(b) <= maxPooled {
		p.pool.Put(&b)
	}
}

// Release recycles the memory of the rows of a page that Get returned. Calling it is optional. The rows must
// not be used afterwards.
func (p *Page) Release() {
	pageRows.put(p.Rows)
	p.Rows = nil
}

// Store is the handle on SHEAF_PAGES. It is safe for concurrent use and runs no goroutines in the background.
type Store struct {
	cfg     Config
	js      jetstream.JetStream
	stream  jetstream.Stream
	writers *streams.Writers
	batches chan struct{} // one token per atomic batch in flight
	writing atomic.Int64  // disk space needed by pages in flight, in bytes
}

// Config configures how pages are written.
type Config struct {
	Shared   bool          // other processes write pages too
	Timeout  time.Duration // for the acknowledgement of one publish
	Attempts int           // per page, before ErrUnavailable
}

// New returns the handle on the stream of pages. A process must create only one, because it limits the pages
// in flight.
func New(js jetstream.JetStream, stream jetstream.Stream, cfg Config) *Store {
	return &Store{cfg: cfg, js: js, stream: stream,
		writers: streams.NewWriters(cfg.Shared),
		batches: make(chan struct{}, maxBatchesInFlight)}
}

// Publish writes a page once. It returns nil once the page is durable, even if it existed already: then p is
// dropped and the first writer's page stays, so readers must take the page from Get. stored is true if p was
// written. A page of several parts is written as one atomic batch: all or nothing. ErrNoSpace means that the
// stream is full.
func (s *Store) Publish(ctx context.Context, p Page) (stored bool, err error) {
	_, stored, err = s.PublishSized(ctx, p, nil)
	return stored, err
}

// PublishSized is Publish that also returns p's size in SHEAF_PAGES. Before it writes, it passes room, if not
// nil, the disk space in bytes that all pages in flight in this process need. A page of several parts needs
// twice its size: the server stores a batch beside its stream until it is complete. An error of room becomes
// ErrNoSpace.
func (s *Store) PublishSized(ctx context.Context, p Page, room func(bytes int64) error) (size int64,
	stored bool, err error) {
	if err := events.CheckName(p.Tenant, p.Key); err != nil {
		return 0, false, err
	}
	msgs, payload, err := s.encodePage(p)
	if err != nil {
		return 0, false, err
	}
	defer packedPages.put(payload) // published data was copied to the connection
	for _, m := range msgs {
		size += int64(m.Size()) + storedOverhead
	}
	if room != nil {
		disk := size
		if len(msgs) > 1 {
			disk *= 2
		}
		defer s.writing.Add(-disk)
		if err := room(s.writing.Add(disk)); err != nil {
			return size, false, fmt.Errorf("page %d: %w: %w", p.Number, events.ErrNoSpace, err)
		}
	}
	for attempt := 1; ; attempt++ {
		err = s.publishParts(ctx, p.Tenant, msgs)
		if !errors.Is(err, events.ErrUnavailable) || attempt >= s.cfg.Attempts || ctx.Err() != nil {
			break
		}
		streams.Wait(ctx, streams.Backoff(uint64(attempt)))
	}
	if errors.Is(err, streams.ErrSubjectTaken) {
		return size, false, nil
	}
	if errors.Is(err, events.ErrNoSpace) {
		// A full stream also refuses a page that it already has.
		if _, missing := s.getPart(ctx, p.ID, 1); missing == nil {
			return size, false, nil
		}
	}
	if err != nil {
		return size, false, fmt.Errorf("page %d: %w", p.Number, err)
	}
	return size, true, nil
}

func (s *Store) publishParts(ctx context.Context, tenant string, msgs []*nats.Msg) error {
	leave, err := s.writers.Enter(ctx, tenant) // waiting for a turn does not count towards the server's time
	if err != nil {
		return err
	}
	defer leave()
	if len(msgs) > 1 {
		select {
		case s.batches <- struct{}{}:
			defer func() { <-s.batches }()
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", events.ErrUnavailable, ctx.Err())
		}
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout+time.Duration(len(msgs))*10*time.Millisecond)
	defer cancel()
	if len(msgs) == 1 {
		failpoint.Hit("page.before")
		if _, err := s.js.PublishMsg(ctx, msgs[0]); err != nil {
			return streams.PublishError(err)
		}
		failpoint.Hit("page.after")
		return nil
	}
	if _, err := jetstreamext.PublishMsgBatch(ctx, s.js, msgs); err != nil {
		return streams.PublishError(err)
	}
	return nil
}

// encodePage compresses a page and splits it into parts, which alias payload. It assumes of the server's
// max_payload only that the headers fit.
func (s *Store) encodePage(p Page) (msgs []*nats.Msg, payload []byte, err error) {
	payload, encoding, err := compress(p.Rows)
	if err != nil {
		return nil, nil, streams.Permanent(fmt.Errorf("page %d: %w", p.Number, err))
	}
	limit := int(s.js.Conn().MaxPayload()) - partOverhead
	size := min(partSize, limit)
	if limit <= 0 || len(payload) > size*maxParts {
		return nil, nil, streams.Permanent(fmt.Errorf("page %d: %d bytes compressed do not fit into %d messages of at most %d bytes (the server's max_payload)", p.Number, len(payload), maxParts, size))
	}
	if p.SHA256 == [sha256.Size]byte{} {
		p.SHA256 = sha256.Sum256(p.Rows)
	}
	parts := max(1, (len(payload)+size-1)/size)
	id, now := events.NewID(), time.Now()
	checksum := crc32c(p.Rows)
	msgs = make([]*nats.Msg, parts)
	for i := range parts {
		h := events.Header(id+"-"+strconv.Itoa(i+1), p.Tenant, p.Key, events.PageTypeName, now)
		for _, own := range [...][2]string{
			{headerEncoding, encoding},
			{headerPage, strconv.Itoa(p.Number)},
			{headerPart, strconv.Itoa(i + 1)},
			{headerParts, strconv.Itoa(parts)},
			{headerRows, strconv.Itoa(p.RowCount)},
			{headerHeaderRow, strconv.FormatBool(p.HeaderRow)},
			{headerTotal, strconv.FormatInt(p.Total, 10)},
			{headerTotalPages, strconv.Itoa(p.TotalPages)},
			{headerLimit, strconv.Itoa(p.Limit)},
			{headerAttempts, strconv.Itoa(p.Attempts)},
			{headerSHA256, hex.EncodeToString(p.SHA256[:])},
			{headerCRC32C, checksum},
		} {
			h[own[0]] = []string{own[1]}
		}
		msgs[i] = &nats.Msg{Subject: Subject(p.ID, i+1), Header: h,
			Data: payload[i*size : min((i+1)*size, len(payload))]}
	}
	if p.Next != "" {
		msgs[0].Header.Set(headerNext, p.Next)
	}
	if p.Last {
		msgs[0].Header.Set(headerLast, "true")
	}
	return msgs, payload, nil
}

// Get returns a page with its parts joined and its checksum verified. Only the leader decides on
// ErrPageMissing. ErrPageDamaged means that the stored data does not come from one writer.
func (s *Store) Get(ctx context.Context, id ID) (Page, error) {
	first, err := s.getPart(ctx, id, 1)
	if err != nil {
		return Page{}, err
	}
	parts, err := strconv.Atoi(first.Header.Get(headerParts))
	if err != nil || parts < 1 || parts > maxParts {
		return Page{}, fmt.Errorf("%w: page %d: %s %q", events.ErrPageDamaged, id.Number, headerParts,
			first.Header.Get(headerParts))
	}
	// Do not allocate before the parts exist: parts is only a claim.
	chunks, size, stored := [][]byte{first.Data}, len(first.Data),
		storedSize(first.Subject, first.Header, first.Data)
	for n := 2; n <= parts; n++ {
		part, err := s.getPart(ctx, id, n)
		if errors.Is(err, events.ErrPageMissing) {
			return Page{}, fmt.Errorf("%w: page %d: part %d of %d is missing", events.ErrPageDamaged,
				id.Number, n, parts)
		}
		if err != nil {
			return Page{}, err
		}
		for _, h := range []string{headerSHA256, headerParts, headerPage} {
			if part.Header.Get(h) != first.Header.Get(h) {
				return Page{}, fmt.Errorf("%w: page %d: part %d belongs to another answer (%s differs)",
					events.ErrPageDamaged, id.Number, n, h)
			}
		}
		chunks, size, stored = append(chunks, part.Data), size+len(part.Data),
			stored+storedSize(part.Subject, part.Header, part.Data)
		if size > maxPageBytes {
			return Page{}, fmt.Errorf("%w: page %d: more than %d bytes", events.ErrPageDamaged,
				id.Number, maxPageBytes)
		}
	}
	payload := first.Data
	if parts > 1 {
		payload = slices.Concat(chunks...)
	}
	p, err := decodePage(id, first.Header, payload)
	p.Stored = stored
	return p, err
}

// storedSize returns the approximate size of a message in its stream.
func storedSize(subject string, h nats.Header, data []byte) int64 {
	return int64((&nats.Msg{Subject: subject, Header: h, Data: data}).Size()) + storedOverhead
}

func decodePage(id ID, h nats.Header, payload []byte) (Page, error) {
	p := Page{ID: id}
	damaged := func(what string, err error) (Page, error) {
		return Page{}, fmt.Errorf("%w: page %d: %s: %w", events.ErrPageDamaged, id.Number, what, err)
	}
	number := func(name string) int64 {
		n, err := strconv.ParseInt(h.Get(name), 10, 64)
		if err != nil {
			return -2
		}
		return n
	}
	p.RowCount, p.Total = int(number(headerRows)), number(headerTotal)
	p.TotalPages, p.Attempts = int(number(headerTotalPages)), int(number(headerAttempts))
	p.HeaderRow = h.Get(headerHeaderRow) == "true"
	p.Next, p.Last = h.Get(headerNext), h.Get(headerLast) == "true"
	p.StoredAt, _ = time.Parse(time.RFC3339Nano, h.Get(headerTime))
	if h.Get(headerLimit) != "" { // pages of earlier versions have none
		p.Limit = int(number(headerLimit))
	}
	if p.RowCount < 0 || p.Limit < 0 || p.Total < -1 || p.TotalPages < 0 || p.Attempts < 0 ||
		number(headerPage) != int64(id.Number) {
		return damaged("headers", errors.New("missing or negative numbers"))
	}
	sum, err := hex.DecodeString(h.Get(headerSHA256))
	if err != nil || len(sum) != sha256.Size {
		return damaged(headerSHA256, errors.New("not 32 bytes in hexadecimal"))
	}
	p.SHA256 = [sha256.Size]byte(sum)
	switch e := h.Get(headerEncoding); e {
	case encodingZstd:
		p.Rows, err = decompressZstd(payload)
	case encodingS2:
		p.Rows, err = decompressS2(payload)
	default:
		err = fmt.Errorf("%s %q is not known", headerEncoding, e)
	}
	if err != nil {
		return damaged("decompressing", err)
	}
	if !intact(h, p.Rows, p.SHA256) {
		return damaged("checksum", errors.New("the rows are not those that were written"))
	}
	return p, nil
}

// intact reports whether rows match the checksum in the headers. It detects damage only, and the store and
// its encryption have checksums too, so the CRC suffices: it costs a fifteenth of SHA-256 (measured), which
// distinguishes pages. Pages of an earlier version have only SHA-256.
func intact(h nats.Header, rows []byte, sum [sha256.Size]byte) bool {
	if crc := h.Get(headerCRC32C); crc != "" {
		return crc == crc32c(rows)
	}
	return sha256.Sum256(rows) == sum
}

func crc32c(rows []byte) string {
	return fmt.Sprintf("%08x", crc32.Checksum(rows, crc32.MakeTable(crc32.Castagnoli)))
}

// compress returns rows in the cheapest encoding: S2, which takes a fifth of zstd's processor time and 1.7
// times its space (measured). Rows that S2 shrinks implausibly far are compressed with zstd, which makes them
// even smaller.
func compress(rows []byte) (payload []byte, encoding string, err error) {
	if most := s2.MaxEncodedLen(len(rows)); most >= 0 {
		payload = s2.Encode(packedPages.get(most)[:most], rows)
		if len(rows) <= max(freeOfRatio, s2Ratio*len(payload)) {
			return payload, encodingS2, nil
		}
	}
	encoder, err := pageEncoder()
	if err != nil {
		return nil, "", err
	}
	return encoder.EncodeAll(rows, payload[:0]), encodingZstd, nil
}

// An S2 block can claim almost any size. A block of more than freeOfRatio bytes is written only if it expands
// to at most s2Ratio times its size, so that readers can refuse larger claims.
const (
	s2Ratio     = 64
	freeOfRatio = 1 << 20
)

// decompressS2 decompresses one S2 block. It allocates the claimed size, unless Sheaf would not have written
// it.
func decompressS2(payload []byte) ([]byte, error) {
	size, err := s2.DecodedLen(payload)
	if err != nil {
		return nil, err
	}
	if size > maxPageBytes || size > max(freeOfRatio, s2Ratio*len(payload)) {
		return nil, fmt.Errorf("%d bytes are not taken to hold %d", len(payload), size)
	}
	return s2.Decode(pageRows.get(size)[:size], payload)
}

// decompressZstd decompresses one zstd frame (RFC 8878). It allocates the claimed size once that is possible:
// a block takes at least four bytes and holds at most 128 KiB.
func decompressZstd(payload []byte) ([]byte, error) {
	if len(payload) == 0 {
		return nil, nil
	}
	var h zstd.Header
	if err := h.Decode(payload); err != nil {
		return nil, err
	}
	const (
		minBlock, maxOfBlock = 4, 128 << 10
		// A frame of less than 256 bytes may omit its size.
		unsaid = 255
		// With this many spare bytes the decoder uses its fast path.
		spare = 16
	)
	size := uint64(unsaid)
	if h.HasFCS {
		size = h.FrameContentSize
	}
	if size > maxPageBytes || size > unsaid && size > uint64(len(payload))/minBlock*maxOfBlock {
		return nil, fmt.Errorf("%d bytes cannot hold %d", len(payload), size)
	}
	decoder, err := pageDecoder()
	if err != nil {
		return nil, err
	}
	return decoder.DecodeAll(payload, pageRows.get(int(size)+spare))
}

// Has reports whether a page is stored. It reads only the page's first part, and does not verify it.
func (s *Store) Has(ctx context.Context, id ID) (bool, error) {
	_, err := s.getPart(ctx, id, 1)
	if errors.Is(err, events.ErrPageMissing) {
		return false, nil
	}
	return err == nil, err
}

// getPart reads one part by a direct get, which any replica may answer. It asks the leader before it reports
// the part as missing.
func (s *Store) getPart(ctx context.Context, id ID, part int) (*jetstream.RawStreamMsg, error) {
	subject := Subject(id, part)
	for attempt := uint64(1); ; attempt++ {
		m, err := s.stream.GetLastMsgForSubject(ctx, subject)
		if err == nil {
			return m, nil
		}
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			info, infoErr := streams.LeaderInfo(ctx, s.stream, jetstream.WithSubjectFilter(subject))
			if infoErr == nil && len(info.State.Subjects) == 0 {
				return nil, fmt.Errorf("%w: page %d part %d", events.ErrPageMissing, id.Number, part)
			}
			err = cmpErr(infoErr, err)
			if infoErr == nil && attempt >= 5 {
				if unreadable, leaderErr := s.leaderCannotRead(ctx, subject); unreadable {
					return nil, fmt.Errorf("%w: page %d part %d is stored and cannot be read",
						events.ErrPageDamaged, id.Number, part)
				} else if leaderErr != nil {
					err = leaderErr
				}
			}
		}
		if attempt >= 5 || ctx.Err() != nil {
			return nil, fmt.Errorf("%w: reading page %d: %w", events.ErrUnavailable, id.Number, err)
		}
		if attempt > 1 { // at first, the part may have been written a moment ago
			streams.Wait(ctx, streams.Backoff(attempt))
		}
	}
}

// leaderCannotRead reports whether the leader cannot read a message of a subject that it lists, because its
// checksum is wrong. A direct get would not show that, as a lagging replica may answer it.
func (s *Store) leaderCannotRead(ctx context.Context, subject string) (bool, error) {
	ask, err := json.Marshal(map[string]string{"last_by_subj": subject})
	if err != nil {
		return false, err
	}
	m, err := s.js.Conn().RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+events.StreamPages, ask)
	if err != nil {
		return false, err
	}
	var answer struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return false, err
	}
	return answer.Error != nil && answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound, nil
}

func cmpErr(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// NewestRun returns the newest run of a key, from one on, in which a sheet has page 1, the first page of a
// run. If there is none it returns from.
func (s *Store) NewestRun(ctx context.Context, tenant, key string, sheet int, from uint64) (uint64, error) {
	runs, err := s.runs(ctx, tenant, key)
	newest := from
	for _, r := range runs {
		if r.sheet == sheet {
			newest = max(newest, r.Run)
		}
	}
	return newest, err
}

// PurgeEarlierRuns deletes the pages of a sheet in the runs of a key before run, except rows that came with a
// request.
func (s *Store) PurgeEarlierRuns(ctx context.Context, tenant, key string, sheet int, run uint64) error {
	return s.purgeRuns(ctx, tenant, key, func(r sheetRun) bool { return r.sheet == sheet && r.Run < run })
}

// PurgeRuns is PurgeEarlierRuns for all sheets of a key.
func (s *Store) PurgeRuns(ctx context.Context, tenant, key string, run uint64) error {
	return s.purgeRuns(ctx, tenant, key, func(r sheetRun) bool { return r.Run < run })
}

func (s *Store) purgeRuns(ctx context.Context, tenant, key string, which func(sheetRun) bool) error {
	runs, err := s.runs(ctx, tenant, key)
	if err != nil {
		return err
	}
	for _, r := range runs {
		if which(r) && r.Run != events.RawRun {
			err = errors.Join(err, s.PurgeRun(ctx, tenant, key, r.Run, r.sheet))
		}
	}
	return err
}

// List returns the numbers of the pages of a sheet in a run, from 1 on, ascending, from the leader. A request
// without sheets has sheet 0. Pages are written completely, so the first part represents the page.
func (s *Store) List(ctx context.Context, tenant, key string, run uint64, sheet int) ([]int, error) {
	prefix := runPrefix(tenant, key, run, sheet)
	info, err := streams.LeaderInfo(ctx, s.stream, jetstream.WithSubjectFilter(prefix+"*.1"))
	if err != nil {
		return nil, fmt.Errorf("%w: listing pages: %w", events.ErrUnavailable, err)
	}
	numbers := make([]int, 0, len(info.State.Subjects))
	for subject := range info.State.Subjects {
		page, _, _ := strings.Cut(strings.TrimPrefix(subject, prefix), ".")
		n, err := strconv.Atoi(page)
		if err != nil || n < 1 {
			continue
		}
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	return numbers, nil
}

// Count returns how many pages a key has, in all sheets and runs, without rows that came with its request.
func (s *Store) Count(ctx context.Context, tenant, key string) (n int, err error) {
	all := events.SubjectPage + tenant + "." + key + "."
	info, err := streams.LeaderInfo(ctx, s.stream, jetstream.WithSubjectFilter(all+"*.*.1"))
	if err != nil {
		return 0, fmt.Errorf("%w: counting pages: %w", events.ErrUnavailable, err)
	}
	for subject := range info.State.Subjects {
		token, _, _ := strings.Cut(strings.TrimPrefix(subject, all), ".")
		if run, _, ok := splitRun(token); ok && run != events.RawRun {
			n++
		}
	}
	return n, nil
}

// PurgeRun deletes the pages of a sheet in one run. Do not purge pages of an export in progress.
func (s *Store) PurgeRun(ctx context.Context, tenant, key string, run uint64, sheet int) error {
	if err := events.CheckName(tenant, key); err != nil {
		return err
	}
	if err := s.stream.Purge(ctx, jetstream.WithPurgeSubject(runPrefix(tenant, key, run, sheet)+">")); err != nil {
		return fmt.Errorf("%w: purging pages: %w", events.ErrUnavailable, err)
	}
	return nil
}

// Purge deletes all pages of a key.
func (s *Store) Purge(ctx context.Context, tenant, key string) error {
	if err := events.CheckName(tenant, key); err != nil {
		return err
	}
	if err := s.stream.Purge(ctx,
		jetstream.WithPurgeSubject(events.SubjectPage+tenant+"."+key+".>")); err != nil {
		return fmt.Errorf("%w: purging pages: %w", events.ErrUnavailable, err)
	}
	return nil
}
