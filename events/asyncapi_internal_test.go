package events

import (
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

type object = map[string]any

func readAsyncAPI(t *testing.T) object {
	t.Helper()
	data, err := os.ReadFile("asyncapi.yaml")
	require.NoError(t, err)
	var doc object
	require.NoError(t, yaml.Unmarshal(data, &doc))
	return doc
}

func at(doc any, path ...string) any {
	for _, p := range path {
		m, ok := doc.(object)
		if !ok {
			return nil
		}
		doc = m[p]
	}
	return doc
}

// The document lists exactly the subjects and types of the code.
func TestAsyncAPINamesEverySubject(t *testing.T) {
	t.Parallel()
	doc := readAsyncAPI(t)
	want := map[string]string{ // stream by address
		SubmitSubject("{tenant}", "{source}"):              StreamSubmit,
		APISubject("{tenant}", "{operation}"):              "",
		SubjectPage + "{tenant}.{key}.{run}.{page}.{part}": StreamPages,
		ProgressSubject("{tenant}", "{key}"):               "",
		SubjectCallback + "{tenant}.{name}":                StreamCallbacks,
	}
	for typ := range typeNames {
		want[EventSubject("{tenant}", typ, "{key}")] = StreamEvents
	}
	got := map[string]string{}
	parameter := regexp.MustCompile(`\{(\w+)\}`)
	for name, channel := range doc["channels"].(object) {
		address := at(channel, "address").(string)
		stream, _ := at(channel, "x-jetstream", "stream").(string)
		require.NotContains(t, got, address)
		got[address] = stream
		parameters := slices.Sorted(maps.Keys(at(channel, "parameters").(object)))
		named := []string{}
		for _, m := range parameter.FindAllStringSubmatch(address, -1) {
			named = append(named, m[1])
		}
		slices.Sort(named)
		require.Equal(t, named, parameters, name)
	}
	require.Equal(t, want, got)
}

func TestAsyncAPIMessages(t *testing.T) {
	t.Parallel()
	doc := readAsyncAPI(t)
	byName := map[string]object{}
	for _, m := range at(doc, "components", "messages").(object) {
		byName[m.(object)["name"].(string)] = m.(object)
	}
	types := maps.Clone(typeNames)
	types["page"] = PageTypeName
	for _, ceType := range types {
		m := byName[ceType]
		require.NotNil(t, m, ceType)
		ref := at(m, "payload", "$ref").(string)
		require.Equal(t, "./schema/"+ceType+".json", ref)
		require.FileExists(t, ref)
	}
	for name := range byName {
		if strings.HasPrefix(name, "sheaf.") {
			require.Contains(t, slices.Collect(maps.Values(types)), name, "a message that no type has")
		}
	}

	// The headers are those that the code writes.
	msg, err := Encode(Event{ID: "x", Tenant: "t", CorrelationID: "c", TraceParent: "p",
		Payload: &ExportCancelled{}, Export: &Export{}})
	require.NoError(t, err)
	require.Equal(t, slices.Sorted(maps.Keys(msg.Header)),
		slices.Sorted(maps.Keys(at(doc, "components", "schemas", "eventHeaders", "properties").(object))))
	var pageHeaders []string
	for _, line := range strings.Split(readGolden(t, PageTypeName), "\n")[1:] {
		if line == "" {
			break
		}
		name, _, _ := strings.Cut(line, ":")
		pageHeaders = append(pageHeaders, name)
	}
	pageHeaders = append(pageHeaders, "ce-next", "ce-last") // absent where pages are numbered, as in the golden file
	require.ElementsMatch(t, pageHeaders,
		slices.Collect(maps.Keys(at(doc, "components", "schemas", "pageHeaders", "properties").(object))))

	fields := []string{}
	for i := range reflect.TypeFor[Progress]().NumField() {
		name, _, _ := strings.Cut(reflect.TypeFor[Progress]().Field(i).Tag.Get("json"), ",")
		fields = append(fields, name)
	}
	require.ElementsMatch(t, fields,
		slices.Collect(maps.Keys(at(byName["progress"], "payload", "properties").(object))))
	require.Equal(t, []any{PhaseQueued, PhaseCrawling, PhaseWaitingForSource, PhaseWaitingForSpace, PhaseAssembling},
		at(byName["progress"], "payload", "properties", "phase", "enum"))
}

func readGolden(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile("testdata/" + name + ".golden")
	require.NoError(t, err)
	return string(data)
}

func TestAsyncAPIReferencesExist(t *testing.T) {
	t.Parallel()
	doc := readAsyncAPI(t)
	referred := map[string]bool{}
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case object:
			if ref, ok := v["$ref"].(string); ok && strings.HasPrefix(ref, "#/") {
				require.NotNil(t, at(doc, strings.Split(ref[2:], "/")...), ref)
				referred[ref] = true
			}
			for _, x := range v {
				walk(x)
			}
		case []any:
			for _, x := range v {
				walk(x)
			}
		}
	}
	walk(doc)
	for name := range doc["channels"].(object) {
		require.True(t, referred["#/channels/"+name], "channel %s has no operation", name)
	}
	for kind, all := range doc["components"].(object) {
		for name := range all.(object) {
			require.True(t, referred["#/components/"+kind+"/"+name], "%s %s is not used", kind, name)
		}
	}
}
