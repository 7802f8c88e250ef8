// Package json writes JSON, an array of objects, and NDJSON, an object a line (RFC 8259, UTF-8).
//
// Without chosen columns an object is a row as sent, on one line: names, escapes and digits stay as they are.
// With them it has one member for each column, in order, named by its key or its title. Numbers keep their
// digits. Dates are ISO 8601, with the offset of the zone shown if the moment is known. Other values are null.
package json

import (
	"context"
	"fmt"
	"time"

	"sheaf/events"
	"sheaf/events/rows"
	"sheaf/services/assembler/encode"
	"sheaf/services/assembler/encode/archive"
	"sheaf/services/assembler/encode/blocks"
	"sheaf/services/assembler/encode/cells"

	"github.com/go-json-experiment/json/jsontext"
)

// Format and Lines are the formats of this package, with one sheet a file.
var (
	Format = encode.Format{Format: events.JSON, Write: func(ctx context.Context, out *archive.Output,
		doc encode.Document) (encode.Result, error) {
		return write(ctx, out, doc, true)
	}}
	Lines = encode.Format{Format: events.NDJSON, Write: func(ctx context.Context, out *archive.Output,
		doc encode.Document) (encode.Result, error) {
		return write(ctx, out, doc, false)
	}}
)

func write(ctx context.Context, out *archive.Output, doc encode.Document, array bool) (encode.Result, error) {
	sheet := doc.Sheets[0]
	job := blocks.Job[*cells.Notes]{Sheet: sheet, Parallel: doc.Parallel,
		New: func() (blocks.Encoder[*cells.Notes], error) { return newEncoder(sheet, doc.JSON, array) },
	}
	if array {
		job.Head = []byte("[")
		job.Tail = func(rows int64) []byte {
			if rows == 0 {
				return []byte("]\n")
			}
			return []byte("\n]\n")
		}
	}
	res, err := blocks.WriteCells(ctx, out, job)
	if err != nil {
		return encode.Result{}, fmt.Errorf("write the JSON file: %w", err)
	}
	return res, nil
}

// encoder writes rows as objects.
type encoder struct {
	array  bool
	reader *cells.Reader // nil: rows stay as they were sent
	names  [][]byte      // by column: what is before its value
}

func newEncoder(sheet encode.Sheet, o events.JSONOptions, array bool) (*encoder, error) {
	e := &encoder{array: array}
	if !sheet.Chosen {
		return e, nil
	}
	var err error
	if e.reader, err = cells.NewReader(sheet); err != nil {
		return nil, err
	}
	for i, c := range sheet.Columns {
		name, before := c.Name, "{"
		if o.Titles {
			name = c.Title
		}
		if i > 0 {
			before = ","
		}
		b, err := jsontext.AppendQuote([]byte(before), name)
		if err != nil {
			return nil, fmt.Errorf("columns[%d]: the name is not UTF-8: %w", i, err)
		}
		e.names = append(e.names, append(b, ':'))
	}
	return e, nil
}

// Row appends the object of a row.
func (e *encoder) Row(to *blocks.Buffer, c *rows.Cursor, n int64) {
	switch {
	case !e.array:
	case n == 0:
		to.B = append(to.B, '\n')
	default:
		to.B = append(to.B, ",\n"...)
	}
	if e.reader == nil {
		to.B = c.AppendRow(to.B)
	} else {
		row := e.reader.Row(c)
		for i := range row {
			to.B = e.appendValue(append(to.B, e.names[i]...), &row[i])
			to.Cut()
		}
		to.B = append(to.B, '}')
	}
	if !e.array {
		to.B = append(to.B, '\n')
	}
}

// Notes returns the notes since the last call, nil if rows stay as they are.
func (e *encoder) Notes() *cells.Notes {
	if e.reader == nil {
		return nil
	}
	return e.reader.Notes()
}

func (e *encoder) appendValue(b []byte, cell *cells.Cell) []byte {
	switch cell.Kind {
	case cells.Empty:
		return append(b, "null"...)
	case cells.Bool:
		if cell.Bool {
			return append(b, "true"...)
		}
		return append(b, "false"...)
	case cells.Number:
		return append(b, cell.Text...)
	case cells.JSON: // may have half a surrogate pair
		return rows.AppendCompact(b, cell.Text)
	case cells.Text:
		return appendQuoted(b, cell.Text)
	case cells.Date:
		b = append(b, '"')
		return append(time.Unix(cell.Wall, 0).UTC().AppendFormat(b, time.DateOnly), '"')
	}
	t := time.Unix(cell.Wall, int64(cell.Nanos)).UTC()
	b = append(b, '"')
	if !cell.Zoned {
		return append(t.AppendFormat(b, "2006-01-02T15:04:05.999999999"), '"')
	}
	// Offsets before about 1900 have seconds, which ISO 8601 cannot say.
	zone := time.FixedZone("", int(cell.Wall-cell.Unix)/60*60)
	return append(time.Unix(cell.Unix, int64(cell.Nanos)).In(zone).AppendFormat(b, time.RFC3339Nano), '"')
}

// appendQuoted appends a text as a JSON string.
func appendQuoted(b, text []byte) []byte {
	plain := true
	for _, c := range text {
		if c < ' ' || c == '"' || c == '\\' || c >= 0x80 {
			plain = false
			break
		}
	}
	if plain {
		return append(append(append(b, '"'), text...), '"')
	}
	b, _ = jsontext.AppendQuote(b, text) // an error says that bytes were not UTF-8 and became U+FFFD
	return b
}
