package archive

import (
	"bytes"
	"hash/crc32"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestCombineCRCEqualsCRCOfTheWhole(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a := rapid.SliceOfN(rapid.Byte(), 0, 5000).Draw(t, "a")
		b := rapid.SliceOfN(rapid.Byte(), 0, 5000).Draw(t, "b")
		whole := crc32.ChecksumIEEE(append(bytes.Clone(a), b...))
		got := CombineCRC(crc32.ChecksumIEEE(a), crc32.ChecksumIEEE(b), int64(len(b)))
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
		crc = CombineCRC(crc, mib, 1<<20)
	}
	require.Equal(t, running, crc)
	double, n := mib, int64(1<<20)
	for range 13 { // 8 GiB
		double = CombineCRC(double, double, n)
		n *= 2
	}
	crc = 0
	for range 8 << 10 {
		crc = CombineCRC(crc, mib, 1<<20)
	}
	require.Equal(t, crc, double)
}
