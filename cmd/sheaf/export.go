package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"sheaf/cmd/sheaf/filesource"
	"sheaf/cmd/sheaf/node"
)

type exportCmd struct {
	URL         string `arg:"" name:"source" optional:"" help:"URL of an API, or a JSON, NDJSON or CSV file; - for stdin."`
	Output      string `short:"o" required:"" type:"path" placeholder:"FILE" help:"Workbook to write, such as orders.xlsx; with .zip the zip."`
	Force       bool   `short:"f" help:"Replace the output if it exists."`
	sourceFlags `embed:""`
	formFlags   `embed:""`
	Delimiter   string `placeholder:"CHARACTER" help:"Of a CSV file: a character, or tab. Default: found in the file. Stdin is CSV with it."`
	Encoding    string `placeholder:"NAME" help:"Of a file, such as gbk. Default: found in the file."`
	JSON        bool   `name:"json" help:"Print JSON."`
	Server      string `placeholder:"URL" help:"Let this running server do it. Default: in this process."`
	callerFlags `embed:""`
	profileFlag `embed:""`

	node.SourceLimits `embed:"" group:"limits"`
}

func (c *exportCmd) Run(ctx context.Context, std stdio, line *kong.Context) (err error) {
	if c.Server != "" {
		if flag := given(line, func(f *kong.Flag) bool { return f.Group != nil && f.Group.Key == "limits" }); flag != "" {
			return usagef("%s: with --server the limits are those of the server", flag)
		}
	} else if err := needsServer(line); err != nil {
		return err
	}
	end, err := c.begin()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	if c.Title == "" {
		c.Title = strings.TrimSuffix(filepath.Base(c.Output), filepath.Ext(c.Output))
	}
	limited := given(line, func(f *kong.Flag) bool { return f.Name == "limit" }) != ""
	file := isFile(c.URL)
	if err := c.checkSource(file); err != nil {
		return err
	}
	if file {
		if err := c.checkFile(line); err != nil {
			return err
		}
	}
	var body []byte
	if !file {
		if body, err = c.submission(c.sourceFlags, c.URL, limited, std.in, line); err != nil {
			return err
		}
	}
	if err := checkOutput(c.Output, c.Force); err != nil {
		return err
	}
	work, err := newScratch(filepath.Dir(c.Output))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, work.close()) }()
	if file {
		address, stop, err := serveFile(c.URL, work, std.in, filesource.Options{Delimiter: c.Delimiter, Encoding: c.Encoding})
		if err != nil {
			return err
		}
		defer stop()
		if body, err = c.request(address, defaultUser, ""); err != nil {
			return err
		}
	}
	if c.Server != "" {
		client, err := newClient(c.Server, c.callerFlags)
		if err != nil {
			return err
		}
		defer client.close()
		if body, err = c.findForm(ctx, std, c.sourceFlags, body, limited, client.preview); err != nil {
			return err
		}
		return c.export(ctx, std, client, work, body)
	}
	cfg := oneShot(work.file("data"), c.SourceLimits)
	if !file {
		body, err = c.findForm(ctx, std, c.sourceFlags, body, limited, func(ctx context.Context, draft []byte) (*previewAnswer, error) {
			return previewHere(ctx, cfg, draft)
		})
		if err != nil {
			return err
		}
	}
	return inProcess(ctx, cfg, func(ctx context.Context, client *client) error {
		return c.export(ctx, std, client, work, body)
	})
}

// oneShot returns the configuration of a Sheaf for one command. The person who types a URL here can request it
// with any other tool too.
func oneShot(data string, limits node.SourceLimits) node.Config {
	cfg := node.OneShot(data)
	cfg.SourceLimits = limits
	cfg.AllowCIDR = []string{"0.0.0.0/0", "::/0"}
	return cfg
}

// given returns the first of some flags that is on the command line, "" if none is. A setting in the
// environment or the YAML file may be meant for other commands.
func given(line *kong.Context, which func(*kong.Flag) bool) string {
	for _, p := range line.Path {
		if p.Flag != nil && !p.Resolved && which(p.Flag) {
			return "--" + p.Flag.Name
		}
	}
	return ""
}

// needsServer refuses the flags of callers where no server is called.
func needsServer(line *kong.Context) error {
	if flag := given(line, func(f *kong.Flag) bool { return f.Name == "api-key" || f.Name == "ca-cert" }); flag != "" {
		return usagef("%s: it is for a server; name that with --server", flag)
	}
	return nil
}

