package parquet

import (
	"sheaf/events"
	"sheaf/services/assembler/encode"
	"sheaf/services/assembler/encode/cells"
)

// kind is the type of a column of the file.
type kind uint8

const (
	stringKind  kind = iota
	digitsKind       // STRING of numbers alone, with their digits as sent
	jsonKind         // JSON of every value
	boolKind         //
	intKind          // INT64
	doubleKind       //
	decimalKind      // DECIMAL(18, scale)
	dateKind         //
	momentKind       // TIMESTAMP(µs), a moment
	wallKind         // TIMESTAMP(µs), what clocks show
)

// precision is that of all DECIMAL columns: the most digits that an INT64 holds.
const precision = 18

// seen is what all values of a column have in common. Its zero value is that of no values.
type seen struct {
	kinds     uint16 // bit 1<<k for each cells.Kind that occurred
	notInt    bool   // a number is no INT64
	notDouble bool   // a number does not equal the shortest decimal of its float64
	decimals  int    // most digits after the decimal point of a number
	whole     int    // most digits before it
	wall      bool   // a Datetime has no zone
}

// add adds a cell.
func (s *seen) add(c *cells.Cell) {
	s.kinds |= 1 << c.Kind
	switch c.Kind {
	case cells.Number:
		s.number(c.Text)
	case cells.Datetime:
		s.wall = s.wall || !c.Zoned
	}
}

func (s *seen) number(raw []byte) {
	_, whole := parseInt(raw)
	if whole && len(raw) <= exactDigits {
		digits := len(raw)
		if raw[0] == '-' {
			digits--
		}
		s.whole = max(s.whole, digits)
		return
	}
	s.notInt = s.notInt || !whole
	d, _ := parseDecimal(raw)
	s.decimals, s.whole = max(s.decimals, -d.exp), max(s.whole, d.whole())
	if !s.notDouble {
		_, fits := d.float(raw)
		s.notDouble = !fits
	}
}

// has reports whether a kind of cell occurred.
func (s *seen) has(k cells.Kind) bool { return s.kinds&(1<<k) != 0 }

// only reports whether cells of that kind occurred, and no others but empty ones.
func (s *seen) only(k cells.Kind) bool { return s.kinds&^(1<<cells.Empty) == 1<<k }

// typeOf returns the type of a column, and the scale of a DECIMAL.
func (s *seen) typeOf(c *encode.Column) (k kind, scale int) {
	declared := events.ColumnAuto
	if c.Spec != nil && c.Spec.Type != "" {
		declared = c.Spec.Type
	}
	switch declared {
	case events.ColumnBool:
		return boolKind, 0
	case events.ColumnDate:
		return dateKind, 0
	case events.ColumnDatetime:
		if s.wall {
			return wallKind, 0
		}
		return momentKind, 0
	case events.ColumnJSON:
		return jsonKind, 0
	case events.ColumnNumber:
		_, scale = cells.Decimals(c.Spec.Format)
		if scale > 0 && scale < precision && s.decimals <= scale && s.whole+scale <= precision {
			return decimalKind, scale
		}
		if !s.has(cells.Number) {
			return doubleKind, 0
		}
		if k = s.numeric(); k == stringKind {
			k = digitsKind
		}
		return k, 0
	case events.ColumnAuto:
		switch {
		case s.only(cells.Number):
			return s.numeric(), 0
		case s.only(cells.Bool):
			return boolKind, 0
		case s.only(cells.JSON):
			return jsonKind, 0
		}
	}
	return stringKind, 0
}

// numeric is the type of a column of numbers.
func (s *seen) numeric() kind {
	switch {
	case !s.notInt:
		return intKind
	case !s.notDouble:
		return doubleKind
	}
	return stringKind
}
