// The outbox against a channel that checks sequences, over connections that break anywhere.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Code } from "../src/code.js";
import { type GivenUp, Outbox } from "../src/engine/outbox.js";
import { Random } from "../src/engine/random.js";

const LINGER = 60_000;
const LIMITS = { firstMs: 100, maxMs: 20_000 };
const text = (bytes: Uint8Array) => Buffer.from(bytes).toString();

class Bench {
  readonly random = new Random(1n);
  readonly outbox = new Outbox(1n, LIMITS);
  now = 1_000;

  fill(from: number, to: number, deadline?: number): void {
    for (let ticket = from; ticket < to; ticket++) {
      this.outbox.push(ticket, new TextEncoder().encode(`${ticket}`), deadline);
    }
  }

  /** Sends everything that is ready: sequence and body of each. */
  send(now = this.now): string[] {
    const sent: string[] = [];
    for (let next = this.outbox.sendNext(now); next !== undefined; next = this.outbox.sendNext(now)) {
      sent.push(`${next.sequence}: ${text(next.body)}`);
    }
    return sent;
  }

  refuse(sequence: number, code: number, retryAfterMs = 0): GivenUp | undefined {
    const givenUp = this.outbox.refused(this.now, sequence, code, retryAfterMs, this.random);
    this.outbox.answered(this.now, this.random);
    return givenUp;
  }

  acknowledge(sequence: number): number | undefined {
    const ticket = this.outbox.acknowledged(this.outbox.producer, sequence);
    this.outbox.answered(this.now, this.random);
    return ticket;
  }

  disconnect(): void {
    this.outbox.disconnected(this.now, LINGER, this.random);
  }
}

test("a refusal for good leaves no gap", () => {
  const bench = new Bench();
  bench.fill(1, 5);
  assert.deepEqual(bench.send(), ["1: 1", "2: 2", "3: 3", "4: 4"]);
  assert.equal(bench.acknowledge(1), 1);
  assert.deepEqual(bench.refuse(2, Code.TooLarge), { ticket: 2, uncertain: false });
  bench.fill(5, 6);
  assert.deepEqual(bench.send(), [], "answers to 3 and 4 are under way");
  assert.equal(bench.refuse(3, Code.OutOfOrder), undefined);
  assert.equal(bench.refuse(4, Code.Blocked), undefined);
  assert.deepEqual(bench.send(bench.now + LIMITS.firstMs), ["2: 3", "3: 4", "4: 5"]);
});

test("a pause is kept and everything after goes again", () => {
  const bench = new Bench();
  bench.fill(1, 4);
  bench.send();
  assert.equal(bench.refuse(1, Code.RateLimited, 3_000), undefined);
  bench.refuse(2, Code.Blocked);
  bench.refuse(3, Code.Blocked);
  assert.equal(bench.outbox.resumeAt, bench.now + 3_000);
  assert.deepEqual(bench.send(bench.now + 2_999), []);
  // A node that has enough gets few at first, and more with each that it takes.
  bench.now += 3_000;
  assert.deepEqual(bench.send(), ["1: 1"]);
  assert.equal(bench.acknowledge(1), 1);
  assert.deepEqual(bench.send(), ["2: 2", "3: 3"]);
});

// Stored, its acknowledgement lost, then refused for good: its number must not be given to another message, which the channel
// would take for a duplicate.
test("a number that may be stored is not given again", () => {
  const bench = new Bench();
  const { producer } = bench.outbox;
  bench.fill(1, 3);
  bench.send();
  bench.disconnect();
  bench.send();
  assert.deepEqual(bench.refuse(1, Code.Archived), { ticket: 1, uncertain: true });
  assert.deepEqual(bench.refuse(2, Code.Archived), { ticket: 2, uncertain: true });
  bench.fill(3, 4);
  assert.deepEqual(bench.send(), ["3: 3"]);
  // 1 and 2 may still come from the first connection, and 3 behind them.
  bench.refuse(3, Code.OutOfOrder);
  bench.now += LIMITS.firstMs;
  assert.deepEqual(bench.send(), ["3: 3"]);
  bench.refuse(3, Code.OutOfOrder);
  bench.now += LINGER;
  assert.deepEqual(bench.send(), ["3: 3"]);
  bench.refuse(3, Code.OutOfOrder);
  assert.notEqual(bench.outbox.producer, producer);
  assert.deepEqual(bench.send(bench.now + LIMITS.maxMs), ["1: 3"]);
});

// 2 is refused for good, then the connection breaks: a late 3 must not follow a 2 that was given to the third message.
test("a straggler is not stored twice", () => {
  const bench = new Bench();
  const { producer } = bench.outbox;
  bench.fill(1, 4);
  bench.send();
  assert.ok(bench.refuse(2, Code.TooLarge));
  bench.disconnect();
  assert.deepEqual(bench.send(), ["1: 1"], "1 may be stored under its number");
  bench.acknowledge(1);
  assert.notEqual(bench.outbox.producer, producer);
  assert.deepEqual(bench.send(), ["1: 3"]);
});

