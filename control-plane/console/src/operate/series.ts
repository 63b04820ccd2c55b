// A node's figures over time, put together from what is asked for piece by piece. Pure.

import type { SeriesAnswer } from "./api.js";

/** Steps that are kept: as many as the control node keeps. */
const STEPS_MAX = 600;

/** Figures over time; a new value for each change. */
export class Series {
  static readonly empty = new Series([], {});

  private constructor(
    /** Unix time, ms; ascending. */
    readonly times: readonly number[],
    private readonly columns: Readonly<Record<string, readonly (number | null)[]>>,
  ) {}

  /** Asks for what follows. */
  get sinceMs(): number {
    return (this.times.at(-1) ?? -1) + 1;
  }

  /** One figure over time, with null where there was none. */
  column(name: string): readonly (number | null)[] {
    return this.columns[name] ?? this.times.map(() => null);
  }

  /** The newest value of a figure. */
  newest(name: string): number | undefined {
    return this.column(name).at(-1) ?? undefined;
  }

  /** With more steps behind it; what is older than the newest one already is left out, so that an answer may come twice. */
  with(answer: SeriesAnswer): Series {
    const from = answer.time_ms.findIndex((time) => time >= this.sinceMs);
    if (from < 0) return this;
    const more = answer.time_ms.slice(from);
    const drop = Math.max(0, this.times.length + more.length - STEPS_MAX);
    const join = <T>(before: readonly T[], after: readonly T[]) => [...before, ...after].slice(drop);
    const columns: Record<string, readonly (number | null)[]> = {};
    for (const [name, values] of Object.entries(answer)) {
      if (name !== "time_ms") columns[name] = join(this.column(name), values.slice(from));
    }
    return new Series(join(this.times, more), columns);
  }
}

/** Several series on one axis of time: for each time that any of them has, the value of each, or null. */
export function aligned(series: readonly Series[], name: string): [number[], ...(number | null)[][]] {
  const [only] = series;
  if (series.length === 1 && only !== undefined) {
    return [only.times.map((time) => time / 1_000), [...only.column(name)]];
  }
  // To the second: each is asked for at its own moment of it.
  const second = (time: number) => Math.round(time / 1_000);
  const seconds = [...new Set(series.flatMap(({ times }) => times.map(second)))].sort((a, b) => a - b);
  const columns = series.map((one) => {
    const values = new Map(one.times.map((time, index) => [second(time), one.column(name)[index] ?? null]));
    return seconds.map((at) => values.get(at) ?? null);
  });
  return [seconds, ...columns];
}

/** Values with nothing on either side, which no line leads through: each is a point. */
export function alone(values: ArrayLike<number | null | undefined>): number[] | null {
  const is = (at: number) => (values[at] ?? null) !== null;
  const found: number[] = [];
  for (let at = 0; at < values.length; at++) if (is(at) && !is(at - 1) && !is(at + 1)) found.push(at);
  return found.length > 0 ? found : null;
}
