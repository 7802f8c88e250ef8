package source

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"
	"golang.org/x/net/http/httpguts"
)

var (
	// errTrailing is the error of reading what is neither padding nor another gzip member.
	errTrailing = errors.New("data after the end of the compressed answer")
	// errTooMany is the error of reading more compressed bytes than an answer may have.
	errTooMany = errors.New("too many compressed bytes")
)

// moreCompressed is how many bytes an answer may have on the network above its limit after decompression: what
// gzip adds to data that does not compress.
const moreCompressed = 64 << 10

// contentCoding returns how the body of an answer is compressed: "gzip", "deflate" or "". strange is a word that
// is no content coding, as some servers send (UTF-8, none): like other clients Sheaf reads such a body as it is.
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

// inflater decompresses an answer. Zeros and white space after the compressed data are ignored, as gunzip, curl,
// browsers and Python do. It can be used again.
type inflater struct {
	src    *bufio.Reader
	gzip   *gzip.Reader // of this or an earlier answer
	from   io.Reader    // of the current member
	coding string
}

func newInflater() *inflater { return &inflater{src: bufio.NewReader(nil), gzip: new(gzip.Reader)} }

// reset begins an answer. An error is io.EOF for an empty one.
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

// skipPadding goes to the next gzip member. It returns io.EOF if there is none.
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
