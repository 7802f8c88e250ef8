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
