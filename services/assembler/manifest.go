package assembler

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"time"

	"sheaf/events"
	"sheaf/events/pages"
	"sheaf/services/assembler/encode/archive"
)

// manifestName is the name of the manifest in a zip.
const manifestName = "manifest.json"

// manifestHead is the manifest but for its sheets.
type manifestHead struct {
	Version  int              `json:"version"` // 1
	Key      string           `json:"hash_key"`
	Created  *time.Time       `json:"created,omitempty"` // as in the documents
	Request  events.Request   `json:"request"`           // without what secrets may be in
	Files    []events.Content `json:"files"`             // of the zip, without the manifest
	Warnings []events.Warning `json:"warnings"`
}

// manifestSheet is a sheet but for its pages.
type manifestSheet struct {
	Title    string        `json:"title,omitempty"`
	Rows     int64         `json:"rows"`
	Proof    *events.Proof `json:"proof,omitempty"`
	Manifest string        `json:"manifest"`        // over the pages, see package pages
	Names    *manifestPage `json:"names,omitempty"` // page 0, which holds the columns of a source without a header row
}

type manifestPage struct {
	Page   int        `json:"page"`
	Rows   int        `json:"rows"`
	SHA256 string     `json:"sha256"`         // of the rows as the source sent them
	Time   *time.Time `json:"time,omitempty"` // when it was stored; absent from reproducible files
}

// writeManifest adds manifest.json to the zip. It reads all pages once more, so that its memory does not grow
// with their number, and compares them with the log again.
func (a *assembly) writeManifest(ctx context.Context) error {
	entries, err := a.zip.Documents(ctx)
	if err != nil {
		return err
	}
	describe(a.documents, entries)
	head := manifestHead{Version: 1, Key: a.x.Key, Request: shown(a.x.Request), Files: a.documents,
		Warnings: a.warnings}
	if head.Warnings == nil {
		head.Warnings = []events.Warning{}
	}
	if !a.created.IsZero() {
		head.Created = &a.created
	}
	out, err := a.zip.Begin(manifestName, archive.MethodDeflate)
	if err != nil {
		return err
	}
	w, err := archive.NewWriter(out)
	if err != nil {
		return err
	}
	m := jsonWriter{w: w}
	a.progress.rows = 0
	m.open(head)
	m.text(",\n\"sheets\":[")
	for i, sh := range a.sheets {
		if i > 0 {
			m.text(",")
		}
		m.text("\n")
		head := manifestSheet{Title: sh.title, Rows: sh.rows, Proof: sh.crawled.Proof, Manifest: sh.crawled.Manifest}
		if sh.names != nil {
			head.Names = a.manifestPage(*sh.names)
		}
		m.open(head)
		m.text(",\n\"pages\":[\n")
		first := true
		see := func(p pages.Page) {
			if !first {
				m.text(",\n")
			}
			first = false
			m.value(a.manifestPage(p))
		}
		t := a.newTable(ctx, sh, 0)
		t.see = see
		err := t.finish(ctx)
		t.close()
		if err == nil {
			err = m.err
		}
		if err != nil {
			return a.s.explain(ctx, err, manifestName+": "+sh.label)
		}
		if _, problem := t.check.judge(t.crawled.Pages, t.crawled.Manifest); problem != "" {
			return &failure{code: events.CodeSourceIncomplete, reason: manifestName + ": " + sh.label + problem}
		}
		m.text("]}")
	}
	m.text("]}\n")
	if m.err == nil {
		m.err = w.Close()
	}
	if m.err != nil {
		return m.err
	}
	return a.zip.End()
}

func (a *assembly) manifestPage(p pages.Page) *manifestPage {
	one := &manifestPage{Page: p.Number, Rows: p.DataRows(), SHA256: hex.EncodeToString(p.SHA256[:])}
	if !a.options.Reproducible {
		at := p.StoredAt.UTC()
		one.Time = &at
	}
	return one
}

// shown returns a request without what may hold a secret or says nothing about the rows: the query of its
// addresses, the callback, and what a process must know.
func shown(r events.Request) events.Request {
	r.Callback, r.Needs = "", nil
	r.HTTP = shownSource(r.HTTP)
	if r.Sheets != nil {
		sheets := make([]events.Sheet, len(r.Sheets))
		for i, s := range r.Sheets {
			s.HTTP = shownSource(s.HTTP)
			sheets[i] = s
		}
		r.Sheets = sheets
	}
	return r
}

func shownSource(from *events.HTTPRequest) *events.HTTPRequest {
	if from == nil {
		return nil
	}
	one := *from
	u, err := url.Parse(one.URL)
	if err != nil {
		one.URL = ""
		return &one
	}
	u.User, u.RawQuery, u.ForceQuery, u.Fragment, u.RawFragment = nil, "", false, "", ""
	one.URL = u.String()
	return &one
}

// jsonWriter writes JSON texts until the first error.
type jsonWriter struct {
	w   *archive.Writer
	err error
}

func (j *jsonWriter) text(s string) {
	if j.err == nil {
		_, j.err = j.w.Write([]byte(s))
	}
}

// encode returns the text of a value.
func (j *jsonWriter) encode(v any) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil && j.err == nil {
		j.err = err
	}
	return string(bytes.TrimSuffix(b.Bytes(), []byte("\n")))
}

func (j *jsonWriter) value(v any) { j.text(j.encode(v)) }

// open writes an object without its closing brace. It has at least one member.
func (j *jsonWriter) open(v any) {
	s := j.encode(v)
	j.text(s[:max(len(s)-1, 0)])
}
