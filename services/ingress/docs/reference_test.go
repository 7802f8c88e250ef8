package docs

//go:generate go test -run ^TestReferenceIsFresh$ . -update

import (
	"bytes"
	_ "embed"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"text/template"

	"sheaf/events"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write services/REFERENCE.md")

//go:embed reference.md.tmpl
var referenceTemplate string

// services/REFERENCE.md is its template with the tables of the documents.
func TestReferenceIsFresh(t *testing.T) {
	t.Parallel()
	c, err := parse(document(t), events.AsyncAPI())
	require.NoError(t, err)
	r := reference{t, c}
	tmpl, err := template.New("reference").Funcs(template.FuncMap{
		"fields": r.fields, "codes": r.codes, "operations": r.operations, "channels": r.channels,
	}).Parse(referenceTemplate)
	require.NoError(t, err)
	var b bytes.Buffer
	require.NoError(t, tmpl.Execute(&b, nil))
	const file = "../../REFERENCE.md"
	if *update {
		require.NoError(t, os.WriteFile(file, b.Bytes(), 0o644))
	}
	got, err := os.ReadFile(file)
	require.NoError(t, err)
	require.True(t, string(got) == b.String(), "services/REFERENCE.md is not as its sources say; run go generate ./services/ingress/docs")
}

// reference writes the tables of the reference.
type reference struct {
	t *testing.T
	*contracts
}

// table writes a Markdown table. In a cell, a bar is escaped.
func table(rows ...[]string) string {
	var b strings.Builder
	for i, row := range rows {
		for _, cell := range row {
			b.WriteString("| ")
			if cell = strings.Join(strings.Fields(cell), " "); cell != "" {
				b.WriteString(strings.ReplaceAll(cell, "|", `\|`) + " ")
			}
		}
		b.WriteString("|\n")
		if i == 0 {
			b.WriteString(strings.Repeat("|---", len(row)) + "|\n")
		}
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func code(text string) string {
	if text == "" {
		return ""
	}
	return "`" + text + "`"
}

// fields is the table of an object's members, of all or of those named.
func (r reference) fields(name, title string, names ...string) string {
	s := r.rest.Components.Schemas.find(name)
	require.NotNil(r.t, s, name)
	rows := [][]string{{title, "example", "meaning"}}
	for _, p := range s.Properties {
		full := r.rest.schema(p.Value)
		if len(names) > 0 && !slices.Contains(names, p.Name) || full.Deprecated {
			continue
		}
		rows = append(rows, []string{code(p.Name), code(exampleOf(full)), full.English})
	}
	return table(withoutEmpty(rows)...)
}

// withoutEmpty leaves out the second column if it is empty in all rows but the title's.
func withoutEmpty(rows [][]string) [][]string {
	if slices.ContainsFunc(rows[1:], func(row []string) bool { return row[1] != "" }) {
		return rows
	}
	for i := range rows {
		rows[i] = slices.Delete(slices.Clone(rows[i]), 1, 2)
	}
	return rows
}

// codes is the table of the constants that a schema lists.
func (r reference) codes(name, title, meaning string) string {
	s := r.rest.Components.Schemas.find(name)
	require.NotNil(r.t, s, name)
	rows := [][]string{{title, "HTTP", meaning}}
	for _, one := range s.OneOf {
		value, status := one.Const.Value, ""
		if one.HTTP != 0 {
			status = fmt.Sprint(one.HTTP)
		} else {
			value = code(value)
		}
		rows = append(rows, []string{value, status, one.English})
	}
	return table(withoutEmpty(rows)...)
}

// operations is the table of all paths.
func (r reference) operations() string {
	rows := [][]string{{"path", "NATS", "scope", "what it does"}}
	for _, path := range r.rest.Paths {
		for _, op := range path.Value {
			if op.Name != "head" && !op.Value.Internal {
				rows = append(rows, []string{code(strings.ToUpper(op.Name) + " " + path.Name), code(op.Value.NATS), op.Value.Scope, op.Value.Summary})
			}
		}
	}
	return table(rows...)
}

// channels is the table of all subjects. Its meanings are one sentence each.
func (r reference) channels() string {
	rows := [][]string{{"subject", "what"}}
	for _, ch := range r.nats.Channels {
		first, _, _ := strings.Cut(ch.Value.English+" ", ". ")
		first = strings.TrimSuffix(strings.TrimSpace(first), ".") + "."
		rows = append(rows, []string{code(ch.Value.Address), first})
	}
	return table(rows...)
}
