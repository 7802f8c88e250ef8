package console

import (
	"bytes"
	"compress/gzip"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sheaf/events"

	"github.com/stretchr/testify/require"
)

// TestWordsAreEqualInBothLanguages: the same keys, each once, with the same placeholders.
func TestWordsAreEqualInBothLanguages(t *testing.T) {
	t.Parallel()
	placeholder := regexp.MustCompile(`\{[a-z]+\}`)
	for _, lang := range languages {
		data, err := os.ReadFile("words_" + lang + ".txt")
		require.NoError(t, err)
		require.Len(t, words[lang], strings.Count(string(data), "\n"), "each line is a key and a text, and no key is there twice")
	}
	for key, text := range words["en"] {
		other, ok := words["zh"][key]
		require.True(t, ok, "no Chinese text for %s", key)
		in, out := placeholder.FindAllString(text, -1), placeholder.FindAllString(other, -1)
		slices.Sort(in)
		slices.Sort(out)
		require.Equal(t, in, out, key)
	}
	require.Len(t, words["zh"], len(words["en"]))
}

// TestAllWordsAreUsed: each key is in a template or the code, or its family is and the value exists.
func TestAllWordsAreUsed(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	for _, pattern := range []string{"*.go", "templates/*.html"} {
		names, err := filepath.Glob(pattern)
		require.NoError(t, err)
		for _, name := range names {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			data, err := os.ReadFile(name)
			require.NoError(t, err)
			text.Write(data)
		}
	}
	for key := range words["en"] {
		family, _, _ := strings.Cut(key, ".")
		if strings.HasPrefix(key, "share.class.") || strings.HasPrefix(key, "bulk.") {
			family = key[:strings.LastIndex(key, ".")]
		}
		used := strings.Contains(text.String(), `"`+key+`"`) || strings.Contains(text.String(), `"`+family+`."`)
		require.True(t, used, "the word %s is used nowhere", key)
	}
	for _, m := range regexp.MustCompile(`(?:\bt|\.t\() ?"([a-z.]+[a-z0-9])"`).FindAllStringSubmatch(text.String(), -1) {
		require.NotEmpty(t, words["en"][m[1]], m[1])
	}
}

// TestEveryNameHasAWord: states, phases, events, error codes, proofs and callback states.
func TestEveryNameHasAWord(t *testing.T) {
	t.Parallel()
	var names []string
	add := func(family string, values ...string) {
		for _, v := range values {
			names = append(names, family+"."+v)
		}
	}
	add("state", append([]string{"all"}, states...)...)
	add("share", append([]string{"expired", "gone", "unknown"}, states...)...)
	add("phase", events.PhaseQueued, events.PhaseCrawling, events.PhaseWaitingForSource, events.PhaseWaitingForSpace, events.PhaseAssembling, "done")
	add("code", errorCodes...)
	add("proof", events.ProofTotal, events.ProofPages, events.ProofEnd, events.ProofSingle)
	add("willprove", events.ProofTotal, events.ProofPages, events.ProofEnd, events.ProofSingle)
	add("callback", events.CallbackPending, events.CallbackDone, events.CallbackExhausted)
	add("ttl", shareTimes...)
	for since := range sinces {
		add("since", since)
	}
	for _, action := range bulkActions {
		add("bulk.title", action)
		add("bulk.link", action)
		add("bulk.confirm", action)
		add("bulk.do", action)
		add("bulk.done", action)
	}
	for _, name := range names {
		require.NotEmpty(t, words["en"][name], name)
	}
}

// TestErrorCodesAreThoseOfEvents reads the constants from their source, so that a new code is found.
func TestErrorCodesAreThoseOfEvents(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../../../events/event.go")
	require.NoError(t, err)
	var codes []string
	for _, m := range regexp.MustCompile(`Code[A-Za-z]+ += "([A-Z_]+)"`).FindAllStringSubmatch(string(data), -1) {
		codes = append(codes, m[1])
	}
	require.NotEmpty(t, codes)
	require.ElementsMatch(t, codes, errorCodes)
	for _, m := range regexp.MustCompile(`Type[A-Za-z]+ +Type = "([a-z_]+)"`).FindAllStringSubmatch(string(data), -1) {
		require.NotEmpty(t, words["en"]["event."+m[1]], "event."+m[1])
	}
}

// TestAssetsAreSmall holds all files of a page together to 12 KB, as a browser without a warm cache gets them.
func TestAssetsAreSmall(t *testing.T) {
	t.Parallel()
	total := 0
	require.NoError(t, fs.WalkDir(staticFiles, "static", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := staticFiles.ReadFile(name)
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, _ = w.Write(data)
		_ = w.Close()
		total += b.Len()
		return err
	}))
	require.Less(t, total, 12<<10)
}

func TestLocalPath(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{
		"/console/":                      "/console/",
		"/console/x/abc?tenant=a":        "/console/x/abc?tenant=a",
		"/docs":                          "/docs",
		"":                               "/console/",
		"https://evil.example/console/":  "/console/",
		"//evil.example/console/":        "/console/",
		"/\\evil.example":                "/console/",
		"/console/\\evil.example":        "/console/",
		"/console//evil.example":         "/console/",
		"/console/../../x":               "/console/",
		"javascript:alert(1)":            "/console/",
		"/console/\r\nSet-Cookie: a=b":   "/console/",
		"/v1/export/cancel":              "/console/",
		"http:/console/":                 "/console/",
		"//user@evil.example/console/x/": "/console/",
	} {
		require.Equal(t, want, localPath(given), given)
	}
}

func TestNumbersForPeople(t *testing.T) {
	t.Parallel()
	require.Equal(t, "1,234,567", grouped(1234567))
	require.Equal(t, "-1,000", grouped(-1000))
	require.Equal(t, "1023 B", size(1023))
	require.Equal(t, "12.4 MiB", size(13002342))
}
