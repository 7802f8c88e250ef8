package archive

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// A file that is partly in memory reads and ends like one that is not, wherever its writes go.
func TestHeadedFileEqualsAFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		f, err := os.CreateTemp(dir, "")
		require.NoError(t, err)
		defer func() { _ = f.Close() }()
		h := &headed{file: f}
		var want []byte
		for range rapid.IntRange(0, 12).Draw(t, "writes") {
			p := bytes.Repeat([]byte{byte(1 + len(want)%255)}, rapid.IntRange(0, maxHead*2/3).Draw(t, "bytes"))
			at := rapid.IntRange(0, len(want)+100).Draw(t, "at") // past the end too, as a reserved part
			if missing := at + len(p) - len(want); missing > 0 {
				want = append(want, make([]byte, missing)...)
			}
			copy(want[at:], p)
			n, err := h.WriteAt(p, int64(at))
			require.NoError(t, err)
			require.Equal(t, len(p), n)
			got, err := io.ReadAll(io.NewSectionReader(h, 0, int64(len(want))))
			require.NoError(t, err)
			require.True(t, bytes.Equal(want, got))
		}
		require.NoError(t, h.flush())
		got, err := os.ReadFile(f.Name())
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got))
	})
}

// A small zip is written once, when it is complete.
func TestSmallZipsStayInMemory(t *testing.T) {
	t.Parallel()
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	size := func() int64 {
		info, err := f.Stat()
		require.NoError(t, err)
		return info.Size()
	}
	z := NewZip(f)
	for _, name := range []string{"a", "b"} {
		out, err := z.Begin(name, MethodStore)
		require.NoError(t, err)
		_, err = out.Write(make([]byte, maxHead/3))
		require.NoError(t, err)
		require.NoError(t, z.End())
		require.Zero(t, size())
	}
	whole, _, err := z.Finish(t.Context())
	require.NoError(t, err)
	require.Equal(t, whole.Size, size())
}
