package main

import (
	"fmt"
	"io"
	"reflect"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/alecthomas/kong"
)

// version is set by the linker for releases.
var version = ""

// cli is the whole command line.
type cli struct {
	Config    configFile `env:"SHEAF_CONFIG" type:"path" placeholder:"FILE" help:"YAML file of settings, named like the flags of serve. A flag goes before the environment, the environment before the file."`
	logConfig `embed:""`
	viewFlags `embed:""`
	Version   kong.VersionFlag `help:"Print the version."`

	Demo    demoCmd    `cmd:"" help:"Start everything, export a built-in source, show where the workbook is."`
	Serve   serveCmd   `cmd:"" help:"Run Sheaf: REST, crawler, assembler and notifier."`
	Export  exportCmd  `cmd:"" help:"Export a URL or a file, with a progress bar."`
	Preview previewCmd `cmd:"" help:"Find out how to export an API: its rows, its paging, and what proves it complete."`
	Source  sourceCmd  `cmd:"" help:"Serve a JSON, NDJSON or CSV file as a paginated source."`

	Presets presetsCmd `cmd:"" help:"List the presets of APIs, or show what one stands for."`

	Submit    submitCmd    `cmd:"" group:"client" help:"Hand an export to a running server."`
	Status    statusCmd    `cmd:"" group:"client" help:"Show one export."`
	List      listCmd      `cmd:"" group:"client" help:"List the exports, with their numbers by state."`
	Events    eventsCmd    `cmd:"" group:"client" help:"Show what happened to an export."`
	Watch     watchCmd     `cmd:"" group:"client" help:"Show the progress of an export until it ends."`
	History   historyCmd   `cmd:"" group:"client" help:"List the exports of a user."`
	Cancel    cancelCmd    `cmd:"" group:"client" help:"Stop an export."`
	Retry     retryCmd     `cmd:"" group:"client" help:"Run a failed, cancelled or expired export again."`
	Redeliver redeliverCmd `cmd:"" group:"client" help:"Send the callback of an ended export again."`
	Bulk      bulkCmd      `cmd:"" group:"client" help:"Cancel, retry or redeliver every export of a filter."`
	Share     shareCmd     `cmd:"" group:"client" help:"Print a link to an export for the person who waits for it."`
	Download  downloadCmd  `cmd:"" group:"client" help:"Fetch the file of a finished export."`
	Convert   convertCmd   `cmd:"" group:"client" help:"Write a finished export again, in another format or with other columns, without asking its source."`
	Listen    listenCmd    `cmd:"" group:"client" help:"Receive callbacks, check and print them."`
	Open      openCmd      `cmd:"" group:"client" help:"Print or open the address of the console."`
	Tenants   tenantsCmd   `cmd:"" group:"client" help:"Show the usage of all tenants."`
	System    systemCmd    `cmd:"" group:"client" help:"Show the state of the server."`

	Keys           keysCmd           `cmd:"" help:"Make, list and revoke the API keys of callers."`
	Doctor         doctorCmd         `cmd:"" help:"Check the settings, the machine, NATS and a server, and say what to do."`
	SecretKey      secretKeyCmd      `cmd:"" name:"secret-key" help:"Rotate the secret key."`
	Seal           sealCmd           `cmd:"" group:"client" help:"Seal a secret for a source, so that a submission need not carry it in clear."`
	CallbackSecret callbackSecretCmd `cmd:"" help:"Print the secret that receivers check callbacks with."`

	Help        helpCmd       `cmd:"" help:"Show the help of a command."`
	Completion  completionCmd `cmd:"" help:"Print the completion script of a shell."`
	Complete    completeCmd   `cmd:"" name:"__complete" hidden:""`
	Man         manCmd        `cmd:"" help:"Print the manual page."`
	ShowVersion versionCmd    `cmd:"" name:"version" help:"Print the version."`
}

const description = `Sheaf gathers the pages of an HTTP API into a file: XLSX, CSV, TSV, JSON, NDJSON, Parquet or HTML.

Try it, without any set-up:
    sheaf demo

Export an API, whatever its paging, or a file:
    sheaf export https://api.example.com/orders -o orders.xlsx
    sheaf export https://api.example.com/orders -o orders.csv --column id --column user.name=Name
    sheaf export orders.csv -o orders.xlsx

Run a server, hand it work, fetch the result:
    sheaf serve
    sheaf submit --url http://127.0.0.1:8090/ --title Orders --wait
    sheaf download 5ad5f7b92a816b76e70a21e4154c2485 -o orders.xlsx
    sheaf convert 5ad5f7b92a816b76e70a21e4154c2485 -o orders.parquet

Exit codes: 0 done; 1 failed, with the reason on stderr; 2 wrong usage; 3 the server cannot be reached; 130
interrupted.

With --json, stdout holds one JSON document. Of a failure it is {"error": {"message": "...", "code":
"..."}}, unless a command that waits has printed the export that failed. The code is USAGE, UNREACHABLE,
INTERRUPTED, REFUSED (with the errcode of the server), the error_code of an export, or FAILED. The message
is on stderr too.

Every flag of serve can be set as SHEAF_<FLAG> in the environment, such as SHEAF_MAX_PAGES_BYTES=8GiB, or in
the YAML file of --config. Unknown SHEAF_ variables and unknown keys are errors. A duration is such as 30s,
12h, 7d or 1d12h.`

