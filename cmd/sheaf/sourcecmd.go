package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
)

type sourceCmd struct {
	File     string   `arg:"" type:"path" help:"JSON array, NDJSON or CSV file."`
	Listen   string   `default:"127.0.0.1:8090" placeholder:"HOST:PORT" help:"Where to serve it (${default})."`
	Host     []string `placeholder:"NAME" help:"Further host name that callers may use, such as the one of a container. By default only localhost, the name of this machine and addresses: a web site can point its own name here."`
	MaxLimit int      `default:"10000" help:"Most rows a page (${default})."`
}

func (c *sourceCmd) Run(ctx context.Context, std stdio) error {
	if err := checkAddress("--listen", c.Listen); err != nil {
		return err
	}
	if c.MaxLimit < 1 {
		return usagef("--max-limit %d: want at least 1", c.MaxLimit)
	}
	source, err := openSource(c.File, sourceOptions{MaxLimit: c.MaxLimit})
	if err != nil {
		return err
	}
	defer source.Close()
	url, stop, err := serveSource(c.Listen, source, c.hosts()...)
	if err != nil {
		return err
	}
	defer stop()
	name := strings.TrimSuffix(filepath.Base(c.File), filepath.Ext(c.File))
	fmt.Fprintf(std.out, "%s  %s rows, %d columns\n", url, thousands(int64(source.Rows())), len(source.Columns()))
	fmt.Fprintf(std.out, "export it with:  sheaf export '%s' -o '%s.xlsx'\nStop with Ctrl-C.\n", url, name)
	<-ctx.Done()
	return nil
}

// hosts are the names that callers may use. The one of this machine is no use to a site that points its own
// name here.
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
