package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/alecthomas/kong"

	"sheaf/cmd/sheaf/filesource"
)

type sourceCmd struct {
	File      string      `arg:"" optional:"" type:"path" help:"JSON array, NDJSON or CSV file."`
	Listen    string      `default:"127.0.0.1:8090" placeholder:"HOST:PORT" help:"Where to serve it (${default})."`
	Host      []string    `placeholder:"NAME" help:"Further host name that callers may use, such as the one of a container. By default only localhost, the name of this machine and addresses: a web site can point its own name here."`
	MaxLimit  int         `default:"10000" help:"Most rows a page (${default})."`
	Delimiter string      `placeholder:"CHARACTER" help:"Of a CSV file: a character, or tab. Default: found in the file."`
	Encoding  string      `placeholder:"NAME" help:"Of the file, such as gbk, big5, windows-1252 or utf-16le. Default: found in the file."`
	JSON      bool        `name:"json" help:"Print the address as JSON."`
	Text      textColumns `placeholder:"COLUMN,…" help:"Of a CSV file: keep the numbers in these columns as text; in all, when none is named."`
}

// textColumns is the value of --text: nothing, or names with commas between them.
type textColumns struct {
	given bool
	value string
}

// Decode takes the next argument unless it is a flag.
func (t *textColumns) Decode(ctx *kong.DecodeContext) error {
	t.given = true
	if !ctx.Scan.Peek().IsValue() {
		return nil
	}
	return ctx.Scan.PopValueInto("columns", &t.value)
}

func (c *sourceCmd) Run(ctx context.Context, std stdio) error {
	if c.File == "" && c.Text.value != "" { // sheaf source --text FILE
		c.File, c.Text.value = kong.ExpandPath(c.Text.value), ""
	}
	if c.File == "" {
		return usagef("source: give a file")
	}
	if c.MaxLimit < 1 {
		return usagef("--max-limit %d: want at least 1", c.MaxLimit)
	}
	opts := filesource.Options{MaxLimit: c.MaxLimit, Encoding: c.Encoding, Delimiter: c.Delimiter, AllText: c.Text.given && c.Text.value == "", Log: slog.Default()}
	if c.Text.value != "" {
		opts.Text = strings.Split(c.Text.value, ",")
	}
	source, err := filesource.Open(c.File, opts)
	if err != nil {
		return err
	}
	defer source.Close()
	url, stop, err := filesource.Serve(c.Listen, source, c.hosts()...)
	if err != nil {
		return err
	}
	defer stop()
	name := strings.TrimSuffix(filepath.Base(c.File), filepath.Ext(c.File))
	if c.JSON {
		if err := printLines(std.out, map[string]any{"url": url, "rows": source.Rows(), "columns": source.Columns()}); err != nil {
			return err
		}
		<-ctx.Done()
		return nil
	}
	fmt.Fprintf(std.out, "%s  %s rows, %d columns\n", url, thousands(int64(source.Rows())), len(source.Columns()))
	if how := source.Describe(); how != "" {
		fmt.Fprintln(std.out, oneLine(how))
	}
	fmt.Fprintf(std.out, "export it with:  sheaf export '%s' -o '%s.xlsx'\nStop with Ctrl-C.\n", url, name)
	<-ctx.Done()
	return nil
}

// hosts returns the host names that callers may use. They must be fixed, because a site can point its own
// name at this machine.
func (c *sourceCmd) hosts() []string {
	hosts := c.Host
	if host, _, err := net.SplitHostPort(c.Listen); err == nil {
		hosts = append(hosts, host)
	}
	if name, err := os.Hostname(); err == nil {
		hosts = append(hosts, name)
	}
	return hosts
}
