package realsources

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/xuri/excelize/v2"

	"sheaf/cmd/sheaf/node"
)

// sheaf is a whole Sheaf in this process.
type sheaf struct {
	url    string
	client *http.Client
}

// startSheaf starts a Sheaf that stops at the end of the test.
func startSheaf(t testing.TB) *sheaf {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 16}
	s := &sheaf{client: &http.Client{Transport: transport}}
	ctx, stop := context.WithCancel(context.Background())
	opened, ended := make(chan node.Info, 1), make(chan error, 1)
	go func() { ended <- node.Run(ctx, node.OneShot(t.TempDir()), func(at node.Info) { opened <- at }) }()
	select {
	case at := <-opened:
		s.url = at.HTTP
	case err := <-ended:
		stop()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		stop()
		require.NoError(t, <-ended)
	})
	return s
}

// call sends a request and decodes the data of its response. It returns the errcode and its message.
func (s *sheaf) call(t testing.TB, method, path, body string, data any) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.url+path, strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	res, err := s.client.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	var a struct {
		Errcode int
		Msg     string
		Data    json.RawMessage
	}
	require.NoError(t, json.NewDecoder(res.Body).Decode(&a))
	if a.Errcode == 0 {
		require.NoError(t, json.Unmarshal(a.Data, data))
	}
	return a.Errcode, a.Msg
}

// outcome is how an export ended.
type outcome struct {
	Status     int    `json:"status"`
	ErrorCode  string `json:"error_code"`
	FailReason string `json:"fail_reason"`
	DownURL    string `json:"down_url"`
	Rows       int64  `json:"rows"`
	Proof      struct {
		Kind      string `json:"kind"`
		Announced int64  `json:"announced"`
	} `json:"proof"`
	Warnings []struct {
		Code string `json:"code"`
	} `json:"warnings"`
}

const (
	completed = 2
	failed    = 3
)

func (o outcome) warned(code string) bool {
	for _, w := range o.Warnings {
		if w.Code == code {
			return true
		}
	}
	return false
}

// export submits a request with a source_http, and waits for its end.
func (s *sheaf) export(t testing.TB, sourceHTTP []byte) outcome {
	t.Helper()
	var accepted struct {
		Key string `json:"hash_key"`
	}
	code, msg := s.call(t, http.MethodPost, "/v1/export/http", fmt.Sprintf(`{"ext_type":"XLSX","title":"orders","user_id":"1","source_http":%s}`, sourceHTTP), &accepted)
	require.Zero(t, code, "%s: %s", sourceHTTP, msg)
	var o outcome
	require.Eventually(t, func() bool {
		o = outcome{}
		code, _ := s.call(t, http.MethodGet, "/v1/export/detail?key="+accepted.Key, "", &o)
		return code == 0 && o.Status != 1
	}, 2*time.Minute, 10*time.Millisecond, "%s has not ended", sourceHTTP)
	return o
}

// cells returns the cells of the workbook, with the header. Rows are as long as the header.
func (s *sheaf) cells(t testing.TB, o outcome) [][]string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, o.DownURL, http.NoBody)
	require.NoError(t, err)
	res, err := s.client.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	archive, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	z, err := zip.NewReader(bytes.NewReader(archive), int64(len(archive)))
	require.NoError(t, err)
	require.Len(t, z.File, 1)
	f, err := z.File[0].Open()
	require.NoError(t, err)
	defer f.Close()
	book, err := excelize.OpenReader(f)
	require.NoError(t, err)
	defer book.Close()
	rows, err := book.GetRows(book.GetSheetList()[0], excelize.Options{RawCellValue: true})
	require.NoError(t, err)
	for i := range rows {
		for len(rows[i]) < len(rows[0]) { // excelize leaves out empty cells at the end
			rows[i] = append(rows[i], "")
		}
	}
	return rows
}
