package events_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"sheaf/events"
	"sheaf/events/eventstest"
	"sheaf/events/pages"

	"github.com/klauspost/compress/s2"
	"github.com/nats-io/nats.go"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// samples returns one event of each type with every field set. Each has sequence 21 and contains the export
// after it, which is in its second round.
func samples() []events.Event {
	when := time.Date(2026, 9, 6, 9, 24, 34, 123456789, time.UTC)
	submission := &events.Submission{StreamCreated: when.Add(-time.Hour), Sequence: 4}
	warnings := []events.Warning{{Code: "CELL_CUT",
		Message: "第 3 行 a cell was longer than 32,767 characters"}}
	comma := ", "
	sheets := []events.SheetPages{
		{Run: 12, Pages: 249, Rows: 497, Manifest: strings.Repeat("5e", 32), Proof: &events.Proof{Kind: events.ProofEnd, Rows: 497, Pages: 249}},
		{Pages: 1, Rows: 3, Manifest: strings.Repeat("6f", 32)},
	}
	request := &events.ExportRequested{
		CreatedAt: when.Add(-24 * time.Hour), Submission: submission, RequestID: "trace-7",
		Request: events.Request{
			Timestamp: 1625106204, ExtType: "XLSX", Title: "http接口数据源导出 <&>", UserID: "123", RowKey: "id",
			Callback:   "https://example.com/done?a=1&b=2",
			SourceType: events.SourceHTTP, Warnings: []string{"priority: not known, ignored"},
			HTTP: &events.HTTPRequest{
				URL: "https://example.com/demo/page?x=1", Method: "POST", Limit: 20, Conn: 8,
				Header: []string{"Authorization"}, SecretParam: []string{"token"},
				Param:  json.RawMessage(`{"limit":20,"big":12345678901234567890.10,"list":[1,null,"é"]}`),
				Preset: "graphql-relay", Body: json.RawMessage(`{"query":"{orders}","variables":{"first":20}}`),
				BodyType: events.BodyForm, Format: events.FormatCSV, Rows: "data.orders.edges[*].node", HeaderRow: true,
				Auth: events.AuthBearer, MaxWait: 90,
				Paging: &events.Paging{
					Type: events.PagingCursor, PageParam: "page", OffsetParam: "skip", Start: 1, LimitParam: "body:variables.first",
					CursorParam: "body:variables.after", Cursor: "data.orders.pageInfo.endCursor", CursorStart: json.RawMessage(`"*"`),
					NextURL: "links.next", Rel: "next", Total: "header:X-Total-Count", TotalPages: "pages", More: "!last",
					End: []string{events.EndEmpty, events.EndRepeat}, Estimate: true, Repeats: true, Hosts: []string{"api.example"},
				},
				Error: &events.ErrorMapping{
					Path: "code", OK: []json.RawMessage{json.RawMessage("0"), json.RawMessage(`"200"`)}, Message: "msg",
					Retry: []json.RawMessage{json.RawMessage("1015")}, RetryStatus: []int{403},
				},
			},
			Columns: []events.Column{
				{Key: "user.name", Title: "姓名", Type: events.ColumnText, Map: map[string]string{"1": "已付款", "*": "其他"}, Width: 20},
				{Key: "paid_at", Type: events.ColumnDatetime, From: events.FromUnixMS, Format: "yyyy-mm-dd"},
				{Key: "tags", Join: &comma, Link: "https://example.com/{id}"},
			},
			Sheets: []events.Sheet{
				{Title: "订单", RowKey: "id", HTTP: &events.HTTPRequest{URL: "https://example.com/orders", Method: "GET", Limit: 50, Conn: 1},
					Columns: []events.Column{{Key: "id"}}},
				{Title: "客户", Raw: &events.RawRows{Pages: 1, Rows: 3}},
			},
			From: &events.Origin{Key: strings.Repeat("0", 32), Sheets: sheets},
			Options: &events.Options{
				Timezone: "Asia/Shanghai", SourceTimezone: "UTC", MaxRows: 100, NoZip: true, Manifest: true, KeepPages: 48, Reproducible: true,
				CSV:     events.CSVOptions{NoBOM: true, Delimiter: ";", Encoding: "gbk", NoGuard: true},
				JSON:    events.JSONOptions{Titles: true},
				Flatten: 2, SourceCharset: "gbk",
			},
			Needs: []string{events.NeedSource, events.NeedFile},
		},
	}
	again := *request
	again.ExportID, again.ContinuesRun = 12, 12
	crawled := &events.ExportCrawled{Run: 12, Pages: 250, Manifest: strings.Repeat("5e", 32),
		Proof: &events.Proof{Kind: events.ProofTotal, Announced: 500, Rows: 500, Pages: 250}, Sheets: sheets, Warnings: warnings,
		Crawl: &events.CrawlStats{Millis: 1500, Bytes: 65536, Retries: 2}}
	completed := &events.ExportCompleted{
		Run: 12, Pages: 250, Manifest: strings.Repeat("5e", 32), Rows: 500, Warnings: warnings,
		ExpiresAt: when.Add(168 * time.Hour), PagesUntil: when.Add(48 * time.Hour),
		Files: []events.File{{Name: "http接口数据源导出.zip", Store: "default/" + testKey + "-12.zip", Size: 31337,
			SHA256: strings.Repeat("0f", 32), Rows: 500, Contents: []events.Content{
				{Name: "订单.csv", Size: 4711, SHA256: strings.Repeat("1e", 32), Rows: 497, Sheet: "订单"}}}},
	}
	failed := &events.ExportFailed{
		Code: events.CodeSourceHTTP, Reason: "page 7: the source answered 503 three times",
		Phase: events.PhaseCrawling,
		Run:   12, Page: 7, Status: 503, Errcode: "1001", Attempts: 3, RunSpoiled: true,
	}
	cancelled := &events.ExportCancelled{Reason: "cancelled by the caller"}
	attempted := &events.CallbackAttempted{Terminal: 19, Attempt: 1, Status: 500,
		Reason: "the receiver answered 500", Millis: 15, NextAt: when.Add(5 * time.Minute)}
	var all []events.Event
	for _, path := range [][]events.Payload{ // the last one is at sequence 21
		{request, cancelled, &again},
		{request, cancelled, &again, crawled},
		{request, cancelled, &again, crawled, completed},
		{request, cancelled, &again, crawled, failed},
		{request, cancelled, &again, crawled, cancelled},
		{request, cancelled, &again, crawled, completed, attempted,
			&events.ExportExpired{Files: []string{"default/" + testKey + "-12.zip"},
				Reason: "the file is missing from the store"}},
		{&events.SubmissionRejected{Submission: *submission, Errcode: 1001, Field: "source_http.url",
			Reason: "source_http.url: want http or https"}},
		{request, cancelled, &again, crawled, completed, attempted,
			&events.CallbackAttempted{Terminal: 19, Attempt: 2, Reason: "the receiver did not answer",
				Millis: 10_000, NextAt: when.Add(5 * time.Minute)}},
		{request, cancelled, &again, crawled, failed, attempted,
			&events.CallbackDelivered{Terminal: 19, Attempt: 2, Status: 204, Millis: 12}},
		{request, cancelled, &again, crawled, completed, attempted,
			&events.CallbackFailed{Terminal: 19, Attempt: 2, Status: 410,
				Reason: "the receiver answered 410", Millis: 9}},
		{request, cancelled, &again, crawled, completed,
			&events.CallbackDelivered{Terminal: 19, Attempt: 1, Status: 204, Millis: 12},
			&events.CallbackRequested{Terminal: 19}},
	} {
		x := fresh()
		var ev events.Event
		for i, p := range path {
			left := len(path) - 1 - i
			sequence := uint64(21 - left)
			if i < 2 && left > 0 {
				sequence = uint64(12 + i) // of the first round
			}
			ev = events.Event{
				ID:     fmt.Sprintf("01991e2c-5f7b-7a52-b816-b76e70a21e%d", sequence),
				Tenant: "default", Key: testKey,
				Time: when.Add(time.Duration(-left) * time.Second), CorrelationID: "order-17",
				Sequence: sequence, Payload: p,
				TraceParent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
			}
			if err := x.Apply(ev); err != nil {
				panic(err)
			}
		}
		ev.Export = &x
		all = append(all, ev)
	}
	return all
}

