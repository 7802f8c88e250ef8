package xlsx

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"strconv"

	"sheaf/events"
	"sheaf/services/assembler/encode"
)

// Number formats of cells whose column has none.
const (
	dateFormat     = "yyyy-mm-dd"
	datetimeFormat = "yyyy-mm-dd hh:mm:ss"
	longFormat     = "0" // Excel shows numbers of more than 11 digits in scientific notation otherwise
	longDigits     = 12
	textFormat     = "@" // what a user types into the cell stays text
	// Excel shows a boolean as TRUE or FALSE in any format, LibreOffice only in this one.
	boolFormat = `"TRUE";"TRUE";"FALSE"`
)

const (
	// maxFormats is the maximum number of number formats of a workbook. Excel's limit is between 200 and 250
	// (Microsoft, "Excel specifications and limits"). Columns beyond it have the format of their type.
	maxFormats = 200
	// maxFormat is the maximum length of a number format, in characters.
	maxFormat = 255
)

// cellStyle is how a cell looks.
type cellStyle struct {
	format string // "" is General
	lines  cellLines
	align  alignment
	quoted bool // text that begins like a formula stays text
	link   bool
}

// cellLines is the vertical layout of a cell.
type cellLines uint8

const (
	oneLine  cellLines = iota
	atTop              // another cell of the row has line breaks
	wrapped            // the cell has line breaks
	allLines           // number of values
)

// alignment is the horizontal alignment of a cell.
type alignment uint8

const (
	byKind alignment = iota // numbers right, the rest left
	left
	center
	right
	allAlignments // number of values
)

// attribute returns the alignment as an attribute. right is for titles: they keep off the filter's button.
func (a alignment) attribute() string {
	return [...]string{"", ` horizontal="left"`, ` horizontal="center"`, ` horizontal="right" indent="2"`}[a]
}

// styles are the cell styles of a workbook. The first styles are those of the default cell and of titles.
type styles struct {
	formats []string
	cells   []cellStyle
	ids     map[cellStyle]int
	columns map[columnKind]*columnStyles
}

// Styles before those of styles.cells.
const (
	titleQuoted    = 1 // added to titleStyle
	titleWrapped   = 2
	firstCellStyle = 1 + 4*int(allAlignments)
)

// titleStyle returns the style of a title that has no line breaks and does not begin like a formula.
func titleStyle(a alignment) int { return 1 + 4*int(a) }

// columnKind is all that the styles of a column depend on.
type columnKind struct {
	kind   string
	format string
	link   bool
}

// columnStyles are the styles of a column's cells: the text after the row number of the reference.
type columnStyles struct {
	columnKind
	title          int
	text           [allLines][2][2]snippet // by lines, quoted and link
	number, long   [allLines][2]snippet    // by lines and link
	date, datetime [allLines][2]snippet
	other          [allLines][2]snippet
}

func newStyles() *styles {
	return &styles{ids: map[cellStyle]int{{}: 0}, columns: map[columnKind]*columnStyles{}}
}

// column returns the styles of a column.
func (s *styles) column(c encode.Column) *columnStyles {
	k := columnKind{kind: events.ColumnAuto}
	if c.Spec != nil {
		k.format, k.link = c.Spec.Format, c.Spec.Link != ""
		if c.Spec.Type != "" {
			k.kind = c.Spec.Type
		}
	}
	k.format = s.known(k.format)
	if made, ok := s.columns[k]; ok {
		return made
	}
	text, date, datetime, number, long := "", dateFormat, datetimeFormat, k.format, longFormat
	title := byKind
	switch k.kind {
	case events.ColumnNumber:
		title = right
	case events.ColumnBool:
		title = center
	case events.ColumnText:
		text = textFormat
	case events.ColumnDate, events.ColumnDatetime:
		number = ""
		if k.format != "" {
			date, datetime = k.format, k.format
		}
	}
	if number != "" {
		long = number
	}
	made := &columnStyles{columnKind: k, title: titleStyle(title)}
	// A style with a link has a higher number than the same without, see chunk.unlink.
	for link := range 2 {
		if link == 1 && !k.link {
			break
		}
		for lines := range allLines {
			style := cellStyle{lines: lines, link: link == 1}
			of := func(format string, a alignment) snippet {
				style.format, style.align = format, a
				return s.snippet(style)
			}
			made.text[lines][0][link] = of(text, byKind)
			style.quoted = true
			made.text[lines][1][link] = of(text, byKind)
			if style.quoted = false; lines == wrapped {
				continue
			}
			made.number[lines][link] = of(number, byKind)
			made.long[lines][link] = of(long, byKind)
			made.other[lines][link] = of(boolFormat, center)
			if k.kind == events.ColumnDate || k.kind == events.ColumnDatetime {
				made.date[lines][link] = of(date, left)
				made.datetime[lines][link] = of(datetime, left)
			}
		}
	}
	s.columns[k] = made
	return made
}

// known returns a number format, or "" if the workbook cannot have it.
func (s *styles) known(format string) string {
	if len([]rune(format)) > maxFormat {
		return ""
	}
	for k := range s.columns {
		if k.format == format {
			return format
		}
	}
	if len(s.formats) >= maxFormats {
		return ""
	}
	return format
}

