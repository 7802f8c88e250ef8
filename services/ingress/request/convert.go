package request

import (
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"sheaf/events"
	"sheaf/events/secrets"
)

// convertNames are the members of a request to convert.
var convertNames = []string{"key", extTypeField, "title", columnsField, optionsField, "user_id", "callback", "timestamp"}

// ConvertKey returns the key of the export that a request to convert names, "" if it names none.
func ConvertKey(body []byte) (string, error) {
	members, err := readObject(body)
	if err != nil {
		return "", err
	}
	for _, m := range members {
		if m.name == "key" {
			return text(m, maxUserID)
		}
	}
	return "", nil
}

// ParseConvert checks the body of a request to make other files of the pages of a finished export. The new
// request is that of the export with the fields that the body replaces. Its callback is not kept.
func ParseConvert(keys *secrets.Keyring, tenant string, formats []events.Format, x *events.Export, body []byte) (*Checked, error) {
	members, err := readObject(body)
	if err != nil {
		return nil, err
	}
	s := &Checked{Request: x.Request}
	if members, s.Share, err = takeShare(members); err != nil {
		return nil, err
	}
	req := &s.Request
	req.ExtType, req.Callback, req.Warnings = "", "", nil
	given := fields{}
	for _, m := range members {
		var err error
		switch m.name {
		case "key":
		case "timestamp":
			req.Timestamp, err = seconds(m)
		case extTypeField:
			req.ExtType, err = extType(m)
		case "title":
			if m.value.Kind() != 'n' {
				req.Title, err = text(m, maxTitle)
			}
		case "user_id":
			req.UserID, err = textOrNumber(m, maxUserID)
		case "callback":
			req.Callback, err = callback(tenant, m)
		case columnsField, optionsField:
			if m.value.Kind() != 'n' {
				given[m.name] = m.value
			}
		case "source_http", rawField, sheetsField, "row_key":
			err = fieldError(m.name, "has no meaning here: the pages are those of the export")
		default:
			err = unknownMember("", m.name, convertNames)
		}
		if err != nil {
			return nil, err
		}
	}
	if err := checkExtType(req.ExtType, formats); err != nil {
		return nil, err
	}
	if given[columnsField] != nil {
		list, err := columns(given[columnsField])
		switch {
		case err != nil:
			return nil, err
		case len(req.Sheets) > 1:
			return nil, Invalid(columnsField, "the export has %d sheets with columns of their own; to change these, submit its request again", len(req.Sheets))
		case len(req.Sheets) == 1:
			req.Sheets = slices.Clone(req.Sheets)
			req.Sheets[0].Columns = list
		default:
			req.Columns = list
		}
	}
	own, all, err := convertOptions(given[optionsField], x.Request.Options)
	if err != nil {
		return nil, err
	}
	req.Options = own // those of the export that change nothing need no warning
	req.Warnings = unusedOptions(req)
	req.Options = all
	from := &events.Origin{Key: x.PagesKey()}
	for i := range req.SheetCount() {
		from.Sheets = append(from.Sheets, x.CrawledSheet(i))
	}
	req.From = from
	if err := checkFiles(req, formats); err != nil {
		return nil, err
	}
	if (given[columnsField] != nil) && len(body) > maxDescription {
		return nil, TooLarge("body", "has %d bytes, at most %d are allowed", len(body), maxDescription)
	}
	req.Needs = needs(req, slices.Contains(x.Request.Needs, events.NeedSource))
	members = slices.DeleteFunc(members, func(m member) bool { return m.name == columnsField })
	// The request names the export by its key and run, so the rest of it is what differs.
	if members, err = equalFiles(members, strings.Join(events.FormatNames(req.ExtType), ","), convertedColumns(req),
		req.Options); err != nil {
		return nil, err
	}
	canonical, err := canonicalForm("convert", members, nil)
	if err != nil {
		return nil, err
	}
	canonical = strconv.AppendUint(append(canonical, 0), x.Run, 10)
	s.Key = keys.HashKey(tenant, "convert", canonical)
	return s, nil
}

// convertOptions returns the options that a conversion gives, and those that it has: members that it does not give
// are those of the export.
func convertOptions(value jsontext.Value, of *events.Options) (own, all *events.Options, err error) {
	var o events.Options
	if of != nil {
		o = *of
		o.KeepPages = 0 // the pages are those of the export
	}
	if value != nil {
		own, err = options(value, events.Options{})
		switch {
		case err != nil:
			return nil, nil, err
		case own == nil: // the defaults
		case own.Flatten > 0:
			return nil, nil, fieldError("options.flatten", "has no meaning here: the pages are read already")
		case own.SourceCharset != "":
			return nil, nil, fieldError("options.source_charset", "has no meaning here: the pages are read already")
		case own.KeepPages > 0:
			return nil, nil, fieldError("options.keep_pages", "has no meaning here: the pages are those of the export")
		}
		flatten, charset := o.Flatten, o.SourceCharset
		if all, err = options(value, o); err != nil {
			return nil, nil, err
		}
		if o = (events.Options{}); all != nil {
			o = *all
		}
		o.Flatten, o.SourceCharset = flatten, charset // even if they are given as 0 and ""
	}
	if o == (events.Options{}) {
		return own, nil, nil
	}
	return own, &o, nil
}

// convertedColumns returns the columns of a conversion that its request can replace.
func convertedColumns(req *events.Request) []events.Column {
	if len(req.Sheets) == 1 {
		return req.Sheets[0].Columns
	}
	return req.Columns
}
