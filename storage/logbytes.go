package storage

import (
	"encoding/binary"
	"fmt"
	"maps"

	"go.etcd.io/bbolt"
)

// bucketLogBytes holds what each tenant's events take in the log, by piece of the
// log: number of the piece, tenant -> bytes. The log is trimmed from its head, so
// a piece is forgotten when all of it is gone. What is left of the one that the log
// begins in is an estimate; a projection that is made again counts it, so this is no
// part of its digest.
var bucketLogBytes = []byte("log_bytes")

const (
	// segmentEvents is how many sequences make one piece of the log.
	segmentEvents = 64
	// leastEventBytes is what an event counts for at least. A small one costs the
	// server more in memory, where it keeps each subject, than in the file: some
	// 1,100 bytes for the three or four events of an export (measured).
	leastEventBytes = 1 << 10
)

type logSegment struct {
	number uint64
	tenant string
}

func segmentOf(tenant string, sequence uint64) logSegment {
	return logSegment{sequence / segmentEvents, tenant}
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

// LogPiece is what the events of one tenant count for in one piece of the log.
type LogPiece struct {
	Below  uint64 // the sequence that the piece ends before
	Tenant string
	Bytes  int64
}

// LogPieces returns what the log holds, from its oldest piece on.
func (t *Tasks) LogPieces() (pieces []LogPiece, err error) {
	err = t.view(func(tx *bbolt.Tx) error {
		pieces = nil
		return tx.Bucket(bucketLogBytes).ForEach(func(k, v []byte) error {
			pieces = append(pieces, LogPiece{(binary.BigEndian.Uint64(k) + 1) * segmentEvents, string(k[8:]), int64(number(v))})
			return nil
		})
	})
	return pieces, err
}

// addLogBytes adds what new events take, and returns how the sums of the tenants have
// changed by it. A piece that was trimmed has nothing to take away from.
func addLogBytes(tx *bbolt.Tx, added map[logSegment]int64) (byTenant map[string]int64, err error) {
	byTenant = map[string]int64{}
	bucket := tx.Bucket(bucketLogBytes)
	for s, n := range added {
		key := s.key()
		before := int64(number(bucket.Get(key)))
		sum := max(before+n, 0)
		if sum == before {
			continue
		}
		byTenant[s.tenant] += sum - before
		if sum == 0 {
			err = bucket.Delete(key)
		} else {
			err = bucket.Put(key, binary.BigEndian.AppendUint64(nil, uint64(sum)))
		}
		if err != nil {
			return nil, err
		}
	}
	return byTenant, nil
}

// trimLogBytes forgets the pieces of the log that lie below a sequence, and of one that
// lies there in part as large a part of what is left above the trimming before. It
// returns what they held.
func trimLogBytes(tx *bbolt.Tx, below uint64) (gone map[string]int64, err error) {
	meta := tx.Bucket(bucketMeta)
	before, applied := number(meta.Get(metaTrimmed)), number(meta.Get(metaApplied))
	gone = map[string]int64{}
	bucket := tx.Bucket(bucketLogBytes)
	left := map[string]int64{} // by key; a cursor does not go on over what is changed under it
	c := bucket.Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		begins := binary.BigEndian.Uint64(k) * segmentEvents
		if begins >= below {
			break
		}
		had := int64(number(v))
		if ends := min(begins+segmentEvents, applied+1); ends > below {
			left[string(k)] = had * int64(ends-below) / int64(ends-max(begins, before))
		} else {
			left[string(k)] = 0
		}
		gone[string(k[8:])] += had - left[string(k)]
	}
	for k, n := range left {
		if n == 0 {
			err = bucket.Delete([]byte(k))
		} else {
			err = bucket.Put([]byte(k), binary.BigEndian.AppendUint64(nil, uint64(n)))
		}
		if err != nil {
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
