package assembler

import (
	"slices"
	"strings"

	"sheaf/events"
	"sheaf/services/assembler/encode"
	"sheaf/services/assembler/encode/xlsx"
)

// formats are all kinds of finished files. An export of any other type gets the first.
var formats = []encode.Format{
	xlsx.Format,
}

// Formats returns the kinds of finished files that an ingress may offer.
func Formats() []events.Format {
	list := make([]events.Format, len(formats))
	for i, f := range formats {
		list[i] = f.Format
	}
	return list
}

// formatOf returns the format of an export's type.
func formatOf(extType string) encode.Format {
	i := slices.IndexFunc(formats, func(f encode.Format) bool { return strings.EqualFold(f.Name, extType) })
	return formats[max(i, 0)]
}
