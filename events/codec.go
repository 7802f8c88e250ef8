package events

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go"
)

// CloudEvents 1.0 attributes in binary mode, as headers of a NATS message. Extension names consist of
// lower-case letters and digits, as the specification requires.
const (
	headerSpecVersion   = "ce-specversion"
	HeaderID            = "ce-id"
	headerSource        = "ce-source"
	headerType          = "ce-type"
	headerSubject       = "ce-subject"
	headerTime          = "ce-time"
	headerContentType   = "ce-datacontenttype"
	HeaderCorrelationID = "ce-correlationid"
	// HeaderTraceParent is an extension too, which other programs read by its own name.
	HeaderTraceParent = "traceparent"
)

// typeNames maps each event type to its ce-type. The version is part of the name: a change that an old reader
// would misunderstand needs a new one.
var typeNames = map[Type]string{
	TypeRequested:         "sheaf.export.requested.v1",
	TypeCrawled:           "sheaf.export.crawled.v1",
	TypeCompleted:         "sheaf.export.completed.v1",
	TypeFailed:            "sheaf.export.failed.v1",
	TypeCancelled:         "sheaf.export.cancelled.v1",
	TypeExpired:           "sheaf.export.expired.v1",
	TypeRejected:          "sheaf.submission.rejected.v1",
	TypeCallbackAttempted: "sheaf.callback.attempted.v1",
	TypeCallbackDelivered: "sheaf.callback.delivered.v1",
	TypeCallbackFailed:    "sheaf.callback.failed.v1",
	TypeCallbackRequested: "sheaf.callback.requested.v1",
}

var (
	// ErrUnknownEvent is returned for a message of a type that this version does not know. Readers use only
	// the export that it contains.
	ErrUnknownEvent = errors.New("unknown event type")

	// ErrNewerEvent is an ErrUnknownEvent whose type has Sheaf's form, so a newer Sheaf wrote it. A process
	// that shares a consumer with newer ones leaves the message to them.
	ErrNewerEvent = fmt.Errorf("%w, of a newer version", ErrUnknownEvent)
)

// ours matches Sheaf's ce-types, including their version.
var ours = regexp.MustCompile(`^sheaf\.[a-z_]+\.[a-z_]+\.v[1-9][0-9]*$`)

// unknown returns the error for a message whose ce-type does not belong to its subject. A type that this
// version knows is not a newer one: no version uses a wrong subject.
func unknown(subject, ceType string) error {
	err := ErrUnknownEvent
	if ours.MatchString(ceType) && !slices.Contains(slices.Collect(maps.Values(typeNames)), ceType) {
		err = ErrNewerEvent
	}
	return fmt.Errorf("%w: subject %s, ce-type %q", err, subject, ceType)
}

