package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"sheaf/cmd/sheaf/filesource"
	"sheaf/cmd/sheaf/node"
	"sheaf/events"
	"sheaf/events/client"
)

type demoCmd struct {
	Rows int    `default:"100000" help:"Rows of the built-in source (${default})."`
	Out  string `short:"o" default:"sheaf-demo" type:"path" placeholder:"PATH" help:"A folder for the workbook and its zip (./sheaf-demo), or a file such as x.csv, whose suffix chooses the format."`
	Stay bool   `help:"Keep serving until Ctrl-C."`
	JSON bool   `name:"json" help:"Print JSON."`

	Force bool `short:"f" help:"Replace the file of --out if it exists."`

	Server      string `placeholder:"URL" help:"Let this running server on this machine export the source. Default: a server in this process."`
	callerFlags `embed:""`

	result io.Writer `kong:"-"` // of --json
}

// demoLimit is the page size of the demo.
const demoLimit = 1000

func (c *demoCmd) Run(ctx context.Context, std stdio, line *kong.Context) (err error) {
	if c.Server == "" {
		if err := needsServer(line); err != nil {
			return err
		}
	} else if c.Stay {
		return usagef("--stay: there is no server to keep, with --server")
	}
	if c.Rows < 0 || c.Rows > 50_000_000 {
		return usagef("--rows %d: want 0 to 50,000,000", c.Rows)
	}
	folder, err := c.prepare()
	if err != nil {
		return err
	}
	work, err := newScratch(folder)
	if err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	defer func() { err = errors.Join(err, work.close()) }()
	source, stop, err := filesource.Serve("127.0.0.1:0", demoSource(c.Rows))
	if err != nil {
		return err
	}
	defer stop()
	if c.JSON {
		c.result, std.out = std.out, io.Discard
	}
	fmt.Fprintf(std.out, "source    %s  (%s rows, %d a page)\n", source, thousands(int64(c.Rows)), demoLimit)

	if c.Server != "" {
		server, err := newRemote(c.Server, c.callerFlags, "")
		if err != nil {
			return err
		}
		defer server.Close()
		return c.export(ctx, std, server, work, source)
	}
	return inProcess(ctx, node.OneShot(work.file("data")), func(ctx context.Context, server *remote) error {
		fmt.Fprintf(std.out, "server    %s\n", server.Server())
		if err := c.export(ctx, std, server, work, source); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return err
		}
		if c.Stay {
			fmt.Fprintf(std.err, "Still serving at %s; stop with Ctrl-C.\n", server.Server())
			<-ctx.Done()
		}
		return nil
	})
}

// oneFile reports whether --out names a file, not a folder.
func (c *demoCmd) oneFile() bool {
	suffix := filepath.Ext(c.Out)
	return suffix != "" && (isZip(c.Out) || slices.Contains(suffixes(), strings.ToLower(suffix)))
}

// prepare checks what the demo writes and returns the folder of it.
func (c *demoCmd) prepare() (folder string, err error) {
	if c.oneFile() {
		return filepath.Dir(c.Out), checkOutput(c.Out, c.Force)
	}
	if c.Force {
		return "", usagef("--force: it goes with a file; the demo replaces its files in a folder")
	}
	if err := os.MkdirAll(c.Out, 0o777); err != nil { // the umask decides
		return "", fmt.Errorf("--out: %w", err)
	}
	for _, name := range c.outputs() {
		if err := checkOutput(name, true); err != nil {
			return "", err
		}
	}
	return c.Out, nil
}

// outputs returns the files that the demo writes: the zip and the workbook.
func (c *demoCmd) outputs() [2]string {
	stem := filepath.Join(c.Out, "demo-"+strconv.Itoa(c.Rows))
	return [2]string{stem + ".zip", stem + ".xlsx"}
}

