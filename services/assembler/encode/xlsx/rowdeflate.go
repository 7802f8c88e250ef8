package xlsx

import (
	"bytes"
	"encoding/binary"
	"math/bits"
)

// rowDeflater compresses a block of sheet XML. A general compressor searches for repetitions everywhere;
// rowDeflater knows where they are. In a row
//
//	<row r="7"><c r="A7"><v>6</v></c><c r="B7" t="inlineStr"><is><t>text</t></is></c></row>
//
// everything but the values also occurs in the row above, at the same column. The row's number also occurs in
// the cell before. So rowDeflater walks from cell to cell and tries one or two such places at each border.
// Only texts are looked up in a hash table. A wrong guess, or other XML, costs nothing but size.
//
// Sheets with much text are left to a general compressor, see maxWords.
type rowDeflater struct {
	in         []byte // the block, and padding
	n          int    // bytes of the block
	pos        int    // everything before it is in sequences or counted as literals
	from       int    // where the literals begin that are not in a sequence yet
	blockStart int    // where the current DEFLATE block begins
	words      int    // approximate number of text bytes that are not numbers

	sequences []sequence
	literals  [literalCodes]uint32 // frequencies
	distances [distanceCodes]uint32

	texts [1 << textBits]uint32 // by the hash of the text that begins there, see textEntry

	// Places, each plus one so that 0 means none.
	cells [cellSlots]cellPlaces    // of the last cell of a column
	ends  [cellSlots]int32         // of the last text before the same two columns
	near  [len(endKinds) + 1]int32 // of the last text before the same tags
	digit int32                    // of the last row number

	w bitWriter
}

// cellPlaces are the places of a cell's parts.
type cellPlaces struct {
	start  int32 // its '<'
	number int32 // the quote after its row number
	text   int32 // its value
}

const (
	textBits  = 14
	placeBits = 19 // for a block's bytes, each plus one
	tagBits   = 32 - placeBits
	cellSlots = 1 << 10
	// inPadding allows reading eight bytes at any place, and slightly beyond.
	inPadding = 32

	// nearRows is the maximum distance at which the row above is a better match than the cell before:
	// distances cost bits.
	nearRows = 2 << 10
	// Shortest matches worth writing, outside and inside texts.
	minRowMatch  = 4
	minTextMatch = 5
	// maxMatching limits the comparison of two places. Without it, a long repetition would be compared to its
	// end from every position in it.
	maxMatching = 4 << 10
	// maxSequences is the maximum number of sequences in a DEFLATE block. A block of rows makes one, of about
	// 12,000 sequences.
	maxSequences = 16 << 10

	// A block goes to the general compressor if more than one byte in maxWords is text other than numbers.
	// There the general compressor is 3 to 10 percent smaller (measured) and hardly slower. The first probe
	// bytes already decide.
	maxWords = 7
	probe    = 32 << 10
)

func word(s string) uint64 {
	var b [8]byte
	copy(b[:], s)
	return binary.LittleEndian.Uint64(b[:])
}

const sixBytes = 1<<48 - 1

const _ = uint(1<<placeBits - 1 - (blockSize + 1)) // every place of a block fits

var (
	cellTag = word(`<c r="`) // six bytes
	rowTag  = word(`<row r="`)
	rowEnd  = word(`</row>`) // six bytes
	// endKinds are the first eight bytes of the tags that end a cell.
	endKinds = [2]uint64{word(`</v></c>`), word(`</t></is></c>`)}
	endSizes = [2]int{len(`</v></c>`), len(`</t></is></c>`)}
)

// isWord marks the bytes that continue a word. Matches begin at other bytes, or right after them.
var isWord = func() (is [256]bool) {
	for c := range is {
		is[c] = c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c >= 0x80
	}
	return is
}()

// deflate appends the compressed XML to dst. Without last it ends at a byte border with a sync marker. If ok
// is false, dst is unchanged and a general compressor should compress the block.
func (d *rowDeflater) deflate(dst []byte, pieces []piece, last bool) (_ []byte, ok bool) {
	d.in = d.in[:0]
	for _, p := range pieces {
		d.in = append(d.in, p.xml...)
	}
	d.n = len(d.in)
	d.in = append(d.in, make([]byte, inPadding)...)
	d.pos, d.from, d.blockStart, d.words, d.digit = 0, 0, 0, 0, 0
	d.sequences = d.sequences[:0]
	clear(d.literals[:])
	clear(d.distances[:])
	clear(d.texts[:])
	clear(d.cells[:])
	clear(d.ends[:])
	clear(d.near[:])
	d.w = bitWriter{out: dst}

	if !d.walk() || d.n == 0 {
		return dst, false
	}
	d.flush(last)
	w := &d.w
	if !last {
		w.put(0, 3) // an empty stored block
	}
	w.align()
	if !last {
		w.out = append(w.out, 0, 0, 0xff, 0xff)
	}
	return w.out, true
}

