package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"sheaf/cmd/sheaf/node"
)

// doctorCmd has the flags of serve, because it checks a process with those settings.
type doctorCmd struct {
	node.Config `embed:""`
	Server      string   `group:"client" env:"SHEAF_SERVER" placeholder:"URL" help:"Running server to check too: its path, certificate and clock, and whether events pass its proxies at once. Default: none."`
	CACert      string   `group:"client" name:"ca-cert" env:"SHEAF_CA_CERT" type:"existingfile" placeholder:"FILE" help:"Authorities (PEM) to trust in addition to the system's."`
	URL         []string `name:"url" placeholder:"URL" help:"Source or callback to explain the egress rules for. Repeat it for several."`
	JSON        bool     `name:"json" help:"Print JSON."`
}

func (doctorCmd) Help() string {
	return `It takes the settings of sheaf serve, from flags, the environment or --config, and changes nothing. Each line is ok, a warning or an error, with what to do. Exit code 1 if there is an error.

Examples:
    sheaf doctor
    sheaf doctor --config sheaf.yaml --server https://sheaf.example/ops
    sheaf doctor --url http://10.1.2.3/orders --allow-cidr 10.0.0.0/8`
}

func (c *doctorCmd) Run(ctx context.Context, std stdio) error {
	trust, err := trusting(c.CACert)
	if err != nil {
		return err
	}
	transport := &http.Transport{TLSClientConfig: trust, Proxy: http.ProxyFromEnvironment}
	defer transport.CloseIdleConnections()
	web := http.Client{Transport: transport} // for addresses of the operator
	findings := node.Diagnose(ctx, c.Config, node.DoctorOptions{URLs: c.URL, Server: c.Server, Do: web.Do})
	failed := slices.ContainsFunc(findings, func(f node.Finding) bool { return f.Level == node.FindingError })
	if c.JSON {
		err = printJSON(std.out, map[string]any{"ok": !failed, "checks": findings})
	} else {
		for _, f := range findings {
			fmt.Fprintf(std.out, "%-8s %-16s %s\n", f.Level, f.Check, printable(f.Found))
			if f.Advice != "" {
				fmt.Fprintf(std.out, "%-8s %-16s   %s\n", "", "", printable(f.Advice))
			}
		}
	}
	if failed {
		return errors.New("the doctor found errors; the lines above say what to do")
	}
	return err
}
