package rows

import (
	"bytes"
	"fmt"
	"slices"
)

// Query finds the rows of a response, and values beside them, by their paths. It never changes, so many
// goroutines may use one.
type Query struct {
	rows   Path
	values int // how many
	root   *node
}

// Found holds the parts of a response. Rows, First, Last and Values alias the scanned body, except that Rows
// is a new array if the rows path holds [*].
type Found struct {
	// Rows is a JSON array of objects, [] for null. It is nil if RowsErr is set.
	Rows     []byte
	RowCount int
	// First and Last are the first and the last row, nil without rows.
	First, Last []byte
	// Names holds the distinct names of all rows, decoded, in the order in which they first appear: row by
	// row, and within a row by position. After 16,385 names, more than a worksheet has columns, it is cut.
	Names []string
	// Values holds the raw JSON at each path of [NewQuery], nil where the path finds nothing.
	Values [][]byte
	// RowsErr says why the body, which is JSON, has no rows in the expected form: the rows path finds nothing
	// or no array, or an element is no object or lacks the steps after [*]. Nil if Rows is set.
	RowsErr *SyntaxError
}

// node is a step of the tree of all paths of a query.
type node struct {
	members  []edge
	elements []edge // sorted by index
	values   []int  // the values that are here
	rows     bool   // the array of rows is here
	inside   []inside
	below    []int // all values here and at the nodes below
	hasRows  bool  // the array of rows is here or at a node below
}

type edge struct {
	name  string
	index int
	to    *node
}

// inside is a value in the array of rows. It is looked up once the array is checked.
type inside struct {
	value int
	steps []Step
}

// NewQuery returns a query of the rows at rowsPath and of the values at the other paths.
func NewQuery(rowsPath Path, values []Path) *Query {
	q := &Query{rows: rowsPath, values: len(values), root: &node{}}
	at := q.root
	at.hasRows = true
	for _, step := range rowsPath.steps {
		at = at.to(step)
		at.hasRows = true
	}
	at.rows = true
	for k, p := range values {
		at := q.root
		at.below = append(at.below, k)
		for n, step := range p.steps {
			if at.rows {
				at.inside = append(at.inside, inside{k, p.steps[n:]})
				at = nil
				break
			}
			at = at.to(step)
			at.below = append(at.below, k)
		}
		if at != nil {
			at.values = append(at.values, k)
		}
	}
	return q
}

// to returns the node after step and makes it if there is none.
func (n *node) to(step Step) *node {
	edges := &n.members
	if step.Index >= 0 {
		edges = &n.elements
	}
	for _, e := range *edges {
		if e.name == step.Name && e.index == step.Index {
			return e.to
		}
	}
	e := edge{name: step.Name, index: step.Index, to: &node{}}
	*edges = append(*edges, e)
	slices.SortStableFunc(*edges, func(a, b edge) int { return a.index - b.index })
	return e.to
}

// Scan checks a whole response in one pass and finds its rows and values, in any order. It accepts one JSON
// text as [ScanResponse] does, but of any kind. If a name occurs twice in an object, the last one counts.
//
// A response without rows in the expected form is no error: the caller may prefer a failure that Values show.
// [Found.RowsErr] describes it. Every error is a [*SyntaxError], returned with an empty Found.
func (q *Query) Scan(body []byte, lim Limits) (Found, error) {
	u := &union{}
	s := scanner{b: body, lim: lim.withDefaults()}
	start, err := begin(body)
	if err != nil {
		return Found{}, err
	}
	w := walk{q: q, s: &s, names: u, values: make([][]byte, q.values)}
	i := w.value(q.root, start, 0)
	if i >= 0 {
		s.end(i)
	}
	if s.err != nil {
		if i >= 0 && body[start] == '{' && body[s.err.Offset] == '{' {
			s.err.Hint = `the body is a sequence of JSON objects; set source_http.format to "ndjson"`
		}
		return Found{}, s.err
	}
	f := Found{Values: w.values}
	switch r := &w.rows; {
	case !r.has:
		f.RowsErr = &SyntaxError{Offset: start, Msg: fmt.Sprintf("source_http.rows %q finds nothing", q.rows),
			Hint: hintAnswer(body[start:i])}
	case r.shape != nil:
		f.RowsErr = r.shape
	default:
		f.Rows, f.RowCount, f.First, f.Last = r.value.array, r.value.count, r.value.first, r.value.last
		if f.Names = u.names; w.stale {
			f.Names = Names(f.Rows)
		}
	}
	return f, nil
}

// begin returns the offset where the text of a body begins. It refuses a body without one, and HTML.
func begin(body []byte) (int, *SyntaxError) {
	i := skipSpace(body, len(body)-len(trimBOM(body)))
	switch {
	case i >= len(body):
		return 0, &SyntaxError{Offset: i, Msg: "the body is empty", Truncated: true}
	case body[i] == '<':
		return 0, &SyntaxError{Offset: i, Msg: "the body is HTML or XML, not JSON"}
	}
	return i, nil
}

// trimBOM returns body without a byte order mark before it.
func trimBOM(body []byte) []byte { return bytes.TrimPrefix(body, []byte("\xef\xbb\xbf")) }

// walk is one scan of a query.
type walk struct {
	q      *Query
	s      *scanner
	names  *union // of the rows
	values [][]byte
	rows   member[rowArray] // has: the rows path finds something
	// stale means that union holds names of a row that a member of the same name replaced.
	stale bool
}

