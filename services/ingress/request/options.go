package request

import (
	_ "embed"
	"fmt"
	"iter"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"sheaf/events"
	"sheaf/events/similar"
)

const (
	maxMaxRows   = 1 << 40
	maxKeepPages = 24 * 366 // hours; a server's maximum may be lower
	optionsField = "options"
	extTypeField = "ext_type"
)

// optionNames are the members of options.
var optionNames = []string{
	"flatten", "source_charset", "timezone", "source_timezone", "max_rows", "zip", "manifest", "keep_pages", "csv", "json", "reproducible",
}

// options reads how the rows of a request become its files. Members that are not given are those of base.
func options(value jsontext.Value, base events.Options) (*events.Options, error) {
	given, _, err := knownFields(optionsField, value, optionNames)
	if err != nil {
		return nil, err
	}
	o := &base
	whole := func(least, most int64, into *int64) func(member) error {
		return func(m member) (err error) {
			*into, err = integer(m, least, most)
			return err
		}
	}
	flag := func(into *bool, negated bool) func(member) error {
		return func(m member) error {
			b, err := boolean(m)
			*into = b != negated
			return err
		}
	}
	oneOf := func(into *string, absent string, known ...string) func(member) error {
		return func(m member) error {
			s, err := choice(m, known...)
			if *into = s; s == absent {
				*into = ""
			}
			return err
		}
	}
	zone := func(into *string) func(member) error {
		return func(m member) (err error) {
			*into, err = timezone(m)
			return err
		}
	}
	// object reads the members of an object in options.
	object := func(read map[string]func(member) error, names ...string) func(member) error {
		return func(m member) error {
			given, _, err := knownFields(m.name, m.value, names)
			if err != nil {
				return err
			}
			return readEach(m.name, names, given, read)
		}
	}
	flatten, keepPages, titles := int64(base.Flatten), int64(base.KeepPages), ""
	if base.JSON.Titles {
		titles = "title"
	}
	err = readEach(optionsField, optionNames, given, map[string]func(member) error{
		"flatten":         whole(0, maxFlatten, &flatten),
		"source_charset":  oneOf(&o.SourceCharset, "", "utf-8", "gbk", "gb18030"),
		"timezone":        zone(&o.Timezone),
		"source_timezone": zone(&o.SourceTimezone),
		"max_rows":        whole(0, maxMaxRows, &o.MaxRows),
		"zip":             flag(&o.NoZip, true),
		"manifest":        flag(&o.Manifest, false),
		"keep_pages":      whole(0, maxKeepPages, &keepPages),
		"reproducible":    flag(&o.Reproducible, false),
		"csv": object(map[string]func(member) error{
			"bom":       flag(&o.CSV.NoBOM, true),
			"delimiter": oneOf(&o.CSV.Delimiter, ",", ",", ";", "\t", "|"),
			"encoding":  oneOf(&o.CSV.Encoding, "utf-8", "utf-8", "gbk", "gb18030"),
			"guard":     flag(&o.CSV.NoGuard, true),
		}, "bom", "delimiter", "encoding", "guard"),
		"json": object(map[string]func(member) error{"names": oneOf(&titles, "key", "key", "title")}, "names"),
	})
	if err != nil {
		return nil, err
	}
	o.Flatten, o.KeepPages, o.JSON.Titles = int(flatten), int(keepPages), titles != ""
	if o.Timezone == time.UTC.String() {
		o.Timezone = "" // the default
	}
	if *o == (events.Options{}) {
		return nil, nil
	}
	return o, nil
}

// readEach reads the given members of an object, in the order of names.
func readEach(field string, names []string, given fields, read map[string]func(member) error) error {
	for _, name := range names {
		if given[name] == nil {
			continue
		}
		if err := read[name](member{name: field + "." + name, value: given[name]}); err != nil {
			return err
		}
	}
	return nil
}

// checkReading checks the options that concern the sources.
func checkReading(o *events.Options, sources []*events.HTTPRequest) error {
	if o == nil {
		return nil
	}
	has := func(fits func(*events.HTTPRequest) bool) bool { return slices.ContainsFunc(sources, fits) }
	if o.Flatten > 0 && !has(func(r *events.HTTPRequest) bool { return r.Paging != nil && !r.HeaderRow }) {
		return fieldError("options.flatten", "has no meaning with a header row, which names the columns")
	}
	if o.SourceCharset != "" && !has(func(r *events.HTTPRequest) bool {
		return r.Format == events.FormatCSV || r.Format == events.FormatTSV
	}) {
		return fieldError("options.source_charset", "needs source_http.format csv or tsv")
	}
	return nil
}

// writes reports whether options change anything but how the source is read.
func writes(o *events.Options) bool {
	if o == nil {
		return false
	}
	left := *o
	left.Flatten, left.SourceCharset = 0, ""
	return left != events.Options{}
}

