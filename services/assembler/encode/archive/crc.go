package archive

import "hash/crc32"

// CombineCRC returns the CRC-32 of A followed by B, from both CRCs and the length n of B.
//
// Without its initial and final complement, a CRC is the remainder of the message, times x^32, modulo the
// polynomial P over GF(2). Appending n bytes multiplies the remainder by x^(8n). The complements of the two
// parts cancel out: crc(AB) = crc(A)·x^(8n) + crc(B) mod P.
func CombineCRC(a, b uint32, n int64) uint32 {
	// Square and multiply over the bits of n. powers[i] is x^(8·2^i).
	for i := 0; n > 0; i, n = i+1, n>>1 {
		if n&1 != 0 {
			a = multiplyCRC(a, powers[i])
		}
	}
	return a ^ b
}

var powers = func() (p [63]uint32) {
	p[0] = 1 << (31 - 8) // x^8: CRC-32 keeps the coefficient of x^0 in the highest bit
	for i := 1; i < len(p); i++ {
		p[i] = multiplyCRC(p[i-1], p[i-1])
	}
	return p
}()

// multiplyCRC multiplies two polynomials modulo P.
func multiplyCRC(a, b uint32) (product uint32) {
	for m := uint32(1 << 31); m != 0; m >>= 1 { // x^0, x^1, ... of a
		if a&m != 0 {
			product ^= b
		}
		carry := b & 1
		b >>= 1 // b·x
		if carry != 0 {
			b ^= crc32.IEEE
		}
	}
	return product
}
