package xlsx

import (
	"bytes"
	"encoding/binary"
	"math/bits"
)

// rowDeflater compresses a block of sheet XML. A general compressor looks for
// repetitions everywhere; this one knows where they are. Of a row
//
//	<row r="7"><c r="A7"><v>6</v></c><c r="B7" t="inlineStr"><is><t>text</t></is></c></row>
//
// all but the values stands in the row before, at the same column, and the
// number of the row stands in the cell before. So it walks from cell to cell and
// tries one or two such places at each border, and only in the texts it looks
// things up in a hash table. Where it guesses wrong, or the XML is another,
// nothing is lost but size.
//
// Sheets with much text are left to a general compressor, see maxWords.
type rowDeflater struct {
	in  []byte // the block, and padding
	n   int    // bytes of the block
	pos int    // what lies before is in sequences or counted as literals
	// from is where the literals begin that are in no sequence.
	from, begun int // begun is where the current DEFLATE block begins
	words       int // bytes of text that are no numbers, roughly

	sequences []sequence
	literals  [literalCodes]uint32 // frequencies
	distances [distanceCodes]uint32

	texts [1 << textBits]uint32 // by the hash of what begins there, see textEntry

	// Places, each plus one so that 0 is none.
	cells [cellSlots]cellPlaces    // of the last cell of a column
	ends  [cellSlots]int32         // of the last text before the same two columns
	near  [len(endKinds) + 1]int32 // of the last text before the same tags
	digit int32                    // of the last row number

	w bitWriter
}

// cellPlaces are places in a cell.
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
	// inPadding lets eight bytes be read at any place, and a little behind it.
	inPadding = 32

	// nearRows is how far back the row before may lie to be better than the
	// cell before: distances cost bits.
	nearRows = 2 << 10
	// leastMatch is the shortest match that is worth while, leastText in texts.
	leastMatch = 4
	leastText  = 5
	// mostMatching is how far is looked how long a match is. What repeats itself
	// without end would be compared to its end from each of its repetitions.
	mostMatching = 4 << 10
	// mostSequences go into one DEFLATE block. A block of rows makes one of its
	// own, some 12,000.
	mostSequences = 16 << 10

	// A block is left to the general compressor when more than one byte in
	// maxWords is text that is no number: it finds more in text (measured: by 3
	// to 10 percent), and there the difference in speed is small. The first
	// probe bytes decide already.
	maxWords = 7
	probe    = 32 << 10
)

func word(s string) uint64 {
	var b [8]byte
	copy(b[:], s)
	return binary.LittleEndian.Uint64(b[:])
}

const sixBytes = 1<<48 - 1

const _ = uint(1<<placeBits - 1 - (blockSize + 1)) // every place of a block has room

var (
	cellTag = word(`<c r="`) // six bytes
	rowTag  = word(`<row r="`)
	rowEnd  = word(`</row>`) // six bytes
	// endKinds are what the tags that end a cell begin with.
	endKinds = [2]uint64{word(`</v></c>`), word(`</t></is></c>`)}
	endSizes = [2]int{len(`</v></c>`), len(`</t></is></c>`)}
)

// isWord says which bytes go on with a word: matches begin at the others, or
// after them.
var isWord = func() (is [256]bool) {
	for c := range is {
		is[c] = c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c >= 0x80
	}
	return is
}()

