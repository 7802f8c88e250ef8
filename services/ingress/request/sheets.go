package request

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"sheaf/events"
	"sheaf/events/secrets"
)

const (
	sheetsField = "sheets"
	maxSheets   = 32
	// maxDescription bounds a request with columns or sheets without its rows, in bytes. Each event of the
	// export repeats it.
	maxDescription = 256 << 10
)

var sheetNames = []string{"title", "source_http", rawField, "columns", "row_key"}

func sheetField(i int) string { return fmt.Sprintf("%s[%d]", sheetsField, i) }

// sheets is the result of reading the sheets of a request.
type sheets struct {
	list     []events.Sheet
	secrets  secrets.Values
	pages    []Page
	unknown  []string
	declares bool
	rowBytes int // of source_raw as received
	// canonical is the array with a digest instead of each source_raw.
	canonical jsontext.Value
}

// readSheets reads the sheets of a request. value is valid with [lenientRows].
func readSheets(value jsontext.Value) (*sheets, error) {
	values, err := atMost(member{name: sheetsField, value: value}, maxSheets, lenientRows...)
	if err != nil {
		return nil, err
	}
	if len(values) == 0 {
		return nil, Invalid(sheetsField, "is empty; give 1 to %d sheets", maxSheets)
	}
	s := &sheets{secrets: secrets.Values{}, canonical: jsontext.Value{'['}}
	for i, v := range values {
		if i > 0 {
			s.canonical = append(s.canonical, ',')
		}
		if err := s.read(i, v); err != nil {
			return nil, ofSheet(i, err)
		}
	}
	s.canonical = append(s.canonical, ']')
	return s, nil
}

// ofSheet puts the sheet before the field of an error.
func ofSheet(i int, err error) error {
	bad := (*Error)(nil)
	if !errors.As(err, &bad) || strings.HasPrefix(bad.Field, sheetsField) {
		return err
	}
	prefix := sheetField(i) + "."
	return &Error{Field: prefix + bad.Field, Msg: prefix + bad.Msg, TooLarge: bad.TooLarge}
}

// read reads a sheet. Errors do not name it, except those of the sheet itself.
func (s *sheets) read(i int, value jsontext.Value) error {
	if value.Kind() != '{' {
		return Invalid(sheetField(i), "must be a JSON object, not %s", kindName(value.Kind()))
	}
	members, err := objectMembers(sheetField(i), value, lenientRows...)
	if err != nil {
		return err
	}
	given, strict := fields{}, fields{} // strict: with nulls, and without source_raw, which may be no strict JSON
	for _, m := range members {
		if _, twice := strict[m.name]; twice {
			return fieldError(sheetField(i), "names %q twice", Cut(m.name, maxWarningField))
		}
		if m.name != rawField {
			if _, err := jsontext.NewDecoder(bytes.NewBuffer(m.value)).ReadValue(); err != nil {
				return Invalid(Cut(m.name, maxWarningField), "is not valid JSON: a name is there twice, or a character is no UTF-8")
			}
		}
		if strict[m.name] = m.value; m.name == rawField {
			strict[m.name] = jsontext.Value("0")
		}
		if m.value.Kind() != 'n' {
			given[m.name] = m.value
		}
	}
	if _, _, err := knownFields(sheetField(i), strict.object(), sheetNames); err != nil {
		return err
	}

	sheet := events.Sheet{}
	if sheet.Title, err = text(member{name: "title", value: orNull(given["title"])}, maxTitle); err != nil {
		return err
	}
	if strings.TrimSpace(sheet.Title) == "" {
		return fieldError("title", "is required")
	}
	if sheet.RowKey, err = text(member{name: "row_key", value: orNull(given["row_key"])}, maxRowKey); err != nil {
		return err
	}
	switch http, raw := given["source_http"], given[rawField]; {
	case http != nil && raw != nil:
		return fieldError(rawField, "and source_http exclude each other; give one of them")
	case http != nil:
		var own secrets.Values
		var more []string
		var declares bool
		if sheet.HTTP, own, more, declares, err = sourceHTTP(http); err != nil {
			return err
		}
		for _, name := range more {
			s.unknown = append(s.unknown, sheetField(i)+"."+name)
		}
		for name, value := range own {
			s.secrets[secrets.Sheet(i, name)] = value
		}
		s.declares = s.declares || declares
	case raw != nil:
		array, err := rowArray(raw)
		if err != nil {
			return err
		}
		pages, rows, err := cutRows(array)
		if err != nil {
			return err
		}
		for n := range pages {
			pages[n].Sheet = i
		}
		sheet.Raw = rows
		s.pages, s.rowBytes = append(s.pages, pages...), s.rowBytes+len(raw)
		digest := sha256.Sum256(array)
		given[rawField] = jsontext.Value(`"` + hex.EncodeToString(digest[:]) + `"`)
	default:
		return fieldError("source_http", "or source_raw is required")
	}
	if sheet.Columns, err = columns(given[columnsField]); err != nil {
		return err
	}
	delete(given, columnsField)
	if len(sheet.Columns) > 0 { // as read, so that equal columns are equal
		if given[columnsField], err = json.Marshal(sheet.Columns); err != nil {
			return err
		}
	}
	s.list = append(s.list, sheet)
	s.canonical = append(s.canonical, given.object()...)
	return nil
}

func orNull(v jsontext.Value) jsontext.Value {
	if v == nil {
		return jsontext.Value("null")
	}
	return v
}
