package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/alecthomas/kong"

	"sheaf/cmd/sheaf/node"
	"sheaf/events"
	"sheaf/events/client"
)

type serveCmd struct {
	node.Config `embed:""`
	profileFlag `embed:""`
	JSON        bool `name:"json" group:"callers" help:"Print the addresses as JSON."`
}

func (c *serveCmd) Run(ctx context.Context, std stdio) (err error) {
	signal.Reset(syscall.SIGQUIT) // on a server the stacks are more useful than another way to stop it
	end, err := c.begin()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	c.Log = slog.Default()
	err = node.Run(ctx, c.Config, func(at node.Info) {
		if c.JSON {
			_ = printLines(std.out, map[string]any{"http": at.HTTP, "ops": at.Ops, "nats": at.NATS, "data": at.Data, "files": at.Files, "roles": at.Roles})
			return
		}
		if at.HTTP != "" {
			fmt.Fprintf(std.out, "REST   %s\n", at.HTTP)
		}
		fmt.Fprintf(std.out, "NATS   %s\ndata   %s\nfiles  %s\nroles  %s\n", at.NATS, at.Data, at.Files, strings.Join(at.Roles, ", "))
	})
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil // stopped before it had started
	}
	return err
}

type callbackSecretCmd struct {
	Tenant         string `default:"default" help:"Tenant whose callbacks are meant (${default})."`
	JSON           bool   `name:"json" help:"Print JSON."`
	node.KeyConfig `embed:""`
}

func (c *callbackSecretCmd) Run(std stdio) error {
	if !events.ValidTenant(c.Tenant) {
		return usagef("--tenant %q: want 1 to 32 of a-z, 0-9, _ and -", c.Tenant)
	}
	keys, err := c.Keyring(slog.Default())
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w; sheaf serve makes one at its first start", err)
	}
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(std.out, map[string]string{"tenant": c.Tenant, "secret": keys.WebhookSecret(c.Tenant)})
	}
	_, err = fmt.Fprintln(std.out, keys.WebhookSecret(c.Tenant))
	return err
}

type submitCmd struct {
	File        string `arg:"" optional:"" help:"JSON body of the REST API; - for stdin."`
	URL         string `name:"url" placeholder:"URL" help:"Source to export, instead of a file."`
	sourceFlags `embed:"" group:"byFlags"`
	fileFlags   `embed:"" group:"byFlags"`
	Callback    string `group:"byFlags" placeholder:"URL" help:"Receives the callback when the export has ended."`
	UserID      string `name:"user-id" placeholder:"ID" help:"Who exports; history lists by it (cli)."`
	Wait        bool   `help:"Show the progress until the export has ended; exit with 1 if it failed."`
	Listen      bool   `help:"Receive the callback here and print it; exit with 1 if the export failed. The server must reach this machine as 127.0.0.1."`
	JSON        bool   `name:"json" help:"Print JSON."`
	serverFlag  `embed:""`

	receiverFlags `embed:"" group:"listen"`
}

func (c *submitCmd) Run(ctx context.Context, std stdio, server *remote, line *kong.Context) error {
	if c.File != "" && c.URL == "" {
		if flag := given(line, func(f *kong.Flag) bool { return f.Group != nil && f.Group.Key == "byFlags" }); flag != "" {
			return usagef("%s: it goes with --url; of a file the body says it", flag)
		}
	}
	if c.Listen {
		if c.Callback != "" || c.Wait {
			return usagef("--listen: it is the callback, and it waits; leave out --callback and --wait")
		}
		return c.submitAndListen(ctx, std, server)
	}
	if flag := given(line, func(f *kong.Flag) bool { return f.Group != nil && f.Group.Key == "listen" }); flag != "" {
		return usagef("%s: it goes with --listen", flag)
	}
	body, sourceType, err := c.body(std.in)
	if err != nil {
		return err
	}
	accepted, err := server.SubmitJSON(ctx, sourceType, body, "")
	if err != nil {
		return err
	}
	if !c.Wait && c.JSON {
		return printJSON(std.out, accepted)
	}
	for _, warning := range accepted.Warnings {
		fmt.Fprintln(std.err, "warning:", warning)
	}
	if !c.Wait {
		fmt.Fprintln(std.out, accepted.Key)
		return nil
	}
	fmt.Fprintln(std.err, "export", accepted.Key)
	return watch(ctx, std, server, accepted.Key, c.JSON)
}

