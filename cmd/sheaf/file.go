package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sheaf/events"
	"sheaf/events/rows"
	"sheaf/services/assembler"
)

// fileFlags say how rows become a file: the columns, options and formats of a request.
type fileFlags struct {
	Format      []string      `placeholder:"NAME,…" help:"Formats, such as csv,parquet. Default: by the output's name; of a zip xlsx."`
	Column      []string      `sep:"none" placeholder:"KEY[=TITLE]" help:"A column of the file, such as user.name=Name; or one of columns[] as JSON, which may have a format, a map or a link. Repeat it: the file has these columns in this order. Default: all."`
	Type        []string      `sep:"none" placeholder:"KEY=TYPE" help:"Type of a column: text, number, bool, date, datetime or json. Unix times are datetime:unix or datetime:unix_ms."`
	Timezone    string        `placeholder:"ZONE" help:"Show dates and times in this zone, such as Asia/Shanghai. Default: UTC."`
	RowsPerFile int64         `placeholder:"N" help:"Start a new file after so many rows. The output is a zip."`
	Manifest    bool          `help:"Add manifest.json: the request, pages, proof and hashes. The output is a zip."`
	KeepPages   time.Duration `placeholder:"DURATION" help:"Keep the pages on the server for sheaf convert, in whole hours."`
	Options     string        `placeholder:"JSON" help:"Further options, such as {\"csv\":{\"encoding\":\"gbk\"}}; services/REFERENCE.md has them."`
}

// applied adds the flags to a submission whose file gets a name; "" is the name of a zip. known are all
// columns of the source in order, nil if they are not known.
func (f fileFlags) applied(body []byte, output string, known []string) ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil {
		return nil, err
	}
	if err := f.apply(fields, output, known); err != nil {
		return nil, err
	}
	return json.Marshal(fields)
}

func (f fileFlags) apply(fields map[string]json.RawMessage, output string, known []string) error {
	set := func(into map[string]json.RawMessage, name string, v any) { into[name], _ = json.Marshal(v) }
	formats, err := f.formats(output)
	if err != nil {
		return err
	}
	if len(formats) > 0 {
		set(fields, "ext_type", strings.Join(formats, ","))
	}
	columns, err := f.columns(known)
	if err != nil {
		return err
	}
	if len(columns) > 0 {
		set(fields, "columns", columns)
	}
	if hints := strangers(fields["columns"], known); len(hints) > 0 {
		return usagef("%s", strings.Join(hints, "; "))
	}
	options := map[string]json.RawMessage{}
	for _, given := range [][2]string{{"options", string(fields["options"])}, {"--options", f.Options}} {
		if given[1] == "" {
			continue
		}
		var members map[string]json.RawMessage
		if json.Unmarshal([]byte(given[1]), &members) != nil {
			return usagef("%s: it is not a JSON object", given[0])
		}
		maps.Copy(options, members)
	}
	if f.Timezone != "" {
		set(options, "timezone", f.Timezone)
	}
	switch {
	case f.RowsPerFile < 0:
		return usagef("--rows-per-file %d: want at least 1", f.RowsPerFile)
	case f.RowsPerFile > 0:
		set(options, "max_rows", f.RowsPerFile)
	}
	if f.Manifest {
		set(options, "manifest", true)
	}
	switch {
	case f.KeepPages < 0 || f.KeepPages%time.Hour != 0:
		return usagef("--keep-pages %s: want whole hours, such as 72h or 3d", f.KeepPages)
	case f.KeepPages > 0:
		set(options, "keep_pages", int(f.KeepPages/time.Hour))
	}
	if err := checkOptions(options, output); err != nil {
		return err
	}
	// A workbook is taken out of its zip, so that its request is the same with earlier versions.
	if len(formats) == 1 && formats[0] != events.XLSX.Name && !isZip(output) {
		set(options, "zip", false)
	}
	if len(options) > 0 {
		set(fields, "options", options)
	}
	return nil
}

// checkOptions refuses options whose files do not fit the name of the output. Some would fail only once all rows
// are read, and a manifest would be left out.
func checkOptions(options map[string]json.RawMessage, output string) error {
	set := func(name string) bool {
		return !slices.Contains([]string{"", "null", "false", "0"}, string(options[name]))
	}
	switch {
	case output == "":
	case isZip(output) && string(options["zip"]) == "false":
		return usagef("options.zip: false makes no zip; name an output with the suffix of its format")
	case isZip(output):
	case set("max_rows"):
		return usagef("options.max_rows: several files need an output that ends in .zip")
	case set("manifest"):
		return usagef("options.manifest: it is a second file, which needs an output that ends in .zip")
	}
	return nil
}