// wire returns the text form of a message in golden files.
func wire(subject string, h nats.Header, body []byte) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\n", subject)
	for _, name := range slices.Sorted(maps.Keys(h)) {
		fmt.Fprintf(&b, "%s: %s\n", name, strings.Join(h[name], ", "))
	}
	fmt.Fprintf(&b, "\n%s\n", body)
	return b.Bytes()
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		require.NoError(t, os.WriteFile(path, got, 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), string(got), "go test -run %s -update rewrites it", t.Name())
}

const exportSchema = "urn:sheaf:schema:sheaf.export.v1"

func compile(t *testing.T, schema []byte) *jsonschema.Schema {
	t.Helper()
	require.NotNil(t, schema)
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
	require.NoError(t, err)
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	id := doc.(map[string]any)["$id"].(string)
	require.NoError(t, c.AddResource(id, doc))
	if export, err := jsonschema.UnmarshalJSON(bytes.NewReader(events.ExportSchema())); id != exportSchema {
		require.NoError(t, err)
		require.NoError(t, c.AddResource(exportSchema, export))
	}
	s, err := c.Compile(id)
	require.NoError(t, err)
	return s
}

func validate(t *testing.T, s *jsonschema.Schema, data []byte) error {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	require.NoError(t, err)
	return s.Validate(doc)
}

