package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// An output has the extension of its content, or none.
func TestOutputsEndAsTheyAreWritten(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	for name, good := range map[string]bool{
		"x.xlsx": true, "x.XLSX": true, "x.zip": true, "x.Zip": true, "x": true, "x.csv.xlsx": true, "订单.xlsx": true,
		"x.xls": false, "x.xlsm": false, "x.ods": false, "x.xlsx.ods": false, "x.": false, "x.2026": false, "x.gz": false, ".ods": false,
	} {
		path := filepath.Join(folder, name)
		err := checkOutput(path, false)
		if good {
			require.NoError(t, err, name)
		} else {
			require.ErrorContains(t, err, "; a file ends in .xlsx, ", name)
		}
		if good {
			continue // it would be done
		}
		for _, args := range [][]string{
			{"export", "http://127.0.0.1:1/", "-o", path},
			{"export", "http://127.0.0.1:1/", "-o", path, "-f", "--server", "http://127.0.0.1:1"},
			{"download", testKey, "-o", path, "--server", "http://127.0.0.1:1"},
		} {
			code, _, errs := sheaf(t, t.Context(), "", args...)
			require.Equal(t, exitUsage, code, errs)
			require.Contains(t, errs, ".xlsx", args)
		}
	}
	code, _, errs := sheaf(t, t.Context(), "", "demo", "--rows", "1", "--out", filepath.Join(folder, "none", "demo.csv"))
	require.Equal(t, exitUsage, code, errs)
	require.Contains(t, errs, "there is no folder")
	code, _, errs = sheaf(t, t.Context(), "", "demo", "--rows", "1", "--out", filepath.Join(folder, "demo"), "--force")
	require.Equal(t, exitUsage, code, errs)
	require.Contains(t, errs, "--force: it goes with a file")
	left, err := os.ReadDir(folder)
	require.NoError(t, err)
	require.Empty(t, left)
}
