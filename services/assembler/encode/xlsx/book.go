package xlsx

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"sheaf/services/assembler/encode"
)

// book makes the parts of a workbook around its rows. The parts of a plain one are those of skeleton.
type book struct {
	spec   Spec
	styles *styles
	taken  map[string]bool // names of worksheets, in lower case
	sheets []worksheet
}

// worksheet is a worksheet that has begun.
type worksheet struct {
	name    string
	columns int // of the header; 0: it has no cells
	rows    int // header included, once it has ended
}

func newBook(spec Spec) *book {
	return &book{spec: spec, styles: newStyles(), taken: map[string]bool{}}
}

const (
	mainNamespace     = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
	relationNamespace = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
	packageNamespace  = "http://schemas.openxmlformats.org/package/2006/relationships"
	contentType       = "application/vnd.openxmlformats-officedocument."
)

// maxSheetName is the maximum length of a worksheet's name, in UTF-16 code units.
const maxSheetName = 31

// name returns a name for a worksheet and takes it: the title as Excel allows it, or SheetN if there is none. A
// name that is taken, in any case, gets a number, as does that of a further worksheet of the same rows.
func (b *book) name(title string) string {
	title = cleanTitle(title)
	for n := 1; ; n++ {
		name := title
		switch {
		case title == "":
			name = sheetName(n)
		case n > 1:
			suffix := " (" + strconv.Itoa(n) + ")"
			name = strings.TrimRight(cutUnits(title, maxSheetName-len(suffix)), " ") + suffix
		}
		if key := strings.ToLower(name); !b.taken[key] {
			b.taken[key] = true
			return name
		}
	}
}

