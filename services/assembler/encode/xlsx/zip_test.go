package xlsx

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"testing"

	"github.com/klauspost/compress/flate"
	"github.com/stretchr/testify/require"

	"sheaf/services/assembler/encode/archive"
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
		if binary.LittleEndian.Uint32(sig[:]) != 0x04034b50 {
			require.EqualValues(t, 0x02014b50, binary.LittleEndian.Uint32(sig[:]))
			return found
		}
		var h struct {
			Version, Flags, Method, Time, Date uint16
			CRC, Packed, Size                  uint32
			Name, Extra                        uint16
		}
		require.NoError(t, binary.Read(r, binary.LittleEndian, &h))
		require.EqualValues(t, 1<<11, h.Flags, "no data descriptor, no encryption")
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
		if h.Method == archive.MethodDeflate {
			content, err = io.ReadAll(flate.NewReader(bytes.NewReader(content)))
			require.NoError(t, err, "%s", name)
		} else {
			require.EqualValues(t, archive.MethodStore, h.Method)
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