func (d *rowDeflater) load(i int) uint64 { return binary.LittleEndian.Uint64(d.in[i:]) }

// walk goes through the block from cell to cell. It returns false if there is too much text.
func (d *rowDeflater) walk() bool {
	in, n := d.in, d.n
	column := uint32(0)
	probed := false
	for i := 0; i < n; {
		if i >= probe && !probed {
			if probed = true; d.words*maxWords > i {
				return false
			}
		}
		if len(d.sequences) >= maxSequences {
			d.flush(false)
		}
		start := i
		switch tag := d.load(i); {
		case tag&sixBytes == cellTag:
			column = 0
			for i += 6; in[i]-'A' < 26; i++ {
				column = column<<5 + uint32(in[i]-'@')
			}
		case tag == rowTag:
			column = 0
			i += 8
		default:
			// Not a cell: text up to the next tag.
			if i = d.until(i+1, '<'); d.pos < i {
				d.text(i, n)
			}
			continue
		}
		cell := &d.cells[(column^column>>10)%cellSlots]
		if d.pos == start {
			d.match(cell.start, d.matching(cell.start, start, nearRows), minRowMatch)
		}
		if d.pos <= i {
			d.skip(i)
			d.match(d.digit, d.matching(d.digit, i, maxDistance), minRowMatch)
		}
		d.digit = int32(i + 1)
		for in[i]-'0' <= 9 {
			i++
		}
		number := i
		d.skip(number)

		// The tags up to the value, and the part of the value that equals the one above. If the table has a
		// longer match for the value, the first match ends before it.
		value, slot, slotted := -1, uint64(0), uint32(0)
		if from := cell.number; d.pos == number && from > 0 {
			length, tags := d.matching(from, number, maxDistance), int(cell.text-from)
			if common := length - tags; common >= 0 && tags > 2 {
				value = number + tags
				var known int32
				slot, slotted = textEntry(d.load(value), value)
				if known = seenAt(d.texts[slot], slotted); known > 0 && common < 8 &&
					in[value+common] != '<' &&
					d.matching(known, value, maxDistance) >= common+minRowMatch {
					length = tags
				}
			}
			d.match(from, length, minRowMatch)
		}
		if value < 0 {
			value = d.valueAt(number)
		}
		end := d.until(value, '<')
		*cell = cellPlaces{int32(start + 1), int32(number + 1), int32(value + 1)}

		// The tags from the value to the next cell's column, or row.
		i = end
		kind := len(endKinds)
		for k, tags := range endKinds {
			if d.load(end) == tags {
				kind, i = k, end+endSizes[k]
			}
		}
		next := uint32(0)
		switch tag := d.load(i); {
		case tag&sixBytes == rowEnd:
			i += 6
		case tag&sixBytes == cellTag:
			next = uint32(tag >> 48)
		}
		i = min(i, n)
		from, tail := int32(0), 0
		if end < n {
			ends, near := &d.ends[(column*31+next*2654435761>>8)%cellSlots], &d.near[kind]
			from = *ends
			if tail = d.matching(from, end, nearRows); tail < i-end {
				from = *near
				tail = d.matching(from, end, maxDistance)
			}
			*ends, *near = int32(end+1), int32(end+1)
		}
		if d.pos < end {
			d.text(end, tail)
		}
		if slotted > 0 {
			d.texts[slot] = slotted
		}
		if d.pos == end {
			d.match(from, tail, minRowMatch)
		}
	}
	d.skip(n)
	return d.words*maxWords <= n
}

// until returns the place of the next c from i on, or the end of the block.
func (d *rowDeflater) until(i int, c byte) int {
	const ones = 0x0101010101010101
	for near := i + 16; i < near && i < d.n; i += 8 {
		// The lowest zero byte of x marks c.
		x := d.load(i) ^ ones*uint64(c)
		if x = (x - ones) &^ x & (ones << 7); x != 0 {
			return min(i+bits.TrailingZeros64(x)/8, d.n)
		}
	}
	if i < d.n {
		if at := bytes.IndexByte(d.in[i:d.n], c); at >= 0 {
			return i + at
		}
	}
	return d.n
}

