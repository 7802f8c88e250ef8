// Package realsources proves from outside that Sheaf exports whole lists. Its tests submit requests to a
// Sheaf in this process, and compare each cell of the workbook with what the source answers to the test
// itself.
//
// Two kinds of sources are asked: servers of other projects, which .ci/sources installs, and the lists of
// package sourcetest, which answer in the form of each preset and with the quirks of real servers.
package realsources
