package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"sheaf/cmd/sheaf/filesource"
	"sheaf/cmd/sheaf/node"
	"sheaf/events"
	"sheaf/events/client"
)

type exportCmd struct {
	URL         string `arg:"" name:"source" optional:"" help:"URL of an API, or a JSON, NDJSON or CSV file; - for stdin."`
	outputFlags `embed:""`
	sourceFlags `embed:"" group:"source"`
	formFlags   `embed:"" group:"source"`
	Sheet       []string `group:"source" sep:"none" placeholder:"TITLE=SOURCE" help:"One of several sheets, instead of a source: a URL or a file. Repeat it; the flags of sources are for each."`
	Delimiter   string   `group:"source" placeholder:"CHARACTER" help:"Of a CSV file: a character, or tab. Default: found in the file. Stdin is CSV with it."`
	Encoding    string   `group:"source" placeholder:"NAME" help:"Of a file, such as gbk. Default: found in the file."`
	fileFlags   `embed:"" group:"file"`
	Server      string `group:"at" placeholder:"URL" help:"Let this running server do it. Default: in this process."`
	callerFlags `embed:"" group:"at"`
	profileFlag `embed:""`

	node.SourceLimits `embed:"" group:"limits"`
}

// outputFlags name the file that a command writes.
type outputFlags struct {
	Output string `short:"o" required:"" type:"path" placeholder:"FILE" help:"File to write. Its suffix chooses the format: .xlsx, .csv, .tsv, .json, .ndjson, .parquet, .html, or .zip."`
	Force  bool   `short:"f" help:"Replace the output if it exists."`
	JSON   bool   `name:"json" help:"Print JSON."`
}

// table is a source of an export: that of the file, or of one of its sheets.
type table struct {
	title, source string // the title of a sheet
	file          bool
	body          []byte // submission with this source alone
}

