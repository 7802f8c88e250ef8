package formats

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	_ "time/tzdata"

	"github.com/parquet-go/parquet-go"
	"github.com/stretchr/testify/require"
	"github.com/xuri/excelize/v2"

	"sheaf/cmd/sheaf/node"
	"sheaf/events"
	"sheaf/services/assembler"
)

// sheaf is a whole Sheaf in this process.
type sheaf struct {
	url    string
	client *http.Client
}

// needs skips a test if a format is not in the binary.
func needs(t testing.TB, formats ...events.Format) {
	t.Helper()
	for _, f := range formats {
		if !slices.ContainsFunc(assembler.Formats(), func(has events.Format) bool { return has.Name == f.Name }) {
			t.Skipf("%s is not in this binary", f.Name)
		}
	}
}

// startSheaf starts a Sheaf that stops at the end of the test.
func startSheaf(t testing.TB) *sheaf {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 16}
	s := &sheaf{client: &http.Client{Transport: transport}}
	ctx, stop := context.WithCancel(context.Background())
	opened, ended := make(chan node.Info, 1), make(chan error, 1)
	cfg := node.OneShot(t.TempDir())
	go func() { ended <- node.Run(ctx, cfg, func(at node.Info) { opened <- at }) }()
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
	if a.Errcode == 0 && data != nil {
		require.NoError(t, json.Unmarshal(a.Data, data))
	}
	return a.Errcode, a.Msg
}

// export is an export that has ended.
type export struct {
	Key        string `json:"hash_key"`
	Status     int    `json:"status"`
	ErrorCode  string `json:"error_code"`
	FailReason string `json:"fail_reason"`
	ExtType    string `json:"ext_type"`
	DownURL    string `json:"down_url"`
	Rows       int64  `json:"rows"`
	PagesUntil string `json:"pages_until"`
	Files      []struct {
		Name     string
		Size     int64
		SHA256   string
		Rows     int64
		Contents []events.Content
	} `json:"files"`
	Warnings []events.Warning `json:"warnings"`

	content []byte // of its file
}

const (
	completed = 2
	failed    = 3
)

func (x export) warned(code string) (message string) {
	for _, w := range x.Warnings {
		if w.Code == code {
			return w.Message
		}
	}
	return ""
}

// submit submits a request and waits for its end.
func (s *sheaf) submit(t testing.TB, operation, body string) export {
	t.Helper()
	var accepted struct {
		Key string `json:"hash_key"`
	}
	code, msg := s.call(t, http.MethodPost, "/v1/export/"+operation, body, &accepted)
	require.Zero(t, code, "%s: %s", body, msg)
	var x export
	require.Eventually(t, func() bool {
		x = export{}
		code, _ := s.call(t, http.MethodGet, "/v1/export/detail?key="+accepted.Key, "", &x)
		return code == 0 && x.Status != 1
	}, time.Minute, 10*time.Millisecond, "%s has not ended", body)
	return x
}

// succeed submits a request and downloads its file.
func (s *sheaf) succeed(t testing.TB, operation, body string) export {
	t.Helper()
	x := s.submit(t, operation, body)
	require.Equal(t, completed, x.Status, "%s: %s", body, x.FailReason)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, x.DownURL, http.NoBody)
	require.NoError(t, err)
	res, err := s.client.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	require.Equal(t, http.StatusOK, res.StatusCode)
	x.content, err = io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Len(t, x.Files, 1)
	require.EqualValues(t, len(x.content), x.Files[0].Size)
	require.Equal(t, x.Files[0].SHA256, hexSum(x.content))
	return x
}

func hexSum(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// entries returns the documents in the zip of an export, and checks them against its detail.
func (x export) entries(t testing.TB) map[string][]byte {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(x.content), int64(len(x.content)))
	require.NoError(t, err)
	documents := map[string][]byte{}
	for _, f := range z.File {
		r, err := f.Open()
		require.NoError(t, err)
		documents[f.Name], err = io.ReadAll(r)
		require.NoError(t, err)
		require.NoError(t, r.Close())
	}
	require.Len(t, documents, len(z.File), "two entries have one name")
	for _, c := range x.Files[0].Contents {
		data, ok := documents[c.Name]
		require.True(t, ok, c.Name)
		require.EqualValues(t, len(data), c.Size, c.Name)
		require.Equal(t, hexSum(data), c.SHA256, c.Name)
	}
	return documents
}

