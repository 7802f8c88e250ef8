package callback_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"

	"sheaf/events/client/callback"
	"sheaf/events/eventstest"
)

func TestMain(m *testing.M) { eventstest.Main(m) }

const (
	secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	other  = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
	body   = `{"event":"export.failed","log":{"id":7,"hash_key":"5ad5f7b92a816b76e70a21e4154c2485","title":"订单",
		"status":3,"fail_reason":"page 3: HTTP 503","created_at":"2026-11-30T12:00:00Z"},"down_url":"","error_code":"SOURCE_HTTP"}`
)

// signed returns the POST of a callback.
func signed(t *testing.T, by, body string, at time.Time) *http.Request {
	t.Helper()
	key, err := standardwebhooks.NewWebhook(by)
	require.NoError(t, err)
	signature, err := key.Sign("msg_1", at, []byte(body))
	require.NoError(t, err)
	r := httptest.NewRequest(http.MethodPost, "/done", strings.NewReader(body))
	r.Header.Set(standardwebhooks.HeaderWebhookID, "msg_1")
	r.Header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(at.Unix(), 10))
	r.Header.Set(standardwebhooks.HeaderWebhookSignature, signature)
	return r
}

func TestHandlerTakesOnlySignedCallbacks(t *testing.T) {
	t.Parallel()
	now := time.Now()
	unsigned := httptest.NewRequest(http.MethodPost, "/done", strings.NewReader(body))
	changed := signed(t, secret, body, now)
	changed.Body = http.NoBody
	for name, c := range map[string]struct {
		request *http.Request
		fails   error
		status  int
		handled bool
	}{
		"signed":            {signed(t, secret, body, now), nil, http.StatusNoContent, true},
		"by the second key": {signed(t, other, body, now), nil, http.StatusNoContent, true},
		"not handled":       {signed(t, secret, body, now), errors.New("the disk is full"), http.StatusInternalServerError, true},
		"by a stranger":     {signed(t, "whsec_c3RyYW5nZXI=", body, now), nil, http.StatusUnauthorized, false},
		"unsigned":          {unsigned, nil, http.StatusUnauthorized, false},
		"changed":           {changed, nil, http.StatusUnauthorized, false},
		"old":               {signed(t, secret, body, now.Add(-10*time.Minute)), nil, http.StatusUnauthorized, false},
		"something else":    {signed(t, secret, `{"type":"invoice.paid"}`, now), nil, http.StatusBadRequest, false},
		"no JSON":           {signed(t, secret, `<html>`, now), nil, http.StatusBadRequest, false},
		"too large":         {signed(t, secret, strings.Repeat(" ", callback.MaxBody+1), now), nil, http.StatusBadRequest, false},
		"a GET":             {httptest.NewRequest(http.MethodGet, "/done", nil), nil, http.StatusMethodNotAllowed, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			receiver, err := callback.New(secret, other)
			require.NoError(t, err)
			handled := false
			answer := httptest.NewRecorder()
			receiver.Handler(func(_ context.Context, got *callback.Callback) error {
				handled = true
				require.Equal(t, "msg_1", got.ID)
				require.Equal(t, now.Unix(), got.SentAt.Unix())
				require.Equal(t, callback.Failed, got.Event)
				require.Equal(t, "订单", got.Log.Title)
				require.Equal(t, "SOURCE_HTTP", got.ErrorCode)
				require.True(t, got.File.CreateAt.IsZero())
				return c.fails
			}).ServeHTTP(answer, c.request)
			require.Equal(t, c.status, answer.Code, answer.Body)
			require.Equal(t, c.handled, handled)
		})
	}
}

func TestSecretsAreChecked(t *testing.T) {
	t.Parallel()
	for name, secrets := range map[string][]string{"none": nil, "empty": {""}, "not base64": {secret, "whsec_%"}} {
		_, err := callback.New(secrets...)
		require.ErrorContains(t, err, "sheaf callback-secret", name)
	}
}

func TestCallbackByNATS(t *testing.T) {
	t.Parallel()
	c, err := callback.Read([]byte(body))
	require.NoError(t, err)
	require.Equal(t, callback.Failed, c.Event)
	require.Empty(t, c.ID)
	_, err = callback.Read([]byte(`{"submission":{},"hash_key":"x","status":1}`))
	require.ErrorIs(t, err, callback.ErrBody)
}
