package storage

import (
	"sheaf/events"

	"go.etcd.io/bbolt"
)

// Unfinished calls fn with the oldest limit exports that have not ended, oldest first, until fn fails. It
// returns how many others there are. It reads 10,000 in about 0.1 s.
func (t *Tasks) Unfinished(limit int, fn func(x *events.Export) error) (others int, err error) {
	err = t.view(func(tx *bbolt.Tx) error {
		exports, n := tx.Bucket(bucketExports), 0
		return tx.Bucket(bucketUnderway).ForEach(func(k, _ []byte) error {
			if n++; n > limit {
				others++
				return nil
			}
			x, err := load(exports, string(k[len(k)-keySize:]))
			if err != nil {
				return err
			}
			return fn(&x)
		})
	})
	return others, err
}
