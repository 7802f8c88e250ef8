package rows_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"github.com/theory/jsonpath"
	"github.com/theory/jsonpath/spec"
	"pgregory.net/rapid"

	"sheaf/events/rows"
)

func TestParsePathReadsSingularQueries(t *testing.T) {
	t.Parallel()
	name := func(s string) rows.Step { return rows.Step{Name: s, Index: -1} }
	index := func(i int) rows.Step { return rows.Step{Index: i} }
	for text, want := range map[string]struct {
		steps []rows.Step
		text  string
	}{
		`$`:                     {nil, `$`},
		`totalItems`:            {[]rows.Step{name("totalItems")}, `totalItems`},
		`$.totalItems`:          {[]rows.Step{name("totalItems")}, `totalItems`},
		`data.page.list`:        {[]rows.Step{name("data"), name("page"), name("list")}, `data.page.list`},
		`errors[0].message`:     {[]rows.Step{name("errors"), index(0), name("message")}, `errors[0].message`},
		`['@odata.nextLink']`:   {[]rows.Step{name("@odata.nextLink")}, `['@odata.nextLink']`},
		`$['@odata.nextLink']`:  {[]rows.Step{name("@odata.nextLink")}, `['@odata.nextLink']`},
		`links["next-page"]`:    {[]rows.Step{name("links"), name("next-page")}, `links['next-page']`},
		`数据.总数`:                 {[]rows.Step{name("数据"), name("总数")}, `数据.总数`},
		`[0]`:                   {[]rows.Step{index(0)}, `[0]`},
		`$[0]['a']`:             {[]rows.Step{index(0), name("a")}, `[0].a`},
		`['a'].b`:               {[]rows.Step{name("a"), name("b")}, `a.b`},
		`$ .a [ 'b' ] [ 1 ]`:    {[]rows.Step{name("a"), name("b"), index(1)}, `a.b[1]`},
		`true.null`:             {[]rows.Step{name("true"), name("null")}, `true.null`},
		`['it\'s']`:             {[]rows.Step{name("it's")}, `['it\'s']`},
		`["\u6570\n\\"]`:        {[]rows.Step{name("数\n\\")}, `['数\u000a\\']`},
		`['$'].$['[*]']['a,b']`: {nil, ``},
		`['$']['[*]']['a,b']`:   {[]rows.Step{name("$"), name("[*]"), name("a,b")}, `['$']['[*]']['a,b']`},
		`['']`:                  {[]rows.Step{name("")}, `['']`},
		`[9007199254740991]`:    {[]rows.Step{index(1<<53 - 1)}, `[9007199254740991]`},
	} {
		p, err := rows.ParsePath(text)
		if want.text == "" {
			require.Error(t, err, text)
			continue
		}
		require.NoError(t, err, text)
		require.Equal(t, want.text, p.String(), text)
		require.Equal(t, want.steps, p.Steps(), text)
		again, err := rows.ParsePath(p.String())
		require.NoError(t, err, text)
		require.Equal(t, p, again, text)
		asRows, err := rows.ParseRowsPath(text)
		require.NoError(t, err, text)
		require.Equal(t, p, asRows, text)
	}
	var zero rows.Path
	require.Equal(t, "$", zero.String())
	require.True(t, zero.IsRoot())
	root, err := rows.ParsePath("$")
	require.NoError(t, err)
	require.Equal(t, zero, root)
}

func TestParseRowsPathMayHoldOneStar(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		``: `$`, `$`: `$`, `$[*]`: `$`, `[*]`: `$`, `$.*`: `$`, `data.items`: `data.items`, `data.items[*]`: `data.items`,
		`rows[*].doc`: `rows[*].doc`, `rows.*.doc`: `rows[*].doc`, `$[*].doc`: `$[*].doc`, `[*]['a b'][0]`: `$[*]['a b'][0]`,
		`data.orders.edges[*].node`: `data.orders.edges[*].node`,
	} {
		p, err := rows.ParseRowsPath(text)
		require.NoError(t, err, text)
		require.Equal(t, want, p.String(), text)
		require.Equal(t, want == "$", p.IsRoot(), text)
		again, err := rows.ParseRowsPath(p.String())
		require.NoError(t, err, text)
		require.Equal(t, p, again, text)
	}
	for text, want := range map[string]string{
		`a[*].b[*]`:   `at 7: a second [*] is not supported; rows are in one array`,
		`a[*][*]`:     `at 5: a second [*] is not supported; rows are in one array`,
		`a[*].b.*.c`:  `at 7: a second [*] is not supported; rows are in one array`,
		`data..list`:  `at 6: ".." is not supported; write each step`,
		`a[*].b[-1]`:  `at 7: a negative index is not supported; indices count from 0`,
		`data.list.`:  `at 11: a name is missing`,
		`data.list[]`: `at 10: a name in quotes or an index from 0 on should be in the brackets, such as ['name'] or [0]`,
	} {
		_, err := rows.ParseRowsPath(text)
		require.EqualError(t, err, want, text)
	}
}

