package secrets

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
)

// Values holds the header values of a source by name, its secret parameters, see Param, and its auth object,
// see Auth; for a request with sheets those of each, see Sheet. Printing, logging or encoding it never shows
// them; they can only be sealed or sent to the source. (Package fmt does not call methods of unexported struct
// fields: do not print a struct with such a field.)
type Values map[string]string

const redacted = "[redacted]"

func (Values) String() string { return redacted }

// Format redacts every verb of package fmt, including %#v.
func (Values) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue redacts the value for log/slog.
func (Values) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON redacts the value if it is encoded by mistake.
func (Values) MarshalJSON() ([]byte, error) { return json.Marshal(redacted) }

// Param returns the name under which SaveHeaders stores a secret parameter of a source, as JSON. Header names
// never contain a colon.
func Param(name string) string { return secretParamPrefix + name }

const secretParamPrefix = "param:"

// Auth is the name under which SaveHeaders stores the auth object of a source, as JSON.
const Auth = "auth:"

// Sheet returns the name under which SaveHeaders stores a value of a sheet, counted from 0, of a request with
// several. name is its name in a request without sheets: that of a header, Param(name) or Auth.
func Sheet(i int, name string) string { return sheetPrefix(i) + name }

func sheetPrefix(i int) string { return "sheet:" + strconv.Itoa(i) + ":" }

// OfSheet returns the values of a sheet, by their names in a request without sheets.
func OfSheet(kept Values, i int) Values {
	own := Values{}
	for name, value := range kept {
		if name, ok := strings.CutPrefix(name, sheetPrefix(i)); ok {
			own[name] = value
		}
	}
	return own
}

// Split separates the values from SaveHeaders into headers, parameters and the auth object, which is nil if
// there is none.
func Split(kept Values) (header Values, param map[string]json.RawMessage, auth json.RawMessage) {
	header, param = Values{}, map[string]json.RawMessage{}
	for name, value := range kept {
		if p, ok := strings.CutPrefix(name, secretParamPrefix); ok {
			param[p] = json.RawMessage(value)
		} else if name == Auth {
			auth = json.RawMessage(value)
		} else {
			header[name] = value
		}
	}
	return header, param, auth
}
