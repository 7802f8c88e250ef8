package assembler

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"sheaf/events"
	"sheaf/events/pages"
	"sheaf/events/rows"
	"sheaf/events/similar"
	"sheaf/services/assembler/encode"
	"sheaf/services/assembler/encode/cells"
)

// sheet is a table of an export: the pages of one run, and the columns.
type sheet struct {
	label   string // begins what is said about the sheet; "" for the only one
	title   string // "" for the only sheet of a request without sheets
	name    string // in the names of its documents
	request events.Request
	crawled events.SheetPages
	start   *proof // of the columns page, if there is one, and no other
	columns []encode.Column
	chosen  bool
	names   *pages.Page // the columns page without its rows; nil if there is none

	get   func(ctx context.Context, n int) (pages.Page, error)
	first *pages.Page // page 1, read for its header and not yet taken

	pathsOfPage1 []string // set by near

	keys  *rowKeys
	keyed int // the last page whose keys were checked

	rows int64 // set once a format has all of them
}

// openSheet finds the columns of the i-th sheet of an export.
func (a *assembly) openSheet(ctx context.Context, i int) (*sheet, error) {
	x := a.x
	req := x.Request.Sheet(i)
	sh := &sheet{request: req, crawled: x.CrawledSheet(i), keys: newRowKeys(req.RowKey),
		chosen: len(req.Columns) > 0}
	if len(x.Request.Sheets) > 0 {
		sh.title = x.Request.Sheets[i].Title
	}
	if len(x.Request.Sheets) > 1 {
		sh.label = fmt.Sprintf("sheet %d %q: ", i+1, sh.title)
		sh.name = sheetName(sh.title, i)
	}
	sh.start = newProof(&sh.request, sh.crawled)
	sh.get = func(ctx context.Context, n int) (pages.Page, error) {
		if n == 1 && sh.first != nil {
			p := *sh.first
			sh.first = nil
			return p, nil
		}
		return a.s.pages.Get(ctx, pages.ID{Tenant: x.Tenant, Key: x.PagesKey(), Run: sh.crawled.Run,
			Sheet: i, Number: n})
	}
	if req.HasColumnsPage() {
		names, err := sh.get(ctx, 0)
		if err != nil {
			return nil, a.s.explain(ctx, err, sh.label)
		}
		sh.start.columns(names)
		sh.columns = encode.Columns(names.Rows)
		names.Rows = nil
		sh.names = &names
	} else if !sh.chosen && sh.crawled.Pages > 0 { // page 1 begins with the header
		first, err := sh.get(ctx, 1)
		if err != nil {
			return nil, a.s.explain(ctx, fmt.Errorf("page 1: %w", err), sh.label)
		}
		sh.columns = encode.Columns(first.Rows)
		sh.first = &first
	}
	if sh.chosen {
		sh.columns = make([]encode.Column, len(req.Columns))
		for i := range req.Columns {
			c := &req.Columns[i]
			sh.columns[i] = encode.Column{Name: c.Key, Title: c.Title, Spec: c}
			if c.Title == "" {
				sh.columns[i].Title = c.Key
			}
		}
	}
	return sh, nil
}

// nearDepth is the number of levels of nested objects whose names are proposed, nearRows the number of rows.
const nearDepth, nearRows = 5, 100

// near returns the name in page 1 that is most similar to a key, such as user.name, "" for none. It is a hint:
// a page that cannot be read has no names.
func (sh *sheet) near(ctx context.Context, key string) string {
	if sh.pathsOfPage1 == nil {
		sh.pathsOfPage1 = []string{}
		if p, err := sh.get(ctx, 1); err == nil {
			if flat, err := rows.Flatten(nil, rows.Slice(nil, p.Rows, 0, min(p.RowCount, nearRows)), nearDepth, rows.Limits{}); err == nil {
				sh.pathsOfPage1 = rows.Names(flat)
			}
			p.Release()
		}
	}
	if near := similar.Name(key, slices.Values(sh.pathsOfPage1)); len(near) > 2 { // shorter ones are all similar
		return near
	}
	return ""
}

