// Package similar finds the name that a mistyped one was meant to be. It does no I/O.
package similar

import (
	"iter"
	"slices"
	"strings"
)

// Name returns the known name that is most similar to a wrong one, or "" if none is similar enough. Similar
// names differ in at most a quarter of their bytes, or in two, or one begins with the other.
func Name(wrong string, known iter.Seq[string]) string {
	best, least := "", max(2, len(wrong)/4)+1
	for _, name := range slices.Sorted(known) {
		d := distance(wrong, name)
		if wrong != "" && strings.HasPrefix(name, wrong) {
			d = 1
		}
		if d < least {
			best, least = name, d
		}
	}
	return best
}

// distance counts the bytes to insert, remove or replace to turn one text into another.
func distance(from, to string) int {
	row := make([]int, len(to)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(from) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(to) {
			replace := diagonal
			if from[i] != to[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(to)]
}
