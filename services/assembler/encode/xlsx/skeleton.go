package xlsx

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/xuri/excelize/v2"
)

// skeleton is the workbook around the rows. excelize renders its parts; the rows go into each sheet's
// sheetData.
//
// excelize takes about 1 ms for that, several times as long as the rows of a small export (measured).
// Workbooks of one sheet differ only in their cell ranges and document properties. Their parts come from a
// template that excelize rendered once; only a second sheet needs excelize again.
type skeleton struct {
	spec   Spec
	f      *excelize.File // nil as long as the workbook has one sheet
	done   []func() error // calls to make on f once it exists
	sheets int
	head   *header // nil: the workbook has no rows
	parts  map[string][]byte
}

func newSkeleton(spec Spec, h *header) (*skeleton, error) {
	s := &skeleton{spec: spec, head: h}
	if _, err := s.template(); err != nil {
		return nil, err
	}
	return s, nil
}

// Cell styles, as indexes into cellXfs. A quoted cell looks like any other. Its quotePrefix marks it as text
// even if it begins like a formula (ECMA-376 part 1, 18.8.45). It stays text when a user edits the cell or
// saves the sheet in another format.
const (
	styleBold = 1 + iota
	styleQuoted
	styleBoldQuoted
)

// addStyles adds the styles. excelize cannot set quotePrefix but preserves it. Cells are locked by default;
// setting that explicitly makes excelize create a second style.
func addStyles(f *excelize.File) error {
	bold, locked, quoted := &excelize.Font{Bold: true}, &excelize.Protection{Locked: true}, true
	for want, style := range []*excelize.Style{styleBold: {Font: bold}, styleQuoted: {Protection: locked},
		styleBoldQuoted: {Font: bold, Protection: locked}} {
		if style == nil {
			continue
		}
		got, err := f.NewStyle(style)
		if err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("excelize gave style %d the index %d", want, got)
		}
		if style.Protection != nil {
			f.Styles.CellXfs.Xf[got].QuotePrefix = &quoted
		}
	}
	return nil
}

// file makes excelize build the workbook up to its current state.
func (s *skeleton) file() error {
	s.f = excelize.NewFile()
	s.f.SetZipWriter(func(io.Writer) excelize.ZipWriter { return s })
	s.f.Pkg.Store(corePart, coreProperties(s.spec))
	if err := s.f.SetAppProps(&excelize.AppProperties{Application: "Sheaf"}); err != nil {
		return err
	}
	if err := addStyles(s.f); err != nil {
		return err
	}
	for _, do := range s.done {
		if err := do(); err != nil {
			return err
		}
	}
	s.done = nil
	return nil
}

// do applies a call to f now, or once f exists.
func (s *skeleton) do(what func() error) error {
	if s.f == nil {
		s.done = append(s.done, what)
		return nil
	}
	return what()
}

// coreProperties returns corePart. excelize's SetDocProps writes it without the cp prefix, which is valid,
// but exceljs refuses such files.
func coreProperties(spec Spec) []byte {
	creator := spec.Creator
	if creator == "" {
		creator = "Sheaf"
	}
	when := spec.Created.UTC().Format(time.RFC3339)
	var b bytes.Buffer
	b.WriteString(xml.Header + `<cp:coreProperties` +
		` xmlns:cp="http://schemas.openxmlformats.org/package/2006/metadata/core-properties"` +
		` xmlns:dc="http://purl.org/dc/elements/1.1/"` +
		` xmlns:dcterms="http://purl.org/dc/terms/"` +
		` xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><dc:title>`)
	_ = xml.EscapeText(&b, []byte(spec.Title)) // a Buffer returns no errors
	b.WriteString(`</dc:title><dc:creator>`)
	_ = xml.EscapeText(&b, []byte(creator))
	b.WriteString(`</dc:creator><dcterms:created xsi:type="dcterms:W3CDTF">` + when +
		`</dcterms:created><dcterms:modified xsi:type="dcterms:W3CDTF">` + when +
		`</dcterms:modified></cp:coreProperties>`)
	return b.Bytes()
}

const (
	corePart     = "docProps/core.xml"
	workbookPart = "xl/workbook.xml"
)

func sheetName(n int) string { return "Sheet" + strconv.Itoa(n) }
func sheetPath(n int) string { return "xl/worksheets/sheet" + strconv.Itoa(n) + ".xml" }

// relationsPath returns the part with the links of a worksheet.
func relationsPath(n int) string {
	return "xl/worksheets/_rels/sheet" + strconv.Itoa(n) + ".xml.rels"
}

// addSheet adds the next sheet.
func (s *skeleton) addSheet() error {
	s.sheets++
	if s.sheets == 2 {
		if err := s.file(); err != nil {
			return err
		}
	}
	name := sheetName(s.sheets)
	return s.do(func() error {
		if _, err := s.f.NewSheet(name); err != nil {
			return err
		}
		if s.head == nil {
			return nil
		}
		return s.f.SetPanes(name, &excelize.Panes{
			Freeze:      true,
			YSplit:      1,
			TopLeftCell: "A2",
			ActivePane:  "bottomLeft",
			Selection:   []excelize.Selection{{SQRef: "A2", ActiveCell: "A2", Pane: "bottomLeft"}},
		})
	})
}

var errNoSheetData = errors.New("excelize wrote a sheet in which sheetData or the end is not found")

