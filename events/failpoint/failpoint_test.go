package failpoint_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sheaf/events/failpoint"

	"github.com/stretchr/testify/require"
)

// A name without a place in the code would test nothing, and a place without a name would never be tested.
func TestNamesAreThePlacesInTheCode(t *testing.T) {
	const root = "../.."
	hit := regexp.MustCompile(`failpoint\.Hit\(([^)]*)\)`)
	var places []string
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && strings.HasPrefix(entry.Name(), ".") && path != root {
			return fs.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range hit.FindAllStringSubmatch(string(text), -1) {
			require.Regexp(t, `^"[a-z.-]+"$`, m[1], "%s: the name must be a literal", path)
			places = append(places, strings.Trim(m[1], `"`))
		}
		return nil
	})
	require.NoError(t, err)
	slices.Sort(places)
	names := slices.Sorted(slices.Values(failpoint.Names))
	require.Equal(t, names, slices.Compact(places))
	require.Equal(t, slices.Compact(slices.Clone(names)), names, "a name occurs twice")
}
