package events

import (
	"embed"
	"strings"
)

// PageTypeName is the ce-type of a page.
const PageTypeName = "sheaf.page.fetched.v1"

//go:embed schema/*.json
var schemas embed.FS

// Schema returns the JSON Schema (2020-12) of an event type's body, nil for an unknown type. It is strict
// about this version's output; readers ignore unknown fields. It refers to ExportSchema by its $id.
//
// The schemas are for programs that read the streams and for the tests, which hold each event to its schema.
// Sheaf's own commands do not call Schema, ExportSchema and PageSchema.
func Schema(t Type) []byte { return schema(typeNames[t]) }

// ExportSchema returns the JSON Schema of the export in every event.
func ExportSchema() []byte { return schema("sheaf.export.v1") }

// PageSchema returns the JSON Schema of a page's rows.
func PageSchema() []byte { return schema(PageTypeName) }

//go:embed asyncapi.yaml
var asyncAPI []byte

// AsyncAPI returns the AsyncAPI document of all subjects, as YAML. It refers to SchemaFile by the path
// ./schema/NAME.
func AsyncAPI() []byte { return asyncAPI }

// SchemaFile returns a JSON Schema by its file name, such as sheaf.export.v1.json; nil for an unknown name.
func SchemaFile(name string) []byte {
	ceType, ok := strings.CutSuffix(name, ".json")
	if !ok || strings.ContainsAny(ceType, "/\\") {
		return nil
	}
	return schema(ceType)
}

func schema(ceType string) []byte {
	data, err := schemas.ReadFile("schema/" + ceType + ".json")
	if err != nil {
		return nil
	}
	return data
}