func (c *demoCmd) export(ctx context.Context, std stdio, server *remote, work *scratch, source string) error {
	flags := sourceFlags{Limit: demoLimit, Conn: 8, Method: http.MethodGet, Title: "Sheaf 演示"}
	body, err := flags.request(source, "demo", "")
	if err != nil {
		return err
	}
	if c.oneFile() {
		if body, err = (fileFlags{}).applied(body, c.Out, nil); err != nil {
			return err
		}
	}
	begin := time.Now()
	accepted, err := server.SubmitJSON(ctx, "http", body, "")
	if err != nil {
		return err
	}
	key := accepted.Key
	fmt.Fprintf(std.out, "export    %s\n", key)
	x, err := server.wait(ctx, key, newProgress(std))
	if err != nil {
		return err
	}
	took := time.Since(begin)
	if x.Rows != int64(c.Rows) {
		return fmt.Errorf("the export has %d rows, the source %d", x.Rows, c.Rows)
	}
	speed := fmt.Sprintf("rows      %s and the header, in %.2f s: %s rows a second\n",
		thousands(x.Rows), took.Seconds(), thousands(int64(float64(x.Rows)/took.Seconds())))
	if c.oneFile() {
		if err := server.fetch(ctx, work, x, c.Out, c.Force); err != nil {
			return err
		}
		fmt.Fprint(std.out, speed)
		if c.JSON {
			return printJSON(c.result, map[string]any{"hash_key": key, "file": c.Out, "rows": x.Rows, "seconds": took.Seconds()})
		}
		fmt.Fprintf(std.out, "file: %s\n", c.Out)
		return nil
	}
	return c.saveBoth(ctx, std, server, work, x, took, speed)
}

// saveBoth leaves the zip and the workbook in it in the folder.
func (c *demoCmd) saveBoth(ctx context.Context, std stdio, server *remote, work *scratch, x *client.Export,
	took time.Duration, speed string) error {
	made, workbookMade := work.file("download.zip"), work.file("workbook")
	if err := server.download(ctx, x, made); err != nil {
		return err
	}
	if err := extract(made, workbookMade, events.XLSX.Ext); err != nil {
		return err
	}
	archive, workbook := c.outputs()[0], c.outputs()[1]
	if err := errors.Join(place(made, archive, true), place(workbookMade, workbook, true)); err != nil {
		return err
	}
	fmt.Fprint(std.out, speed)
	fmt.Fprintf(std.out, "zip       %s  (%s, sha256 %s: checked)\n", archive, node.ByteSize(x.Files[0].Size), x.Files[0].SHA256)
	if c.JSON {
		return printJSON(c.result, map[string]any{"hash_key": x.Key, "zip": archive, "workbook": workbook, "rows": x.Rows, "seconds": took.Seconds(),
			"size": x.Files[0].Size, "sha256": x.Files[0].SHA256})
	}
	fmt.Fprintf(std.out, "workbook: %s\n", workbook)
	return nil
}

// demoSource returns rows that depend only on their numbers, so that anyone can check a workbook of them. The
// help of sheaf demo states the formula; this is the only code that computes it.
func demoSource(rows int) http.Handler {
	const header = `{"id":"编号","order_no":"订单号","name":"姓名","amount":"金额","paid":"已付","ordered_on":"下单日期","note":"备注","address":"地址"}`
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		page, limit := 1, demoLimit
		for name, dst := range map[string]*int{"page": &page, "limit": &limit} {
			if s := r.URL.Query().Get(name); s != "" {
				n, err := strconv.Atoi(s)
				if err != nil || n < 1 || n > 10_000_000 {
					http.Error(w, `{"errcode":400,"msg":"`+name+` is not a number in range","data":null}`, http.StatusBadRequest)
					return
				}
				*dst = n
			}
		}
		limit = min(limit, 10_000)
		b := append(make([]byte, 0, 256+200*limit), `{"errcode":0,"msg":"","data":{"data":[`...)
		b = append(b, header...)
		for n := (page-1)*limit + 1; n <= min(page*limit, rows); n++ {
			b = append(b, ',')
			b = appendDemoRow(b, n)
		}
		b = fmt.Appendf(b, `],"pagetag":{"page":%d,"limit":%d,"total":%d,"total_page":%d}},"request_id":"demo"}`,
			page, limit, rows, max(1, (rows+limit-1)/limit))
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		_, _ = w.Write(b) // the reader may leave
	})
}

var (
	demoSurnames   = []rune("王李张刘陈杨黄赵吴周")
	demoGivenNames = []rune("伟芳娜敏静丽强磊军洋")
	demoFirstDay   = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
)

func appendDemoRow(b []byte, n int) []byte {
	cents := 37 * n % 1_000_000
	note := json.RawMessage("null")
	if n%5 != 0 {
		note = fmt.Appendf(nil, `"备注 %d"`, n)
	}
	return fmt.Appendf(b, `{"id":%d,"order_no":%d,"name":"%c%c","amount":%d.%02d,"paid":%t,"ordered_on":"%s","note":%s,"address":{"city":"上海","zip":"%d"}}`,
		n, 100_000_000_000_000_000+7919*n,
		demoSurnames[n%10], demoGivenNames[n/10%10],
		cents/100, cents%100, n%3 == 0,
		demoFirstDay.AddDate(0, 0, n%365).Format(time.DateOnly),
		note, 200_000+n%1000)
}
