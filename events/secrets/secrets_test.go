package secrets_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"testing"

	"sheaf/events/secrets"

	"github.com/stretchr/testify/require"
)

func TestSecretsAreNeverShown(t *testing.T) {
	t.Parallel()
	kept := secrets.Values{"Authorization": "canary"}
	inside := struct {
		Name   string
		Header secrets.Values
	}{"x", kept}
	var shown bytes.Buffer
	for _, v := range []any{kept, &kept, inside, &inside, []secrets.Values{kept},
		errors.Join(fmt.Errorf("%v", kept))} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			_, _ = fmt.Fprintf(&shown, verb+"\n", v)
		}
		for _, h := range []slog.Handler{slog.NewTextHandler(&shown, nil), slog.NewJSONHandler(&shown, nil)} {
			slog.New(h).Info("m", "value", v)
		}
		b, err := json.Marshal(v)
		require.NoError(t, err)
		shown.Write(b)
	}
	require.Contains(t, shown.String(), "[redacted]")
	require.NotContains(t, shown.String(), "canary")
	require.NotContains(t, shown.String(), fmt.Sprintf("%x", "canary"))
}

func TestValuesAreSplitByTheirUse(t *testing.T) {
	t.Parallel()
	header, param, auth := secrets.Split(secrets.Values{
		"Authorization": "a", "auth": "b", secrets.Param("auth:"): `"c"`, secrets.Auth: `{"type":"bearer"}`,
	})
	require.Equal(t, map[string]string{"Authorization": "a", "auth": "b"}, map[string]string(header))
	require.Equal(t, map[string]json.RawMessage{"auth:": json.RawMessage(`"c"`)}, param)
	require.Equal(t, json.RawMessage(`{"type":"bearer"}`), auth)
	_, _, auth = secrets.Split(secrets.Values{"Authorization": "a"})
	require.Nil(t, auth)
}

// The values of a sheet are those that were stored for it alone, whatever their names look like.
func TestValuesOfSheets(t *testing.T) {
	t.Parallel()
	kept := secrets.Values{
		secrets.Sheet(1, "Authorization"): "a", secrets.Sheet(1, secrets.Param("sheet:2:x")): `"b"`, secrets.Sheet(1, secrets.Auth): `{}`,
		secrets.Sheet(11, "Authorization"): "c", secrets.Sheet(0, "sheet"): "d", "Authorization": "e",
	}
	require.Equal(t, map[string]string{"sheet": "d"}, map[string]string(secrets.OfSheet(kept, 0)))
	require.Equal(t, map[string]string{"Authorization": "a", secrets.Param("sheet:2:x"): `"b"`, secrets.Auth: `{}`}, map[string]string(secrets.OfSheet(kept, 1)))
	require.Empty(t, secrets.OfSheet(kept, 2))
	require.Equal(t, map[string]string{"Authorization": "c"}, map[string]string(secrets.OfSheet(kept, 11)))
}
