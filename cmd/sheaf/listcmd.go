package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"sheaf/cmd/sheaf/node"
	"sheaf/events"
	"sheaf/events/client"
)

// filterFlags select exports.
type filterFlags struct {
	State     string `enum:",running,queued,waiting_for_space,failed,succeeded,cancelled" default:"" placeholder:"STATE" help:"running, queued, waiting_for_space, failed, succeeded or cancelled."`
	Search    string `short:"s" placeholder:"TEXT" help:"Words of the title, the beginning of the key, or the user."`
	UserID    string `name:"user-id" placeholder:"ID" help:"Exports of this user."`
	ErrorCode string `placeholder:"CODE" help:"Exports that failed with this error_code, such as SOURCE_TIMEOUT."`
	Since     string `placeholder:"TIME" help:"Created at or after: 2026-11-30, 2026-11-30T12:00:00Z, or 2h ago as 2h."`
	Until     string `placeholder:"TIME" help:"Created before this time."`
}

type listCmd struct {
	filterFlags `embed:""`
	Limit       int    `default:"50" help:"Exports a page, up to 200 (${default})."`
	Before      uint64 `placeholder:"N" help:"The next page, as the note below a list says."`
	All         bool   `help:"All pages. With --json one export a line."`
	JSON        bool   `name:"json" help:"Print JSON."`
	tenantFlag  `embed:""`
}

func (listCmd) Help() string {
	return `Lists the exports of the tenant, newest first.

Examples:
    sheaf list
    sheaf list --state failed --since 24h
    sheaf list --search orders --all --json | jq -r .hash_key`
}

// filter returns the filter of the flags.
func (c *filterFlags) filter(std stdio) (client.Filter, error) {
	f := client.Filter{State: c.State, Query: c.Search, UserID: c.UserID, ErrorCode: c.ErrorCode}
	var err error
	if f.Since, err = std.parseTime("--since", c.Since); err != nil {
		return f, err
	}
	f.Until, err = std.parseTime("--until", c.Until)
	return f, err
}

// parseTime reads the time of a flag: a date, a moment, or how long ago it is. "" is the zero time.
func (std stdio) parseTime(flag, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := parseDuration(text); err == nil && ago >= 0 {
		return time.Now().Add(-ago), nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", time.DateTime, time.DateOnly} {
		if at, err := time.ParseInLocation(layout, text, std.local(time.Now()).Location()); err == nil {
			return at, nil
		}
	}
	return time.Time{}, usagef("%s %q: want a time such as 2026-11-30, 2026-11-30T12:00:00Z, or 2h for two hours ago", flag, text)
}

func (c *listCmd) Run(ctx context.Context, std stdio, server *remote) error {
	if c.Limit < 1 || c.Limit > 200 {
		return usagef("--limit %d: want 1 to 200; --all lists all pages", c.Limit)
	}
	filter, err := c.filter(std)
	if err != nil {
		return err
	}
	filter.Before, filter.Limit = c.Before, c.Limit
	for first := true; ; first = false {
		page, err := server.List(ctx, filter)
		if err != nil {
			return err
		}
		if err := c.print(std, page, first); err != nil {
			return err
		}
		if page.Partial {
			fmt.Fprintln(std.err, "note: the search looked at the newest exports of the page only")
		}
		if filter.Before = page.Next; filter.Before == 0 {
			return nil
		}
		if !c.All {
			fmt.Fprintf(std.err, "more: --before %d\n", page.Next)
			return nil
		}
	}
}

// print prints a page.
func (c *listCmd) print(std stdio, page *client.Page, first bool) error {
	switch {
	case c.JSON && !c.All:
		return printJSON(std.out, page.JSON)
	case c.JSON:
		var raw struct{ Exports []json.RawMessage }
		if err := json.Unmarshal(page.JSON, &raw); err != nil {
			return err
		}
		return printLines(std.out, raw.Exports...)
	}
	w := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
	if first {
		fmt.Fprintln(w, "CREATED\tSTATE\tPAGES\tROWS\tUSER\tKEY\tTITLE\tREASON")
	}
	for _, x := range page.Exports {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", std.show(x.CreatedAt.Time), strings.ReplaceAll(oneLine(x.State), "_", " "),
			pagesOf(&x), thousands(rowsOf(&x)), oneLine(x.UserID), oneLine(x.Key), oneLine(x.Title), oneLine(x.FailReason))
	}
	if err := w.Flush(); err != nil || !first {
		return err
	}
	n := page.Counts
	fmt.Fprintf(std.err, "%s: %s running, %s queued, %s waiting for space, %s failed, %s succeeded, %s cancelled\n", plural(n.All, "export"),
		count(n.Running), count(n.Queued), count(n.WaitingForSpace), count(n.Failed), count(n.Succeeded), count(n.Cancelled))
	return nil
}

// plural returns a number and its noun, such as 1 export or 2 exports.
func plural(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return count(n) + " " + noun
}

