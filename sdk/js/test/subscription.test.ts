// What a reader sees, answer by answer.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Code } from "../src/code.js";
import { Random } from "../src/engine/random.js";
import { type Mode, type QueueLimits, type Start, Subscription } from "../src/engine/subscription.js";
import { refused } from "../src/error.js";
import { Message, type Position } from "../src/event.js";
import type { HistoryClass, Recovery } from "../src/wire/frames.js";
import { describe } from "./support/bench.js";

const QUEUE = { messagesMax: 8, bytesMax: 1_000 };
const BACKOFF = { firstMs: 100, maxMs: 20_000 };
const NONE: Recovery = { kind: "none" };
const WHOLE: Recovery = { kind: "whole" };
const reload = (code: number): Recovery => ({ kind: "reload", code });
const at = (epoch: number, offset: number): Position => ({ epoch, offset });
const after = (position: Position): Start => ({ kind: "after", position });
const message = (position: Position) => new Message(position, 0, "", 1n, 1n, new Uint8Array(100), undefined);
const range = (from: number, to: number) => Array.from({ length: to - from }, (_, index) => at(1, from + index));

class Bench {
  readonly subscription: Subscription;
  readonly random = new Random(1n);
  now = 1_000;

  constructor(start: Start, queue: QueueLimits = QUEUE) {
    this.subscription = new Subscription(start, queue, BACKOFF);
  }

  /** Live behind offset 10 of epoch 1. */
  static live(): Bench {
    const bench = new Bench({ kind: "live" });
    bench.answer("read", at(1, 10), NONE);
    return bench;
  }

  answer(mode: Mode, head: Position, recovery: Recovery, history: HistoryClass = "durable"): void {
    this.subscription.subscribed(this.now, mode, { head, history, canPublish: true, recovery }, this.random);
  }

  push(...positions: Position[]): void {
    for (const position of positions) this.subscription.message(this.now, message(position), this.random);
  }

  skip(first: Position, last: Position): void {
    this.subscription.skipped(this.now, first, last, this.random);
  }

  page(positions: Position[], more: boolean): void {
    assert.ok(this.subscription.pageWanted(this.now));
    this.subscription.pageAsked(this.now);
    assert.equal(this.subscription.pageWanted(this.now), undefined, "one page at a time");
    this.subscription.page(positions.map(message), more);
  }

  after(): number | undefined {
    return this.subscription.pageWanted(this.now)?.after;
  }

  events(): string[] {
    const events: string[] = [];
    for (let event = this.subscription.pollEvent(); event; event = this.subscription.pollEvent()) {
      events.push(describe(event));
    }
    return events;
  }
}

test("each message comes once", () => {
  const bench = Bench.live();
  bench.push(at(1, 9), at(1, 10), at(1, 11), at(1, 11), at(1, 12), at(1, 11));
  assert.deepEqual(bench.events(), ["1/11", "1/12"]);
  assert.deepEqual(bench.subscription.start, after(at(1, 12)));
});

test("a gap is read from the history", () => {
  const bench = Bench.live();
  bench.push(at(1, 13));
  assert.deepEqual([bench.subscription.wanted, bench.after()], ["attach", 10]);
  bench.push(at(1, 14));
  bench.page([at(1, 11), at(1, 12), at(1, 13)], true);
  assert.equal(bench.subscription.wanted, "read", "there is room: the node sends the rest");
  assert.deepEqual(bench.subscription.start, after(at(1, 13)));
  bench.answer("read", at(1, 15), WHOLE);
  bench.push(at(1, 14), at(1, 15));
  assert.deepEqual(bench.events(), ["1/11", "1/12", "1/13", "1/14", "1/15"]);
});

// A node that leaves gaps without end is not asked without end.
test("gaps in a row are paced", () => {
  const check = (round: (bench: Bench, index: number) => void) => {
    const bench = Bench.live();
    const waits: number[] = [];
    for (let index = 2; index < 8; index++) {
      round(bench, index);
      const { retryAt } = bench.subscription;
      if (retryAt !== undefined) waits.push(retryAt - bench.now);
      bench.now += BACKOFF.maxMs;
      bench.page([], false);
      bench.events();
      bench.subscription.taken(1, 0);
    }
    assert.equal(waits.length, 5, "the first is asked for at once");
    assert.ok(Math.max(...waits) > BACKOFF.firstMs);
  };
  check((bench, index) => bench.push(at(1, index * 10)));
  check((bench, index) => bench.answer("read", at(1, index * 10), reload(Code.PositionTooOld)));
});

test("an old position is filled from the history", () => {
  const bench = new Bench(after(at(1, 2)));
  bench.answer("read", at(1, 50), reload(Code.PositionTooOld));
  assert.equal(bench.after(), 2);
  bench.page([at(1, 3)], true);
  bench.page([at(1, 4)], false);
  assert.deepEqual(bench.events(), ["1/3", "1/4"]);
  assert.deepEqual(bench.subscription.start, after(at(1, 4)));
});

test("a hole in the store is told", () => {
  let bench = new Bench(after(at(1, 2)));
  bench.answer("read", at(1, 50), reload(Code.PositionTooOld));
  bench.page([at(1, 40), at(1, 41)], false);
  assert.deepEqual(bench.events(), ["position-too-old 1/39", "1/40", "1/41"]);

  bench = new Bench(after(at(1, 2)));
  bench.answer("read", at(1, 50), reload(Code.PositionTooOld));
  bench.page([], false);
  assert.deepEqual(bench.events(), ["position-too-old 1/50"]);
  assert.deepEqual(bench.subscription.start, after(at(1, 50)));
});