// The wire format of every type, which other programs read and existing logs contain.
func TestWireFormat(t *testing.T) {
	t.Parallel()
	files := map[string]bool{"sheaf.page.fetched.v1.golden": true, "sheaf.export.v1.golden": true}
	for _, ev := range samples() {
		msg, err := events.Encode(ev)
		require.NoError(t, err)
		name := msg.Header.Get("ce-type")
		files[name+".golden"] = true
		golden(t, name, wire(msg.Subject, msg.Header, msg.Data))

		got, err := events.Decode(msg.Subject, msg.Header, msg.Data, 21)
		require.NoError(t, err)
		require.Equal(t, ev, got, name)

		s := compile(t, events.Schema(ev.Type()))
		require.NoError(t, validate(t, s, msg.Data), name)
		require.Error(t, validate(t, s, append([]byte(`{"unknown":1,`), msg.Data[1:]...)),
			"%s: the schema is strict", name)
		_, err = events.Decode(msg.Subject, msg.Header, append([]byte(`{"unknown":1,`), msg.Data[1:]...), 21)
		require.NoError(t, err, "%s: a reader is not", name)
	}
	require.Len(t, files, len(allTypes)+2)
	for _, dir := range []string{"testdata", "schema"} {
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		for _, e := range entries {
			if !e.IsDir() {
				require.True(t, files[strings.TrimSuffix(strings.TrimSuffix(e.Name(), ".json"), ".golden")+
					".golden"], "%s/%s belongs to no type", dir, e.Name())
			}
		}
	}
	require.Nil(t, events.Schema("archived"))
}

func TestWireFormatOfAPage(t *testing.T) {
	t.Parallel()
	s := eventstest.Journal(t)
	p := pages.Page{
		ID:   pages.ID{Tenant: "default", Key: testKey, Run: 7, Number: 2},
		Rows: []byte(`[{"ID":"编号"},{"ID":12345678901234567890}]`), RowCount: 2, HeaderRow: true, Total: 12,
		TotalPages: 4, Limit: 2, Attempts: 2,
	}
	_, err := s.Pages().Publish(t.Context(), p)
	require.NoError(t, err)
	m := eventstest.Stored(t, s, events.StreamPages, ">")[0]
	require.Regexp(t, `^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f-]{21}-1$`, m.Header.Get("ce-id"))
	when, err := time.Parse(time.RFC3339Nano, m.Header.Get("ce-time"))
	require.NoError(t, err)
	require.WithinDuration(t, time.Now(), when, time.Minute)
	m.Header.Set("ce-id", "<UUIDv7>-1")
	m.Header.Set("ce-time", "<RFC 3339>")
	// added by a direct get
	maps.DeleteFunc(m.Header, func(name string, _ []string) bool { return strings.HasPrefix(name, "Nats-") })
	rows, err := s2.Decode(nil, m.Data)
	require.NoError(t, err)
	golden(t, m.Header.Get("ce-type"), wire(m.Subject, m.Header, rows))
	schema := compile(t, events.PageSchema())
	require.NoError(t, validate(t, schema, rows))
	require.Error(t, validate(t, schema, []byte(`{}`)))
	require.Error(t, validate(t, schema, []byte(`[1]`)))
}

// Each schema lists exactly the fields of its Go type, and requires those that are always written. The schema
// of an event also has the export.
func TestSchemasMatchTheTypes(t *testing.T) {
	t.Parallel()
	read := func(name string, schema []byte) (doc, defs map[string]any) {
		require.NoError(t, json.Unmarshal(schema, &doc))
		require.Equal(t, name, doc["title"])
		require.Equal(t, "urn:sheaf:schema:"+name, doc["$id"])
		require.Equal(t, "https://json-schema.org/draft/2020-12/schema", doc["$schema"])
		defs, _ = doc["$defs"].(map[string]any)
		return doc, defs
	}
	for _, ev := range samples() {
		msg, err := events.Encode(ev)
		require.NoError(t, err)
		name := msg.Header.Get("ce-type")
		doc, defs := read(name, events.Schema(ev.Type()))
		properties := doc["properties"].(map[string]any)
		require.Equal(t, map[string]any{"$ref": exportSchema}, properties["export"], name)
		require.Contains(t, doc["required"], "export", name)
		delete(properties, "export")
		doc["required"] = slices.DeleteFunc(doc["required"].([]any), func(field any) bool {
			return field == "export"
		})
		matches(t, name, doc, defs, reflect.TypeOf(ev.Payload).Elem())
	}
	doc, defs := read("sheaf.export.v1", events.ExportSchema())
	matches(t, "sheaf.export.v1", doc, defs, reflect.TypeFor[events.Export]())
}

