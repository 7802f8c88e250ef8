package events

import "embed"

//go:embed schema/*.json
var schemas embed.FS

// Schema returns the JSON Schema (2020-12) of the payload of a type, nil for
// an unknown one. It is strict about what this version writes; a reader
// ignores fields that it does not know.
func Schema(t Type) []byte { return schema(typeNames[t]) }

// PageSchema returns the JSON Schema of a page's rows.
func PageSchema() []byte { return schema(pageTypeName) }

func schema(ceType string) []byte {
	data, err := schemas.ReadFile("schema/" + ceType + ".json")
	if err != nil {
		return nil
	}
	return data
}
