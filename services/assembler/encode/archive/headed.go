package archive

import (
	"io"
	"os"
)

// maxHead is the longest file that is held in memory until it is complete.
const maxHead = 64 << 10

// headed is a file that stays in memory while it is at most maxHead long, so that a small file is one write
// and no read. It is used by one goroutine.
type headed struct {
	file    *os.File
	head    []byte
	written bool // head is in the file
}

func (h *headed) WriteAt(p []byte, at int64) (int, error) {
	end := at + int64(len(p))
	if h.written || end > maxHead {
		if err := h.flush(); err != nil {
			return 0, err
		}
		return h.file.WriteAt(p, at)
	}
	if missing := end - int64(len(h.head)); missing > 0 {
		h.head = append(h.head, make([]byte, missing)...)
	}
	return copy(h.head[at:], p), nil
}

func (h *headed) ReadAt(p []byte, at int64) (int, error) {
	if h.written {
		return h.file.ReadAt(p, at)
	}
	n := copy(p, h.head[min(at, int64(len(h.head))):])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// flush writes what is in memory. Later writes go to the file.
func (h *headed) flush() error {
	if h.written {
		return nil
	}
	if _, err := h.file.WriteAt(h.head, 0); err != nil {
		return err
	}
	h.head, h.written = nil, true
	return nil
}
