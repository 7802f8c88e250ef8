package storage

import (
	"encoding/json"
	"fmt"
	"time"

	"go.etcd.io/bbolt"
)

// Scrub is the progress of reading all finished files. It is stored with the projection, so that the next
// process resumes where this one stopped.
type Scrub struct {
	Begun time.Time `json:"begun,omitzero"` // start of the newest pass; zero before the first
	After string    `json:"after"`          // key of the last export whose file was read
	Done  bool      `json:"done"`           // the pass has read all files
}

var metaScrub = []byte("scrub") // JSON of Scrub

// Scrub returns the last saved progress, or the zero value if there is none or it is unreadable.
func (t *Tasks) Scrub() (s Scrub, err error) {
	err = t.view(func(tx *bbolt.Tx) error {
		if data := tx.Bucket(bucketMeta).Get(metaScrub); data != nil && json.Unmarshal(data, &s) != nil {
			s = Scrub{}
		}
		return nil
	})
	return s, err
}

// SaveScrub replaces the saved progress.
func (t *Tasks) SaveScrub(s Scrub) error {
	data, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("saving the progress of a scrub: %w", err)
	}
	return t.update(func(tx *bbolt.Tx) error {
		meta := tx.Bucket(bucketMeta)
		if err := meta.Put(metaScrub, data); err != nil {
			return err
		}
		return meta.Delete(metaClean)
	})
}
