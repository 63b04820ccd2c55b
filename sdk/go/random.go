package millrace

import "math/bits"

// random is a small seeded generator for jitter and producer numbers: SplitMix64. The same seed gives the same run. No secret
// is drawn from it.
//
// Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, §4.
type random struct{ state uint64 }

func (r *random) next() uint64 {
	r.state += 0x9e37_79b9_7f4a_7c15
	z := r.state
	z = (z ^ (z >> 30)) * 0xbf58_476d_1ce4_e5b9
	z = (z ^ (z >> 27)) * 0x94d0_49bb_1331_11eb
	return z ^ (z >> 31)
}

// below is uniform enough in 0 to bound - 1; 0 if bound is 0.
func (r *random) below(bound uint64) uint64 {
	// The high half of a 128-bit product: no division, and a bias under bound / 2^64.
	high, _ := bits.Mul64(r.next(), bound)
	return high
}

// producer draws the number of a run of a sender, which is not 0.
func (r *random) producer() uint64 {
	for {
		if producer := r.next(); producer != 0 {
			return producer
		}
	}
}
