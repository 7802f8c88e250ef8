package ingress

import (
	"testing"

	"github.com/stretchr/testify/require"

	"sheaf/storage"
)

func TestLargestTenantsHaveMetrics(t *testing.T) {
	t.Parallel()
	usages := map[string]storage.Usage{
		"shop":  {Exports: 9, Unfinished: 1, FileBytes: 10, Bytes: 5},
		"bank":  {Exports: 9, FileBytes: 1},
		"small": {Exports: 1, Unfinished: 1, FileBytes: 3, Bytes: 1},
		"tiny":  {FileBytes: 4, Bytes: 2},
		"other": {Exports: 20, Bytes: 7}, // a tenant may have the name
	}
	require.Nil(t, largest(usages, 0))
	require.Equal(t, map[string]storage.Usage{
		"bank": usages["bank"], "other": {Exports: 30, Unfinished: 2, FileBytes: 17, Bytes: 15},
	}, largest(usages, 2))
	require.Equal(t, usages, largest(usages, 5))
}
