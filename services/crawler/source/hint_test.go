package source_test

import (
	"encoding/json"
	"testing"

	"sheaf/events/secrets"
	"sheaf/services/crawler/source"
	"sheaf/services/crawler/source/sourcetest"

	"github.com/stretchr/testify/require"
)

// The names of keys come from the source, so they may repeat its secrets.
func TestHintsShowNoSecrets(t *testing.T) {
	t.Parallel()
	for _, token := range []string{"a1b2c3d4e5f6", `back\slash"quote`, "long-5f2c7d1e9a3b4c6d8e0f5f2c7d1e9a3b4c6d8e0f"} {
		src := sourcetest.New(t, 1)
		body, err := json.Marshal(map[string]int{token: 1, "items": 2})
		require.NoError(t, err)
		src.Fault = sourcetest.Always(sourcetest.Body(string(body)))
		_, err = open(t, src, source.Request{Header: secrets.Values{"X-Token": token}}, quick).Fetch(t.Context(), source.Position{Page: 1})
		require.ErrorContains(t, err, `page 1: data is missing; the answer has the keys `)
		require.ErrorContains(t, err, `"items"`)
		require.NotContains(t, err.Error(), token[:8])
	}
}
