package main

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/xuri/excelize/v2"
)

// process is a sheaf serve in a process of its own, so that its log and environment are
// its own too.
type process struct {
	http, nats string
	ended      chan int // its exit code, -1 if it was killed; closed then
	out, err   *output
	cmd        *exec.Cmd
}

// startServe starts sheaf serve with the flags and waits until it logs its addresses.
func startServe(t testing.TB, args ...string) *process {
	t.Helper()
	p := beginServe(t, args...)
	require.Eventually(t, func() bool { return strings.Contains(p.out.String(), "roles ") || len(p.ended) > 0 }, 30*time.Second, 5*time.Millisecond)
	require.Empty(t, p.ended, p.err.String())
	p.http, p.nats = field(p.out.String(), "REST"), field(p.out.String(), "NATS")
	return p
}

// beginServe starts sheaf serve with the flags. It is killed at the end of the test.
func beginServe(t testing.TB, args ...string) *process {
	t.Helper()
	p := &process{ended: make(chan int, 1), out: &output{}, err: &output{}, cmd: command(t, "", append([]string{"serve"}, args...)...)}
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.err
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		// The kernel ends the process when the thread that started it ends, so it does not outlive an aborted
		// test.
		runtime.LockOSThread()
		defer close(p.ended)
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait()
			p.ended <- p.cmd.ProcessState.ExitCode()
		}
	}()
	require.NoError(t, <-started)
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		for range p.ended { // its folders are removed next
		}
		if t.Failed() {
			t.Logf("serve %v:\n%s", args, p.err)
		}
	})
	return p
}

// stop asks the process to stop.
func (p *process) stop() { _ = p.cmd.Process.Signal(syscall.SIGTERM) }

func field(text, name string) string {
	if m := regexp.MustCompile(`(?m)^` + name + ` +(\S.*)$`).FindStringSubmatch(text); m != nil {
		return m[1]
	}
	return ""
}

// drain stops the process and waits until it has ended in order.
func (p *process) drain(t testing.TB) {
	t.Helper()
	p.stop()
	select {
	case code := <-p.ended:
		require.Zero(t, code, p.err.String())
	case <-time.After(15 * time.Second):
		t.Fatal("not stopped within 15 s")
	}
}

// The wire format as a caller sees it, repeated here on purpose.
type wireAnswer struct {
	Errcode   int             `json:"errcode"`
	Msg       string          `json:"msg"`
	Data      json.RawMessage `json:"data"`
	RequestID string          `json:"request_id"`
}

type wireDetail struct {
	ID         uint64 `json:"id"`
	HashKey    string `json:"hash_key"`
	Title      string `json:"title"`
	ExtType    string `json:"ext_type"`
	SourceType string `json:"source_type"`
	Status     int    `json:"status"`
	FailReason string `json:"fail_reason"`
	CreatedAt  string `json:"created_at"`
	DownURL    string `json:"down_url"`
	Rows       int64  `json:"rows"`
}

func wireCall(t testing.TB, method, url, body string, data any) wireAnswer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	var a wireAnswer
	require.NoError(t, json.NewDecoder(res.Body).Decode(&a))
	if data != nil {
		require.Zero(t, a.Errcode, "%s %s: %s", method, url, a.Msg)
		require.NoError(t, json.Unmarshal(a.Data, data))
	}
	return a
}

func wireSubmit(t testing.TB, server, source, callback string, limit int) string {
	t.Helper()
	var accepted struct {
		HashKey string `json:"hash_key"`
	}
	wireCall(t, http.MethodPost, server+"/v1/export/http", fmt.Sprintf(`{"timestamp":1625106204,"ext_type":"XLSX","title":"订单","user_id":"123",
		"callback":%q,"source_http":{"url":%q,"method":"GET","header":{"Authorization":"Bearer x"},"param":{"limit":%d},"conn":4}}`, callback, source, limit), &accepted)
	require.Regexp(t, `^[0-9a-f]{32}$`, accepted.HashKey)
	return accepted.HashKey
}

