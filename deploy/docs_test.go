package deploy

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	maxReadme     = 9216 // bytes: what a newcomer reads
	readme        = "README.md"
	chineseReadme = "deploy/README.zh-CN.md"
)

// readDocument reads a file by its path from the top folder, like all functions here.
func readDocument(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", path))
	require.NoError(t, err)
	return string(text)
}

var (
	link     = regexp.MustCompile(`\]\(([^)\s]+)\)|(?:src|srcset)="([^"]+)"`)
	heading  = regexp.MustCompile(`(?m)^(#+) +(.+)$`)
	fenced   = regexp.MustCompile("(?ms)^```.*?^```$")
	commands = regexp.MustCompile("(?ms)^```sh$(.*?)^```$")
	comment  = regexp.MustCompile(`(?m)\s*#( .*)?$`)
	notSlug  = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// linksOf returns the links of a document, those to files as paths from the top folder.
func linksOf(t *testing.T, path string) (links []string) {
	t.Helper()
	text := fenced.ReplaceAllString(readDocument(t, path), "")
	for _, m := range link.FindAllStringSubmatch(text, -1) {
		target := m[1] + m[2]
		if strings.Contains(target, "://") {
			links = append(links, target)
			continue
		}
		file, anchor, found := strings.Cut(target, "#")
		target = filepath.Clean(filepath.Join(filepath.Dir(path), file))
		if file == "" {
			target = path
		}
		if found {
			target += "#" + anchor
		}
		links = append(links, target)
	}
	return links
}

// anchorsOf returns the anchors of the headings of a document, as GitHub makes them.
func anchorsOf(t *testing.T, path string) (anchors []string) {
	t.Helper()
	for _, m := range heading.FindAllStringSubmatch(fenced.ReplaceAllString(readDocument(t, path), ""), -1) {
		anchors = append(anchors, strings.ReplaceAll(notSlug.ReplaceAllString(strings.ToLower(m[2]), ""), " ", "-"))
	}
	return anchors
}

func TestReadmeIsShort(t *testing.T) {
	require.LessOrEqual(t, len(readDocument(t, readme)), maxReadme, "bytes")
}

// The README names the command that shows what Sheaf does, and the one that passes the tests.
func TestReadmeHasTheTwoCommands(t *testing.T) {
	text := readDocument(t, readme)
	require.Contains(t, text, "\ngo run ./cmd/sheaf demo ")
	require.Contains(t, text, "`go test ./...`")
}

func TestLinksOfDocuments(t *testing.T) {
	names, err := filepath.Glob("*.md")
	require.NoError(t, err)
	documents := []string{readme, "services/REFERENCE.md", "deploy/examples/README.md"}
	for _, name := range names {
		documents = append(documents, filepath.Join("deploy", name))
	}
	for _, path := range documents {
		for _, target := range linksOf(t, path) {
			if strings.Contains(target, "://") {
				continue
			}
			file, anchor, found := strings.Cut(target, "#")
			require.FileExists(t, filepath.Join("..", file), "linked by %s", path)
			if found {
				require.Contains(t, anchorsOf(t, file), anchor, "%s links to %s", path, target)
			}
		}
	}
}

// A translation that lacks a step, or shows an old command, is worse than none.
func TestChineseReadmeFollowsTheEnglishOne(t *testing.T) {
	outline := func(path string) (levels []string) {
		for _, m := range heading.FindAllStringSubmatch(fenced.ReplaceAllString(readDocument(t, path), ""), -1) {
			levels = append(levels, m[1])
		}
		return levels
	}
	commandsOf := func(path string) (blocks []string) {
		for _, m := range commands.FindAllStringSubmatch(readDocument(t, path), -1) {
			blocks = append(blocks, comment.ReplaceAllString(m[1], ""))
		}
		return blocks
	}
	links := linksOf(t, chineseReadme)
	require.Contains(t, links, readme)
	links[slices.Index(links, readme)] = chineseReadme // each names the other
	require.Equal(t, outline(readme), outline(chineseReadme), "levels of headings")
	require.Equal(t, commandsOf(readme), commandsOf(chineseReadme), "commands without comments")
	require.Equal(t, linksOf(t, readme), links, "links")
}

func TestOperationsExplainEachErrorCode(t *testing.T) {
	source := readDocument(t, "events/event.go")
	codes := regexp.MustCompile(`Code[A-Z]\w+ += "([A-Z_]+)"`).FindAllStringSubmatch(source, -1)
	require.NotEmpty(t, codes)
	var want []string
	for _, m := range codes {
		want = append(want, m[1])
	}
	var got []string
	section := strings.SplitAfter(readDocument(t, "deploy/OPERATIONS.md"), "\n## Error codes\n")
	require.Len(t, section, 2)
	text, _, _ := strings.Cut(section[1], "\n## ")
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		got = append(got, m[2])
	}
	require.ElementsMatch(t, want, got)
}
