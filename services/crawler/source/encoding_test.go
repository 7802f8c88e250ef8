package source_test

import (
	"bytes"
	"compress/flate"
	"compress/zlib"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sheaf/events"
	"sheaf/services/crawler/source"
	"sheaf/services/crawler/source/sourcetest"
)

// encoded answers with a body and the values of Content-Encoding.
func encoded(body []byte, values ...string) sourcetest.Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ []byte) {
		w.Header()["Content-Encoding"] = values
		_, _ = w.Write(body)
	}
}

func compressed(t *testing.T, b []byte, open func(io.Writer) io.WriteCloser) []byte {
	t.Helper()
	var out bytes.Buffer
	w := open(&out)
	_, err := w.Write(b)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return out.Bytes()
}

func TestContentEncodings(t *testing.T) {
	t.Parallel()
	page := sourcetest.New(t, 25).Page(1, 10)
	gz := sourcetest.Compress(page)
	zl := compressed(t, page, func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) })
	raw := compressed(t, page, func(w io.Writer) io.WriteCloser {
		f, _ := flate.NewWriter(w, flate.BestCompression)
		return f
	})
	plus := func(b []byte, more ...string) []byte { return []byte(string(b) + strings.Join(more, "")) }
	const none = "\x00"
	for _, c := range []struct {
		name     string
		body     []byte
		values   []string
		attempts int    // until it is aborted
		want     string // "" for the page
	}{
		{"gzip", gz, []string{"gzip"}, 1, ""},
		{"upper case", gz, []string{"GZIP"}, 1, ""},
		{"x-gzip", gz, []string{"X-Gzip"}, 1, ""},
		{"a list", gz, []string{"gzip, identity"}, 1, ""},
		{"a list the other way", gz, []string{" identity ,gzip,"}, 1, ""},
		{"two fields", gz, []string{"identity", "gzip"}, 1, ""},
		{"gzip and a charset", gz, []string{"gzip, UTF-8"}, 1, ""},
		{"deflate", zl, []string{"deflate"}, 1, ""},
		{"deflate without zlib", raw, []string{"Deflate"}, 1, ""},
		{"identity", page, []string{"Identity"}, 1, ""},
		{"none", page, []string{"none"}, 1, ""},
		{"a charset", page, []string{"UTF-8"}, 1, ""},
		{"a word that is no coding", page, []string{"application/json"}, 1, ""},
		{"empty", page, []string{""}, 1, ""},

		{"gzip, zeros behind", plus(gz, strings.Repeat(none, 10_000)), []string{"gzip"}, 1, ""},
		{"gzip, a zero behind", plus(gz, none), []string{"gzip"}, 1, ""},
		{"gzip, a line feed behind", plus(gz, "\n"), []string{"gzip"}, 1, ""},
		{"gzip, white space behind", plus(gz, " \r\n\t\n"), []string{"gzip"}, 1, ""},
		{"gzip, two members", plus(sourcetest.Compress(page[:50]), string(sourcetest.Compress(page[50:]))), []string{"gzip"}, 1, ""},
		{"gzip, two members and zeros", plus(sourcetest.Compress(page[:50]), none, none, string(sourcetest.Compress(page[50:])), none), []string{"gzip"}, 1, ""},
		{"deflate, a line feed behind", plus(zl, "\n"), []string{"deflate"}, 1, ""},
		{"deflate without zlib, zeros behind", plus(raw, none, none), []string{"deflate"}, 1, ""},

		{"gzip, rubbish behind", plus(gz, "rubbish"), []string{"gzip"}, 1, "the answer has data after its gzip encoding, other than zeros and white space"},
		{"gzip, rubbish behind zeros", plus(gz, none, none, "x"), []string{"gzip"}, 1, "the answer has data after its gzip encoding, other than zeros and white space"},
		{"deflate, rubbish behind", plus(zl, "x"), []string{"deflate"}, 1, "the answer has data after its deflate encoding, other than zeros and white space"},
		{"gzip, cut", gz[:len(gz)-9], []string{"gzip"}, 2, "the answer broke off at byte"},
		{"gzip, the checksum cut", gz[:len(gz)-1], []string{"gzip"}, 2, "the answer broke off at byte"},
		{"gzip, the second member cut", plus(gz, string(gz[:20])), []string{"gzip"}, 2, "the answer broke off at byte"},
		{"gzip, the header of the second member cut", plus(gz, "\x1f"), []string{"gzip"}, 2, "the answer broke off at byte"},
		{"gzip, cut in the name of a file", []byte("\x1f\x8b\x08\x08\x00\x00\x00\x00\x00\xffpage"), []string{"gzip"}, 2, "the answer broke off at byte"},
		{"gzip, the second member cut in the name of a file", plus(gz, "\x1f\x8b\x08\x08\x00\x00\x00\x00\x00\xffpage"), []string{"gzip"}, 2, "the answer broke off at byte"},
		{"gzip, a wrong second member", plus(gz, "\x1f\x8b", strings.Repeat("x", 20)), []string{"gzip"}, 1, "the answer's gzip encoding is broken"},
		{"deflate, cut", zl[:len(zl)-2], []string{"deflate"}, 2, "the answer broke off at byte"},
		{"deflate without zlib, cut", raw[:len(raw)-2], []string{"deflate"}, 2, "the answer broke off at byte"},
		{"short, and no gzip", []byte("{}"), []string{"gzip"}, 1, "the answer's gzip encoding is broken"},
		{"no gzip", page, []string{"gzip"}, 1, "the answer's gzip encoding is broken"},
		{"no deflate", []byte("\xff\xff\xff"), []string{"deflate"}, 1, "the answer's deflate encoding is broken"},
		{"nothing, as deflate", nil, []string{"deflate"}, 2, "the body is empty"},
		{"br", []byte("x"), []string{"br"}, 1, "the answer's Content-Encoding br is not supported; gzip and deflate are"},
		{"zstd", []byte("x"), []string{"ZSTD"}, 1, "the answer's Content-Encoding zstd is not supported; gzip and deflate are"},
		{"br in a list", []byte("x"), []string{"gzip", "br"}, 1, "the answer's Content-Encoding br is not supported; gzip and deflate are"},
		{"twice", gz, []string{"deflate, gzip"}, 1, "the answer is encoded twice, as deflate and as gzip; one is supported"},
		{"unknown", []byte("\x04\x22\x4d\x18"), []string{"lz4"}, 1, "the Content-Encoding lz4 is not supported, gzip and deflate are"},
		{"unknown, and no token", []byte("x"), []string{"<b>"}, 1, "the Content-Encoding of the answer is not supported, gzip and deflate are"},
	} {
		src := sourcetest.New(t, 1)
		src.Fault = sourcetest.Always(encoded(c.body, c.values...))
		policy := quick
		policy.Attempts = 2
		got, err := open(t, src, source.Request{}, policy).Fetch(t.Context(), source.Position{Page: 1})
		if c.want == "" {
			require.NoError(t, err, c.name)
			require.Equal(t, string(page), string(got.Body), c.name)
			got.Release()
		} else {
			require.ErrorContains(t, err, c.want, c.name)
		}
		require.Len(t, src.Requests(), c.attempts, c.name)
	}
}

