package rows_test

import (
	"errors"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"sheaf/events/rows"
)

func TestFlatten(t *testing.T) {
	t.Parallel()
	const nested = `[ {"id" : 1.50,"user":{"name":"x","home":{"city" : {"zip":1}}},"tags":[ {"a":1} ],"none":{ }}, {"user":null} ]`
	for depth, want := range map[int]string{
		-1: `[{"id":1.50,"user":{"name":"x","home":{"city" : {"zip":1}}},"tags":[ {"a":1} ],"none":{ }},{"user":null}]`,
		0:  `[{"id":1.50,"user":{"name":"x","home":{"city" : {"zip":1}}},"tags":[ {"a":1} ],"none":{ }},{"user":null}]`,
		1:  `[{"id":1.50,"user.name":"x","user.home":{"city" : {"zip":1}},"tags":[ {"a":1} ],"none":{ }},{"user":null}]`,
		2:  `[{"id":1.50,"user.name":"x","user.home.city":{"zip":1},"tags":[ {"a":1} ],"none":{ }},{"user":null}]`,
		5:  `[{"id":1.50,"user.name":"x","user.home.city.zip":1,"tags":[ {"a":1} ],"none":{ }},{"user":null}]`,
	} {
		got, err := rows.Flatten([]byte("x"), []byte(nested), depth, rows.Limits{})
		require.NoError(t, err)
		require.Equal(t, "x"+want, string(got), depth)
	}
	got, err := rows.Flatten(nil, []byte(` [ ] `), 3, rows.Limits{})
	require.NoError(t, err)
	require.Equal(t, `[]`, string(got))
}

func TestFlattenRefusesNamesThatMeet(t *testing.T) {
	t.Parallel()
	for array, want := range map[string]string{
		`[{},{"user.name":1,"user":{"name":2}}]`:                           `row 2: options.flatten makes two fields of the same name; the name is "user.name"`,
		`[{"a":{"b":1},"x":0,"a":{"b":2}}]`:                                `row 1: options.flatten makes two fields of the same name; the name is "a.b"`,
		`[{"a.b":{"c":1},"a":{"b.c":2}}]`:                                  `row 1: options.flatten makes two fields of the same name; the name is "a.b.c"`,
		`[{"\u0061":{"b":1},"a\u002eb":2}]`:                                `row 1: options.flatten makes two fields of the same name; the name is "a.b"`,
		`[{"a":1,"aaa":1},{"aa":1,"aa":1}]`:                                `row 2: options.flatten makes two fields of the same name; the name is "aa"`,
		`[{"a":1},{"a":1},{"a":1,"a":1}]`:                                  `row 3: options.flatten makes two fields of the same name; the name is "a"`,
		`[{"a":1,"ab":2},{"aa":1,"b":2},{"a":1,"ab":2},{"":{"":1},".":2}]`: `row 4: options.flatten makes two fields of the same name; the name is "."`,
	} {
		got, err := rows.Flatten(nil, []byte(array), 2, rows.Limits{})
		var e *rows.SyntaxError
		require.ErrorAs(t, err, &e, array)
		require.Equal(t, want, e.Msg+"; "+e.Hint, array)
		require.Nil(t, got)
	}
}

// referenceFlatten flattens a row with encoding/json.
func referenceFlatten(row []field, prefix string, depth int) []field {
	flat := []field{}
	for _, f := range row {
		nested, isRows := referenceRows([]byte("[" + f.Raw + "]"))
		if depth > 0 && isRows && len(nested[0]) > 0 {
			flat = append(flat, referenceFlatten(nested[0], prefix+f.Name+".", depth-1)...)
			continue
		}
		flat = append(flat, field{prefix + f.Name, f.Raw})
	}
	return flat
}

func hasRepeatedName(row []field) bool {
	seen := map[string]bool{}
	for _, f := range row {
		if seen[f.Name] {
			return true
		}
		seen[f.Name] = true
	}
	return false
}

func TestFlattenAgreesWithEncodingJSON(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		page := drawPage(t)
		depth := rapid.IntRange(0, 4).Draw(t, "depth")
		all, _ := referenceRows([]byte(page))
		want, refused := [][]field{}, 0
		for i, row := range all {
			want = append(want, referenceFlatten(row, "", depth))
			if hasRepeatedName(want[i]) {
				refused = i + 1
				break
			}
		}
		got, err := rows.Flatten(nil, []byte(page), depth, rows.Limits{})
		if refused > 0 {
			if e := (*rows.SyntaxError)(nil); !errors.As(err, &e) || e.Row != refused {
				t.Fatalf("%s: %v, want row %d", page, err, refused)
			}
			return
		}
		flat, ok := referenceRows(got)
		if err != nil || !ok || !reflect.DeepEqual(flat, want) {
			t.Fatalf("%s: got %s, %v, want %v", page, got, err, want)
		}
	})
}
