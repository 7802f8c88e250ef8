package events

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Every addition of a newer version to a type changes its shape.
func TestShapeDistinguishesFields(t *testing.T) {
	t.Parallel()
	type inner struct {
		B int `json:"b"`
	}
	type innerMore struct {
		B int    `json:"b"`
		C string `json:"c"`
	}
	shapes := map[string]bool{}
	for _, v := range []any{
		struct{}{},
		struct {
			A int `json:"a"`
		}{},
		struct {
			A int64 `json:"a"`
		}{},
		struct {
			A int `json:"b"`
		}{},
		inner{}, innerMore{},
		struct {
			L []inner `json:"l"`
		}{},
		struct {
			L []innerMore `json:"l"`
		}{},
		struct {
			L *innerMore `json:"l"`
		}{},
		struct {
			T time.Time       `json:"t"`
			R json.RawMessage `json:"r"`
		}{},
	} {
		s := shape(reflect.TypeOf(v))
		require.False(t, shapes[s], "%T: %s", v, s)
		shapes[s] = true
	}
	require.Contains(t, shape(reflect.TypeFor[Export]()), "json.RawMessage")
}
