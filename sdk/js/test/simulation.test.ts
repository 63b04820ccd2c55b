// The engine against a model of a node, over connections that break at any frame. Each seed is one run; a failure names it:
// MILLRACE_SEED=N runs it alone.

import assert from "node:assert/strict";
import { test } from "node:test";

import { type Action, type Config, Engine, type Result } from "../src/engine/engine.js";
import { Random } from "../src/engine/random.js";
import type { Start } from "../src/engine/subscription.js";
import { disconnected, refused } from "../src/error.js";
import { bytesOf, type ChannelEvent, type Position, type Receipt } from "../src/event.js";
import { config } from "./support/bench.js";
import { type Faults, HEARTBEAT_MS, head, ModelNode, NO_FAULTS, TOKEN } from "./support/model.js";

const NAMES = ["general", "news"] as const;
type Name = (typeof NAMES)[number];
/** Frames that a connection takes before it is full. */
const PIPE_FRAMES = 6;
const QUEUE = { messagesMax: 8, bytesMax: 4_096 };

/** A reader of one channel and what it has seen. */
class Reader {
  isOpen = false;
  inbox: ChannelEvent[] = [];
  taken = { events: 0, bytes: 0 };
  starved = false;
  resets = 0;
  messages = 0;
  /** Tickets that came with this client's own messages. */
  own = new Set<number>();

  constructor(
    readonly name: Name,
    readonly key: number,
    readonly ticket: number,
    /** Behind the last event. */
    public position: Position | undefined,
    /** It began with the oldest message, whichever that is. */
    public fromOldest: boolean,
  ) {}

  see(event: ChannelEvent, node: ModelNode, mayReset: boolean): void {
    const at = this.position as Position;
    switch (event.type) {
      case "message": {
        const { position, body, ticket } = event.message;
        const expected = this.fromOldest ? position.offset : at.offset + 1;
        this.fromOldest = false;
        assert.equal(position.offset, expected, `${this.name}: behind ${at.epoch}/${at.offset}`);
        const stored = node.channel(this.name).stored[expected - 1];
        assert.deepEqual(Buffer.from(body), Buffer.from(stored?.body ?? []));
        if (ticket !== undefined) {
          assert.equal(Buffer.from(body).toString(), `${ticket}`, "a message of our own has its own ticket");
          this.own.add(ticket);
        }
        this.position = position;
        this.messages += 1;
        break;
      }
      case "skipped":
        assert.equal(event.skipped.kind, "slow-consumer");
        if (event.skipped.kind !== "slow-consumer") return;
        assert.equal(event.skipped.first.offset, at.offset + 1);
        this.position = event.skipped.last;
        break;
      case "reset": {
        const { position } = event;
        assert.ok(mayReset, `reset to ${position.offset} from ${at.offset} for ${event.reason}`);
        assert.ok(position.epoch > at.epoch || position.offset > at.offset, `${at.offset} to ${position.offset}`);
        this.fromOldest = false;
        this.position = position;
        this.resets += 1;
        break;
      }
      default:
        assert.fail(event.type);
    }
  }
}

class World {
  readonly random: Random;
  now = 1_000_000;
  readonly engine: Engine;
  readonly node: ModelNode;
  /** Frames on their way to the node; `undefined` without a connection. */
  pipe: Uint8Array[] | undefined;
  /** What earlier connections left, and until when it may arrive. */
  stragglers: { until: number; frames: Uint8Array[] }[] = [];
  readers: Reader[] = [];
  readonly senders = new Map<Name, number>();
  tickets = 0;
  /** By ticket: where it was sent, and its end. */
  readonly sends = new Map<number, { name: Name; key: number; end: Result<Receipt> | undefined }>();
  connects = 0;
  canceled = 0;

  constructor(
    seed: number,
    faults: Faults,
    readonly mayReset: boolean,
    readonly mayCancel: boolean,
  ) {
    this.random = new Random(BigInt(seed));
    // In one run of three, messages are given up after a while.
    const changes: Partial<Config> = {
      queue: QUEUE,
      requestTimeoutMs: 600_000,
      sendTimeoutMs: seed % 3 === 2 ? 5_000 : undefined,
    };
    this.engine = new Engine(config(changes), this.random.next(), this.now, 1_700_000_000_000);
    this.engine.start(this.now);
    this.node = new ModelNode(this.random.next());
    this.node.faults = faults;
  }

