// Package encode is the interface between the assembler and the formats of finished files. Each format is a
// package below this one; package assembler lists them in formats.go.
package encode

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"sheaf/events"
	"sheaf/events/rows"
	"sheaf/services/assembler/encode/archive"
)

// Format writes one kind of document.
type Format struct {
	events.Format
	Compressed bool // documents are compressed already, so a zip stores them
	// Write writes a document. It leaves garbage in out on an error. It returns errors of reading pages
	// wrapped. Errors that a retry cannot fix are those of this package.
	//
	// The bytes depend on nothing but the pages and the document without Document.Parallel. The clock and the
	// machine make no difference. Memory is bounded whatever the number of rows. No goroutine outlives the
	// call.
	Write func(ctx context.Context, out *archive.Output, doc Document) (Result, error)
}

// Document holds all inputs of a document.
type Document struct {
	Title    string
	Creator  string
	Created  time.Time // zero: unknown; the clock is not used
	Sheets   []Sheet   // one, unless the format has ManySheets
	CSV      events.CSVOptions
	JSON     events.JSONOptions
	Parallel int // approximate maximum of goroutines; 0: one per core
	// Plain means that the document looks as it did before requests had columns, options and sheets. A request
	// without these keeps its bytes. It has one sheet, without a title and without Spec in its columns.
	Plain bool
}

// Sheet is a table of a document.
type Sheet struct {
	Title   string   // "" for the only sheet of a request without sheets
	Columns []Column // nil: there is no header, and so there are no rows
	// Chosen means that the request lists the columns. Values of other names are left out without a warning.
	Chosen bool
	// Found is set if the document holds a part of the rows and the columns are chosen. It has an element for each
	// column and for each key in a link template, see cells.NewFound; the format sets those whose key a row has, see
	// cells.Notes.Err. No column of it is said to be empty.
	Found []bool
	// Near, if set, returns the name in the rows that is most similar to a key that no row has, "" for none.
	Near  func(key string) string
	Zones Zones
	// Open starts to read the pages, from page 1. next returns them in ascending order, then io.EOF. Calls
	// never overlap. next must return when its context ends. A format may open a sheet twice, once the first
	// reading has ended.
	Open func() (next func(context.Context) (Page, error))
}

// Zones says how times become dates. Neither is nil.
type Zones struct {
	Display *time.Location // moments are shown in this zone
	// Source is the zone of texts without an offset. If it is nil, they are shown as they are.
	Source *time.Location
}

// Column is a column of a sheet.
type Column struct {
	Name  string // path of its values in a row; without Spec the name of a field
	Title string
	// Spec is the column as the request describes it; nil for a column of the header, which has type auto.
	Spec *events.Column
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

// Result describes a written document.
type Result struct {
	Rows []int64 // data rows of each sheet of the document, without headers
	// Tables is the number of worksheets or the like that hold them; more than len(Rows) if one did not fit.
	Tables int
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

// Count returns a number with its noun, such as "1 cell" or "2 cells".
func Count(n int64, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return strconv.FormatInt(n, 10) + " " + noun
}

// One returns the verb of a count: that of one, or of many.
func One(n int64, one, many string) string {
	if n == 1 {
		return one
	}
	return many
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
	return fmt.Sprintf("there are %d columns, but the format holds at most %d", e.Columns, e.Max)
}

// NoValuesError means that a sheet has rows, but none has the key of any of its chosen columns. The keys are
// probably wrong.
type NoValuesError struct {
	Sheet string   // its title; "" for the only sheet
	Keys  []string // of all columns, in order
}

// Error names the first keys.
func (e *NoValuesError) Error() string {
	const maxKeys = 5
	shown := make([]string, 0, maxKeys+1)
	for i, key := range e.Keys {
		if i == maxKeys {
			shown = append(shown, fmt.Sprintf("and %d more", len(e.Keys)-maxKeys))
			break
		}
		shown = append(shown, strconv.Quote(key))
	}
	where := ""
	if e.Sheet != "" {
		where = fmt.Sprintf(" of sheet %q", e.Sheet)
	}
	return fmt.Sprintf("no row%s has any of the chosen columns: %s", where, strings.Join(shown, ", "))
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
