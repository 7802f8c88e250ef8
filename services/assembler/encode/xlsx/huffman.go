package xlsx

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"slices"
)

// Symbols of DEFLATE (RFC 1951, sections 3.2.5 and 3.2.7).
const (
	endOfBlock      = 256
	firstLength     = 257
	literalCodes    = 286
	distanceCodes   = 30
	codeLengthCodes = 19

	minMatch    = 3
	maxMatch    = 258
	maxDistance = 32 << 10

	maxCodeLength     = 15
	maxLiteralLength  = 14 // our own limit: four literals and seven more bits fit into a word
	maxCodeLengthCode = 7
)

// Lengths and distances are written as the code of their range plus the offset within it. Distances count
// from 0 here.
var (
	lengthCode    [maxMatch + 1]uint8
	lengthBase    [29]uint16
	lengthExtra   [29]uint8
	distanceExtra [1 << 5]uint8
	nearDistance  [256]uint8 // code of distances below 256
	farDistance   [256]uint8 // code of other distances, by their upper bits
)

func init() {
	length := minMatch
	for c := range 28 {
		if c >= 8 {
			lengthExtra[c] = uint8(c/4 - 1)
		}
		lengthBase[c] = uint16(length)
		for range 1 << lengthExtra[c] {
			lengthCode[min(length, maxMatch)] = uint8(c)
			length++
		}
	}
	lengthBase[28], lengthCode[maxMatch] = maxMatch, 28
	distance := 0
	for c := range distanceCodes {
		if c >= 4 {
			distanceExtra[c] = uint8(c/2 - 1)
		}
		for range 1 << distanceExtra[c] {
			if distance < len(nearDistance) {
				nearDistance[distance] = uint8(c)
			}
			farDistance[distance>>7] = uint8(c)
			distance++
		}
	}
}

func distanceCode(d uint16) uint8 {
	if int(d) < len(nearDistance) {
		return nearDistance[d]
	}
	return farDistance[d>>7]
}

// code is a symbol's code with its first bit lowest; its length is above codeBits. Length 0 means no code.
type code uint32

const codeBits = 24

func (c code) bits() uint64 { return uint64(c) & (1<<codeBits - 1) }
func (c code) length() uint { return uint(c >> codeBits) }

// after appends c to the n bits in b.
func (c code) after(b uint64, n uint) (uint64, uint) { return b | c.bits()<<(n&63), n + c.length() }

// codeLengths sets out to the code lengths, at most limit bits, of a Huffman code for the given frequencies.
// Symbols that do not occur get 0.
func codeLengths(out []uint8, freqs []uint32, limit int) {
	type symbol struct {
		freq uint32
		at   uint16
	}
	var room [literalCodes]symbol
	symbols := room[:0]
	for at, f := range freqs {
		if f > 0 {
			symbols = append(symbols, symbol{f, uint16(at)})
		}
	}
	clear(out)
	n := len(symbols)
	if n <= 1 {
		for _, s := range symbols {
			out[s.at] = 1
		}
		return
	}
	slices.SortFunc(symbols, func(a, b symbol) int {
		return cmp.Or(cmp.Compare(a.freq, b.freq), cmp.Compare(a.at, b.at))
	})

	// Moffat and Katajainen, "In-place calculation of minimum-redundancy codes" (1995): a first holds
	// weights, then parents, then depths.
	var a [literalCodes]uint32
	for i, s := range symbols {
		a[i] = s.freq
	}
	a[0] += a[1]
	root, leaf := 0, 2
	for next := 1; next < n-1; next++ {
		if leaf >= n || a[root] < a[leaf] {
			a[next], a[root] = a[root], uint32(next)
			root++
		} else {
			a[next] = a[leaf]
			leaf++
		}
		if leaf >= n || root < next && a[root] < a[leaf] {
			a[next] += a[root]
			a[root] = uint32(next)
			root++
		} else {
			a[next] += a[leaf]
			leaf++
		}
	}
	a[n-2] = 0
	for next := n - 3; next >= 0; next-- {
		a[next] = a[a[next]] + 1
	}
	var count [literalCodes]int // of leaves at each depth
	free, used, depth, inner := 1, 0, 0, n-2
	for free > 0 {
		for inner >= 0 && int(a[inner]) == depth {
			used++
			inner--
		}
		count[depth] = free - used
		free, used = 2*used, 0
		depth++
	}

	// Leaves deeper than the limit move up to it. Others move down until the code is complete again.
	for l := limit + 1; l < depth; l++ {
		count[limit] += count[l]
	}
	total := 0
	for l := 1; l <= limit; l++ {
		total += count[l] << (limit - l)
	}
	for ; total > 1<<limit; total-- {
		l := limit - 1
		for count[l] == 0 {
			l--
		}
		count[l]--
		count[l+1] += 2
		count[limit]--
	}
	i := 0
	for l := limit; l > 0; l-- {
		for range count[l] {
			out[symbols[i].at] = uint8(l)
			i++
		}
	}
}

