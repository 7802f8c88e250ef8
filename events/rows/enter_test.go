package rows

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEnterWalksObjectsAndArrays(t *testing.T) {
	t.Parallel()
	page := []byte(`[{"o":{"a":1,"b":{"c":[]}},"t":[ 1 , "x\"]" , [2,[3]] , {"d":4} , null , true ],"e":[],"f":{},"n":7},{"z":1}]`)
	c := NewCursor(page)
	require.True(t, c.NextRow())
	got := map[string][]string{}
	for {
		at, _, ok := c.Next(nil)
		if !ok {
			break
		}
		name := string(c.Name())
		got[name] = []string{}
		in := c.Enter(at)
		for at.Kind == Object {
			v, _, ok := in.Next(nil)
			if !ok {
				break
			}
			got[name] = append(got[name], string(in.Name())+"="+string(c.Raw(v)))
		}
		for at.Kind == Array {
			v, ok := in.NextElement()
			if !ok {
				break
			}
			got[name] = append(got[name], string(c.Raw(v)))
			require.Equal(t, v.Kind == String, v.Escaped, "the only string has an escape")
		}
		if at.Kind == Number {
			_, ok := in.NextElement()
			require.False(t, ok)
			require.False(t, in.NextRow())
		}
	}
	require.Equal(t, map[string][]string{"o": {"a=1", `b={"c":[]}`}, "t": {"1", `"x\"]"`, "[2,[3]]", `{"d":4}`, "null", "true"},
		"e": {}, "f": {}, "n": {}}, got)
	require.True(t, c.NextRow(), "the cursor itself has not moved")
}

// Elements of any bytes end, within bounds; those of a checked array are its elements.
func FuzzNextElement(f *testing.F) {
	f.Add([]byte(`[1,"a",[2],{"b":3},null]`))
	f.Add([]byte(`[1,"a`))
	f.Add([]byte(`[[`))
	f.Fuzz(func(t *testing.T, array []byte) {
		var elements []json.RawMessage
		valid := len(array) > 0 && array[0] == '[' && json.Unmarshal(array, &elements) == nil
		c := Cursor{b: array}
		in := c.Enter(Span{end: len(array), Kind: Array})
		n := 0
		for v, ok := in.NextElement(); ok; v, ok = in.NextElement() {
			if valid {
				require.Equal(t, string(elements[n]), string(in.Raw(v)))
			}
			n++
			require.LessOrEqual(t, n, len(array))
		}
		if valid {
			require.Len(t, elements, n)
		}
	})
}