func TestParsePathRefusesWithPosition(t *testing.T) {
	t.Parallel()
	const quoted = "; a name with other characters than letters, digits and _ is quoted"
	const brackets = "a name in quotes or an index from 0 on should be in the brackets, such as ['name'] or [0]"
	for text, want := range map[string]string{
		``:                             `at 1: the path is empty; $ is the whole answer`,
		`data..list`:                   `at 6: ".." is not supported; write each step`,
		`$..a`:                         `at 3: ".." is not supported; write each step`,
		`数据..总数`:                       `at 4: ".." is not supported; write each step`,
		`.a`:                           ``,
		`..a`:                          `at 2: ".." is not supported; write each step`,
		`a.`:                           `at 3: a name is missing`,
		`a.[0]`:                        `at 3: a name is missing`,
		`$.`:                           `at 3: a name is missing`,
		`$.next-page`:                  `at 3: write ['next-page']` + quoted,
		`a.next-page.b`:                `at 3: write ['next-page']` + quoted,
		`@odata.nextLink`:              `at 1: write ['@odata.nextLink']` + quoted,
		`a.@odata.b[0]`:                `at 3: write ['@odata.b']` + quoted,
		`$skip`:                        `at 1: write ['$skip']` + quoted,
		`a b`:                          `at 1: write ['a b']` + quoted,
		`it's`:                         `at 1: write ['it\'s']` + quoted,
		` a`:                           `at 1: write [' a']` + quoted,
		`a. b`:                         `at 3: write [' b']` + quoted,
		`a `:                           `at 1: write ['a ']` + quoted,
		`a[0] `:                        `at 5: white space at the end of the path`,
		`a[0]b`:                        `at 5: "." or "[" should be here; write a name that holds other characters than letters, digits and _ as ['name']`,
		`a.0.b`:                        `at 3: write [0] for an element of an array, ['0'] for a name`,
		`a.1st`:                        `at 3: write ['1st']` + quoted,
		`a[-1]`:                        `at 2: a negative index is not supported; indices count from 0`,
		`a[-0]`:                        `at 2: ` + brackets,
		`a[01]`:                        `at 2: ` + brackets,
		`a[1.5]`:                       `at 2: ` + brackets,
		`a[9007199254740992]`:          `at 2: ` + brackets,
		`a[*]`:                         `at 2: "*" is supported in rows only; write an index such as [0]`,
		`a.*`:                          `at 2: "*" is supported in rows only; write an index such as [0]`,
		`a[1:2]`:                       `at 2: a slice is not supported; write one index`,
		`a[:]`:                         `at 2: a slice is not supported; write one index`,
		`a['b','c']`:                   `at 2: a list of steps is not supported; write one`,
		`a[0,1]`:                       `at 2: a list of steps is not supported; write one`,
		`a[?@.b]`:                      `at 2: filters are not supported; write each step`,
		`a[?@.b==']']`:                 `at 2: filters are not supported; write each step`,
		`a[?(@.b)`:                     `at 9: "]" is missing`,
		`a[?x(]`:                       `at 2: filters are not supported; write each step`,
		`a.length()`:                   `at 3: functions are not supported; write each step`,
		`a[b]`:                         `at 2: write .b or ['b']`,
		`a[]`:                          `at 2: ` + brackets,
		`a['b`:                         `at 5: the quote ' is not closed`,
		`a["b']`:                       `at 7: the quote " is not closed`,
		`a['b'`:                        `at 6: "]" is missing`,
		`a['\x']`:                      `at 2: ` + brackets,
		`a['b'c]`:                      `at 2: ` + brackets,
		`a]`:                           `at 1: write ['a]']` + quoted,
		"a\xff":                        `at 2: the path is not valid UTF-8`,
		`/data/list`:                   `at 1: write ['/data/list']` + quoted,
		strings.Repeat("a.", 16) + "a": `at 32: more than 16 steps`,
		strings.Repeat("a", 513):       `at 1: the path has 513 bytes, at most 512 are allowed`,
	} {
		p, err := rows.ParsePath(text)
		if want == "" { // the dot before the first name may stay
			require.NoError(t, err, text)
			require.Equal(t, "a", p.String())
			continue
		}
		var e *rows.PathError
		require.ErrorAs(t, err, &e, text)
		require.Equal(t, want, e.Error(), text)
		require.LessOrEqual(t, e.Offset, len(text), text)
		require.Equal(t, rows.Path{}, p, text)
	}
	_, err := rows.ParsePath(strings.Repeat("a.", 15) + "a")
	require.NoError(t, err)
	_, err = rows.ParsePath(strings.Repeat("a", 512))
	require.NoError(t, err)
}

