package examples

import (
	"bytes"
	"net/http"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"sheaf/events/client"
)

// A client by REST and one by NATS do the same on a real server.
func TestBothTransportsDoTheSame(t *testing.T) {
	conn, err := nats.Connect(server.NATS)
	require.NoError(t, err)
	defer conn.Close()
	byREST, err := client.New(server.HTTP, client.Options{})
	require.NoError(t, err)
	defer byREST.Close()
	byNATS, err := client.NATS(conn, "default", client.Options{})
	require.NoError(t, err)
	defer byNATS.Close()
	for name, sheaf := range map[string]*client.Client{"REST": byREST, "NATS": byNATS} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			title := "both " + name
			accepted, err := sheaf.Submit(ctx, client.Request{Title: title, UserID: name, Share: true,
				HTTP: &client.HTTPSource{URL: server.HTTP + "/demo/page"}, Options: &client.FileOptions{KeepPages: 1}})
			require.NoError(t, err)
			require.Empty(t, accepted.Warnings)
			require.Contains(t, accepted.ShareURL, "/s/")
			x, err := sheaf.Wait(ctx, accepted.Key)
			require.NoError(t, err)
			require.EqualValues(t, 500, x.Rows)
			var file bytes.Buffer
			require.NoError(t, sheaf.Fetch(ctx, x, &file))

			page, err := sheaf.List(ctx, client.Filter{State: client.StateSucceeded, Query: title, Since: time.Now().Add(-time.Hour), Limit: 5})
			require.NoError(t, err)
			require.Len(t, page.Exports, 1)
			require.Equal(t, accepted.Key, page.Exports[0].Key)
			require.Equal(t, name, page.Exports[0].UserID)
			require.Positive(t, page.Counts.Succeeded)
			history, err := sheaf.History(ctx, name, 10)
			require.NoError(t, err)
			require.Len(t, history, 1)
			line, err := sheaf.Events(ctx, accepted.Key)
			require.NoError(t, err)
			require.GreaterOrEqual(t, len(line.Events), 3, "requested, crawled, completed")

			link, err := sheaf.Share(ctx, accepted.Key, time.Hour, "http://shop.example/")
			require.NoError(t, err)
			require.WithinDuration(t, time.Now().Add(time.Hour), link.ExpiresAt.Time, time.Minute)
			converted, err := sheaf.Convert(ctx, client.ConvertRequest{Key: accepted.Key, ExtType: "CSV"})
			require.NoError(t, err)
			_, err = sheaf.Wait(ctx, converted.Key)
			require.NoError(t, err)

			for what, err := range map[string]error{
				"cancel":    sheaf.Cancel(ctx, accepted.Key),
				"retry":     sheaf.Retry(ctx, accepted.Key),
				"redeliver": second(sheaf.Redeliver(ctx, accepted.Key)),
			} {
				var refusal *client.Error
				require.ErrorAs(t, err, &refusal, what)
				require.Equal(t, http.StatusConflict, refusal.Status, what)
				require.Equal(t, "key", refusal.Field, what)
			}
			result, err := sheaf.Bulk(ctx, client.BulkRequest{Action: "retry", Filter: client.Filter{State: client.StateFailed, UserID: name}})
			require.NoError(t, err)
			require.Zero(t, result.Matched)
			_, err = sheaf.Detail(ctx, "0123456789abcdef0123456789abcdef")
			var refusal *client.Error
			require.ErrorAs(t, err, &refusal)
			require.Equal(t, http.StatusNotFound, refusal.Status)
		})
	}
}

func second[T any](_ T, err error) error { return err }
