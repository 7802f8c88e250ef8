package cells

import (
	"bytes"
	"fmt"
	"slices"

	"sheaf/events"
	"sheaf/events/rows"
	"sheaf/services/assembler/encode"
)

// Reader reads the rows of a sheet as cells. It is used by one goroutine.
//
// A row of n fields costs O(n), whatever the number of columns. Reading allocates nothing for each row.
type Reader struct {
	columns []column
	chosen  bool
	dates   dates

	fields  object // of the rows
	usual   usualRow
	read    int // fields of the current row that are in usual.spans
	places  []place
	stamp   uint32  // of the current row
	nested  []int32 // places of the objects and arrays that are not read yet
	scratch []byte  // of a decoded name or a part of a link

	cells   []Cell
	direct  []directKinds // by column
	present []int32       // columns that the row has a field for; all other cells are Empty
	last    int32         // of present, -1 for none
	sorted  bool          // present is in column order
	values  []value       // by column
	links   []linkPlace   // of the keys in link templates, in the order of linkKeys

	cursor rows.Cursor // of the current row
	text   []byte      // holds texts of the current row
	joined int         // bytes of joined texts in the current row
	notes  *Notes
}

// object holds the names of an object that are read.
type object struct {
	places map[string]int32 // by decoded name
	// Of the previous object, by position: the names, as rows.Expect makes them, and the places of the values, -1
	// for those that are not used. Rows mostly repeat their names in one order, which saves the map lookup.
	names   [][]byte
	guesses []int32
	max     int // number of guesses
}

// place is a position in a row whose value is used: by a column, by a link or to find other places in it.
type place struct {
	span  rows.Span // the value, if stamp is that of the row
	stamp uint32
	// column is the only user, if it has no other place and the place has no other use; else -1.
	column   int32
	linked   bool // a link uses the value
	users    []user
	inside   *object   // nil if no member is used
	elements []element // in ascending order
}

// user is a column that gets its value from a place.
type user struct {
	column int32
	whole  bool // the name of the field is the whole key
}

// value is the value of a column, if stamp is that of the row.
type value struct {
	span  rows.Span
	stamp uint32
	whole bool   // it is of the field whose name is the whole key
	text  []byte // what was made of it for the row, for columns with the same value; nil: nothing
}

type element struct {
	index int
	place int32
}

const (
	maxGuessed = 256     // bytes of the longest name that a guess keeps
	maxGuesses = 16_384  // of a row: its maximum number of fields
	maxInside  = 256     // of an object in a row
	maxScratch = 1 << 20 // bytes of text that are kept for the next row
)

// NewReader returns a reader of the rows of a sheet. An error names the field of the column that is wrong.
func NewReader(sheet encode.Sheet) (*Reader, error) {
	r := &Reader{
		columns: make([]column, len(sheet.Columns)),
		chosen:  sheet.Chosen,
		dates:   newDates(sheet.Zones),
		fields:  object{places: map[string]int32{}, max: maxGuesses},
		cells:   make([]Cell, len(sheet.Columns)),
		values:  make([]value, len(sheet.Columns)),
		direct:  make([]directKinds, len(sheet.Columns)),
	}
	single := make([]bool, len(sheet.Columns))
	type shared struct {
		place int32
		json  bool
	}
	first := map[shared]int32{}
	for i, c := range sheet.Columns {
		whole, path := r.find(c)
		single[i] = path < 0 || path == whole
		key := shared{path, c.Spec != nil && c.Spec.Type == events.ColumnJSON}
		if path < 0 {
			key.place = whole
		}
		r.columns[i].same = -1
		if earlier, ok := first[key]; ok {
			r.columns[i].same = earlier
		} else {
			first[key] = int32(i)
		}
		r.use(whole, user{int32(i), true})
		if path >= 0 && path != whole {
			r.use(path, user{int32(i), false})
		}
		if c.Spec != nil {
			if err := r.columns[i].init(r, c.Spec); err != nil {
				return nil, fmt.Errorf("columns[%d].%w", i, err)
			}
		}
		r.direct[i] = r.columns[i].direct()
		for _, key := range linkKeys(c) {
			r.links = append(r.links, linkPlace{whole: r.member(&r.fields, key), path: r.at(key)})
		}
	}
	for i := range r.places {
		p := &r.places[i]
		used := p.linked || p.inside != nil || p.elements != nil
		if p.column = -1; !used && len(p.users) == 1 && single[p.users[0].column] {
			p.column = p.users[0].column
		}
	}
	r.notes = r.newNotes()
	return r, nil
}

// find returns the places of a column: the field whose name is the whole key, and the value at the path, -1
// if the key is no path.
func (r *Reader) find(c encode.Column) (whole, path int32) {
	whole = r.member(&r.fields, c.Name)
	if c.Spec == nil {
		return whole, -1
	}
	return whole, r.at(c.Name)
}

