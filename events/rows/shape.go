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

// maxHintLevels is how deep objects are searched for the arrays that a hint lists.
const maxHintLevels = 4

// hintArrays lists the paths of the arrays in a checked value, which is at steps.
func hintArrays(raw []byte, steps []Step) string {
	var l hintList
	l.arrays(raw, steps, 1, false)
	if len(l.items) == 0 {
		return "no array is there"
	}
	return "arrays there: " + l.String()
}

// hintAnswer lists the arrays of a checked answer, then its other members.
func hintAnswer(raw []byte) string {
	raw = raw[skipSpace(raw, 0):]
	if raw[0] != '{' {
		return "the answer is " + describe(raw)
	}
	var l hintList
	l.arrays(raw, nil, 1, true)
	eachMember(raw, func(step Step, value []byte) {
		if value[0] != '[' {
			l.add(Path{steps: []Step{step}}.String())
		}
	})
	if len(l.items) == 0 {
		return "the answer has no members"
	}
	return "the answer has " + l.String()
}

// hintList is a list of names that is short enough for a hint.
type hintList struct {
	items []string
	more  int
}

func (l *hintList) add(item string) {
	if len(l.items) == maxHintNames {
		l.more++
		return
	}
	l.items = append(l.items, item)
}

// String joins the list.
func (l *hintList) String() string {
	text := strings.Join(l.items, ", ")
	if l.more > 0 {
		text += fmt.Sprintf(" and %d more", l.more)
	}
	return text
}

// arrays adds the paths of all arrays in the objects of raw, which is at steps.
func (l *hintList) arrays(raw []byte, steps []Step, level int, described bool) {
	eachMember(raw, func(step Step, value []byte) {
		at := append(steps[:len(steps):len(steps)], step)
		switch {
		case value[0] == '[' && described && len(l.items) < maxHintNames:
			l.add(Path{steps: at}.String() + " (" + strings.TrimPrefix(describe(value), "an ") + ")")
		case value[0] == '[':
			l.add(Path{steps: at}.String())
		case value[0] == '{' && level < maxHintLevels:
			l.arrays(value, at, level+1, described)
		}
	})
}

// eachMember calls f with the members of a checked value. A name that [quoteName] would replace is "…".
func eachMember(raw []byte, f func(step Step, value []byte)) {
	if raw[0] != '{' {
		return
	}
	c := Cursor{b: raw, i: 1, inRow: true}
	for {
		name, _, v, ok := c.NextField()
		if !ok {
			return
		}
		name = Unquote(nil, name)
		if quoteName(name) == `"…"` {
			name = []byte("…")
		}
		f(Step{Name: string(name), Index: -1}, v.Raw)
	}
}

// describe returns the kind of a checked value, and what an array holds.
func describe(raw []byte) string {
	if raw[0] != '[' {
		return kindOf(raw[0]).String()
	}
	count, objects := 0, 0
	for i := skipSpace(raw, 1); raw[i] != ']'; count++ {
		if raw[i] == '{' {
			objects++
		}
		if i = skipSpace(raw, valueEnd(raw, i)); raw[i] == ',' {
			i = skipSpace(raw, i+1)
		}
	}
	noun := "values"
	if objects == count {
		noun = "objects"
	}
	switch count {
	case 0:
		return "an empty array"
	case 1:
		noun = strings.TrimSuffix(noun, "s")
	}
	return fmt.Sprintf("an array of %d %s", count, noun)
}
