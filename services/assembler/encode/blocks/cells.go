package blocks

import (
	"context"

	"sheaf/services/assembler/encode"
	"sheaf/services/assembler/encode/archive"
	"sheaf/services/assembler/encode/cells"
)

// WriteCells is [Write] for encoders that note nothing but what their [cells.Reader] does. It sets Job.Merge.
// The notes of an encoder may be nil.
func WriteCells(ctx context.Context, out *archive.Output, job Job[*cells.Notes]) (encode.Result, error) {
	var notes *cells.Notes
	job.Merge = func(n *cells.Notes) {
		if notes == nil {
			notes = n
		} else if n != nil {
			notes.Add(n)
		}
	}
	total, err := Write(ctx, out, job)
	if err == nil && notes != nil {
		err = notes.Err(job.Sheet)
	}
	if err != nil {
		return encode.Result{}, err
	}
	res := encode.Result{Rows: []int64{total}, Tables: 1}
	if notes != nil {
		res.Warnings = notes.Warnings(job.Sheet)
	}
	return res, nil
}