  below(bound: number): number {
    return this.random.below(bound);
  }

  name(): Name {
    return NAMES[this.below(2)] as Name;
  }

  ticket(): number {
    this.tickets += 1;
    return this.tickets;
  }

  read(name: Name, start: Start): void {
    const ticket = this.ticket();
    const key = this.engine.open(this.now, name, start, ticket);
    const { epoch } = this.node.channel(name);
    const position =
      start.kind === "live" ? undefined : start.kind === "after" ? start.position : { epoch, offset: start.offset };
    this.readers = this.readers.filter((reader) => reader.name !== name);
    const fromOldest = start.kind === "after-offset" && start.offset === 0;
    this.readers.push(new Reader(name, key, ticket, position, fromOldest));
    this.settle();
  }

  /** The application drops a reader and opens another. */
  readAgain(): void {
    const { key, name, ticket, isOpen } = this.readers[this.below(2)] as Reader;
    if (isOpen) {
      this.engine.release(this.now, key, "reader");
      this.engine.release(this.now, key, "sender");
    } else {
      this.engine.abandon(this.now, ticket);
    }
    if (this.below(2) === 0) this.settle();
    const { epoch, offset } = head(this.node.channel(name));
    const place = { epoch, offset: this.below(Number(offset) + 1) };
    const starts: Start[] = [{ kind: "live" }, { kind: "after-offset", offset: 0 }, { kind: "after", position: place }];
    this.read(name, starts[this.below(3)] as Start);
  }

  send(): void {
    const name = this.name();
    const ticket = this.ticket();
    let key = this.senders.get(name);
    if (key === undefined) {
      key = this.engine.open(this.now, name, undefined, this.ticket());
      this.senders.set(name, key);
    }
    this.sends.set(ticket, { name, key, end: undefined });
    this.engine.send(this.now, key, ticket, new TextEncoder().encode(`${ticket}`));
    this.settle();
  }

  cancel(): void {
    const open = [...this.sends].filter(([, { end }]) => end === undefined);
    const [ticket, sending] = open[this.below(open.length)] ?? [];
    if (ticket === undefined || sending === undefined) return;
    this.canceled += 1;
    this.engine.cancelSend(this.now, sending.key, ticket, disconnected("the application gave it up"));
    this.settle();
  }

  /** Does what the engine asks, and fills the pipe. */
  settle(): void {
    for (let round = 0; round < 1_000; round++) {
      for (let at = this.engine.nextTimeout(); at !== undefined && at <= this.now; at = this.engine.nextTimeout()) {
        this.engine.handleTimeout(this.now);
      }
      const actions = this.engine.pollActions();
      for (const action of actions) this.act(action);
      while (this.pipe !== undefined && this.pipe.length < PIPE_FRAMES) {
        const frame = this.engine.pollTransmit(this.now);
        if (frame === undefined) break;
        this.pipe.push(frame);
      }
      if (actions.length === 0) return;
    }
    assert.fail("the engine never rests");
  }

  act(action: Action): void {
    switch (action.type) {
      case "fetchToken":
        return this.engine.handleToken(this.now, { ok: TOKEN });
      case "connect":
        this.connects += 1;
        if (this.below(4) === 0) return this.engine.handleDisconnected(this.now, disconnected("no route"));
        this.node.accept();
        this.pipe = [];
        return this.engine.handleConnected(this.now);
      case "disconnect":
        return this.cut();
      case "deliver": {
        const reader = this.reader(action.key);
        reader.inbox.push(action.event);
        assert.ok(reader.inbox.length <= QUEUE.messagesMax + 3, `${reader.inbox.length} events wait`);
        return;
      }
      case "starved":
        this.reader(action.key).starved = true;
        return;
      case "opened": {
        assert.ok("ok" in action.result);
        const reader = this.readers.find((reader) => reader.ticket === action.ticket);
        if (reader === undefined) return;
        reader.isOpen = true;
        reader.position ??= action.result.ok.position;
        return;
      }
      case "sent": {
        const sending = this.sends.get(action.ticket);
        assert.ok(sending !== undefined && sending.end === undefined, `message ${action.ticket} has two ends`);
        sending.end = action.result;
        return;
      }
      case "page":
        return assert.fail("no page was asked for");
      case "state":
        assert.notEqual(action.state.kind, "closed");
        return;
      case "warning":
        return;
    }
  }

