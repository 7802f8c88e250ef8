package rows_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"sheaf/events/rows"
)

func TestScanResponseHintsAtTheForm(t *testing.T) {
	t.Parallel()
	const reads = `Sheaf reads {"errcode":0,"data":{"data":[…],"pagetag":{…}}}`
	for body, want := range map[string]string{
		`{"items":[{"a":1}],"total":7}`: `the answer has the keys "items", "total"; ` +
			reads,
		"\xef\xbb\xbf" + ` {"results":[]}`: `the answer has the key "results"; ` + reads,
		`{}`:                               `the answer has no keys; ` + reads,
		`{"code":0,"data":[{"a":1}]}`:      `the answer has the keys "code", "data"; ` + reads,
		`{"data":null,"rows":[]}`:          `the answer has the keys "data", "rows"; ` + reads,
		`{"data":{"list":[{"data":1}],"total":7},"x":{}}`: `data has the keys "list", "total"; ` + reads,
		`{"data":{}}`:                                                   `data has no keys; ` + reads,
		`{"data":{"data":{"a":1}}}`:                                     `data has the key "data"; ` + reads,
		`{"data":{"a":1},"data":{"b":1}}`:                               `data has the key "b"; ` + reads,
		`{"订单":[],"a\u000ab":1,"\u202e":2}`:                             `the answer has the keys "订单", "…", "…"; ` + reads,
		`{"a":1,"b":1,"c":1,"d":1,"e":1,"f":1,"g":1,"h":1,"i":1,"j":1}`: `the answer has the keys "a", "b", "c", "d", "e", "f", "g", "h" and 2 more; ` + reads,
		`{"` + strings.Repeat("长", 41) + `":1}`: `the answer has the key "…"; ` +
			reads,
		`[{"a":1}]`:               reads,
		`"x"`:                     reads,
		``:                        reads,
		` <html>`:                 reads,
		`id,name`:                 reads,
		"{\"a\":1}\n{\"a\":2}\n":  `the body is a sequence of JSON objects (NDJSON); ` + reads,
		`{"data":{"data":[]}} {}`: `the body is a sequence of JSON objects (NDJSON); ` + reads,
		`{"data":{"data":[]}} x`:  ``,
		`{"data":{"data":[1]}}`:   ``,
		`{"data":{"data":[],"pagetag":{"page":-1}}}`: ``,
		`{"items":`:    ``,
		`{"items":[}]`: ``,
	} {
		_, err := rows.ScanResponse([]byte(body), rows.Limits{})
		var e *rows.SyntaxError
		require.ErrorAs(t, err, &e, body)
		require.Equal(t, want, e.Hint, body)
	}
}

// A hint is short and on one line for every response.
func TestHintsAreShort(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		body := []byte(rapid.OneOf(rapid.String(),
			rapid.StringMatching(`\{("[a-z0-9\x{00e9}]{0,80}":(1|null|\[\]|\{\}),)*"data":(1|\{("x{0,99}":1)?\})\}`)).Draw(t, "body"))
		_, err := rows.ScanResponse(body, rows.Limits{})
		if e := (*rows.SyntaxError)(nil); errors.As(err, &e) {
			require.LessOrEqual(t, len(e.Hint), 2000)
			require.NotContains(t, e.Hint, "\n")
		}
	})
}
