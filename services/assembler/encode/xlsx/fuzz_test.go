package xlsx

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"sheaf/events/rows"
)

// FuzzWorkbook writes workbooks of any pages that pass the crawler's check. Each is refused with an error or
// has well-formed sheets that contain all rows.
func FuzzWorkbook(f *testing.F) {
	f.Add([]byte("[{\"a\":\"A\"},{\"a\":1}]\n[{\"a\":\"A\"},{\"a\":\"=1\"}]"), true)
	f.Add([]byte(`[{"a":"A","b":"\ud800"},{"a":{"x":[1,"\u0000"]},"b":1e999}]`), false)
	f.Add([]byte("[]"), false)
	f.Add([]byte(`[{"":""},{"":"_x0041_"}]`), false)
	f.Fuzz(func(t *testing.T, data []byte, skip bool) {
		var pages []Page
		want := 0
		for i, page := range bytes.Split(data, []byte("\n")) {
			n, err := rows.Check(page, rows.Limits{})
			if err != nil || len(pages) == 20 {
				return
			}
			pages = append(pages, Page{Number: i + 1, Rows: page, RowCount: n, SkipFirst: skip && i > 0})
			if want += n; (i == 0 || pages[i].SkipFirst) && n > 0 {
				want--
			}
		}
		out, err := os.Create(filepath.Join(t.TempDir(), "out.zip"))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		next := 0
		res, err := WriteWorkbook(context.Background(), out, Spec{Title: "t", MaxSheetRows: 3, Parallel: 2},
			func(context.Context) (Page, error) {
				if next == len(pages) {
					return Page{}, io.EOF
				}
				next++
				return pages[next-1], nil
			})
		if err != nil {
			return // any error, but no panic
		}
		if res.Rows != int64(want) {
			t.Fatalf("%d rows were written of %d", res.Rows, want)
		}
		for name, part := range unzipAll(t, out.Name()) {
			if filepath.Ext(name) != ".xml" && filepath.Ext(name) != ".rels" {
				continue
			}
			d := xml.NewDecoder(bytes.NewReader(part))
			for {
				if _, err := d.Token(); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					t.Fatalf("%s: %v\n%s", name, err, part)
				}
			}
		}
	})
}

// unzipAll returns the parts of the workbook in a zip.
func unzipAll(t *testing.T, name string) map[string][]byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	parts := map[string][]byte{}
	for range 2 { // the zip, and the workbook in it
		z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		clear(parts)
		for _, f := range z.File {
			r, err := f.Open()
			if err != nil {
				t.Fatal(err)
			}
			if data, err = io.ReadAll(r); err != nil {
				t.Fatal(err)
			}
			parts[f.Name] = data
		}
	}
	return parts
}
