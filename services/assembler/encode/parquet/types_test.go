package parquet

import (
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"sheaf/events"
	"sheaf/services/assembler/encode"
)

// digitsOf draws a JSON number. Most are near a limit of a type.
func digitsOf(t *rapid.T) string {
	switch rapid.IntRange(0, 5).Draw(t, "sort") {
	case 0:
		return strconv.FormatInt(rapid.Int64().Draw(t, "int"), 10)
	case 1:
		return rapid.StringMatching(`-?[1-9][0-9]{14,20}`).Draw(t, "long")
	case 2:
		return strconv.FormatFloat(rapid.Float64().Draw(t, "float"), "efg"[rapid.IntRange(0, 2).Draw(t, "verb")], -1, 64)
	case 3:
		return rapid.SampledFrom([]string{"0", "-0", "-0.0", "0e999", "1e309", "1e-400", "5e-324", "2e-324", "1.7976931348623157e308",
			"9223372036854775807", "9223372036854775808", "-9223372036854775808", "-9223372036854775809", "9007199254740993", "850.0", "1E05",
			"999999999999999.99", "0.1234567890123456789", "1e999999999999999999999"}).Draw(t, "special")
	case 4:
		return rapid.StringMatching(`-?(0|[1-9][0-9]{0,16})\.[0-9]{1,4}`).Draw(t, "money")
	}
	return rapid.StringMatching(`-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?`).Draw(t, "any")
}

// ratOf is a slow and independent reading of a number; ok is false if its exponent is too large for a float64.
func ratOf(digits string) (*big.Rat, bool) {
	if before, after, found := strings.Cut(strings.ToLower(digits), "e"); found {
		if !strings.ContainsAny(before, "123456789") {
			return new(big.Rat), true
		}
		if e, err := strconv.Atoi(after); err != nil || e > 400 || e < -400 {
			return nil, false
		}
	}
	return new(big.Rat).SetString(digits)
}

// isDouble reports whether a number equals the shortest decimal of its float64.
func isDouble(digits string) bool {
	f, err := strconv.ParseFloat(digits, 64)
	if err != nil {
		return false
	}
	sent, ok := ratOf(digits)
	if !ok {
		return false
	}
	shortest, _ := new(big.Rat).SetString(strconv.FormatFloat(f, 'e', -1, 64))
	return sent.Cmp(shortest) == 0
}

// isDecimal reports whether a number is one of DECIMAL(18, 2), and returns it × 100.
func isDecimal(digits string) (int64, bool) {
	sent, ok := ratOf(digits)
	if !ok {
		return 0, false
	}
	sent.Mul(sent, big.NewRat(100, 1))
	if !sent.IsInt() || sent.Num().CmpAbs(big.NewInt(1_000_000_000_000_000_000)) >= 0 {
		return 0, false
	}
	return sent.Num().Int64(), true
}

// Any numbers get the narrowest type that loses nothing, in a column of type auto and in one of money.
func TestNumbersLoseNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		all := rapid.SliceOfN(rapid.Custom(digitsOf), 1, 5).Draw(rt, "numbers")
		money := rapid.Bool().Draw(rt, "money")
		ints, doubles, decimals := true, true, true
		var data []string
		for _, digits := range all {
			_, err := strconv.ParseInt(digits, 10, 64)
			ints = ints && err == nil && digits != "-0"
			doubles = doubles && isDouble(digits)
			_, ok := isDecimal(digits)
			decimals = decimals && ok
			data = append(data, `{"x":`+digits+`}`)
		}
		column := names("x")[0]
		if money {
			column = declared(events.Column{Key: "x", Type: events.ColumnNumber, Format: "0.00"})
		}
		_, file := write(t, sheetOf([]encode.Column{column}, cut(data, 2)...))
		kind := file.Schema().Fields()[0].Type()
		for i, row := range readAll(t, file) {
			v := row[0]
			switch want := all[i]; {
			case money && decimals:
				scaled, _ := isDecimal(want)
				require.Equal(rt, "DECIMAL(18,2)", kind.String())
				require.Equal(rt, scaled, v.Int64())
			case ints:
				require.Equal(rt, "INT(64,true)", kind.String())
				require.Equal(rt, want, strconv.FormatInt(v.Int64(), 10))
			case doubles:
				require.Equal(rt, parquet.DoubleType, kind)
				f, err := strconv.ParseFloat(want, 64)
				require.NoError(rt, err)
				require.Equal(rt, fmt.Sprint(f), fmt.Sprint(v.Double())) // -0 is not 0
			default:
				require.Equal(rt, "STRING", kind.String())
				require.Equal(rt, want, string(v.ByteArray()))
			}
		}
	})
}

// Any bytes are read without a panic, and numbers as math/big reads them.
func FuzzNumber(f *testing.F) {
	for _, s := range []string{"0", "-0", "1.50", "1e5", "1E-400", "123456789012345678901234567890", ".", "-", "1e", "e5", "1.2.3", "00.10"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, ok := parseDecimal([]byte(s))
		if v, isInt := parseInt([]byte(s)); isInt {
			require.True(t, ok)
			want, valid := new(big.Int).SetString(s, 10)
			require.True(t, valid)
			require.Equal(t, want.Int64(), v)
		}
		if sent, small := ratOf(s); ok && small && sent != nil {
			v, fits := d.scaled(2)
			want, exact := isDecimal(s)
			require.Equal(t, exact, fits)
			if fits {
				require.Equal(t, want, v)
			}
			_, double := d.float([]byte(s))
			require.Equal(t, isDouble(s), double, s)
		}
	})
}
