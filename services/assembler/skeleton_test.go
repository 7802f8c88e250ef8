package assembler

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// The parts that come from a template are, byte for byte, those that excelize
// makes of the same workbook.
func TestTemplateIsWhatExcelizeMakes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		spec := Spec{
			Title: rapid.StringMatching(`[a-z订单<&"]{0,8}`).Draw(t, "title"), Creator: rapid.StringMatching(`[a-z$A-Z0-9]{0,8}`).Draw(t, "creator"),
			Created: time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "created"), 0).UTC(), MaxSheetRows: 1 << 20,
		}
		var head *header
		if rapid.IntRange(0, 9).Draw(t, "header") > 0 {
			head = &header{titles: make([][]byte, rapid.IntRange(0, maxColumns).Draw(t, "columns"))}
		}
		rowCount, ignore := rapid.IntRange(1, 1<<20).Draw(t, "rows"), rapid.Bool().Draw(t, "ignore")
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
			if ignore {
				require.NoError(t, s.ignoreTextNumbers(rowCount))
			}
			head, tail, err := s.render(rowCount, nil)
			require.NoError(t, err)
			s.parts["around the rows"] = append(head, tail...)
			require.Equal(t, direct, s.f != nil)
			made[direct] = s
		}
		require.Equal(t, made[true].parts, made[false].parts)
		require.Equal(t, made[true].bold, made[false].bold)
	})
}
