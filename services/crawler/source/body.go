package source

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"
	"golang.org/x/net/http/httpguts"

	"sheaf/events"
)

// tally counts the bytes from the network and keeps their error, to distinguish a broken transfer from a
// broken encoding.
type tally struct {
	r   io.Reader
	n   atomic.Int64
	max int64 // 0 for no limit
	err error
}

// pace calls slow once a body averages fewer than rate bytes per second over a span. stop ends the check.
func pace(resp *http.Response, rate int64, over time.Duration, slow func()) (stop func()) {
	from := &tally{r: resp.Body}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{from, resp.Body}
	var mu sync.Mutex
	mu.Lock()
	defer mu.Unlock()
	var seen int64
	var timer *time.Timer
	timer = time.AfterFunc(over, func() {
		mu.Lock()
		defer mu.Unlock()
		now := from.n.Load()
		if now-seen < int64(float64(rate)*over.Seconds()) {
			slow()
			return
		}
		seen = now
		timer.Reset(over)
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		timer.Stop()
	}
}

func (t *tally) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	if t.n.Add(int64(n)) > t.max && t.max > 0 {
		err = errTooMany
	}
	if err != nil && !errors.Is(err, io.EOF) {
		t.err = err
	}
	return n, err
}

var (
	buffers  = sync.Pool{New: func() any { return new([]byte) }}
	inflates = sync.Pool{New: func() any { return newInflater() }}
)

// recycle keeps a buffer for a later page. It drops a very large one, so that one huge page does not stay in
// memory.
func recycle(b []byte) {
	if cap(b) > 0 && cap(b) <= 4<<20 {
		b = b[:0]
		buffers.Put(&b)
	}
}

// Below this size a high ratio is harmless and normal, such as an empty page in a few bytes.
const ratioFrom = 8 << 20

// read reads and decompresses a body of at most limit bytes. The bytes are from the pool, also on error.
func (f *Fetcher) read(ctx context.Context, resp *http.Response, limit int64, share *share) ([]byte, *failedAttempt) {
	buf := (*buffers.Get().(*[]byte))[:0]
	fail := func(code, msg string, r retry, err error) ([]byte, *failedAttempt) {
		return buf, &failedAttempt{Failure: Failure{Code: code, Status: resp.StatusCode, Msg: msg, Err: err}, retry: r}
	}
	tooLarge := fmt.Sprintf("the answer is larger than %d bytes (--max-page-bytes)", limit)
	from := &tally{r: resp.Body}
	var body io.Reader = from
	ratio := int64(0)
	coding, _, err := contentCoding(resp.Header)
	switch {
	case err != nil:
		return fail(events.CodeSourceFormat, err.Error(), never, err)
	case coding == "":
		if resp.ContentLength > limit {
			return fail(events.CodeLimitBytes, tooLarge, never, nil)
		}
		// A larger announced length is not allocated before its bytes arrive.
		buf = slices.Grow(buf, int(min(max(resp.ContentLength, 0), 1<<20))+1)
	default:
		from.max = limit + moreCompressed
		z := inflates.Get().(*inflater)
		defer inflates.Put(z)
		if err := z.reset(from, coding); err != nil && !errors.Is(err, io.EOF) { // EOF: an empty body
			return f.undone(ctx, resp, from, buf, err)
		} else if err == nil {
			body = z
		}
		ratio = f.policy.MaxRatio
	}
	for {
		if len(buf) == cap(buf) {
			more := max(len(buf), 32<<10)
			if err := share.grow(int64(len(buf) + more)); err != nil {
				return fail(events.CodeLimitBytes, "no memory for the answer", always, err)
			}
			buf = slices.Grow(buf, more)
		}
		n, err := body.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		size := int64(len(buf))
		switch {
		case size > limit:
			return fail(events.CodeLimitBytes, tooLarge, never, nil)
		case ratio > 0 && size > ratioFrom && size/ratio > from.n.Load():
			return fail(events.CodeLimitBytes, fmt.Sprintf("the answer grows to more than %d times its compressed size (--max-compression-ratio)", ratio), never, nil)
		case err == io.EOF:
			return buf, nil
		case errors.Is(err, errTooMany):
			return fail(events.CodeLimitBytes, tooLarge, never, err)
		case err != nil:
			return f.undone(ctx, resp, from, buf, err)
		}
	}
}

