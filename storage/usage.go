package storage

import (
	"encoding/binary"
	"fmt"

	"sheaf/events"

	"go.etcd.io/bbolt"
)

// Usage is what a tenant takes.
type Usage struct {
	Exports    int   // that are remembered, and submissions that were rejected
	Settled    int   // of those, with nothing left to do
	Unfinished int   // of those, that have not ended
	FileBytes  int64 // of finished files that have not expired
	Bytes      int64 // of the log, about, when older events are purged
}

func (u Usage) plus(o Usage) Usage {
	return Usage{u.Exports + o.Exports, u.Settled + o.Settled, u.Unfinished + o.Unfinished, u.FileBytes + o.FileBytes, u.Bytes + o.Bytes}
}

func (u Usage) minus(o Usage) Usage {
	return Usage{u.Exports - o.Exports, u.Settled - o.Settled, u.Unfinished - o.Unfinished, u.FileBytes - o.FileBytes, u.Bytes - o.Bytes}
}

// eventOverhead is what an event takes in the log beside its export, about: the headers,
// the subject, what happened.
const eventOverhead = 700

// usageOf is what one export takes whose value has so many bytes.
func usageOf(x *events.Export, size int) Usage {
	u := Usage{Exports: 1, Bytes: int64(size) + eventOverhead}
	if x.Settled() {
		u.Settled = 1
	}
	if !x.State.Terminal() {
		u.Unfinished = 1
	}
	if x.State == events.StateCompleted {
		for _, f := range x.Files {
			u.FileBytes += f.Size
		}
	}
	return u
}

// TooMuch reports whether a tenant has more in the log than it may: more than so many
// exports, or more than half of the log's bytes.
func (u Usage) TooMuch(log events.Space, maxExports int) bool {
	return u.Exports > maxExports || log.Limit > 0 && float64(u.Bytes) > tenantLog*float64(log.Limit)
}

// tenantLog is how much of the log the exports of one tenant may take.
const tenantLog = 0.5

// bucketUsage holds what each tenant takes: tenant -> five big-endian numbers. It is
// changed in the transaction that changes the exports.
var bucketUsage = []byte("usage")

const usageSize = 40

// Usage returns what a tenant takes, as far as the log was applied.
func (t *Tasks) Usage(tenant string) (u Usage, err error) {
	err = t.view(func(tx *bbolt.Tx) error {
		u, err = readUsage(tx, tenant)
		return err
	})
	return u, err
}

// Usages returns what each tenant takes that takes anything.
func (t *Tasks) Usages() (map[string]Usage, error) {
	all := map[string]Usage{}
	err := t.view(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketUsage).ForEach(func(k, _ []byte) (err error) {
			all[string(k)], err = readUsage(tx, string(k))
			return err
		})
	})
	return all, err
}

func readUsage(tx *bbolt.Tx, tenant string) (Usage, error) {
	b := tx.Bucket(bucketUsage).Get([]byte(tenant))
	if b == nil {
		return Usage{}, nil
	}
	if len(b) != usageSize {
		return Usage{}, fmt.Errorf("%w: usage of tenant %.32q", ErrTasksDamaged, tenant)
	}
	n := func(i int) uint64 { return binary.BigEndian.Uint64(b[8*i:]) }
	return Usage{Exports: int(n(0)), Settled: int(n(1)), Unfinished: int(n(2)), FileBytes: int64(n(3)), Bytes: int64(n(4))}, nil
}

// addUsage adds what changed of each tenant.
func addUsage(tx *bbolt.Tx, changed map[string]Usage) error {
	bucket := tx.Bucket(bucketUsage)
	for tenant, u := range changed {
		if u == (Usage{}) {
			continue
		}
		was, err := readUsage(tx, tenant)
		if err != nil {
			return err
		}
		now := was.plus(u)
		if now == (Usage{}) { // as in a projection that never heard of the tenant
			err = bucket.Delete([]byte(tenant))
		} else {
			b := make([]byte, 0, usageSize)
			for _, n := range []int64{int64(now.Exports), int64(now.Settled), int64(now.Unfinished), now.FileBytes, now.Bytes} {
				b = binary.BigEndian.AppendUint64(b, uint64(n))
			}
			err = bucket.Put([]byte(tenant), b)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
