package events

import "slices"

// Column is a column of a file, as the request describes it.
type Column struct {
	// Key is the path of its values in a row, see package rows. A field whose name is the whole key wins.
	Key    string `json:"key"`
	Title  string `json:"title,omitempty"`  // header cell; "" is the key
	Type   string `json:"type,omitempty"`   // one of the Column constants; "" is ColumnAuto
	From   string `json:"from,omitempty"`   // how a date is written: one of the From constants, or an strftime pattern
	Format string `json:"format,omitempty"` // Excel number format; "" by type
	// Map replaces values, by their text. "*" is for all others.
	Map   map[string]string `json:"map,omitempty"`
	Join  *string           `json:"join,omitempty"`  // between the scalars of an array; nil: compact JSON
	Link  string            `json:"link,omitempty"`  // LinkValue, a template with {key} in it, or "" for none
	Width int               `json:"width,omitempty"` // characters; 0 by content
}

// Values of Column.Type.
const (
	ColumnAuto     = "auto" // by the kind of each value; no text becomes a date
	ColumnText     = "text"
	ColumnNumber   = "number"
	ColumnBool     = "bool"
	ColumnDate     = "date"
	ColumnDatetime = "datetime"
	ColumnJSON     = "json"
)

// Values of Column.From.
const (
	FromISO    = "iso"     // ISO 8601
	FromUnix   = "unix"    // seconds since 1970, fractions allowed
	FromUnixMS = "unix_ms" // milliseconds since 1970
)

// LinkValue means that the value itself is the URL.
const LinkValue = "true"

// Sheet is one of several tables of an export, with its own source.
type Sheet struct {
	Title   string       `json:"title"`
	RowKey  string       `json:"row_key,omitempty"`
	HTTP    *HTTPRequest `json:"source_http,omitempty"` // this or Raw is set
	Raw     *RawRows     `json:"source_raw,omitempty"`
	Columns []Column     `json:"columns,omitempty"`
}

// Origin names the finished export whose pages an export uses instead of asking a source.
type Origin struct {
	Key    string       `json:"hash_key"`
	Sheets []SheetPages `json:"sheets"` // one for each sheet
}

// SheetPages says which pages hold the rows of a sheet, and how it is known that they are all.
type SheetPages struct {
	Run      uint64 `json:"run"`
	Pages    int    `json:"pages"`
	Rows     int64  `json:"rows"`     // data rows
	Manifest string `json:"manifest"` // see package pages
	Proof    *Proof `json:"proof,omitempty"`
}

// SheetCount returns the number of sheets; an export without Sheets has one.
func (r *Request) SheetCount() int { return max(len(r.Sheets), 1) }

// Sheet returns the request narrowed to one sheet, counted from 0: its source, row key and columns.
func (r *Request) Sheet(i int) Request {
	if len(r.Sheets) == 0 {
		return *r
	}
	s := r.Sheets[i]
	one := *r
	one.Sheets = nil
	one.SourceType, one.HTTP, one.Raw, one.RowKey, one.Columns = SourceHTTP, s.HTTP, s.Raw, s.RowKey, s.Columns
	if s.Raw != nil {
		one.SourceType = SourceRaw
	}
	return one
}

// Files returns the number of documents that options.max_rows makes of sheets with so many data rows, 0 without
// that option.
func (r *Request) Files(rows ...int64) (n int64) {
	if r.Options == nil || r.Options.MaxRows <= 0 {
		return 0
	}
	for _, of := range rows {
		n += max((of-1)/r.Options.MaxRows+1, 1)
	}
	return n * int64(max(len(FormatNames(r.ExtType)), 1))
}

// CrawledSheet returns the pages of a sheet, counted from 0, of an export that was crawled.
func (x *Export) CrawledSheet(i int) SheetPages {
	if len(x.Sheets) > 0 {
		return x.Sheets[i]
	}
	one := SheetPages{Run: x.Run, Pages: x.Pages, Rows: x.Rows, Manifest: x.Manifest, Proof: x.Proof}
	if x.Proof != nil {
		one.Rows = x.Proof.Rows
	}
	return one
}

// HasRaw reports whether rows came with the request.
func (r *Request) HasRaw() bool {
	if len(r.Sheets) > 0 {
		return slices.ContainsFunc(r.Sheets, func(s Sheet) bool { return s.Raw != nil })
	}
	return r.SourceType == SourceRaw
}

// PagesKey returns the key under which the pages of the export are kept.
func (x *Export) PagesKey() string {
	if x.Request.From != nil {
		return x.Request.From.Key
	}
	return x.Key
}