func count(n int) string { return thousands(int64(n)) }

// pagesOf returns the pages of an export, such as 120/500.
func pagesOf(x *client.Export) string {
	switch {
	case x.Progress == nil || x.Progress.PagesTotal == 0 && x.Progress.PagesDone == 0:
		return "-"
	case x.Status != client.Processing || x.Progress.PagesTotal == 0:
		return count(x.Progress.PagesDone)
	}
	return count(x.Progress.PagesDone) + "/" + count(x.Progress.PagesTotal)
}

func rowsOf(x *client.Export) int64 {
	if x.Rows == 0 && x.Progress != nil {
		return x.Progress.Rows
	}
	return x.Rows
}

type eventsCmd struct {
	Key        string `arg:"" help:"Key of the export."`
	JSON       bool   `name:"json" help:"Print JSON."`
	tenantFlag `embed:""`
}

func (c *eventsCmd) Run(ctx context.Context, std stdio, server *remote) error {
	raw, err := server.Get(ctx, "events", map[string]string{"key": c.Key})
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(std.out, raw)
	}
	var line client.Timeline
	if err := json.Unmarshal(raw, &line); err != nil {
		return fmt.Errorf("reading the answer of the server: %w", err)
	}
	w := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TIME\tEVENT\tRUN\tATTEMPT\tOUTCOME")
	for _, e := range line.Events {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", std.show(e.Time), eventName(e), number(e.Run), number(uint64(e.Attempt)), oneLine(e.Outcome))
	}
	return w.Flush()
}

func eventName(e events.Moment) string {
	if e.Type == "" {
		return fmt.Sprintf("(%d events)", e.Events)
	}
	return strings.ReplaceAll(oneLine(string(e.Type)), "_", " ")
}

// number writes a number, "-" for 0.
func number(n uint64) string {
	if n == 0 {
		return "-"
	}
	return strconv.FormatUint(n, 10)
}

type shareCmd struct {
	Key        string        `arg:"" help:"Key of the export."`
	TTL        time.Duration `name:"ttl" placeholder:"DURATION" help:"How long the link is good. Default: as long as the file is kept."`
	ReturnURL  string        `name:"return-url" placeholder:"URL" help:"Where the page leads back to."`
	JSON       bool          `name:"json" help:"Print JSON."`
	tenantFlag `embed:""`
}

func (shareCmd) Help() string {
	return `Prints a link to a page that shows the progress of the export and gives its file, for the person who waits for it. It needs no API key and no login, and shows nothing of the source.

Example:
    sheaf share 5ad5f7b92a816b76e70a21e4154c2485 --return-url https://shop.example/orders`
}

func (c *shareCmd) Run(ctx context.Context, std stdio, server *remote) error {
	if c.TTL < 0 || c.TTL%time.Second != 0 {
		return usagef("--ttl %s: want whole seconds and a minute at least, such as 90s, 12h or 7d", c.TTL)
	}
	link, err := server.Share(ctx, c.Key, c.TTL, c.ReturnURL)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(std.out, link)
	}
	if !link.ExpiresAt.IsZero() {
		fmt.Fprintf(std.err, "good until %s\n", std.show(link.ExpiresAt.Time))
	}
	_, err = fmt.Fprintln(std.out, oneLine(link.URL))
	return err
}

type redeliverCmd struct {
	Key        string `arg:"" help:"Key of the export."`
	JSON       bool   `name:"json" help:"Print JSON."`
	tenantFlag `embed:""`
}

func (c *redeliverCmd) Run(ctx context.Context, std stdio, server *remote) error {
	state, err := server.Redeliver(ctx, c.Key)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(std.out, state)
	}
	_, err = fmt.Fprintf(std.out, "callback %s\n", callbackLine(oneLine(state.State), state.Attempts, state.LastStatus))
	return err
}

type openCmd struct {
	Key        string `arg:"" optional:"" help:"Key of an export. Default: the list of exports."`
	Print      bool   `help:"Print the address only."`
	JSON       bool   `name:"json" help:"Print JSON, and open nothing."`
	serverFlag `embed:""`
}

func (openCmd) Help() string {
	return `Prints the address of the console of the server, and opens it in the browser if stdout is a terminal.`
}

func (c *openCmd) Run(ctx context.Context, std stdio) error {
	u, err := url.Parse(c.Server)
	if err != nil || u.Host == "" {
		return usagef("--server %q: want http://HOST:PORT or https://HOST", c.Server)
	}
	if c.Key != "" && !events.ValidKey(c.Key) {
		return usagef("%q is not the key of an export: want 32 hexadecimal characters", c.Key)
	}
	u = u.JoinPath("console/")
	if c.Key != "" {
		u = u.JoinPath("x", c.Key)
	}
	if c.JSON {
		return printJSON(std.out, map[string]string{"url": u.String()})
	}
	if _, err := fmt.Fprintln(std.out, u); err != nil || c.Print || !isTerminal(std.out) {
		return err
	}
	program, args := "xdg-open", []string{u.String()}
	switch runtime.GOOS {
	case "darwin":
		program = "open"
	case "windows":
		program, args = "rundll32", append([]string{"url.dll,FileProtocolHandler"}, args...)
	}
	if err := exec.CommandContext(ctx, program, args...).Run(); err != nil {
		fmt.Fprintf(std.err, "no browser could be opened (%s: %v)\n", program, err)
	}
	return nil
}

