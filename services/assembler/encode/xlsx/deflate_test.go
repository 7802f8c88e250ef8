package xlsx

import (
	"bytes"
	"hash/crc32"
	"io"
	"testing"

	"github.com/klauspost/compress/flate"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestCombineCRCEqualsCRCOfTheWhole(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a := rapid.SliceOfN(rapid.Byte(), 0, 5000).Draw(t, "a")
		b := rapid.SliceOfN(rapid.Byte(), 0, 5000).Draw(t, "b")
		whole := crc32.ChecksumIEEE(append(bytes.Clone(a), b...))
		got := combineCRC(crc32.ChecksumIEEE(a), crc32.ChecksumIEEE(b), int64(len(b)))
		if got != whole {
			t.Fatalf("%08x, want %08x", got, whole)
		}
	})
}

func TestCombineCRCOfMoreThan4GiB(t *testing.T) {
	t.Parallel()
	// CRCs of zeros by doubling: crc(ZZ) from crc(Z). Up to 16 MiB a running CRC is the reference; beyond,
	// another decomposition of the same length.
	zeros := make([]byte, 1<<20)
	mib := crc32.ChecksumIEEE(zeros)
	crc, running := mib, mib
	for range 15 {
		running = crc32.Update(running, crc32.IEEETable, zeros)
		crc = combineCRC(crc, mib, 1<<20)
	}
	require.Equal(t, running, crc)
	double, n := mib, int64(1<<20)
	for range 13 { // 8 GiB
		double = combineCRC(double, double, n)
		n *= 2
	}
	crc = 0
	for range 8 << 10 {
		crc = combineCRC(crc, mib, 1<<20)
	}
	require.Equal(t, crc, double)
}

func deflated(t *rapid.T, w *deflater, xml []byte, last bool) []byte {
	b := newBlock()
	b.pieces, b.n, b.last = []piece{{xml, nil}}, len(xml), last
	if err := b.deflate(w); err != nil {
		t.Fatal(err)
	}
	if b.crc != crc32.ChecksumIEEE(xml) || b.packedCRC != crc32.ChecksumIEEE(b.packed) {
		t.Fatal("wrong CRC")
	}
	return b.packed
}

// Joined blocks are one deflate stream, and a used compressor writes the same bytes as a new one.
func TestBlocksJoinAndDoNotDependOnTheCompressorsPast(t *testing.T) {
	t.Parallel()
	used := getDeflater()
	rapid.Check(t, func(t *rapid.T) {
		fragment := rapid.SampledFrom([]string{`<c r="A1"><v>1</v></c>`, `<is><t>`, "订单", "\x00\xff",
			"12345"})
		var all, joined []byte
		joined = appendStored(joined, []byte("head"))
		all = append(all, "head"...)
		n := rapid.IntRange(1, 4).Draw(t, "blocks")
		for i := range n {
			xml := bytes.Repeat([]byte(rapid.StringOfN(rapid.RuneFrom([]rune("abc<>&年")), 0, 50, -1).
				Draw(t, "x")+fragment.Draw(t, "f")),
				rapid.SampledFrom([]int{0, 1, 100, 9000}).Draw(t, "times"))
			packed := deflated(t, used, xml, i == n-1)
			if !bytes.Equal(packed, deflated(t, new(deflater), xml, i == n-1)) {
				t.Fatal("a used compressor gives other bytes")
			}
			all, joined = append(all, xml...), append(joined, packed...)
		}
		got, err := io.ReadAll(flate.NewReader(bytes.NewReader(joined)))
		if err != nil || !bytes.Equal(got, all) {
			t.Fatalf("%d bytes come back of %d: %v", len(got), len(all), err)
		}
	})
}

func TestStoredBlocksHoldMoreThan64KiB(t *testing.T) {
	t.Parallel()
	p := bytes.Repeat([]byte("0123456789"), 20_000)
	b := appendStored(nil, p)
	require.Len(t, b, storedSize(len(p)))
	b = append(b, 1, 0, 0, 0xff, 0xff) // the last block, empty
	got, err := io.ReadAll(flate.NewReader(bytes.NewReader(b)))
	require.NoError(t, err)
	require.Equal(t, p, got)
}