func (c *submitCmd) body(stdin io.Reader) (body []byte, sourceType string, err error) {
	if (c.File == "") == (c.URL == "") {
		return nil, "", usagef("submit: give either a file (or -) or --url")
	}
	if c.URL != "" {
		if body, err = c.request(c.URL, cmp.Or(c.UserID, defaultUser), c.Callback); err != nil {
			return nil, "", err
		}
		body, err = c.applied(body, "", nil)
		return body, events.SourceHTTP, err
	}
	if c.File == "-" {
		body, err = io.ReadAll(stdin)
	} else {
		body, err = os.ReadFile(c.File)
	}
	if err != nil {
		return nil, "", fmt.Errorf("submit: %w", err)
	}
	var request struct {
		Raw       json.RawMessage `json:"source_raw"`
		UserID    json.RawMessage `json:"user_id"`
		Callback  json.RawMessage `json:"callback"`
		Callback2 json.RawMessage `json:"call_back"`
	}
	if err := json.Unmarshal(body, &request); err != nil {
		return nil, "", fmt.Errorf("submit: %s is not a JSON body of the API: %w", c.File, err)
	}
	named := request.UserID != nil
	if named && c.UserID != "" {
		return nil, "", usagef("--user-id: %s names a user already", c.File)
	}
	if !named {
		body = withMember(body, "user_id", cmp.Or(c.UserID, defaultUser))
	}
	if c.Callback != "" { // of --listen
		if request.Callback != nil || request.Callback2 != nil {
			return nil, "", usagef("--listen: %s names a callback already", c.File)
		}
		body = withMember(body, "callback", c.Callback)
	}
	if request.Raw != nil {
		return body, events.SourceRaw, nil
	}
	return body, events.SourceHTTP, nil
}

// defaultUser is the user_id of exports whose user is not named, so that history finds them.
const defaultUser = "cli"

// withMember adds a member to a JSON object without one, and changes nothing else.
func withMember(body []byte, name, value string) []byte {
	body = bytes.TrimSpace(body)
	quoted, err := json.Marshal(value)
	if err != nil || !bytes.HasPrefix(body, []byte("{")) {
		return body // not a request; the server reports it
	}
	rest := bytes.TrimSpace(body[1:])
	if !bytes.HasPrefix(rest, []byte("}")) {
		quoted = append(quoted, ',')
	}
	return slices.Concat([]byte(`{"`+name+`":`), quoted, rest)
}

// request returns the REST body of an export that was described by flags.
func (f sourceFlags) request(source, userID, callback string) ([]byte, error) {
	if u, err := url.Parse(source); err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, usagef("%q is not a URL; want http://HOST/PATH or https://HOST/PATH", source)
	}
	if f.Limit < 1 {
		return nil, usagef("--limit %d: want at least 1", f.Limit)
	}
	if f.Conn < 1 {
		return nil, usagef("--conn %d: want at least 1", f.Conn)
	}
	header := map[string]string{}
	for _, h := range f.Header {
		name, value, ok := strings.Cut(h, ":")
		if name = strings.TrimSpace(name); !ok || name == "" {
			return nil, usagef("--header %q: want 'NAME: VALUE'", h)
		}
		header[name] = strings.TrimSpace(value)
	}
	param := map[string]any{"limit": f.Limit}
	for _, p := range f.Param {
		name, value, ok := strings.Cut(p, "=")
		if !ok || name == "" {
			return nil, usagef("--param %q: want NAME=VALUE or NAME:=JSON", p)
		}
		if bare, isJSON := strings.CutSuffix(name, ":"); isJSON {
			if !json.Valid([]byte(value)) {
				return nil, usagef("--param %q: what follows := is not JSON", p)
			}
			param[bare] = json.RawMessage(value)
		} else {
			param[name] = value
		}
	}
	return json.Marshal(map[string]any{
		"timestamp": time.Now().Unix(), "ext_type": "XLSX", "title": f.Title, "user_id": userID, "callback": callback,
		"source_http": map[string]any{
			"url": source, "method": strings.ToUpper(f.Method), "header": header, "param": param, "conn": f.Conn,
		},
	})
}

