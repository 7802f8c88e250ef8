package archive

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/flate"
	"github.com/stretchr/testify/require"
)

// An outer zip beyond 4 GiB in a sparse file: only the headers are written.
func TestZipBeyond4GiB(t *testing.T) {
	t.Parallel()
	const size = 5 << 30
	f, err := os.Create(filepath.Join(t.TempDir(), "large.zip"))
	require.NoError(t, err)
	defer f.Close()
	mib := crc32.ChecksumIEEE(make([]byte, 1<<20))
	var crc uint32
	for range size >> 20 {
		crc = CombineCRC(crc, mib, 1<<20)
	}
	e := Entry{Name: "订单.xlsx", Method: MethodStore, CRC: crc, Size: size, Packed: size, Large: true}
	head := e.AppendLocal(nil)
	require.Len(t, head, e.HeaderSize())
	_, err = f.WriteAt(head, 0)
	require.NoError(t, err)
	second := Entry{Name: "b", Method: MethodStore, Offset: int64(len(head)) + size}
	tail := second.AppendLocal(nil)
	at := second.Offset
	tail = AppendDirectory(tail, []Entry{e, second}, at+int64(len(tail)))
	_, err = f.WriteAt(tail, at)
	require.NoError(t, err)

	z, err := zip.OpenReader(f.Name())
	require.NoError(t, err)
	defer z.Close()
	require.Len(t, z.File, 2)
	require.EqualValues(t, size, z.File[0].UncompressedSize64)
	b, err := z.Open("b")
	require.NoError(t, err)
	require.NoError(t, b.Close())
	if python, err := exec.LookPath("python3"); err == nil {
		out, err := exec.Command(python, "-c",
			"import sys,zipfile; print([i.file_size for i in zipfile.ZipFile(sys.argv[1]).infolist()])",
			f.Name()).CombinedOutput()
		require.NoError(t, err, string(out))
		require.Equal(t, "[5368709120, 0]\n", string(out))
	}
	large := make([]byte, len(head))
	_, err = f.ReadAt(large, 0)
	require.NoError(t, err)
	require.EqualValues(t, version45, binary.LittleEndian.Uint16(large[4:]))
	extra := large[localHeaderSize+len(e.Name):]
	require.EqualValues(t, extraZip64, binary.LittleEndian.Uint16(extra))
	require.EqualValues(t, size, binary.LittleEndian.Uint64(extra[4:]))
}

func TestOutputRefusesAHoleThatIsNotFilled(t *testing.T) {
	t.Parallel()
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	require.NoError(t, err)
	defer f.Close()
	o := newOutput(&headed{file: f}, 3, false)
	_, err = o.Write([]byte("ab"))
	require.NoError(t, err)
	id := o.Reserve(2)
	_, err = o.Write([]byte("ef"))
	require.NoError(t, err)
	_, err = o.Sum()
	require.ErrorIs(t, err, errReserved)
	require.ErrorIs(t, o.Fill(id, 2, []byte("c")), errReserved)
	require.NoError(t, o.Fill(id, 2, []byte("cd")))
	require.ErrorIs(t, o.Fill(id, 2, []byte("cd")), errReserved)
	crc, err := o.Sum()
	require.NoError(t, err)
	require.Equal(t, crc32.ChecksumIEEE([]byte("abcdef")), crc)
}

// The checksum of a plain file is that of its bytes, whether they were written in order or not.
func TestPlainFile(t *testing.T) {
	t.Parallel()
	for name, write := range map[string]func(o *Output){
		"empty":    func(*Output) {},
		"in order": func(*Output) {},
		"with a part written later": func(o *Output) {
			id := o.Reserve(2)
			require.NoError(t, o.WriteBlock([]byte("ef"), crc32.ChecksumIEEE([]byte("ef")), nil))
			require.NoError(t, o.Fill(id, o.Len()-4, []byte("cd")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, err := os.Create(filepath.Join(t.TempDir(), "f"))
			require.NoError(t, err)
			defer f.Close()
			o := Plain(f)
			if name != "empty" {
				require.NoError(t, o.WriteBlock([]byte("ab"), crc32.ChecksumIEEE([]byte("ab")), nil))
				_, err = o.Write([]byte("c"))
				require.NoError(t, err)
			}
			write(o)
			d, err := o.Finish(t.Context())
			require.NoError(t, err)
			content, err := os.ReadFile(f.Name())
			require.NoError(t, err)
			require.Equal(t, Document{Size: int64(len(content)), SHA256: sha256.Sum256(content)}, d)
		})
	}
}

// A zip of a stored, an empty and a packed document, read by archive/zip and python.
func TestZipOfSeveralDocuments(t *testing.T) {
	t.Parallel()
	f, err := os.Create(filepath.Join(t.TempDir(), "z.zip"))
	require.NoError(t, err)
	defer f.Close()
	z := NewZip(f)
	text := bytes.Repeat([]byte("one line\r\n"), 1000)
	for name, method := range map[string]uint16{"b.csv": MethodDeflate, "订单.bin": MethodStore} {
		out, err := z.Begin(name, method)
		require.NoError(t, err)
		_, err = z.Begin("second", MethodStore)
		require.ErrorIs(t, err, errOpen)
		if method == MethodStore {
			_, err = out.Write(text)
			require.NoError(t, err)
		} else {
			_, err = out.Write(text)
			require.ErrorIs(t, err, errPacked)
			var packed bytes.Buffer
			w, err := flate.NewWriter(&packed, 1)
			require.NoError(t, err)
			for _, half := range [][]byte{text[:4321], text[4321:]} {
				packed.Reset()
				w.Reset(&packed)
				_, err = w.Write(half)
				require.NoError(t, err)
				if len(half) == 4321 {
					err = w.Flush()
				} else {
					err = w.Close()
				}
				require.NoError(t, err)
				require.NoError(t, out.WriteBlock(half, crc32.ChecksumIEEE(half), packed.Bytes()))
			}
		}
		require.NoError(t, z.End())
	}
	whole, documents, err := z.Finish(t.Context())
	require.NoError(t, err)
	file, err := os.ReadFile(f.Name())
	require.NoError(t, err)
	require.Equal(t, Document{Size: int64(len(file)), SHA256: sha256.Sum256(file)}, whole)
	r, err := zip.NewReader(bytes.NewReader(file), int64(len(file)))
	require.NoError(t, err)
	require.Len(t, documents, 2)
	for i, e := range r.File {
		content, err := e.Open()
		require.NoError(t, err)
		b, err := io.ReadAll(content)
		require.NoError(t, err)
		require.Equal(t, text, b)
		require.Equal(t, Document{e.Name, int64(len(text)), sha256.Sum256(text)}, documents[i])
	}
	_, err = z.Begin(strings.Repeat("x", 1<<16), MethodStore)
	require.ErrorContains(t, err, "entry name")
}
