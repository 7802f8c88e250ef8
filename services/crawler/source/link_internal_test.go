package source

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNextLink(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, want string
		malformed  bool
		fields     []string
	}{
		{"none", "", false, nil},
		{"empty", "", false, []string{""}},
		{"only separators", "", false, []string{" , ,\t,"}},
		{"GitHub", "https://api.example/r?page=2", false, []string{`<https://api.example/r?page=1>; rel="prev", <https://api.example/r?page=2>; rel="next", <https://api.example/r?page=9>; rel="last"`}},
		{"the last page", "", false, []string{`<https://api.example/r?page=1>; rel="prev", <https://api.example/r?page=1>; rel="first"`}},
		{"several fields", "/b", false, []string{`</a>; rel="prev"`, `</b>; rel="next"`}},
		{"unquoted", "/b", false, []string{`</b>; rel=next`}},
		{"unquoted, another", "/b", false, []string{`</a>; rel=prev, </b>;rel=next,</c>;rel=last`}},
		{"several types", "/b", false, []string{`</b>; rel="last  next"`}},
		{"part of a type", "", false, []string{`</b>; rel="next-page xnext"`}},
		{"any case", "/b", false, []string{`</b>; REL="NEXT"`}},
		{"commas and semicolons in the address", "/b?fields=id,name;x&rel=prev", false, []string{`</b?fields=id,name;x&rel=prev>; rel="next"`}},
		{"commas and quotes in a value", "/b", false, []string{`</b>; title="a, \"b\"; rel=prev <c>"; rel="next"`}},
		{"an escaped type", "/b", false, []string{`</b>; rel="n\ext"`}},
		{"white space everywhere", "/b", false, []string{"  <  /b\t> \t; \t rel = \"next\" ; x , </c>; rel=prev"}},
		{"the first rel counts", "", false, []string{`</b>; rel="prev"; rel="next"`}},
		{"a link of another resource", "/c", false, []string{`</b>; rel=next; anchor="#x", </c>; rel=next`}},
		{"a parameter without a value", "/b", false, []string{`</b>; crossorigin; rel=next`}},
		{"the value of another parameter", "", false, []string{`</b>; title="rel=next"`}},
		{"a type that is an address", "/b", false, []string{`</b>; rel=https://api.example/rels/x, </b>; rel=next`}},
		{"an empty target", "", true, []string{`<>; rel="next"`}},
		{"no brackets", "", true, []string{`/b; rel="next"`}},
		{"not closed", "", true, []string{`</b; rel="next"`}},
		{"a quote not closed", "", true, []string{`</b>; rel="next`}},
		{"text behind", "", true, []string{`</b>; rel="next" x`}},
		{"broken, but elsewhere", "/b", false, []string{`garbage`, `</b>; rel="next"`}},
		{"an ending semicolon", "/b", false, []string{`</b>; rel="next";`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			target, malformed := nextLink(c.fields, "next")
			require.Equal(t, c.want, target)
			require.Equal(t, c.malformed, malformed)
		})
	}
}

// nextLink reads every link that RFC 8288 allows, whatever the target and the other parameters contain.
func FuzzLink(f *testing.F) {
	f.Add("/b?a=1,2;3", `a "b", <c>; rel=next`, `</x>; rel="prev", <y`)
	f.Add("", "\\", `<>;;;,<`)
	f.Fuzz(func(t *testing.T, target, title, before string) {
		nextLink([]string{before, target, title}, "next")
		if target = strings.TrimSpace(target); target == "" || strings.ContainsAny(target, "<>\r\n") || !validField(title) || !validField(target) {
			return
		}
		quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(title)
		got, malformed := nextLink([]string{`</p>; title="` + quoted + `"; rel=prev, <` + target + `>; title="` + quoted + `"; rel="a next"`}, "next")
		require.Equal(t, target, got)
		require.False(t, malformed)
	})
}

func validField(s string) bool { return !strings.ContainsAny(s, "\x00\r\n") }

// A Content-Range is read as a number or as unknown.
func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"items 0-9/500", "*/0", "0-9/*", "/", "0-1/00012", "/1e5", "/-5", "//7", "/99999999999999999999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, field string) {
		raw := rangeTotal(field)
		_, after, found := strings.Cut(field, "/")
		for strings.Contains(after, "/") {
			_, after, _ = strings.Cut(after, "/")
		}
		after = strings.TrimSpace(after)
		if !found || after == "" || strings.Trim(after, "0123456789") != "" {
			require.Equal(t, "null", string(raw))
			return
		}
		want := strings.TrimLeft(after, "0")
		if want == "" {
			want = "0"
		}
		require.Equal(t, want, string(raw))
		n, ok := wholeNumber(raw)
		require.Equal(t, ok, n >= 0)
	})
}

// A whole number is read exactly, or refused.
func TestWholeNumber(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]int64{
		`0`: 0, `-0`: 0, `5000`: 5000, `"5000"`: 5000, `" 7 "`: 7, `9223372036854775807`: 9223372036854775807, `5e3`: 5000, `5000.0`: 5000,
		`null`: -1, `""`: -1, `-1`: -1, `"-5"`: -1, `-1.0`: -1, `-9223372036854775808`: -1,
	} {
		n, ok := wholeNumber([]byte(raw))
		require.True(t, ok, raw)
		require.Equal(t, want, n, raw)
	}
	for _, raw := range []string{`1.5`, `"x"`, `true`, `{}`, `[1]`, `9223372036854775808`, `1e300`, `"0x10"`, `"1_000"`, `"1,000"`, `"NaN"`, `"Inf"`} {
		_, ok := wholeNumber([]byte(raw))
		require.False(t, ok, raw)
	}
	_, ok := wholeNumber(nil)
	require.False(t, ok)
}

// All secrets of a stored page are hidden from messages about the next one.
func TestHidden(t *testing.T) {
	t.Parallel()
	f := &Fetcher{secrets: redactor{"header"}}
	hidden := f.hidden(Position{Token: "https://api.example/x?token=S3cret%2BToken&n=1"})
	require.Equal(t, "*** *** *** *** n=1", hidden.redact("https://api.example/x?token=S3cret%2BToken&n=1 S3cret%2BToken S3cret+Token header n=1"))
}
