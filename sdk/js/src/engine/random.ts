// SplitMix64: fast, seeded, and good enough to spread waits and to draw producers.

const GAMMA = 0x9e37_79b9_7f4a_7c15n;

export class Random {
  private state: bigint;

  constructor(seed: bigint) {
    this.state = BigInt.asUintN(64, seed);
  }

  next(): bigint {
    this.state = BigInt.asUintN(64, this.state + GAMMA);
    let z = this.state;
    z = BigInt.asUintN(64, (z ^ (z >> 30n)) * 0xbf58_476d_1ce4_e5b9n);
    z = BigInt.asUintN(64, (z ^ (z >> 27n)) * 0x94d0_49bb_1331_11ebn);
    return z ^ (z >> 31n);
  }

  /** Uniform in zero to one, one excluded. */
  unit(): number {
    return Number(this.next() >> 11n) / 2 ** 53;
  }

  /** Uniform enough in `0..bound`; 0 if `bound` is 0. */
  below(bound: number): number {
    return Math.floor(this.unit() * bound);
  }

  /** A producer: not 0. */
  producer(): bigint {
    for (;;) {
      const number = this.next();
      if (number !== 0n) return number;
    }
  }
}