test("lost history is told", () => {
  const check = (recovery: Recovery, ...expect: string[]) => {
    const bench = new Bench(after(at(1, 60)));
    bench.answer("read", at(2, 50), recovery);
    bench.push(at(2, 51));
    assert.deepEqual(bench.events(), expect);
  };
  check(reload(Code.EpochChanged), "epoch-changed 2/50", "2/51");
  check(reload(Code.PositionAhead), "position-ahead 2/50", "2/51");
  check(reload(4_399), "epoch-changed 2/50", "2/51");
  check(NONE, "epoch-changed 2/50", "2/51");

  const bench = Bench.live();
  bench.push(at(2, 9), at(2, 10), at(1, 11));
  assert.deepEqual(bench.events(), ["epoch-changed 2/8", "2/9", "2/10"]);
});

test("everything that is kept can be read", () => {
  let bench = new Bench({ kind: "after-offset", offset: 0 });
  assert.equal(bench.subscription.wanted, "attach");
  bench.answer("attach", at(3, 6), NONE);
  bench.page([at(1, 4), at(1, 5), at(3, 6)], false);
  assert.deepEqual(bench.events(), ["1/4", "1/5", "epoch-changed 3/5", "3/6"]);

  // From a place in the middle, what is missing is told.
  bench = new Bench({ kind: "after-offset", offset: 2 });
  bench.answer("attach", at(1, 6), NONE);
  bench.page([at(1, 4), at(1, 5), at(1, 6)], false);
  assert.deepEqual(bench.events(), ["position-too-old 1/3", "1/4", "1/5", "1/6"]);

  // An empty channel, and a place that does not exist yet.
  bench = new Bench({ kind: "after-offset", offset: 0 });
  bench.answer("attach", at(1, 0), NONE);
  bench.page([], false);
  assert.deepEqual(bench.subscription.start, after(at(1, 0)));
  bench = new Bench({ kind: "after-offset", offset: 9 });
  bench.answer("attach", at(1, 3), NONE);
  assert.deepEqual(bench.events(), ["position-ahead 1/3"]);
  assert.equal(bench.subscription.wanted, "read");
});

test("what the node skipped is told once", () => {
  const bench = Bench.live();
  bench.skip(at(1, 11), at(1, 13));
  bench.push(at(1, 14));
  bench.skip(at(1, 12), at(1, 14));
  bench.skip(at(1, 14), at(1, 16));
  assert.deepEqual(bench.events(), ["skipped 11 to 13", "1/14", "skipped 15 to 16"]);
  bench.skip(at(1, 19), at(1, 20));
  assert.deepEqual([bench.events(), bench.after()], [[], 16], "17 and 18 are missing without a word");
});

test("room is counted in messages and bytes", () => {
  let bench = Bench.live();
  bench.push(...range(11, 30));
  assert.equal(bench.events().length, 8);
  assert.equal(bench.subscription.pageWanted(bench.now), undefined);
  assert.ok(bench.subscription.takeStarved());
  assert.ok(!bench.subscription.takeStarved(), "told once");
  bench.subscription.taken(3, 300);
  assert.equal(bench.subscription.pageWanted(bench.now), undefined);
  bench.subscription.taken(1, 100);
  assert.deepEqual(bench.subscription.pageWanted(bench.now), { after: 18, messagesMax: 4 });

  bench = new Bench({ kind: "live" }, { messagesMax: 100, bytesMax: 250 });
  bench.answer("read", at(1, 0), NONE);
  bench.push(...range(1, 30));
  assert.equal(bench.events().length, 3, "the one that reaches the limit still goes");
  bench.subscription.taken(1, 100);
  assert.equal(bench.subscription.pageWanted(bench.now), undefined);
  bench.subscription.taken(1, 100);
  assert.deepEqual(bench.subscription.pageWanted(bench.now), { after: 3, messagesMax: 99 });
});

test("without history what has no room is dropped and told", () => {
  const bench = new Bench({ kind: "live" });
  bench.answer("read", at(1, 0), NONE, "none");
  for (let count = 0; count < 12; count++) bench.push(at(1, 0));
  assert.equal(bench.events().length, 8);
  assert.ok(bench.subscription.takeStarved());
  bench.subscription.taken(4, 400);
  bench.push(at(1, 0));
  assert.deepEqual(bench.events(), ["queue-full 4", "1/0"]);
  assert.deepEqual([bench.subscription.wanted, bench.subscription.start], ["read", { kind: "live" }]);
  bench.subscription.disconnected();
  bench.answer("read", at(1, 0), NONE, "none");
  assert.deepEqual(bench.events(), ["interrupted"]);
});

test("a change of rights is told and never piles up", () => {
  const bench = Bench.live();
  bench.subscription.noteCanPublish(true);
  bench.subscription.noteCanPublish(false);
  assert.deepEqual(bench.events(), ["canPublish false"]);
  for (let index = 0; index < 1_001; index++) bench.subscription.noteCanPublish(index % 2 === 0);
  assert.equal(bench.events().length, 7, "as many as have room");
  bench.subscription.taken(8, 0);
  assert.deepEqual(bench.events(), [], "the last that was told still holds");
});

test("a page that cannot be had is tried again or given up", () => {
  const bench = Bench.live();
  bench.push(at(1, 13));
  bench.subscription.pageAsked(bench.now);
  bench.subscription.pageRefused(bench.now, refused(Code.RateLimited, "", 3_000), bench.random);
  assert.equal(bench.subscription.pageWanted(bench.now), undefined);
  bench.now += 3_000;
  assert.equal(bench.after(), 10);
  bench.subscription.pageAsked(bench.now);
  bench.subscription.pageRefused(bench.now, refused(Code.NoHistory, ""), bench.random);
  assert.deepEqual(bench.events(), ["position-too-old 1/13"]);
  assert.equal(bench.subscription.wanted, "read");
});