// at returns the place of a path in a row, -1 if it is no path or begins with an index.
func (r *Reader) at(text string) int32 {
	p, err := rows.ParsePath(text)
	steps := p.Steps()
	if err != nil || len(steps) == 0 || steps[0].Index >= 0 {
		return -1
	}
	at := r.member(&r.fields, steps[0].Name)
	for _, step := range steps[1:] {
		if step.Index >= 0 {
			at = r.element(at, step.Index)
			continue
		}
		if r.places[at].inside == nil {
			r.places[at].inside = &object{places: map[string]int32{}, max: maxInside}
		}
		at = r.member(r.places[at].inside, step.Name)
	}
	return at
}

// member returns the place of a member, and makes it if there is none.
func (r *Reader) member(o *object, name string) int32 {
	at, ok := o.places[name]
	if !ok {
		at = r.newPlace()
		o.places[name] = at
	}
	return at
}

// element is member for the element of an array.
func (r *Reader) element(array int32, index int) int32 {
	order := func(e element, index int) int { return e.index - index }
	i, ok := slices.BinarySearchFunc(r.places[array].elements, index, order)
	if ok {
		return r.places[array].elements[i].place
	}
	at := r.newPlace()
	p := &r.places[array]
	p.elements = slices.Insert(p.elements, i, element{index, at})
	return at
}

func (r *Reader) newPlace() int32 {
	r.places = append(r.places, place{})
	return int32(len(r.places) - 1)
}

func (r *Reader) use(at int32, u user) { r.places[at].users = append(r.places[at].users, u) }

// Row reads the current row of c, after [rows.Cursor.NextRow]. It returns one cell for each column, in column
// order. They are valid until the next call.
func (r *Reader) Row(c *rows.Cursor) []Cell {
	if !r.Usual(c) {
		return r.Rest(c)
	}
	u := &r.usual
	for i, col := range u.columns {
		if col < 0 {
			continue
		}
		if span := u.spans[i]; !r.fillDirect(col, span) {
			r.values[col] = value{span: span, stamp: r.stamp}
			r.fill(col, span)
		}
	}
	return r.cells
}

// Usual reads the current row of c if it is a usual row, and reports whether it is. Then Fields and Field return
// its values, which takes less time than Row. Otherwise Rest must be called.
func (r *Reader) Usual(c *rows.Cursor) bool {
	r.begin(c)
	u := &r.usual
	if r.read = 0; !u.find(r) {
		return false
	}
	if r.read = c.NextFields(r.fields.names, u.spans); r.read < len(u.columns) || !c.EndRow() {
		return false
	}
	if !u.repeats {
		r.clearCells()
		r.present = append(r.present, u.present...)
	}
	if r.chosen && (!u.repeats || r.notes.rows == 1) {
		for _, col := range u.present {
			r.notes.found[col] = true
		}
	}
	u.repeats = true
	return true
}

// Fields returns the number of fields of a usual row.
func (r *Reader) Fields() int { return len(r.usual.columns) }

// Field returns the column of a field of a usual row, and the kind and text of its cell. The column is -1 if it
// has none. If the value does not stay as sent, or is null, the kind is Empty and FieldCell returns the cell.
func (r *Reader) Field(i int) (col int32, kind Kind, text []byte) {
	if col = r.usual.columns[i]; col < 0 {
		return col, Empty, nil
	}
	kind, text = r.directText(col, r.usual.spans[i])
	return col, kind, text
}

// FieldCell returns the cell of a field of a usual row that has a column.
func (r *Reader) FieldCell(i int) *Cell {
	col, span := r.usual.columns[i], r.usual.spans[i]
	r.values[col] = value{span: span, stamp: r.stamp}
	r.fill(col, span)
	return &r.cells[col]
}

// begin begins a row.
func (r *Reader) begin(c *rows.Cursor) {
	if r.stamp++; r.stamp == 0 { // it wrapped around after 2^32 rows, so old stamps would count as current
		for i := range r.places {
			r.places[i].stamp = 0
		}
		clear(r.values)
		r.stamp = 1
	}
	if cap(r.text) > maxScratch {
		r.text = nil
	}
	r.text, r.joined, r.cursor = r.text[:0], 0, *c
	r.notes.rows++
}

// Rest returns the cells of a row that is not usual, after [Reader.Usual].
func (r *Reader) Rest(c *rows.Cursor) []Cell {
	r.clearCells()
	r.usual.repeats = false
	r.last, r.sorted = -1, true
	for i, span := range r.usual.spans[:r.read] {
		if at := r.fields.guesses[i]; at >= 0 {
			r.found(at, span)
		}
	}
	r.members(c, &r.fields, r.read)
	for len(r.nested) > 0 {
		at := r.nested[len(r.nested)-1]
		r.nested = r.nested[:len(r.nested)-1]
		r.enter(c, at)
	}
	if !r.sorted {
		slices.Sort(r.present)
	}
	if r.chosen {
		for i, l := range r.links {
			if _, ok := r.linked(l.whole, l.path); ok {
				r.notes.found[len(r.columns)+i] = true
			}
		}
	}
	for _, col := range r.present {
		if r.chosen {
			r.notes.found[col] = true
		}
		if span := r.values[col].span; !r.fillDirect(col, span) {
			r.fill(col, span)
		}
	}
	return r.cells
}