func isZip(output string) bool {
	return output == "" || strings.EqualFold(filepath.Ext(output), events.Zip.Ext)
}

// formats returns the ext_type for a file of that name; nil if the name says nothing.
func (f fileFlags) formats(output string) (names []string, err error) {
	var known []string
	for _, format := range assembler.Formats() {
		known = append(known, strings.ToLower(format.Name))
	}
	suffixes := suffixes()
	for _, name := range f.Format {
		if name = strings.ToLower(strings.TrimSpace(name)); !slices.Contains(known, name) {
			return nil, usagef("--format: %q is not known; known: %s", name, strings.Join(known, ", "))
		}
		if name = strings.ToUpper(name); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	if isZip(output) {
		return names, nil
	}
	i := slices.Index(suffixes, extension(output))
	switch {
	case i < 0:
		return nil, unknownSuffix(output)
	case len(names) > 1 || len(names) == 1 && names[0] != strings.ToUpper(known[i]):
		return nil, usagef("--format %s: %s is one %s file; name an output that ends in .zip",
			strings.Join(f.Format, ","), output, strings.ToUpper(known[i]))
	case f.RowsPerFile > 0:
		return nil, usagef("--rows-per-file: several files need an output that ends in .zip")
	case f.Manifest:
		return nil, usagef("--manifest: it is a second file, which needs an output that ends in .zip")
	}
	return []string{strings.ToUpper(known[i])}, nil
}

// suffixes returns those of all formats.
func suffixes() (list []string) {
	for _, format := range assembler.Formats() {
		list = append(list, format.Ext)
	}
	return list
}

// manySheets reports whether one document with a suffix holds several sheets, or has no format.
func manySheets(suffix string) bool {
	return !slices.ContainsFunc(assembler.Formats(), func(f events.Format) bool { return f.Ext == suffix && !f.ManySheets })
}

func unknownSuffix(output string) error {
	return usagef("%s ends in %s; a file ends in %s, or in .zip to hold any of them",
		output, filepath.Ext(output), strings.Join(suffixes(), ", "))
}

// extension returns the suffix of a file in lower case. A name without one is that of a workbook.
func extension(name string) string {
	if suffix := strings.ToLower(filepath.Ext(name)); suffix != "" {
		return suffix
	}
	return events.XLSX.Ext
}

// columns returns the columns of a request: those of --column, or all that are known if there is a --type.
func (f fileFlags) columns(known []string) (columns []map[string]any, err error) {
	for _, text := range f.Column {
		column := map[string]any{}
		if strings.HasPrefix(text, "{") {
			if json.Unmarshal([]byte(text), &column) != nil {
				return nil, usagef("--column %s: it is not JSON", text)
			}
		} else {
			key, title, titled := cutKey(text)
			if key == "" {
				return nil, usagef("--column %q: want KEY, KEY=TITLE, or JSON", text)
			}
			if column["key"] = key; titled {
				column["title"] = title
			}
		}
		columns = append(columns, column)
	}
	for _, text := range f.Type {
		if key, kind, ok := cutKey(text); key == "" || !ok || kind == "" {
			return nil, usagef("--type %q: want KEY=TYPE, such as paid_at=datetime", text)
		}
	}
	if len(f.Column) == 0 && len(f.Type) > 0 {
		if known == nil {
			return nil, usagef("--type: it needs --column for each column of the file, because later pages may have further columns; sheaf preview lists those of page 1")
		}
		for _, name := range known {
			columns = append(columns, map[string]any{"key": pathOf(name), "title": name})
		}
	}
	for _, text := range f.Type {
		key, kind, _ := cutKey(text)
		kind, from, dated := strings.Cut(kind, ":")
		found := false
		for _, column := range columns {
			if column["key"] != key && column["key"] != pathOf(key) {
				continue
			}
			found = true
			if column["type"] = kind; dated {
				column["from"] = from
			}
		}
		if !found {
			return nil, usagef("--type %s: there is no column %s%s", text, key, didYouMean(key, slices.Values(keysOf(columns))))
		}
	}
	return columns, nil
}

// pathOf returns the path of a member of a row.
func pathOf(name string) string { return rows.NewPath(rows.Member(name)).String() }

func keysOf(columns []map[string]any) (keys []string) {
	for _, column := range columns {
		keys = append(keys, fmt.Sprint(column["key"]))
	}
	return keys
}

// cutKey splits KEY=REST at the first = outside of brackets: a key may be ['a=b'].
func cutKey(text string) (key, rest string, found bool) {
	depth := 0
	for i, r := range text {
		switch {
		case r == '[':
			depth++
		case r == ']':
			depth--
		case r == '=' && depth == 0:
			return text[:i], text[i+1:], true
		}
	}
	return text, "", false
}
