package request

import "net/url"

// maxExpect bounds the numbers of a bulk request.
const maxExpect = 1_000_000_000

// Bulk is a request to change all exports that a filter selects.
type Bulk struct {
	Action    string
	Filter    url.Values // parameters as in a list
	Expect    int        // exports that the filter is expected to select
	Tolerance int        // by how much their number may differ
}

// MaxBulk is the number of exports that one bulk request may change.
const MaxBulk = 1000

// ParseBulk reads the body of a bulk request.
func ParseBulk(body []byte) (b Bulk, err error) {
	members, err := readObject(body)
	if err != nil {
		return b, err
	}
	b.Expect = -1
	for _, m := range members {
		switch m.name {
		case "action":
			b.Action, err = text(m, maxUserID)
		case "filter":
			b.Filter, err = bulkFilter(m)
		case "expect":
			b.Expect, err = count(m)
		case "tolerance":
			b.Tolerance, err = count(m)
		}
		if err != nil {
			return b, err
		}
	}
	switch {
	case b.Action == "":
		return b, Invalid("action", "is required: cancel, retry or redeliver")
	case b.Filter == nil:
		return b, Invalid("filter", "is required: an object with the parameters of a list, such as %s", `{"state":"failed"}`)
	case b.Expect < 0:
		return b, Invalid("expect", "is required: the number of exports that the filter selects")
	}
	return b, nil
}

func count(m member) (int, error) {
	n, err := integer(m, 0, maxExpect)
	return int(n), err
}

// bulkFilter reads the parameters that select exports. An unknown one is refused, because ignoring it would
// select more exports than meant.
func bulkFilter(m member) (url.Values, error) {
	members, err := objectMembers(m.name, m.value)
	if err != nil {
		return nil, err
	}
	q := url.Values{}
	for _, f := range members {
		switch f.name {
		case "state", "q", "user_id", "error_code", "since", "until", "tenant":
		default:
			return nil, Invalid("filter."+Cut(f.name, maxWarningField), "is not known; want state, q, user_id, error_code, since, until or tenant")
		}
		f.name = "filter." + f.name
		value, err := textOrNumber(f, maxUserID)
		if err != nil {
			return nil, err
		}
		q.Set(f.name[len("filter."):], value)
	}
	return q, nil
}