// tables returns the sources of the command line.
func (c *exportCmd) tables() (tables []table, err error) {
	if len(c.Sheet) == 0 {
		return []table{{source: c.URL, file: isFile(c.URL)}}, nil
	}
	switch {
	case c.URL != "" || c.Request != "":
		return nil, usagef("--sheet: give a source, --request or --sheet, not two of them")
	case len(c.Column)+len(c.Type) > 0:
		return nil, usagef("--column: with several sheets, say the columns of each in sheets[] of a --request file")
	}
	if !isZip(c.Output) && !manySheets(extension(c.Output)) && len(c.Sheet) > 1 {
		return nil, usagef("--sheet: %s has one sheet; several need an output that ends in .xlsx or .zip", c.Output)
	}
	for _, text := range c.Sheet {
		title, source, ok := strings.Cut(text, "=")
		if !ok || title == "" || source == "" {
			return nil, usagef("--sheet %q: want TITLE=URL or TITLE=FILE", text)
		}
		tables = append(tables, table{title: title, source: source, file: isFile(source)})
	}
	return tables, nil
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
	tables, err := c.tables()
	if err != nil {
		return err
	}
	for i := range tables {
		if err := c.prepare(&tables[i], limited, std.in, line); err != nil {
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
	for i := range tables {
		if tables[i].file {
			stop, err := c.serve(&tables[i], work, std.in)
			if err != nil {
				return err
			}
			defer stop()
		}
	}
	if c.Server != "" {
		server, err := newRemote(c.Server, c.callerFlags, "")
		if err != nil {
			return err
		}
		defer server.Close()
		body, err := c.found(ctx, std, tables, limited, server.preview)
		if err != nil {
			return err
		}
		return server.export(ctx, std, work, "http", body, c.outputFlags)
	}
	cfg := oneShot(work.file("data"), c.SourceLimits)
	body, err := c.found(ctx, std, tables, limited, func(ctx context.Context, draft []byte) (*previewAnswer, error) {
		return previewHere(ctx, cfg, draft)
	})
	if err != nil {
		return err
	}
	return inProcess(ctx, cfg, func(ctx context.Context, server *remote) error {
		return server.export(ctx, std, work, "http", body, c.outputFlags)
	})
}

// prepare checks the flags for a source and writes its submission. That of a file is not known yet.
func (c *exportCmd) prepare(t *table, limited bool, stdin io.Reader, line *kong.Context) (err error) {
	if err := c.checkSource(t.source, t.file); err != nil {
		return err
	}
	if t.file {
		if _, err := c.formats(c.Output); err != nil {
			return err
		}
		return c.checkFile(line)
	}
	if t.body, err = c.submission(c.sourceFlags, t.source, limited, stdin, line); err != nil {
		return err
	}
	t.body, err = c.applied(t.body, c.Output, nil)
	return err
}

// serve serves the file of a table and writes its submission.
func (c *exportCmd) serve(t *table, work *scratch, stdin io.Reader) (stop func(), err error) {
	source, address, stop, err := serveFile(t.source, work, stdin, filesource.Options{Delimiter: c.Delimiter, Encoding: c.Encoding})
	if err != nil {
		return nil, err
	}
	if t.body, err = c.request(address, defaultUser, ""); err == nil {
		t.body, err = c.applied(t.body, c.Output, source.Columns())
	}
	if err != nil {
		stop()
	}
	return stop, err
}

// found finds the form of each source that needs it, and returns the submission of all.
func (c *exportCmd) found(ctx context.Context, std stdio, tables []table, limited bool, ask func(context.Context, []byte) (*previewAnswer, error)) ([]byte, error) {
	for i := range tables {
		t := &tables[i]
		if t.file {
			continue
		}
		body, err := c.findForm(ctx, std, c.sourceFlags, t.body, limited, ask)
		if err != nil {
			return nil, err
		}
		t.body = body
	}
	if len(c.Sheet) == 0 {
		return tables[0].body, nil
	}
	var fields map[string]json.RawMessage
	var sheets []map[string]any
	for _, t := range tables {
		fields = nil
		if err := json.Unmarshal(t.body, &fields); err != nil {
			return nil, err
		}
		sheets = append(sheets, map[string]any{"title": t.title, "source_http": fields["source_http"]})
	}
	delete(fields, "source_http")
	var err error
	if fields["sheets"], err = json.Marshal(sheets); err != nil {
		return nil, err
	}
	return json.Marshal(fields)
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

// needsServer refuses the flags that are for a server where none is called.
func needsServer(line *kong.Context) error {
	forServer := []string{"api-key", "ca-cert", "keep-pages"}
	if flag := given(line, func(f *kong.Flag) bool { return slices.Contains(forServer, f.Name) }); flag != "" {
		return usagef("%s: it is for a server; name that with --server", flag)
	}
	return nil
}

// export submits an operation, waits for its file and downloads it.
func (s *remote) export(ctx context.Context, std stdio, work *scratch, operation string, body []byte, out outputFlags) error {
	begin := time.Now()
	// An export that is accepted while its caller is interrupted must be cancelled too, so wait for the
	// response.
	submitting, stop := outliving(ctx, cancelFor)
	defer stop()
	accepted, err := s.SubmitJSON(submitting, operation, body, "")
	if err != nil {
		return cmp.Or(ctx.Err(), err)
	}
	key := accepted.Key
	x, err := s.wait(ctx, key, newProgress(std))
	err = advised(err)
	if ctx.Err() != nil {
		if !errors.Is(context.Cause(ctx), node.ErrEnded) {
			s.cancelInterrupted(ctx, std, key)
		}
		return ctx.Err()
	}
	if err != nil {
		return err
	}
	if err := s.fetch(ctx, work, x, out.Output, out.Force); err != nil {
		return err
	}
	if !out.JSON {
		for _, w := range x.Warnings {
			fmt.Fprintf(std.err, "warning: %s (%s)\n", oneLine(w.Message), w.Code)
		}
		fmt.Fprintf(std.err, "%s rows in %s\n", thousands(x.Rows), time.Since(begin).Round(10*time.Millisecond))
	}
	return printFile(std.out, out.Output, x, out.JSON)
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
func (s *remote) cancelInterrupted(ctx context.Context, std stdio, key string) {
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), cancelFor)
	defer stop()
	if err := s.Cancel(ctx, key); err != nil {
		fmt.Fprintf(std.err, "sheaf: the export %s could not be cancelled: %v\n", key, err)
		return
	}
	fmt.Fprintln(std.err, "sheaf: interrupted; the export was cancelled")
}

// fetch downloads an export to a file: the whole download if the suffix is the same, otherwise the document with
// that suffix in the zip. The file appears whole and checked, or not at all.
func (s *remote) fetch(ctx context.Context, work *scratch, x *client.Export, out string, force bool) error {
	made, suffix := work.file("download"), extension(out)
	kept := ""
	if len(x.Files) > 0 {
		kept = extension(x.Files[0].Name)
	}
	if kept != "" && kept != events.Zip.Ext && kept != suffix {
		return usagef("%s: the export is one %s file; choose an output that ends in %s", out, kept[1:], kept)
	}
	if err := s.download(ctx, x, made); err != nil {
		return err
	}
	if kept != suffix {
		archive := made
		made = work.file("document")
		if err := extract(archive, made, suffix); err != nil {
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
		return usagef("a file cannot be written to stdout; name a file")
	}
	if !isZip(name) && !slices.Contains(suffixes(), extension(name)) {
		return unknownSuffix(name)
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
func printFile(w io.Writer, name string, x *client.Export, asJSON bool) error {
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(w, map[string]any{"hash_key": x.Key, "file": name, "size": info.Size(), "rows": x.Rows, "warnings": x.Warnings})
	}
	_, err = fmt.Fprintf(w, "%s  %s\n", name, node.ByteSize(info.Size()))
	return err
}

// inProcess runs do with a Sheaf in this process. The Sheaf outlives ctx until do has returned, so that do
// can still cancel.
func inProcess(ctx context.Context, cfg node.Config, do func(context.Context, *remote) error) error {
	cfg.Log = slog.Default()
	return node.Use(ctx, cfg, func(ctx context.Context, at node.Info) error {
		server, err := newRemote(at.HTTP, callerFlags{}, "")
		if err != nil {
			return err
		}
		defer server.Close() // a drain waits for idle connections too
		return ownRefusal(do(ctx, server))
	})
}

// ownRefusal rewords a refusal of a server in this process: it names the field, and there is no server to ask
// about the request.
func ownRefusal(err error) error {
	var refusal *client.Error
	if errors.As(err, &refusal) && refusal.Errcode == http.StatusBadRequest {
		return reworded{err, oneLine(oneLanguage(refusal.Msg, userLanguage()))}
	}
	return err
}