  reader(key: number): Reader {
    const reader = this.readers.find((reader) => reader.key === key);
    assert.ok(reader);
    return reader;
  }

  /** The connection is gone. Of what was on its way, the node gets nothing, a part now, or a part later. */
  cut(): void {
    if (this.pipe === undefined) return;
    const frames = this.pipe.slice(0, this.below(this.pipe.length + 1));
    this.pipe = undefined;
    if (this.below(2) === 0) for (const frame of frames) this.node.straggle(frame);
    else this.stragglers.push({ until: this.now + HEARTBEAT_MS * 2, frames });
    this.node.session.clear();
  }

  /** The application takes up to `count` events of each reader and checks them. */
  take(count: number): void {
    for (const reader of this.readers) {
      for (const event of reader.inbox.splice(0, count)) {
        reader.taken.events += 1;
        reader.taken.bytes += bytesOf(event);
        reader.see(event, this.node, this.mayReset);
      }
      const isHalf = reader.inbox.length * 2 <= QUEUE.messagesMax;
      if (reader.taken.events > 2 || (reader.starved && isHalf)) {
        if (isHalf) reader.starved = false;
        const { events, bytes } = reader.taken;
        reader.taken = { events: 0, bytes: 0 };
        this.engine.taken(this.now, reader.key, events, bytes);
        this.settle();
      }
    }
  }

  serve(count: number): void {
    for (let served = 0; served < count; served++) {
      const frame = this.pipe?.shift();
      if (frame === undefined) break;
      this.node.receive(frame);
      const { closing } = this.node;
      if (closing === undefined) continue;
      for (const said of this.node.out.splice(0)) this.engine.handleFrame(this.now, said);
      this.pipe = undefined;
      this.engine.handleDisconnected(this.now, refused(closing, ""));
      break;
    }
    this.settle();
  }

  hear(count: number): void {
    for (let heard = 0; heard < count && this.pipe !== undefined; heard++) {
      const frame = this.node.out.shift();
      if (frame === undefined) break;
      this.engine.handleFrame(this.now, frame);
      this.settle();
    }
  }

  advance(byMs: number): void {
    this.now += byMs;
    this.stragglers = this.stragglers.filter(({ until }) => this.now < until);
    this.settle();
  }

  step(): void {
    const dice = this.below(100);
    if (dice < 20) this.send();
    else if (dice < 30) this.node.publish(this.name(), "other");
    else if (dice < 50) this.serve(this.below(4));
    else if (dice < 70) this.hear(this.below(6));
    else if (dice < 84) this.take(this.below(6));
    else if (dice < 85) {
      if (this.mayCancel) this.cancel();
      else this.take(1);
    } else if (dice < 91) this.advance(this.below(400));
    else if (dice < 92) {
      this.engine.handleWake(this.now, 1_700_000_000_000 + this.now);
      this.settle();
    } else if (dice < 94) {
      for (const frame of this.stragglers.shift()?.frames ?? []) this.node.straggle(frame);
    } else if (dice < 96) this.node.ping();
    else if (dice < 97) {
      if (this.node.isWelcomed) this.node.goAway(this.below(2_000));
    } else if (dice < 98) {
      if (this.below(2) === 0) this.readAgain();
      else this.advance(this.below(40_000));
    } else if (dice < 99 && this.mayReset) {
      const channel = this.node.channel(this.name());
      if (this.below(2) === 0) channel.epoch += 1;
      else channel.oldest = Math.max(channel.oldest, channel.stored.length - this.below(4));
    } else {
      this.cut();
      this.engine.handleDisconnected(this.now, disconnected("cut"));
      this.settle();
    }
  }

  /** Nothing goes wrong any more: everything comes to its end. */
  calmDown(): void {
    this.node.faults = NO_FAULTS;
    for (let round = 0; round < 3_000; round++) {
      this.serve(10);
      this.hear(100);
      this.take(100);
      this.advance(100);
      this.node.ping();
      const isSent = [...this.sends.values()].every(({ end }) => end !== undefined);
      if (isSent && this.readers.every((reader) => this.isAtHead(reader))) return;
    }
    assert.fail("never at rest");
  }

