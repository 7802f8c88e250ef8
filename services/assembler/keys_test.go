package assembler

import (
	"fmt"
	"strings"
	"testing"

	"sheaf/events/pages"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func keyPage(n int, header bool, rowTexts ...string) pages.Page {
	p := pages.Page{Rows: []byte("[" + strings.Join(rowTexts, ",") + "]"), RowCount: len(rowTexts), HeaderRow: header}
	p.Number = n
	return p
}

func TestRowKeys(t *testing.T) {
	t.Parallel()
	codes := func(k *rowKeys) (codes []string) {
		for _, w := range k.warnings() {
			codes = append(codes, w.Code)
		}
		return codes
	}
	t.Run("a key on two pages is counted and named", func(t *testing.T) {
		k := newRowKeys("id")
		k.add(keyPage(1, true, `{"id":"id"}`, `{"id":1}`, `{"id":2}`))
		k.add(keyPage(2, true, `{"id":"id"}`, `{"id":2}`, `{"id":3}`))
		w := k.warnings()
		require.Len(t, w, 1)
		require.Equal(t, "ROW_KEY_REPEATED", w[0].Code)
		require.Contains(t, w[0].Message, "1 rows repeat a id of an earlier row, the first of them 2 on page 2")
	})
	t.Run("different keys are no news", func(t *testing.T) {
		k := newRowKeys("id")
		k.add(keyPage(1, true, `{"id":"id"}`, `{"id":1}`, `{"id":"1"}`))
		require.Empty(t, codes(k))
	})
	t.Run("rows without the column are told", func(t *testing.T) {
		k := newRowKeys("id")
		k.add(keyPage(1, true, `{"id":"id"}`, `{"name":"x"}`, `{"id":null}`))
		require.Equal(t, []string{"ROW_KEY_MISSING"}, codes(k))
	})
	t.Run("an escaped name is the same name", func(t *testing.T) {
		k := newRowKeys("编号")
		k.add(keyPage(1, true, `{"编号":"a"}`, `{"\u7f16\u53f7":7}`, `{"编号":7}`))
		require.Equal(t, []string{"ROW_KEY_REPEATED"}, codes(k))
	})
	t.Run("no column, no work", func(t *testing.T) {
		k := newRowKeys("")
		k.add(keyPage(1, true, `{"id":"id"}`, `{"id":1}`, `{"id":1}`))
		require.Empty(t, codes(k))
	})
}

// The count equals that of a map, for any number of keys and repetitions.
func TestRowKeysCountLikeAMap(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		ids := rapid.SliceOfN(rapid.IntRange(0, 3000), 0, 5000).Draw(t, "ids")
		k, seen, want := newRowKeys("id"), map[int]bool{}, int64(0)
		for _, id := range ids {
			k.add(keyPage(1, false, fmt.Sprintf(`{"id":%d}`, id)))
			if seen[id] {
				want++
			}
			seen[id] = true
		}
		if k.repeated != want {
			t.Fatalf("counted %d repetitions of %d", k.repeated, want)
		}
	})
}