type tenantsCmd struct {
	JSON       bool `name:"json" help:"Print JSON."`
	serverFlag `embed:""`
}

func (c *tenantsCmd) Run(ctx context.Context, std stdio, server *remote) error {
	return printState(ctx, std, server, "tenants", c.JSON)
}

type systemCmd struct {
	JSON       bool `name:"json" help:"Print JSON."`
	serverFlag `embed:""`
}

func (c *systemCmd) Run(ctx context.Context, std stdio, server *remote) error {
	return printState(ctx, std, server, "system", c.JSON)
}

// printState prints the answer of an operation for administrators.
func printState(ctx context.Context, std stdio, server *remote, operation string, asJSON bool) error {
	raw, err := server.Get(ctx, operation, nil)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(std.out, raw)
	}
	return outline(std.out, raw, "")
}

// member is a member of a JSON object.
type member struct {
	name  string
	value json.RawMessage
}

// members returns those of a JSON object in their order; nil if it is none.
func members(raw json.RawMessage) (list []member) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil
	}
	for dec.More() {
		name, err := dec.Token()
		var value json.RawMessage
		if err != nil || dec.Decode(&value) != nil {
			return list
		}
		list = append(list, member{fmt.Sprint(name), value})
	}
	return list
}

// outline prints JSON for a person: objects as lines, arrays of objects as tables.
func outline(out io.Writer, raw json.RawMessage, indent string) error {
	var array []json.RawMessage
	if json.Unmarshal(raw, &array) == nil && array != nil {
		return objectTable(out, array, indent)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	nested := []member{}
	for _, m := range members(raw) {
		if isNested(m.value) {
			nested = append(nested, m)
			continue
		}
		fmt.Fprintf(w, "%s%s\t%s\n", indent, strings.ReplaceAll(oneLine(m.name), "_", " "), cell(m))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, m := range nested {
		if _, err := fmt.Fprintf(out, "%s%s:\n", indent, strings.ReplaceAll(oneLine(m.name), "_", " ")); err != nil {
			return err
		}
		if err := outline(out, m.value, indent+"  "); err != nil {
			return err
		}
	}
	return nil
}

// isNested reports whether a value needs lines of its own.
func isNested(value json.RawMessage) bool {
	var array []json.RawMessage
	if json.Unmarshal(value, &array) == nil {
		return slices.ContainsFunc(array, func(v json.RawMessage) bool { return members(v) != nil })
	}
	return len(members(value)) > 0
}

// objectTable prints an array of objects, whose first names the columns.
func objectTable(out io.Writer, array []json.RawMessage, indent string) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	var names []string
	for i, row := range array {
		values := map[string]json.RawMessage{}
		for _, m := range members(row) {
			if values[m.name] = m.value; i == 0 {
				names = append(names, m.name)
			}
		}
		if i == 0 {
			titles := make([]string, len(names))
			for j, name := range names {
				titles[j] = strings.ToUpper(strings.ReplaceAll(oneLine(name), "_", " "))
			}
			fmt.Fprintln(w, indent+strings.Join(titles, "\t"))
		}
		cells := make([]string, len(names))
		for j, name := range names {
			cells[j] = cell(member{name, values[name]})
		}
		fmt.Fprintln(w, indent+strings.Join(cells, "\t"))
	}
	return w.Flush()
}

// sizes are the members of answers for administrators that are numbers of bytes.
var sizes = []string{"bytes", "limit", "file_bytes", "log_bytes", "size", "free", "reserve", "heap", "total"}

// cell writes a member of a JSON object for a person.
func cell(m member) string {
	value := m.value
	var text string
	if n, err := strconv.ParseInt(string(value), 10, 64); err == nil && n >= 1024 && slices.Contains(sizes, m.name) {
		return node.ByteSize(n).String()
	}
	var array []json.RawMessage
	switch {
	case len(value) == 0 || string(value) == "null":
		return "-"
	case json.Unmarshal(value, &text) == nil:
		return oneLine(text)
	case json.Unmarshal(value, &array) == nil:
		parts := make([]string, len(array))
		for i := range array {
			parts[i] = cell(member{m.name, array[i]})
		}
		return strings.Join(parts, ", ")
	}
	return oneLine(string(value))
}

// printLines prints JSON values, one a line.
func printLines[T any](w io.Writer, values ...T) error {
	for _, v := range values {
		data, err := json.Marshal(v)
		if err != nil {
			return err
		}
		if _, err := w.Write(append(data, '\n')); err != nil {
			return err
		}
	}
	return nil
}
