package assembler

import (
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"sheaf/events"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestEntryName(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		title, extType string
		numbered       bool
		want           string
	}{
		{"http接口数据源导出", "XLSX", true, "http接口数据源导出-1.XLSX"},
		{"orders", "xlsx", false, "orders.xlsx"},
		{"", "xlsx", true, "export-1.xlsx"},
		{"..", "xlsx", false, "export.xlsx"},
		{"../../etc/passwd", "xlsx", false, "etcpasswd.xlsx"},
		{`C:\x`, "xlsx", false, "Cx.xlsx"},
		{"50% report", "XLSX", true, "50% report-1.XLSX"},
		{"a\u202Egnp.exe", "xlsx", false, "agnp.exe.xlsx"},
		{"line\r\nbreak\ttab", "xlsx", false, "linebreaktab.xlsx"},
		{"con", "xlsx", false, "_con.xlsx"},
		{"con", "xlsx", true, "con-1.xlsx"},
		{"COM1.old", "xlsx", false, "_COM1.old.xlsx"},
		{" .hidden. ", "xlsx", false, "hidden.xlsx"},
		{"orders", "", false, "orders"},
		{"orders", "../x", false, "orders.x"},
		{"a\xffb", "xlsx", false, "ab.xlsx"},
		{strings.Repeat("订", 100), "xlsx", true, strings.Repeat("订", 64) + "-1.xlsx"},
		{"👨‍👩‍👧", "xlsx", false, "👨‍👩‍👧.xlsx"},
	} {
		require.Equal(t, c.want, EntryName(c.title, c.extType, c.numbered), "%q %q", c.title, c.extType)
	}
}

// hostileText draws texts that are made of what file systems do not take.
func hostileText() *rapid.Generator[string] {
	hostile := rapid.OneOf(
		rapid.SampledFrom([]string{"/", "\\", "..", ".", " ", "con", "NUL", "com1", "\x00", "\u202e", "\u2066", "-1", "😀", "\xff", "\ufeff", "LPT¹", "CONIN$"}),
		rapid.StringN(0, 3, -1), rapid.StringN(0, 300, -1))
	return rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(hostile, 0, 6).Draw(t, "parts"), "")
	})
}

// requireSafe fails unless a name is one element of a path that every file system takes.
func requireSafe(t *rapid.T, got string) {
	device, _, _ := strings.Cut(strings.ToUpper(got), ".")
	switch {
	case got == "" || len(got) > maxName || !utf8.ValidString(got):
		t.Fatalf("%q: empty, long or no UTF-8", got)
	case got != filepath.Base(filepath.Clean(got)) || !filepath.IsLocal(got):
		t.Fatalf("%q is not one element", got)
	case strings.ContainsAny(got, `/\:*?"<>|`) || strings.Contains(got, ".."):
		t.Fatalf("%q holds a forbidden character", got)
	case strings.TrimSpace(got) != got || strings.HasPrefix(got, ".") || strings.HasSuffix(got, "."):
		t.Fatalf("%q has a dot or space at an end", got)
	case strings.ContainsFunc(got, func(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) }):
		t.Fatalf("%q holds a control", got)
	case isDevice(device):
		t.Fatalf("%q is a device", got)
	}
}

func TestEntryNameIsOneSafePathElement(t *testing.T) {
	t.Parallel()
	text := hostileText()
	rapid.Check(t, func(t *rapid.T) {
		requireSafe(t, EntryName(text.Draw(t, "title"), text.Draw(t, "type"), rapid.Bool().Draw(t, "numbered")))
	})
}

// The documents of a zip have safe names that differ without regard to case, whatever the titles are.
func TestNamesOfDocuments(t *testing.T) {
	t.Parallel()
	text := hostileText()
	rapid.Check(t, func(t *rapid.T) {
		a := &assembly{x: &events.Export{Request: events.Request{Title: text.Draw(t, "title")}},
			taken: map[string]bool{manifestName: true}}
		names := map[string]bool{manifestName: true}
		for i, title := range rapid.SliceOfN(rapid.OneOf(text, rapid.SampledFrom([]string{"a", "A", "a-001"})), 1, 6).Draw(t, "sheets") {
			for part := range rapid.IntRange(1, 3).Draw(t, "parts") {
				for _, ext := range []string{".csv", ".json"} {
					got := a.name(sheetName(title, i), part, ext)
					requireSafe(t, got)
					if !strings.HasSuffix(got, ext) || names[strings.ToLower(got)] {
						t.Fatalf("%q has no %s, or is not the only one", got, ext)
					}
					names[strings.ToLower(got)] = true
				}
			}
		}
	})
}
