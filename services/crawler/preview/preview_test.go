package preview

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCompareTellsOtherRowsFromTheSameRows(t *testing.T) {
	t.Parallel()
	const page1 = `[{"id":1,"at":"10:00"},{"id":2,"at":"10:00"},{"id":3,"at":"10:00"}]`
	for name, c := range map[string]struct {
		page  string
		want  relation
		shift int
	}{
		"the same":                   {page1, same, 0},
		"the same with a clock":      {`[{"id":1,"at":"10:01"},{"id":2,"at":"10:01"},{"id":3,"at":"10:01"}]`, same, 0},
		"white space":                {`[ {"id": 1,"at":"10:00"},{"id":2,"at":"10:00"},{"id":3,"at":"10:00"} ]`, same, 0},
		"none":                       {`[]`, empty, -1},
		"others":                     {`[{"id":4,"at":"10:00"},{"id":5,"at":"10:00"}]`, other, -1},
		"a part":                     {`[{"id":1,"at":"10:00"}]`, within, 0},
		"an offset":                  {`[{"id":3,"at":"10:00"},{"id":4,"at":"10:00"}]`, other, 2},
		"an offset within page 1":    {`[{"id":2,"at":"10:00"},{"id":3,"at":"10:00"}]`, within, 1},
		"more rows":                  {`[{"id":1,"at":"10:00"},{"id":2,"at":"10:00"},{"id":3,"at":"10:00"},{"id":4,"at":"10:00"}]`, other, 0},
		"rows of another kind":       {`[{"name":"x"}]`, other, -1},
		"the same in another order":  {`[{"id":3,"at":"10:00"},{"id":2,"at":"10:00"},{"id":1,"at":"10:00"}]`, within, 2},
		"the same number as another": {`[{"id":"1","at":"10:00"}]`, other, -1},
	} {
		got, shift := compare([]byte(page1), []byte(c.page))
		require.Equal(t, c.want, got, name)
		require.Equal(t, c.shift, shift, name)
	}
}

func TestRowsWithEqualIDsAreComparedWhole(t *testing.T) {
	t.Parallel()
	got, _ := compare([]byte(`[{"id":1,"n":1},{"id":1,"n":2}]`), []byte(`[{"id":1,"n":3},{"id":1,"n":4}]`))
	require.Equal(t, other, got)
}

func TestCursorParams(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"next_cursor": "cursor", "nextPageToken": "pageToken", "next_page_token": "page_token", "endCursor": "cursor",
		"after": "after", "NextToken": "NextToken", "continuation": "continuation", "offset": "offset",
	} {
		require.Equal(t, want, cursorParams([]string{"meta", name})[0], name)
	}
}

func TestDocumentFindsListsAndPlaces(t *testing.T) {
	t.Parallel()
	d := readDocument([]byte(`{"links":[{"url":null}],"meta":{"a b":{"total":"50"}},"data":{"empty":[],"items":[{"id":1}],"tags":["x"],
		"deep":{"er":{"still":{"rows":[{"id":1}]}}}},"hits":[{"_source":{"id":1}}],"included":[{"id":1}]}`), none)
	var paths []string
	for _, l := range d.rowLists() {
		paths = append(paths, l.rowsPath())
	}
	require.Equal(t, []string{"hits[*]._source", "data.items"}, paths)
	total, ok := d.at("$.meta['a b'].total")
	require.True(t, ok)
	require.Equal(t, int64(50), total.number)
	require.Equal(t, "meta['a b'].total", total.path)
}

func TestIntegers(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]int64{
		`0`: 0, `5000`: 5000, `"5000"`: 5000, `5e3`: 5000, `5.0`: 5, `-1`: -1, `1.5`: -1, `"x"`: -1, `""`: -1, `null`: -1, `true`: -1, `{}`: -1, `1e300`: -1,
	} {
		require.Equal(t, want, integer([]byte(raw)), raw)
	}
}

// Whatever a document holds, its places can be read back by their paths.
func FuzzDocument(f *testing.F) {
	f.Add([]byte(`{"data":[{"id":1}],"total":1,"a'b":{"\u0000":1,"c.d":"2"}}`))
	f.Add([]byte(`[[{"a":1}],{"b":[{"node":{}}]}]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		o, err := readObject(body)
		if err == nil {
			again, err := readObject(o.raw())
			if err != nil || len(again) != len(o) {
				t.Fatalf("%q is not read back: %v", o.raw(), err)
			}
		}
		d := readDocument(body, none)
		for _, s := range append(d.spots, spotsOf(d.rowLists())...) {
			if _, ok := d.at(s.path); !ok {
				t.Fatalf("%q is not found", s.path)
			}
		}
	})
}

func spotsOf(lists []list) (spots []spot) {
	for _, l := range lists {
		spots = append(spots, l.spot)
	}
	return spots
}

func none(string) bool { return false }
