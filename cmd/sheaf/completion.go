package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"sheaf/events/client"
)

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

func (completionCmd) Help() string {
	return `Prints a script that completes commands, flags, their values, and keys of recent exports.

    bash    source <(sheaf completion bash)                                     in ~/.bashrc
    zsh     source <(sheaf completion zsh)                                      in ~/.zshrc, after compinit
    fish    sheaf completion fish > ~/.config/fish/completions/sheaf.fish`
}

// completionScripts call sheaf with the words before the cursor. An empty answer leaves file names to the shell.
var completionScripts = map[string]string{
	"bash": `_sheaf() {
    local IFS=$'\n' line=${COMP_LINE:0:COMP_POINT} word=${COMP_WORDS[COMP_CWORD]}
    COMPREPLY=($(sheaf __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null | cut -f1))
}
complete -o default -o bashdefault -F _sheaf sheaf
`,
	"zsh": `#compdef sheaf
_sheaf() {
    local -a lines
    lines=("${(@f)$(sheaf __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    lines=(${lines//:/\\:})
    lines=("${(@)lines/$'\t'/:}")
    if (( ${#lines} )); then
        _describe sheaf lines
    else
        _files
    fi
}
compdef _sheaf sheaf
`,
	"fish": `complete -c sheaf -a '(sheaf __complete -- (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null)'
`,
}

func (c *completionCmd) Run(std stdio) error {
	_, err := fmt.Fprint(std.out, completionScripts[c.Shell])
	return err
}

type completeCmd struct {
	Words []string `arg:"" optional:"" passthrough:""`
}

// completeWait is how long a completion waits for the keys of a server.
const completeWait = 300 * time.Millisecond

func (c *completeCmd) Run(ctx context.Context, std stdio) error {
	parser, err := newParser(&cli{}, std, func(int) {})
	if err != nil {
		return err
	}
	words := c.Words
	if len(words) > 0 && words[0] == "--" {
		words = words[1:]
	}
	keys := func() []string { return completeKeys(ctx, words) }
	for _, text := range complete(parser.Model.Node, words, keys) {
		fmt.Fprintln(std.out, text)
	}
	return nil
}

// complete returns the words that may stand for the last one, with what they mean behind a tab.
func complete(node *kong.Node, words []string, keys func() []string) (found []string) {
	if len(words) == 0 {
		words = []string{""}
	}
	last := words[len(words)-1]
	var pending *kong.Flag // waits for its value
	arguments := 0
	for _, word := range words[:len(words)-1] {
		switch {
		case pending != nil:
			pending = nil
		case strings.HasPrefix(word, "-"):
			if pending = flagOf(node, word); pending != nil && (pending.IsBool() || strings.Contains(word, "=")) {
				pending = nil
			}
		default:
			if child := childOf(node, word); child != nil {
				node = child
			} else {
				arguments++
			}
		}
	}
	add := func(text, about string) {
		if strings.HasPrefix(text, last) {
			about, _, _ = strings.Cut(about, ". ")
			found = append(found, strings.TrimSuffix(text+"\t"+strings.TrimSuffix(about, "."), "\t"))
		}
	}
	name, _, inline := strings.Cut(last, "=")
	switch {
	case pending != nil:
		addValues(add, pending.Value, "")
	case inline && strings.HasPrefix(last, "--"):
		if flag := flagOf(node, name); flag != nil {
			addValues(add, flag.Value, name+"=")
		}
	case strings.HasPrefix(last, "-"):
		for _, flag := range flagsOf(node) {
			add("--"+flag.Name, flag.Help)
		}
	default:
		for _, child := range node.Children {
			if !child.Hidden {
				add(child.Name, child.Help)
			}
		}
		completeArgument(add, node, arguments, keys)
	}
	return found
}

func addValues(add func(text, about string), v *kong.Value, prefix string) {
	for _, value := range v.EnumSlice() {
		if value != "" {
			add(prefix+value, "")
		}
	}
}

// completeArgument adds values of the next positional argument.
func completeArgument(add func(text, about string), node *kong.Node, given int, keys func() []string) {
	if given >= len(node.Positional) {
		return
	}
	argument := node.Positional[given]
	addValues(add, argument, "")
	switch {
	case argument.Name == "command":
		for _, child := range rootOf(node).Children {
			if !child.Hidden {
				add(child.Name, child.Help)
			}
		}
	case argument.Name == "key" && argument.Tag.Get("help") != "" && strings.Contains(argument.Help, "export"):
		for _, key := range keys() {
			text, about, _ := strings.Cut(key, "\t")
			add(text, about)
		}
	}
}

func rootOf(node *kong.Node) *kong.Node {
	for node.Parent != nil {
		node = node.Parent
	}
	return node
}

// flagsOf returns the flags that a command accepts.
func flagsOf(node *kong.Node) (flags []*kong.Flag) {
	for ; node != nil; node = node.Parent {
		for _, flag := range node.Flags {
			if !flag.Hidden {
				flags = append(flags, flag)
			}
		}
	}
	slices.SortStableFunc(flags, func(a, b *kong.Flag) int { return strings.Compare(a.Name, b.Name) })
	return flags
}

func flagOf(node *kong.Node, word string) *kong.Flag {
	word, _, _ = strings.Cut(word, "=")
	for _, flag := range flagsOf(node) {
		if word == "--"+flag.Name || flag.Short != 0 && word == "-"+string(flag.Short) {
			return flag
		}
	}
	return nil
}

func childOf(node *kong.Node, name string) *kong.Node {
	for _, child := range node.Children {
		if child.Name == name {
			return child
		}
	}
	return nil
}

// completeKeys returns the keys of the newest exports of the server that the words or the environment name,
// none if it does not answer soon.
func completeKeys(ctx context.Context, words []string) (keys []string) {
	ctx, cancel := context.WithTimeout(ctx, completeWait)
	defer cancel()
	var at struct{ serverFlag }
	parser, err := kong.New(&at, kong.Exit(func(int) {}))
	if err != nil {
		return nil
	}
	var flags []string
	for i, word := range words[:max(len(words)-1, 0)] {
		if name, _, inline := strings.Cut(word, "="); name == "--server" || name == "--api-key" || name == "--ca-cert" {
			if flags = append(flags, word); !inline && i+1 < len(words)-1 {
				flags = append(flags, words[i+1])
			}
		}
	}
	if _, err := parser.Parse(flags); err != nil {
		return nil
	}
	server, err := at.remote()
	if err != nil {
		return nil
	}
	defer server.Close()
	page, err := server.List(ctx, client.Filter{Limit: 50})
	if err != nil {
		return nil
	}
	for _, x := range page.Exports {
		keys = append(keys, oneLine(x.Key)+"\t"+strings.ReplaceAll(oneLine(x.State), "_", " ")+" "+oneLine(x.Title))
	}
	return keys
}
