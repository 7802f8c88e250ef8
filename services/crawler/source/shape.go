// Package source requests pages from paginated HTTP APIs.
//
// A [Shape] is one form of API: how to request a page, and how to read a response. A [Fetcher] does
// everything that is the same for all shapes: attempts and backoff, limits of time, memory and size,
// compression, redaction. Package crawler decides which pages are requested, which rows are data and where
// the list ends.
package source

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"sheaf/events"
	"sheaf/events/rows"
	"sheaf/events/secrets"
)

// Shape is one form of paginated API. It does no I/O and keeps no state, so any process can continue after
// another. It is safe for concurrent use.
type Shape interface {
	// Request returns the request for a page. An error is a *Failure if the export cannot continue.
	Request(ctx context.Context, at Position) (*http.Request, error)
	// Parse reads a successful, decompressed response. The Answer may alias body. An error is a *Failure. One
	// with an Errcode quotes the source; its Errcode, Msg and Hint are redacted later.
	Parse(body []byte, header http.Header, at Position) (Answer, error)
}

// Position is where a page begins.
type Position struct {
	Page  int    // from 1
	Size  int    // rows of a full page as page 1 shows it; 0 for page 1. An offset advances by it
	Token string // Next of the page before, "" for page 1 and where pages are numbered
}

// Answer is the content of a page.
type Answer struct {
	Rows     []byte // a JSON array of objects
	RowCount int    // objects in Rows
	// Header is the first of Rows if it may name the columns. On page 1 it always does; a shape without such
	// a row adds one. On later pages it is dropped if it equals that of page 1. nil: all rows are data.
	Header []byte
	Page   int64  // the number in the response; that of the position if it has none
	Limit  int    // rows of a full page, 0: not said
	Total  int64  // rows of the list, -1: not said
	Pages  int64  // pages of the list, 0: not said
	Next   string // token of the next page; pages are then requested one after another. It is sealed with the page
	Last   bool   // no page follows
	// Names are the distinct names of the rows in order of first appearance, unescaped. nil for a shape whose
	// pages begin with a header row.
	Names     []string
	Rewritten bool // Next has the scheme and port of the URL instead of its own: NEXT_URL_REWRITTEN

	copied int64 // bytes of rows that do not alias the body
	pooled bool  // Rows is from the pool of buffers, and aliases nothing
}

// Request describes how to call a source, as in the export request.
type Request struct {
	URL    string // absolute, http or https; its own query is kept
	Method string // GET or POST in any case; empty means GET
	// Header is sent unchanged. Host sets the requested host. Fields that belong to one connection (RFC 9110,
	// 7.6.1) and Content-Length are refused.
	Header secrets.Values
	// Param is a JSON object, null or empty. A GET sends it in the query, a POST as a JSON body. The text of
	// its numbers never changes.
	Param json.RawMessage
	// SecretParam are the names in Param whose values no message may show.
	SecretParam []string
	Limit       int    // rows per page, at least 1 where it is sent; replaces a limit in Param
	TaskID      string // the hash_key, sent as xt-export-taskId

	// From declares the form of the pages by its Body, BodyType, Format, Rows, HeaderRow, Paging, Error and
	// MaxWait; its other fields are ignored. nil, or without Paging: the standard format.
	From    *events.HTTPRequest
	Options *events.Options // nil: the defaults
	Auth    json.RawMessage // the plain auth object, such as {"type":"bearer","token":"..."}; empty: none
}

// NewRequest returns the request of an export, with its header, its secret parameters and its auth object.
func NewRequest(x *events.Export, header secrets.Values, param, auth json.RawMessage) Request {
	from := x.Request.HTTP
	return Request{
		URL: from.URL, Method: from.Method, Header: header, Param: param, SecretParam: from.SecretParam,
		Limit: from.Limit, TaskID: x.Key, From: from, Options: x.Request.Options, Auth: auth,
	}
}

// declared reports whether the request declares the form of its pages.
func (r Request) declared() bool { return r.From != nil && r.From.Paging != nil }

// newShape chooses the shape of a request. form is the same shape if it is declared, else nil.
func newShape(e *endpoint, req Request, limits rows.Limits) (shape Shape, form *declared, err error) {
	if req.Limit < 1 && !(req.declared() && req.From.Paging.LimitParam == "") {
		return nil, nil, fmt.Errorf("source limit is %d; it must be at least 1", req.Limit)
	}
	if !req.declared() {
		shape, err = newStandard(e, req, limits)
		return shape, nil, err
	}
	form, err = newDeclared(e, req, limits)
	return form, form, err
}