func (c *exportCmd) export(ctx context.Context, std stdio, client *client, work *scratch, body []byte) error {
	begin := time.Now()
	// An export that is accepted while its caller is interrupted must be cancelled too, so wait for the
	// response.
	submitting, stop := outliving(ctx, cancelFor)
	defer stop()
	accepted, err := client.submit(submitting, "http", body)
	if err != nil {
		return cmp.Or(ctx.Err(), err)
	}
	key := accepted.Key
	d, err := client.wait(ctx, key, newProgress(std.err))
	err = advised(err)
	if ctx.Err() != nil {
		if !errors.Is(context.Cause(ctx), node.ErrEnded) {
			client.cancelInterrupted(ctx, std, key)
		}
		return ctx.Err()
	}
	if err != nil {
		return err
	}
	if err := client.fetch(ctx, work, d, c.Output, c.Force); err != nil {
		return err
	}
	if !c.JSON {
		for _, w := range d.Warnings {
			fmt.Fprintf(std.err, "warning: %s (%s)\n", oneLine(w.Message), w.Code)
		}
		fmt.Fprintf(std.err, "%s rows in %s\n", thousands(d.Rows), time.Since(begin).Round(10*time.Millisecond))
	}
	return printFile(std.out, c.Output, d, c.JSON)
}

// cancelFor is how long an interrupted command may take to cancel its export.
const cancelFor = 5 * time.Second

// outliving returns a context that ends some time after ctx.
func outliving(ctx context.Context, by time.Duration) (context.Context, context.CancelFunc) {
	longer, stop := context.WithCancel(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, func() { time.AfterFunc(by, stop) })
	return longer, stop
}

// cancelInterrupted cancels an export whose caller was interrupted.
func (c *client) cancelInterrupted(ctx context.Context, std stdio, key string) {
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), cancelFor)
	defer stop()
	if _, err := c.act(ctx, "cancel", key); err != nil {
		fmt.Fprintf(std.err, "sheaf: the export %s could not be cancelled: %v\n", key, err)
		return
	}
	fmt.Fprintln(std.err, "sheaf: interrupted; the export was cancelled")
}

// fetch downloads an export to a file: the zip when the name ends in .zip, otherwise the workbook in it. The
// file appears whole and checked, or not at all.
func (c *client) fetch(ctx context.Context, work *scratch, d exportDetail, out string, force bool) error {
	made := work.file("download.zip")
	if err := c.download(ctx, d, made); err != nil {
		return err
	}
	if !strings.EqualFold(filepath.Ext(out), ".zip") {
		archive := made
		made = work.file("workbook")
		if err := extract(archive, made); err != nil {
			return err
		}
	}
	return place(made, out, force)
}

// place moves a finished file to its name.
func place(from, name string, force bool) error {
	if err := checkOutput(name, force); err != nil { // the first check was before the work, which may take long
		return err
	}
	if !force {
		// A link never replaces a file that was created meanwhile. Some file systems have no links.
		if err := os.Link(from, name); err == nil || errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return os.Rename(from, name)
}

// checkOutput refuses, before any work, an output that cannot be written or is not a regular file. A rename
// would replace a device, a pipe or a link, and leave its target unchanged.
func checkOutput(name string, force bool) error {
	if name == "-" {
		return usagef("a workbook cannot be written to stdout; name a file")
	}
	if e := strings.ToLower(filepath.Ext(name)); e != "" && e != ".xlsx" && e != ".zip" {
		return usagef("%s ends in %s; a workbook ends in .xlsx, or in .zip to be kept zipped", name, e)
	}
	info, err := os.Lstat(name)
	switch {
	case err == nil && info.IsDir():
		return usagef("%s is a folder; name a file", name)
	case err == nil && info.Mode()&fs.ModeSymlink != 0:
		return usagef("%s is a symbolic link; name the file that it leads to", name)
	case err == nil && !info.Mode().IsRegular():
		return usagef("%s is a device, a pipe or a socket; name a file", name)
	case err == nil && !force:
		return usagef("%s exists; say --force to replace it", name)
	}
	if info, err := os.Stat(filepath.Dir(name)); err != nil || !info.IsDir() {
		return usagef("there is no folder %s to write to", filepath.Dir(name))
	}
	return nil
}

// printFile names the file that was written, for scripts.
func printFile(w io.Writer, name string, d exportDetail, asJSON bool) error {
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(w, map[string]any{"hash_key": d.Key, "file": name, "size": info.Size(), "rows": d.Rows, "warnings": d.Warnings})
	}
	_, err = fmt.Fprintf(w, "%s  %s\n", name, node.ByteSize(info.Size()))
	return err
}

// inProcess runs do with a Sheaf in this process. The Sheaf outlives ctx until do has returned, so that do
// can still cancel.
func inProcess(ctx context.Context, cfg node.Config, do func(context.Context, *client) error) error {
	cfg.Log = slog.Default()
	return node.Use(ctx, cfg, func(ctx context.Context, at node.Info) error {
		client, err := newClient(at.HTTP, callerFlags{})
		if err != nil {
			return err
		}
		client.own = true
		defer client.close() // a drain waits for idle connections too
		return do(ctx, client)
	})
}
