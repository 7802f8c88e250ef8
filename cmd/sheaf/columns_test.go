package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestStrangers(t *testing.T) {
	t.Parallel()
	for columns, want := range map[string][]string{
		`[{"key":"idd"},{"key":"user.name"},{"key":"id"}]`: {"--column idd: there is no column idd, did you mean id?"},
		`[{"key":"a.b"},{"key":"['x y']"}]`:                nil,
		`[{"key":"other"}]`:                                nil, // nothing is similar
		`[{"key":"["}]`:                                    nil, // the server names the mistake
	} {
		require.Equal(t, want, strangers(json.RawMessage(columns), []string{"id", "a.b", "x y"}), columns)
	}
}

// TestExportAdoptsWhatThePreviewSaw: a type of --type without a notation gets the one of page 1.
func TestExportAdoptsWhatThePreviewSaw(t *testing.T) {
	t.Parallel()
	source := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rows := make([]map[string]any, 6)
		for i := range rows {
			rows[i] = map[string]any{"id": i, "paid_at": 1767225600 + i}
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"items": rows, "total": len(rows)})
	}))
	t.Cleanup(source.Close)
	output := filepath.Join(t.TempDir(), "orders.csv")
	code, _, errs := sheaf(t, t.Context(), "", "export", source.URL, "-o", output,
		"--column", "id", "--column", "paid_at", "--column", "idd", "--type", "paid_at=datetime")
	require.Zero(t, code, errs)
	require.Contains(t, errs, "--column idd: there is no column idd, did you mean id?")
	require.Equal(t, []string{"1", "2026-01-01 00:00:01", ""}, csvRows(t, readFile(t, output))[2])
}

func TestMessagesHaveOneLanguage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ msg, language, want string }{
		{"key 不能为空 (key is required)", "", "key is required"},
		{"key 不能为空 (key is required)", "zh_CN.UTF-8", "key 不能为空"},
		{"user_id: 不能为空 (user_id is required)", "en_GB", "user_id: user_id is required"},
		{`format: unknown "北京 (x)"`, "", `format: unknown "北京 (x)"`},
		{"title: is empty (say one)", "zh", "title: is empty (say one)"},
	} {
		require.Equal(t, c.want, oneLanguage(c.msg, c.language))
	}
}