// unusedOptions returns a warning for each option of files that changes none of the files of a request.
func unusedOptions(req *events.Request) (warnings []string) {
	if req.Options == nil {
		return nil
	}
	o, names := req.Options, events.FormatNames(req.ExtType)
	unused := func(set bool, field, why string) {
		if set {
			warnings = append(warnings, fmt.Sprintf("%s.%s changes nothing: %s", optionsField, field, why))
		}
	}
	has := func(formats ...events.Format) bool {
		return slices.ContainsFunc(formats, func(f events.Format) bool { return slices.Contains(names, f.Name) })
	}
	dates, columns := false, false
	for i := range req.SheetCount() {
		list := req.Sheet(i).Columns
		columns = columns || len(list) > 0
		dates = dates || slices.ContainsFunc(list, func(c events.Column) bool { return isDate(&c) })
	}
	const noDates = "no column has type date or datetime"
	unused(o.Timezone != "" && !dates, "timezone", noDates)
	unused(o.SourceTimezone != "" && !dates, "source_timezone", noDates)
	if !has(events.CSV, events.TSV) {
		unused(o.CSV != events.CSVOptions{}, "csv", "ext_type has neither CSV nor TSV")
	} else if !has(events.CSV) {
		unused(o.CSV.Delimiter != "", "csv.delimiter", "TSV always has tabs")
		unused(o.CSV.NoBOM, "csv.bom", "TSV never has one")
	}
	if !has(events.JSON, events.NDJSON) {
		unused(o.JSON != events.JSONOptions{}, "json", "ext_type has neither JSON nor NDJSON")
	} else {
		unused(o.JSON.Titles && !columns, "json.names", "without columns a row is written as it was sent")
	}
	return warnings
}

// IsUnusedOption reports whether a warning of a request is about an option that changes nothing. The others are
// about unknown fields.
func IsUnusedOption(warning string) bool { return strings.HasPrefix(warning, optionsField+".") }

// checkFiles checks that the formats can hold what the request asks for.
func checkFiles(req *events.Request, formats []events.Format) error {
	of := func(name string) events.Format {
		i := slices.IndexFunc(formats, func(f events.Format) bool { return strings.EqualFold(f.Name, name) })
		return formats[max(i, 0)]
	}
	names := events.FormatNames(req.ExtType)
	o := req.Options
	if o == nil {
		o = &events.Options{}
	}
	if o.NoZip {
		why := ""
		switch {
		case len(names) > 1:
			why = fmt.Sprintf("ext_type has %d formats, a file each", len(names))
		case o.MaxRows > 0:
			why = "max_rows makes several files"
		case o.Manifest:
			why = "manifest adds a file"
		case req.SheetCount() > 1 && !of(names[0]).ManySheets:
			why = fmt.Sprintf("%s has a file for each of the %d sheets", names[0], req.SheetCount())
		}
		if why != "" {
			return Invalid("options.zip", "false needs a single file, but %s", why)
		}
	}
	if n := req.Files(knownRows(req)...); n > events.MaxFiles {
		return Invalid("options.max_rows", "%d makes %d files; at most %d are allowed", o.MaxRows, n, events.MaxFiles)
	}
	for i := range req.SheetCount() {
		prefix := ""
		if len(req.Sheets) > 0 {
			prefix = sheetField(i) + "."
		}
		if err := checkNames(prefix, req.Sheet(i).Columns, names, o.JSON.Titles); err != nil {
			return err
		}
	}
	return nil
}

// knownRows returns the data rows of each sheet, as far as they are known before the source is asked.
func knownRows(req *events.Request) []int64 {
	rows := make([]int64, req.SheetCount())
	for i := range rows {
		switch raw := req.Sheet(i).Raw; {
		case req.From != nil:
			rows[i] = req.From.Sheets[i].Rows
		case raw != nil:
			rows[i] = raw.Rows
		}
	}
	return rows
}