// "Out of order" is as old as its request: a straggler may have been stored while the answer waited to be read.
test("a late answer is no news", () => {
  const bench = new Bench();
  const { producer } = bench.outbox;
  bench.fill(1, 3);
  bench.send();
  bench.disconnect();
  bench.send();
  bench.now += LINGER;
  assert.ok(bench.refuse(1, Code.Archived));
  bench.refuse(2, Code.OutOfOrder);
  assert.equal(bench.outbox.producer, producer);
  assert.deepEqual(bench.send(bench.now + LIMITS.maxMs), ["2: 2"]);
});

// A channel that takes a number has all before it.
test("what a later number proves stored keeps its number", () => {
  const bench = new Bench();
  bench.fill(1, 3);
  bench.send();
  bench.disconnect();
  bench.fill(3, 4);
  bench.send();
  assert.ok(bench.refuse(1, Code.Archived));
  bench.refuse(2, Code.OutOfOrder);
  // Meanwhile 1 and 2 came from the first connection.
  assert.equal(bench.acknowledge(3), 3);
  assert.deepEqual(bench.send(), ["2: 2"]);
});

test("a producer that was forgotten begins anew", () => {
  const bench = new Bench();
  const { producer } = bench.outbox;
  bench.fill(1, 4);
  bench.send();
  bench.acknowledge(1);
  bench.refuse(2, Code.OutOfOrder);
  bench.refuse(3, Code.OutOfOrder);
  assert.notEqual(bench.outbox.producer, producer);
  assert.equal(bench.outbox.acknowledged(producer, 2), undefined, "of the earlier producer");
  assert.deepEqual(bench.send(bench.now + LIMITS.firstMs), ["1: 2", "2: 3"]);
});

// A message whose fate is unknown is refused, which bars those behind it, and is given up.
test("a session that bars for a message given up is left", () => {
  const bench = new Bench();
  bench.fill(1, 2, bench.now + LINGER);
  bench.fill(2, 3);
  bench.send();
  bench.disconnect();
  bench.send();
  bench.refuse(1, Code.Busy);
  bench.refuse(2, Code.Blocked);
  assert.ok(!bench.outbox.takeStuck(), "the first is tried again");
  bench.now += LINGER;
  assert.deepEqual(bench.outbox.expire(bench.now, bench.random), { ticket: 1, uncertain: true });
  assert.deepEqual(bench.send(), ["2: 2"]);
  bench.refuse(2, Code.Blocked);
  assert.ok(bench.outbox.takeStuck());
  bench.disconnect();
  assert.deepEqual(bench.send(bench.now + LIMITS.maxMs), ["2: 2"]);
});

test("time passes for sent and unsent messages", () => {
  const bench = new Bench();
  const { outbox, now, random } = bench;
  bench.fill(1, 3, now);
  bench.fill(3, 4, now + 1_000);
  outbox.sendNext(now);
  assert.deepEqual(outbox.expire(now, random), { ticket: 1, uncertain: true });
  assert.deepEqual(outbox.expire(now, random), { ticket: 2, uncertain: false });
  assert.equal(outbox.expire(now, random), undefined);
  assert.deepEqual(bench.send(), [], "the answer to 1 is under way");
  assert.equal(bench.acknowledge(1), undefined);
  assert.deepEqual(bench.send(), ["2: 3"]);
  assert.equal(outbox.oldestSent, now);
  assert.deepEqual(outbox.giveUpNext(), { ticket: 3, uncertain: true });
  assert.equal(outbox.giveUpNext(), undefined);
});

interface Frame {
  producer: bigint;
  sequence: number;
  ticket: number;
}

/** A channel home: takes `last + 1`, knows duplicates, refuses the rest. */
class Home {
  private readonly last = new Map<bigint, number>();
  readonly stored: number[] = [];

  offer({ producer, sequence, ticket }: Frame): number | undefined {
    const last = this.last.get(producer) ?? 0;
    if (sequence > last + 1) return Code.OutOfOrder;
    if (sequence === last + 1) {
      this.last.set(producer, sequence);
      this.stored.push(ticket);
    }
    return undefined;
  }
}

const REFUSALS = [
  Code.RateLimited,
  Code.Busy,
  Code.Unavailable,
  Code.UnknownOutcome,
  Code.TooLarge,
  Code.Archived,
  Code.ReadOnly,
];

