package storage

import (
	"encoding/binary"
	"fmt"
	"maps"

	"go.etcd.io/bbolt"
)

// bucketLogBytes holds what each tenant's events take in the log, by piece of the
// log: number of the piece, tenant -> bytes. The log is trimmed from its head, so
// a piece is forgotten when all of it is gone. That of the head may count events
// that are gone already, at most segmentEvents of them; a projection that is made
// again does not know those, so this is no part of its digest.
var bucketLogBytes = []byte("log_bytes")

const (
	// segmentEvents is how many sequences make one piece of the log.
	segmentEvents = 256
	// leastEventBytes is what an event counts for at least. A small one costs the
	// server more in memory, where it keeps each subject, than in the file: some
	// 1,100 bytes for the three or four events of an export (measured).
	leastEventBytes = 1 << 10
)

type logSegment struct {
	number uint64
	tenant string
}

func (s logSegment) key() []byte {
	return append(binary.BigEndian.AppendUint64(nil, s.number), s.tenant...)
}

// LogBytes returns how many bytes of the log the events of a tenant count for, with
// those that its exports may yet take (see Usage.Owed), those of all tenants, and how
// many tenants have any, as far as the log was applied.
func (t *Tasks) LogBytes(tenant string) (own, all int64, tenants int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.logBytes[tenant], t.logTotal, len(t.logBytes)
}

// addLogBytes adds what new events take.
func addLogBytes(tx *bbolt.Tx, added map[logSegment]int64) error {
	bucket := tx.Bucket(bucketLogBytes)
	for s, n := range added {
		key := s.key()
		sum := int64(number(bucket.Get(key))) + n
		if err := bucket.Put(key, binary.BigEndian.AppendUint64(nil, uint64(sum))); err != nil {
			return err
		}
	}
	return nil
}

// trimLogBytes forgets the pieces of the log that lie wholly below a sequence, and
// returns what they held.
func trimLogBytes(tx *bbolt.Tx, below uint64) (gone map[string]int64, err error) {
	gone = map[string]int64{}
	bucket := tx.Bucket(bucketLogBytes)
	var keys [][]byte
	c := bucket.Cursor()
	for k, v := c.First(); k != nil && (binary.BigEndian.Uint64(k)+1)*segmentEvents <= below; k, v = c.Next() {
		gone[string(k[8:])] += int64(number(v))
		keys = append(keys, append([]byte(nil), k...))
	}
	for _, k := range keys {
		if err := bucket.Delete(k); err != nil {
			return nil, err
		}
	}
	return gone, nil
}

// sumLogBytes reads what each tenant counts for.
func sumLogBytes(tx *bbolt.Tx) (map[string]int64, error) {
	sums := map[string]int64{}
	err := tx.Bucket(bucketLogBytes).ForEach(func(k, v []byte) error {
		if len(k) <= 8 || len(v) != 8 {
			return fmt.Errorf("%w: bytes of the log", ErrTasksDamaged)
		}
		sums[string(k[8:])] += int64(number(v))
		return nil
	})
	if err != nil {
		return nil, err
	}
	return sums, tx.Bucket(bucketUsage).ForEach(func(k, _ []byte) error {
		u, err := readUsage(tx, string(k))
		if u.Owed != 0 {
			sums[string(k)] += u.Owed
		}
		return err
	})
}

// tookLogBytes changes the sums by what a transaction has changed.
func (t *Tasks) tookLogBytes(changed map[string]int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for tenant, n := range changed {
		t.logBytes[tenant] += n
		t.logTotal += n
	}
	maps.DeleteFunc(t.logBytes, func(_ string, n int64) bool { return n == 0 })
}