// clearCells makes all cells Empty.
func (r *Reader) clearCells() {
	for _, col := range r.present {
		r.cells[col] = Cell{}
	}
	r.present = r.present[:0]
}

// usualRow describes the rows whose names are the guesses, in their order, if each value is that of one column
// or of none, and the columns ascend. Such a row needs no search for its columns.
type usualRow struct {
	columns []int32     // by position: the column of the value, -1 for none
	present []int32     // all columns but -1
	spans   []rows.Span // by position: the values of the current row
	repeats bool        // the previous row was usual, with the same names
}

// forget is called when a guess changes.
func (u *usualRow) forget() { u.columns, u.present, u.repeats = u.columns[:0], u.present[:0], false }

// find finds the columns of the guesses, and reports whether there are usual rows.
func (u *usualRow) find(r *Reader) bool {
	for len(u.columns) < len(r.fields.guesses) {
		at, col := r.fields.guesses[len(u.columns)], int32(-1)
		switch n := len(u.present); {
		case at >= 0:
			if col = r.places[at].column; col < 0 || n > 0 && col <= u.present[n-1] {
				return false
			}
			u.present = append(u.present, col)
		case !r.chosen:
			return false // the value is counted by its name
		}
		u.columns = append(u.columns, col)
	}
	if len(u.spans) < len(u.columns) {
		u.spans = make([]rows.Span, len(u.columns))
	}
	return true
}

// Present returns the columns that the row has a field for, in ascending order. All others are Empty. It is
// valid until the next call of Row.
func (r *Reader) Present() []int32 { return r.present }

// members reads the fields of an object from a position on. The last field of a name counts.
func (r *Reader) members(c *rows.Cursor, o *object, from int) {
	for i := from; ; i++ {
		var expected []byte
		if i < len(o.names) {
			expected = o.names[i]
		}
		span, same, ok := c.Next(expected)
		if !ok {
			return
		}
		var at int32
		if same {
			at = o.guesses[i]
		} else {
			at = r.lookup(o, c.Name())
			r.guess(o, i, c.Name(), at)
		}
		switch {
		case at >= 0:
			r.found(at, span)
		case !r.chosen && o == &r.fields:
			r.notes.addUnknown(c.Name())
		}
	}
}

// guess records the name at a position and the place of its value.
func (r *Reader) guess(o *object, i int, name []byte, at int32) {
	if i == len(o.names) && i < o.max {
		o.names, o.guesses = append(o.names, nil), append(o.guesses, -1)
	}
	if i >= len(o.names) || len(name) > maxGuessed {
		return
	}
	o.names[i], o.guesses[i] = rows.Expect(o.names[i][:0], name), at
	if o == &r.fields && i < len(r.usual.columns) {
		r.usual.forget()
	}
}

// lookup returns the place of a raw name, or -1 if it is not used.
func (r *Reader) lookup(o *object, name []byte) int32 {
	if bytes.IndexByte(name, '\\') >= 0 {
		r.scratch = rows.Unquote(r.scratch[:0], name)
		name = r.scratch
	}
	if at, ok := o.places[string(name)]; ok {
		return at
	}
	return -1
}

// found records the value of a place.
func (r *Reader) found(at int32, span rows.Span) {
	p := &r.places[at]
	if p.column >= 0 {
		r.give(user{p.column, true}, span)
		return
	}
	p.span = span
	for _, u := range p.users {
		r.give(u, span)
	}
	if p.stamp == r.stamp {
		return
	}
	p.stamp = r.stamp
	if p.inside != nil || p.elements != nil {
		r.nested = append(r.nested, at)
	}
}

// give gives a column a value.
func (r *Reader) give(u user, span rows.Span) {
	v := &r.values[u.column]
	if v.stamp == r.stamp {
		if u.whole || !v.whole {
			v.span, v.whole = span, u.whole
		}
		return
	}
	if v.text != nil {
		v.text = nil
	}
	v.span, v.whole, v.stamp = span, u.whole, r.stamp
	r.sorted = r.sorted && u.column > r.last
	r.last = u.column
	r.present = append(r.present, u.column)
}

// enter reads the places in an object or array.
func (r *Reader) enter(c *rows.Cursor, at int32) {
	p := &r.places[at]
	span := p.span
	switch {
	case span.Kind == rows.Object && p.inside != nil:
		in := c.Enter(span)
		r.members(&in, p.inside, 0)
	case span.Kind == rows.Array:
		in := c.Enter(span)
		for i, next := 0, 0; next < len(p.elements); i++ {
			v, ok := in.NextElement()
			if !ok {
				return
			}
			if p.elements[next].index == i {
				r.found(p.elements[next].place, v)
				next++
			}
		}
	}
}

// linked returns the value at one of the places of a link's key: of the field whose name is the whole key,
// else of the path.
func (r *Reader) linked(whole, path int32) (s rows.Span, ok bool) {
	if p := &r.places[whole]; p.stamp == r.stamp {
		return p.span, true
	}
	if path >= 0 && r.places[path].stamp == r.stamp {
		return r.places[path].span, true
	}
	return rows.Span{}, false
}
