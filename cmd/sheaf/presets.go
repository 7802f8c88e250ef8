package main

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"sheaf/services/ingress/request"
)

// presetsCmd prints the presets of this binary. GET /v1/export/presets answers those of a server.
type presetsCmd struct {
	Name string `arg:"" optional:"" help:"Preset, such as pocketbase."`
	JSON bool   `name:"json" help:"Print JSON."`
}

func (presetsCmd) Help() string {
	return `A preset stands for fields of source_http. A field beside it replaces that field, in paging and error member by member; null removes it.

Examples:
    sheaf presets
    sheaf presets laravel
    echo '{"ext_type": "XLSX", "source_http": {"preset": "laravel", "url": "http://127.0.0.1:8000/orders"}}' | sheaf submit - --wait`
}

func (c *presetsCmd) Run(std stdio) error {
	presets := request.Presets()
	if c.Name != "" {
		return c.show(std, presets)
	}
	if c.JSON {
		return printJSON(std.out, presets)
	}
	w := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
	for _, p := range presets {
		fmt.Fprintf(w, "%s\t%s\n", p.Name, p.About)
	}
	return w.Flush()
}

// show prints one preset.
func (c *presetsCmd) show(std stdio, presets []request.Preset) error {
	i := slices.IndexFunc(presets, func(p request.Preset) bool { return p.Name == c.Name })
	if i < 0 {
		names := func(yield func(string) bool) {
			for _, p := range presets {
				if !yield(p.Name) {
					return
				}
			}
		}
		return usagef("there is no preset %q%s", c.Name, didYouMean(c.Name, names))
	}
	p := presets[i]
	if c.JSON {
		return printJSON(std.out, p)
	}
	fmt.Fprintf(std.out, "%s: %s\n", p.Name, p.About)
	if len(p.Given) > 0 {
		fmt.Fprintf(std.out, "the request adds: %s\n", strings.Join(p.Given, ", "))
	}
	return printJSON(std.out, p.Source)
}
