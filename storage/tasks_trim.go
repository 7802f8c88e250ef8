package storage

import (
	"cmp"
	"encoding/binary"
	"fmt"

	"sheaf/events"

	"go.etcd.io/bbolt"
)

// Begun is the sequence of the event with which what the log must hold of an export
// begins: the one that requested its newest round, or rejected a submission, or since
// then carried it on. An export is known for as long as the log holds that event.
func Begun(x *events.Export) uint64 {
	switch {
	case x.CarriedSeq != 0:
		return x.CarriedSeq
	case x.State == events.StateRejected:
		return x.TerminalSeq
	}
	return x.RequestedSeq
}

func begunKey(x *events.Export) string {
	return string(binary.BigEndian.AppendUint64(nil, Begun(x))) + x.Key
}

// Oldest returns the exports of which Begun is a sequence or later, in that order, at
// most limit.
func (t *Tasks) Oldest(from uint64, limit int) ([]events.Export, error) {
	first := binary.BigEndian.AppendUint64(nil, from)
	return t.collect(bucketBegun, first, limit, func(_, _ []byte) (take, more bool) { return true, true })
}

// Trim makes the projection that of a log whose events below a sequence were
// removed: it forgets, in one transaction, every export of which [Begun] lies below
// it, and leaves out such events if they still come. Other events of an export that
// is forgotten, that lie above, change nothing of that. Trimming twice, or less than before, does nothing.
func (t *Tasks) Trim(below uint64) (forgotten int, err error) {
	err = t.view(func(tx *bbolt.Tx) error {
		if below <= number(tx.Bucket(bucketMeta).Get(metaTrimmed)) {
			below = 0
		}
		return nil
	})
	if err != nil || below == 0 {
		return 0, err
	}
	var gone map[string]int64
	var usage map[string]Usage
	err = t.update(func(tx *bbolt.Tx) error {
		gone, usage = nil, map[string]Usage{}
		meta, exports := tx.Bucket(bucketMeta), tx.Bucket(bucketExports)
		if below <= number(meta.Get(metaTrimmed)) {
			return nil // another call was faster
		}
		counts, err := readCounts(tx)
		if err != nil {
			return err
		}
		var keys []string // a cursor does not go on over what is deleted under it
		c := tx.Bucket(bucketBegun).Cursor()
		for k, _ := c.First(); k != nil && binary.BigEndian.Uint64(k) < below; k, _ = c.Next() {
			keys = append(keys, string(k[len(k)-keySize:]))
		}
		for _, key := range keys {
			x, err := load(exports, key)
			if err != nil {
				return err
			}
			if err := cmp.Or(reindex(tx, entries(&x), nil), exports.Delete([]byte(key))); err != nil {
				return fmt.Errorf("key %s: %w", key, err)
			}
			counts[x.State]--
			usage[x.Tenant] = usage[x.Tenant].minus(usageOf(&x))
		}
		forgotten = len(keys)
		if gone, err = trimLogBytes(tx, below); err != nil {
			return err
		}
		return cmp.Or(addUsage(tx, usage), writeCounts(tx, counts), meta.Put(metaTrimmed, binary.BigEndian.AppendUint64(nil, below)), meta.Delete(metaClean))
	})
	if err != nil {
		return 0, fmt.Errorf("trimming the projection: %w", err)
	}
	changed := map[string]int64{}
	for tenant, n := range gone {
		changed[tenant] -= n
	}
	for tenant, u := range usage {
		changed[tenant] += u.Owed
	}
	t.tookLogBytes(changed)
	return forgotten, nil
}