// assignCodes returns the codes for the given lengths (RFC 1951, section 3.2.2).
func assignCodes(codes []code, lengths []uint8) {
	var count, next [maxCodeLength + 1]uint16
	for _, l := range lengths {
		count[l]++
	}
	count[0] = 0
	for l := 1; l <= maxCodeLength; l++ {
		next[l] = (next[l-1] + count[l-1]) << 1
	}
	for at, l := range lengths {
		codes[at] = 0
		if l > 0 {
			codes[at] = code(l)<<codeBits | code(bits.Reverse16(next[l])>>(16-l))
			next[l]++
		}
	}
}

// codeLengthOrder is the order of RFC 1951, section 3.2.7.
var codeLengthOrder = [codeLengthCodes]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// bitWriter appends bits to out.
type bitWriter struct {
	out  []byte
	bits uint64 // bits not yet in out, the first one lowest
	n    uint   // number of those bits: below 8, up to 16 after body
}

func (w *bitWriter) put(v uint64, n uint) {
	w.bits |= v << w.n
	for w.n += n; w.n >= 8; w.n -= 8 {
		w.out = append(w.out, byte(w.bits))
		w.bits >>= 8
	}
}

// align fills the last byte with zeros.
func (w *bitWriter) align() {
	if w.n > 0 {
		w.put(0, 8-w.n)
	}
}

// sequence is a run of literals and the match after it, encoded for writing: the low bits of match are the
// distance less 1, then the length above distanceBits and the distance's code above lengthBits.
type sequence struct{ literals, match uint32 }

const (
	distanceBits = 15
	lengthBits   = 24
)

func newSequence(literals, length int, distance uint16, symbol uint8) sequence {
	return sequence{uint32(literals),
		uint32(distance) | uint32(length)<<distanceBits | uint32(symbol)<<lengthBits}
}

func (s sequence) length() int {
	return int(s.match >> distanceBits & (1<<(lengthBits-distanceBits) - 1))
}

// dynamicBlock writes a DEFLATE block with its own Huffman codes (RFC 1951, section 3.2.7): the sequences,
// whose literals come from in, and the literals after them. The frequencies include one end of block.
func (w *bitWriter) dynamicBlock(in []byte, sequences []sequence, literals *[literalCodes]uint32,
	distances *[distanceCodes]uint32, last bool) {
	var lengths [literalCodes + distanceCodes]uint8
	codeLengths(lengths[:literalCodes], literals[:], maxLiteralLength)
	for d := range 2 {
		// zlib never writes fewer than two codes, for the sake of old decoders.
		distances[d] = max(distances[d], 1)
	}
	codeLengths(lengths[literalCodes:], distances[:], maxCodeLength)
	nl, nd := literalCodes, distanceCodes
	for nl > firstLength && lengths[nl-1] == 0 {
		nl--
	}
	for nd > 1 && lengths[literalCodes+nd-1] == 0 {
		nd--
	}
	var codes struct {
		literals  [literalCodes]code
		distances [distanceCodes]code
	}
	assignCodes(codes.literals[:], lengths[:literalCodes])
	assignCodes(codes.distances[:], lengths[literalCodes:])

	final := uint64(0)
	if last {
		final = 1
	}
	w.put(final, 1)
	w.put(2, 2)
	w.put(uint64(nl-firstLength), 5)
	w.put(uint64(nd-1), 5)
	copy(lengths[nl:], lengths[literalCodes:literalCodes+nd])
	w.codeLengths(lengths[:nl+nd])
	w.body(in, sequences, &codes.literals, &codes.distances)
	end := codes.literals[endOfBlock]
	w.put(end.bits(), end.length())
}

