package assembler

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"sheaf/events"
	"sheaf/services/assembler/encode"
	"sheaf/services/assembler/encode/archive"
	"sheaf/services/assembler/encode/cells"
)

// maxListed bounds the list of an export's documents in its events, in bytes.
const maxListed = 256 << 10

// assembly writes the documents of an export. There is one for each format, each sheet and each part of
// options.max_rows. A format with several sheets in a document has one for all of them, unless the rows of a
// document are limited.
//
// Each format reads the pages by itself, and each time the proof is made again. So every document is known to
// hold the rows that were crawled.
type assembly struct {
	s       *Service
	x       *events.Export
	sheets  []*sheet
	formats []encode.Format
	options events.Options
	plain   bool // as requests without columns, sheets and options have always been written
	zipped  bool
	zones   encode.Zones
	created time.Time

	ahead    int64
	parallel int
	progress progress

	zip       *archive.Zip
	taken     map[string]bool // names of entries, in lower case
	documents []events.Content
	listed    int // bytes of documents in an event

	judged, written []events.Warning // of the pages, and of the documents
	warnings        []events.Warning // all that the export has
}

func (s *Service) newAssembly(ctx context.Context, x *events.Export) (*assembly, error) {
	req := &x.Request
	a := &assembly{s: s, x: x, formats: formatsOf(req.ExtType), plain: isPlain(req),
		taken: map[string]bool{}, ahead: s.cfg.ReadAhead, parallel: s.cfg.Parallel}
	if req.Options != nil {
		a.options = *req.Options
	}
	if isSmall(x) { // there may be many, so one core each is enough
		a.ahead, a.parallel = min(a.ahead, smallAhead), 1
	}
	switch { // never the clock, so that another assembly gives the same bytes
	case req.Timestamp > 0:
		a.created = time.Unix(req.Timestamp, 0).UTC()
	case !a.plain && !a.options.Reproducible:
		a.created = x.CreatedAt.UTC().Truncate(time.Second)
	}
	a.zipped = !a.options.NoZip || a.options.Manifest || a.options.MaxRows > 0 || len(a.formats) > 1 ||
		req.SheetCount() > 1 && !a.formats[0].ManySheets
	var err error
	a.zones.Display, err = time.LoadLocation(a.options.Timezone)
	if err == nil && a.options.SourceTimezone != "" {
		a.zones.Source, err = time.LoadLocation(a.options.SourceTimezone)
	}
	if err != nil {
		return nil, &failure{code: events.CodeInternal, reason: fmt.Sprintf("options.timezone: %v", err)}
	}
	if len(x.Sheets) > 0 && len(x.Sheets) != req.SheetCount() {
		return nil, &failure{code: events.CodeInternal,
			reason: fmt.Sprintf("%d sheets were crawled of %d", len(x.Sheets), req.SheetCount())}
	}
	for i := range req.SheetCount() {
		sh, err := a.openSheet(ctx, i)
		if err != nil {
			return nil, err
		}
		a.sheets = append(a.sheets, sh)
	}
	counts := make([]int64, len(a.sheets))
	for i, sh := range a.sheets {
		counts[i] = sh.crawled.Rows
	}
	if req.Files(counts...) > events.MaxFiles { // the rows are known, so fail before any is written
		return nil, a.tooMany()
	}
	readings := len(a.formats)
	if a.options.Manifest {
		a.taken[manifestName] = true
		readings++
	}
	a.progress = progress{reported: time.Now(), total: x.Pages * readings, publish: func(p events.Progress) {
		s.journal.PublishProgress(x.Tenant, x.Key, p)
	}}
	return a, nil
}

// isPlain reports whether a request has nothing that requests did not have when a workbook was the only
// format. Its file has kept its bytes since then.
func isPlain(r *events.Request) bool {
	var o events.Options
	if r.Options != nil {
		o = *r.Options
		o.Flatten, o.SourceCharset = 0, "" // how a source is read
	}
	names := events.FormatNames(r.ExtType)
	return len(names) <= 1 && formatsOf(r.ExtType)[0].Name == events.XLSX.Name && o == events.Options{} &&
		len(r.Columns) == 0 && len(r.Sheets) == 0 && r.From == nil
}

