package archive

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A Writer makes the same entry however its writes are cut, packed and stored, and the sums of entries are
// known before the zip is finished.
func TestWriter(t *testing.T) {
	t.Parallel()
	text := []byte(strings.Repeat("the quick brown fox, ", 30_000)) // several blocks
	var want []byte
	for _, cut := range []int{1000, writerBlock, len(text)} {
		f, err := os.Create(filepath.Join(t.TempDir(), "zip"))
		require.NoError(t, err)
		defer func() { require.NoError(t, f.Close()) }()
		z := NewZip(f)
		for _, e := range []struct {
			name    string
			content []byte
			method  uint16
		}{{"stored", text, MethodStore}, {"packed", text, MethodDeflate}, {"empty", nil, MethodDeflate}} {
			out, err := z.Begin(e.name, e.method)
			require.NoError(t, err)
			w, err := NewWriter(out)
			require.NoError(t, err)
			for at := 0; at < len(e.content); at += cut {
				_, err := w.Write(e.content[at:min(at+cut, len(e.content))])
				require.NoError(t, err)
			}
			require.NoError(t, w.Close())
			require.NoError(t, z.End())
		}
		known, err := z.Documents(t.Context())
		require.NoError(t, err)
		_, documents, err := z.Finish(t.Context())
		require.NoError(t, err)
		require.Equal(t, documents, known)
		require.Equal(t, sha256.Sum256(text), known[0].SHA256)
		require.Equal(t, sha256.Sum256(text), known[1].SHA256)
		data, err := os.ReadFile(f.Name())
		require.NoError(t, err)
		if want == nil {
			want = data
		}
		require.True(t, bytes.Equal(want, data), "writes of %d bytes", cut)
		r, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
		require.NoError(t, err)
		for i, content := range [][]byte{text, text, nil} {
			e, err := r.File[i].Open()
			require.NoError(t, err)
			got, err := io.ReadAll(e)
			require.NoError(t, err)
			require.True(t, bytes.Equal(content, got), r.File[i].Name)
		}
		require.Less(t, r.File[1].CompressedSize64, r.File[0].CompressedSize64/10)
	}
}
