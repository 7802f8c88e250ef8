package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sheaf/cmd/sheaf/filesource"
)

// Rows arrive in four ways: pages of a source, source_raw as an array and as a string, and a file that sheaf
// source serves. The same rows give the same cells in each, or all ways refuse them.
func TestRowsGiveTheSameCellsInEachWayIn(t *testing.T) {
	t.Parallel()
	server := startServe(t, "--http", "127.0.0.1:0", "--nats-listen", "none", "--data", t.TempDir())
	nested := func(depth int) string {
		return `{"a":` + strings.Repeat("[", depth) + strings.Repeat("]", depth) + "}"
	}
	for _, c := range []struct {
		name    string
		columns string // names, with commas
		rows    []string
		want    [][]string // nil: refused
	}{
		{"characters", "a,b", []string{
			`{"a":"half \ud800","b":"\udc00 other half"}`,
			`{"a":"\ud83d\ude00","b":"\ud83dx\ude00"}`,
			`{"a":["\ud800"],"b":"\u0000\u001f"}`,
			`{"a":"_x0041_","b":"` + strings.Repeat("长", 32_768) + `"}`,
			`{"a":1,"b":2,"a":3}`,
			nested(62),
		}, [][]string{
			{"half \ufffd", "\ufffd other half"},
			{"😀", "\ufffdx\ufffd"},
			{`["\ud800"]`, "\x00\x1f"},
			{"_x0041_", strings.Repeat("长", 32_767)},
			{"3", "2"},
			{strings.Repeat("[", 62) + strings.Repeat("]", 62)},
		}},
		{"half a pair in a name", `\ud800`, []string{`{"\ud800":1}`, `{"\udfff":2}`, `{"` + "\ufffd" + `":3}`}, [][]string{{"1"}, {"2"}, {"3"}}},
		{"half a pair as raw bytes", "a", []string{"{\"a\":\"\xed\xa0\x80\"}"}, nil},
		{"invalid UTF-8", "a", []string{"{\"a\":\"\xff\"}"}, nil},
		{"invalid UTF-8 in a name", "a", []string{"{\"a\":1,\"\xff\":1}"}, nil},
		{"invalid UTF-8, nested", "a", []string{"{\"a\":[{\"b\":\"\xc3\"}]}"}, nil},
		{"an escape of three digits", "a", []string{`{"a":"\ud80"}`}, nil},
		{"a control character", "a", []string{"{\"a\":\"\x01\"}"}, nil},
		{"too deep", "a", []string{nested(63)}, nil},
	} {
		names := strings.Split(c.columns, ",")
		var titles []string
		for _, name := range names {
			titles = append(titles, fmt.Sprintf(`"%s":"%[1]s"`, name))
		}
		array := "[" + strings.Join(append([]string{"{" + strings.Join(titles, ",") + "}"}, c.rows...), ",") + "]"
		page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"errcode":0,"data":{"data":%s,"pagetag":{"page":1,"limit":50,"total":%d,"total_page":1}}}`, array, len(c.rows))
		}))
		defer page.Close()
		ways := map[string]string{
			"page":   fmt.Sprintf(`{"ext_type":"XLSX","source_http":{"url":%q}}`, page.URL),
			"array":  `{"ext_type":"XLSX","source_raw":` + array + `}`,
			"string": `{"ext_type":"XLSX","source_raw":"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\x01", `\u0001`).Replace(array) + `"}`,
		}
		for name, content := range map[string]string{"a.ndjson": strings.Join(c.rows, "\n"), "a.json": "[" + strings.Join(c.rows, ",") + "]"} {
			path := filepath.Join(t.TempDir(), name)
			require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
			file, err := filesource.Open(path, filesource.Options{})
			if err != nil {
				require.Nil(t, c.want, "%s, %s: %v", c.name, name, err)
				continue
			}
			source := httptest.NewServer(file)
			defer file.Close()
			defer source.Close()
			ways[name] = fmt.Sprintf(`{"ext_type":"XLSX","source_http":{"url":%q}}`, source.URL)
		}
		for way, body := range ways {
			what := c.name + ", " + way
			operation := "http"
			if strings.Contains(body, "source_raw") {
				operation = "raw"
			}
			answer := wireCall(t, http.MethodPost, server.http+"/v1/export/"+operation, body, nil)
			if answer.Errcode != 0 {
				require.Equal(t, http.StatusBadRequest, answer.Errcode, what+": "+answer.Msg)
				require.Nil(t, c.want, what+": "+answer.Msg)
				continue
			}
			var accepted struct {
				HashKey string `json:"hash_key"`
			}
			require.NoError(t, json.Unmarshal(answer.Data, &accepted))
			d := wireWait(t, server.http, accepted.HashKey)
			if c.want == nil {
				require.Equal(t, 3, d.Status, what)
				continue
			}
			require.Equal(t, 2, d.Status, what+": "+d.FailReason)
			res, err := http.Get(d.DownURL)
			require.NoError(t, err)
			archive, err := io.ReadAll(res.Body)
			require.NoError(t, err)
			require.NoError(t, res.Body.Close())
			rows := workbookIn(t, archive)
			require.Equal(t, strings.Split(strings.ReplaceAll(c.columns, `\ud800`, "\ufffd"), ","), rows[0], what)
			require.Equal(t, c.want, rows[1:], what)
		}
	}
}