// codeLengths writes the lengths of both codes, in a code of its own with symbols for repetitions.
func (w *bitWriter) codeLengths(lengths []uint8) {
	type run struct {
		symbol, extra uint8
		bits          uint
	}
	var room [literalCodes + distanceCodes]run
	runs := room[:0]
	var freqs [codeLengthCodes]uint32
	add := func(symbol uint8, extra int, bits uint) {
		runs = append(runs, run{symbol, uint8(extra), bits})
		freqs[symbol]++
	}
	for i := 0; i < len(lengths); {
		l, n := lengths[i], 1
		for i+n < len(lengths) && lengths[i+n] == l {
			n++
		}
		i += n
		if l > 0 {
			add(l, 0, 0)
			n--
		}
		for n >= 3 {
			k := 0
			switch {
			case l > 0:
				k = min(n, 6)
				add(16, k-3, 2)
			case n <= 10:
				k = n
				add(17, k-3, 3)
			default:
				k = min(n, 138)
				add(18, k-11, 7)
			}
			n -= k
		}
		for range n {
			add(l, 0, 0)
		}
	}
	var own [codeLengthCodes]uint8
	var codes [codeLengthCodes]code
	codeLengths(own[:], freqs[:], maxCodeLengthCode)
	assignCodes(codes[:], own[:])
	n := codeLengthCodes
	for n > 4 && own[codeLengthOrder[n-1]] == 0 {
		n--
	}
	w.put(uint64(n-4), 4)
	for _, at := range codeLengthOrder[:n] {
		w.put(uint64(own[at]), 3)
	}
	for _, r := range runs {
		w.put(codes[r.symbol].bits(), codes[r.symbol].length())
		w.put(uint64(r.extra), r.bits)
	}
}

// body writes the symbols. For speed it writes all that fits into a word at once. Four literals take at most
// 56 bits, after at most 7 pending ones; a match takes 47, after at most 16. 64 bits would overflow the word.
// Up to 16 bits stay pending at the end.
func (w *bitWriter) body(in []byte, sequences []sequence, literals *[literalCodes]code,
	distances *[distanceCodes]code) {
	// The code of each length with its extra bits.
	var lengths [1 << (lengthBits - distanceBits)]code
	for l := minMatch; l <= maxMatch; l++ {
		symbol := lengthCode[l]
		c := literals[firstLength+int(symbol)]
		extra := code(uint16(l)-lengthBase[symbol]) << c.length()
		lengths[l] = c + extra + code(lengthExtra[symbol])<<codeBits
	}
	// A literal takes at most two bytes, a match six; writes are eight bytes long.
	room := slices.Grow(w.out, 2*len(in)+6*len(sequences)+16)
	out, at := room[:cap(room)], len(w.out)
	acc, n := w.bits, w.n
	for i := range len(sequences) + 1 {
		var s sequence
		text := in
		if i < len(sequences) {
			s = sequences[i]
			text = in[:s.literals]
			in = in[int(s.literals)+s.length():]
		}
		for ; len(text) >= 4; text = text[4:] {
			acc, n = literals[text[0]].after(acc, n)
			acc, n = literals[text[1]].after(acc, n)
			acc, n = literals[text[2]].after(acc, n)
			acc, n = literals[text[3]].after(acc, n)
			binary.LittleEndian.PutUint64(out[at:], acc)
			at += int(n >> 3)
			acc >>= n & 56
			n &= 7
		}
		for _, b := range text {
			acc, n = literals[b].after(acc, n)
		}
		if n > 16 {
			binary.LittleEndian.PutUint64(out[at:], acc)
			at += int(n >> 3)
			acc >>= n & 56
			n &= 7
		}
		if s.match == 0 { // only after the last sequence: a match has at least three bytes
			break
		}
		acc, n = lengths[s.match>>distanceBits&(1<<(lengthBits-distanceBits)-1)].after(acc, n)
		symbol := s.match >> lengthBits & 31
		acc, n = distances[symbol].after(acc, n)
		extra := distanceExtra[symbol]
		acc |= uint64(s.match&(1<<(extra&31)-1)) << (n & 63)
		n += uint(extra)
		binary.LittleEndian.PutUint64(out[at:], acc)
		at += int(n >> 3)
		acc >>= n & 56
		n &= 7
	}
	w.out, w.bits, w.n = out[:at], acc, n
}