func matches(t *testing.T, at string, schema, defs map[string]any, typ reflect.Type) {
	t.Helper()
	if ref, ok := schema["$ref"].(string); ok {
		schema, ok = defs[strings.TrimPrefix(ref, "#/$defs/")].(map[string]any)
		require.True(t, ok, "%s: %s", at, ref)
	}
	switch {
	case typ.Kind() == reflect.Pointer:
		matches(t, at, schema, defs, typ.Elem())
	case typ == reflect.TypeFor[time.Time]():
		require.Equal(t, "date-time", schema["format"], at)
	case typ == reflect.TypeFor[json.RawMessage](): // any JSON, or an object alone
		if only, ok := schema["type"]; ok {
			require.Equal(t, "object", only, at)
		}
	case typ.Kind() == reflect.Slice:
		require.Equal(t, "array", schema["type"], at)
		matches(t, at+"[]", schema["items"].(map[string]any), defs, typ.Elem())
	case typ.Kind() == reflect.Map: // of strings
		require.Equal(t, map[string]any{"type": "string"}, schema["additionalProperties"], at)
	case typ.Kind() == reflect.Struct:
		require.Equal(t, "object", schema["type"], at)
		require.Equal(t, false, schema["additionalProperties"], at)
		properties := schema["properties"].(map[string]any)
		required := []string{}
		some, _ := schema["required"].([]any) // absent: none
		for _, r := range some {
			required = append(required, r.(string))
		}
		always := []string{}
		fields := 0
		for i := range typ.NumField() {
			name, options, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			if name == "-" {
				continue // it is not on the wire
			}
			fields++
			property, ok := properties[name].(map[string]any)
			require.True(t, ok, "%s has no %s", at, name)
			matches(t, at+"."+name, property, defs, typ.Field(i).Type)
			kind := typ.Field(i).Type.Kind()
			// A list that must not be empty is required, although an empty one would be omitted instead of
			// written as null.
			if options == "" || kind == reflect.Slice && property["minItems"] != nil {
				always = append(always, name)
			}
		}
		require.Len(t, properties, fields, at)
		require.ElementsMatch(t, always, required, at)
	case typ.Kind() == reflect.String:
		if schema["enum"] == nil {
			require.Equal(t, "string", schema["type"], at)
		}
	case typ.Kind() == reflect.Bool:
		if schema["const"] == nil {
			require.Equal(t, "boolean", schema["type"], at)
		}
	default:
		require.Equal(t, "integer", schema["type"], at)
	}
}

// Decode refuses invalid headers of other writers.
func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	good := samples()[1]
	msg, err := events.Encode(good)
	require.NoError(t, err)
	header := func(name, value string) nats.Header {
		h := nats.Header{}
		for k, v := range msg.Header {
			h[k] = v
		}
		h[name] = []string{value}
		return h
	}
	for name, tc := range map[string]struct {
		subject string
		header  nats.Header
		data    string
		unknown bool
	}{
		"another prefix":        {"sheaf.page.default.crawled." + testKey, msg.Header, "{}", false},
		"too few tokens":        {"sheaf.event.default.crawled", msg.Header, "{}", false},
		"too many tokens":       {msg.Subject + ".x", msg.Header, "{}", false},
		"no tenant":             {"sheaf.event..crawled." + testKey, msg.Header, "{}", false},
		"a wildcard":            {"sheaf.event.default.crawled.*", msg.Header, "{}", false},
		"unknown type":          {"sheaf.event.default.archived." + testKey, msg.Header, "{}", true},
		"type of another event": {"sheaf.event.default.failed." + testKey, msg.Header, "{}", true},
		"a newer version":       {msg.Subject, header("ce-type", "sheaf.export.crawled.v2"), "{}", true},
		"no headers":            {msg.Subject, nil, "{}", true},
		"no time":               {msg.Subject, header("ce-time", ""), "{}", false},
		"no export":             {msg.Subject, msg.Header, `{"run":1}`, false},
		"an export of nothing":  {msg.Subject, msg.Header, `{"run":1,"export":{}}`, false},
		"another key's export": {msg.Subject, msg.Header,
			strings.ReplaceAll(string(msg.Data), testKey, otherKey), false},
		"another tenant's": {msg.Subject, msg.Header,
			strings.Replace(string(msg.Data), `"tenant":"default"`, `"tenant":"other"`, 1), false},
		"an export of no state": {msg.Subject, msg.Header,
			strings.Replace(string(msg.Data), `"state":"crawled"`, `"state":""`, 1), false},
		"no body":      {msg.Subject, msg.Header, "", false},
		"half a body":  {msg.Subject, msg.Header, `{"run":`, false},
		"another body": {msg.Subject, msg.Header, `{"run":"x"}`, false},
		"two bodies":   {msg.Subject, msg.Header, `{}{}`, false},
		"too deep":     {msg.Subject, msg.Header, strings.Repeat(`{"x":`, 20_000), false},
	} {
		ev, err := events.Decode(tc.subject, tc.header, []byte(tc.data), 3)
		require.Error(t, err, name)
		require.Nil(t, ev.Payload, name)
		if tc.unknown {
			require.ErrorIs(t, err, events.ErrUnknownEvent, name)
		} else {
			require.NotErrorIs(t, err, events.ErrUnknownEvent, name)
		}
	}
	_, err = events.Encode(events.Event{Tenant: "default", Key: testKey})
	require.ErrorIs(t, err, events.ErrUnknownEvent)
	good.Export = nil
	_, err = events.Encode(good)
	require.ErrorContains(t, err, "no export")
}

