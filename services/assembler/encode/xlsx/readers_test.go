package xlsx

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"sheaf/events/eventstest"

	"github.com/stretchr/testify/require"
	"github.com/xuri/excelize/v2"
)

// hostileCells returns values that break readers of workbooks, and what each must show. Numbers are compared
// as numbers.
func hostileCells() (names []string, jsons []string, want []any) {
	long := strings.Repeat("长", maxCellText)
	for _, c := range []struct {
		name, json string
		want       any
	}{
		{"integer", `7`, 7.0},
		{"negative", `-0.125`, -0.125},
		{"exponent", `1.5E3`, 1500.0},
		{"fifteen", `123456789012345`, 123456789012345.0},
		{"seventeen", `3.3000000000000003`, 3.3000000000000003},
		{"sixteen", `-0.1234567890123456E-7`, -0.1234567890123456e-7},
		{"small", `1.2345678901234568e-300`, 1.2345678901234568e-300},
		{"great", `1E+300`, 1e300},
		{"plain exponent", `1E05`, 1e5},
		{"no exponent", `1.50`, 1.5},
		{"zero", `0E-8`, 0.0},
		{"negative zero", `-0.0`, 0.0},
		{"too exact", `0.30000000000000003`, "0.30000000000000003"},
		{"too great", `1E400`, "1E400"},
		{"long", `12345678901234567890`, "12345678901234567890"},
		{"zeros", `"007"`, "007"},
		{"date", `"2026-01-02"`, "2026-01-02"},
		{"formula", `"=1+1"`, "=1+1"},
		{"at", `"@SUM(A1)"`, "@SUM(A1)"},
		{"control", `"a\u0001b\u001f"`, "a\x01b\x1f"},
		{"lines", `"one\ntwo\tthree"`, "one\ntwo\tthree"},
		{"escape", `"_x0041_ _x000A_"`, "_x0041_ _x000A_"},
		{"markup", `"<a href=\"x\">&amp;</a>]]>"`, `<a href="x">&amp;</a>]]>`},
		{"blank", `"  x "`, "  x "},
		{"emoji", `"😀👨‍👩‍👧\ud83d\ude80"`, "😀👨‍👩‍👧🚀"},
		{"cjk", `"编号，「李雷」"`, "编号，「李雷」"},
		{"rtl", `"שלום\u200fabc"`, "שלום\u200fabc"},
		{"true", `true`, true},
		{"false", `false`, false},
		{"null", `null`, nil},
		{"nested", `{"a": [1, null, "x"]}`, `{"a":[1,null,"x"]}`},
		{"longest", `"` + long + `"`, long},
		{"last", `"end"`, "end"},
	} {
		names, jsons, want = append(names, c.name), append(jsons, c.json), append(want, c.want)
	}
	return names, jsons, want
}

// Every reader opens the same workbooks without complaint and shows the same cells: a hostile one of two
// sheets, and one of several row blocks. Readers that are not installed are skipped. To install them: apt-get
// install python3-openpyxl libreoffice-calc-nogui; npm install exceljs, with NODE_PATH naming its
// node_modules.
func TestReadersShowTheSameCells(t *testing.T) {
	t.Parallel()
	t.Run("hostile", func(t *testing.T) {
		names, jsons, want := hostileCells()
		titles := make([]any, len(names))
		fields, header := make([]string, len(names)), make([]string, len(names))
		for i, name := range names {
			titles[i] = name
			header[i] = `"` + name + `":"` + name + `"`
			fields[i] = `"` + name + `":` + jsons[i]
		}
		row := "{" + strings.Join(fields, ",") + "}"
		spec := testSpec()
		spec.MaxSheetRows = 4
		_, _, xlsx := write(t, spec,
			cutPages("{"+strings.Join(header, ",")+"}", []string{row, row, row, row, row}, 2)...)
		showTheSame(t, xlsx, [][][]any{{titles, want, want, want}, {titles, want, want}})
	})
	t.Run("numbers", func(t *testing.T) {
		r := rand.New(rand.NewPCG(3, 4))
		sheet := [][]any{{"id", "sn", "amount", "paid", "city", "note"}}
		var data []string
		for n := range 3000 {
			sn, amount := fmt.Sprintf("SN%012d", r.Uint64N(1e12)), float64(r.IntN(1e9))/100
			paid, city := r.IntN(4) > 0, []string{"北京", "上海", "广州"}[r.IntN(3)]
			line := []any{float64(n), sn, amount, paid, city, nil}
			note := `null`
			if n%7 == 0 {
				note, line[5] = `"a & b"`, "a & b"
			}
			sheet = append(sheet, line)
			data = append(data, fmt.Sprintf(`{"id":%d,"sn":%q,"amount":%.2f,"paid":%t,"city":%q,"note":%s}`,
				n, sn, amount, paid, city, note))
		}
		_, _, xlsx := write(t, testSpec(),
			cutPages(`{"id":"id","sn":"sn","amount":"amount","paid":"paid","city":"city","note":"note"}`,
				data, 500)...)
		rows := partOf(t, xlsx, sheetPath(1))
		require.Greater(t, len(rows), 2*blockSize)
		_, own := new(rowDeflater).deflate(nil, []piece{{rows[:blockSize], nil}}, false)
		require.True(t, own, "the blocks are left to the general compressor")
		showTheSame(t, xlsx, [][][]any{sheet})
	})
}