// deflate appends the compressed XML to dst. Without last it ends at a byte
// border with a sync marker. ok is false when a general compressor should do it;
// dst is then as it was.
func (d *rowDeflater) deflate(dst []byte, pieces []piece, last bool) (_ []byte, ok bool) {
	d.in = d.in[:0]
	for _, p := range pieces {
		d.in = append(d.in, p.xml...)
	}
	d.n = len(d.in)
	d.in = append(d.in, make([]byte, inPadding)...)
	d.pos, d.from, d.begun, d.words, d.digit = 0, 0, 0, 0, 0
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

// walk goes through the block from cell to cell. It returns false when there is
// too much text.
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
		if len(d.sequences) >= mostSequences {
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
			// Something else: text up to the next tag.
			if i = d.until(i+1, '<'); d.pos < i {
				d.text(i, n)
			}
			continue
		}
		cell := &d.cells[(column^column>>10)%cellSlots]
		if d.pos == start {
			d.match(cell.start, d.matching(cell.start, start, nearRows), leastMatch)
		}
		if d.pos <= i {
			d.skip(i)
			d.match(d.digit, d.matching(d.digit, i, maxDistance), leastMatch)
		}
		d.digit = int32(i + 1)
		for in[i]-'0' <= 9 {
			i++
		}
		number := i
		d.skip(number)

		// The tags up to the value, and of the value what it has in common with
		// the one above. If the table knows more of the value, the match ends
		// before it.
		value, slot, slotted := -1, uint64(0), uint32(0)
		if from := cell.number; d.pos == number && from > 0 {
			length, tags := d.matching(from, number, maxDistance), int(cell.text-from)
			if common := length - tags; common >= 0 && tags > 2 {
				value = number + tags
				var known int32
				slot, slotted = textEntry(d.load(value), value)
				if known = seenAt(d.texts[slot], slotted); known > 0 && common < 8 && in[value+common] != '<' &&
					d.matching(known, value, maxDistance) >= common+leastMatch {
					length = tags
				}
			}
			d.match(from, length, leastMatch)
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
			d.match(from, tail, leastMatch)
		}
	}
	d.skip(n)
	return d.words*maxWords <= n
}

// until returns the place of the next c from i on, or the end.
func (d *rowDeflater) until(i int, c byte) int {
	const ones = 0x0101010101010101
	for near := i + 16; i < near && i < d.n; i += 8 {
		// The lowest byte of x that is 0 is where c is.
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

// valueAt returns where the value of a cell begins: after tags that follow one
// upon another.
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

// matching returns how many bytes at to are those at a place, 0 if that is none or
// lies too far back.
func (d *rowDeflater) matching(place int32, to, far int) int {
	from := int(place) - 1
	if from < 0 || from >= to || to-from > far {
		return 0
	}
	end := min(d.n, to+mostMatching)
	for at := to; at < end; at, from = at+8, from+8 {
		if x := d.load(from) ^ d.load(at); x != 0 {
			return min(at+bits.TrailingZeros64(x)/8, end) - to
		}
	}
	return end - to
}

// match covers length bytes at pos by those at a place, if they are enough.
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

// add covers length bytes, of which a match can have so many.
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

// textEntry is what the table keeps of the text that begins with v, and where: its
// place, and of the hash of the first five bytes what does not say where in the
// table it is. So a text that was never there is nearly never compared.
func textEntry(v uint64, at int) (slot uint64, e uint32) {
	h := v << 24 * 889523592379
	return h >> (64 - textBits), uint32(at+1) | uint32(h>>(64-textBits-tagBits))<<placeBits
}

// seenAt returns where an entry's text was before, if it was that of another.
func seenAt(e, of uint32) int32 {
	if (e^of)>>placeBits != 0 {
		return 0
	}
	return int32(e & (1<<placeBits - 1))
}

// text covers the bytes up to a place, by matches that the table finds where
// words begin. Tail bytes that follow them can be matched more cheaply than by
// going on with a match of the text, unless that is about as long.
func (d *rowDeflater) text(to, tail int) {
	tail = max(tail-1, leastMatch)
	in, pos, words := d.in, d.pos, 0
	for pos < to {
		c := in[pos]
		slot, e := textEntry(d.load(pos), pos)
		at := seenAt(d.texts[slot], e)
		d.texts[slot] = e
		if at > 0 {
			length := d.matching(at, pos, maxDistance)
			inText := min(length, to-pos)
			if length-inText < tail || inText < leastMatch && c <= '9' {
				length = inText // few digits cost less than a match that is far
			}
			if length >= leastText {
				words += inText
				d.pos = pos
				d.match(at, length, leastText)
				pos = d.pos
				continue
			}
		}
		// Literals up to where a word begins, or what is no word.
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

// flush writes what is covered as one DEFLATE block.
func (d *rowDeflater) flush(last bool) {
	d.literals[endOfBlock] = 1
	d.w.dynamicBlock(d.in[d.begun:d.pos], d.sequences, &d.literals, &d.distances, last)
	d.sequences = d.sequences[:0]
	d.begun, d.from = d.pos, d.pos
	clear(d.literals[:])
	clear(d.distances[:])
}
