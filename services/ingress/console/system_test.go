package console

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestSystemIsShownForPeople: names in the language of the visitor, times in the zone, no limit instead of -1, and headings of
// numbers above their numbers.
func TestSystemIsShownForPeople(t *testing.T) {
	t.Parallel()
	streams := []any{
		map[string]any{"name": "SHEAF_TIMERS", "bytes": json.Number("2048"), "limit": json.Number("-1"), "newer_member": true, "seen_at": "2026-11-30T20:18:01Z"},
	}
	for lang, want := range map[string]section{
		"en": {
			Title:   "Streams",
			Columns: []fact{{Name: "Name"}, {Name: "Size", Number: true}, {Name: "Limit", Number: true}, {Name: "newer member"}, {Name: "seen at"}},
		},
		"zh": {
			Title:   "数据流",
			Columns: []fact{{Name: "名称"}, {Name: "大小", Number: true}, {Name: "上限", Number: true}, {Name: "newer member"}, {Name: "seen at"}},
		},
	} {
		v := &visit{prefs: prefs{Lang: lang, place: time.FixedZone("", 8*60*60)}}
		got := v.section("streams", streams)
		require.Equal(t, want.Title, got.Title)
		require.Equal(t, want.Columns, got.Columns)
		require.Equal(t, "2.0 KiB", got.Rows[0][1].Value)
		require.Equal(t, v.t("system.none"), got.Rows[0][2].Value)
		require.Equal(t, v.t("system.yes"), got.Rows[0][3].Value)
		require.Equal(t, "2026-12-01 04:18:01", got.Rows[0][4].Value)
	}
}
