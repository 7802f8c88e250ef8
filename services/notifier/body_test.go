package notifier

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/secrets"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.WriteFile(path, got, 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), string(got))
}

func sample(state events.State) events.Export {
	created := time.Date(2026, 3, 9, 8, 7, 6, 543_000_000, time.FixedZone("", 8*3600))
	x := events.Export{
		Tenant: "default", Key: "5ad5f7b92a816b76e70a21e4154c2485", ID: 17, CreatedAt: created, State: state,
		Request: events.Request{
			Timestamp: 1625106204, ExtType: "XLSX", Title: "订单 <2026> & more", UserID: "123",
			Callback: "https://example.com/hook?a=1&b=2", SourceType: events.SourceHTTP,
			HTTP: &events.HTTPRequest{
				URL: "https://example.com/orders?shop=1&x=2", Method: "GET", Limit: 20, Conn: 5,
				Param: json.RawMessage(`{"limit": 20, "id": 12345678901234567890}`), Header: []string{"Authorization"},
			},
		},
		TerminalSeq: 21, FinishedAt: created.Add(90 * time.Second), Callback: events.CallbackState{State: events.CallbackPending},
	}
	switch state {
	case events.StateCompleted, events.StateExpired:
		x.Files = []events.File{{Name: "订单.zip", Store: "17-21.zip", Size: 1000, Rows: 40}}
		x.Rows, x.ExpiresAt = 40, created.Add(168*time.Hour)
	case events.StateFailed:
		x.Failure = events.ExportFailed{Code: events.CodeSourceHTTP, Reason: "page 3: the source answered HTTP 503"}
	case events.StateCancelled:
		x.Failure.Reason = "cancelled by its caller"
	}
	return x
}

func TestBodyIsWhatReceiversKnow(t *testing.T) {
	t.Parallel()
	keys, err := secrets.NewKeyring(eventstest.SecretKey)
	require.NoError(t, err)
	b := bodies{keys: keys, publicURL: "https://sheaf.example.com"}
	for _, state := range []events.State{events.StateCompleted, events.StateFailed, events.StateCancelled} {
		t.Run(string(state), func(t *testing.T) {
			x := sample(state)
			got, err := b.of(&x)
			require.NoError(t, err)
			var pretty bytes.Buffer
			require.NoError(t, json.Indent(&pretty, got, "", "  "))
			golden(t, "callback_"+string(state)+".golden.json", append(pretty.Bytes(), '\n'))
		})
	}
}

func TestBodyReportsNoMoreThanItShould(t *testing.T) {
	t.Parallel()
	keys, err := secrets.NewKeyring(eventstest.SecretKey)
	require.NoError(t, err)
	b := bodies{keys: keys, publicURL: "https://sheaf.example.com/"}
	decode := func(x events.Export) (body Body) {
		got, err := b.of(&x)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(got, &body))
		return body
	}

	completed := decode(sample(events.StateCompleted))
	require.JSONEq(t, `{"conn":5,"url":"https://example.com/orders?shop=1&x=2","method":"GET","param":{"limit":20,"id":12345678901234567890}}`, completed.Log.Param)
	require.Contains(t, completed.DownURL, "https://sheaf.example.com/v1/down/"+completed.File.Path+"?")

	expired := decode(sample(events.StateExpired))
	require.Equal(t, "export.completed", expired.Event, "how it ended does not change when the file goes")
	require.Empty(t, expired.DownURL)

	raw := sample(events.StateFailed)
	raw.Request.SourceType, raw.Request.HTTP, raw.Request.Raw = events.SourceRaw, nil, &events.RawRows{Pages: 1}
	require.Empty(t, decode(raw).Log.Param)
	require.Equal(t, File{}, decode(raw).File)
}