func wireWait(t testing.TB, server, key string) wireDetail {
	t.Helper()
	var d wireDetail
	require.Eventually(t, func() bool {
		a := wireCall(t, http.MethodGet, server+"/v1/export/detail?key="+key, "", nil)
		if a.Errcode == http.StatusServiceUnavailable {
			return false // repeat the request: on a busy machine 2 s can pass
		}
		return assert.Zero(t, a.Errcode, a.Msg) && assert.NoError(t, json.Unmarshal(a.Data, &d)) && d.Status != 1
	}, 60*time.Second, 10*time.Millisecond)
	return d
}

// workbookIn returns the rows of the one workbook in a zip.
func workbookIn(t testing.TB, archive []byte) [][]string {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(archive), int64(len(archive)))
	require.NoError(t, err)
	require.Len(t, z.File, 1)
	f, err := z.File[0].Open()
	require.NoError(t, err)
	data, err := io.ReadAll(f)
	require.NoError(t, err)
	return workbookRows(t, data)
}

func workbookRows(t testing.TB, data []byte) [][]string {
	t.Helper()
	book, err := excelize.OpenReader(bytes.NewReader(data))
	require.NoError(t, err)
	defer book.Close()
	rows, err := book.GetRows(book.GetSheetList()[0])
	require.NoError(t, err)
	return rows
}

// wantDemoRow computes row n of the demo independently, from the description in the help.
func wantDemoRow(n int) []string {
	pick := func(s string, i int) string { return string([]rune(s)[i]) }
	note := "备注 " + strconv.Itoa(n)
	if n%5 == 0 {
		note = ""
	}
	return []string{
		strconv.Itoa(n),
		strconv.Itoa(100000000000000000 + 7919*n),
		pick("王李张刘陈杨黄赵吴周", n%10) + pick("伟芳娜敏静丽强磊军洋", n/10%10),
		strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.2f", float64(37*n%1000000)/100), "0"), "."),
		map[bool]string{true: "TRUE", false: "FALSE"}[n%3 == 0],
		time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).AddDate(0, 0, n%365).Format("2006-01-02"),
		note,
		fmt.Sprintf(`{"city":"上海","zip":"%d"}`, 200000+n%1000),
	}
}

func requireDemo(t testing.TB, rows [][]string, n int) {
	t.Helper()
	require.Len(t, rows, n+1)
	require.Equal(t, []string{"编号", "订单号", "姓名", "金额", "已付", "下单日期", "备注", "地址"}, rows[0])
	for i, row := range rows[1:] {
		require.Equal(t, wantDemoRow(i+1), row)
	}
}

func TestDemo(t *testing.T) {
	t.Chdir(t.TempDir())
	code, out, errs := sheaf(t, t.Context(), "", "demo", "--rows", "2345")
	require.Zero(t, code, errs)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	workbook, ok := strings.CutPrefix(lines[len(lines)-1], "workbook: ")
	require.True(t, ok, out)
	data, err := os.ReadFile(workbook)
	require.NoError(t, err)
	requireDemo(t, workbookRows(t, data), 2345)
	entries, err := os.ReadDir("sheaf-demo")
	require.NoError(t, err)
	require.Len(t, entries, 2, "the zip and the workbook, and nothing else")

	code, out, errs = sheaf(t, t.Context(), "", "demo", "--rows", "0", "--out", "empty")
	require.Zero(t, code, errs+out)
}

// The suffix of a file chooses the format of the demo. The file is written alone, and replaces none unasked.
func TestDemoOfOneFile(t *testing.T) {
	t.Chdir(t.TempDir())
	code, out, errs := sheaf(t, t.Context(), "", "demo", "--rows", "1234", "-o", "x.csv")
	require.Zero(t, code, errs)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	name, ok := strings.CutPrefix(lines[len(lines)-1], "file: ")
	require.True(t, ok, out)
	data, err := os.ReadFile(name)
	require.NoError(t, err)
	rows, err := csv.NewReader(bytes.NewReader(bytes.TrimPrefix(data, []byte("\uFEFF")))).ReadAll()
	require.NoError(t, err)
	require.Len(t, rows, 1235)
	require.Equal(t, []string{"编号", "订单号", "姓名", "金额", "已付", "下单日期", "备注", "地址"}, rows[0])
	for i, row := range rows[1:] {
		n := i + 1
		want := wantDemoRow(n) // of a workbook
		want[3], want[4] = fmt.Sprintf("%.2f", float64(37*n%1000000)/100), strings.ToLower(want[4])
		require.Equal(t, want, row)
	}

	code, _, errs = sheaf(t, t.Context(), "", "demo", "--rows", "1", "-o", "x.csv")
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "x.csv exists; say --force")
	code, out, errs = sheaf(t, t.Context(), "", "demo", "--rows", "1", "-o", "x.csv", "--force", "--json")
	require.Zero(t, code, errs)
	var printed map[string]any
	require.NoError(t, json.Unmarshal([]byte(out), &printed))
	require.Equal(t, name, printed["file"])
	data, err = os.ReadFile(name)
	require.NoError(t, err)
	require.Equal(t, 2, bytes.Count(data, []byte("\r\n")))
	onlyFiles(t, "x.csv")
}

