// Command sheaf exports the pages of an HTTP API to a workbook.
//
// The command line is in cli.go and its settings are in config.go. Package node runs the process of sheaf
// serve, export and demo.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
	_ "time/tzdata" // zones of options.timezone, where the system has none

	"github.com/alecthomas/kong"

	"sheaf/events/client"
)

// Exit codes, as documented in --help.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitUnreachable = 3
	exitInterrupted = 130
)

// stdio are the streams of the process.
type stdio struct {
	in       io.Reader
	out, err io.Writer
	zone     *time.Location // of the times that are printed; nil means local
}

// show formats a time for a person, "" if it is missing.
func (std stdio) show(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return std.local(t).Format(time.DateTime)
}

func (std stdio) local(t time.Time) time.Time {
	if std.zone == nil {
		return t.Local()
	}
	return t.In(std.zone)
}

func main() {
	ctx, drain := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	for _, s := range []os.Signal{syscall.SIGHUP, syscall.SIGQUIT} {
		if !signal.Ignored(s) { // as under nohup
			signal.Notify(signals, s)
		}
	}
	go func() {
		<-signals
		// A second signal ends the process at once. Restore the default handling before the drain begins, so
		// that a user who sees the drain can interrupt it.
		signal.Stop(signals)
		drain()
	}()
	os.Exit(run(ctx, os.Args[1:], stdio{in: os.Stdin, out: os.Stdout, err: os.Stderr}, slog.SetDefault))
}

// run runs a command line and returns the exit code. ctx ends with the first signal. setLog receives the log
// that the command line asks for.
func run(ctx context.Context, args []string, std stdio, setLog func(*slog.Logger)) int {
	dropEmptyVariables()
	std.err = &screen{w: std.err}
	out := &noted{Writer: std.out}
	std.out = out
	var cli cli
	ended := false // --help and --version have printed their text
	parser, err := newParser(&cli, std, func(int) { ended = true })
	if err != nil {
		fmt.Fprintf(std.err, "sheaf: %v\n", err)
		return exitFailed
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	command, err := parser.Parse(args)
	if ended {
		return exitOK
	}
	if unknown := checkVariables(parser.Model, os.Environ()); unknown != nil {
		err = unknown // it may be the reason why another setting is missing
	}
	if err == nil {
		setLog(newLog(std.err, cli.logConfig, command.Command()))
		err = explained(carryOut(ctx, command, cli.viewed(std)))
	}
	code := exitCode(ctx, err)
	if err == nil {
		return code
	}
	if code != exitInterrupted {
		fmt.Fprintf(std.err, "sheaf: %s\n", printable(message(err)))
	}
	if code == exitUsage {
		fmt.Fprintf(std.err, "see: %s --help\n", helpFor(command, err))
	}
	if slices.Contains(args, "--json") && !out.written {
		_ = printJSON(out, map[string]any{"error": describe(code, err)})
	}
	return code
}

// message returns the text of an error. The parser lists the empty default of a flag among its values, and
// does not say that an argument is missing.
func message(err error) string {
	text := err.Error()
	if parse := (*kong.ParseError)(nil); errors.As(err, &parse) {
		text = strings.Replace(text, `must be one of "",`, "must be one of ", 1)
		if name, ok := strings.CutPrefix(text, `expected "`); ok {
			text = "missing argument: " + strings.TrimSuffix(name, `"`)
		}
	}
	return text
}

// carryOut runs the chosen command. It passes a server to client commands.
func carryOut(ctx context.Context, command *kong.Context, std stdio) error {
	if target, ok := command.Selected().Target.Addr().Interface().(interface{ remote() (*remote, error) }); ok {
		server, err := target.remote()
		if err != nil {
			return err
		}
		defer server.Close()
		command.Bind(server)
	}
	command.Bind(std)
	command.BindTo(ctx, (*context.Context)(nil))
	return command.Run()
}

// noted is stdout. With --json stdout holds one document, so an error is written only if nothing was written
// before.
type noted struct {
	io.Writer
	written bool
}

func (n *noted) Write(p []byte) (int, error) {
	n.written = true
	return n.Writer.Write(p)
}

// helpFor is the command whose help explains a usage error.
func helpFor(command *kong.Context, err error) string {
	if parse := (*kong.ParseError)(nil); errors.As(err, &parse) {
		command = parse.Context
	}
	if command == nil || command.Selected() == nil {
		return "sheaf"
	}
	return command.Selected().FullPath()
}

// jsonError is a failure as --json prints it.
type jsonError struct {
	Message string `json:"message"`
	Code    string `json:"code"`              // USAGE, UNREACHABLE, INTERRUPTED, REFUSED, FAILED, or the error_code of an export
	Errcode int    `json:"errcode,omitempty"` // of a refusal
}

func describe(code int, err error) jsonError {
	e := jsonError{Message: message(err), Code: "FAILED"}
	var refusal *client.Error
	switch {
	case code == exitUsage:
		e.Code = "USAGE"
	case code == exitUnreachable:
		e.Code = "UNREACHABLE"
	case code == exitInterrupted:
		e.Message, e.Code = "interrupted", "INTERRUPTED"
	case errors.As(err, &refusal):
		e.Code, e.Errcode = "REFUSED", refusal.Errcode
	case failureCode(err) != "":
		e.Code = failureCode(err)
	}
	return e
}

// failureCode returns the error_code of an export or a preview that failed, "" for other errors.
func failureCode(err error) string {
	var export *client.ExportError
	var preview *previewError
	switch {
	case errors.As(err, &export):
		return export.Code
	case errors.As(err, &preview):
		return preview.code
	}
	return ""
}

func exitCode(ctx context.Context, err error) int {
	var unreachable *client.UnreachableError
	var parse *kong.ParseError
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return exitInterrupted
	case isUsage(err), errors.As(err, &parse):
		return exitUsage
	case errors.As(err, &unreachable):
		return exitUnreachable
	}
	return exitFailed
}

// logConfig configures the log.
type logConfig struct {
	LogFormat string `env:"SHEAF_LOG_FORMAT" enum:",text,json" default:"" placeholder:"text|json" help:"Default: text on a terminal, else json."`
	LogLevel  string `env:"SHEAF_LOG_LEVEL" enum:",debug,info,warn,error" default:"" placeholder:"LEVEL" help:"debug, info, warn or error. Default: info for serve, error for demo and export, warn else."`
}

// newLog creates the log of a command. Commands for people log only warnings, so that their own output stays
// readable. Those with a server of their own log only errors: its warnings either end in the command's own
// error or are for an operator.
func newLog(w io.Writer, cfg logConfig, command string) *slog.Logger {
	level := slog.LevelWarn
	switch name, _, _ := strings.Cut(command, " "); name {
	case "serve":
		level = slog.LevelInfo
	case "demo", "export":
		level = slog.LevelError
	}
	if cfg.LogLevel != "" {
		_ = level.UnmarshalText([]byte(cfg.LogLevel)) // the parser accepted only known ones
	}
	opts := &slog.HandlerOptions{Level: level}
	if cfg.LogFormat == "text" || cfg.LogFormat == "" && isTerminal(w) {
		return slog.New(slog.NewTextHandler(w, opts))
	}
	// By default a duration would be a bare number of nanoseconds.
	opts.ReplaceAttr = func(_ []string, a slog.Attr) slog.Attr {
		if a.Value.Kind() == slog.KindDuration {
			a.Value = slog.StringValue(a.Value.Duration().String())
		}
		return a
	}
	return slog.New(slog.NewJSONHandler(w, opts))
}
