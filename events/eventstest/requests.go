package eventstest

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// SpecHTTP and SpecRaw are the two requests of the specification, without their comments and one surplus comma.
const (
	SpecHTTP = `{
      "timestamp": 1625106204,
      "ext_type": "XLSX",
      "title": "http接口数据源导出",
      "user_id": "123",
      "callback": "http://www.baidu.com",
      "source_http": {
          "url": "http://127.0.0.1:8080/demo/page",
          "method": "GET",
          "header": {},
          "param": {
              "limit": 20
          }
      }
  }`
	SpecRaw = `{
        "timestamp": 1625106207,
        "ext_type": "XLSX",
        "title": "请求直接携带数据导出",
        "user_id": "1231",
        "callback": "",
        "source_raw": "[{\"name\":\"姓名\",\"age\":\"年龄\"},{\"name\":\"李雷\",\"age\":17}]"
    }`
)

// HTTPBody returns a request with members that replace or extend the usual ones.
func HTTPBody(source string, more ...string) string {
	members := append([]string{`"ext_type":"XLSX"`, `"source_http":{"url":"http://source/p"` + source + `}`}, more...)
	return "{" + strings.Join(members, ",") + "}"
}

// RawBody returns a request that carries its rows.
func RawBody(rows string) string { return `{"ext_type":"XLSX","source_raw":` + rows + `}` }

// Damage damages a file as a disk or a person could: it is "missing", "shorter", "longer" or, with any other
// kind, has one flipped bit.
func Damage(t testing.TB, kind, path string) {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	switch kind {
	case "missing":
		require.NoError(t, os.Remove(path))
		return
	case "shorter":
		content = content[:len(content)-1]
	case "longer":
		content = append(content, 0)
	default:
		content[len(content)/2] ^= 4
	}
	require.NoError(t, os.WriteFile(path, content, 0o600))
}
