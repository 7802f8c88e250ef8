package assembler

import (
	"crypto/sha256"
	"fmt"

	"sheaf/events"
)

// proof holds the rows and pages of a run against what the source announced.
// It is fed every page in order, and judges when all have passed: an
// incomplete file is never called a success.
type proof struct {
	manifest     events.Manifest
	pages        int
	rows         int64
	least, most  int64 // totals announced, 0 while none was
	untold       int   // pages without a total
	headerless   int   // pages from 2 on whose first row was data
	firstWithout int   // the first of them
	empty        bool  // page 1 has no rows at all, not even a header
	fetched      bool  // the pages are answers of a source; else rows of a request, cut into pages
	repeated     int   // pages of a source with the same rows as the page before
	firstRepeat  int   // the first of them
	before       [sha256.Size]byte
}

func newProof(sourceType string) *proof {
	return &proof{manifest: events.NewManifest(), fetched: sourceType == events.SourceHTTP}
}

// add takes the next page. Pages must come in order and without gaps.
func (p *proof) add(page events.Page) error {
	p.pages++
	if page.Number != p.pages {
		return fmt.Errorf("page %d where page %d belongs", page.Number, p.pages)
	}
	p.rows += int64(page.DataRows())
	p.manifest.Add(page.Number, page.DataRows(), page.SHA256)
	switch {
	case page.Total <= 0:
		p.untold++
	case p.least == 0:
		p.least, p.most = page.Total, page.Total
	default:
		p.least, p.most = min(p.least, page.Total), max(p.most, page.Total)
	}
	if p.fetched && page.Number > 1 && page.DataRows() > 0 && page.SHA256 == p.before {
		if p.repeated++; p.repeated == 1 {
			p.firstRepeat = page.Number
		}
	}
	p.before = page.SHA256
	if page.Number == 1 {
		p.empty = page.RowCount == 0
	} else if !page.HeaderRow && page.RowCount > 0 {
		if p.headerless++; p.headerless == 1 {
			p.firstWithout = page.Number
		}
	}
	return nil
}

// judge says whether the pages are those that were crawled and complete, with
// a sentence that gives the numbers, and what a reader of the file should know.
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
	switch {
	case p.most == 0 && p.empty:
		warn("EMPTY", "the source has no rows, and no header either: the sheet is empty")
	case p.most == 0 && p.rows > 0:
		warn("TOTAL_MISSING", "the source gave no total, so the number of rows could not be checked")
	case p.most > 0 && (p.rows < p.least || p.rows > p.most):
		if p.least == p.most {
			return nil, fmt.Sprintf("%d rows were read, but the source announced %d", p.rows, p.most)
		}
		return nil, fmt.Sprintf("%d rows were read, but the source announced between %d and %d", p.rows, p.least, p.most)
	}
	if p.least != p.most {
		warn("TOTAL_MOVED", "the source's total moved between %d and %d while %d rows were read: rows may have been added or removed meanwhile", p.least, p.most, p.rows)
	}
	if p.repeated > 0 {
		warn("PAGE_REPEATED", "%d pages, the first of them page %d, have the same rows as the page before: the source may ignore the page parameter", p.repeated, p.firstRepeat)
	}
	if p.headerless > 0 {
		warn("HEADER_MISSING", "%d pages, the first of them page %d, do not begin with the header row; their first rows were kept as data", p.headerless, p.firstWithout)
	}
	return warnings, ""
}