// helpGroups are the headings under which help lists commands and flags.
var helpGroups = []kong.Group{
	{Key: "client", Title: "Client of a running server:"},
	{Key: "source", Title: "The source:"},
	{Key: "file", Title: "The file:"},
	{Key: "at", Title: "Where it runs:"},
	{Key: "limits", Title: "What the source may do (without --server):"},
	{Key: "byFlags", Title: "The export (with --url):"},
	{Key: "listen", Title: "The callback (with --listen):"},
	// Groups of serve.
	{Key: "callers", Title: "Callers:"},
	{Key: "data", Title: "Data and secret key:"},
	{Key: "cluster", Title: "NATS, and more than one process:"},
	{Key: "sources", Title: "Sources and callbacks:"},
	{Key: "tenants", Title: "Quotas of each tenant:"},
	{Key: "kept", Title: "What is kept, and how long:"},
}

func newParser(c *cli, std stdio, exit func(int)) (*kong.Kong, error) {
	return kong.New(c,
		kong.Name("sheaf"),
		kong.Description(description),
		kong.Vars{"version": versionText(), "defaultUser": defaultUser},
		kong.Writers(std.out, std.err),
		kong.Exit(exit),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 110}),
		kong.ExplicitGroups(helpGroups),
		kong.TypeMapper(reflect.TypeFor[time.Duration](), kong.MapperFunc(decodeDuration)),
		kong.Bind(std),
	)
}

// versionText names the build: the release, or the commit.
func versionText() string {
	v, commit := version, ""
	if info, ok := debug.ReadBuildInfo(); ok {
		if v == "" {
			v = info.Main.Version
		}
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && len(s.Value) >= 12 {
				commit = ", commit " + s.Value[:12]
			}
		}
	}
	if v == "" {
		v = "(devel)"
	}
	return fmt.Sprintf("sheaf %s (%s %s/%s%s)", v, runtime.Version(), runtime.GOOS, runtime.GOARCH, commit)
}

type helpCmd struct {
	Command []string `arg:"" optional:"" help:"Command, such as export or keys add."`
}

func (c *helpCmd) Run(std stdio) error {
	shown := false
	parser, err := newParser(&cli{}, std, func(int) { shown = true })
	if err != nil {
		return err
	}
	if _, err = parser.Parse(append(c.Command, "--help")); shown {
		return nil // a missing argument of the command does not matter here
	}
	return err
}

type versionCmd struct {
	JSON bool `name:"json" help:"Print JSON."`
}

func (c versionCmd) Run(std stdio) error {
	if c.JSON {
		return printJSON(std.out, map[string]string{"version": versionText()})
	}
	_, err := fmt.Fprintln(std.out, versionText())
	return err
}

// serverFlag names the server of a client command.
type serverFlag struct {
	Server      string `env:"SHEAF_SERVER" default:"http://127.0.0.1:8080" placeholder:"URL" help:"The running server (${default})."`
	callerFlags `embed:""`
}

func (s *serverFlag) remote() (*remote, error) { return newRemote(s.Server, s.callerFlags, "") }

// tenantFlag names the server of a command about exports that exist, and for administrators their tenant.
type tenantFlag struct {
	serverFlag `embed:""`
	Tenant     string `placeholder:"NAME" help:"Tenant whose exports are meant, for a key of the scope admin. Default: the tenant of the key."`
}

func (t *tenantFlag) remote() (*remote, error) { return newRemote(t.Server, t.callerFlags, t.Tenant) }

// viewFlags say how output is written for a person.
type viewFlags struct {
	Quiet bool   `short:"q" help:"Print results and errors, no progress and no notes."`
	Time  string `env:"SHEAF_TIME" enum:"local,utc" default:"local" placeholder:"local|utc" help:"Zone of the times that are printed (${default})."`
}

// viewed returns the streams of a command.
func (f viewFlags) viewed(std stdio) stdio {
	if f.Quiet {
		std.err = io.Discard
	}
	if f.Time == "utc" {
		std.zone = time.UTC
	}
	return std
}

