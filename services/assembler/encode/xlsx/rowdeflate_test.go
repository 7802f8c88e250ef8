package xlsx

import (
	"bytes"
	"compress/flate"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

type failer interface{ Fatalf(string, ...any) }

// inflates compresses xml, cut into pieces, with a rowDeflater and checks the result with an independent
// inflater.
func inflates(t failer, d *rowDeflater, xml []byte, last bool) (packed []byte, ok bool) {
	cut := len(xml) / 3
	packed, ok = d.deflate([]byte("before"), []piece{{xml[:cut], nil}, {xml[cut:], nil}}, last)
	if !bytes.HasPrefix(packed, []byte("before")) {
		t.Fatalf("existing bytes were lost")
	}
	if packed = packed[len("before"):]; !ok {
		if len(packed) > 0 {
			t.Fatalf("%d bytes of a block that is left to another", len(packed))
		}
		return nil, false
	}
	stream := packed
	if !last {
		stream = append(bytes.Clone(packed), 1, 0, 0, 0xff, 0xff) // the last block, empty
	}
	r := bytes.NewReader(stream)
	got, err := io.ReadAll(flate.NewReader(r))
	if err != nil || !bytes.Equal(got, xml) || r.Len() > 0 {
		t.Fatalf("%d bytes come back of %d, %d are left over: %v", len(got), len(xml), r.Len(), err)
	}
	return packed, true
}

// drawRows draws sheet XML of rows whose columns, kinds and values may or may not repeat.
func drawRows(t *rapid.T) []byte {
	var b strings.Builder
	columns := rapid.SampledFrom([]int{1, 3, 8, 20, 800}).Draw(t, "columns")
	number := rapid.SampledFrom([]int{1, 9, 98, 99_990, 1_048_570}).Draw(t, "first row")
	values := rapid.SliceOfN(rapid.OneOf(
		rapid.StringMatching(`[0-9]{1,18}(\.[0-9]{1,3})?`),
		rapid.StringMatching(`[a-z]{0,9}`),
		rapid.SampledFrom([]string{"", "北京", "2026-01-02 03:04:05", "_x000A_", "&lt;c r=", `r="`,
			strings.Repeat("7", 600), "\"><v>", "<t>"}),
	), 1, 12).Draw(t, "values")
	pick := rapid.IntRange(0, len(values)-1)
	for range rapid.IntRange(1, 20).Draw(t, "rows") {
		fmt.Fprintf(&b, `<row r="%d">`, number)
		for c := range columns {
			if columns < 100 && rapid.IntRange(0, 9).Draw(t, "null") == 0 {
				continue
			}
			v := values[(c+number)%len(values)]
			if columns < 100 {
				v = values[pick.Draw(t, "value")]
			}
			switch {
			case len(v) > 0 && v[0] <= '9' && v[0] >= '0':
				fmt.Fprintf(&b, `<c r="%s%d"><v>%s</v></c>`, columnName(c), number, v)
			case c%5 == 4:
				fmt.Fprintf(&b, `<c r="%s%d" t="b"><v>1</v></c>`, columnName(c), number)
			default:
				fmt.Fprintf(&b, `<c r="%s%d" t="inlineStr"><is><t>%s</t></is></c>`, columnName(c), number, v)
			}
		}
		b.WriteString(`</row>`)
		number++
	}
	return []byte(b.String())
}

// Rows survive compression, also if a block begins or ends anywhere in them or one byte is corrupt. A used
// deflater writes the same bytes as a new one.
func TestRowsInflate(t *testing.T) {
	t.Parallel()
	used := new(rowDeflater)
	rapid.Check(t, func(t *rapid.T) {
		xml := drawRows(t)
		xml = xml[rapid.IntRange(0, len(xml)-1).Draw(t, "begin"):]
		xml = xml[:rapid.IntRange(1, len(xml)).Draw(t, "end")]
		for range rapid.IntRange(0, 5).Draw(t, "changes") {
			at := rapid.IntRange(0, len(xml)-1).Draw(t, "at")
			xml[at] = rapid.SampledFrom([]byte("<>/\"crA9 \x00\xff")).Draw(t, "by")
		}
		last := rapid.Bool().Draw(t, "last")
		packed, ok := inflates(t, used, xml, last)
		fresh, freshOK := inflates(t, new(rowDeflater), xml, last)
		if ok != freshOK || !bytes.Equal(packed, fresh) {
			t.Fatalf("a used deflater gives other bytes")
		}
	})
}

func FuzzRowDeflater(f *testing.F) {
	f.Add([]byte(`<row r="9"><c r="A9"><v>8</v></c><c r="B9" t="inlineStr"><is><t>a</t></is></c></row><row r="10"><c r="A10"><v>9</v></c>`), false)
	f.Add([]byte(`<c r="A1"<c r="A1"<c r="A1"<c r="`), true)
	f.Add([]byte(`<row r="<row r="<row r="</t></is></t></is></v></c></v></c></row></row>`), true)
	f.Add([]byte("<<<<<<<<<>>>>>>>>>1111111111111111111111111111"), false)
	d := new(rowDeflater)
	f.Fuzz(func(t *testing.T, xml []byte, last bool) { inflates(t, d, xml, last) })
}

// Text is left to the general compressor, wherever in a block it is.
func TestMuchTextIsLeftToTheGeneralCompressor(t *testing.T) {
	t.Parallel()
	var numbers, texts strings.Builder
	for i := range 3000 {
		fmt.Fprintf(&numbers, `<row r="%d"><c r="A%[1]d"><v>%d</v></c><c r="B%[1]d"><v>%d</v></c></row>`, i+1,
			i*i, i*i*i)
		fmt.Fprintf(&texts, `<row r="%d"><c r="A%[1]d" t="inlineStr"><is><t>%x and more of %x</t></is></c></row>`, i+1, i*i*i*12345, i*i*54321)
	}
	for _, tc := range []struct {
		name, xml string
		own       bool
	}{
		{"numbers", numbers.String(), true},
		{"text", texts.String(), false},
		{"text after numbers", numbers.String()[:60_000] + texts.String(), false},
		{"a little text", numbers.String() + texts.String()[:8_000], true},
		{"nothing", "", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, ok := inflates(t, new(rowDeflater), []byte(tc.xml), false)
			require.Equal(t, tc.own, ok)
		})
	}
}

