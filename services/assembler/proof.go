package assembler

import (
	"fmt"

	"sheaf/events"
	"sheaf/events/pages"
)

// proof compares the rows and pages of a run with the totals that the source announced, so an incomplete file
// is never reported as a success. It takes all pages in order. The number of rows must lie between the first
// and the last announced total. A deviating total on another page only causes a warning.
//
// In the standard format a total of 0 counts nothing. A declared source announces 0 rows with it.
type proof struct {
	declared        bool // the source is not in the standard format
	counted         bool // it announced the number of pages, which are all there
	estimate        bool // its totals prove nothing
	headerless      bool // its columns are on page 0
	manifest        pages.Manifest
	pages           int
	rows            int64
	announced       bool  // there is a total
	first, last     int64 // the first and the last total announced
	lowest, highest int64 // of all totals announced
	without         int   // pages from 2 on whose first row was data where a header was expected
	firstWithout    int   // the first of them
	empty           bool  // page 1 has no rows at all, not even a header
}

// newProof returns the proof of a sheet, of which req is the request.
func newProof(req *events.Request, crawled events.SheetPages) *proof {
	p := &proof{manifest: pages.NewManifest(), headerless: req.HasColumnsPage()}
	if from := req.HTTP; from != nil && from.Paging != nil {
		p.declared, p.estimate = true, from.Paging.Estimate
		p.counted = crawled.Proof != nil && crawled.Proof.Kind == events.ProofPages
	}
	return p
}

// clone returns a proof to which further pages can be added without changing p.
func (p *proof) clone() *proof {
	c := *p
	c.manifest = p.manifest.Clone()
	return &c
}

// columns takes page 0, before all other pages.
func (p *proof) columns(page pages.Page) { p.manifest.Add(page.Number, 0, page.SHA256) }

// counts reports whether the total of a page is an announcement. A page beyond the end may announce any
// total.
func (p *proof) counts(page pages.Page) bool {
	if page.DataRows() == 0 && page.Number > 1 || p.estimate {
		return false
	}
	return page.Total > 0 || p.declared && page.Total == 0
}

// add takes the next page. Pages must come in order and without gaps.
func (p *proof) add(page pages.Page) error {
	p.pages++
	if page.Number != p.pages {
		return fmt.Errorf("page %d where page %d belongs", page.Number, p.pages)
	}
	p.rows += int64(page.DataRows())
	p.manifest.Add(page.Number, page.DataRows(), page.SHA256)
	if p.counts(page) {
		if p.last = page.Total; !p.announced {
			p.announced, p.first, p.lowest = true, page.Total, page.Total
		}
		p.lowest, p.highest = min(p.lowest, page.Total), max(p.highest, page.Total)
	}
	if page.Number == 1 {
		p.empty = page.RowCount == 0
	} else if !p.headerless && !page.HeaderRow && page.RowCount > 0 {
		if p.without++; p.without == 1 {
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
	if p.announced && (p.rows < low || p.rows > high) {
		hint := ""
		if p.rows == low-1 && !p.headerless {
			hint = "; is the first row the header?"
		}
		if low == high {
			return nil, fmt.Sprintf("%d rows were read, but the source announced %d%s", p.rows, high, hint)
		}
		return nil, fmt.Sprintf("%d rows were read, but the source announced between %d and %d%s", p.rows, low, high, hint)
	}
	switch {
	case p.rows == 0 && p.headerless:
		warn("EMPTY", "the source has no rows, so there are no columns: the sheet is empty")
	case !p.announced && p.empty:
		warn("EMPTY", "the source has no rows, and no header either: the sheet is empty")
	case !p.announced && p.rows > 0 && !p.counted:
		warn("TOTAL_MISSING", "the source gave no total, so the number of rows could not be checked")
	}
	if p.lowest != p.highest {
		warn("TOTAL_MOVED", "the source's total moved between %d and %d while %d rows were read: rows may have been added or removed meanwhile", p.lowest, p.highest, p.rows)
	}
	if p.without > 0 {
		warn("HEADER_MISSING", "%d pages, the first of them page %d, do not begin with the header row; their first rows were kept as data", p.without, p.firstWithout)
	}
	return warnings, ""
}
