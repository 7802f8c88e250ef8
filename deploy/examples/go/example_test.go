// Package examples shows how a Go program uses Sheaf. The examples run against a server in their own process.
package examples

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"

	"github.com/nats-io/nats.go"

	"sheaf/cmd/sheaf/node"
	"sheaf/events/client"
	"sheaf/events/client/callback"
	"sheaf/events/eventstest"
)

// The server of the examples.
var (
	server node.Info
	secret string // of callbacks
)

func TestMain(m *testing.M) {
	eventstest.InMemory()
	data, err := os.MkdirTemp("", "sheaf-examples-")
	if err != nil {
		panic(err)
	}
	cfg := node.OneShot(data)
	cfg.NATSListen = "127.0.0.1:0"
	code := 1
	err = node.Use(context.Background(), cfg, func(_ context.Context, at node.Info) error {
		server = at
		keys, err := cfg.Keyring(slog.New(slog.DiscardHandler))
		if err != nil {
			return err
		}
		secret = keys.WebhookSecret("default")
		code = m.Run()
		return nil
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	_ = os.RemoveAll(data)
	os.Exit(code)
}

// Submit an export, wait for it and download its file.
func Example() {
	ctx := context.Background()
	sheaf, err := client.New(server.HTTP, client.Options{Key: os.Getenv("SHEAF_API_KEY")})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sheaf.Close()
	accepted, err := sheaf.Submit(ctx, client.Request{
		Timestamp: 1625106204, Title: "Orders", UserID: "123",
		HTTP: &client.HTTPSource{URL: server.HTTP + "/demo/page", Param: map[string]any{"limit": 100}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := sheaf.Wait(ctx, accepted.Key); err != nil {
		fmt.Println(err)
		return
	}
	var file bytes.Buffer // or a file
	export, err := sheaf.Download(ctx, accepted.Key, &file)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(export.Files[0].Name, export.Rows, "rows", int64(file.Len()) == export.Files[0].Size)
	// Output: Orders.zip 500 rows true
}

// Receive the callback of an export.
func Example_callback() {
	ctx := context.Background()
	receiver, err := callback.New(secret)
	if err != nil {
		fmt.Println(err)
		return
	}
	done := make(chan *callback.Callback, 1)
	backEnd := httptest.NewServer(receiver.Handler(func(_ context.Context, c *callback.Callback) error {
		select {
		case done <- c:
		default: // it came again
		}
		return nil
	}))
	defer backEnd.Close()

	sheaf, err := client.New(server.HTTP, client.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sheaf.Close()
	rows := []map[string]any{{"id": "编号", "name": "姓名"}, {"id": 1, "name": "李雷"}}
	if _, err := sheaf.Submit(ctx, client.Request{Title: "Names", Raw: rows, Callback: backEnd.URL}); err != nil {
		fmt.Println(err)
		return
	}
	got := <-done
	fmt.Println(got.Event, got.Log.Title, got.Log.Status)
	// Output: export.completed Names 2
}

// The same calls by NATS.
func Example_nats() {
	ctx := context.Background()
	conn, err := nats.Connect(server.NATS)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	sheaf, err := client.NATS(conn, "default", client.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sheaf.Close()
	accepted, err := sheaf.Submit(ctx, client.Request{
		Title: "By NATS", HTTP: &client.HTTPSource{URL: server.HTTP + "/demo/page"},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for report, err := range sheaf.Watch(ctx, accepted.Key) {
		if err != nil {
			fmt.Println(err)
			return
		}
		if report.Status != client.Processing {
			fmt.Println(report.Status, report.Rows)
		}
	}
	// Output: succeeded 500
}

// A refusal names the field at fault.
func Example_refusal() {
	sheaf, err := client.New(server.HTTP, client.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sheaf.Close()
	_, err = sheaf.Submit(context.Background(), client.Request{HTTP: &client.HTTPSource{URL: "ftp://x/"}})
	var refusal *client.Error
	if errors.As(err, &refusal) && refusal.Status == http.StatusBadRequest {
		fmt.Println(refusal.Field)
	}
	// Output: source_http.url
}