// More sequences than fit into one DEFLATE block, and literals so skewed that a code of 15 bits cannot fit
// them.
func TestRowsOfManySequencesAndOfSkewedLiterals(t *testing.T) {
	t.Parallel()
	var many strings.Builder
	for i := range 40_000 {
		fmt.Fprintf(&many, `<c r="A%d"><v>%d</v></c>`, i%7, i*7919%1000)
	}
	skewed := []byte(`<row r="1"><c r="A1"><v>`)
	for i, n := 0, 1; i < 10; i, n = i+1, n*3 {
		skewed = append(skewed, bytes.Repeat([]byte{'0' + byte(i)}, min(n, 9000))...)
	}
	for _, xml := range [][]byte{[]byte(many.String()), skewed} {
		_, ok := inflates(t, new(rowDeflater), xml, true)
		require.True(t, ok)
	}
}

// Codes are complete, as decoders demand, and within the limit; without a limit they are as short as
// Huffman's.
func TestCodeLengths(t *testing.T) {
	t.Parallel()
	complete := func(t failer, freqs []uint32, limit int) {
		lengths := make([]uint8, len(freqs))
		codeLengths(lengths, freqs, limit)
		space, used := 0, 0
		for i, l := range lengths {
			if (l > 0) != (freqs[i] > 0) || int(l) > limit {
				t.Fatalf("symbol %d of frequency %d has %d bits", i, freqs[i], l)
			}
			if l > 0 {
				space += 1 << (limit - int(l))
				used++
			}
		}
		if used > 1 && space != 1<<limit {
			t.Fatalf("the code of %d symbols fills %d of %d", used, space, 1<<limit)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		freqs := rapid.SliceOfN(rapid.OneOf(rapid.Just(uint32(0)), rapid.Uint32Range(0, 5),
			rapid.Uint32Range(0, 1<<18)), 19, literalCodes).Draw(t, "frequencies")
		complete(t, freqs, maxCodeLength)
		complete(t, freqs, maxLiteralLength)
		complete(t, freqs[:codeLengthCodes], maxCodeLengthCode)
	})
	fibonacci := []uint32{1, 1}
	for len(fibonacci) < 26 {
		fibonacci = append(fibonacci, fibonacci[len(fibonacci)-1]+fibonacci[len(fibonacci)-2])
	}
	complete(t, fibonacci, maxCodeLength)
	complete(t, fibonacci[:codeLengthCodes], maxCodeLengthCode)

	lengths := make([]uint8, 5)
	codeLengths(lengths, []uint32{5, 1, 0, 1, 2}, maxCodeLength)
	require.Equal(t, []uint8{1, 3, 0, 3, 2}, lengths)
}

