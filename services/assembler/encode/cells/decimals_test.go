package cells

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDecimals(t *testing.T) {
	t.Parallel()
	for format, want := range map[string][2]int{
		"": {}, "0": {}, "0.00": {2, 2}, "#,##0.00": {2, 2}, "¥#,##0.00": {2, 2}, "0.0##": {1, 3}, "#.##": {0, 2},
		"0.#0": {2, 2}, "0.00;[Red]-0.0": {2, 2}, "0.00%": {}, "0.00E+00": {}, "# ?/?": {}, "0.": {}, "0.00 元": {2, 2},
		"0.000000000000000000": {18, 18}, "hh:mm:ss.000": {}, "General": {}, "@": {}, "yyyy.mm.dd": {},
	} {
		least, most := Decimals(format)
		require.Equal(t, want, [2]int{least, most}, format)
	}
}