// filled returns the cell range of a sheet's rows; "" if it has no cells.
func (s *skeleton) filled(fromRow, toRow int) string {
	if s.head == nil || len(s.head.titles) == 0 || toRow < fromRow {
		return ""
	}
	return "A" + strconv.Itoa(fromRow) + ":" + columnName(len(s.head.titles)-1) + strconv.Itoa(toRow)
}

// render returns the XML before and after the rows of the last sheet, which has rowCount rows, header
// included. It also renders all other parts.
func (s *skeleton) render(rowCount int, widths []uint8) (head, tail []byte, err error) {
	if all, name := s.filled(1, rowCount), sheetName(s.sheets); all != "" {
		err := s.do(func() error {
			if err := s.f.SetSheetDimension(name, all); err != nil {
				return err
			}
			return s.f.AutoFilter(name, all, nil)
		})
		if err != nil {
			return nil, nil, err
		}
	}
	if s.f == nil {
		t, err := s.template()
		if err != nil {
			return nil, nil, err
		}
		s.parts = t.fill(s, rowCount)
	} else {
		s.parts = map[string][]byte{}
		if _, err := s.f.WriteToBuffer(); err != nil {
			return nil, nil, fmt.Errorf("render the workbook's parts: %w", err)
		}
	}
	sheet := s.parts[sheetPath(s.sheets)]
	open, end := []byte("<sheetData>"), []byte("</sheetData>")
	i := bytes.Index(sheet, open)
	if i < 0 || !bytes.HasPrefix(sheet[i+len(open):], end) {
		return nil, nil, errNoSheetData
	}
	head = appendColumns(slices.Clone(sheet[:i]), widths)
	return append(head, open...), sheet[i+len(open):], nil
}

// appendColumns appends the column widths, which belong right before sheetData (ECMA-376 part 1, 18.3.1.99).
// excelize's SetColWidth takes quadratic time in the number of columns.
func appendColumns(b []byte, widths []uint8) []byte {
	if len(widths) == 0 {
		return b
	}
	b = append(b, `<cols>`...)
	for i, w := range widths {
		b = append(b, `<col min="`...)
		b = strconv.AppendInt(b, int64(i+1), 10)
		b = append(b, `" max="`...)
		b = strconv.AppendInt(b, int64(i+1), 10)
		b = append(b, `" width="`...)
		b = strconv.AppendInt(b, int64(w), 10)
		b = append(b, `" customWidth="1"/>`...)
	}
	return append(b, `</cols>`...)
}

// insertIgnoredErrors stops Excel from marking numbers stored as text in the given ranges. The element goes
// last in the XML after the rows: excelize writes none of the elements that must follow it (ECMA-376 part 1,
// 18.3.1.99).
func insertIgnoredErrors(tail []byte, ranges string) ([]byte, error) {
	if ranges == "" {
		return tail, nil
	}
	const end = "</worksheet>"
	before, ok := bytes.CutSuffix(tail, []byte(end))
	if !ok {
		return nil, errNoSheetData
	}
	return slices.Concat(before, []byte(`<ignoredErrors><ignoredError sqref="`), []byte(ranges),
		[]byte(`" numberStoredAsText="1"/></ignoredErrors>`+end)), nil
}

// Create, AddFS and Close implement the zip writer that excelize writes to.
func (s *skeleton) Create(name string) (io.Writer, error) {
	return part{s, name}, nil
}

// AddFS refuses: excelize adds no files to a workbook that it created itself.
func (s *skeleton) AddFS(fs.FS) error { return errors.ErrUnsupported }

// Close does nothing.
func (s *skeleton) Close() error { return nil }

type part struct {
	s    *skeleton
	name string
}

func (p part) Write(b []byte) (int, error) {
	p.s.parts[p.name] = append(p.s.parts[p.name], b...)
	return len(b), nil
}

// template is a workbook of one sheet without rows, with markers for its cell ranges.
type template struct {
	parts map[string][]byte
}

// kind lists how else two workbooks of one sheet can differ.
type kind struct{ header, cells bool }

// templates caches a *template for each kind in use.
var templates sync.Map

// markColumns and markRows form a placeholder for the real range, in the two notations of ranges.
const (
	markColumns, markRows = 702, 987_654
	mark, absoluteMark    = "ZZ987654", "$ZZ$987654"
)

// template returns the template for s's kind.
func (s *skeleton) template() (*template, error) {
	k := kind{header: s.head != nil, cells: s.filled(1, 1) != ""}
	if t, ok := templates.Load(k); ok {
		return t.(*template), nil
	}
	model := &skeleton{}
	if k.header {
		model.head = &header{}
	}
	if k.cells {
		model.head.titles = make([][]byte, markColumns)
	}
	if err := model.file(); err != nil {
		return nil, err
	}
	if err := model.addSheet(); err != nil {
		return nil, err
	}
	if _, _, err := model.render(markRows, nil); err != nil {
		return nil, err
	}
	t := &template{parts: model.parts}
	templates.Store(k, t)
	return t, nil
}

// fill returns the parts of a workbook whose sheet has rowCount rows, header included.
func (t *template) fill(s *skeleton, rowCount int) map[string][]byte {
	parts := maps.Clone(t.parts)
	parts[corePart] = coreProperties(s.spec)
	if s.filled(1, rowCount) == "" {
		return parts
	}
	column, row := columnName(len(s.head.titles)-1), strconv.Itoa(rowCount)
	for _, name := range []string{sheetPath(1), workbookPart} {
		part := bytes.ReplaceAll(parts[name], []byte(mark), []byte(column+row))
		parts[name] = bytes.ReplaceAll(part, []byte(absoluteMark), []byte("$"+column+"$"+row))
	}
	return parts
}
