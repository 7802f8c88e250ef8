package deploy

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"

	"github.com/stretchr/testify/require"
)

// What one small export takes, as the section Sizing of OPERATIONS.md says.
const (
	eventsOfExport  = 6900  // bytes of the log until its older events are purged
	settledInLog    = 2100  // bytes of the log after that
	settledAfter    = 120   // seconds
	projectionBytes = 2900  // of tasks.db
	serverBytes     = 1900  // of memory of a NATS server
	processor       = 0.050 // seconds
	maxHistory      = 100_000
	logBytes        = 0.9 * (2 << 30)
)

var quantity = regexp.MustCompile(`^([0-9.,]+)(?: (\w+))?$`)

// quantityOf parses a cell such as 2.4 h or 19 MiB, in seconds or bytes.
func quantityOf(t *testing.T, cell string) float64 {
	t.Helper()
	m := quantity.FindStringSubmatch(strings.TrimSpace(cell))
	require.NotNil(t, m, cell)
	n, err := strconv.ParseFloat(strings.ReplaceAll(m[1], ",", ""), 64)
	require.NoError(t, err, cell)
	unit, ok := map[string]float64{"": 1, "s": 1, "min": 60, "h": 3600, "d": 86400,
		"MB": 1e6, "GB": 1e9, "MiB": 1 << 20, "GiB": 1 << 30}[m[2]]
	require.True(t, ok, cell)
	return n * unit
}

// The table of sizes follows from what one export takes.
func TestSizingTable(t *testing.T) {
	t.Parallel()
	_, section, ok := strings.Cut(readDocument(t, "deploy/OPERATIONS.md"), "\n## Sizing\n")
	require.True(t, ok)
	section, _, _ = strings.Cut(section, "\n## ")
	rows := 0
	for line := range strings.Lines(section) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 7 || !quantity.MatchString(strings.TrimSpace(cells[0])) {
			continue
		}
		rows++
		rate := quantityOf(t, cells[0])
		const day = 24 * 60 * 60
		fresh := rate * settledAfter * eventsOfExport
		for i, want := range []float64{
			(logBytes - fresh) / settledInLog / rate,
			maxHistory / rate,
			(fresh + rate*day*settledInLog) / 0.9,
			rate * day * projectionBytes,
			rate * day * serverBytes,
			rate * processor,
		} {
			require.InEpsilon(t, want, quantityOf(t, cells[i+1]), 0.06, "column %d of %s", i+2, line)
		}
	}
	require.Equal(t, 5, rows)
}

// The events of a small export have the size that the table is computed from.
func TestSizeOfEvents(t *testing.T) {
	t.Parallel()
	log := eventstest.Journal(t)
	size := func() float64 {
		l, err := log.LogState(t.Context())
		require.NoError(t, err)
		return float64(l.Space.Used)
	}
	const exports = 20
	for n := range exports {
		x := events.Export{Tenant: events.DefaultTenant, Key: fmt.Sprintf("%032x", n)}
		for _, p := range []events.Payload{
			&events.ExportRequested{CreatedAt: time.Now(), Request: events.Request{Timestamp: time.Now().Unix(), ExtType: "XLSX",
				Title: "orders of march", UserID: "u-100", Callback: "http://app.example.com/exports/done",
				SourceType: events.SourceHTTP, HTTP: &events.HTTPRequest{URL: "http://api.example.com/v1/orders", Method: "GET",
					Limit: 1000, Conn: 4, Param: json.RawMessage(`{"status":"paid"}`)}}},
			&events.ExportCrawled{Run: 1, Pages: 2, Manifest: strings.Repeat("ab", 32),
				Proof: &events.Proof{Kind: events.ProofTotal, Rows: 40, Announced: 40, Pages: 2}},
			&events.ExportCompleted{Run: 1, Pages: 2, Rows: 40, ExpiresAt: time.Now().Add(time.Hour), Files: []events.File{
				{Name: "orders.zip", Store: "default/" + x.Key + "/" + events.NewID() + ".zip", Size: 5000,
					SHA256: strings.Repeat("ab", 32), Rows: 40}}},
			&events.CallbackDelivered{Attempt: 1, Status: 200},
		} {
			var err error
			x, err = log.Append(t.Context(), x, "", func(*events.Export) (events.Payload, error) { return p, nil })
			require.NoError(t, err)
		}
	}
	require.InEpsilon(t, eventsOfExport, size()/exports, 0.1)
	for n := range exports {
		require.NoError(t, log.KeepLast(t.Context(), events.DefaultTenant, fmt.Sprintf("%032x", n)))
	}
	require.InEpsilon(t, settledInLog, size()/exports, 0.1)
}
