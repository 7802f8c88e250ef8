package xlsx

import (
	"context"
	"crypto/sha256"
	"os"

	"sheaf/services/assembler/encode/archive"
)

// wrote describes a zip with one workbook.
type wrote struct {
	Rows     int64
	Sheets   int
	Size     int64
	Sha256   [sha256.Size]byte
	Warnings []Warning
}

// WriteWorkbook writes a zip with one workbook to dst.
func WriteWorkbook(ctx context.Context, dst *os.File, spec Spec, next func(context.Context) (Page, error)) (wrote, error) {
	z := archive.NewZip(dst)
	out, err := z.Begin("订单-1.XLSX", archive.MethodStore)
	if err != nil {
		return wrote{}, err
	}
	r, err := writeWorkbook(ctx, out, spec, next)
	if err != nil {
		return wrote{}, err
	}
	if err := z.End(); err != nil {
		return wrote{}, err
	}
	whole, _, err := z.Finish(ctx)
	return wrote{Rows: r.Rows[0], Sheets: r.Tables, Size: whole.Size, Sha256: whole.SHA256, Warnings: r.Warnings}, err
}
