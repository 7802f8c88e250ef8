package request

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"sheaf/events"
	"sheaf/events/secrets"
)

func TestParseOpened(t *testing.T) {
	t.Parallel()
	keys, err := secrets.NewKeyring(make([]byte, 32))
	require.NoError(t, err)
	seal := func(tenant string) string {
		value, err := secrets.SealValue(keys.SealKey(), tenant, "plain\"")
		require.NoError(t, err)
		return value
	}
	body := func(header, param, auth string) []byte {
		b, err := json.Marshal(map[string]any{"ext_type": "XLSX", "source_http": map[string]any{
			"url": "http://h/", "preset": "drf", "header": map[string]string{"X": header},
			"param": map[string]any{"s": param, "n": 7}, "secret_param": []string{"s", "n"},
			"auth": map[string]string{"type": "bearer", "token": auth},
		}})
		require.NoError(t, err)
		return b
	}
	formats := []events.Format{events.XLSX}
	for _, value := range []string{seal("shop"), `plain"`} {
		req, opened, err := ParseOpened(keys, "shop", formats, body(value, value, value))
		require.NoError(t, err)
		require.Equal(t, "drf", req.HTTP.Preset)
		header, param, auth := secrets.Split(opened)
		require.Equal(t, secrets.Values{"X": `plain"`}, header)
		require.JSONEq(t, `"plain\""`, string(param["s"]))
		require.JSONEq(t, `7`, string(param["n"]))
		require.JSONEq(t, `{"type":"bearer","token":"plain\""}`, string(auth))
	}
	for field, b := range map[string][]byte{
		"source_http.header": body(seal("other"), "x", "x"), "source_http.param": body("x", seal("other"), "x"), "source_http.auth": body("x", "x", seal("other")),
	} {
		_, _, err := ParseOpened(keys, "shop", formats, b)
		var wrong *Error
		require.ErrorAs(t, err, &wrong, field)
		require.Equal(t, field, wrong.Field)
		require.Contains(t, wrong.Msg, "cannot be opened")
	}
	_, _, err = ParseOpened(keys, "shop", formats, []byte(`{"ext_type":"XLSX"}`))
	require.ErrorContains(t, err, "source_http: is required")
}
