package assembler

import (
	"slices"

	"sheaf/events"
	"sheaf/services/assembler/encode"
	"sheaf/services/assembler/encode/csv"
	"sheaf/services/assembler/encode/html"
	"sheaf/services/assembler/encode/json"
	"sheaf/services/assembler/encode/parquet"
	"sheaf/services/assembler/encode/xlsx"
)

// formats are all kinds of finished files. An export of any other type gets the first.
var formats = []encode.Format{
	xlsx.Format,
	csv.Format,
	csv.TSV,
	json.Format,
	json.Lines,
	parquet.Format,
	html.Format,
}

// Formats returns the kinds of finished files that an ingress may offer.
func Formats() []events.Format {
	list := make([]events.Format, len(formats))
	for i, f := range formats {
		list[i] = f.Format
	}
	return list
}

// formatsOf returns the formats of an export's type, each once.
func formatsOf(extType string) (list []encode.Format) {
	for _, name := range events.FormatNames(extType) {
		i := slices.IndexFunc(formats, func(f encode.Format) bool { return f.Name == name })
		f := formats[max(i, 0)]
		if !slices.ContainsFunc(list, func(has encode.Format) bool { return has.Name == f.Name }) {
			list = append(list, f)
		}
	}
	if list == nil {
		list = formats[:1]
	}
	return list
}