func showTheSame(t *testing.T, xlsx []byte, sheets [][][]any) {
	names := sheets[0][0]
	dir := t.TempDir()
	name := filepath.Join(dir, "book.xlsx")
	require.NoError(t, os.WriteFile(name, xlsx, 0o600))
	same := func(t *testing.T, got [][][]any) {
		t.Helper()
		require.Len(t, got, len(sheets))
		for s := range sheets {
			require.Len(t, got[s], len(sheets[s]))
			for r := range sheets[s] {
				for c := range names {
					require.Equal(t, sheets[s][r][c], got[s][r][c], "sheet %d, row %d, %s", s+1, r+1,
						names[c])
				}
			}
		}
	}
	tool := func(t *testing.T, name string, args ...string) []byte {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), name, args...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		require.NoError(t, err, stderr.String())
		return out
	}

	t.Run("excelize", func(t *testing.T) {
		f := open(t, xlsx)
		got := make([][][]any, len(sheets))
		for s := range sheets {
			for r := range sheets[s] {
				line := make([]any, len(names))
				for c := range names {
					at := columnName(c) + strconv.Itoa(r+1)
					value, err := f.GetCellValue(sheetName(s+1), at, excelize.Options{RawCellValue: true})
					require.NoError(t, err)
					kind, err := f.GetCellType(sheetName(s+1), at)
					require.NoError(t, err)
					line[c] = value
					switch {
					case kind == excelize.CellTypeBool:
						line[c] = value == "1"
					case kind == excelize.CellTypeUnset && value == "":
						line[c] = nil
					case kind == excelize.CellTypeUnset:
						var n float64
						require.NoError(t, json.Unmarshal([]byte(value), &n))
						line[c] = n
					}
				}
				got[s] = append(got[s], line)
			}
		}
		same(t, got)
	})

	t.Run("openpyxl", func(t *testing.T) {
		python := ""
		for _, name := range []string{"python3", "/usr/bin/python3"} {
			if exec.Command(name, "-c", "import openpyxl").Run() == nil {
				python = name
				break
			}
		}
		if python == "" {
			t.Skip("openpyxl is not installed")
		}
		var got [][][]any
		out := tool(t, python, "-W", "error", "-c", `
import json, openpyxl, sys
from openpyxl.utils.escape import unescape
wb = openpyxl.load_workbook(sys.argv[1])
print(json.dumps([[[unescape(c) if isinstance(c, str) else c for c in row] for row in ws.values] for ws in wb]))
`, name)
		require.NoError(t, json.Unmarshal(out, &got))
		same(t, got)
	})

	t.Run("exceljs", func(t *testing.T) {
		if exec.Command("node", "-e", "require('exceljs')").Run() != nil {
			t.Skip("exceljs is not installed, or NODE_PATH does not name it")
		}
		var got [][][]any
		out := tool(t, "node", "-e", `
const wb = new (require('exceljs')).Workbook()
const unescape = v => typeof v === 'string' ? v.replace(/_x([0-9A-F]{4})_/g, (_, h) => String.fromCharCode(parseInt(h, 16))) : v
wb.xlsx.readFile(process.argv[1]).then(() => console.log(JSON.stringify(wb.worksheets.map(ws => {
  const rows = []
  ws.eachRow(r => rows.push(Array.from({length: ws.columnCount}, (_, i) => unescape(r.getCell(i + 1).value))))
  return rows
}))))
`, name)
		require.NoError(t, json.Unmarshal(out, &got))
		same(t, got)
	})

	t.Run("LibreOffice", func(t *testing.T) {
		eventstest.LongRunning(t)
		soffice, err := exec.LookPath("soffice")
		if err != nil {
			t.Skip("LibreOffice is not installed")
		}
		// Comma-separated, quoted, UTF-8, values as stored instead of as shown, every sheet.
		tool(t, soffice, "-env:UserInstallation=file://"+filepath.Join(dir, "profile"), "--headless",
			"--convert-to",
			"csv:Text - txt - csv (StarCalc):44,34,76,1,,0,false,false,false,false,false,-1", "--outdir", dir,
			name)
		got := make([][][]any, len(sheets))
		for s := range sheets {
			text, err := os.ReadFile(filepath.Join(dir, "book-"+sheetName(s+1)+".csv"))
			require.NoError(t, err)
			lines, err := csv.NewReader(bytes.NewReader(text)).ReadAll()
			require.NoError(t, err)
			for r, line := range lines {
				row := make([]any, len(line))
				for c, cell := range line {
					row[c] = cell
					if r == 0 {
						continue
					}
					switch sheets[s][r][c].(type) { // CSV has text only
					case nil:
						if cell == "" {
							row[c] = nil
						}
					case bool:
						row[c] = cell == "TRUE"
					case float64:
						var n float64
						require.NoError(t, json.Unmarshal([]byte(cell), &n), cell)
						row[c] = n
						want := sheets[s][r][c].(float64)
						if math.Abs(n-want) <= 1e-12*math.Abs(want) {
							row[c] = want // LibreOffice's CSV has 13 to 15 digits
						}
					}
				}
				got[s] = append(got[s], row)
			}
		}
		same(t, got)
	})
}
