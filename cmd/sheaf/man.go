package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"
)

type manCmd struct{}

func (manCmd) Help() string {
	return `Prints the manual page of all commands as roff.

Example:
    sheaf man | man -l -`
}

func (manCmd) Run(std stdio) error {
	parser, err := newParser(&cli{}, std, func(int) {})
	if err != nil {
		return err
	}
	var page strings.Builder
	writeManual(&page, parser.Model)
	_, err = io.WriteString(std.out, page.String())
	return err
}

// writeManual writes the manual page of a command line. It names no date, so that a release is reproducible.
func writeManual(w io.Writer, app *kong.Application) {
	paragraphs := strings.SplitN(app.Help, "\n\n", 2)
	fmt.Fprintf(w, ".TH SHEAF 1 \"\" %q \"User Commands\"\n", roff(versionText()))
	fmt.Fprintf(w, ".SH NAME\nsheaf \\- %s\n", roff(strings.TrimSuffix(paragraphs[0], ".")))
	fmt.Fprint(w, ".SH SYNOPSIS\n.B sheaf\n.I command\n[\\fIflags\\fR]\n.SH DESCRIPTION\n")
	writeText(w, app.Help)
	fmt.Fprint(w, ".SH FLAGS OF EVERY COMMAND\n")
	writeFlags(w, app.Flags)
	fmt.Fprint(w, ".SH COMMANDS\n")
	for _, leaf := range app.Leaves(true) {
		fmt.Fprintf(w, ".SS \"%s\"\n%s\n.PP\n", roff(strings.TrimPrefix(leaf.Summary(), "sheaf ")), roff(leaf.Help))
		if leaf.Detail != "" {
			writeText(w, leaf.Detail)
		}
		for _, argument := range leaf.Positional {
			fmt.Fprintf(w, ".TP\n\\fI%s\\fR\n%s\n", roff(argument.Name), roff(argument.Help))
		}
		writeFlags(w, leaf.Flags)
	}
	fmt.Fprint(w, ".SH ENVIRONMENT\n")
	for _, flag := range settings(app) {
		fmt.Fprintf(w, ".TP\n.B %s\nas \\-\\-%s\n", flag.Envs[0], roff(flag.Name))
	}
}

func writeFlags(w io.Writer, flags []*kong.Flag) {
	for _, flag := range flags {
		if !flag.Hidden {
			fmt.Fprintf(w, ".TP\n\\fB%s\\fR\n%s\n", roff(flag.String()), roff(flag.Help))
		}
	}
}

// writeText writes a text whose indented lines are examples.
func writeText(w io.Writer, text string) {
	example := false
	for line := range strings.SplitSeq(text, "\n") {
		indented := strings.HasPrefix(line, "    ")
		switch {
		case indented && !example:
			fmt.Fprint(w, ".PP\n.EX\n")
		case !indented && example:
			fmt.Fprint(w, ".EE\n")
		}
		if example = indented; line == "" {
			fmt.Fprint(w, ".PP\n")
			continue
		}
		fmt.Fprintln(w, roff(line))
	}
	if example {
		fmt.Fprint(w, ".EE\n")
	}
}

// roff escapes a line for roff.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "\n", " ").Replace(s)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}
