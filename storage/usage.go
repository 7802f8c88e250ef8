package storage

import (
	"encoding/binary"
	"fmt"

	"sheaf/events"

	"go.etcd.io/bbolt"
)

// Usage is what a tenant takes.
type Usage struct {
	Exports    int   // that the log remembers, and submissions that were rejected
	Unfinished int   // exports that were accepted and have not ended
	Untold     int   // exports that have ended and whose callback is pending
	FileBytes  int64 // of finished files that have not expired
	Owed       int64 // bytes of the log that its exports may yet take, about
}

// What an export may yet take of the log.
const (
	owedEnd      = 2 * leastEventBytes  // how it was crawled and how it ended
	owedCallback = 10 * leastEventBytes // a dead receiver is asked ten times
)

func (u Usage) plus(o Usage) Usage {
	return Usage{u.Exports + o.Exports, u.Unfinished + o.Unfinished, u.Untold + o.Untold, u.FileBytes + o.FileBytes, u.Owed + o.Owed}
}

func (u Usage) minus(o Usage) Usage {
	return Usage{u.Exports - o.Exports, u.Unfinished - o.Unfinished, u.Untold - o.Untold, u.FileBytes - o.FileBytes, u.Owed - o.Owed}
}

// usageOf is what one export takes.
func usageOf(x *events.Export) (u Usage) {
	if x.State == events.StateNone {
		return u
	}
	u.Exports = 1
	if x.Callback.State == events.CallbackPending || !x.State.Terminal() && x.Request.Callback != "" {
		u.Owed = max(owedCallback-int64(x.Callback.Attempts)*leastEventBytes, 0)
	}
	switch {
	case !x.State.Terminal():
		u.Unfinished = 1
		u.Owed += owedEnd
	case x.Callback.State == events.CallbackPending:
		u.Untold = 1
	}
	if x.State == events.StateCompleted {
		for _, f := range x.Files {
			u.FileBytes += f.Size
		}
	}
	return u
}

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

func readUsage(tx *bbolt.Tx, tenant string) (Usage, error) {
	b := tx.Bucket(bucketUsage).Get([]byte(tenant))
	if b == nil {
		return Usage{}, nil
	}
	if len(b) != usageSize {
		return Usage{}, fmt.Errorf("%w: usage of tenant %.32q", ErrTasksDamaged, tenant)
	}
	return Usage{
		Exports: int(binary.BigEndian.Uint64(b)), Unfinished: int(binary.BigEndian.Uint64(b[8:])),
		FileBytes: int64(binary.BigEndian.Uint64(b[16:])), Owed: int64(binary.BigEndian.Uint64(b[24:])), Untold: int(binary.BigEndian.Uint64(b[32:])),
	}, nil
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
			b := binary.BigEndian.AppendUint64(make([]byte, 0, usageSize), uint64(now.Exports))
			b = binary.BigEndian.AppendUint64(b, uint64(now.Unfinished))
			b = binary.BigEndian.AppendUint64(b, uint64(now.FileBytes))
			b = binary.BigEndian.AppendUint64(b, uint64(now.Owed))
			err = bucket.Put([]byte(tenant), binary.BigEndian.AppendUint64(b, uint64(now.Untold)))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
