package ingress

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/rows"

	"github.com/stretchr/testify/require"
)

// FuzzSubmission holds the reading of a request to its word: an envelope's
// error or a request that is within bounds, the same each time.
func FuzzSubmission(f *testing.F) {
	for _, body := range []string{
		specHTTP, specRaw, `{}`, `{"ext_type":"xlsx","source_http":{"url":"http://h","header":{"A":1},"param":{"limit":"9"}}}`,
		rawBody(`[{"a":1},{"b":[1]}]`), rawBody(`"[{\"a\":\"\\u4e2d\"} , {}]"`), "{ // \n}", `{"a":1,}`, `{"a":{"a":1,"a":2}}`,
	} {
		f.Add([]byte(body), false)
		f.Add([]byte(body), true)
	}
	keys, err := events.NewKeyring(eventstest.SecretKey)
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, body []byte, raw bool) {
		sourceType := events.SourceHTTP
		if raw {
			sourceType = events.SourceRaw
		}
		kept := bytes.Clone(body)
		s, err := parseSubmission(keys, "default", sourceType, body)
		require.Equal(t, kept, body, "the body is only read")
		if err != nil {
			var e *apiError
			require.True(t, errors.As(err, &e))
			require.Contains(t, []int{400, 413}, e.Status, e.Error())
			require.NotEmpty(t, e.Field)
			require.Less(t, len(e.Msg), 2048)
			return
		}
		require.True(t, events.ValidKey(s.key))
		data, err := json.Marshal(s.request)
		require.NoError(t, err)
		var back events.Request
		require.NoError(t, json.Unmarshal(data, &back), "what is kept can be read back")
		if !raw {
			require.NotEmpty(t, s.request.HTTP.URL)
			require.True(t, s.request.HTTP.Limit >= 1 && s.request.HTTP.Limit <= maxLimit)
			require.True(t, s.request.HTTP.Conn >= 1 && s.request.HTTP.Conn <= maxConn)
			return
		}
		var n int64
		for i, p := range s.pages {
			count, err := rows.Check(p.array(), rows.Limits{})
			require.NoError(t, err)
			require.Equal(t, p.count, count)
			n += int64(count)
			require.True(t, i == 0 || count <= rawPageRows)
		}
		require.Equal(t, s.request.Raw.Rows+1, n)
		require.Equal(t, s.request.Raw.Pages, len(s.pages))
		again, err := parseSubmission(keys, "default", sourceType, body)
		require.NoError(t, err)
		require.Equal(t, s, again)
	})
}

func FuzzParams(f *testing.F) {
	f.Add([]byte(`{"key":"x","limit":5}`))
	f.Add([]byte(` `))
	f.Fuzz(func(t *testing.T, body []byte) {
		if _, err := parseParams(body); err != nil {
			require.Contains(t, []int{400}, asAPIError(err).Status)
		}
	})
}
