package ingress

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/secrets"
)

// previewFunc is a Previewer.
type previewFunc func(ctx context.Context, submission []byte, check func([]byte) (*events.Request, secrets.Values, error)) (any, error)

func (f previewFunc) Preview(ctx context.Context, submission []byte, check func([]byte) (*events.Request, secrets.Values, error)) (any, error) {
	return f(ctx, submission, check)
}

const previewBody = `{"ext_type":"XLSX","source_http":{"url":"http://h/list","header":{"X":"sealed"},"secret_param":["s"],"param":{"s":"t"},"preset":"drf","auth":{"type":"bearer","token":"b"}}}`

// A preview is checked as a submission is, with the secrets of its tenant in clear, and begins nothing.
func TestPreviewChecksAsASubmission(t *testing.T) {
	t.Parallel()
	var kept secrets.Values
	in := start(t, eventstest.Server(t, ""), Config{
		Authenticate: func(key string) (Principal, bool) { return operator("shop"), key == "k" },
		Previewer: previewFunc(func(_ context.Context, body []byte, check func([]byte) (*events.Request, secrets.Values, error)) (any, error) {
			req, opened, err := check(body)
			if err != nil {
				return nil, err
			}
			kept = opened
			return map[string]string{"url": req.HTTP.URL}, nil
		}),
	})
	sealed := func(tenant string) string {
		value, err := secrets.SealValue(in.journal.Keys().SealKey(), tenant, "plain")
		require.NoError(t, err)
		return value
	}
	post := func(body, key string) answer {
		return send(t, http.MethodPost, in.url+"/v1/export/preview", body, "Authorization", "Bearer "+key)
	}
	body := func(header string) string {
		raw, err := json.Marshal(map[string]any{"ext_type": "XLSX", "source_http": map[string]any{
			"url": "http://h/list", "preset": "drf", "header": map[string]string{"X": header},
			"param": map[string]any{"s": header, "n": 1}, "secret_param": []string{"s", "n"}, "auth": map[string]string{"type": "bearer", "token": header},
		}})
		require.NoError(t, err)
		return string(raw)
	}
	a := post(body(sealed("shop")), "k")
	require.Zero(t, a.Errcode, a.Msg)
	require.JSONEq(t, `{"url":"http://h/list"}`, string(a.Data))
	header, param, auth := secrets.Split(kept)
	require.Equal(t, "plain", header["X"])
	require.JSONEq(t, `"plain"`, string(param["s"]))
	require.JSONEq(t, `1`, string(param["n"]))
	require.JSONEq(t, `{"type":"bearer","token":"plain"}`, string(auth))

	kept = nil
	require.JSONEq(t, `{"url":"http://h/list"}`, string(ask(t, in.journal.Callers(), "shop", "preview", body(sealed("shop"))).Data))
	require.NotEmpty(t, kept)

	require.Equal(t, http.StatusUnauthorized, post(body("x"), "wrong").Status)
	a = post(body(sealed("other")), "k")
	require.Equal(t, http.StatusBadRequest, a.Status)
	require.Contains(t, a.Msg, "a sealed value cannot be opened")
	a = post(`{"ext_type":"XLSX","source_http":{"url":"ftp://h/"}}`, "k")
	require.Equal(t, http.StatusBadRequest, a.Status)
	require.Contains(t, a.Msg, "source_http.url")
	require.Zero(t, in.log(t).Last)
}

// A tenant runs as many previews at once as it may; a further one waits. Other tenants do not.
func TestPreviewsOfATenantAreFew(t *testing.T) {
	t.Parallel()
	entered, leave := make(chan string, 8), make(chan struct{})
	in := start(t, eventstest.Server(t, ""), Config{
		TurnWait:     1,
		Authenticate: byTenant,
		Previewer: previewFunc(func(ctx context.Context, _ []byte, _ func([]byte) (*events.Request, secrets.Values, error)) (any, error) {
			deadline, ok := ctx.Deadline()
			if !ok || deadline.IsZero() {
				return nil, errors.New("without a deadline")
			}
			entered <- ""
			<-leave
			return "done", nil
		}),
	})
	post := func(tenant string) answer {
		return send(t, http.MethodPost, in.url+"/v1/export/preview", previewBody, "Authorization", "Bearer "+tenant)
	}
	var running sync.WaitGroup
	for range maxTenantPreviews {
		running.Go(func() { require.Zero(t, post("a").Errcode) })
	}
	for range maxTenantPreviews {
		<-entered
	}
	require.Equal(t, http.StatusServiceUnavailable, post("a").Status)
	running.Go(func() { require.Zero(t, post("b").Errcode) })
	<-entered
	require.Zero(t, in.get(t, "/healthz").Errcode)
	close(leave)
	running.Wait()
	require.Zero(t, post("a").Errcode)
}

func TestPreviewNeedsAPreviewer(t *testing.T) {
	t.Parallel()
	in := start(t, eventstest.Server(t, ""), Config{})
	require.Equal(t, http.StatusNotFound, in.post(t, "/v1/export/preview", previewBody).Status)
	require.Equal(t, errcodeNotFound, ask(t, in.journal.Callers(), events.DefaultTenant, "preview", previewBody).Errcode)
}
