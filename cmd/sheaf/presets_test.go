package main

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sheaf/events/eventstest"
	"sheaf/services/ingress/request"
)

// The command and the server print the same presets, as the fields that they stand for.
func TestPresetsArePrinted(t *testing.T) {
	t.Parallel()
	known := request.Presets()
	code, text, errs := sheaf(t, t.Context(), "", "presets")
	require.Zero(t, code, errs)
	require.Len(t, strings.Split(strings.TrimSpace(text), "\n"), len(known))
	require.Contains(t, text, "\npocketbase        PocketBase records\n")

	server := startServe(t, "--http", "127.0.0.1:0", "--nats-listen", "none", "--data", t.TempDir())
	answer := wireCall(t, http.MethodGet, server.http+"/v1/export/presets", "", nil)
	require.Zero(t, answer.Errcode)
	code, all, errs := sheaf(t, t.Context(), "", "presets", "--json")
	require.Zero(t, code, errs)
	require.JSONEq(t, all, string(answer.Data))

	var shown []bool
	for _, p := range known {
		code, out, errs := sheaf(t, t.Context(), "", "presets", p.Name, "--json")
		require.Zero(t, code, errs)
		var got request.Preset
		require.NoError(t, json.Unmarshal([]byte(out), &got))
		require.JSONEq(t, string(p.Source), string(got.Source))
		if !eventstest.Full && slices.Contains(shown, len(p.Given) > 0) {
			continue // one with given fields and one without show how each is printed
		}
		shown = append(shown, len(p.Given) > 0)
		code, out, errs = sheaf(t, t.Context(), "", "presets", p.Name)
		require.Zero(t, code, errs)
		require.True(t, strings.HasPrefix(out, p.Name+": "+p.About+"\n"), out)
		require.JSONEq(t, string(p.Source), out[strings.Index(out, "{"):])
		require.Equal(t, len(p.Given) > 0, strings.Contains(out, "\nthe request adds: "+strings.Join(p.Given, ", ")+"\n"), out)
	}
	code, out, errs := sheaf(t, t.Context(), "", "presets", "larvel")
	require.Equal(t, exitUsage, code)
	require.Empty(t, out)
	require.Equal(t, "sheaf: there is no preset \"larvel\", did you mean laravel?\nsee: sheaf presets --help\n", errs)
}
