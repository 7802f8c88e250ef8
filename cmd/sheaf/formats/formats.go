// Package formats holds tests alone: a whole Sheaf exports lists to each format, with columns, sheets, parts
// and a manifest, and converts them.
package formats