func TestDemoStays(t *testing.T) {
	t.Chdir(t.TempDir())
	ctx, stop := context.WithCancel(t.Context())
	var out, errs output
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"demo", "--rows", "10", "--stay"}, stdio{out: &out, err: &errs}, noLog)
	}()
	require.Eventually(t, func() bool { return strings.Contains(errs.String(), "Still serving") || len(ended) > 0 }, 30*time.Second, 5*time.Millisecond)
	var d wireDetail
	wireCall(t, http.MethodGet, field(out.String(), "server")+"/v1/export/detail?key="+field(out.String(), "export"), "", &d)
	require.Equal(t, 2, d.Status)
	stop()
	require.Zero(t, <-ended, errs.String())
}

func TestExportInOneShot(t *testing.T) {
	t.Chdir(t.TempDir())
	source := httptest.NewServer(demoSource(777))
	defer source.Close()
	code, out, errs := sheaf(t, t.Context(), "", "export", source.URL, "-o", "orders.xlsx", "--limit", "50")
	require.Zero(t, code, errs)
	require.Contains(t, out, "orders.xlsx")
	require.Contains(t, errs, "777 rows in")
	data, err := os.ReadFile("orders.xlsx")
	require.NoError(t, err)
	requireDemo(t, workbookRows(t, data), 777)

	code, _, errs = sheaf(t, t.Context(), "", "export", source.URL, "-o", "orders.zip", "--json")
	require.Zero(t, code, errs)
	data, err = os.ReadFile("orders.zip")
	require.NoError(t, err)
	requireDemo(t, workbookIn(t, data), 777)
	onlyFiles(t, "orders.xlsx", "orders.zip")
}

