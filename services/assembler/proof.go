package assembler

import (
	"fmt"

	"sheaf/events"
	"sheaf/events/pages"
)

// proof compares the rows and pages of a run with the totals that the source announced, so an incomplete file
// is never reported as a success. It takes all pages in order. The number of rows must lie between the first
// and the last announced total. A deviating total on another page only causes a warning.
type proof struct {
	manifest        pages.Manifest
	pages           int
	rows            int64
	first, last     int64 // the first and the last total announced; 0 until there is one
	lowest, highest int64 // of all totals announced
	headerless      int   // pages from 2 on whose first row was data
	firstWithout    int   // the first of them
	empty           bool  // page 1 has no rows at all, not even a header
}

func newProof() *proof { return &proof{manifest: pages.NewManifest()} }

// add takes the next page. Pages must come in order and without gaps.
func (p *proof) add(page pages.Page) error {
	p.pages++
	if page.Number != p.pages {
		return fmt.Errorf("page %d where page %d belongs", page.Number, p.pages)
	}
	p.rows += int64(page.DataRows())
	p.manifest.Add(page.Number, page.DataRows(), page.SHA256)
	if page.Total > 0 && (page.DataRows() > 0 || page.Number == 1) { // a page beyond the end may announce any total
		if p.last = page.Total; p.first == 0 {
			p.first, p.lowest = page.Total, page.Total
		}
		p.lowest, p.highest = min(p.lowest, page.Total), max(p.highest, page.Total)
	}
	if page.Number == 1 {
		p.empty = page.RowCount == 0
	} else if !page.HeaderRow && page.RowCount > 0 {
		if p.headerless++; p.headerless == 1 {
			p.firstWithout = page.Number
		}
	}
	return nil
}

// judge reports whether the pages are complete and are those that were crawled. It returns a sentence with
// the numbers, and the warnings for a reader of the file.
func (p *proof) judge(pages int, manifest string) (warnings []events.Warning, problem string) {
	if p.pages != pages {
		return nil, fmt.Sprintf("%d of %d pages are there", p.pages, pages)
	}
	if sum := p.manifest.Sum(); sum != manifest {
		return nil, fmt.Sprintf("the %d pages are not those that were crawled: their manifest is %.12s, not %.12s", pages, sum, manifest)
	}
	warn := func(code, format string, args ...any) {
		warnings = append(warnings, events.Warning{Code: code, Message: fmt.Sprintf(format, args...)})
	}
	low, high := min(p.first, p.last), max(p.first, p.last)
	switch {
	case p.highest == 0 && p.empty:
		warn("EMPTY", "the source has no rows, and no header either: the sheet is empty")
	case p.highest == 0 && p.rows > 0:
		warn("TOTAL_MISSING", "the source gave no total, so the number of rows could not be checked")
	case p.highest > 0 && (p.rows < low || p.rows > high):
		hint := ""
		if p.rows == low-1 {
			hint = "; is the first row the header?"
		}
		if low == high {
			return nil, fmt.Sprintf("%d rows were read, but the source announced %d%s", p.rows, high, hint)
		}
		return nil, fmt.Sprintf("%d rows were read, but the source announced between %d and %d%s", p.rows, low, high, hint)
	}
	if p.lowest != p.highest {
		warn("TOTAL_MOVED", "the source's total moved between %d and %d while %d rows were read: rows may have been added or removed meanwhile", p.lowest, p.highest, p.rows)
	}
	if p.headerless > 0 {
		warn("HEADER_MISSING", "%d pages, the first of them page %d, do not begin with the header row; their first rows were kept as data", p.headerless, p.firstWithout)
	}
	return warnings, ""
}
