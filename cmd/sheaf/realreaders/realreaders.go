// Package realreaders proves that programs of others read each format whole and without a difference. Its
// test writes 100,000 rows of values on which readers fail, lets other programs read the files, which
// .ci/readers installs, and compares each cell.
package realreaders
