// Asks again and again while somebody looks: what is shown is live, and a hidden tab costs nothing.

import { useEffect, useRef, useState } from "react";

import { words } from "../rest.js";

export interface Polled<T> {
  /** The newest answer; it stays while asking fails. */
  readonly value: T | undefined;
  /** Why the last question failed. */
  readonly error: string | undefined;
  /** Asks at once. */
  readonly refresh: () => void;
}

/**
 * Asks at once and then each `intervalMs` after the answer before. `ask` is given the value so far, and asked anew whenever `key` changes.
 */
export function usePolled<T>(
  key: string,
  intervalMs: number,
  ask: (before: T | undefined, signal: AbortSignal) => Promise<T>,
): Polled<T> {
  const [state, setState] = useState<{ key: string; value: T | undefined; error: string | undefined }>({
    key,
    value: undefined,
    error: undefined,
  });
  const [turn, setTurn] = useState(0);
  const asking = useRef(ask);
  asking.current = ask;
  const newest = useRef<T | undefined>(undefined);
  const of = useRef(key);
  // biome-ignore lint/correctness/useExhaustiveDependencies: a refresh asks anew
  useEffect(() => {
    const stop = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    let isAsking = false;
    if (of.current !== key) {
      of.current = key;
      newest.current = undefined;
    }
    const step = async () => {
      timer = undefined;
      isAsking = true;
      try {
        const value = await asking.current(newest.current, stop.signal);
        if (stop.signal.aborted) return;
        newest.current = value;
        setState({ key, value, error: undefined });
      } catch (failure) {
        if (stop.signal.aborted) return;
        setState({ key, value: newest.current, error: words(failure) });
      }
      isAsking = false;
      if (!document.hidden) timer = setTimeout(() => void step(), intervalMs);
    };
    const onVisible = () => {
      // A question that is on its way goes on by itself: two would both go on, for ever.
      if (!document.hidden && timer === undefined && !isAsking) void step();
    };
    document.addEventListener("visibilitychange", onVisible);
    void step();
    return () => {
      stop.abort();
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", onVisible);
    };
  }, [key, intervalMs, turn]);
  const current = state.key === key ? state : { value: undefined, error: undefined };
  return { value: current.value, error: current.error, refresh: () => setTurn(turn + 1) };
}