type statusCmd struct {
	Key        string `arg:"" help:"Key of the export."`
	JSON       bool   `name:"json" help:"Print JSON."`
	tenantFlag `embed:""`
}

func (c *statusCmd) Run(ctx context.Context, std stdio, server *remote) error {
	x, err := server.Detail(ctx, c.Key)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(std.out, x.JSON)
	}
	printDetail(std, x)
	return nil
}

type watchCmd struct {
	Key        string `arg:"" help:"Key of the export."`
	JSON       bool   `name:"json" help:"Print JSON at the end."`
	tenantFlag `embed:""`
}

func (c *watchCmd) Run(ctx context.Context, std stdio, server *remote) error {
	return watch(ctx, std, server, c.Key, c.JSON)
}

// watch waits for the end of an export and prints its state.
func watch(ctx context.Context, std stdio, server *remote, key string, asJSON bool) error {
	x, err := server.wait(ctx, key, newProgress(std))
	if x == nil || x.Status == client.Processing {
		return err
	}
	if asJSON {
		return errors.Join(err, printJSON(std.out, x.JSON))
	}
	x.FailReason, x.ErrorCode = "", "" // the error has them
	printDetail(std, x)
	return err
}

type historyCmd struct {
	UserID     string `name:"user-id" default:"${defaultUser}" placeholder:"ID" help:"Whose exports (${default}, as of submit and export)."`
	Limit      int    `help:"At most so many, newest first."`
	JSON       bool   `name:"json" help:"Print JSON."`
	tenantFlag `embed:""`
}

func (c *historyCmd) Run(ctx context.Context, std stdio, server *remote) error {
	query := map[string]string{"user_id": c.UserID}
	if c.Limit > 0 {
		query["limit"] = strconv.Itoa(c.Limit)
	}
	raw, err := server.Get(ctx, "history", query)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(std.out, raw)
	}
	var exports []client.Export
	if err := json.Unmarshal(raw, &exports); err != nil {
		return fmt.Errorf("reading the answer of the server: %w", err)
	}
	w := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "CREATED\tSTATUS\tKEY\tTITLE\tREASON")
	for _, x := range exports {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", std.show(x.CreatedAt.Time), x.Status, x.Key, oneLine(x.Title), oneLine(cmp.Or(x.FailReason, x.Reason)))
	}
	return w.Flush()
}

type cancelCmd struct {
	Key        string `arg:"" help:"Key of the export."`
	JSON       bool   `name:"json" help:"Print JSON."`
	tenantFlag `embed:""`
}

func (c *cancelCmd) Run(ctx context.Context, std stdio, server *remote) error {
	return act(ctx, std, server, "cancel", c.Key, c.JSON)
}

type retryCmd struct {
	Key        string `arg:"" help:"Key of the export."`
	Wait       bool   `help:"Show the progress until the export has ended; exit with 1 if it failed."`
	JSON       bool   `name:"json" help:"Print JSON."`
	tenantFlag `embed:""`
}

func (c *retryCmd) Run(ctx context.Context, std stdio, server *remote) error {
	if !c.Wait {
		return act(ctx, std, server, "retry", c.Key, c.JSON)
	}
	if err := server.Retry(ctx, c.Key); err != nil {
		return err
	}
	return watch(ctx, std, server, c.Key, c.JSON)
}

// act cancels or retries, and prints the new state of the export.
func act(ctx context.Context, std stdio, server *remote, operation, key string, asJSON bool) error {
	raw, err := server.Do(ctx, operation, map[string]string{"key": key})
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(std.out, raw)
	}
	x, err := server.Detail(ctx, key)
	if err != nil {
		return err
	}
	printDetail(std, x)
	return nil
}

type downloadCmd struct {
	Key        string `arg:"" help:"Key of the export."`
	Output     string `short:"o" type:"path" placeholder:"FILE" help:"Where to write it. With .zip the zip, else the file with this suffix in it. Default: KEY here, with the suffix of the file."`
	Force      bool   `short:"f" help:"Replace the output if it exists."`
	JSON       bool   `name:"json" help:"Print JSON."`
	tenantFlag `embed:""`
}