// callerFlags authenticate the caller to a server, and name the authorities that the server must prove its
// name by.
type callerFlags struct {
	APIKey string `name:"api-key" env:"SHEAF_API_KEY" placeholder:"KEY" help:"API key of the server, or @FILE. Better in the environment than on a command line, which others can see."`
	CACert string `name:"ca-cert" env:"SHEAF_CA_CERT" type:"path" placeholder:"FILE" help:"Authorities (PEM) to trust beside those of the system."`
}

// formFlags describe how the pages of a source are found.
type formFlags struct {
	Preset  string `placeholder:"NAME" help:"Form of the API; sheaf presets lists them."`
	Rows    string `placeholder:"PATH" help:"Where the rows are in a response, such as data.items."`
	Paging  string `placeholder:"JSON" help:"source_http.paging as JSON; services/REFERENCE.md has its fields."`
	Body    string `placeholder:"JSON" help:"Body of a POST, such as a GraphQL query. --param then goes into the query."`
	Request string `type:"path" placeholder:"FILE" help:"Request of sheaf preview, as JSON; - for stdin. -H gives the headers that it hides."`
}

// sourceFlags describe an export on the command line.
type sourceFlags struct {
	Limit  int      `default:"500" help:"Rows a page to ask for (${default})."`
	Conn   int      `default:"8" help:"Requests in flight at once (${default})."`
	Header []string `short:"H" sep:"none" placeholder:"'NAME: VALUE'" help:"Header for the source; may be repeated. Kept sealed, never logged."`
	Param  []string `sep:"none" placeholder:"NAME=VALUE" help:"Parameter for the source; NAME:=VALUE for a JSON value. May be repeated."`
	Method string   `default:"GET" enum:"GET,POST,get,post" help:"GET sends the parameters in the query, POST as a JSON body (${default})."`
	Title  string   `help:"Title of the file."`
}

func (serveCmd) Help() string {
	return `Runs until SIGTERM, SIGHUP or Ctrl-C, then finishes or hands back what is in flight and exits with
0 within 15 s; a second signal ends it at once. If one role fails, the process ends with its reason and exit
code 1.

Examples:
    sheaf serve
    sheaf serve --http 127.0.0.1:9000 --data /var/lib/sheaf
    sheaf serve --roles crawler --nats nats://a:4222,nats://b:4222 --secret-key-file sheaf-data/key
    SHEAF_HTTP=127.0.0.1:9000 sheaf serve --config sheaf.yaml

A YAML file:
    http: 127.0.0.1:9000
    roles: [ingress, crawler, assembler, notifier]
    keep-files: 3d
    callback-schedule: [5s, 5m, 1h, 1d]`
}

func (demoCmd) Help() string {
	return `Needs nothing: the source, NATS and all roles run in this process, on free ports of 127.0.0.1. The
workbook and the zip that a caller would download are left in --out, checked against the size and the sha256
that the server reported. The last line of the output is "workbook: PATH". With --out x.csv, or another suffix
of sheaf export, that file alone is written, and the last line is "file: PATH".

Row n of the built-in source, for n from 1:
    id          n
    order_no    100000000000000000 + 7919 × n, a number of 18 digits
    name        a surname of 王李张刘陈杨黄赵吴周, the (n mod 10)th from 0,
                and a given name of 伟芳娜敏静丽强磊军洋, the (n div 10 mod 10)th
    amount      (37 × n mod 1000000) / 100, with two decimals
    paid        true if n is divisible by 3, else false
    ordered_on  2026-01-01 plus (n mod 365) days, as text
    note        null if n is divisible by 5, else "备注 n"
    address     {"city":"上海","zip":"z"}, where z is 200000 + n mod 1000`
}

func (exportCmd) Help() string {
	return `Without --preset, --paging and --request, the source is asked first how its pages are found, as
sheaf preview does; a line says what was found. If nothing proves that the rows would be complete, the
command stops and names what to set. A source in the standard page format is exported with --limit rows a
page.

A file is a JSON array of objects, NDJSON, or CSV (a name in .csv or .tsv, or --delimiter). So is stdin.

The suffix of the output chooses the format. Several files, of several formats, sheets or --rows-per-file,
need an output in .zip; a workbook holds several sheets. --type without --column keeps all columns of a
file. An API may have further columns on later pages: name those that you want with --column.

Without --server everything runs in this process, in a temporary folder beside the output, and any address
but those of cloud metadata may be asked. --force replaces regular files only. Ctrl-C cancels the export. A
temporary folder .sheaf-scratch-* of a command that was killed is removed by the next one in the same place.

Examples:
    sheaf export https://api.example.com/orders -o orders.xlsx
    sheaf export http://127.0.0.1:8090/ -o orders.xlsx --limit 1000 --conn 16 \
        -H 'Authorization: Bearer x' --param shop=7
    sheaf export https://api.example.com/orders -o orders.xlsx --preset laravel --param per_page=500
    sheaf export https://api.example.com/orders -o orders.xlsx --rows data.list \
        --paging '{"type": "page", "total": "data.total"}'
    sheaf export --request orders.json -o orders.xlsx
    sheaf export orders.csv -o orders.xlsx
    sqlite3 -json shop.db 'select * from orders' | sheaf export - -o orders.xlsx
    sheaf export http://10.0.0.7/orders -o orders.zip --server http://sheaf:8080

Formats and columns:
    sheaf export https://api.example.com/orders -o orders.csv --options '{"csv": {"encoding": "gbk"}}'
    sheaf export https://api.example.com/orders -o orders.zip --format xlsx,parquet --manifest
    sheaf export https://api.example.com/orders -o orders.xlsx --column id=编号 --column user.name=姓名 \
        --column paid_at --type paid_at=datetime --timezone Asia/Shanghai
    sheaf export https://api.example.com/orders -o orders.xlsx --column id \
        --column '{"key": "status", "map": {"0": "新建", "*": "其他"}}'
    sheaf export -o shop.xlsx --sheet Orders=https://api.example.com/orders --sheet Customers=customers.csv`
}