// checkNames refuses columns with equal names where a format names each value of a row.
func checkNames(prefix string, list []events.Column, formats []string, titles bool) error {
	unique := func(format, advice string, name func(events.Column) string) error {
		seen := map[string]int{}
		for i, c := range list {
			if first, twice := seen[name(c)]; twice {
				return fieldError(fmt.Sprintf("%scolumns[%d]", prefix, i), "has the name of columns[%d], which %s cannot hold; %s", first, format, advice)
			}
			seen[name(c)] = i
		}
		return nil
	}
	key := func(c events.Column) string { return keyOf(c.Key) }
	for _, format := range formats {
		var err error
		switch {
		case format != events.JSON.Name && format != events.NDJSON.Name && format != events.Parquet.Name:
		case titles && format != events.Parquet.Name:
			err = unique(format, "give it another title", titleOf)
		case format == events.Parquet.Name:
			err = unique(format, "leave one out", key)
		default:
			err = unique(format, "set options.json.names to title", key)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// extType reads the formats: a text with commas, or an array. It returns one text with commas.
func extType(m member) (string, error) {
	if m.value.Kind() != '[' {
		return text(m, 64)
	}
	values, err := list(m)
	if err != nil {
		return "", err
	}
	var given []string
	for i, v := range values {
		s, err := text(member{name: fmt.Sprintf("%s[%d]", m.name, i), value: v}, 64)
		if err != nil {
			return "", err
		}
		if strings.Contains(s, ",") {
			return "", Invalid(fmt.Sprintf("%s[%d]", m.name, i), "%q holds a comma; give each format by itself", Cut(s, 32))
		}
		given = append(given, s)
	}
	return strings.Join(given, ","), nil
}

// checkExtType checks that each format of an ext_type is known and there once.
func checkExtType(value string, formats []events.Format) error {
	if value == "" {
		return Invalid(extTypeField, "is required; supported: %s", names(formats))
	}
	seen := map[string]bool{}
	for given := range strings.SplitSeq(value, ",") {
		name := strings.ToUpper(strings.TrimSpace(given))
		if !slices.ContainsFunc(formats, func(f events.Format) bool { return f.Name == name }) {
			return Invalid(extTypeField, "%q is not supported; supported: %s", Cut(strings.TrimSpace(given), 32), names(formats))
		}
		if seen[name] {
			return Invalid(extTypeField, "names %s twice", name)
		}
		seen[name] = true
	}
	return nil
}

//go:embed zones.txt
var zoneList string

// zoneNames are the common names of time zones, to propose one.
func zoneNames() iter.Seq[string] { return strings.FieldsSeq(zoneList) }

// timezone reads the IANA name of a time zone.
func timezone(m member) (string, error) {
	s, err := text(m, 64)
	if err != nil || s == "" {
		return "", err
	}
	// These depend on the machine.
	local := s == "Local" || s == "localtime" || s == "posixrules" || s == "Factory" || strings.HasPrefix(s, "posix/") || strings.HasPrefix(s, "right/")
	if _, err := time.LoadLocation(s); err == nil && !local {
		return s, nil
	}
	near := nearZone(s)
	if near == "" {
		return "", Invalid(m.name, "%q is no IANA name; want one such as Asia/Shanghai", Cut(s, 64))
	}
	return "", Invalid(m.name, "%q is no IANA name; %s?", Cut(s, 64), near)
}

var fixedOffset = regexp.MustCompile(`^(?i:gmt|utc|z)?([+-])(\d{1,2}):?(\d{2})?$`)

// zoneOf are the zones that are proposed for an offset in minutes.
var zoneOf = map[int]string{
	-600: "Pacific/Honolulu", -540: "America/Anchorage", -480: "America/Los_Angeles", -420: "America/Denver", -360: "America/Chicago",
	-300: "America/New_York", -240: "America/Halifax", -180: "America/Sao_Paulo", 0: "UTC", 60: "Europe/Berlin", 120: "Europe/Athens",
	180: "Europe/Moscow", 210: "Asia/Tehran", 240: "Asia/Dubai", 300: "Asia/Karachi", 330: "Asia/Kolkata", 345: "Asia/Kathmandu",
	360: "Asia/Dhaka", 420: "Asia/Bangkok", 480: "Asia/Shanghai", 540: "Asia/Tokyo", 600: "Australia/Sydney", 720: "Pacific/Auckland",
}

// zoneCalled are other names of zones, in lower case.
var zoneCalled = map[string]string{
	"beijing": "Asia/Shanghai", "asia/beijing": "Asia/Shanghai", "cst": "Asia/Shanghai", "china": "Asia/Shanghai", "北京": "Asia/Shanghai",
	"jst": "Asia/Tokyo", "ist": "Asia/Kolkata", "cest": "Europe/Berlin", "pst": "America/Los_Angeles", "pdt": "America/Los_Angeles",
	"edt": "America/New_York", "bst": "Europe/London", "z": "UTC", "local": "UTC", "localtime": "UTC",
}

// nearZone returns the zone that a wrong name may mean, "" if none is similar.
func nearZone(s string) string {
	lower := strings.ToLower(strings.ReplaceAll(s, " ", "_"))
	if name := zoneCalled[lower]; name != "" {
		return name
	}
	if m := fixedOffset.FindStringSubmatch(s); m != nil {
		hours, _ := strconv.Atoi(m[2])
		minutes, _ := strconv.Atoi(m[3])
		if minutes += 60 * hours; m[1] == "-" {
			minutes = -minutes
		}
		return zoneOf[minutes]
	}
	byLower := map[string]string{}
	for name := range zoneNames() {
		byLower[strings.ToLower(name)] = name
	}
	if name := byLower[lower]; name != "" {
		return name
	}
	for name := range zoneNames() { // the city alone
		if strings.EqualFold(name[strings.LastIndexByte(name, '/')+1:], lower) {
			return name
		}
	}
	return byLower[similar.Name(lower, maps.Keys(byLower))]
}
