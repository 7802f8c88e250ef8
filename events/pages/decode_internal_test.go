package pages

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"runtime"
	"strings"
	"testing"

	"sheaf/events"

	"github.com/klauspost/compress/s2"
	"github.com/nats-io/nats.go"
)

func FuzzDecodePage(f *testing.F) {
	encoder, err := pageEncoder()
	if err != nil {
		f.Fatal(err)
	}
	for _, rows := range []string{"", "[]", `[{"a":1}]`, strings.Repeat(`{"a":"b"},`, 300),
		strings.Repeat("x", 300_000)} {
		sum := sha256.Sum256([]byte(rows))
		f.Add("1", "true", "1", "zstd", hex.EncodeToString(sum[:]), encoder.EncodeAll([]byte(rows), nil))
		f.Add("1", "true", "1", "s2", hex.EncodeToString(sum[:]), s2.Encode(nil, []byte(rows)))
	}
	f.Add("-1", "", "-2", "gzip", "zz", []byte{0x28, 0xb5, 0x2f, 0xfd, 0xc0, 0x58, 0, 0, 0, 0x40, 0, 0, 0, 0})
	f.Add("1", "", "1", "zstd", strings.Repeat("0", 64),
		[]byte{0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4})
	var before, after runtime.MemStats
	f.Fuzz(func(t *testing.T, rows, headerRow, total, encoding, sum string, payload []byte) {
		h := nats.Header{
			headerPage: {"1"}, headerRows: {rows}, headerHeaderRow: {headerRow}, headerTotal: {total},
			headerTotalPages: {total},
			headerAttempts:   {rows}, headerEncoding: {encoding}, headerSHA256: {sum},
		}
		runtime.ReadMemStats(&before)
		p, err := decodePage(ID{Number: 1}, h, payload)
		runtime.ReadMemStats(&after)
		// zstd expands a byte to at most 32 KiB.
		if made := after.TotalAlloc - before.TotalAlloc; made > uint64(len(payload))*40<<10+(16<<20) {
			t.Fatalf("%d bytes allocated for %d", made, len(payload))
		}
		if err != nil {
			if !errors.Is(err, events.ErrPageDamaged) {
				t.Fatalf("another error: %v", err)
			}
			return
		}
		if p.RowCount < 0 || p.Total < -1 || p.TotalPages < 0 || p.Attempts < 0 ||
			sha256.Sum256(p.Rows) != p.SHA256 {
			t.Fatalf("accepted %+v", p)
		}
	})
}
