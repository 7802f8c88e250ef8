package main

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"

	"sheaf/events"
)

type convertCmd struct {
	Key         string `arg:"" help:"Key of a finished export."`
	outputFlags `embed:""`
	Title       string `group:"file" help:"Title of the file. Default: the output's name."`
	fileFlags   `embed:"" group:"file"`
	serverFlag  `embed:"" group:"at"`
}

func (c *convertCmd) Run(ctx context.Context, std stdio, server *remote) (err error) {
	if !events.ValidKey(c.Key) {
		return usagef("%q is not the key of an export: want 32 hexadecimal characters", c.Key)
	}
	fields := map[string]json.RawMessage{}
	if c.Title == "" {
		c.Title = strings.TrimSuffix(filepath.Base(c.Output), filepath.Ext(c.Output))
	}
	fields["key"], _ = json.Marshal(c.Key)
	fields["title"], _ = json.Marshal(c.Title)
	if isZip(c.Output) {
		fields["options"] = json.RawMessage(`{"zip":true}`) // the export may have said false
	}
	if err := c.apply(fields, c.Output, nil); err != nil {
		return err
	}
	if fields["ext_type"] == nil {
		fields["ext_type"], _ = json.Marshal(events.XLSX.Name)
	}
	body, err := json.Marshal(fields)
	if err != nil {
		return err
	}
	if err := checkOutput(c.Output, c.Force); err != nil {
		return err
	}
	work, err := newScratch(filepath.Dir(c.Output))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, work.close()) }()
	return server.export(ctx, std, work, "convert", body, c.outputFlags)
}
