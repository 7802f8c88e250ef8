package archive

import (
	"bytes"
	"hash/crc32"

	"github.com/klauspost/compress/flate"
)

// Writer writes a document to an [Output] that may be packed, for documents that need no speed. It compresses
// with one goroutine. The bytes do not depend on how the writes are cut.
type Writer struct {
	out     *Output
	raw     []byte
	packed  bytes.Buffer
	deflate *flate.Writer // nil unless packed
}

// writerBlock is how much is compressed at once.
const writerBlock = 128 << 10

// NewWriter returns a writer. Close must be called.
func NewWriter(out *Output) (*Writer, error) {
	w := &Writer{out: out, raw: make([]byte, 0, writerBlock)}
	if !out.Packed() {
		return w, nil
	}
	var err error
	w.deflate, err = flate.NewWriter(&w.packed, 6)
	return w, err
}

// Write implements io.Writer.
func (w *Writer) Write(p []byte) (int, error) {
	for done := 0; done < len(p); {
		n := min(len(p)-done, writerBlock-len(w.raw))
		w.raw = append(w.raw, p[done:done+n]...)
		done += n
		if len(w.raw) == writerBlock {
			if err := w.block(false); err != nil {
				return done, err
			}
		}
	}
	return len(p), nil
}

// Close writes the rest. It does not end the output.
func (w *Writer) Close() error { return w.block(true) }

func (w *Writer) block(last bool) error {
	if w.deflate != nil {
		w.packed.Reset()
		_, err := w.deflate.Write(w.raw)
		switch {
		case err != nil:
		case last:
			err = w.deflate.Close()
		default:
			err = w.deflate.Flush() // to a byte border
		}
		if err != nil {
			return err
		}
	}
	err := w.out.WriteBlock(w.raw, crc32.ChecksumIEEE(w.raw), w.packed.Bytes())
	w.raw = w.raw[:0]
	return err
}
