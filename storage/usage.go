package storage

import (
	"encoding/binary"
	"fmt"

	"sheaf/events"

	"go.etcd.io/bbolt"
)

// Usage is a tenant's resource usage.
type Usage struct {
	Exports    int   // remembered exports, including rejected submissions
	Settled    int   // exports with nothing left to do
	Unfinished int   // exports that have not ended
	FileBytes  int64 // size of finished files that have not expired
	Bytes      int64 // approximate size in the log once older events are purged
}

func (u Usage) plus(o Usage) Usage {
	return Usage{u.Exports + o.Exports, u.Settled + o.Settled, u.Unfinished + o.Unfinished,
		u.FileBytes + o.FileBytes, u.Bytes + o.Bytes}
}

func (u Usage) minus(o Usage) Usage {
	return Usage{u.Exports - o.Exports, u.Settled - o.Settled, u.Unfinished - o.Unfinished,
		u.FileBytes - o.FileBytes, u.Bytes - o.Bytes}
}

// eventOverhead is the approximate size of an event in the log without its export: headers, subject, payload.
const eventOverhead = 700

// usageOf returns the usage of one export whose value has size bytes.
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

// TooMuch reports whether a tenant exceeds its part of the log: more than maxExports exports, or more than
// tenantLog of the log's bytes.
func (u Usage) TooMuch(log events.Space, maxExports int) bool {
	return u.Exports > maxExports || log.Limit > 0 && float64(u.Bytes) > tenantLog*float64(log.Limit)
}

// tenantLog is the fraction of the log that the exports of one tenant may use.
const tenantLog = 0.5

// bucketUsage holds the usage of each tenant: tenant -> five big-endian numbers. It changes in the same
// transaction as the exports.
var bucketUsage = []byte("usage")

const usageSize = 40

// Usage returns a tenant's usage as of the last applied event.
func (t *Tasks) Usage(tenant string) (u Usage, err error) {
	err = t.view(func(tx *bbolt.Tx) error {
		u, err = readUsage(tx, tenant)
		return err
	})
	return u, err
}

// Usages returns the usage of each tenant that has any.
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
	return Usage{Exports: int(n(0)), Settled: int(n(1)), Unfinished: int(n(2)), FileBytes: int64(n(3)),
		Bytes: int64(n(4))}, nil
}

// addUsage adds the changes of each tenant's usage.
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
		if now == (Usage{}) { // as in a projection that never had exports of the tenant
			err = bucket.Delete([]byte(tenant))
		} else {
			b := make([]byte, 0, usageSize)
			for _, n := range []int64{int64(now.Exports), int64(now.Settled), int64(now.Unfinished),
				now.FileBytes, now.Bytes} {
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
