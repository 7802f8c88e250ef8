package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"sheaf/events"
	"sheaf/events/secrets"
)

// sealCmd seals a secret that it reads from stdin, because other users can see a command line.
type sealCmd struct {
	Tenant     string `default:"default" help:"Tenant whose exports it is for; in those of others it opens nothing (${default})."`
	Key        string `placeholder:"KEY" help:"Key to seal with, as GET /v1/seal-key answers. Default: asked of the server."`
	JSON       bool   `name:"json" help:"Print JSON."`
	serverFlag `embed:""`
}

func (sealCmd) Help() string {
	return `Reads a secret from stdin, without the line break at its end, and prints it sealed. The text may stand for the value of a source header or of a secret_param: only the crawler can open it, and only in an export of the tenant.

Example:
    printf %s "Bearer $TOKEN" | sheaf seal --tenant shop`
}

// maxSealed bounds a secret: the maximum length of a header.
const maxSealed = 16 << 10

func (c *sealCmd) Run(ctx context.Context, std stdio, server *remote) error {
	if !events.ValidTenant(c.Tenant) {
		return usagef("--tenant %q: want 1 to 32 of a-z, 0-9, _ and -", c.Tenant)
	}
	secret, err := io.ReadAll(io.LimitReader(std.in, maxSealed+1))
	if err != nil {
		return err
	}
	value := strings.TrimSuffix(strings.TrimSuffix(string(secret), "\n"), "\r")
	switch {
	case len(value) > maxSealed:
		return usagef("seal: the secret is longer than %d bytes", maxSealed)
	case value == "":
		return usagef("seal: give the secret on stdin")
	}
	key := c.Key
	if key == "" {
		if key, err = server.SealKey(ctx); err != nil {
			return err
		}
	}
	sealed, err := secrets.SealValue(key, c.Tenant, value)
	if err != nil {
		return err
	}
	fmt.Fprintf(std.err, "sealed for tenant %s\n", c.Tenant)
	if c.JSON {
		return printJSON(std.out, map[string]string{"tenant": c.Tenant, "sealed": sealed})
	}
	_, err = fmt.Fprintln(std.out, sealed)
	return err
}
