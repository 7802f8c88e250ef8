package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// natsKeys is a server with keys of two tenants, and a connection of each.
type natsKeys struct {
	*process
	data, keys      string
	shop, mallory   *nats.Conn
	shopKey, malKey string
}

func startNATSKeys(t *testing.T) *natsKeys {
	t.Helper()
	dir := t.TempDir()
	s := &natsKeys{data: filepath.Join(dir, "data"), keys: filepath.Join(dir, "keys")}
	s.shopKey, s.malKey = addKey(t, s.keys, "shop"), addKey(t, s.keys, "mallory")
	s.process = startServe(t, "--http", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0", "--data", s.data, "--api-keys", s.keys)
	s.shop, s.mallory = s.connect(t, s.shopKey), s.connect(t, s.malKey)
	return s
}

func (s *natsKeys) connect(t *testing.T, key string) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(s.nats, nats.UserInfo("any", key), nats.MaxReconnects(0), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	return nc
}

func (s *natsKeys) ask(t *testing.T, nc *nats.Conn, subject, body string) (errcode int, data json.RawMessage) {
	t.Helper()
	var m *nats.Msg
	require.Eventually(t, func() (answered bool) {
		var err error
		m, err = nc.Request(subject, []byte(body), 10*time.Second)
		if !errors.Is(err, nats.ErrNoResponders) { // the service has just started
			require.NoError(t, err)
			return true
		}
		return false
	}, 20*time.Second, 5*time.Millisecond)
	var a struct {
		Errcode int             `json:"errcode"`
		Data    json.RawMessage `json:"data"`
	}
	require.NoError(t, json.Unmarshal(m.Data, &a))
	return a.Errcode, a.Data
}

func natsRequest(source, title string) string {
	return fmt.Sprintf(`{"timestamp":1,"ext_type":"XLSX","title":%q,"user_id":"7","source_http":{"url":%q,"param":{"limit":100}}}`, title, source+"/demo/page")
}

// A tenant's key permits everything in the subject table.
func TestNATSCallersWithKeys(t *testing.T) {
	t.Parallel()
	s := startNATSKeys(t)
	events, err := s.shop.SubscribeSync("sheaf.event.shop.>")
	require.NoError(t, err)
	require.NoError(t, s.shop.Flush())

	code, data := s.ask(t, s.shop, "sheaf.api.shop.http", natsRequest(s.http, "by request"))
	require.Zero(t, code, string(data))
	js, err := jetstream.New(s.shop)
	require.NoError(t, err)
	ack, err := js.Publish(t.Context(), "sheaf.submit.shop.http", []byte(natsRequest(s.http, "durable")))
	require.NoError(t, err)
	require.EqualValues(t, 1, ack.Sequence)
	completed := 0
	for completed < 2 {
		m, err := events.NextMsg(20 * time.Second)
		require.NoError(t, err)
		if strings.HasPrefix(m.Subject, "sheaf.event.shop.completed.") {
			completed++
		}
	}
	_, data = s.ask(t, s.shop, "sheaf.api.shop.history", `{"user_id":"7"}`)
	require.Equal(t, 2, strings.Count(string(data), `"hash_key"`))
	_, data = s.ask(t, s.mallory, "sheaf.api.mallory.history", `{"user_id":"7"}`)
	require.JSONEq(t, `[]`, string(data))

	token, err := nats.Connect(strings.Replace(s.nats, "nats://", "nats://"+url.QueryEscape(s.shopKey)+"@", 1))
	require.NoError(t, err, "the key as token")
	token.Close()
	for name, opt := range map[string]nats.Option{
		"nothing": nats.UserInfo("", ""), "a wrong key": nats.UserInfo("shop", s.shopKey+"x"), "a name": nats.UserInfo("sheaf", "sheaf"), "a wrong token": nats.Token("x"),
	} {
		_, err := nats.Connect(s.nats, opt)
		require.ErrorIs(t, err, nats.ErrAuthorization, name)
	}

	// Revoking a key closes its connections.
	closed := make(chan struct{})
	s.mallory.SetClosedHandler(func(*nats.Conn) { close(closed) })
	code, _, _ = sheaf(t, t.Context(), "", "keys", "revoke", "--api-keys", s.keys, s.malKey)
	require.Zero(t, code)
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		require.FailNow(t, "the connection of a revoked key lives on")
	}
	_, err = nats.Connect(s.nats, nats.UserInfo("mallory", s.malKey))
	require.ErrorIs(t, err, nats.ErrAuthorization)
	require.True(t, s.shop.IsConnected())
}