// standardForm writes a path as RFC 9535 has it.
func standardForm(p string) string {
	if strings.HasPrefix(p, "$") {
		return p
	}
	if strings.HasPrefix(p, "[") {
		return "$" + p
	}
	return "$." + p
}

// ParsePath accepts singular queries of RFC 9535 only, and reads the steps that the standard means.
func FuzzParsePath(f *testing.F) {
	for _, text := range []string{`$`, `a.b`, `$['a'][0]`, `rows[*].doc`, `['@odata.nextLink']`, `数据.总数`, `a..b`, `$ .a [ "b" ]`,
		`a[-1]`, `a[?@.b==']']`, `$a`, `a['\'\\\u0041\ud83d\ude00']`, `a[1:2]`, `['a','b']`, `@odata.x`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := rows.ParsePath(text)
		asRows, rowsErr := rows.ParseRowsPath(text)
		for _, err := range []error{err, rowsErr} {
			if e := (*rows.PathError)(nil); err != nil && (!errors.As(err, &e) || e.Offset < 0 || e.Offset > len(text) ||
				!strings.HasPrefix(e.Msg, "at ") || !utf8.ValidString(e.Msg)) {
				t.Fatalf("bad error %#v", err)
			}
		}
		if rowsErr == nil && text != "" {
			_, err := jsonpath.Parse(standardForm(asRows.String()))
			if err != nil {
				t.Fatalf("%q is read as %q, which is no JSONPath: %v", text, asRows, err)
			}
		}
		if err != nil {
			return
		}
		if rowsErr != nil || asRows.String() != p.String() {
			t.Fatalf("%q as a rows path: %q, %v", text, asRows, rowsErr)
		}
		want, err := jsonpath.Parse(standardForm(strings.TrimPrefix(text, ".")))
		if err != nil || want.Query().Singular() == nil {
			t.Fatalf("%q is read as %q, but is no singular query: %v", text, p, err)
		}
		var steps []rows.Step
		for _, segment := range want.Query().Segments() {
			switch s := segment.Selectors()[0].(type) {
			case spec.Name:
				steps = append(steps, rows.Step{Name: string(s), Index: -1})
			case spec.Index:
				steps = append(steps, rows.Step{Index: int(s)})
			}
		}
		if !slices.Equal(steps, p.Steps()) {
			t.Fatalf("%q: want %v, got %v", text, steps, p.Steps())
		}
	})
}

func TestLookupFindsWhatJSONPathFinds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		doc := drawDocument(t)
		text := drawPath(t)
		p, err := rows.ParsePath(text)
		if err != nil {
			t.Fatal(err)
		}
		v, ok := rows.Lookup([]byte(doc), p)
		want := selected(t, doc, text)
		if ok != (len(want) == 1) {
			t.Fatalf("%s in %s: found %v, want %v", text, doc, ok, want)
		}
		if ok {
			sameValue(t, v.Raw, want[0])
			if v.Escaped != (v.Kind == rows.String && strings.Contains(string(v.Raw), `\`)) || rune(v.Raw[0]) == ' ' {
				t.Fatalf("bad value %+v", v)
			}
		}
	})
}

func TestLookupReadsNoRowsPath(t *testing.T) {
	t.Parallel()
	p, err := rows.ParseRowsPath(`a[*].b`)
	require.NoError(t, err)
	_, ok := rows.Lookup([]byte(`{"a":[{"b":1}]}`), p)
	require.False(t, ok)
}

func TestLookupSurvivesAnyBytes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		doc := []byte(drawDocument(t))
		i := rapid.IntRange(0, len(doc)-1).Draw(t, "at")
		doc[i] = rapid.SampledFrom([]byte("\"\\{}[],:0-.e \n\x00\x80")).Draw(t, "byte")
		p, err := rows.ParsePath(drawPath(t))
		if err != nil {
			t.Fatal(err)
		}
		for k := range doc {
			rows.Lookup(doc[k:], p)
			rows.Lookup(doc[:k], p)
		}
	})
}

// The text of a path of any names is a path of the same names.
func TestPathsOfNamesAreReadBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var steps []rows.Step
		for range rapid.IntRange(1, 4).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "member") {
				steps = append(steps, rows.Member(rapid.StringN(0, 20, 60).Draw(t, "name")))
			} else {
				steps = append(steps, rows.Step{Index: rapid.IntRange(0, 99).Draw(t, "index")})
			}
		}
		text := rows.NewPath(steps...).String()
		p, err := rows.ParsePath(text)
		require.NoError(t, err, text)
		require.Equal(t, steps, p.Steps(), text)
	})
}
