package main

import (
	"context"
	"fmt"

	"sheaf/events/client"
)

// maxBulk is how many exports the server changes in one call.
const maxBulk = 1000

// maxBulkShown is how many of the exports that a bulk action would change are listed.
const maxBulkShown = 5

type bulkCmd struct {
	Action      string `arg:"" enum:"cancel,retry,redeliver" help:"cancel, retry or redeliver."`
	filterFlags `embed:""`
	Yes         bool `short:"y" help:"Do it. Without it the exports are counted, and nothing is changed."`
	JSON        bool `name:"json" help:"Print JSON."`
	tenantFlag  `embed:""`
}

func (bulkCmd) Help() string {
	return `Changes every export that the filter selects, at most 1,000. It changes nothing if their number changes meanwhile. Exit code 1 if an export was skipped.

Examples:
    sheaf bulk retry --state failed --since 24h
    sheaf bulk retry --state failed --since 24h --yes
    sheaf bulk cancel --state queued --user-id 123 --yes`
}

func (c *bulkCmd) Run(ctx context.Context, std stdio, server *remote) error {
	filter, err := c.filter(std)
	if err != nil {
		return err
	}
	if filter == (client.Filter{}) {
		return usagef("say which exports, such as --state failed")
	}
	n, err := c.count(ctx, std, server, filter)
	if err != nil {
		return err
	}
	if !c.Yes {
		if c.JSON {
			return printJSON(std.out, map[string]any{"matched": n, "done": 0})
		}
		_, err := fmt.Fprintf(std.out, "%s: nothing was changed; --yes will %s them\n", plural(n, "export"), c.Action)
		return err
	}
	result, err := server.Bulk(ctx, client.BulkRequest{Action: c.Action, Filter: filter, Expect: n})
	if err != nil {
		return err
	}
	if c.JSON {
		err = printJSON(std.out, result)
	} else {
		_, err = fmt.Fprintf(std.out, "%s: %s done, %s skipped\n", plural(result.Matched, "export"), count(result.Done), count(len(result.Skipped)))
		for _, s := range result.Skipped {
			fmt.Fprintf(std.err, "skipped %s: %s\n", oneLine(s.Key), oneLine(s.Msg))
		}
	}
	if err == nil && len(result.Skipped) > 0 {
		err = fmt.Errorf("%s could not be changed", plural(len(result.Skipped), "export"))
	}
	return err
}

// count counts the exports of a filter, and shows some of them.
func (c *bulkCmd) count(ctx context.Context, std stdio, server *remote, filter client.Filter) (n int, err error) {
	filter.Limit = 200
	for x, err := range server.All(ctx, filter) {
		if err != nil {
			return 0, err
		}
		if n++; n > maxBulk {
			return 0, fmt.Errorf("more than %s match; narrow the filter, such as with --since and --until", plural(maxBulk, "export"))
		}
		if n <= maxBulkShown && !c.JSON {
			fmt.Fprintf(std.err, "%s  %s  %s\n", oneLine(x.Key), oneLine(x.State), oneLine(x.Title))
		}
	}
	if n > maxBulkShown && !c.JSON {
		fmt.Fprintf(std.err, "and %s more\n", count(n-maxBulkShown))
	}
	return n, nil
}
