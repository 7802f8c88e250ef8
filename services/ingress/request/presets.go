package request

import (
	"encoding/json"
	"slices"
)

// Preset is a name for the fields of source_http that describe one kind of API.
type Preset struct {
	Name   string          `json:"name"`
	About  string          `json:"about"`           // one phrase
	Given  []string        `json:"given,omitempty"` // fields that the request must add
	Source json.RawMessage `json:"source_http"`     // the fields that the name stands for
}

// PresetStandard is the preset of a request that names none. Used without a field beside it that describes
// pages, it is the standard format, in which a total of 0 means that the total is unknown.
const PresetStandard = "sheaf"

// Presets returns all presets, in the order of their families.
func Presets() []Preset { return slices.Clone(presets) }

func preset(name string) (Preset, bool) {
	i := slices.IndexFunc(presets, func(p Preset) bool { return p.Name == name })
	if i < 0 {
		return Preset{}, false
	}
	return presets[i], true
}

var presets = []Preset{
	{Name: PresetStandard, About: "the standard format of Sheaf", Source: json.RawMessage(`{
		"rows": "data.data", "header_row": true,
		"paging": {"type": "page", "page_param": "page", "limit_param": "limit", "total": "data.pagetag.total",
			"total_pages": "data.pagetag.total_page", "end": ["empty", "repeat"]},
		"error": {"path": "errcode", "ok": [0], "message": "msg"}}`)},
	{Name: "pocketbase", About: "PocketBase records", Source: json.RawMessage(`{
		"rows": "items",
		"paging": {"type": "page", "page_param": "page", "limit_param": "perPage", "total": "totalItems",
			"total_pages": "totalPages"}}`)},
	{Name: "drf", About: "Django REST framework, PageNumberPagination", Source: json.RawMessage(`{
		"rows": "results",
		"paging": {"type": "page", "page_param": "page", "limit_param": "page_size", "total": "count",
			"end": ["empty", "missing"]}}`)},
	{Name: "drf-offset", About: "Django REST framework, LimitOffsetPagination", Source: json.RawMessage(`{
		"rows": "results",
		"paging": {"type": "offset", "offset_param": "offset", "limit_param": "limit", "total": "count",
			"end": ["empty", "missing"]}}`)},
	{Name: "drf-cursor", About: "Django REST framework, CursorPagination; size in param page_size",
		Source: json.RawMessage(`{
		"rows": "results", "paging": {"type": "next_url", "next_url": "next"}}`)},
	{Name: "laravel", About: "Laravel paginator", Source: json.RawMessage(`{
		"rows": "data",
		"paging": {"type": "page", "page_param": "page", "limit_param": "per_page", "total": "total",
			"total_pages": "last_page"}}`)},
	{Name: "laravel-resource", About: "Laravel API resources", Source: json.RawMessage(`{
		"rows": "data",
		"paging": {"type": "page", "page_param": "page", "limit_param": "per_page", "total": "meta.total",
			"total_pages": "meta.last_page"}}`)},
	{Name: "spring", About: "Spring Data Page", Source: json.RawMessage(`{
		"rows": "content",
		"paging": {"type": "page", "page_param": "page", "start": 0, "limit_param": "size",
			"total": "totalElements", "total_pages": "totalPages", "more": "!last"}}`)},
	{Name: "spring-paged", About: "Spring Data PagedModel, from 3.3", Source: json.RawMessage(`{
		"rows": "content",
		"paging": {"type": "page", "page_param": "page", "start": 0, "limit_param": "size",
			"total": "page.totalElements", "total_pages": "page.totalPages"}}`)},
	{Name: "mybatis-plus", About: "MyBatis-Plus IPage in a result object", Source: json.RawMessage(`{
		"rows": "data.records",
		"paging": {"type": "page", "page_param": "current", "limit_param": "size", "total": "data.total",
			"total_pages": "data.pages"},
		"error": {"path": "code", "ok": [0, 200], "message": "msg"}}`)},
	{Name: "ruoyi", About: "RuoYi TableDataInfo", Source: json.RawMessage(`{
		"rows": "rows",
		"paging": {"type": "page", "page_param": "pageNum", "limit_param": "pageSize", "total": "total"},
		"error": {"path": "code", "ok": [200], "message": "msg"}}`)},
	{Name: "pagehelper", About: "PageHelper PageInfo in a result object", Source: json.RawMessage(`{
		"rows": "data.list",
		"paging": {"type": "page", "page_param": "pageNum", "limit_param": "pageSize", "total": "data.total",
			"total_pages": "data.pages"},
		"error": {"path": "code", "ok": [0, 200], "message": "msg"}}`)},
	{Name: "ant-design", About: "Ant Design Pro tables", Source: json.RawMessage(`{
		"rows": "data",
		"paging": {"type": "page", "page_param": "current", "limit_param": "pageSize", "total": "total"},
		"error": {"path": "success", "ok": [true], "message": "errorMessage"}}`)},
	{Name: "odata", About: "OData 4; needs param $count=true; size in header Prefer: odata.maxpagesize=N",
		Source: json.RawMessage(`{
		"rows": "value",
		"paging": {"type": "next_url", "next_url": "['@odata.nextLink']", "total": "['@odata.count']"}}`)},
	{Name: "odata2", About: "OData 2; needs param $inlinecount=allpages", Source: json.RawMessage(`{
		"rows": "d.results", "paging": {"type": "next_url", "next_url": "d.__next", "total": "d.__count"}}`)},
	{Name: "json-api", About: "JSON:API; size in param page[size]", Source: json.RawMessage(`{
		"rows": "data", "paging": {"type": "next_url", "next_url": "links.next"}, "error": {"path": "errors"}}`)},
	{Name: "graphql-relay", About: "GraphQL connections", Given: []string{"body", "rows", "paging.cursor"},
		Source: json.RawMessage(`{
		"method": "POST",
		"paging": {"type": "cursor", "cursor_param": "body:variables.after",
			"limit_param": "body:variables.first"},
		"error": {"path": "errors", "message": "errors[0].message"}}`)},
	{Name: "link", About: "an array, with the next page in the Link header", Source: json.RawMessage(`{
		"rows": "$", "paging": {"type": "link", "rel": "next"}}`)},
	{Name: "github", About: "GitHub; size in param per_page", Source: json.RawMessage(`{
		"rows": "$", "paging": {"type": "link", "rel": "next"}}`)},
	{Name: "stripe", About: "Stripe lists", Source: json.RawMessage(`{
		"rows": "data",
		"paging": {"type": "cursor", "cursor": "row:id", "cursor_param": "starting_after",
			"limit_param": "limit", "more": "has_more"}}`)},
	{Name: "notion", About: "Notion queries", Source: json.RawMessage(`{
		"method": "POST", "rows": "results",
		"paging": {"type": "cursor", "cursor": "next_cursor", "cursor_param": "body:start_cursor",
			"limit_param": "body:page_size", "more": "has_more"}}`)},
	{Name: "hubspot", About: "HubSpot CRM objects", Source: json.RawMessage(`{
		"rows": "results",
		"paging": {"type": "cursor", "cursor": "paging.next.after", "cursor_param": "after",
			"limit_param": "limit"}}`)},
	{Name: "slack", About: "Slack Web API", Given: []string{"rows"}, Source: json.RawMessage(`{
		"paging": {"type": "cursor", "cursor": "response_metadata.next_cursor", "cursor_param": "cursor",
			"limit_param": "limit"},
		"error": {"path": "ok", "ok": [true], "message": "error"}}`)},
	{Name: "feathers", About: "FeathersJS", Source: json.RawMessage(`{
		"rows": "data",
		"paging": {"type": "offset", "offset_param": "$skip", "limit_param": "$limit", "total": "total"}}`)},
	{Name: "couchdb", About: "CouchDB _all_docs; needs param include_docs=true", Source: json.RawMessage(`{
		"rows": "rows[*].doc",
		"paging": {"type": "offset", "offset_param": "skip", "limit_param": "limit", "total": "total_rows"}}`)},
	{Name: "postgrest", About: "PostgREST tables and views", Source: json.RawMessage(`{
		"header": {"Prefer": "count=exact"}, "rows": "$",
		"paging": {"type": "offset", "offset_param": "offset", "limit_param": "limit",
			"total": "header:Content-Range"}}`)},
}