// undone is the failure of a body that was not read to its end.
func (f *Fetcher) undone(ctx context.Context, resp *http.Response, from *tally, buf []byte, err error) ([]byte, *failedAttempt) {
	coding, _, _ := contentCoding(resp.Header)
	bad := &failedAttempt{Failure: Failure{Code: events.CodeSourceFormat, Msg: "the answer's " + coding + " encoding is broken", Err: err}}
	switch {
	case errors.Is(err, errTrailing):
		bad.Msg = "the answer has data after its " + coding + " encoding, other than zeros and white space"
	case context.Cause(ctx) != nil:
		bad = f.broken(ctx, err)
	case from.err != nil, errors.Is(err, io.ErrUnexpectedEOF):
		bad = f.broken(ctx, err)
		bad.Msg = fmt.Sprintf("the answer broke off at byte %d", from.n.Load())
	}
	bad.Status = resp.StatusCode
	return buf, bad
}

var (
	// errTrailing reports data after the end that is neither padding nor another gzip member.
	errTrailing = errors.New("data after the end of the compressed answer")
	// errTooMany reports more compressed bytes than a response may have.
	errTooMany = errors.New("too many compressed bytes")
)

// moreCompressed is how far a response may exceed its limit on the network: the overhead of gzip on data that
// does not compress.
const moreCompressed = 64 << 10

// contentCoding returns the compression of a response: "gzip", "deflate" or "". strange is a word that is no
// content coding, as some servers send (UTF-8, none). Like other clients, Sheaf reads such a body as it is.
func contentCoding(h http.Header) (coding, strange string, err error) {
	for word := range strings.SplitSeq(strings.Join(h.Values("Content-Encoding"), ","), ",") {
		word = strings.ToLower(strings.TrimSpace(word))
		switch word {
		case "", "identity", "none", "utf-8", "utf8":
			continue
		case "x-gzip": // RFC 9110, 8.4.1.3: the two are the same
			word = "gzip"
		case "gzip", "deflate":
		case "br", "zstd", "compress", "x-compress", "dcb", "dcz", "exi", "pack200-gzip", "aes128gcm", "aws-chunked":
			return "", "", fmt.Errorf("the answer's Content-Encoding %s is not supported; gzip and deflate are", word)
		default:
			if len(word) > 32 || !httpguts.ValidHeaderFieldName(word) { // a token, RFC 9110, 8.4.1
				word = "of the answer"
			}
			strange = word
			continue
		}
		if coding != "" {
			return "", "", fmt.Errorf("the answer is encoded twice, as %s and as %s; one is supported", coding, word)
		}
		coding = word
	}
	return coding, strange, nil
}

// inflater decompresses a response. It ignores zeros and white space after the compressed data, as gunzip,
// curl, browsers and Python do. It is reusable.
type inflater struct {
	src    *bufio.Reader
	gzip   *gzip.Reader // of this or an earlier response
	from   io.Reader    // of the current member
	coding string
}

func newInflater() *inflater { return &inflater{src: bufio.NewReader(nil), gzip: new(gzip.Reader)} }

// reset begins a response. The error is io.EOF for an empty one.
func (z *inflater) reset(r io.Reader, coding string) error {
	z.src.Reset(r)
	z.coding = coding
	if coding == "gzip" {
		return z.member()
	}
	begin, err := z.src.Peek(2)
	switch {
	case len(begin) == 0:
		return err
	case len(begin) == 2 && begin[0]&15 == 8 && (int(begin[0])<<8|int(begin[1]))%31 == 0: // RFC 1950, 2.2
		z.from, err = zlib.NewReader(z.src)
		return err
	}
	z.from = flate.NewReader(z.src) // as some servers understand RFC 9110, 8.4.1.2
	return nil
}

// member begins a gzip member.
func (z *inflater) member() error {
	if begin, err := z.src.Peek(1); err != nil {
		return err
	} else if begin[0] != 0x1f {
		return gzip.ErrHeader
	}
	if err := z.gzip.Reset(z.src); errors.Is(err, io.EOF) { // within the header
		return io.ErrUnexpectedEOF
	} else if err != nil {
		return err
	}
	z.gzip.Multistream(false)
	z.from = z.gzip
	return nil
}

func (z *inflater) Read(p []byte) (int, error) {
	for {
		n, err := z.from.Read(p)
		if n > 0 && errors.Is(err, io.EOF) {
			return n, nil
		}
		if !errors.Is(err, io.EOF) {
			return n, err
		}
		if err := z.skipPadding(); err != nil {
			return 0, err
		}
		if err := z.member(); err != nil {
			return 0, err
		}
	}
}

// skipPadding advances to the next gzip member. It returns io.EOF if there is none.
func (z *inflater) skipPadding() error {
	for {
		c, err := z.src.ReadByte()
		switch {
		case err != nil:
			return err
		case c == 0x1f && z.coding == "gzip":
			return z.src.UnreadByte()
		case c != 0 && !strings.ContainsRune(" \t\r\n", rune(c)):
			return errTrailing
		}
	}
}
