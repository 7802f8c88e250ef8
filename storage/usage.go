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
	Failed     int   // exports that failed, including rejected submissions
	Succeeded  int   // exports that completed; files may have expired
	Cancelled  int
}

// numbers returns the fields in the order of their stored form.
func (u *Usage) numbers() [usageNumbers]int64 {
	return [usageNumbers]int64{int64(u.Exports), int64(u.Settled), int64(u.Unfinished), u.FileBytes, u.Bytes,
		int64(u.Failed), int64(u.Succeeded), int64(u.Cancelled)}
}

func usageFrom(n [usageNumbers]int64) Usage {
	return Usage{Exports: int(n[0]), Settled: int(n[1]), Unfinished: int(n[2]), FileBytes: n[3], Bytes: n[4],
		Failed: int(n[5]), Succeeded: int(n[6]), Cancelled: int(n[7])}
}

func (u Usage) plus(o Usage) Usage { return u.add(o, 1) }

func (u Usage) minus(o Usage) Usage { return u.add(o, -1) }

func (u Usage) add(o Usage, sign int64) Usage {
	sum, more := u.numbers(), o.numbers()
	for i := range sum {
		sum[i] += sign * more[i]
	}
	return usageFrom(sum)
}

// eventOverhead is the approximate size of an event in the log without its export: headers, subject, payload.
const eventOverhead = 700

// usageOf returns the usage of one export whose value has size bytes.
func usageOf(x *events.Export, size int) Usage {
	u := Usage{Exports: 1, Bytes: int64(size) + eventOverhead}
	if x.Settled() {
		u.Settled = 1
	}
	switch classOf(x.State) {
	case Underway:
		u.Unfinished = 1
	case Failed:
		u.Failed = 1
	case Succeeded:
		u.Succeeded = 1
	case Cancelled:
		u.Cancelled = 1
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

// bucketUsage holds the usage of each tenant: tenant -> usageNumbers big-endian numbers. It changes in the same
// transaction as the exports.
var bucketUsage = []byte("usage")

const usageNumbers = 8

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
	if len(b) != 8*usageNumbers {
		return Usage{}, fmt.Errorf("%w: usage of tenant %.32q", ErrTasksDamaged, tenant)
	}
	var n [usageNumbers]int64
	for i := range n {
		n[i] = int64(binary.BigEndian.Uint64(b[8*i:]))
	}
	return usageFrom(n), nil
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
			b := make([]byte, 0, 8*usageNumbers)
			for _, n := range now.numbers() {
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
