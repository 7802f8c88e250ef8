package deploy

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/stretchr/testify/require"
)

// metricNames returns the metrics of a process: those that OPERATIONS.md lists, of Go and of the process. A test
// of cmd/sheaf/node compares the list with a running process.
func metricNames(t *testing.T) (names []string) {
	t.Helper()
	for _, row := range regexp.MustCompile("(?m)^\\| \\w+ \\| `(sheaf_\\w+)` \\|").FindAllStringSubmatch(read(t, "OPERATIONS.md"), -1) {
		names = append(names, row[1])
	}
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	families, err := r.Gather()
	require.NoError(t, err)
	for _, f := range families {
		names = append(names, f.GetName())
	}
	return names
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	return string(text)
}

// requireMetrics fails unless an expression names a metric, and only existing ones.
func requireMetrics(t *testing.T, names []string, expr string) {
	t.Helper()
	used := regexp.MustCompile(`\b(?:sheaf|go|process)_\w+`).FindAllString(expr, -1)
	require.True(t, len(used) > 0 || strings.HasPrefix(expr, "up{"), expr)
	for _, name := range used {
		known := slices.Contains(names, name)
		for _, part := range []string{"_bucket", "_sum", "_count"} {
			base, ok := strings.CutSuffix(name, part)
			known = known || ok && slices.Contains(names, base)
		}
		require.True(t, known, "%s in %s does not exist", name, expr)
	}
}

// Each alert asks for existing metrics and has a test, and its runbook is a section of OPERATIONS.md.
func TestAlerts(t *testing.T) {
	t.Parallel()
	names, manual, tests := metricNames(t), read(t, "OPERATIONS.md"), read(t, "alerts_test.yaml")
	rules := strings.Split(read(t, "alerts.yaml"), "- alert: ")[1:]
	require.Len(t, rules, 15)
	for _, rule := range rules {
		alert, rest, _ := strings.Cut(rule, "\n")
		expr, _, ok := strings.Cut(rest, "labels:")
		require.True(t, ok, alert)
		requireMetrics(t, names, strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(expr), "expr:")))
		require.Regexp(t, `severity: (page|ticket)`, rest)
		require.Contains(t, rest, "OPERATIONS.md#"+strings.ToLower(alert)+"\n")
		require.Contains(t, manual, "\n### "+alert+"\n")
		require.Equal(t, 2, strings.Count(tests, "alertname: "+alert+"\n")+strings.Count(tests, "alertname: "+alert+","), alert)
	}
}

// The dashboard asks for existing metrics, and shows all of Sheaf's.
func TestDashboard(t *testing.T) {
	t.Parallel()
	var dashboard struct {
		Panels []struct {
			Type, Title string
			GridPos     struct{ X, Y, W, H int }
			Targets     []struct{ Expr string }
		}
	}
	text := read(t, "grafana.json")
	require.NoError(t, json.Unmarshal([]byte(text), &dashboard))
	names := metricNames(t)
	var rows []string
	for _, p := range dashboard.Panels {
		require.LessOrEqual(t, p.GridPos.X+p.GridPos.W, 24, p.Title)
		if p.Type == "row" {
			rows = append(rows, p.Title)
			continue
		}
		require.NotEmpty(t, p.Targets, p.Title)
		for _, target := range p.Targets {
			requireMetrics(t, names, target.Expr)
			require.Contains(t, target.Expr, `job=~"$job",instance=~"$instance"`)
		}
	}
	require.Equal(t, []string{"Is it well", "Callers", "Sources", "Workbooks", "Callbacks", "Streams and disk", "Process"}, rows)
	for _, name := range names {
		if strings.HasPrefix(name, "sheaf_") {
			require.Contains(t, text, name)
		}
	}
	for _, variable := range []string{"job", "instance"} {
		require.Contains(t, text, `"name": "`+variable+`"`)
	}
}