// cleanTitle makes a title that Excel allows as the name of a worksheet, perhaps "".
func cleanTitle(title string) string {
	title = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7F || r >= 0xFFFE && r <= 0xFFFF || strings.ContainsRune(`[]:*?/\`, r) {
			return '_'
		}
		return r
	}, strings.ToValidUTF8(title, "\uFFFD"))
	trim := func(s string) string { return strings.Trim(s, "' \t\u00a0\u3000") }
	title = trim(cutUnits(trim(title), maxSheetName))
	if strings.EqualFold(title, "History") { // Excel reserves it
		title += "_"
	}
	return title
}

// cutUnits returns the first characters of a text that have at most n UTF-16 code units.
func cutUnits(text string, n int) string {
	for i, r := range text {
		if n -= utf16.RuneLen(r); n < 0 {
			return text[:i]
		}
	}
	return text
}

// addSheet begins a worksheet.
func (b *book) addSheet(name string, h *header) {
	w := worksheet{name: name}
	if h != nil {
		w.columns = len(h.titles)
	}
	b.sheets = append(b.sheets, w)
}

// around returns the XML before and after the rows of the last worksheet. links and ignored are parts of it:
// hyperlinks, and the ranges of numbers that are text.
func (b *book) around(rowCount int, widths []uint8, links []byte, ignored string) (head, tail []byte) {
	w := &b.sheets[len(b.sheets)-1]
	w.rows = rowCount
	var h, t bytes.Buffer
	all := "A1"
	if w.columns > 0 && rowCount > 0 {
		all = "A1:" + columnName(w.columns-1) + strconv.Itoa(rowCount)
	}
	selected := ""
	if len(b.sheets) == 1 {
		selected = ` tabSelected="1"`
	}
	h.WriteString(xml.Header + `<worksheet xmlns="` + mainNamespace + `" xmlns:r="` + relationNamespace + `">` +
		`<sheetPr><pageSetUpPr fitToPage="1"/></sheetPr><dimension ref="` + all + `"/>` +
		`<sheetViews><sheetView` + selected + ` workbookViewId="0">`)
	if w.columns > 0 {
		h.WriteString(`<pane ySplit="1" topLeftCell="A2" activePane="bottomLeft" state="frozen"/>` +
			`<selection pane="bottomLeft" activeCell="A2" sqref="A2"/>`)
	}
	h.WriteString(`</sheetView></sheetViews><sheetFormatPr defaultRowHeight="15"/>`)
	head = append(appendColumns(h.Bytes(), widths), `<sheetData>`...)

	t.WriteString(`</sheetData>`)
	if w.columns > 0 {
		t.WriteString(`<autoFilter ref="` + all + `"/>`)
	}
	if len(links) > 0 {
		t.WriteString(`<hyperlinks>`)
		t.Write(links)
		t.WriteString(`</hyperlinks>`)
	}
	t.WriteString(`<pageMargins left="0.4" right="0.4" top="0.5" bottom="0.6" header="0.3" footer="0.3"/>` +
		`<pageSetup paperSize="9" orientation="` + orientation(widths) + `" fitToHeight="0"/>` +
		`<headerFooter><oddFooter>&amp;C&amp;P / &amp;N</oddFooter></headerFooter>`)
	if ignored != "" {
		t.WriteString(`<ignoredErrors><ignoredError sqref="` + ignored + `" numberStoredAsText="1"/></ignoredErrors>`)
	}
	t.WriteString(`</worksheet>`)
	return head, t.Bytes()
}

// portraitWidth is how many characters A4 holds in portrait, in the size of the cells.
const portraitWidth = 95

func orientation(widths []uint8) string {
	sum := 0
	for _, w := range widths {
		sum += int(w)
	}
	if sum > portraitWidth {
		return "landscape"
	}
	return "portrait"
}

// part returns a part of the workbook that is not about one worksheet. The late parts are complete once all
// worksheets have ended.
func (b *book) part(name string) ([]byte, error) {
	switch name {
	case corePart:
		return coreProperties(b.spec), nil
	case "xl/styles.xml":
		return b.styles.part(), nil
	case workbookPart:
		return b.workbook(), nil
	case "xl/_rels/workbook.xml.rels":
		return b.relations(), nil
	case "[Content_Types].xml":
		return b.contentTypes(), nil
	}
	t, err := new(skeleton).template() // the same in all workbooks
	if err != nil {
		return nil, err
	}
	return t.parts[name], nil
}

func (b *book) workbook() []byte {
	var x, names bytes.Buffer
	x.WriteString(xml.Header + `<workbook xmlns="` + mainNamespace + `" xmlns:r="` + relationNamespace + `">` +
		`<workbookPr defaultThemeVersion="164011"/><bookViews>` +
		`<workbookView xWindow="0" yWindow="0" windowWidth="28800" windowHeight="15000"/></bookViews><sheets>`)
	for i, w := range b.sheets {
		fmt.Fprintf(&x, `<sheet name="%s" sheetId="%d" r:id="rId%d"/>`, escaped(w.name), i+1, i+1)
		if w.columns == 0 {
			continue
		}
		sheet := escaped("'" + strings.ReplaceAll(w.name, "'", "''") + "'")
		const end = `</definedName>`
		fmt.Fprintf(&names, `<definedName name="_xlnm._FilterDatabase" localSheetId="%d" hidden="1">%s!$A$1:$%s$%d`+end,
			i, sheet, columnName(w.columns-1), w.rows)
		fmt.Fprintf(&names, `<definedName name="_xlnm.Print_Titles" localSheetId="%d">%s!$1:$1`+end, i, sheet)
	}
	x.WriteString(`</sheets>`)
	if names.Len() > 0 {
		x.WriteString(`<definedNames>` + names.String() + `</definedNames>`)
	}
	x.WriteString(`</workbook>`)
	return x.Bytes()
}

func (b *book) relations() []byte {
	var x bytes.Buffer
	x.WriteString(xml.Header + `<Relationships xmlns="` + packageNamespace + `">`)
	relation := func(n int, kind, target string) {
		fmt.Fprintf(&x, `<Relationship Id="rId%d" Type="`+relationNamespace+`/%s" Target="%s"/>`, n, kind, target)
	}
	n := len(b.sheets)
	for i := range b.sheets {
		relation(i+1, "worksheet", strings.TrimPrefix(sheetPath(i+1), "xl/"))
	}
	relation(n+1, "styles", "styles.xml")
	relation(n+2, "theme", "theme/theme1.xml")
	x.WriteString(`</Relationships>`)
	return x.Bytes()
}

func (b *book) contentTypes() []byte {
	var x bytes.Buffer
	x.WriteString(xml.Header + `<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">` +
		`<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>` +
		`<Default Extension="xml" ContentType="application/xml"/>`)
	override := func(part, kind string) {
		x.WriteString(`<Override PartName="/` + part + `" ContentType="` + kind + `+xml"/>`)
	}
	override(workbookPart, contentType+"spreadsheetml.sheet.main")
	for i := range b.sheets {
		override(sheetPath(i+1), contentType+"spreadsheetml.worksheet")
	}
	override("xl/styles.xml", contentType+"spreadsheetml.styles")
	override("xl/theme/theme1.xml", contentType+"theme")
	override(corePart, "application/vnd.openxmlformats-package.core-properties")
	override("docProps/app.xml", contentType+"extended-properties")
	x.WriteString(`</Types>`)
	return x.Bytes()
}

