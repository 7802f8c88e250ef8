// Package cells turns the values of rows into the cells of columns, for all formats alike.
package cells

// Kind is the kind of a cell.
type Kind uint8

// The kinds of cells.
const (
	Empty    Kind = iota // the value is absent or null
	Text                 // also of a value that does not fit the type of its column
	Number               // a JSON number, with its digits as sent
	Bool                 //
	Date                 // a day
	Datetime             // a moment, or a wall-clock time without a zone
	JSON                 // compact JSON of an object or array
)

// Cell is the value of a column in a row.
type Cell struct {
	Kind Kind
	Bool bool
	// Text is the decoded text, the digits of a number, or JSON. It is valid until the next row is read.
	Text []byte
	// Unix and Nanos are the moment of a Datetime, in seconds since 1970 UTC. Of a time without a zone they are
	// those of the wall clock, and of a Date those of its midnight, both taken as UTC.
	Unix  int64
	Nanos int32
	// Wall is the wall clock that is shown: seconds since 1970 in the zone of the document.
	Wall int64
	// Zoned reports that the moment is known, so that Unix is one.
	Zoned bool
	Link  []byte // URL that the cell links to, nil for none; valid until the next row is read
}
