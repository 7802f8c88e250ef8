package assembler

import (
	"bytes"
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
	creator := spec.Creator
	if creator == "" {
		creator = "Sheaf" // else excelize's own default stays
	}
	created := spec.Created.UTC().Format(time.RFC3339)
	if err := s.f.SetDocProps(&excelize.DocProperties{
		Title:    spec.Title,
		Creator:  creator,
		Created:  created,
		Modified: created,
	}); err != nil {
		return nil, err
	}
	if err := s.f.SetAppProps(&excelize.AppProperties{Application: "Sheaf"}); err != nil {
		return nil, err
	}
	var err error
	s.bold, err = s.f.NewStyle(&excelize.Style{Font: &excelize.Font{Bold: true}})
	return s, err
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
	xml := s.parts[sheetPath(s.sheets)]
	open, end := []byte("<sheetData>"), []byte("</sheetData>")
	i := bytes.Index(xml, open)
	if i < 0 || !bytes.HasPrefix(xml[i+len(open):], end) {
		return nil, nil, errNoSheetData
	}
	head = appendColumns(slices.Clone(xml[:i]), widths)
	return append(head, open...), xml[i+len(open):], nil
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
