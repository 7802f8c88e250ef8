package assembler

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"time"

	"github.com/xuri/excelize/v2"
)

// skeleton is the workbook around the rows. excelize makes all its parts; the
// rows are spliced into its sheets where sheetData stands.
type skeleton struct {
	f      *excelize.File
	sheets int
	head   *header // nil: the workbook has no rows at all
	bold   int     // the style of the header row
	parts  map[string][]byte
}

func newSkeleton(spec Spec, h *header) (*skeleton, error) {
	s := &skeleton{f: excelize.NewFile(), head: h}
	s.f.SetZipWriter(func(io.Writer) excelize.ZipWriter { return s })
	s.f.Pkg.Store("docProps/core.xml", coreProperties(spec))
	if err := s.f.SetAppProps(&excelize.AppProperties{Application: "Sheaf"}); err != nil {
		return nil, err
	}
	var err error
	s.bold, err = s.f.NewStyle(&excelize.Style{Font: &excelize.Font{Bold: true}})
	return s, err
}

// coreProperties returns docProps/core.xml. excelize's SetDocProps writes it
// without the cp prefix, which is as right, but exceljs refuses such files.
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

func sheetName(n int) string { return "Sheet" + strconv.Itoa(n) }
func sheetPath(n int) string { return "xl/worksheets/sheet" + strconv.Itoa(n) + ".xml" }

// addSheet adds the next sheet.
func (s *skeleton) addSheet() error {
	s.sheets++
	name := sheetName(s.sheets)
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
}

var errNoSheetData = errors.New("excelize wrote a sheet in which sheetData is not found")

// filled is the range of a sheet's cells; "" when it has none.
func (s *skeleton) filled(fromRow, toRow int) string {
	if s.head == nil || len(s.head.titles) == 0 || toRow < fromRow {
		return ""
	}
	return "A" + strconv.Itoa(fromRow) + ":" + columnName(len(s.head.titles)-1) + strconv.Itoa(toRow)
}

// ignoreTextNumbers has Excel not mark the numbers on the last sheet that are
// text. It may be called once a sheet.
func (s *skeleton) ignoreTextNumbers(rowCount int) error {
	if data := s.filled(2, rowCount); data != "" {
		return s.f.AddIgnoredErrors(sheetName(s.sheets), data, excelize.IgnoredErrorsNumberStoredAsText)
	}
	return nil
}

// render returns the XML before and after the rows of the last sheet, which
// has that many rows with the header, and renders all other parts.
func (s *skeleton) render(rowCount int, widths []uint8) (head, tail []byte, err error) {
	if all := s.filled(1, rowCount); all != "" {
		name := sheetName(s.sheets)
		if err := s.f.SetSheetDimension(name, all); err != nil {
			return nil, nil, err
		}
		if err := s.f.AutoFilter(name, all, nil); err != nil {
			return nil, nil, err
		}
	}
	s.parts = map[string][]byte{}
	if _, err := s.f.WriteToBuffer(); err != nil {
		return nil, nil, fmt.Errorf("render the workbook's parts: %w", err)
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

// appendColumns appends the widths. They go right before sheetData (ECMA-376
// part 1, 18.3.1.99). excelize's SetColWidth costs the square of the columns.
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

// Create, AddFS and Close make skeleton the zip that excelize writes to.
func (s *skeleton) Create(name string) (io.Writer, error) {
	return part{s, name}, nil
}

// AddFS refuses: excelize adds no files to a workbook that it made itself.
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
