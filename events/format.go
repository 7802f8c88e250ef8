package events

import (
	"slices"
	"strings"
)

// Format is a kind of finished document, by which a request can ask for it.
type Format struct {
	Name      string // value of ext_type, whatever its case
	Ext       string // of the document, with its dot
	MediaType string
	// ManySheets means that one document holds all sheets. Otherwise each sheet has a document of its own.
	ManySheets bool
	MaxColumns int // of a table; 0: no limit
}

// MaxFiles is the maximum number of documents of an export.
const MaxFiles = 1000

// The formats of finished documents.
var (
	XLSX = Format{
		Name: "XLSX", Ext: ".xlsx", ManySheets: true, MaxColumns: 16_384,
		MediaType: "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
	}
	CSV     = Format{Name: "CSV", Ext: ".csv", MediaType: "text/csv"}
	TSV     = Format{Name: "TSV", Ext: ".tsv", MediaType: "text/tab-separated-values"}
	JSON    = Format{Name: "JSON", Ext: ".json", MediaType: "application/json"}
	NDJSON  = Format{Name: "NDJSON", Ext: ".ndjson", MediaType: "application/x-ndjson"}
	Parquet = Format{Name: "PARQUET", Ext: ".parquet", MediaType: "application/vnd.apache.parquet", MaxColumns: 4096}
	HTML    = Format{Name: "HTML", Ext: ".html", MediaType: "text/html; charset=utf-8"}
)

// Zip is the form of a finished file that holds documents.
var Zip = Format{Name: "ZIP", Ext: ".zip", MediaType: "application/zip"}

// FewestColumns returns the format of an ext_type that holds the fewest columns. Its MaxColumns is 0 if none has a
// limit.
func FewestColumns(extType string) (fewest Format) {
	names := FormatNames(extType)
	for _, f := range []Format{XLSX, Parquet} { // those with a limit
		if slices.Contains(names, f.Name) && (fewest.MaxColumns == 0 || f.MaxColumns < fewest.MaxColumns) {
			fewest = f
		}
	}
	return fewest
}

// FormatNames returns the formats of an ext_type, such as "xlsx, CSV": in upper case, in order, each once.
func FormatNames(extType string) (names []string) {
	for name := range strings.SplitSeq(extType, ",") {
		if name = strings.ToUpper(strings.TrimSpace(name)); name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}