// snippet returns the end of a cell's reference and its style.
func (s *styles) snippet(style cellStyle) snippet {
	id := s.id(style)
	if id == 0 {
		return newSnippet(`"`, "")
	}
	return newSnippet(`" s="`, strconv.Itoa(id)+`"`)
}

func (s *styles) id(style cellStyle) int {
	id, ok := s.ids[style]
	if !ok {
		id = firstCellStyle + len(s.cells)
		s.ids[style] = id
		s.cells = append(s.cells, style)
		s.format(style.format)
	}
	return id
}

// builtIn are the number formats that need no definition (ECMA-376 part 1, 18.8.30).
var builtIn = map[string]int{
	"": 0, "0": 1, "0.00": 2, "#,##0": 3, "#,##0.00": 4, "0%": 9, "0.00%": 10, textFormat: 49,
}

const firstFormat = 164 // of those that a workbook defines

// format returns the number of a number format.
func (s *styles) format(format string) int {
	if id, ok := builtIn[format]; ok {
		return id
	}
	for i, f := range s.formats {
		if f == format {
			return firstFormat + i
		}
	}
	s.formats = append(s.formats, format)
	return firstFormat + len(s.formats) - 1
}

// part returns xl/styles.xml.
func (s *styles) part() []byte {
	var b bytes.Buffer
	b.WriteString(xml.Header + `<styleSheet xmlns="` + mainNamespace + `">`)
	if len(s.formats) > 0 {
		fmt.Fprintf(&b, `<numFmts count="%d">`, len(s.formats))
		for i, f := range s.formats {
			fmt.Fprintf(&b, `<numFmt numFmtId="%d" formatCode="%s"/>`, firstFormat+i, escaped(f))
		}
		b.WriteString(`</numFmts>`)
	}
	const font = `<name val="Calibri"/><family val="2"/></font>`
	b.WriteString(`<fonts count="3"><font><sz val="11"/><color theme="1"/>` + font +
		`<font><b/><sz val="11"/><color theme="1"/>` + font +
		`<font><u/><sz val="11"/><color theme="10"/>` + font + `</fonts>` +
		`<fills count="3"><fill><patternFill patternType="none"/></fill>` +
		`<fill><patternFill patternType="gray125"/></fill>` +
		`<fill><patternFill patternType="solid"><fgColor rgb="FFF2F2F2"/><bgColor indexed="64"/></patternFill>` +
		`</fill></fills>` +
		`<borders count="2"><border><left/><right/><top/><bottom/><diagonal/></border>` +
		`<border><left/><right/><top/><bottom style="thin"><color rgb="FFBFBFBF"/></bottom><diagonal/></border>` +
		`</borders>` +
		`<cellStyleXfs count="1"><xf numFmtId="0" fontId="0" fillId="0" borderId="0"/></cellStyleXfs>`)
	fmt.Fprintf(&b, `<cellXfs count="%d"><xf numFmtId="0" fontId="0" fillId="0" borderId="0" xfId="0"/>`,
		firstCellStyle+len(s.cells))
	for a := range allAlignments {
		for _, wrap := range []string{"", ` wrapText="1"`} {
			for _, quoted := range []string{"", ` quotePrefix="1"`} {
				b.WriteString(`<xf numFmtId="0" fontId="1" fillId="2" borderId="1" xfId="0"` + quoted +
					` applyFont="1" applyFill="1" applyBorder="1" applyAlignment="1"><alignment` + a.attribute() +
					` vertical="center"` + wrap + `/></xf>`)
			}
		}
	}
	for _, c := range s.cells {
		font := 0
		if c.link {
			font = 2
		}
		fmt.Fprintf(&b, `<xf numFmtId="%d" fontId="%d" fillId="0" borderId="0" xfId="0"`, s.format(c.format), font)
		for _, f := range []struct {
			on   bool
			attr string
		}{{c.quoted, "quotePrefix"}, {c.format != "", "applyNumberFormat"}, {c.link, "applyFont"},
			{c.lines != oneLine || c.align != byKind, "applyAlignment"}} {
			if f.on {
				b.WriteString(` ` + f.attr + `="1"`)
			}
		}
		align := c.align.attribute()
		if c.lines != oneLine {
			align += ` vertical="top"`
		}
		if c.lines == wrapped {
			align += ` wrapText="1"`
		}
		if align == "" {
			b.WriteString(`/>`)
		} else {
			b.WriteString(`><alignment` + align + `/></xf>`)
		}
	}
	b.WriteString(`</cellXfs>` +
		`<cellStyles count="1"><cellStyle name="Normal" xfId="0" builtinId="0"/></cellStyles><dxfs count="0"/>` +
		`<tableStyles count="0" defaultTableStyle="TableStyleMedium2" defaultPivotStyle="PivotStyleLight16"/>` +
		`</styleSheet>`)
	return b.Bytes()
}

// escaped escapes a text for XML. Characters that XML cannot hold become U+FFFD.
func escaped(text string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(text)) // a Buffer returns no errors
	return b.String()
}
