// How long to wait before the next try: exponential with full jitter, so that clients that lost the same node do not come back
// together.

import type { Random } from "./random.js";

export interface BackoffLimits {
  /** Ceiling of the first wait. */
  readonly firstMs: number;
  /** Ceiling of every wait. */
  readonly maxMs: number;
}

/** Counts tries and names the next wait. */
export class Backoff {
  /** How many waits were named since the last success. */
  attempt = 0;

  constructor(private readonly limits: BackoffLimits) {}

  /** Uniform in zero to `first * 2^attempt`, at most `max`. */
  next(random: Random): number {
    const ceiling = Math.min(this.limits.firstMs * 2 ** Math.min(this.attempt, 20), this.limits.maxMs);
    this.attempt += 1;
    return random.unit() * ceiling;
  }

  reset(): void {
    this.attempt = 0;
  }
}