func (c *downloadCmd) Run(ctx context.Context, std stdio, server *remote) (err error) {
	if !events.ValidKey(c.Key) {
		return usagef("%q is not the key of an export: want 32 hexadecimal characters", c.Key)
	}
	out := c.Output
	if out != "" {
		if err := checkOutput(out, c.Force); err != nil {
			return err
		}
	}
	x, err := server.Detail(ctx, c.Key)
	if err != nil {
		return err
	}
	if out == "" {
		if out = c.Key + events.Zip.Ext; len(x.Files) > 0 {
			out = c.Key + extension(x.Files[0].Name)
		}
		if err := checkOutput(out, c.Force); err != nil {
			return err
		}
	}
	work, err := newScratch(filepath.Dir(out))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, work.close()) }()
	if err := server.fetch(ctx, work, x, out, c.Force); err != nil {
		return err
	}
	return printFile(std.out, out, x, c.JSON)
}

// printDetail prints the state of an export for a person.
func printDetail(std stdio, x *client.Export) {
	w := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "%s\t%s\n", name, value)
		}
	}
	line("key", x.Key)
	line("title", oneLine(x.Title))
	status := x.Status.String()
	if x.Status == client.Succeeded && x.Reason != "" {
		status += ", but its file is gone"
	}
	line("status", status)
	if x.Status == client.Processing && x.Progress != nil {
		line("phase", phaseName(x.Progress.Phase)+std.until(x))
		line("pages", fmt.Sprintf("%s of %s", thousands(int64(x.Progress.PagesDone)), thousands(int64(x.Progress.PagesTotal))))
		line("rows", thousands(x.Progress.Rows))
	}
	reason := oneLine(x.FailReason)
	if reason != "" && x.ErrorCode != "" {
		reason += " (" + x.ErrorCode + ")"
	}
	line("reason", cmp.Or(reason, oneLine(x.Reason)))
	line("created", std.show(x.CreatedAt.Time))
	line("finished", std.show(x.FinishedAt.Time))
	if x.Status == client.Succeeded {
		line("rows", thousands(x.Rows))
		line("proof", proofLine(x))
		line("expires", std.show(x.ExpiresAt.Time))
		line("pages until", std.show(x.PagesUntil.Time))
	}
	for _, f := range x.Files {
		line("file", fmt.Sprintf("%s, %s, sha256 %s", oneLine(f.Name), node.ByteSize(f.Size), f.SHA256))
		for _, in := range f.Contents {
			line("  in it", fmt.Sprintf("%s, %s, %s rows", oneLine(in.Name), node.ByteSize(in.Size), thousands(in.Rows)))
		}
	}
	line("link", x.DownURL)
	for _, warning := range x.Warnings {
		line("warning", warning.Code+": "+oneLine(warning.Message))
	}
	if x.Callback != nil && x.Callback.State != "" {
		line("callback", callbackLine(x.Callback.State, x.Callback.Attempts, x.Callback.LastStatus))
	}
	_ = w.Flush()
}

// proofLine says how it is known that the list is complete, such as "total: 5,000 announced, 5,000 rows on 10
// pages".
func proofLine(x *client.Export) string {
	p := x.Proof
	if p == nil {
		return ""
	}
	read := plural(int(p.Rows), "row") + " on " + plural(p.Pages, "page")
	switch p.Kind {
	case events.ProofTotal, events.ProofPages:
		return fmt.Sprintf("%s: %s announced, %s", p.Kind, thousands(p.Announced), read)
	}
	return p.Kind + ": no number announced, " + read
}

// callbackLine describes the state of a callback, such as "pending after 2 attempts, last status 500".
func callbackLine(state string, attempts, status int) string {
	line := state
	switch attempts {
	case 0:
		return line
	case 1:
		line += " after 1 attempt"
	default:
		line += fmt.Sprintf(" after %d attempts", attempts)
	}
	switch {
	case status > 0:
		line += fmt.Sprintf(", last status %d", status)
	case state != events.CallbackDone: // a callback on NATS has no status
		line += ", no answer"
	}
	return line
}

// oneLine and printable make text of a caller or a source safe for a terminal.
func oneLine(s string) string   { return client.OneLine(s) }
func printable(s string) string { return client.Printable(s) }

func printJSON(w io.Writer, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := json.Indent(&b, data, "", "  "); err != nil {
		return err
	}
	b.WriteByte('\n')
	_, err = b.WriteTo(w)
	return err
}
