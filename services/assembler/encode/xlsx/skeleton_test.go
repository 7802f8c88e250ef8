package xlsx

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/xuri/excelize/v2"
	"pgregory.net/rapid"
)

// The parts from a template equal, byte for byte, those that excelize renders for the same workbook.
func TestTemplateEqualsExcelizesParts(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		spec := Spec{
			Title:   rapid.StringMatching(`[a-z订单<&"]{0,8}`).Draw(t, "title"),
			Creator: rapid.StringMatching(`[a-z$A-Z0-9]{0,8}`).Draw(t, "creator"),
			Created: time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "created"), 0).UTC(), MaxSheetRows: 1 << 20,
		}
		var head *header
		if rapid.IntRange(0, 9).Draw(t, "header") > 0 {
			head = &header{titles: make([][]byte, rapid.IntRange(0, maxColumns).Draw(t, "columns"))}
		}
		rowCount := rapid.IntRange(1, 1<<20).Draw(t, "rows")
		if head == nil {
			rowCount = 0
		}
		made := map[bool]*skeleton{}
		for _, direct := range []bool{false, true} {
			s, err := newSkeleton(spec, head)
			require.NoError(t, err)
			if direct {
				require.NoError(t, s.file())
			}
			require.NoError(t, s.addSheet())
			_, _, err = s.render(spec.MaxSheetRows, nil)
			require.NoError(t, err)
			head, tail, err := s.render(rowCount, nil)
			require.NoError(t, err)
			s.parts["around the rows"] = append(head, tail...)
			require.Equal(t, direct, s.f != nil)
			made[direct] = s
		}
		require.Equal(t, made[true].parts, made[false].parts)
	})
}

// Cells and titles that begin like a formula have a style with quotePrefix, also after a second sheet has
// rebuilt the workbook. Their values are unchanged.
func TestFormulasAreQuoted(t *testing.T) {
	t.Parallel()
	spec := testSpec()
	spec.MaxSheetRows = 3
	_, _, xlsx := write(t, spec, cutPages(`{"=a":"=A","b":"B"}`,
		[]string{`{"=a":"=1+2","b":"1+2"}`, `{"=a":"1","b":"@x"}`, `{"=a":"-","b":"c"}`}, 2)...)
	f, err := excelize.OpenReader(bytes.NewReader(xlsx))
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	for sheet, cells := range map[string]map[string]string{
		"Sheet1": {"A1": "=A", "B1": "B", "A2": "=1+2", "B2": "1+2", "A3": "1", "B3": "@x"},
		"Sheet2": {"A1": "=A", "A2": "-", "B2": "c"},
	} {
		for cell, want := range cells {
			value, err := f.GetCellValue(sheet, cell)
			require.NoError(t, err)
			require.Equal(t, want, value)
			formula, err := f.GetCellFormula(sheet, cell)
			require.NoError(t, err)
			require.Empty(t, formula)
			style, err := f.GetCellStyle(sheet, cell)
			require.NoError(t, err)
			quoted := f.Styles.CellXfs.Xf[style].QuotePrefix
			require.Equal(t, strings.Contains("=@-", want[:1]), quoted != nil && *quoted, "%s!%s", sheet,
				cell)
			full, err := f.GetStyle(style)
			require.NoError(t, err)
			require.Equal(t, strings.HasSuffix(cell, "1"), full.Font != nil && full.Font.Bold, "%s!%s", sheet,
				cell)
		}
	}
}
