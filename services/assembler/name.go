package assembler

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxName is the maximum length of an entry name in bytes. File systems allow 255, and unzip programs may
// lengthen the name.
const maxName = 200

// maxSheetName is the maximum length of a sheet's title in the name of its document, in bytes.
const maxSheetName = 90

// EntryName returns the name of an export's file inside its zip:
// "<title>-1.<type>" when numbered, as exports of a source are, else
// "<title>.<type>". The type keeps its case.
//
// The result is one element of a path that every common file system takes
// (Microsoft, "Naming Files, Paths, and Namespaces"): valid UTF-8 of at most
// 200 bytes without the characters / \ : * ? " < > |, controls and
// characters that change the direction of writing, without dots and spaces at
// its ends or two dots in a row, and no name of a device. A title of which nothing is
// left becomes "export"; a type of which nothing is left is left out.
func EntryName(title, extType string, numbered bool) string {
	suffix := ""
	if numbered {
		suffix = "-1"
	}
	if ext := cleanName(extType, 32); ext != "" {
		suffix += "." + ext
	}
	return safeName(title, suffix)
}

// sheetName returns the title of the i-th sheet as the names of its documents have it: its number if nothing is
// left.
func sheetName(title string, i int) string {
	return cmp.Or(cleanName(title, maxSheetName), strconv.Itoa(i+1))
}

// documentName returns the name of a document that holds one sheet of several, if sheet is not "", and the
// part-th part of a sheet, if part is not 0: "<title>-<sheet>-001.csv". sheet is clean, and ext has its dot.
// n is 1, or higher if the name is taken.
func documentName(title, sheet string, part int, ext string, n int) string {
	suffix := ""
	if sheet != "" {
		suffix = "-" + sheet
	}
	if part > 0 {
		suffix += fmt.Sprintf("-%03d", part)
	}
	if n > 1 {
		suffix += fmt.Sprintf("-%d", n)
	}
	return safeName(title, suffix+ext)
}

// safeName returns a name that ends with suffix, as EntryName describes it. suffix must be safe.
func safeName(title, suffix string) string {
	stem := cleanName(title, maxName-len(suffix))
	if stem == "" {
		stem = "export"
	}
	// Windows compares the part before the first dot with its device names.
	if device, _, _ := strings.Cut(stem+suffix, "."); isDevice(device) {
		stem = "_" + stem
		stem = cleanName(stem, maxName-len(suffix))
	}
	return stem + suffix
}

// cleanName removes characters that a name must not contain, and cuts it to max bytes between two characters.
func cleanName(s string, max int) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case strings.ContainsRune(`/\:*?"<>|`, r), unicode.IsControl(r), unicode.Is(unicode.Bidi_Control, r),
			r == utf8.RuneError, r == '\uFEFF', r == '\u200B':
			return -1
		case unicode.IsSpace(r):
			return ' '
		}
		return r
	}, s)
	s = strings.Trim(s, ". ")
	for strings.Contains(s, "..") {
		s = strings.ReplaceAll(s, "..", ".")
	}
	for len(s) > max {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return strings.TrimRight(s, ". ")
}

// isDevice reports whether Windows treats a name as a device.
func isDevice(name string) bool {
	name = strings.ToUpper(strings.TrimRight(name, " "))
	switch name {
	case "CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$":
		return true
	}
	rest, found := strings.CutPrefix(name, "COM")
	if !found {
		rest, found = strings.CutPrefix(name, "LPT")
	}
	return found && len([]rune(rest)) == 1 && strings.ContainsAny(rest, "0123456789¹²³")
}
