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
}

// The formats of finished documents.
var (
	XLSX    = Format{"XLSX", ".xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"}
	CSV     = Format{"CSV", ".csv", "text/csv"}
	TSV     = Format{"TSV", ".tsv", "text/tab-separated-values"}
	JSON    = Format{"JSON", ".json", "application/json"}
	NDJSON  = Format{"NDJSON", ".ndjson", "application/x-ndjson"}
	Parquet = Format{"PARQUET", ".parquet", "application/vnd.apache.parquet"}
	HTML    = Format{"HTML", ".html", "text/html; charset=utf-8"}
)

// Zip is the form of a finished file that holds documents.
var Zip = Format{"ZIP", ".zip", "application/zip"}

// FormatNames returns the formats of an ext_type, such as "xlsx, CSV": in upper case, in order, each once.
func FormatNames(extType string) (names []string) {
	for name := range strings.SplitSeq(extType, ",") {
		if name = strings.ToUpper(strings.TrimSpace(name)); name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}