// Compressed bytes are bounded too: empty members and padding contain no row, and are not read forever.
func TestCompressedBytesAreBounded(t *testing.T) {
	t.Parallel()
	page := string(sourcetest.New(t, 1).Page(1, 10))
	empty := sourcetest.Compress(nil)
	stored := func(s string) []byte {
		return compressed(t, []byte(s), func(w io.Writer) io.WriteCloser {
			f, _ := zlib.NewWriterLevel(w, zlib.NoCompression)
			return f
		})
	}
	const limit = 1 << 20
	for _, c := range []struct {
		name, coding string
		body         []byte
		want         string
	}{
		{"empty members", "gzip", bytes.Repeat(empty, (limit+64<<10)/len(empty)+1), "the answer is larger than 1048576 bytes (--max-page-bytes)"},
		{"zeros behind", "gzip", append(sourcetest.Compress([]byte(page)), make([]byte, limit+64<<10)...), "the answer is larger than 1048576 bytes (--max-page-bytes)"},
		{"white space behind", "deflate", append(stored(page), bytes.Repeat([]byte(" "), limit+64<<10)...), "the answer is larger than 1048576 bytes (--max-page-bytes)"},
		{"what does not compress", "deflate", stored(page + strings.Repeat(" ", limit-len(page))), ""},
		{"some zeros behind", "gzip", append(sourcetest.Compress([]byte(page)), make([]byte, limit)...), ""},
	} {
		src := sourcetest.New(t, 1)
		src.Fault = sourcetest.Always(encoded(c.body, c.coding))
		policy := quick
		policy.MaxBodyBytes = limit
		got, err := open(t, src, source.Request{}, policy).Fetch(t.Context(), source.Position{Page: 1})
		if c.want == "" {
			require.NoError(t, err, c.name)
			got.Release()
			continue
		}
		require.EqualError(t, err, "page 1: "+c.want, c.name)
		require.Equal(t, events.CodeLimitBytes, failure(t, err).Code)
		require.Len(t, src.Requests(), 1)
	}
}