// write writes the file. It returns its name, size, checksum, rows and documents.
func (a *assembly) write(ctx context.Context, f *os.File) (file events.File, err error) {
	if a.zipped {
		a.zip = archive.NewZip(f)
	}
	var whole archive.Document
	for _, format := range a.formats {
		if whole, err = a.writeFormat(ctx, f, format); err != nil {
			return file, err
		}
	}
	for _, sh := range a.sheets {
		file.Rows += sh.rows
		for _, w := range sh.keys.warnings() {
			a.judged = append(a.judged, events.Warning{Code: w.Code, Message: sh.label + w.Message})
		}
	}
	a.warnings = distinct(slices.Concat(a.x.Warnings, a.judged, a.written))
	file.Name = a.documents[0].Name
	if a.zipped {
		file.Name = EntryName(a.x.Request.Title, events.Zip.Ext, false)
		if a.options.Manifest {
			if err := a.writeManifest(ctx); err != nil {
				return file, err
			}
		}
		var entries []archive.Document
		if whole, entries, err = a.zip.Finish(ctx); err != nil {
			return file, err
		}
		if len(a.documents) > 1 || a.options.Manifest || a.formats[0].Name != events.XLSX.Name {
			file.Contents = a.documents
			describe(file.Contents, entries)
		}
	}
	file.Size, file.SHA256 = whole.Size, hex.EncodeToString(whole.SHA256[:])
	return file, nil
}

// describe adds the sizes and checksums of entries to the documents, which come first in the zip.
func describe(documents []events.Content, entries []archive.Document) {
	for i := range documents {
		documents[i].Size = entries[i].Size
		if sum := entries[i].SHA256; sum != [len(sum)]byte{} {
			documents[i].SHA256 = hex.EncodeToString(sum[:])
		}
	}
}

// writeFormat writes the documents of a format and proves that they hold all rows. whole describes the file
// if it is the only document.
func (a *assembly) writeFormat(ctx context.Context, f *os.File,
	format encode.Format) (whole archive.Document, err error) {
	tables := make([]*table, len(a.sheets))
	for i, sh := range a.sheets {
		tables[i] = a.newTable(ctx, sh, a.options.MaxRows)
		defer tables[i].close()
	}
	a.progress.rows = 0
	if format.ManySheets && a.options.MaxRows == 0 {
		whole, err = a.writeDocument(ctx, f, format, tables, 0)
	} else {
		for i := 0; i < len(tables) && err == nil; i++ {
			whole, err = a.writeParts(ctx, f, format, tables[i])
		}
	}
	if err != nil {
		return whole, err
	}
	for _, t := range tables {
		warnings, problem := t.check.judge(t.crawled.Pages, t.crawled.Manifest)
		if problem != "" {
			return whole, &failure{code: events.CodeSourceIncomplete, reason: t.label + problem}
		}
		for _, w := range warnings {
			a.judged = append(a.judged, events.Warning{Code: w.Code, Message: t.label + w.Message})
		}
		t.sheet.rows = t.check.rows
	}
	return whole, nil
}

// writeParts writes the documents of one sheet.
func (a *assembly) writeParts(ctx context.Context, f *os.File, format encode.Format,
	t *table) (archive.Document, error) {
	if a.options.MaxRows == 0 {
		return a.writeDocument(ctx, f, format, []*table{t}, 0)
	}
	for part := 1; ; part++ {
		whole, err := a.writeDocument(ctx, f, format, []*table{t}, part)
		if err != nil {
			return whole, err
		}
		if t.more {
			t.advance()
			continue
		}
		if t.found == nil || t.check.rows == 0 {
			return whole, nil
		}
		missing, err := cells.Missing(t.document(), t.found)
		if err != nil {
			return whole, a.s.explain(ctx, err, a.about(format, t.label))
		}
		for _, w := range missing {
			a.written = append(a.written, events.Warning{Code: w.Code, Message: w.Message})
		}
		return whole, nil
	}
}

// about returns the prefix of the reason of a failure.
func (a *assembly) about(format encode.Format, label string) string {
	switch {
	case a.plain:
		return label
	case label == "":
		return format.Name + ": "
	}
	return format.Name + ", " + label
}

