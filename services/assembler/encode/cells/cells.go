// Package cells turns the values of rows into the cells of columns, for all formats alike.
//
// A [Reader] reads one row at a time. Each column has a type, see events.Column. A value that does not fit
// the type of its column becomes Text, with the text as sent, and is counted in [Notes]. No value is lost.
package cells

// Kind is the kind of a cell.
type Kind uint8

// The kinds of cells.
const (
	Empty    Kind = iota // the value is absent or null, or "" in a column of numbers, booleans or dates
	Text                 // also of a value that does not fit the type of its column
	Number               // a JSON number, with its digits as sent
	Bool                 //
	Date                 // a day
	Datetime             // a moment, or a wall-clock time without a zone
	JSON                 // compact JSON: of an object or array, and of any value in a column of type json
)

// Cell is the value of a column in a row.
type Cell struct {
	Kind Kind
	Bool bool
	// Verbatim reports that the value is a scalar and Text stands in the row as it is. Such a text has no quotes,
	// backslashes and control characters, and is valid UTF-8. Others may have none either.
	Verbatim bool
	// Zoned reports that the moment of a Datetime is known, so that Unix is one.
	Zoned bool
	Nanos int32 // of a Datetime, from 0 to 999,999,999
	// Text is the decoded text, the digits of a number, or JSON. Of a Bool, Date or Datetime it is the text as
	// sent, for formats that cannot hold the value. It is valid until the next row is read.
	Text []byte
	// Unix is the moment of a Datetime, in seconds since 1970 UTC. Of a time without a zone it is that of the
	// wall clock, and of a Date that of its midnight, both taken as UTC.
	Unix int64
	// Wall is the wall clock that is shown: seconds since 1970 in the zone of the document. Its year is from 1
	// to 9999.
	Wall int64
	Link []byte // URL that the cell links to, nil for none; valid until the next row is read
}
