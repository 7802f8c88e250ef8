package assembler

import (
	"mime"
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sheaf/events"
)

// A request names a format in any case. A link and an answer derive a file's format from its suffix. An
// export whose type is no longer a format gets a workbook.
func TestFormats(t *testing.T) {
	t.Parallel()
	names, suffixes := map[string]bool{}, map[string]bool{}
	for _, f := range Formats() {
		require.Equal(t, f, formatsOf(strings.ToLower(f.Name))[0].Format)
		require.Equal(t, f.Ext, path.Ext("x"+f.Ext))
		_, _, err := mime.ParseMediaType(f.MediaType)
		require.NoError(t, err)
		require.False(t, names[f.Name] || suffixes[f.Ext], f.Name)
		names[f.Name], suffixes[f.Ext] = true, true
	}
	for _, unknown := range []string{"?", "", " , "} {
		list := formatsOf(unknown)
		require.Len(t, list, 1)
		require.Equal(t, events.XLSX, list[0].Format)
	}
	require.Len(t, formatsOf("xlsx, ?, XLSX"), 1, "each format once")
}
