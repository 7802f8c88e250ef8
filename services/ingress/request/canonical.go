package request

import (
	"crypto/sha256"
	"encoding/json"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"sheaf/events"
)

// canonicalForm returns equal bytes for equal requests. It sorts names at every level, drops white space,
// shortens strings and keeps numbers as written. Rows count by a digest of the array as received, because the
// order of a row's names is the order of the columns.
func canonicalForm(sourceType string, members []member, array []byte) ([]byte, error) {
	object := jsontext.Value{'{'}
	for _, m := range members {
		if sourceType == events.SourceRaw && m.name == rawField {
			continue
		}
		if len(object) > 1 {
			object = append(object, ',')
		}
		var err error
		if object, err = jsontext.AppendQuote(object, m.name); err != nil {
			return nil, err
		}
		object = append(append(object, ':'), m.value...)
	}
	object = append(object, '}')
	if err := object.Format(jsontext.ReorderRawObjects(true)); err != nil {
		return nil, err
	}
	if sourceType == events.SourceRaw {
		digest := sha256.Sum256(array)
		object = append(object, digest[:]...)
	}
	return object, nil
}

// equalFiles replaces the members that say how files are written by what was read from them, so that equal
// requests have equal members: csv is CSV, and options that say the default are absent. Empty columns stay as they
// were received, because they did so when they were an unknown field.
func equalFiles(members []member, extType string, columns []events.Column, options *events.Options) ([]member, error) {
	equal := slices.DeleteFunc(slices.Clone(members), func(m member) bool {
		return m.name == extTypeField || m.name == columnsField && len(columns) > 0 || m.name == optionsField
	})
	add := func(name string, v any) error {
		value, err := json.Marshal(v)
		equal = append(equal, member{name: name, value: value})
		return err
	}
	if err := add(extTypeField, extType); err != nil {
		return nil, err
	}
	if len(columns) > 0 {
		if err := add(columnsField, columns); err != nil {
			return nil, err
		}
	}
	if options != nil {
		if err := add(optionsField, options); err != nil {
			return nil, err
		}
	}
	return equal, nil
}

// extTypeKey returns one text for all forms of an ext_type. XLSX alone keeps its case: the name of the
// workbook in the zip has it.
func extTypeKey(given string) string {
	names := events.FormatNames(given)
	if len(names) == 1 && names[0] == events.XLSX.Name {
		return strings.TrimSpace(given)
	}
	return strings.Join(names, ",")
}
