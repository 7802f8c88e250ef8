package journal

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"sheaf/events"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

type object = map[string]any

func readAsyncAPI(t *testing.T) (doc object) {
	t.Helper()
	data, err := os.ReadFile("../asyncapi.yaml")
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(data, &doc))
	return doc
}

// Each address that the document lists for a stream is one of the stream's subjects. Internal streams have no
// channel: no other program uses them.
func TestAsyncAPINamesTheSubjectsOfStreams(t *testing.T) {
	t.Parallel()
	want := map[string]string{} // stream by address
	for _, c := range readAsyncAPI(t)["channels"].(object) {
		if in, ok := c.(object)["x-jetstream"].(object); ok {
			want[c.(object)["address"].(string)] = in["stream"].(string)
		}
	}
	require.NotEmpty(t, want)
	subjects := map[string][]string{}
	for _, sc := range streamConfigs(Config{}.withDefaults()) {
		subjects[sc.Name] = sc.Subjects
	}
	for address, stream := range want {
		require.True(t, slices.ContainsFunc(subjects[stream],
			func(filter string) bool { return takes(filter, address) }), "%s is not of %s", address, stream)
	}

	for _, sc := range streamConfigs(Config{}.withDefaults()) {
		if !slices.Contains(slices.Collect(maps.Values(want)), sc.Name) {
			require.Contains(t, []string{events.StreamTimers, events.StreamPrivate, events.StreamIdempotency},
				sc.Name)
		}
	}
}

// takes reports whether a subject filter matches a subject.
func takes(filter, subject string) bool {
	f, s := strings.Split(filter, "."), strings.Split(subject, ".")
	for i, token := range f {
		if token == ">" {
			return len(s) > i
		}
		if i >= len(s) || token != "*" && token != s[i] {
			return false
		}
	}
	return len(f) == len(s)
}

// The document describes the streams and consumers as the code creates them.
func TestAsyncAPIHoldsTheStreams(t *testing.T) {
	t.Parallel()
	want := object{"streams": object{}, "consumers": object{}}
	for _, sc := range streamConfigs(Config{}.withDefaults()) {
		want["streams"].(object)[sc.Name] = said(t, sc, "name")
	}
	for _, c := range consumerConfigs(Config{}.withDefaults()) {
		one := said(t, c.config, "name", "durable_name")
		one["stream"] = c.stream
		want["consumers"].(object)[c.config.Durable] = one
	}
	got := readAsyncAPI(t)["x-jetstream"]
	text, err := yaml.Marshal(object{"x-jetstream": want})
	require.NoError(t, err)
	require.Equal(t, fmt.Sprint(want), fmt.Sprint(got), "x-jetstream should be:\n%s", text)
}

// said returns a configuration with the JetStream API's field names, without the server's defaults.
func said(t *testing.T, config any, without ...string) object {
	t.Helper()
	data, err := json.Marshal(config)
	require.NoError(t, err)
	var all object
	require.NoError(t, json.Unmarshal(data, &all))
	maps.DeleteFunc(all, func(name string, v any) bool {
		_, nested := v.(object)
		return v == nil || nested || slices.Contains(without, name) || reflect.ValueOf(v).IsZero()
	})
	for name, v := range all {
		if f, ok := v.(float64); ok {
			all[name] = int64(f)
		}
	}
	return all
}
