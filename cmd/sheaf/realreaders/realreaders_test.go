package realreaders

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sheaf/events/eventstest"
	"sheaf/services/assembler/encode"
	"sheaf/services/assembler/encode/archive"
)

const (
	total   = 100_000
	perPage = 1000
)

// read is a value as a reader shows it: null, or a kind and a text, as in read.mjs.
type read struct{ kind, text string }

// UnmarshalJSON reads a cell as the scripts print it.
func (r *read) UnmarshalJSON(b []byte) error {
	switch string(b) {
	case "null":
		return nil
	case "true", "false":
		*r = read{"bool", string(b)}
		return nil
	}
	var cell [2]string
	err := json.Unmarshal(b, &cell)
	*r = read{cell[0], cell[1]}
	return err
}

// reader is a program that did not write the file.
type reader struct {
	name   string
	python bool
	blur   func(string) string // changes a text as the reader does; nil: it keeps texts
}

// format is how a format shows values, and its readers.
type format struct {
	encode.Format
	readers []reader
	rows    int // that the file has; 0: all
	shows   func(field, value) read
	same    func(want, got read) bool // nil: by ==
}

var formats = []format{xlsxFormat, csvFormat, tsvFormat, ndjsonFormat, jsonFormat, parquetFormat, htmlFormat}

// maxShown is how many wrong cells of a column are shown.
const maxShown = 3

const micros = "2006-01-02T15:04:05.000000"

// asFloat writes a number as its float64.
func asFloat(digits string) string {
	f, _ := strconv.ParseFloat(digits, 64)
	return strconv.FormatFloat(f, 'g', -1, 64)
}

// shown is the wall clock of a time in zone.
func shown(v value) time.Time {
	if v.kind != moment {
		return v.at
	}
	_, offset := v.at.In(zone).Zone()
	return v.at.Add(time.Duration(offset) * time.Second)
}

// asSent is the text of a value as the source sent it.
func asSent(v value) read {
	var s string
	if json.Unmarshal([]byte(v.sent), &s) != nil {
		s = v.sent
	}
	return read{"text", s}
}

// sameNumber compares numbers by value: all digits of a number, and the float64 of a float.
func sameNumber(want, got read) bool {
	if got.kind != "number" {
		return want == got
	}
	switch want.kind {
	case "number":
		a, ok := new(big.Rat).SetString(want.text)
		b, ok2 := new(big.Rat).SetString(got.text)
		return ok && ok2 && a.Cmp(b) == 0
	case "float":
		return want.text == asFloat(got.text)
	}
	return false
}

// canonical writes a cell in one way: readers that parse JSON do not keep its blanks.
func canonical(c read) read {
	if c.kind != "json" {
		return c
	}
	var v any
	if json.Unmarshal([]byte(c.text), &v) == nil {
		b, _ := json.Marshal(v)
		c.text = string(b)
	}
	return c
}

// Programs of others read each format whole: every row, every cell, with its type.
func TestOthersReadEachFormat(t *testing.T) {
	eventstest.LongRunning(t)
	t.Parallel()
	pages := make([][]byte, total/perPage)
	for p := range pages {
		b := []byte{'['}
		for i := range perPage {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendRow(b, p*perPage+i)
		}
		pages[p] = append(b, ']')
	}
	for _, c := range formats {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			name := filepath.Join(t.TempDir(), "rows"+c.Ext)
			writeFile(t, c.Format, pages, name)
			for _, r := range c.readers {
				t.Run(r.name, func(t *testing.T) {
					t.Parallel()
					n, wrong := 0, make([]int, len(fields))
					r.read(t, name, func(cells []read) {
						require.Len(t, cells, len(fields), "row %d", n)
						if n == 0 {
							for i, column := range columns() {
								require.Contains(t, []string{column.Name, column.Title}, cells[i].text)
							}
							n++
							return
						}
						for i, v := range rowOf(n - 1) {
							want, got := canonical(c.shows(fields[i], v)), canonical(cells[i])
							if r.blur != nil && want.kind == "text" {
								want.text, got.text = r.blur(want.text), r.blur(got.text)
							}
							if want == got || c.same != nil && c.same(want, got) {
								continue
							}
							if wrong[i]++; wrong[i] <= maxShown {
								t.Errorf("row %d, %s, sent as %.200s: want %.200q, got %.200q", n, fields[i].column.Key, v.sent, want, got)
							}
						}
						n++
					})
					want := total
					if c.rows > 0 {
						want = c.rows
					}
					require.Equal(t, want, n-1, "rows")
					require.Equal(t, make([]int, len(fields)), wrong, "wrong cells by column")
				})
			}
		})
	}
}

// writeFile writes the pages as one document.
func writeFile(t *testing.T, format encode.Format, pages [][]byte, name string) {
	t.Helper()
	f, err := os.Create(name)
	require.NoError(t, err)
	defer f.Close()
	sheet := encode.Sheet{Title: "rows", Columns: columns(), Chosen: true, Zones: encode.Zones{Display: zone},
		Open: func() func(context.Context) (encode.Page, error) {
			n := 0
			return func(context.Context) (encode.Page, error) {
				if n == len(pages) {
					return encode.Page{}, io.EOF
				}
				n++
				return encode.Page{Number: n, Rows: pages[n-1], RowCount: perPage}, nil
			}
		}}
	r, err := format.Write(t.Context(), archive.Plain(f), encode.Document{Title: "rows", Sheets: []encode.Sheet{sheet}})
	require.NoError(t, err)
	require.Equal(t, []int64{total}, r.Rows)
	require.NoError(t, f.Close())
}

// running bounds how many readers run at once. Each takes seconds, and minutes on a busy machine.
var running = make(chan struct{}, runtime.NumCPU())

// read lets the reader print the file, and calls row with the cells of each row, the names first. The test is
// skipped if the reader is not installed.
func (r reader) read(t *testing.T, name string, row func([]read)) {
	t.Helper()
	installed := os.Getenv("SHEAF_READERS")
	if installed == "" {
		home, err := os.UserHomeDir()
		require.NoError(t, err)
		installed = filepath.Join(home, ".cache", "sheaf-readers")
	}
	if _, err := os.Stat(filepath.Join(installed, r.name+".installed")); err != nil {
		t.Skipf("%s is not installed; run .ci/readers", r.name)
	}
	running <- struct{}{}
	defer func() { <-running }()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "read.mjs", r.name, name)
	cmd.Dir = filepath.Join(installed, "node")
	if r.python {
		cmd = exec.CommandContext(ctx, "/usr/bin/python3", filepath.Join(installed, "read.py"), r.name, name)
	}
	var stderr bytes.Buffer
	out, to, err := os.Pipe()
	require.NoError(t, err)
	defer out.Close()
	cmd.Stdout, cmd.Stderr = to, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	ended := make(chan error, 1)
	go func() {
		// The kernel ends the process with the thread that started it, so it does not outlive an aborted
		// test.
		runtime.LockOSThread()
		ended <- errors.Join(cmd.Run(), to.Close())
	}()
	defer func() {
		if t.Failed() {
			cancel()
		}
		err := <-ended
		require.True(t, t.Failed() || err == nil, "%s: %v: %s", r.name, err, stderr.String())
	}()
	lines := bufio.NewReaderSize(out, 1<<20)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return
		}
		require.NoError(t, err)
		var cells []read
		require.NoError(t, json.Unmarshal(line, &cells), "%.200s", line)
		row(cells)
	}
}