// value reads the value at i, inside depth arrays and objects. Its paths begin at n.
func (w *walk) value(n *node, i, depth int) int {
	s := w.s
	start := i
	switch {
	case i >= len(s.b):
		return s.unexpected(i, "a value")
	case n.rows:
		i = w.rowsAt(i, depth)
	case s.b[i] == '{' && len(n.members) > 0:
		i = w.object(n, i, depth+1)
	case s.b[i] == '[' && len(n.elements) > 0:
		i = w.array(n, i, depth+1)
	default:
		i = s.value(i, depth)
	}
	if i < 0 {
		return -1
	}
	raw := s.b[start:i:i]
	for _, k := range n.values {
		w.values[k] = raw
	}
	for _, in := range n.inside {
		w.values[in.value], _ = lookup(raw, in.steps)
	}
	return i
}

func (w *walk) object(n *node, i, depth int) int {
	s := w.s
	if depth > s.lim.MaxDepth {
		return s.tooDeep(i)
	}
	return s.members(i, func(name []byte, at int) int {
		for k := range n.members {
			if n.members[k].name == string(name) {
				to := n.members[k].to
				w.forget(to)
				return w.value(to, at, depth)
			}
		}
		return s.value(at, depth)
	})
}

// forget drops what an earlier member of the same name held.
func (w *walk) forget(n *node) {
	for _, k := range n.below {
		w.values[k] = nil
	}
	if n.hasRows {
		w.rows = member[rowArray]{}
	}
}

func (w *walk) array(n *node, i, depth int) int {
	next := n.elements
	index := 0
	return w.s.elements(i, depth, func(at int) int {
		index++
		if len(next) > 0 && next[0].index == index-1 {
			to := next[0].to
			next = next[1:]
			return w.value(to, at, depth)
		}
		return w.s.value(at, depth)
	})
}

// rowsAt reads the value at the rows path.
func (w *walk) rowsAt(i, depth int) int {
	s := w.s
	start := i
	w.names.reset()
	s.union = w.names
	var r rowArray
	switch {
	case s.b[i] != '[':
		if i = s.value(i, depth); i >= 0 && s.b[start] == 'n' {
			r.array = []byte("[]") // Go programs encode an empty list as null
		} else if i >= 0 {
			s.shape = &SyntaxError{Offset: start,
				Msg:  fmt.Sprintf("source_http.rows %q is %s", w.q.rows, kindOf(s.b[start])),
				Hint: hintArrays(s.b[start:i], w.q.rows.steps)}
		}
	case len(w.q.rows.element) == 0:
		if r, i = s.rows(i); i >= 0 {
			r.array = s.b[start:i:i]
		}
	default:
		r, i = w.gather(i)
	}
	s.union = nil
	w.rows = member[rowArray]{has: true, value: r, shape: s.shape}
	s.shape = nil
	return i
}

// gather reads the array of elements that opens at i and copies the row of each into an array.
func (w *walk) gather(i int) (r rowArray, end int) {
	s := w.s
	var found [][]byte
	size := len("[]")
	i = s.elements(i, 1, func(at int) int {
		r.count++
		s.row = r.count
		if r.count > s.lim.MaxRows {
			s.row = 0
			return s.beyond(ErrTooManyRows, at, "the page has more than %d rows", s.lim.MaxRows)
		}
		row, end := w.element(w.q.rows.element, at, 1)
		if end < 0 {
			return -1
		}
		if row == nil {
			s.misshapen(at, r.count, `row %d: source_http.rows %q finds nothing in element %d of the array`, r.count, w.q.rows, r.count)
		}
		found = append(found, row)
		size += len(row) + len(",")
		return end
	})
	s.row = 0
	if i < 0 || s.shape != nil {
		return r, i
	}
	if r.count > 0 {
		r.first, r.last = found[0], found[r.count-1]
	}
	r.array = append(make([]byte, 0, size), '[')
	for k, row := range found {
		if k > 0 {
			r.array = append(r.array, ',')
		}
		r.array = append(r.array, row...)
	}
	r.array = append(r.array, ']')
	return r, i
}

// element reads the value at i, an element of the array of rows or a part of it, inside depth arrays and
// objects. It returns the row that steps find in it, nil if they find none.
func (w *walk) element(steps []Step, i, depth int) (row []byte, end int) {
	s := w.s
	shape := s.shape
	switch {
	case i >= len(s.b):
		return nil, s.unexpected(i, "a value")
	case len(steps) == 0:
		return w.row(i)
	case s.b[i] == '{' && steps[0].Index < 0:
		if depth++; depth > s.lim.MaxDepth {
			return nil, s.tooDeep(i)
		}
		end = s.members(i, func(name []byte, at int) (end int) {
			if steps[0].Name == string(name) {
				w.stale = w.stale || row != nil
				s.shape = shape // the last member of the name counts
				row, end = w.element(steps[1:], at, depth)
				return end
			}
			return s.value(at, depth)
		})
	case s.b[i] == '[' && steps[0].Index >= 0:
		index := 0
		end = s.elements(i, depth+1, func(at int) (end int) {
			if index++; steps[0].Index == index-1 {
				row, end = w.element(steps[1:], at, depth+1)
				return end
			}
			return s.value(at, depth+1)
		})
	default:
		end = s.value(i, depth)
	}
	return row, end
}

// row reads the row at i.
func (w *walk) row(i int) (row []byte, end int) {
	s := w.s
	if s.b[i] == '{' {
		end = s.object(i, 2, s.lim.MaxFields)
	} else if end = s.value(i, 1); end >= 0 {
		s.misshapen(i, s.row, "row %d is %s, not an object", s.row, kindOf(s.b[i]))
	}
	if end < 0 {
		return nil, -1
	}
	if end-i > s.lim.MaxRowBytes {
		return nil, s.beyond(ErrRowTooLong, i, "has %d bytes, at most %d are allowed", end-i, s.lim.MaxRowBytes)
	}
	return s.b[i:end:end], end
}
