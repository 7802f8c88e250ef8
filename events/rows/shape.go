package rows

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// reads is the part of a hint that names the only response form that [ScanResponse] accepts.
const reads = `Sheaf reads {"errcode":0,"data":{"data":[…],"pagetag":{…}}}`

// Limits of the key names that a hint lists.
const (
	maxHintNames = 8
	maxHintRunes = 40
)

// keysOf lists the keys of the checked object at i, in the order of the body.
func keysOf(body []byte, i int) string {
	s := scanner{b: body, lim: Limits{}.withDefaults()}
	var names []string
	more := 0
	s.members(i, func(name []byte, at int) int {
		if len(names) < maxHintNames {
			names = append(names, quoteName(name))
		} else {
			more++
		}
		return s.value(at, 1)
	})
	switch list := strings.Join(names, ", "); {
	case len(names) == 0:
		return "no keys"
	case more > 0:
		return fmt.Sprintf("the keys %s and %d more", list, more)
	case len(names) == 1:
		return "the key " + list
	default:
		return "the keys " + list
	}
}

// quoteName quotes a key. It replaces a key that is long or needs escaping by "…". All other keys appear
// unchanged, so that redaction can find a secret that a source echoes as a key.
func quoteName(name []byte) string {
	quoted := strconv.Quote(string(name))
	if len(quoted) != len(name)+2 || utf8.RuneCount(name) > maxHintRunes {
		return `"…"`
	}
	return quoted
}