// Codes and extra bits of every length survive: all literals and distances get the longest possible codes, in
// runs that end anywhere in a word.
func TestBlocksOfTheLongestCodesInflate(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(5, 6))
	dear := func(freqs []uint32) { // 1, 1, 2, 3, 5: each symbol's code is one bit longer than the next
		a, b := uint32(1), uint32(1)
		for _, i := range r.Perm(len(freqs)) {
			if freqs[i] = a; a < 1<<20 {
				a, b = b, a+b
			}
		}
	}
	for range 2000 {
		var w bitWriter
		var whole []byte
		for blocks := 1 + r.IntN(3); blocks > 0; blocks-- {
			begun := len(whole)
			var sequences []sequence
			literals := func(n int) {
				for range n {
					whole = append(whole, byte(r.IntN(256)))
				}
			}
			for range r.IntN(30) {
				n := r.IntN(7)
				switch {
				case len(whole) == 0:
					n++
				case r.IntN(40) == 0:
					n = 40_000
				}
				literals(n)
				distance := []int{1, 1 + r.IntN(min(len(whole), maxDistance)),
					min(len(whole), maxDistance)}[r.IntN(3)]
				length := []int{minMatch, minMatch + r.IntN(maxMatch-minMatch+1), 227 + r.IntN(30),
					maxMatch}[r.IntN(4)]
				sequences = append(sequences,
					newSequence(n, length, uint16(distance-1), distanceCode(uint16(distance-1))))
				for range length {
					whole = append(whole, whole[len(whole)-distance])
				}
			}
			literals(r.IntN(7))
			var symbols [literalCodes]uint32
			var distances [distanceCodes]uint32
			dear(symbols[:])
			dear(distances[:])
			w.dynamicBlock(whole[begun:], sequences, &symbols, &distances, blocks == 1)
		}
		w.align()
		rest := bytes.NewReader(w.out)
		got, err := io.ReadAll(flate.NewReader(rest))
		require.NoError(t, err)
		require.True(t, bytes.Equal(whole, got))
		require.Zero(t, rest.Len())
	}
}

// Matches beyond DEFLATE's maximum length are split without leaving a rest that is too short.
func TestLongMatchesInflate(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(7, 8))
	for length := 240; length <= 560; length++ {
		digits := make([]byte, length)
		for i := range digits {
			digits[i] = '0' + byte(r.IntN(10))
		}
		var xml strings.Builder
		for row := range 8 {
			fmt.Fprintf(&xml, `<row r="%d"><c r="A%[1]d" t="inlineStr"><is><t>%s</t></is></c><c r="B%[1]d"><v>%d</v></c></row>`, row+1, digits, r.IntN(1e9))
		}
		_, ok := inflates(t, new(rowDeflater), []byte(xml.String()), length%2 == 0)
		require.True(t, ok)
	}
}