// Vocabulary identifies how this version interprets a log: a hash over the event types, the fields of their
// payloads and those of Export. A projection made with another vocabulary may lack data that this version
// knows, or contain data that it does not.
func Vocabulary() string {
	h := sha256.New()
	for _, t := range slices.Sorted(maps.Keys(typeNames)) {
		fmt.Fprintf(h, "%s %s\n", typeNames[t], shape(reflect.TypeOf(newPayload(t))))
	}
	fmt.Fprintln(h, shape(reflect.TypeFor[Export]()))
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// shape describes a type of this package, down to types of other packages.
func shape(t reflect.Type) string {
	switch {
	case t.Kind() == reflect.Pointer, t.Kind() == reflect.Slice && t.PkgPath() == "":
		return t.Kind().String() + " " + shape(t.Elem())
	case t.Kind() != reflect.Struct || t.PkgPath() != reflect.TypeFor[Export]().PkgPath():
		return t.String()
	}
	var b strings.Builder
	for i := range t.NumField() {
		f := t.Field(i)
		fmt.Fprintf(&b, "%s %s;", f.Tag.Get("json"), shape(f.Type))
	}
	return "{" + b.String() + "}"
}

// Encode returns the message for ev, including the export after it.
func Encode(ev Event) (*nats.Msg, error) {
	t := ev.Type()
	name, ok := typeNames[t]
	if !ok {
		return nil, fmt.Errorf("%w: %q", ErrUnknownEvent, t)
	}
	if ev.Export == nil {
		return nil, fmt.Errorf("encoding %s: no export", t)
	}
	x := *ev.Export
	x.Stamp(t, 0, "")
	b := newBody(ev.Payload, &x)
	data, err := json.Marshal(b.Addr().Interface())
	if err != nil {
		return nil, fmt.Errorf("encoding %s: %w", t, err)
	}
	h := Header(ev.ID, ev.Tenant, ev.Key, name, ev.Time)
	if ev.CorrelationID != "" {
		h[HeaderCorrelationID] = []string{ev.CorrelationID}
	}
	if ev.TraceParent != "" {
		h[HeaderTraceParent] = []string{ev.TraceParent}
	}
	return &nats.Msg{Subject: EventSubject(ev.Tenant, t, ev.Key), Header: h, Data: data}, nil
}

// Header returns the attributes of every Sheaf message as headers: id is its ce-id, ceType its ce-type.
func Header(id, tenant, key, ceType string, at time.Time) nats.Header {
	return nats.Header{
		headerSpecVersion: {"1.0"},
		HeaderID:          {id},
		headerSource:      {"/sheaf/" + tenant},
		headerType:        {ceType},
		headerSubject:     {key},
		headerTime:        {at.UTC().Format(time.RFC3339Nano)},
		headerContentType: {"application/json"},
	}
}

// Decode reads an event. It ignores unknown fields: adding one does not need a new version. With an error the
// event has no Payload, and an Export only if that was readable.
func Decode(subject string, h nats.Header, data []byte, sequence uint64) (Event, error) {
	tokens, err := SplitSubject(subject, SubjectEvent, 3)
	if err != nil {
		return Event{}, err
	}
	if err := CheckName(tokens[0], tokens[2]); err != nil {
		return Event{}, err
	}
	t := Type(tokens[1])
	ev := Event{
		ID:            h.Get(HeaderID),
		Tenant:        tokens[0],
		Key:           tokens[2],
		CorrelationID: h.Get(HeaderCorrelationID),
		TraceParent:   h.Get(HeaderTraceParent),
		Sequence:      sequence,
	}
	p := newPayload(t)
	if h.Get(headerType) != typeNames[t] {
		p = nil
	}
	x, err := decodeBody(p, data)
	if x != nil && x.Tenant == ev.Tenant && x.Key == ev.Key && x.State != StateNone {
		x.Stamp(t, sequence, ev.ID)
		ev.Export = x
	}
	if p == nil {
		return ev, unknown(subject, h.Get(headerType))
	}
	if err != nil {
		return ev, fmt.Errorf("event %s at sequence %d: %w", t, sequence, err)
	}
	if ev.Time, err = time.Parse(time.RFC3339Nano, h.Get(headerTime)); err != nil {
		return ev, fmt.Errorf("event %s at sequence %d: ce-time: %w", t, sequence, err)
	}
	if ev.Export == nil {
		return ev, fmt.Errorf("event %s at sequence %d: %w", t, sequence, errNoExport)
	}
	if r, ok := p.(*ExportRequested); ok {
		r.CreatedAt, r.Request, r.Submission, r.ContinuesRun, r.RequestID = x.CreatedAt, x.Request,
			x.Submission, x.ContinuesRun, x.RequestID
		if x.ID != sequence {
			r.ExportID = x.ID
		}
	}
	ev.Payload = p
	return ev, nil
}

var errNoExport = errors.New("it holds no export of its key")

// bodies are the wire types of the events: the fields of the payload, followed by the export.
var bodies = func() map[Type]reflect.Type {
	all := map[Type]reflect.Type{}
	for t := range typeNames {
		fields := reflect.VisibleFields(reflect.TypeOf(newPayload(t)).Elem())
		all[t] = reflect.StructOf(append(fields,
			reflect.StructField{Name: "Export", Type: reflect.TypeFor[*Export](), Tag: `json:"export"`}))
	}
	return all
}()

// newBody returns a body with the fields of p and the export.
func newBody(p Payload, x *Export) reflect.Value {
	b, from := reflect.New(bodies[p.EventType()]).Elem(), reflect.ValueOf(p).Elem()
	for i := range from.NumField() {
		b.Field(i).Set(from.Field(i))
	}
	b.Field(b.NumField() - 1).Set(reflect.ValueOf(x))
	return b
}

// decodeBody reads a payload into p and returns the export beside it. With p nil, or with an error, only the
// export is readable: a newer version may have written the rest.
func decodeBody(p Payload, data []byte) (x *Export, err error) {
	if p == nil {
		var only struct {
			Export *Export `json:"export"`
		}
		if err := jsonv2.Unmarshal(data, &only); err != nil {
			return nil, err
		}
		return only.Export, nil
	}
	b := newBody(p, nil)
	if err = jsonv2.Unmarshal(data, b.Addr().Interface()); err != nil {
		x, _ = decodeBody(nil, data)
		return x, err
	}
	to := reflect.ValueOf(p).Elem()
	for i := range to.NumField() {
		to.Field(i).Set(b.Field(i))
	}
	return b.Field(b.NumField() - 1).Interface().(*Export), nil
}
