package parquet

import (
	"reflect"
	"strconv"

	"github.com/parquet-go/parquet-go"
)

// root is a schema whose fields keep their order. Those of a parquet.Group are sorted by name.
type root struct {
	parquet.Group
	fields []parquet.Field
}

// Fields returns the columns in their order.
func (r root) Fields() []parquet.Field { return r.fields }

// GoType is of no use: rows are written as values. The one of Group would be a struct of all columns.
func (r root) GoType() reflect.Type { return reflect.TypeFor[struct{}]() }

// field is a column of the schema.
type field struct {
	parquet.Node
	name string
}

// Name returns the name of the column.
func (f *field) Name() string { return f.name }

// Value is of no use either.
func (f *field) Value(reflect.Value) reflect.Value { return reflect.Value{} }

// column is a column of the file.
type column struct {
	name  string
	kind  kind
	scale int // of decimalKind
	// repeats says that many values are equal, so that a dictionary makes them smaller.
	repeats bool
}

// node returns the type of the column. All columns are optional.
func (c *column) node() parquet.Node {
	var n parquet.Node
	switch c.kind {
	case stringKind, digitsKind:
		n = parquet.String()
	case jsonKind:
		n = parquet.JSON()
	case boolKind:
		n = parquet.Leaf(parquet.BooleanType)
	case intKind:
		n = parquet.Int(64)
	case doubleKind:
		n = parquet.Leaf(parquet.DoubleType)
	case decimalKind:
		n = parquet.Decimal(c.scale, precision, parquet.Int64Type)
	case dateKind:
		n = parquet.Date()
	case momentKind:
		n = parquet.TimestampAdjusted(parquet.Microsecond, true)
	case wallKind:
		n = parquet.TimestampAdjusted(parquet.Microsecond, false)
	}
	if c.repeats {
		n = parquet.Encoded(n, &parquet.RLEDictionary)
	} else {
		n = parquet.Encoded(n, &parquet.Plain)
	}
	return parquet.Optional(n)
}

// schemaOf returns the schema of a file.
func schemaOf(columns []column) *parquet.Schema {
	r := root{parquet.Group{}, make([]parquet.Field, len(columns))}
	for i := range columns {
		f := &field{columns[i].node(), columns[i].name}
		r.Group[f.name], r.fields[i] = f.Node, f
	}
	return parquet.NewSchema("rows", r)
}

// uniqueNames makes names differ, by a number at the end of those that occur again, and none empty.
func uniqueNames(names []string) []string {
	last := make(map[string]int, len(names)) // number at the end of a name; 1: none
	for _, name := range names {
		last[name] = 0
	}
	unique := make([]string, len(names))
	for i, name := range names {
		if name == "" {
			name = "column"
		}
		one := name
		for n := last[name] + 1; ; n++ {
			if n > 1 {
				one = name + "_" + strconv.Itoa(n)
				if _, taken := last[one]; taken {
					continue
				}
			}
			last[name] = n
			break
		}
		if one != name {
			last[one] = 1
		}
		unique[i] = one
	}
	return unique
}