// newTypedHeader makes the header of a sheet whose document is not plain; h is nil if there is none.
func (b *book) newTypedHeader(sheet encode.Sheet) (h *header, err error) {
	if h, err = newHeader(sheet.Columns); h == nil || err != nil {
		return nil, err
	}
	h.sheet = &sheet
	for _, c := range sheet.Columns {
		h.styles = append(h.styles, b.styles.column(c))
	}
	return h, nil
}

// appendTitles is appendRow for a sheet whose document is not plain.
func (h *header) appendTitles(dst []byte) (_ []byte, cuts cellCuts) {
	lines := 1
	for _, title := range h.titles {
		lines = max(lines, 1+bytes.Count(title, []byte("\n")))
	}
	dst = append(appendHeight(append(dst, `<row r="1"`...), lines), '>')
	for i, title := range h.titles {
		if len(title) == 0 {
			continue
		}
		style := h.styles[i].title
		if beginsFormula(title) {
			style += titleQuoted
		}
		if slices.Contains(title, '\n') {
			style += titleWrapped
		}
		dst = append(append(dst, h.refs[i].text()...), `1" s="`...)
		dst = append(strconv.AppendInt(dst, int64(style), 10), '"')
		var cut bool
		if dst, cut = appendInline(dst, title); cut {
			cuts.add(1, i)
		}
	}
	return append(dst, `</row>`...), cuts
}

// filterWidth is the width of a filter's button, in characters.
const filterWidth = 2

// formatWidth returns about how many characters a date has in a number format.
func formatWidth(format string) uint8 {
	width := 0
	for i := 0; i < len(format); {
		r, n := utf8.DecodeRuneInString(format[i:])
		run := 1
		if r < utf8.RuneSelf {
			for i+run < len(format) && format[i+run]|0x20 == format[i]|0x20 {
				run++
			}
		}
		switch {
		case r == '"' || r == '\\' || r == ';' || r == '@':
		case r == '[': // a colour, a locale, or elapsed time
			if end := strings.IndexByte(format[i:], ']'); end > 0 {
				n, run = end+1, 1
			}
		case r|0x20 == 'y':
			width += max(2, min(run, 4))
		case r|0x20 == 'm' || r|0x20 == 'd':
			width += []int{2, 2, 3, 9}[min(run, 4)-1]
		case r|0x20 == 'h' || r|0x20 == 's':
			width += 2
		case r < utf8.RuneSelf:
			width += run
		default:
			width += narrow.RuneWidth(r)
		}
		i += n * run
	}
	return uint8(min(width, maxWidth))
}

// numberWidth returns about how many characters a number has in a number format.
func numberWidth(format string, number []byte) uint8 {
	if format == "" {
		return uint8(min(len(number), 11)) // what General shows
	}
	format, _, _ = strings.Cut(format, ";")
	whole, _, _ := bytes.Cut(number, []byte("."))
	width := len(whole)
	if i := strings.IndexAny(format, "0#"); i >= 0 && strings.Contains(format[i:], ",") {
		width += (width - 1) / 3
	}
	if _, decimals, ok := strings.Cut(format, "."); ok {
		width += 1 + len(decimals)
	}
	for _, r := range format {
		if !strings.ContainsRune(`#0,.?"\`, r) {
			width += narrow.RuneWidth(r)
		}
	}
	return uint8(min(width, maxWidth))
}
