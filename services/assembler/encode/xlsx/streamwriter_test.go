package xlsx

import (
	"encoding/json"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/xuri/excelize/v2"
	"pgregory.net/rapid"

	"sheaf/events/rows"
	"sheaf/services/assembler/encode"
)

// Rows written by WriteWorkbook read back like those written by excelize's StreamWriter, by type and value.
// They differ where StreamWriter loses data: it replaces characters that XML cannot hold, and escapes one
// underscore too few in texts such as "_xFFFE_x0041_". There WriteWorkbook must keep the original.
func TestWritesTheSameAsStreamWriter(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	keys := []string{"id", "名", "a b", "x", "_x0041_", "ID"} // those of hostileRow
	header, titles := make([]string, len(keys)), make([]any, len(keys))
	for i, key := range keys {
		header[i] = `"` + key + `":"T` + columnName(i) + `"`
		titles[i] = "T" + columnName(i)
	}
	rapid.Check(t, func(t *rapid.T) {
		data := rapid.SliceOfN(hostileRow, 1, 40).Draw(t, "rows")
		f := excelize.NewFile()
		defer f.Close()
		w, err := f.NewStreamWriter("Sheet1")
		if err != nil {
			t.Fatal(err)
		}
		if err := w.SetRow("A1", titles); err != nil {
			t.Fatal(err)
		}
		given := map[string]string{} // texts and numbers by cell
		for r, text := range data {
			var row map[string]json.RawMessage
			if err := json.Unmarshal([]byte(text), &row); err != nil {
				t.Fatal(err)
			}
			values := make([]any, len(keys))
			for i, key := range keys {
				values[i] = streamed(row[key])
				at, _ := excelize.CoordinatesToCellName(i+1, r+2)
				switch value := values[i].(type) {
				case string:
					given[at] = "text " + holdable(value)
				case float64: // StreamWriter cuts it after 15 digits
					given[at] = "number " + strconv.FormatFloat(value+0, 'g', -1, 64)
				}
			}
			at, _ := excelize.CoordinatesToCellName(1, r+2)
			if err := w.SetRow(at, values); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		buf, err := f.WriteToBuffer()
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := excelize.OpenReader(buf)
		if err != nil {
			t.Fatal(err)
		}
		defer theirs.Close()

		file, err := writeFile(filepath.Join(dir, "out.zip"), testSpec(),
			cutPages("{"+strings.Join(header, ",")+"}", data, rapid.IntRange(1, 50).Draw(t, "rows a page")))
		if err != nil {
			t.Fatal(err)
		}
		ours, err := openZip(file)
		if err != nil {
			t.Fatal(err)
		}
		defer ours.Close()
		for r := range len(data) + 1 {
			for c := range keys {
				at, _ := excelize.CoordinatesToCellName(c+1, r+1)
				if a, b := readCell(t, ours, at), readCell(t, theirs, at); a != b && a != given[at] {
					t.Fatalf("%s is %q, StreamWriter's is %q", at, a, b)
				}
			}
		}
	})
}

// streamed converts a JSON value for StreamWriter.
func streamed(raw json.RawMessage) any {
	if raw == nil {
		return nil
	}
	value, kind := shows(raw)
	switch {
	case raw[0] == 'n':
		return nil
	case kind == excelize.CellTypeBool:
		return value == "1"
	case raw[0] == '{' || raw[0] == '[':
		return string(encode.AppendText(nil, rows.Value{Kind: rows.Object, Raw: raw}, maxCellText))
	case kind == excelize.CellTypeInlineString:
		return value
	}
	var n float64
	_ = json.Unmarshal(raw, &n)
	return n
}

// readCell returns a cell's type and value: the exact number, or the text as far as XML can hold it.
func readCell(t *rapid.T, f *excelize.File, at string) string {
	value, err := f.GetCellValue("Sheet1", at, excelize.Options{RawCellValue: true})
	if err != nil {
		t.Fatal(err)
	}
	kind, err := f.GetCellType("Sheet1", at)
	if err != nil {
		t.Fatal(err)
	}
	switch {
	case kind == excelize.CellTypeBool:
		return "bool " + value
	case kind == excelize.CellTypeInlineString, kind == excelize.CellTypeSharedString:
		return "text " + holdable(value)
	case value == "":
		return "empty"
	}
	n, err := strconv.ParseFloat(value, 64)
	if err != nil {
		t.Fatalf("%s holds %q", at, value)
	}
	return "number " + strconv.FormatFloat(n+0, 'g', -1, 64) // +0: no negative zero
}

// holdable returns the part of a text that XML 1.0 can hold.
func holdable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == 0xFFFE || r == 0xFFFF {
			return '\uFFFD'
		}
		return r
	}, text)
}

func TestCellReadersDistinguishKinds(t *testing.T) {
	t.Parallel()
	require.Equal(t, 1500.0, streamed(json.RawMessage(`1.5e3`)))
	require.Equal(t, "12345678901234567890", streamed(json.RawMessage(`12345678901234567890`)))
	require.Equal(t, true, streamed(json.RawMessage(`true`)))
	require.Nil(t, streamed(nil))
}
