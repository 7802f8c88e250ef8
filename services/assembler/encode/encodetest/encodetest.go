// Package encodetest has what the tests of formats share: pages of rows and documents in real files.
package encodetest

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sheaf/events"
	"sheaf/services/assembler/encode"
	"sheaf/services/assembler/encode/archive"
)

// Next returns the next page.
type Next = func(context.Context) (encode.Page, error)

// ErrSource is the error of a source that fails.
var ErrSource = errors.New("the source fails")

// Open returns a sheet's Open that yields the pages, then end, or io.EOF if end is nil.
func Open(end error, pages ...encode.Page) func() Next {
	if end == nil {
		end = io.EOF
	}
	return func() Next {
		i := 0
		return func(context.Context) (encode.Page, error) {
			if i == len(pages) {
				return encode.Page{}, end
			}
			i++
			return pages[i-1], nil
		}
	}
}

// Page returns a page of rows, which are JSON objects.
func Page(number int, rows ...string) encode.Page {
	return encode.Page{Number: number, Rows: []byte("[" + strings.Join(rows, ",") + "]"), RowCount: len(rows)}
}

// Cut cuts rows into pages, at least one.
func Cut(rows []string, perPage int) (pages []encode.Page) {
	for len(rows) > 0 || len(pages) == 0 {
		n := min(perPage, len(rows))
		pages = append(pages, Page(len(pages)+1, rows[:n]...))
		rows = rows[n:]
	}
	return pages
}

// Names returns columns as a header gives them, with their names as titles.
func Names(names ...string) []encode.Column {
	columns := []encode.Column{}
	for _, name := range names {
		columns = append(columns, encode.Column{Name: name, Title: name})
	}
	return columns
}

// Declared returns columns as a request lists them.
func Declared(columns ...events.Column) (all []encode.Column) {
	for _, c := range columns {
		all = append(all, encode.Column{Name: c.Key, Title: c.Title, Spec: &c})
	}
	return all
}

// Sheet returns a sheet that shows times as in Shanghai.
func Sheet(t testing.TB, columns []encode.Column, pages ...encode.Page) encode.Sheet {
	t.Helper()
	shanghai, err := time.LoadLocation("Asia/Shanghai")
	require.NoError(t, err)
	s := encode.Sheet{Columns: columns, Zones: encode.Zones{Display: shanghai}, Open: Open(nil, pages...)}
	for _, c := range columns {
		s.Chosen = s.Chosen || c.Spec != nil
	}
	return s
}

// Write writes a document to a file and returns its bytes.
func Write(t testing.TB, f encode.Format, doc encode.Document) (string, encode.Result) {
	t.Helper()
	b, r, err := TryWrite(t, f, doc)
	require.NoError(t, err)
	return b, r
}

// TryWrite is Write for a document that may fail.
func TryWrite(t testing.TB, f encode.Format, doc encode.Document) (string, encode.Result, error) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "document")
	file, err := os.Create(name)
	require.NoError(t, err)
	defer file.Close()
	r, err := f.Write(t.Context(), archive.Plain(file), doc)
	b, readErr := os.ReadFile(name)
	require.NoError(t, readErr)
	return string(b), r, err
}

// WritePacked writes a document to a compressed entry of a zip. It returns the bytes of the zip, and those
// that archive/zip reads from the entry.
func WritePacked(t testing.TB, f encode.Format, doc encode.Document) (packed, read string, r encode.Result) {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "documents.zip"))
	require.NoError(t, err)
	defer file.Close()
	z := archive.NewZip(file)
	out, err := z.Begin("document", archive.MethodDeflate)
	require.NoError(t, err)
	r, err = f.Write(t.Context(), out, doc)
	require.NoError(t, err)
	require.NoError(t, z.End())
	_, _, err = z.Finish(t.Context())
	require.NoError(t, err)
	all, err := os.ReadFile(file.Name())
	require.NoError(t, err)
	in, err := zip.NewReader(bytes.NewReader(all), int64(len(all)))
	require.NoError(t, err)
	entry, err := in.File[0].Open()
	require.NoError(t, err)
	b, err := io.ReadAll(entry)
	require.NoError(t, err)
	return string(all), string(b), r
}
