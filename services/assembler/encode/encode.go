// Package encode is the interface between the assembler and the formats of finished files. Each format is a
// package below this one; package assembler lists them in formats.go.
package encode

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"time"

	"sheaf/events"
	"sheaf/events/rows"
)

// Format writes one kind of finished file.
type Format struct {
	events.Format
	// Write writes a document to dst, which is empty and open for reading and writing. It does not sync dst,
	// and leaves garbage in it on an error.
	//
	// next returns the pages in ascending order from 1, then io.EOF. Calls never overlap. next must return
	// when its context ends. Write returns its other errors wrapped. Errors that a retry cannot fix are those
	// of this package.
	//
	// The file's bytes depend on nothing but the rows and the document without Document.Parallel. How the
	// rows are cut into pages, the clock and the machine make no difference. Memory is bounded whatever the
	// number of rows.
	Write func(ctx context.Context, dst *os.File, doc Document,
		next func(context.Context) (Page, error)) (Result, error)
}

// Document holds all inputs of a file besides its pages.
type Document struct {
	Entry    string // name of the document in the file, if the format is an archive
	Title    string
	Creator  string
	Created  time.Time // zero: unknown; the clock is not used
	Sheet    Sheet
	Parallel int // approximate maximum of goroutines; 0: one per core
}

// Sheet is a table of a document.
type Sheet struct {
	Columns []Column // nil: there is no header, and so there are no rows
}

// Column is a column of a sheet.
type Column struct {
	Name  string // of the field that holds its values
	Title string
}

// maxTitle is how many characters of a longer title an encoder receives at least.
const maxTitle = 32_767

// Columns reads the columns from a header, the first row of a page; nil if there is none. If a name occurs
// twice, its first position and its last title count. If a title is null or "", the name is the title,
// because PivotTables refuse a column without a title.
func Columns(page []byte) []Column {
	c := rows.NewCursor(page)
	if !c.NextRow() {
		return nil
	}
	columns, at := []Column{}, map[string]int{}
	for {
		raw, escaped, v, ok := c.NextField()
		if !ok {
			return columns
		}
		if escaped {
			raw = rows.Unquote(nil, raw)
		}
		name, title := string(raw), string(AppendText(nil, v, maxTitle))
		if title == "" {
			title = name
		}
		if i, twice := at[name]; twice {
			columns[i].Title = title
			continue
		}
		at[name] = len(columns)
		columns = append(columns, Column{Name: name, Title: title})
	}
}

// Page is one page of a source.
type Page struct {
	Number int // from 1, ascending without gaps
	// Rows is a JSON array that passed rows.Check. It must not change before Release is called or
	// Write returns.
	Rows []byte
	// RowCount is the number of rows in Rows, the first included. 0 means unknown: the writer then counts
	// them, which costs time. A wrong count fails with a [*RowsError].
	RowCount int
	// SkipFirst says that the first row is the header or repeats it. It is not written.
	SkipFirst bool
	// Release, if set, is called once Rows is no longer read. After an error it may not be called.
	Release func()
}

// Result describes the written file.
type Result struct {
	Rows   int64 // data rows, without headers
	Sheets int
	Size   int64             // of the file, in bytes
	Sha256 [sha256.Size]byte // of the file
	// Warnings has at most one entry of each code, except of those that are about a column.
	Warnings []Warning
}

// Warning is a flaw of the file that its owner should know about.
type Warning struct {
	Code    string
	Message string // one sentence for the export's owner
	Count   int64  // number of affected cells, sheets or values
	// First is the first affected place: a cell such as "Sheet1!C7", or the name of a field, cut at 100
	// characters.
	First string
}

// ErrNoPages is returned if next returns io.EOF before the first page.
var ErrNoPages = errors.New("there are no pages, not even an empty first one")

// ErrPageOrder is returned if next does not return the pages 1, 2, 3 and so on.
var ErrPageOrder = errors.New("the pages are not in order")

// ErrNoHeader is returned if page 1 is empty, which leaves no columns, but a later page has rows.
var ErrNoHeader = errors.New("page 1 is empty and so gives no header, but a later page has rows")

// ErrTooLarge is returned if the format cannot hold so much.
var ErrTooLarge = errors.New("the file would be too large for its format")

// TooManyColumnsError means that the header has more columns than the format allows.
type TooManyColumnsError struct {
	Columns int // in the header
	Max     int // of the format
}

// Error names the number of columns and the limit.
func (e *TooManyColumnsError) Error() string {
	return fmt.Sprintf("the header has %d columns, but a worksheet has at most %d", e.Columns, e.Max)
}

// RowsError means that a page does not have as many rows as it claims: its bytes are not those that were
// checked.
type RowsError struct {
	Page, Want, Got int
}

// Error names the page and both counts.
func (e *RowsError) Error() string {
	return fmt.Sprintf("page %d should have %d rows but has %d", e.Page, e.Want, e.Got)
}
