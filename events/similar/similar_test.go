package similar_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"sheaf/events/similar"
)

func TestASimilarNameIsFound(t *testing.T) {
	t.Parallel()
	known := []string{"page", "offset", "cursor", "next_url", "laravel", "laravel-resource"}
	for wrong, want := range map[string]string{
		"larvel": "laravel", "pgae": "page", "page": "page", "next": "next_url", "nexturl": "next_url", "laravel-ressource": "laravel-resource",
		"": "", "xxxxxxx": "", "SHORT": "",
	} {
		require.Equal(t, want, similar.Name(wrong, slices.Values(known)), wrong)
	}
	require.Empty(t, similar.Name("page", slices.Values([]string(nil))))
}