// table reads a sheet for the documents of one format. Each document is a window of the sheet's rows. The
// first begins at page 1; advance moves on to the next.
type table struct {
	*sheet
	a   *assembly
	max int64            // rows of a document; 0: all
	see func(pages.Page) // called for each page, if set
	ctx context.Context  // of the assembly
	at  place            // where the document begins
	// of the pages that were read for earlier documents, which includes the page in which this one begins
	before *proof

	// of the newest reading of the document
	reader *pageReader
	check  *proof // before, and the pages read
	found  []bool // see encode.Sheet
	given  int    // pages
	count  int64  // rows
	end    place  // where the next document begins
	more   bool   // there is a next document
}

// place is a data row of a sheet.
type place struct {
	page int // from 1
	row  int // of the data rows of the page, from 0
}

func (a *assembly) newTable(ctx context.Context, sh *sheet, max int64) *table {
	t := &table{sheet: sh, a: a, ctx: ctx, max: max, at: place{page: 1}, before: sh.start, check: sh.start}
	if max > 0 && sh.chosen {
		t.found = cells.NewFound(sh.columns)
	}
	return t
}

// document returns the table as a sheet of a document.
func (t *table) document() encode.Sheet {
	return encode.Sheet{Title: t.title, Columns: t.columns, Chosen: t.chosen, Found: t.found, Zones: t.a.zones,
		Near: func(key string) string { return t.near(t.ctx, key) },
		Open: func() func(context.Context) (encode.Page, error) {
			t.open()
			return t.next
		}}
}

// open begins a reading of the document. What an earlier reading found is forgotten.
func (t *table) open() {
	t.close()
	t.reader = readPages(t.ctx, t.at.page, t.crawled.Pages, t.a.ahead, t.get)
	t.check, t.given, t.count, t.more = t.before.clone(), 0, 0, false
}

// next returns the next page of the document, io.EOF after the last. It then knows whether rows follow.
func (t *table) next(ctx context.Context) (encode.Page, error) {
	for !t.more {
		p, err := t.page(ctx)
		if err != nil {
			return encode.Page{}, err
		}
		skip := 0
		if p.Number == t.at.page {
			skip = t.at.row
		}
		left := p.DataRows() - skip
		if t.max > 0 && t.count == t.max { // full
			if left > 0 {
				t.more, t.end = true, place{p.Number, skip}
			}
			p.Release()
			continue
		}
		n := left
		if t.max > 0 {
			n = int(min(int64(left), t.max-t.count))
		}
		t.given++
		t.count += int64(n)
		if n < left {
			t.more, t.end = true, place{p.Number, skip + n}
		}
		page := encode.Page{Number: t.given, Rows: p.Rows, RowCount: p.RowCount, Release: p.Release,
			SkipFirst: p.HeaderRow || p.Number == 1 && !t.start.headerless}
		if n < p.DataRows() {
			if page.SkipFirst {
				skip++
			}
			page.Rows, page.RowCount = rows.Slice(nil, p.Rows, skip, skip+n), n
			page.SkipFirst, page.Release = false, nil
			p.Release()
		}
		return page, nil
	}
	return encode.Page{}, io.EOF
}

// page reads the next page and checks it.
func (t *table) page(ctx context.Context) (pages.Page, error) {
	p, err := t.reader.Next(ctx)
	if err != nil {
		return pages.Page{}, err
	}
	// A page never adds more to the file than its rows.
	if err := t.a.s.cfg.Room(int64(len(p.Rows))); err != nil {
		return pages.Page{}, fmt.Errorf("%w: %w", errNoRoom, err)
	}
	if p.Number != t.before.pages {
		if err := t.check.add(p); err != nil {
			return pages.Page{}, err
		}
	}
	if p.Number > t.keyed {
		t.keys.add(p)
		t.keyed = p.Number
	}
	if t.see != nil {
		t.see(p)
	}
	t.a.progress.page(p.Number, t.check.rows)
	return p, nil
}

// finish reads the rest of the document's rows, so that it is known whether more follow and whether all pages
// are there.
func (t *table) finish(ctx context.Context) error {
	if t.reader == nil {
		t.open()
	}
	for {
		p, err := t.next(ctx)
		if errors.Is(err, io.EOF) {
			t.close()
			if !t.more {
				t.a.progress.sheet(t.crawled.Pages, t.check.rows)
			}
			return nil
		}
		if err != nil {
			return err
		}
		if p.Release != nil {
			p.Release()
		}
	}
}

// advance moves on to the next document.
func (t *table) advance() { t.at, t.before = t.end, t.check }

// close ends the reading. It may be called twice.
func (t *table) close() {
	if t.reader != nil {
		t.reader.Close()
		t.reader = nil
	}
}