// source is a list of n rows, in pages of 20. It counts the requests.
type source struct {
	*httptest.Server
	asked atomic.Int64
}

// orders serves n orders without titles: {"items": […], "total": n}.
func orders(t testing.TB, n int) *source { return list(t, n, order) }

func list(t testing.TB, n int, row func(int) string) *source {
	s := &source{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		page, _ := strconv.Atoi(r.URL.Query().Get("page"))
		var items []string
		for i := 20*page - 20; i < min(20*page, n); i++ {
			items = append(items, row(i))
		}
		fmt.Fprintf(w, `{"items":[%s],"total":%d}`, strings.Join(items, ","), n)
	}))
	t.Cleanup(s.Close)
	return s
}

// order is row i, from 0. Each third one has no user.
func order(i int) string {
	user := fmt.Sprintf(`{"name":"李雷 %d"}`, i)
	if i%3 == 2 {
		user = "null"
	}
	return fmt.Sprintf(`{"id":%d,"no":"%d","amount":%d.5,"status":%d,"paid":%t,"at":"2026-01-%02dT23:30:00Z","user":%s,"note":"=1+%d \"x\", y"}`,
		i, 900_000_000_000_000_000+i, i, i%4, i%2 == 0, i%28+1, user, i)
}

// http is the source_http of a list.
func (s *source) http() string {
	return fmt.Sprintf(`{"url":%q,"param":{"limit":20},"rows":"items","paging":{"type":"page","total":"total"}}`, s.URL)
}

// body returns a submission of a list. More members begin with a comma.
func (s *source) body(extType, more string) string {
	return fmt.Sprintf(`{"ext_type":%q,"title":"订单","user_id":"1","timestamp":1625106204,"source_http":%s%s}`, extType, s.http(), more)
}

// Readers. Each returns the rows of a document, the header first.

func readXLSX(t testing.TB, data []byte, sheet int) [][]string {
	t.Helper()
	book, err := excelize.OpenReader(bytes.NewReader(data))
	require.NoError(t, err)
	defer book.Close()
	rows, err := book.GetRows(book.GetSheetList()[sheet])
	require.NoError(t, err)
	return even(rows)
}

// even makes all rows as long as the header: excelize leaves out empty cells at the end.
func even(rows [][]string) [][]string {
	for i := range rows {
		for len(rows[i]) < len(rows[0]) {
			rows[i] = append(rows[i], "")
		}
	}
	return rows
}

func readCSV(t testing.TB, data []byte, comma rune) [][]string {
	t.Helper()
	r := csv.NewReader(bytes.NewReader(bytes.TrimPrefix(data, []byte("\ufeff"))))
	r.Comma = comma
	rows, err := r.ReadAll()
	require.NoError(t, err)
	return rows
}

// object is a JSON object whose members are in order.
func object(t testing.TB, raw json.RawMessage) (names, values []string) {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(raw))
	_, err := dec.Token()
	require.NoError(t, err)
	for dec.More() {
		name, err := dec.Token()
		require.NoError(t, err)
		var value json.RawMessage
		require.NoError(t, dec.Decode(&value))
		names, values = append(names, name.(string)), append(values, string(value))
	}
	return names, values
}

func readNDJSON(t testing.TB, data []byte) (rows []json.RawMessage) {
	t.Helper()
	for line := range bytes.Lines(data) {
		require.True(t, json.Valid(line), string(line))
		rows = append(rows, bytes.TrimSpace(line))
	}
	return rows
}

// readParquet returns the names of the columns and the values as text, NULL as "".
func readParquet(t testing.TB, data []byte) (names []string, rows [][]string) {
	t.Helper()
	f, err := parquet.OpenFile(bytes.NewReader(data), int64(len(data)))
	require.NoError(t, err)
	for _, path := range f.Schema().Columns() {
		names = append(names, strings.Join(path, "."))
	}
	for _, group := range f.RowGroups() {
		reader := group.Rows()
		buffer := make([]parquet.Row, 64)
		for {
			n, err := reader.ReadRows(buffer)
			for _, row := range buffer[:n] {
				cells := make([]string, len(names))
				for _, v := range row {
					if !v.IsNull() {
						cells[v.Column()] = v.String()
					}
				}
				rows = append(rows, cells)
			}
			if errors.Is(err, io.EOF) || n == 0 {
				break
			}
			require.NoError(t, err)
		}
		require.NoError(t, reader.Close())
	}
	return names, rows
}