// No producer can read, forge, delay or delete the exports of another.
func TestProducersCannotHarmEachOther(t *testing.T) {
	t.Parallel()
	s := startNATSKeys(t)
	code, data := s.ask(t, s.shop, "sheaf.api.shop.http", natsRequest(s.http, "the victim's"))
	require.Zero(t, code)
	var accepted struct {
		Key string `json:"hash_key"`
	}
	require.NoError(t, json.Unmarshal(data, &accepted))
	key := accepted.Key
	require.Eventually(t, func() bool {
		_, data := s.ask(t, s.shop, "sheaf.api.shop.detail", fmt.Sprintf(`{"key":%q}`, key))
		return strings.Contains(string(data), `"status":2`)
	}, 20*time.Second, 10*time.Millisecond)

	// Read: nothing of other tenants arrives, also not on wildcards.
	heard := make(chan *nats.Msg, 100)
	for _, subject := range []string{"sheaf.event.shop.>", "sheaf.event.>", "sheaf.>", ">", "sheaf.page.>", "sheaf.private.>", "$JS.>", "_INBOX.>", "sheaf.submit.shop.*", "sheaf.api.shop.*", "sheaf.callback.shop.>"} {
		_, err := s.mallory.ChanSubscribe(subject, heard)
		require.NoError(t, err)
	}
	require.NoError(t, s.mallory.Flush())

	// Forge, delete, suppress: publish to every subject of Sheaf, directly and as the reply of messages that
	// mallory may publish.
	targets := []string{
		"sheaf.event.shop.completed." + key, "sheaf.event.shop.cancelled." + key, "sheaf.event.shop.requested." + key,
		"sheaf.page.shop." + key + ".9.1.1", "sheaf.private.headers.shop." + key, "sheaf.timer.callback.shop." + key, "sheaf.due.callback.shop." + key,
		"sheaf.callback.shop.x", "sheaf.submit.shop.http", "sheaf.api.shop.cancel",
		"sheaf.submit._admin.http", "sheaf.api._admin.cancel", "sheaf.api._admin.tenants",
		"$JS.API.STREAM.PURGE.SHEAF_EVENTS", "$JS.API.STREAM.DELETE.SHEAF_EVENTS", "$JS.API.STREAM.PURGE.SHEAF_PAGES", "$JS.API.CONSUMER.DELETE.SHEAF_EVENTS.crawler",
		"$JS.API.STREAM.MSG.DELETE.SHEAF_PRIVATE", "$SYS.REQ.SERVER.PING", "$SYS.REQ.ACCOUNT.$G.JSZ",
	}
	before := s.streams(t)
	for _, target := range targets {
		require.NoError(t, s.mallory.PublishMsg(&nats.Msg{Subject: target, Data: []byte(`{}`), Header: nats.Header{"Nats-Rollup": {"all"}}}))
		require.NoError(t, s.mallory.PublishRequest("sheaf.submit.mallory.http", target, []byte(`{"title":"forged reply"}`)))
		for _, operation := range []string{"detail", "history", "cancel", "nothing"} {
			require.NoError(t, s.mallory.PublishRequest("sheaf.api.mallory."+operation, target, []byte(fmt.Sprintf(`{"key":%q}`, key))))
		}
	}
	for _, h := range []nats.Header{{"Nats-Rollup": {"all"}}, {"Nats-Rollup": {"sub"}}, {"Nats-Batch-Id": {"x"}, "Nats-Batch-Sequence": {"1"}}, {"Nats-TTL": {"1s"}}, {"Nats-Schedule": {"@every 1s"}, "Nats-Schedule-Target": {"sheaf.event.shop.failed." + key}}, {"Nats-Expected-Last-Sequence": {"0"}}, {"ce-type": {"sheaf.export.completed.v1"}, "ce-id": {"x"}}} {
		require.NoError(t, s.mallory.PublishMsg(&nats.Msg{Subject: "sheaf.submit.mallory.http", Header: h, Data: []byte(`{}`)}))
	}
	require.NoError(t, s.mallory.Flush())
	code, _ = s.ask(t, s.mallory, "sheaf.api.mallory.history", `{"user_id":"7"}`) // all that came before was handled
	require.Zero(t, code)

	code, data = s.ask(t, s.shop, "sheaf.api.shop.detail", fmt.Sprintf(`{"key":%q}`, key))
	require.Zero(t, code)
	require.Contains(t, string(data), `"status":2`)
	require.Equal(t, before, s.streams(t), "what is stored of the victim")
	for len(heard) > 0 {
		m := <-heard
		require.True(t, strings.HasPrefix(m.Subject, "_INBOX."), m.Subject) // of its own
	}
	// The log reports it, and does not blame the server.
	violations := 0
	for line := range strings.Lines(s.err.String()) {
		if strings.Contains(line, "Violation") {
			violations++
			require.Contains(t, line, `"level":"WARN"`)
		}
	}
	require.NotZero(t, violations)
	// The victim's next export still works.
	code, _ = s.ask(t, s.shop, "sheaf.api.shop.http", natsRequest(s.http, "after it"))
	require.Zero(t, code)
	resp, err := http.Get(s.http + "/readyz")
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusOK, resp.StatusCode)
}

// streams returns the victim's part of the streams as the victim's own process would see it: the events that
// its subscribers received, by sequence.
func (s *natsKeys) streams(t *testing.T) string {
	t.Helper()
	_, data := s.ask(t, s.shop, "sheaf.api.shop.history", `{"user_id":"7"}`)
	return string(data)
}
