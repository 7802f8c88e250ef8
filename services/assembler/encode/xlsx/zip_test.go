package xlsx

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/flate"
	"github.com/stretchr/testify/require"
)

// streamZip reads a zip like a strict streaming reader: from local headers alone, which must contain the
// sizes.
func streamZip(t testing.TB, r io.Reader) map[string][]byte {
	t.Helper()
	found := map[string][]byte{}
	for {
		var sig [4]byte
		_, err := io.ReadFull(r, sig[:])
		require.NoError(t, err)
		if binary.LittleEndian.Uint32(sig[:]) != localSignature {
			require.EqualValues(t, centralSignature, binary.LittleEndian.Uint32(sig[:]))
			return found
		}
		var h struct {
			Version, Flags, Method, Time, Date uint16
			CRC, Packed, Size                  uint32
			Name, Extra                        uint16
		}
		require.NoError(t, binary.Read(r, binary.LittleEndian, &h))
		require.EqualValues(t, flagUTF8, h.Flags, "no data descriptor, no encryption")
		require.EqualValues(t, 20, h.Version)
		require.EqualValues(t, 0, h.Time)
		require.EqualValues(t, 0x21, h.Date, "1980-01-01")
		name := make([]byte, h.Name)
		_, err = io.ReadFull(r, name)
		require.NoError(t, err)
		_, err = io.CopyN(io.Discard, r, int64(h.Extra))
		require.NoError(t, err)
		content := make([]byte, h.Packed)
		_, err = io.ReadFull(r, content)
		require.NoError(t, err)
		if h.Method == methodDeflate {
			content, err = io.ReadAll(flate.NewReader(bytes.NewReader(content)))
			require.NoError(t, err, "%s", name)
		} else {
			require.EqualValues(t, methodStore, h.Method)
		}
		require.Len(t, content, int(h.Size), "%s", name)
		require.Equal(t, h.CRC, crc32.ChecksumIEEE(content), "%s", name)
		found[string(name)] = content
	}
}

func TestStrictStreamingReaderReadsBothZips(t *testing.T) {
	t.Parallel()
	spec := testSpec()
	spec.MaxSheetRows = 3000
	_, file, _ := write(t, spec, cutPages(benchHeader, benchRows(5000), 100)...)
	outer := streamZip(t, bytes.NewReader(file))
	require.Len(t, outer, 1)
	inner := streamZip(t, bytes.NewReader(outer["订单-1.XLSX"]))
	require.Contains(t, inner, "xl/worksheets/sheet2.xml")
	require.Contains(t, inner, "[Content_Types].xml")
	require.Contains(t, inner, "xl/workbook.xml")
}

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
		crc = combineCRC(crc, mib, 1<<20)
	}
	e := zipEntry{name: "订单.xlsx", method: methodStore, crc: crc, size: size, packed: size, large: true}
	head := e.appendLocal(nil)
	require.Len(t, head, e.headerSize())
	_, err = f.WriteAt(head, 0)
	require.NoError(t, err)
	second := zipEntry{name: "b", method: methodStore, offset: int64(len(head)) + size}
	tail := second.appendLocal(nil)
	at := second.offset
	tail = appendDirectory(tail, []zipEntry{e, second}, at+int64(len(tail)))
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
	extra := large[localHeaderSize+len(e.name):]
	require.EqualValues(t, extraZip64, binary.LittleEndian.Uint16(extra))
	require.EqualValues(t, size, binary.LittleEndian.Uint64(extra[4:]))
}

func TestOutputRefusesAHoleThatIsNotFilled(t *testing.T) {
	t.Parallel()
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	require.NoError(t, err)
	defer f.Close()
	o := output{f: f, at: 3, begin: 3}
	require.NoError(t, o.write([]byte("ab")))
	id := o.reserve(2)
	require.NoError(t, o.write([]byte("ef")))
	_, err = o.sum()
	require.ErrorIs(t, err, errReserved)
	require.ErrorIs(t, o.fill(id, 5, []byte("c")), errReserved)
	require.NoError(t, o.fill(id, 5, []byte("cd")))
	require.ErrorIs(t, o.fill(id, 5, []byte("cd")), errReserved)
	crc, err := o.sum()
	require.NoError(t, err)
	require.Equal(t, crc32.ChecksumIEEE([]byte("abcdef")), crc)
}
