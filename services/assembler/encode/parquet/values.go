package parquet

import (
	"github.com/parquet-go/parquet-go"

	"sheaf/services/assembler/encode/cells"
)

const (
	daySeconds = 24 * 60 * 60
	micro      = 1_000_000 // of a second
)

// value returns a cell as a value of the column, null if it does not fit. Text is copied into the chunk.
func (col *column) value(c *chunk, cell *cells.Cell) parquet.Value {
	switch col.kind {
	case stringKind:
		if cell.Kind != cells.Empty {
			return c.copyText(cell.Text)
		}
	case digitsKind:
		if cell.Kind == cells.Number {
			return c.copyText(cell.Text)
		}
	case jsonKind:
		if cell.Kind == cells.JSON {
			return c.copyText(cell.Text)
		}
	case boolKind:
		if cell.Kind == cells.Bool {
			return parquet.BooleanValue(cell.Bool)
		}
	case intKind:
		if cell.Kind == cells.Number {
			if v, ok := parseInt(cell.Text); ok {
				return parquet.Int64Value(v)
			}
		}
	case doubleKind:
		if cell.Kind == cells.Number {
			if d, ok := parseDecimal(cell.Text); ok {
				if f, ok := d.float(cell.Text); ok {
					return parquet.DoubleValue(f)
				}
			}
		}
	case decimalKind:
		if cell.Kind == cells.Number {
			if d, ok := parseDecimal(cell.Text); ok {
				if v, ok := d.scaled(col.scale); ok {
					return parquet.Int64Value(v)
				}
			}
		}
	case dateKind:
		if cell.Kind == cells.Date {
			return parquet.Int32Value(int32(floorDiv(cell.Unix, daySeconds)))
		}
	case momentKind:
		if cell.Kind == cells.Datetime {
			return parquet.Int64Value(cell.Unix*micro + int64(cell.Nanos)/1000)
		}
	case wallKind:
		if cell.Kind == cells.Datetime {
			return parquet.Int64Value(cell.Wall*micro + int64(cell.Nanos)/1000)
		}
	}
	return parquet.NullValue()
}

// floorDiv is a/b, rounded down.
func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// copyText returns a text as a value.
func (c *chunk) copyText(text []byte) parquet.Value {
	from := len(c.text)
	c.text = append(c.text, text...)
	return parquet.ByteArrayValue(c.text[from:])
}