// valueAt returns where the value of a cell begins: after a run of tags.
func (d *rowDeflater) valueAt(i int) int {
	for {
		if i = d.until(i, '>') + 1; i >= d.n {
			return d.n
		}
		if d.in[i] != '<' || d.in[i+1] == '/' || d.load(i)&sixBytes == cellTag {
			return i
		}
	}
}

// matching returns how many bytes at to equal those at place. It returns 0 if there is no place or it is too
// far away.
func (d *rowDeflater) matching(place int32, to, far int) int {
	from := int(place) - 1
	if from < 0 || from >= to || to-from > far {
		return 0
	}
	end := min(d.n, to+maxMatching)
	for at := to; at < end; at, from = at+8, from+8 {
		if x := d.load(from) ^ d.load(at); x != 0 {
			return min(at+bits.TrailingZeros64(x)/8, end) - to
		}
	}
	return end - to
}

// match replaces length bytes at pos by a reference to place, if they are at least least.
func (d *rowDeflater) match(place int32, length, least int) {
	if length < least {
		return
	}
	distance := uint16(d.pos - int(place)) // less 1, as place is plus 1
	symbol := distanceCode(distance)
	for length > maxMatch {
		d.add(min(maxMatch, length-minMatch), distance, symbol)
		length -= min(maxMatch, length-minMatch)
	}
	d.add(length, distance, symbol)
}

// add covers length bytes with one match, so length is at most maxMatch.
func (d *rowDeflater) add(length int, distance uint16, symbol uint8) {
	d.sequences = append(d.sequences, newSequence(d.pos-d.from, length, distance, symbol))
	d.literals[firstLength+int(lengthCode[length])]++
	d.distances[symbol]++
	d.pos += length
	d.from = d.pos
}

// skip covers the bytes up to a place as literals.
func (d *rowDeflater) skip(to int) {
	for ; d.pos < to; d.pos++ {
		d.literals[d.in[d.pos]]++
	}
}

// textEntry returns the table slot and entry for the text at at that begins with v. An entry holds the place
// and the hash bits that are not part of the slot, so that different texts are almost never compared.
func textEntry(v uint64, at int) (slot uint64, e uint32) {
	h := v << 24 * 889523592379
	return h >> (64 - textBits), uint32(at+1) | uint32(h>>(64-textBits-tagBits))<<placeBits
}

// seenAt returns the place of entry e if it is of the same text as of, else none.
func seenAt(e, of uint32) int32 {
	if (e^of)>>placeBits != 0 {
		return 0
	}
	return int32(e & (1<<placeBits - 1))
}

// text covers the bytes up to a place with matches that the table finds at word starts. The tail bytes after
// them have a cheaper match, which wins unless the text's match is about as long.
func (d *rowDeflater) text(to, tail int) {
	tail = max(tail-1, minRowMatch)
	in, pos, words := d.in, d.pos, 0
	for pos < to {
		c := in[pos]
		slot, e := textEntry(d.load(pos), pos)
		at := seenAt(d.texts[slot], e)
		d.texts[slot] = e
		if at > 0 {
			length := d.matching(at, pos, maxDistance)
			inText := min(length, to-pos)
			if length-inText < tail || inText < minRowMatch && c <= '9' {
				length = inText // a few digits cost less than a distant match
			}
			if length >= minTextMatch {
				words += inText
				d.pos = pos
				d.match(at, length, minTextMatch)
				pos = d.pos
				continue
			}
		}
		// Literals up to the next start of a word or a byte outside words.
		for {
			d.literals[c]++
			if c > '9' {
				words++
			}
			if pos++; pos >= to || !isWord[c] {
				break
			}
			if c = in[pos]; c >= 0xc0 || !isWord[c] {
				break
			}
		}
	}
	d.pos = pos
	d.words += words
}

// flush writes the covered bytes as one DEFLATE block.
func (d *rowDeflater) flush(last bool) {
	d.literals[endOfBlock] = 1
	d.w.dynamicBlock(d.in[d.blockStart:d.pos], d.sequences, &d.literals, &d.distances, last)
	d.sequences = d.sequences[:0]
	d.blockStart, d.from = d.pos, d.pos
	clear(d.literals[:])
	clear(d.distances[:])
}