func TestExportThatFailsSaysWhy(t *testing.T) {
	t.Chdir(t.TempDir())
	source := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"errcode":4711,"msg":"no such report","data":null}`)
	}))
	defer source.Close()
	code, out, errs := sheaf(t, t.Context(), "", "export", source.URL, "-o", "orders.xlsx")
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "4711")
	require.Contains(t, errs, "SOURCE_ERRCODE")
	require.Empty(t, out)
	onlyFiles(t)
}

func TestExportInterrupted(t *testing.T) {
	t.Chdir(t.TempDir())
	ctx, interrupt := context.WithCancel(t.Context())
	release := make(chan struct{})
	source := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		interrupt()
		select {
		case <-r.Context().Done():
		case <-release:
		}
	}))
	defer source.Close()
	defer close(release)
	code, _, errs := sheaf(t, ctx, "", "export", source.URL, "-o", "orders.xlsx")
	require.Equal(t, exitInterrupted, code, errs)
	require.Contains(t, errs, "was cancelled")
	onlyFiles(t)
}

// callbacks is a receiver that stores the callbacks it receives.
func callbacks(t testing.TB) (url string, bodies chan string) {
	bodies = make(chan string, 10)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		bodies <- string(body)
	}))
	t.Cleanup(server.Close)
	return server.URL, bodies
}

func exportEndToEnd(t *testing.T, server string) {
	source := httptest.NewServer(demoSource(1234))
	defer source.Close()
	callback, received := callbacks(t)
	key := wireSubmit(t, server, source.URL+"/?shop=1", callback, 20)
	d := wireWait(t, server, key)
	require.Equal(t, 2, d.Status, d.FailReason)
	require.Equal(t, wireDetail{
		ID: d.ID, HashKey: key, Title: "订单", ExtType: "XLSX", SourceType: "http", Status: 2, CreatedAt: d.CreatedAt, DownURL: d.DownURL, Rows: 1234,
	}, d)
	res, err := http.Get(d.DownURL)
	require.NoError(t, err)
	defer res.Body.Close()
	require.Equal(t, http.StatusOK, res.StatusCode)
	data, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	requireDemo(t, workbookIn(t, data), 1234)
	http.DefaultClient.CloseIdleConnections()

	select {
	case body := <-received:
		require.Contains(t, body, key)
		require.NotContains(t, body, "Bearer x")
	case <-time.After(20 * time.Second):
		t.Fatal("no callback")
	}
	require.Equal(t, key, wireSubmit(t, server, source.URL+"/?shop=1", callback, 20), "the same request is the same export")
	var history []wireDetail
	wireCall(t, http.MethodGet, server+"/v1/export/history?user_id=123", "", &history)
	require.Len(t, history, 1)
}

func TestServeAllInOne(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	p := startServe(t, "--http", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0", "--data", data)
	exportEndToEnd(t, p.http)

	for _, args := range [][]string{{"--nats-listen", "none"}, {"--nats-listen", "127.0.0.1:0"}} {
		code, _, errs := sheaf(t, t.Context(), "", append([]string{"serve", "--http", "127.0.0.1:0", "--data", data}, args...)...)
		require.Equal(t, exitFailed, code)
		require.Contains(t, errs, "another Sheaf uses the folder")
	}
	code, _, errs := sheaf(t, t.Context(), "", "serve", "--http", strings.TrimPrefix(p.http, "http://"), "--data", t.TempDir())
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "--http")
	p.drain(t)

	// A process knows everything that the process before it knew, also when the folder was moved meanwhile.
	moved := filepath.Join(t.TempDir(), "moved")
	require.NoError(t, os.Rename(data, moved))
	p = startServe(t, "--http", "127.0.0.1:0", "--nats-listen", "none", "--data", moved)
	var history []wireDetail
	wireCall(t, http.MethodGet, p.http+"/v1/export/history?user_id=123", "", &history)
	require.Len(t, history, 1)
	require.Equal(t, 2, history[0].Status)
	p.drain(t)
}

func TestServeSplit(t *testing.T) {
	t.Parallel()
	key := strings.Repeat("5e", 32)
	files := "file://" + t.TempDir()
	first := startServe(t, "--roles", "ingress", "--http", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0", "--data", t.TempDir(), "--files", files, "--secret-key", key)
	others := func(roles string, args ...string) []string {
		return append([]string{"--roles", roles, "--nats", first.nats, "--replicas", "1", "--data", t.TempDir(), "--files", files, "--secret-key", key}, args...)
	}
	public := []string{"--public-url", first.http}
	processes := []*process{
		startServe(t, others("crawler")...),
		startServe(t, others("assembler")...),
		startServe(t, others("notifier", public...)...),
		startServe(t, others("crawler,assembler")...), // a second of each
	}
	second := startServe(t, others("ingress", "--http", "127.0.0.1:0")...)
	exportEndToEnd(t, first.http)

	var history []wireDetail
	wireCall(t, http.MethodGet, second.http+"/v1/export/history?user_id=123", "", &history)
	require.Len(t, history, 1, "every ingress knows")

	for flag, want := range map[string]string{"--secret-key": "another secret key", "--files": "another file store"} {
		args := others("crawler")
		for i := range args {
			if args[i] == flag {
				args[i+1] = map[string]string{"--secret-key": strings.Repeat("6f", 32), "--files": "file://" + t.TempDir()}[flag]
			}
		}
		code, _, errs := sheaf(t, t.Context(), "", append([]string{"serve"}, args...)...)
		require.Equal(t, exitFailed, code)
		require.Contains(t, errs, want)
	}
	second.drain(t)
	for _, p := range processes {
		p.drain(t)
	}
	first.drain(t)
}

func TestClientCommandsAgainstAServer(t *testing.T) {
	t.Chdir(t.TempDir())
	p := startServe(t, "--http", "127.0.0.1:0", "--nats-listen", "none", "--data", "data")
	t.Setenv("SHEAF_SERVER", p.http)
	var broken atomic.Bool
	demo := demoSource(300)
	source := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if broken.Load() {
			_, _ = io.WriteString(w, `{"errcode":1,"msg":"broken","data":null}`)
			return
		}
		demo.ServeHTTP(w, r)
	}))
	defer source.Close()

	code, out, errs := sheaf(t, t.Context(), "", "submit", "--url", source.URL, "--user-id", "u1", "--title", "Orders", "--wait")
	require.Zero(t, code, errs)
	require.Contains(t, out, "succeeded")
	key := strings.TrimSpace(regexp.MustCompile(`(?m)^key +(\S+)`).FindStringSubmatch(out)[1])

	code, out, errs = sheaf(t, t.Context(), "", "status", key)
	require.Zero(t, code, errs)
	require.Contains(t, out, "300")
	code, out, errs = sheaf(t, t.Context(), "", "history", "--user-id", "u1")
	require.Zero(t, code, errs)
	require.Contains(t, out, key)
	code, _, errs = sheaf(t, t.Context(), "", "download", key, "-o", "orders.xlsx")
	require.Zero(t, code, errs)
	data, err := os.ReadFile("orders.xlsx")
	require.NoError(t, err)
	requireDemo(t, workbookRows(t, data), 300)
	code, _, errs = sheaf(t, t.Context(), "", "watch", key)
	require.Zero(t, code, errs)
	code, _, errs = sheaf(t, t.Context(), "", "status", strings.Repeat("0", 32))
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "refused")

	broken.Store(true)
	code, out, errs = sheaf(t, t.Context(), "", "submit", "--url", source.URL, "--user-id", "u2", "--wait")
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "broken")
	failed := strings.TrimSpace(regexp.MustCompile(`(?m)^key +(\S+)`).FindStringSubmatch(out)[1])
	broken.Store(false)
	code, _, errs = sheaf(t, t.Context(), "", "retry", failed, "--wait")
	require.Zero(t, code, errs)

	name := "rows.json"
	require.NoError(t, os.WriteFile(name, []byte(`{"timestamp":1,"ext_type":"XLSX","title":"r","user_id":"u3","callback":"","source_raw":"[{\"a\":\"A\"},{\"a\":1}]"}`), 0o600))
	code, out, errs = sheaf(t, t.Context(), "", "submit", name, "--wait", "--json")
	require.Zero(t, code, errs)
	require.Contains(t, out, `"status": 2`)
	p.drain(t)
}

func TestSourceCommand(t *testing.T) {
	t.Chdir(t.TempDir())
	require.NoError(t, os.WriteFile("orders.csv", []byte("id,name\n1,李雷\n2,韩梅梅\n"), 0o600))
	ctx, stop := context.WithCancel(t.Context())
	var out output
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"source", "orders.csv", "--listen", "127.0.0.1:0"}, stdio{out: &out, err: &out}, noLog)
	}()
	require.Eventually(t, func() bool { return strings.Contains(out.String(), "Stop with") || len(ended) > 0 }, 10*time.Second, time.Millisecond)
	url := strings.Fields(out.String())[0]
	require.Contains(t, out.String(), "2 rows, 2 columns")
	require.Contains(t, out.String(), "sheaf export '"+url+"' -o 'orders.xlsx'")
	code, _, errs := sheaf(t, t.Context(), "", "export", url, "-o", "orders.xlsx")
	require.Zero(t, code, errs)
	data, err := os.ReadFile("orders.xlsx")
	require.NoError(t, err)
	require.Equal(t, [][]string{{"id", "name"}, {"1", "李雷"}, {"2", "韩梅梅"}}, workbookRows(t, data))
	stop()
	require.Zero(t, <-ended)
}

// The log of a server contains its addresses, and its end.
func TestServeLogsItsStartAndEnd(t *testing.T) {
	t.Parallel()
	p := startServe(t, "--http", "127.0.0.1:0", "--nats-listen", "none", "--data", t.TempDir(), "--log-format", "json")
	require.Eventually(t, func() bool {
		return strings.Contains(p.err.String(), `"msg":"started","service":"process","http":"`+p.http+`"`)
	}, 10*time.Second, 5*time.Millisecond)
	p.drain(t)
	require.Eventually(t, func() bool { return strings.Contains(p.err.String(), `"msg":"stopped"`) }, 10*time.Second, 5*time.Millisecond)
}
