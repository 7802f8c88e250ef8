package secrets

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// Values are the header values of a source by their names, and its secret parameters,
// see Param. However it is printed, logged or encoded, it shows neither: the one
// way out is to seal it, or to send it to the source. (Of a struct's field that is not
// exported package fmt calls no method: such a struct is not to be printed.)
type Values map[string]string

const redacted = "[redacted]"

func (Values) String() string { return redacted }

// Format is for every verb of package fmt, %#v among them.
func (Values) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue is for log/slog.
func (Values) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON is for what would be encoded by mistake.
func (Values) MarshalJSON() ([]byte, error) { return json.Marshal(redacted) }

// Param is the name under which SaveHeaders keeps a secret parameter of a
// source, as JSON. No header has a colon in its name.
func Param(name string) string { return secretParamPrefix + name }

const secretParamPrefix = "param:"

// Split divides what SaveHeaders kept into headers and parameters.
func Split(kept Values) (header Values, param map[string]json.RawMessage) {
	header, param = Values{}, map[string]json.RawMessage{}
	for name, value := range kept {
		if p, ok := strings.CutPrefix(name, secretParamPrefix); ok {
			param[p] = json.RawMessage(value)
		} else {
			header[name] = value
		}
	}
	return header, param
}
