package realreaders

import (
	"strings"
	"time"

	"sheaf/services/assembler/encode/parquet"
)

var parquetFormat = format{Format: parquet.Format, readers: []reader{{name: "hyparquet", blur: withoutBOM}, {name: "duckdb", blur: withoutBOM}},
	shows: showParquet, same: sameNumber}

// withoutBOM leaves out U+FEFF at the beginning, as JavaScript's TextDecoder does.
func withoutBOM(s string) string { return strings.TrimPrefix(s, "\ufeff") }

func showParquet(f field, v value) read {
	switch key := f.column.Key; {
	case v.kind == empty:
		return read{}
	case key == "tags", key == "object":
		return read{"json", v.text}
	case key == "long", key == "exact", key == "mixed":
		return read{"text", v.text}
	case key == "day" && v.kind == text:
		return read{} // it does not fit, and Parquet has no second type
	case key == "fraction":
		return read{"float", asFloat(v.text)}
	}
	switch v.kind {
	case number:
		return read{"number", v.text}
	case boolean:
		return read{"bool", v.text}
	case date:
		return read{"date", v.at.Format(time.DateOnly)}
	case moment:
		return read{"time", v.at.Format(micros)}
	case clock:
		return read{"clock", v.at.Format(micros)}
	}
	return read{"text", v.text}
}