  isAtHead(reader: Reader): boolean {
    const offset = Number(head(this.node.channel(reader.name)).offset);
    return reader.inbox.length === 0 && reader.position?.offset === offset;
  }

  /** What was acknowledged is stored once, where it was said to be; what surely failed is not; both in order. */
  checkSends(): void {
    for (const name of NAMES) {
      const stored = new Map<number, WireOffset>();
      for (const { body, position } of this.node.channel(name).stored) {
        const ticket = Number(Buffer.from(body).toString());
        if (Number.isNaN(ticket)) continue;
        assert.ok(!stored.has(ticket), `message ${ticket} is stored twice in ${name}`);
        stored.set(ticket, position);
      }
      // What was given up with an unknown fate may come late.
      const confirmed = [...stored.keys()].filter((ticket) => "ok" in (this.sends.get(ticket)?.end ?? {}));
      assert.deepEqual(
        confirmed,
        [...confirmed].sort((a, b) => a - b),
        `out of order in ${name}`,
      );
      for (const [ticket, sending] of this.sends) {
        if (sending.name !== name) continue;
        const found = stored.get(ticket);
        const end = sending.end as Result<Receipt>;
        if ("ok" in end) assert.equal(end.ok.position.offset, Number(found?.offset), `message ${ticket}`);
        else if (end.error.kind !== "unconfirmed") assert.equal(found, undefined, `message ${ticket} failed`);
      }
    }
  }
}

type WireOffset = { offset: bigint };

interface Run {
  faults?: Faults;
  mayReset?: boolean;
  mayCancel?: boolean;
}

function run(seed: number, { faults = NO_FAULTS, mayReset = false, mayCancel = false }: Run): World {
  const world = new World(seed, faults, mayReset, mayCancel);
  for (let count = world.below(20); count > 0; count--) world.node.publish("general", "before");
  const starts: Start[] = [
    { kind: "live" },
    { kind: "after-offset", offset: 0 },
    { kind: "after", position: { epoch: 1, offset: 0 } },
  ];
  world.read("general", starts[world.below(3)] as Start);
  world.read("news", { kind: "live" });
  for (let step = 0; step < 400; step++) world.step();
  world.calmDown();
  world.checkSends();
  return world;
}

function runAll(options: Run): World[] {
  const only = process.env.MILLRACE_SEED;
  const seeds = only === undefined ? Array.from({ length: 300 }, (_, seed) => seed) : [Number(only)];
  return seeds.map((seed) => {
    try {
      return run(seed, options);
    } catch (cause) {
      throw new Error(`failed with MILLRACE_SEED=${seed}`, { cause });
    }
  });
}

const sum = (worlds: World[], of: (world: World) => number) => worlds.reduce((total, world) => total + of(world), 0);
const REFUSALS: Faults = {
  publishRefused: 60,
  subscribeRefused: 100,
  historyRefused: 100,
  helloRefused: 100,
  skips: 0,
  unsubscribes: 10,
  markRefused: 200,
};

test("connections that break lose nothing", () => {
  const worlds = runAll({});
  const delivered = sum(worlds, (world) => world.readers.reduce((total, reader) => total + reader.messages, 0));
  const own = sum(worlds, (world) => world.readers.reduce((total, reader) => total + reader.own.size, 0));
  assert.ok(delivered > 50 * worlds.length, `only ${delivered} messages were delivered`);
  assert.ok(own > 2 * worlds.length, `only ${own} came before their acknowledgement`);
  assert.ok(sum(worlds, (world) => world.connects) > 5 * worlds.length);
  for (const { sends } of worlds) {
    for (const { end } of sends.values()) assert.ok(end && ("ok" in end || end.error.advice === "retry"));
  }
});

test("refusals of every kind lose nothing", () => {
  runAll({ faults: REFUSALS });
});

test("messages that the application gives up leave no trace but an honest word", () => {
  const worlds = runAll({ faults: REFUSALS, mayCancel: true });
  assert.ok(sum(worlds, (world) => world.canceled) > worlds.length);
});

test("lost history is told", () => {
  const worlds = runAll({ faults: { ...REFUSALS, skips: 30 }, mayReset: true });
  const resets = sum(worlds, (world) => world.readers.reduce((total, reader) => total + reader.resets, 0));
  assert.ok(worlds.length === 1 || resets > 100, `only ${resets} resets`);
});
