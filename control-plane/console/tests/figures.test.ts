// Figures of nodes without a browser: series that go on, numbers in words.

import { expect, test } from "@playwright/test";

import { bytes, count, duration, microseconds, milliseconds, moment, percent } from "../src/operate/format.js";
import { aligned, alone, Series } from "../src/operate/series.js";

const answer = (times: readonly number[], sessions: readonly (number | null)[]) => ({ time_ms: times, sessions });

test("a series goes on where it ended, and stays bounded", () => {
  const first = Series.empty.with(answer([1_000, 2_000], [1, null]));
  expect([first.sinceMs, first.newest("sessions"), first.newest("other")]).toEqual([2_001, undefined, undefined]);
  // An answer that comes twice adds nothing.
  const next = first.with(answer([2_000, 3_000], [9, 3]));
  expect(next.times).toEqual([1_000, 2_000, 3_000]);
  expect(next.column("sessions")).toEqual([1, null, 3]);
  expect(next.with(answer([], []))).toBe(next);
  expect(next.with(answer([3_000], [4]))).toBe(next);
  let long = next;
  for (let step = 4; step < 900; step += 1) long = long.with(answer([step * 1_000], [step]));
  expect([long.times.length, long.times[0], long.newest("sessions")]).toEqual([600, 300_000, 899]);
  // A figure that came later has nothing for the time before.
  const more = next.with({ ...answer([4_000], [5]), cpu: [0.5] });
  expect(more.column("cpu")).toEqual([null, null, null, 0.5]);
});

test("series of several nodes share an axis", () => {
  const one = Series.empty.with(answer([1_100, 2_100], [1, 2]));
  const two = Series.empty.with(answer([1_900, 3_100], [3, 4]));
  expect(aligned([one], "sessions")).toEqual([
    [1.1, 2.1],
    [1, 2],
  ]);
  expect(aligned([one, two], "sessions")).toEqual([
    [1, 2, 3],
    [1, 2, null],
    [null, 3, 4],
  ]);
});

test("values that no line leads through are points", () => {
  const check = (values: readonly (number | null | undefined)[], wanted: readonly number[] | null) =>
    expect(alone(values)).toEqual(wanted);
  check([], null);
  check([1, 2, null, undefined], null);
  check([1], [0]);
  check([null, 1, null, 2, 3, null, 0], [1, 6]);
});

test("numbers are said in few digits", () => {
  const check = <T>(say: (value: T) => string, rows: readonly (readonly [T, string])[]) => {
    expect(rows.map(([value]) => say(value))).toEqual(rows.map(([, text]) => text));
  };
  check(count, [
    [null, "–"],
    [0, "0"],
    [7, "7"],
    [1.234, "1.23"],
    [12.34, "12.3"],
    [1_234.4, "1,234"],
    [234_567, "235k"],
    [2_345_678, "2.3M"],
  ]);
  check(bytes, [
    [undefined, "–"],
    [12, "12 B"],
    [1_536, "1.5 KiB"],
    [300 * 1_024 * 1_024, "300 MiB"],
  ]);
  check(percent, [
    [null, "–"],
    [0.126, "13 %"],
    [1.5, "150 %"],
  ]);
  check(milliseconds, [
    [0.126, "0.13 ms"],
    [12.34, "12.3 ms"],
    [123.4, "123 ms"],
    [1_234, "1.2 s"],
  ]);
  check(microseconds, [
    [12.4, "12 µs"],
    [1_500, "1.50 ms"],
  ]);
  check(duration, [
    [-5, "0 s"],
    [59_400, "59 s"],
    [60_000, "1 min"],
    [3_725_000, "1 h 2 min"],
    [90_061_000, "1 d 1 h"],
  ]);
  const noon = new Date(2_026, 10, 22, 12, 0, 5).getTime();
  expect(moment(noon, noon + 1_000)).toBe("12:00:05");
  expect(moment(noon, noon + 86_400_000)).toBe("22/11/2026 12:00:05");
});
