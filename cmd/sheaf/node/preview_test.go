package node

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"sheaf/services/crawler/source/sourcetest"
)

// previewed previews a submission in this process.
func previewed(t *testing.T, submission []byte) map[string]any {
	cfg := OneShot(t.TempDir())
	cfg.AllowCIDR = []string{"0.0.0.0/0", "::/0"}
	answer, err := Preview(t.Context(), cfg, submission)
	require.NoError(t, err)
	raw, err := json.Marshal(answer)
	require.NoError(t, err)
	var fields map[string]any
	require.NoError(t, json.Unmarshal(raw, &fields))
	return fields
}

func TestPreviewFindsTheUsualAPIs(t *testing.T) {
	t.Parallel()
	for _, api := range sourcetest.APIs() {
		t.Run(api.Name, func(t *testing.T) {
			t.Parallel()
			answer := previewed(t, api.Submission(api.Serve(t, 730).URL))
			text, _ := json.Marshal(answer)
			require.NotNil(t, answer["request"], string(text))
			require.LessOrEqual(t, answer["requests"], 3.0)
			preset, _ := answer["preset"].(string)
			require.Equal(t, api.Preset, preset, string(text))
			t.Log(string(text))
		})
	}
}
