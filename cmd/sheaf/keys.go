package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"sheaf/cmd/sheaf/node"
	"sheaf/events"
	"sheaf/services/ingress"
)

// keysCmd manages the file of API keys.
type keysCmd struct {
	Add    keysAddCmd    `cmd:"" help:"Make a key and print it, once."`
	List   keysListCmd   `cmd:"" help:"List the keys, without their secrets."`
	Revoke keysRevokeCmd `cmd:"" help:"Take a key back."`
}

func (keysCmd) Help() string {
	return `Keeps the file that sheaf serve --api-keys reads. It holds a hash of each key, never the key. A running server sees changes within a second.

Examples:
    sheaf keys add --api-keys sheaf-data/keys --tenant shop --name "order back-end"
    sheaf keys add --api-keys sheaf-data/keys --tenant shop --scope read --name "dashboard"
    sheaf serve --api-keys sheaf-data/keys
    curl -H "Authorization: Bearer $KEY" ...
    sheaf keys list --api-keys sheaf-data/keys
    sheaf keys revoke --api-keys sheaf-data/keys k3x7q2ab`
}

type keysFile struct {
	APIKeys string `name:"api-keys" env:"SHEAF_API_KEYS" required:"" type:"path" placeholder:"FILE" help:"File of hashed keys."`
}

type keysAddCmd struct {
	keysFile `embed:""`
	Tenant   string `required:"" help:"Whose key it is: 1 to 32 of a-z, 0-9, _ and -. A tenant sees only its own exports."`
	Scope    string `default:"operate" enum:"read,submit,operate,admin" placeholder:"SCOPE" help:"What the key allows. Each scope includes those before it: read (see exports), submit (begin exports), operate (cancel, retry, redeliver, share) or admin (exports of all tenants, state of the server). Default operate."`
	Name     string `help:"What the key is for, for people."`
	JSON     bool   `name:"json" help:"Print JSON."`
}

func (c *keysAddCmd) Run(std stdio) error {
	if !events.ValidTenant(c.Tenant) {
		return usagef("--tenant %q: want 1 to 32 of a-z, 0-9, _ and -", c.Tenant)
	}
	name := strings.Join(strings.Fields(c.Name), " ")
	if len(name) > 200 || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return usagef("--name: want at most 200 bytes, without control characters")
	}
	scope, _ := ingress.ParseScope(c.Scope) // one of the enum
	if err := node.CheckScope(c.Tenant, scope); err != nil {
		return usagef("--scope %s: %s", c.Scope, err)
	}
	key, id, err := node.AddAPIKey(c.APIKeys, c.Tenant, scope, name)
	if err != nil {
		return err
	}
	fmt.Fprintf(std.err, "key %s of tenant %s, scope %s; it is shown this once\n", id, c.Tenant, scope)
	if c.JSON {
		return printJSON(std.out, map[string]string{"id": id, "tenant": c.Tenant, "scope": c.Scope, "key": key})
	}
	_, err = fmt.Fprintln(std.out, key)
	return err
}

type keysListCmd struct {
	keysFile `embed:""`
	JSON     bool `name:"json" help:"Print JSON."`
}

func (c *keysListCmd) Run(std stdio) error {
	keys, err := node.ListAPIKeys(c.APIKeys)
	if err != nil {
		return err
	}
	if c.JSON {
		list := []map[string]any{}
		for _, k := range keys {
			list = append(list, map[string]any{"id": k.ID, "tenant": k.Tenant, "scope": k.Scope.String(), "created_at": k.Created, "name": k.Name})
		}
		return printJSON(std.out, list)
	}
	w := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tTENANT\tSCOPE\tMADE\tNAME")
	for _, k := range keys {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", k.ID, k.Tenant, k.Scope, std.show(k.Created), k.Name)
	}
	return w.Flush()
}

type keysRevokeCmd struct {
	keysFile `embed:""`
	ID       string `arg:"" help:"Id of the key, as list shows it."`
	JSON     bool   `name:"json" help:"Print JSON."`
}

func (c *keysRevokeCmd) Run(std stdio) error {
	id, err := node.RevokeAPIKey(c.APIKeys, c.ID)
	if err == nil && c.JSON {
		return printJSON(std.out, map[string]any{"id": id, "revoked": true})
	}
	if err == nil {
		fmt.Fprintf(std.err, "key %s is revoked; running servers refuse it within a second\n", id)
	}
	return err
}

// secretKeyCmd manages the file of secret keys.
type secretKeyCmd struct {
	Rotate secretKeyRotateCmd `cmd:"" help:"Add a new secret key to the file, which seals and signs from then on."`
}

type secretKeyRotateCmd struct {
	node.KeyConfig `embed:""`
	In             time.Duration `default:"0s" placeholder:"DURATION" help:"When the new key begins to seal and sign. On a cluster long enough to have every process know it before: 1h."`
	JSON           bool          `name:"json" help:"Print JSON."`
}

func (secretKeyRotateCmd) Help() string {
	return `Appends a key to secret.key of --data, or to --secret-key-file. Restart every process with it. The first line stays: the keys of exports and the encryption of the store come from it. Links, sealed headers and callbacks of the older keys stay good while their lines are there; remove a line once --keep-files and --keep-pages have passed and receivers have the new callback secret.`
}

func (c *secretKeyRotateCmd) Run(std stdio) error {
	switch {
	case c.SecretKey != "":
		return usagef("--secret-key cannot be rotated here; add a line to it where it is kept, or use --secret-key-file")
	case c.In < 0:
		return usagef("--in %s: want a duration such as 1h", c.In)
	}
	file, err := c.Rotate(time.Now().Add(c.In))
	if err == nil && c.JSON {
		return printJSON(std.out, map[string]string{"file": file})
	}
	if err == nil {
		fmt.Fprintf(std.err, "%s has a new key; restart every process that reads it\n", file)
	}
	return err
}