// Whatever is refused, lost, taken back or given up: what is acknowledged is stored once and in order, what was certainly not
// stored is not, and in the end everything left goes through.
function runOnce(seed: number): void {
  const dice = new Random(BigInt(seed) * 7_919n + 1n);
  const bench = new Bench();
  const { outbox, random } = bench;
  const home = new Home();
  let wire: Frame[] = [];
  let answers: { frame: Frame; code: number | undefined }[] = [];
  let stragglers: { until: number; frames: Frame[] }[] = [];
  let pushed = 0;
  const acknowledged: number[] = [];
  const refused: GivenUp[] = [];
  const send = (count: number) => {
    for (; count > 0; count--) {
      const next = outbox.sendNext(bench.now);
      if (next === undefined) break;
      wire.push({ producer: next.producer, sequence: next.sequence, ticket: Number(text(next.body)) });
    }
  };
  const serve = (refuse: number, code: number) => {
    for (const [index, frame] of wire.entries()) {
      const isRefused = index < 16 && (refuse & (1 << index)) !== 0;
      let answer = isRefused && code !== Code.UnknownOutcome ? code : home.offer(frame);
      if (isRefused) answer ??= Code.UnknownOutcome;
      answers.push({ frame, code: answer });
    }
    wire = [];
  };
  const answer = (count: number, swap: boolean) => {
    for (; count > 0; count--) {
      const next = swap ? answers.pop() : answers.shift();
      if (next === undefined) break;
      const { producer, sequence } = next.frame;
      if (next.code === undefined) {
        const ticket = outbox.acknowledged(producer, sequence);
        if (ticket !== undefined) acknowledged.push(ticket);
      } else {
        const givenUp = outbox.refused(bench.now, sequence, next.code, 0, random);
        if (givenUp !== undefined) refused.push(givenUp);
      }
      outbox.answered(bench.now, random);
    }
  };
  const disconnect = () => {
    // The channel may have read what was sent, or reads it later, or never.
    const fate = dice.below(3);
    if (fate === 0) for (const frame of wire) home.offer(frame);
    if (fate === 1) stragglers.push({ until: bench.now + LINGER, frames: wire });
    wire = [];
    answers = [];
    bench.disconnect();
  };
  const step = () => {
    const choice = dice.below(21);
    if (choice < 4) {
      pushed += 1;
      bench.fill(pushed, pushed + 1, bench.now + 600_000);
    } else if (choice < 8) send(1 + dice.below(5));
    else if (choice < 11) serve(dice.below(65_536) & dice.below(65_536), REFUSALS[dice.below(7)] as number);
    else if (choice < 15) answer(1 + dice.below(7), dice.below(2) === 0);
    else if (choice < 17) disconnect();
    else if (choice < 19) {
      stragglers = stragglers.filter(({ until }) => bench.now < until);
      for (const frame of stragglers.shift()?.frames ?? []) home.offer(frame);
    } else if (choice < 20) {
      const givenUp = outbox.cancel(1 + dice.below(pushed + 1), bench.now, random);
      if (givenUp !== undefined) refused.push(givenUp);
    } else {
      bench.now += 300_000;
      for (let late = outbox.expire(bench.now, random); late; late = outbox.expire(bench.now, random)) {
        refused.push(late);
      }
    }
  };
  for (let steps = dice.below(80); steps > 0; steps--) {
    bench.now += 5_000;
    step();
  }
  disconnect();
  for (let round = 0; round < 300; round++) {
    bench.now += 5_000;
    [() => send(99), () => serve(0, 0), () => answer(99, false)][round % 3]?.();
  }
  assert.ok(outbox.isEmpty, "something is left");
  assert.equal(new Set(home.stored).size, home.stored.length, `stored twice: ${home.stored}`);
  // What was given up with an unknown fate may come late.
  const confirmed = home.stored.filter((ticket) => acknowledged.includes(ticket));
  assert.deepEqual(
    confirmed,
    [...confirmed].sort((a, b) => a - b),
    `reordered: ${home.stored}`,
  );
  for (const ticket of acknowledged) assert.ok(home.stored.includes(ticket), `${ticket} is acknowledged, not stored`);
  for (const { ticket, uncertain } of refused) {
    assert.ok(uncertain || !home.stored.includes(ticket), `${ticket} is refused and stored`);
  }
  const ended = [...acknowledged, ...refused.map(({ ticket }) => ticket)].sort((a, b) => a - b);
  assert.deepEqual(
    ended,
    Array.from({ length: pushed }, (_, index) => index + 1),
  );
}

test("every message is stored once, in order", () => {
  const only = process.env.MILLRACE_SEED;
  const seeds = only === undefined ? Array.from({ length: 4_000 }, (_, seed) => seed) : [Number(only)];
  for (const seed of seeds) {
    try {
      runOnce(seed);
    } catch (cause) {
      throw new Error(`failed with MILLRACE_SEED=${seed}`, { cause });
    }
  }
});
