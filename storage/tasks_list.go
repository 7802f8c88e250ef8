package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"sheaf/events"

	"go.etcd.io/bbolt"
)

// Class is what has become of an export, as lists and counts distinguish it.
type Class byte

const (
	Underway  Class = 'u' // it has not ended
	Failed    Class = 'f' // also a rejected submission
	Succeeded Class = 's' // completed; its file may have expired
	Cancelled Class = 'c'
)

func classOf(s events.State) Class {
	switch s.Status() {
	case events.StatusSucceeded:
		return Succeeded
	case events.StatusFailed:
		return Failed
	case events.StatusCancelled:
		return Cancelled
	}
	return Underway
}

// maxSkew is by how much the clocks of processes that create exports may differ. A list with Query.Since is
// searched that much further.
const maxSkew = 24 * time.Hour

// Query selects exports of one tenant. Zero fields select all.
type Query struct {
	Tenant       string
	Class        Class
	UserID       string
	ErrorCode    string    // of a failed export
	Since, Until time.Time // of its creation; Until is exclusive
	Before       uint64    // ids below it
	Key          string    // of the only export to select
	Limit        int       // of exports in the result; at least 1
	MaxLoads     int       // of exports that are read to find them; at least 1
	// Match further restricts the exports, nil does not. It must not keep its argument.
	Match func(*events.Export) bool
}

// Listed is the result of a query, newest id first.
type Listed struct {
	Exports []events.Export
	// Next is the Before of a query for the rest; 0 means that there is none.
	Next uint64
	// Partial means that Query.MaxLoads ended the search. Next continues it.
	Partial bool
}

// List returns the exports that a query selects. It reads only the index where the query allows it, and at
// most Query.MaxLoads exports.
func (t *Tasks) List(q Query) (found Listed, err error) {
	if q.ErrorCode != "" && q.Class == 0 {
		q.Class = Failed
	}
	err = t.view(func(tx *bbolt.Tx) error {
		found = Listed{}
		if q.Key != "" {
			return q.one(tx, &found)
		}
		return q.run(tx, &found)
	})
	return found, err
}

// index returns the index that fits the query, and the prefix of its entries there.
func (q *Query) index() (bucket []byte, prefix string) {
	switch {
	case q.UserID != "":
		return bucketHistory, owner(q.Tenant, q.UserID)
	case q.Class != 0:
		return bucketClasses, q.Tenant + "\x00" + string(byte(q.Class))
	}
	return bucketCreated, q.Tenant + "\x00"
}

func (q *Query) run(tx *bbolt.Tx, found *Listed) error {
	bucket, prefix := q.index()
	from := []byte(prefix)
	if q.Before > 0 {
		from = binary.BigEndian.AppendUint64(from, ^q.Before+1)
	}
	loads, last := 0, uint64(0) // last is the id of the newest export that was looked at
	exports, c := tx.Bucket(bucketExports), tx.Bucket(bucket).Cursor()
	for k, v := c.Seek(from); bytes.HasPrefix(k, []byte(prefix)); k, v = c.Next() {
		created, code := timeOf(v), string(v[sortableSize:])
		if !q.Since.IsZero() && created.Before(q.Since.Add(-maxSkew)) {
			break
		}
		if !q.inTime(created) || q.ErrorCode != "" && q.UserID == "" && code != q.ErrorCode {
			continue
		}
		if loads == q.MaxLoads {
			found.Partial, found.Next = true, last
			return nil
		}
		loads++
		x, err := loadIndexed(exports, bucket, k)
		if err != nil {
			return err
		}
		if q.selects(&x) {
			if len(found.Exports) == q.Limit {
				found.Next = found.Exports[q.Limit-1].ID
				return nil
			}
			found.Exports = append(found.Exports, x)
		}
		last = x.ID
	}
	return nil
}

// one looks up the export of Query.Key.
func (q *Query) one(tx *bbolt.Tx, found *Listed) error {
	x, err := load(tx.Bucket(bucketExports), q.Key)
	if errors.Is(err, ErrUnknownKey) {
		return nil
	}
	if err != nil {
		return err
	}
	if x.Tenant == q.Tenant && (q.Before == 0 || x.ID < q.Before) && q.inTime(x.CreatedAt) && q.selects(&x) {
		found.Exports = []events.Export{x}
	}
	return nil
}

func (q *Query) inTime(created time.Time) bool {
	return (q.Since.IsZero() || !created.Before(q.Since)) && (q.Until.IsZero() || created.Before(q.Until))
}

// selects reports whether the query selects an export of its index.
func (q *Query) selects(x *events.Export) bool {
	return (q.Class == 0 || classOf(x.State) == q.Class) &&
		(q.UserID == "" || x.Request.UserID == q.UserID) &&
		(q.ErrorCode == "" || x.Failure.Code == q.ErrorCode) &&
		(q.Match == nil || q.Match(x))
}

// EachUnderway calls fn with every unfinished export of a tenant, newest id first, and whether its pages are
// crawled.
func (t *Tasks) EachUnderway(tenant string, fn func(key string, crawled bool)) error {
	prefix := []byte(tenant + "\x00" + string(byte(Underway)))
	return t.view(func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucketClasses).Cursor()
		for k, v := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, v = c.Next() {
			fn(string(k[len(k)-keySize:]), string(v[sortableSize:]) == string(events.StateCrawled))
		}
		return nil
	})
}

// listEntries returns the entries of an export in the indexes of lists.
func listEntries(x *events.Export) []entry {
	id := string(binary.BigEndian.AppendUint64(nil, ^x.ID)) // newest first
	class, created := classOf(x.State), sortable(x.CreatedAt)
	detail := ""
	switch {
	case class == Failed:
		detail = x.Failure.Code
	case x.State == events.StateCrawled:
		detail = string(x.State)
	}
	return []entry{
		{string(bucketCreated), x.Tenant + "\x00" + id + x.Key, created},
		{string(bucketClasses), x.Tenant + "\x00" + string(byte(class)) + id + x.Key, created + detail},
	}
}

// loadIndexed returns the export that an index entry names.
func loadIndexed(exports *bbolt.Bucket, bucket, k []byte) (events.Export, error) {
	key := string(k[len(k)-keySize:])
	x, err := load(exports, key)
	if errors.Is(err, ErrUnknownKey) {
		return x, fmt.Errorf("%w: index %s names key %s, which does not exist", ErrTasksDamaged, bucket, key)
	}
	return x, err
}

// timeOf reads the result of sortable, which begins an entry's value.
func timeOf(value []byte) time.Time {
	if len(value) < sortableSize {
		return time.Time{}
	}
	return time.Unix(int64(binary.BigEndian.Uint64(value)^(1<<63)), int64(binary.BigEndian.Uint32(value[8:])))
}