// writeDocument writes one document, which holds tables. part is 0 if their rows are not limited.
func (a *assembly) writeDocument(ctx context.Context, f *os.File, format encode.Format, tables []*table,
	part int) (whole archive.Document, err error) {
	doc := encode.Document{Title: a.x.Request.Title, Creator: a.x.Request.UserID, Created: a.created,
		Plain: a.plain, CSV: a.options.CSV, JSON: a.options.JSON, Parallel: a.parallel}
	for _, t := range tables {
		doc.Sheets = append(doc.Sheets, t.document())
	}
	var label string
	var content events.Content
	if len(tables) == 1 {
		label = tables[0].label
	}
	sheetName := ""
	if label != "" {
		content.Sheet, sheetName = tables[0].title, tables[0].name
	}
	content.Name = a.name(sheetName, part, format.Ext)
	if a.listed += listedSize(content); len(a.documents) == events.MaxFiles || a.listed > maxListed {
		return whole, a.tooMany()
	}

	out := archive.Plain(f)
	if a.zipped {
		method := uint16(archive.MethodDeflate)
		if format.Compressed {
			method = archive.MethodStore
		}
		if out, err = a.zip.Begin(content.Name, method); err != nil {
			return whole, err
		}
	}
	about := a.about(format, label)
	res, err := format.Write(ctx, out, doc)
	if err != nil {
		return whole, a.s.explain(ctx, err, about)
	}
	if len(res.Rows) != len(tables) {
		return whole, &failure{code: events.CodeInternal,
			reason: fmt.Sprintf("%s%d sheets were written of %d", about, len(res.Rows), len(tables))}
	}
	for i, t := range tables {
		if err := t.finish(ctx); err != nil {
			return whole, a.s.explain(ctx, err, about)
		}
		if res.Rows[i] != t.count {
			return whole, &failure{code: events.CodeSourceIncomplete,
				reason: fmt.Sprintf("%s%d rows were written of %d that were read", about, res.Rows[i], t.count)}
		}
		content.Rows += t.count
	}
	a.documents = append(a.documents, content)
	for _, w := range res.Warnings {
		message := w.Message
		if part > 0 { // it counts the cells of this document alone
			message = content.Name + ": " + message
		}
		a.written = append(a.written, events.Warning{Code: w.Code, Message: message})
	}
	if a.zipped {
		return whole, a.zip.End()
	}
	return out.Finish(ctx)
}

// tooMany is the failure of an export with more documents than its events can list.
func (a *assembly) tooMany() error {
	return &failure{code: events.CodeLimitRows, reason: fmt.Sprintf(
		"options.max_rows: %d makes more files than an export may have: %d, with names of %d KiB",
		a.options.MaxRows, events.MaxFiles, maxListed>>10)}
}

// name returns the name of a document of a sheet, which differs from those of all others on every file system.
func (a *assembly) name(sheet string, part int, ext string) string {
	req := &a.x.Request
	if a.plain {
		return EntryName(req.Title, req.ExtType, req.SourceType == events.SourceHTTP)
	}
	for n := 1; ; n++ {
		name := documentName(req.Title, sheet, part, ext, n)
		if id := strings.ToLower(name); !a.taken[id] {
			a.taken[id] = true
			return name
		}
	}
}

// listedSize returns the most that a document takes in an event, about.
func listedSize(c events.Content) int {
	const besides = len(`{"name":"","size":,"sha256":"","rows":,"sheet":""},`) + 2*19 + 64
	return len(c.Name) + len(c.Sheet) + besides
}

// maxWarnings is the number of warnings that an export keeps.
const maxWarnings = 100

// distinct returns the warnings, each once, and at most maxWarnings.
func distinct(all []events.Warning) []events.Warning {
	seen, kept := map[events.Warning]bool{}, []events.Warning(nil)
	for _, w := range all {
		if !seen[w] {
			seen[w] = true
			kept = append(kept, w)
		}
	}
	if more := len(kept) - maxWarnings; more > 0 {
		kept = append(kept[:maxWarnings:maxWarnings], events.Warning{Code: "WARNINGS_MORE",
			Message: fmt.Sprintf("%d further warnings are left out", more)})
	}
	return kept
}

// progress publishes how far an assembly is, four times a second. It counts each reading of a page.
type progress struct {
	publish  func(events.Progress)
	reported time.Time
	total    int   // pages of all readings
	passed   int   // pages of the readings before
	done     int   // pages; it never falls, although a format may read twice
	rows     int64 // of the sheets before, in this reading
}

// page notes that a page of a table was read.
func (p *progress) page(number int, rows int64) {
	p.done = max(p.done, p.passed+number)
	if time.Since(p.reported) > 250*time.Millisecond {
		p.reported = time.Now()
		p.publish(events.Progress{Phase: events.PhaseAssembling, PagesDone: p.done, PagesTotal: p.total,
			Rows: p.rows + rows})
	}
}

// sheet notes that a sheet was read, up to its end.
func (p *progress) sheet(pages int, rows int64) {
	p.passed += pages
	p.rows += rows
}