func (convertCmd) Help() string {
	return `Makes a new export from the pages of a finished one, waits for it and downloads it. The source is
not asked. Pages are kept as long as the export's --keep-pages says, so that later converts find them; sheaf
status shows until when.

Examples:
    sheaf convert 5ad5f7b92a816b76e70a21e4154c2485 -o orders.csv
    sheaf convert 5ad5f7b92a816b76e70a21e4154c2485 -o orders.parquet --column id --column amount \
        --type amount=number
    sheaf convert 5ad5f7b92a816b76e70a21e4154c2485 -o orders.zip --format csv,xlsx --rows-per-file 500000`
}

func (previewCmd) Help() string {
	return `Asks the source at most three times and keeps nothing. Prints what it found and why, the first
rows, and a request that is ready: for POST /v1/export/http, for sheaf submit, and for sheaf export
--request. Secrets are "…" in it.

How a finding is known: given by you, verified by another request, or seen on page 1. If something that
decides completeness would be assumed, there is no request; the answer says which field to set, and the exit
code is 1.

Examples:
    sheaf preview https://api.example.com/orders
    sheaf preview https://api.example.com/orders -H 'Authorization: Bearer x' --json
    sheaf preview https://api.example.com/orders --preset drf --param page_size=100
    sheaf preview https://api.example.com/graphql --body '{"query": "query($first: Int, $after: String)
        { orders(first: $first, after: $after) { nodes { id } pageInfo { hasNextPage endCursor } } }"}'
    sheaf preview https://api.example.com/orders --json > orders.json && sheaf export --request orders.json -o orders.xlsx`
}

func (sourceCmd) Help() string {
	return `Serves a JSON array of objects, NDJSON, or CSV with a header line, as pages that sheaf export and
the API can read: ?page=1&limit=50. The file must not change meanwhile.

A CSV file is in UTF-8, UTF-16 or GB18030 (with GBK), or as --encoding says. Its delimiter is a comma,
semicolon, tab or |, as a first line such as sep=; or --delimiter says, or else as the first lines show. An
empty line is a row of a file of one column, and nothing in others. Numbers become numbers of the workbook:

    12  -3  0.50  .5  1e-05  1.5E3      numbers, also in quotes or with spaces around
    007  +5  1e5  16 digits and more    text, and with them every value of their column
    5.  1,000  0x10  NaN  50%  TRUE     text

Examples:
    sheaf source orders.csv --listen 127.0.0.1:8090
    sheaf source orders.csv --text phone,zip
    sheaf source orders.txt --delimiter tab --encoding gbk --text`
}

func (submitCmd) Help() string {
	return `Takes the JSON body of the REST API from a file or, with -, from stdin; or the same by flags.
Prints the key of the export. The user of --user-id is added to a body that names none.

Equal requests are one export only if their timestamp is equal too. With flags the timestamp is the time of
the call, so each call begins an export. A caller of the REST API can send the header Idempotency-Key
instead. On NATS, Nats-Msg-Id and ce-id correlate and do not deduplicate: they come back as ce-correlationid
in the events of the export, or, of a submission that is a duplicate, in a message on
sheaf.callback.TENANT.duplicate.

Examples:
    sheaf submit request.json
    sheaf submit - --wait < request.json
    sheaf submit --url http://127.0.0.1:8090/ --title Orders --user-id 123 --callback http://127.0.0.1:9000/done`
}

func (callbackSecretCmd) Help() string {
	return `Receivers of callbacks check the header webhook-signature with it, as Standard Webhooks describes. It is derived from the secret key of --data, --secret-key or --secret-key-file.`
}
