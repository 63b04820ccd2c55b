// All that the client takes from the platform, in one place: clocks, timers, chance, and news of the network and the page.
// Importing this touches nothing; using it does.

/** What a platform gives. Tests give something else. */
export interface Surroundings {
  /** Milliseconds of a steady clock. */
  now(): number;
  /** Milliseconds of Unix time. */
  unixMs(): number;
  /** Calls `then` after `ms`; returns what takes it back. */
  after(ms: number, then: () => void): () => void;
  /** 64 bits of chance. */
  seed(): bigint;
  /** Calls `woken` whenever connections may have changed their fate: network news, a page that is seen again. */
  watch(woken: () => void): () => void;
}

interface EventSource {
  addEventListener?(type: string, listener: () => void): void;
  removeEventListener?(type: string, listener: () => void): void;
}

/** Longest wait that timers of every platform take. */
const TIMER_MAX_MS = 2 ** 31 - 1;

export const platform: Surroundings = {
  now: () => performance.now(),
  unixMs: () => Date.now(),
  after(ms, then) {
    const timer = setTimeout(then, Math.min(Math.max(0, ms), TIMER_MAX_MS));
    return () => clearTimeout(timer);
  },
  seed() {
    const [high = 0, low = 0] = crypto.getRandomValues(new Uint32Array(2));
    return (BigInt(high) << 32n) | BigInt(low);
  },
  watch(woken) {
    const page = globalThis as EventSource & { document?: EventSource & { visibilityState?: string } };
    const seen = () => {
      if (page.document?.visibilityState !== "hidden") woken();
    };
    const listened: [EventSource | undefined, string, () => void][] = [
      [page, "online", woken],
      [page, "offline", woken],
      [page, "pageshow", woken],
      [page.document, "visibilitychange", seen],
      [page.document, "resume", woken],
    ];
    for (const [source, type, listener] of listened) source?.addEventListener?.(type, listener);
    return () => {
      for (const [source, type, listener] of listened) source?.removeEventListener?.(type, listener);
    };
  },
};