func FuzzDecode(f *testing.F) {
	for _, ev := range samples() {
		msg, err := events.Encode(ev)
		require.NoError(f, err)
		f.Add(msg.Subject, msg.Header.Get("ce-type"), msg.Header.Get("ce-time"), msg.Data)
	}
	f.Add("sheaf.event.default.crawled."+testKey, "sheaf.export.crawled.v1", "2026-01-02T03:04:05Z",
		[]byte(`{"run":1e3}`))
	f.Add("sheaf.event.*.>.x", "", "", []byte(nil))
	f.Fuzz(func(t *testing.T, subject, ceType, ceTime string, data []byte) {
		h := nats.Header{"ce-id": {"x"}, "ce-type": {ceType}, "ce-time": {ceTime}}
		ev, err := events.Decode(subject, h, data, 1)
		if x := ev.Export; x != nil &&
			(x.Tenant != ev.Tenant || x.Key != ev.Key || x.State == events.StateNone || x.LastSeq != 1 ||
				x.LastID != "x") {
			t.Fatalf("an export of something else: %+v", x)
		}
		if err != nil {
			if ev.Payload != nil {
				t.Fatal("an error and a payload")
			}
			return
		}
		if ev.Export == nil {
			t.Fatal("no error and no export")
		}
		// A decoded event can be encoded, and decodes to the same.
		msg, err := events.Encode(ev)
		if err != nil {
			if strings.Contains(err.Error(), "year outside of range") {
				return // a time zone can push a time beyond the end of RFC 3339
			}
			t.Fatalf("encoding a decoded event: %v", err)
		}
		if y := ev.Time.UTC().Year(); y < 0 || y > 9999 {
			return
		}
		again, err := events.Decode(msg.Subject, msg.Header, msg.Data, 1)
		if err != nil {
			t.Fatalf("decoding it again: %v", err)
		}
		twice, err := events.Encode(again)
		if err != nil {
			t.Fatalf("writing it again: %v", err)
		}
		if !ev.Time.Equal(again.Time) || ev.Type() != again.Type() || !bytes.Equal(msg.Data, twice.Data) {
			t.Fatalf("%s, again %s", msg.Data, twice.Data)
		}
		x := *ev.Export
		_ = x.Apply(ev)
	})
}

// Fields and attributes of a newer version are ignored.
func TestUnknownFieldsAreAccepted(t *testing.T) {
	t.Parallel()
	for _, ev := range samples() {
		msg, err := events.Encode(ev)
		require.NoError(t, err)
		msg.Header.Set("ce-colour", "red")
		data := `{"colour":{"of":["x"]},` + strings.TrimPrefix(string(msg.Data), "{")
		data = strings.Replace(data, ",}", "}", 1)
		data = strings.ReplaceAll(data, `"request":{`, `"request":{"shade":7,`)
		got, err := events.Decode(msg.Subject, msg.Header, []byte(data), 1)
		require.NoError(t, err, ev.Type())
		plain, err := events.Decode(msg.Subject, msg.Header, msg.Data, 1)
		require.NoError(t, err)
		require.Equal(t, plain, got)
	}
}
