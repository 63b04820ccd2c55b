// The SDK against a real server, which is killed and started again on the way.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import {
  type Channel,
  type ChannelEvent,
  Code,
  type Message,
  Millrace,
  MillraceError,
  type MillraceOptions,
  type State,
  Timeline,
} from "../src/node.js";
import { Server } from "./support/server.js";

const LIMIT = { timeout: 60_000 };
let server: Server;
const clients: Millrace[] = [];

before(async () => {
  server = await Server.start();
});

after(async () => {
  await Promise.allSettled(clients.map((client) => client.close()));
  await server.stop();
});

function client(user: string, options: Partial<MillraceOptions> = {}): Millrace {
  const made = new Millrace({ url: server.url, token: () => server.token(user), ...options });
  clients.push(made);
  return made;
}

let names = 0;
async function room(...members: string[]): Promise<string> {
  names += 1;
  const name = `room-${names}`;
  await server.channel(name, members);
  return name;
}

/** The next texts of a channel. */
async function take(channel: Channel, count: number): Promise<string[]> {
  const texts: string[] = [];
  for await (const message of channel) {
    texts.push(message.text);
    if (texts.length >= count) break;
  }
  return texts;
}

function reached(client: Millrace, kind: State["kind"]): Promise<State> {
  return new Promise((resolve) => {
    const look = (state: State) => {
      if (state.kind !== kind) return;
      stop();
      resolve(state);
    };
    const stop = client.on("state", look);
    look(client.state);
  });
}

/** Waits until something that tells of its changes is as expected. */
function until(tell: (look: () => void) => () => void, isSo: () => boolean): Promise<void> {
  return new Promise((resolve) => {
    let stop = () => {};
    const look = () => {
      if (!isSo()) return;
      stop();
      resolve();
    };
    stop = tell(look);
    look();
  });
}

/** Counts, and lets others wait for a number. */
class Counter {
  count = 0;
  private readonly looks = new Set<() => void>();

  add(): void {
    this.count += 1;
    for (const look of [...this.looks]) look();
  }

  reached(count: number): Promise<void> {
    return until(
      (look) => {
        this.looks.add(look);
        return () => this.looks.delete(look);
      },
      () => this.count >= count,
    );
  }
}

async function failure(promise: Promise<unknown>): Promise<MillraceError> {
  const error = await promise.then(
    () => assert.fail("it did not fail"),
    (error: unknown) => error,
  );
  assert.ok(error instanceof MillraceError, String(error));
  return error;
}

test("two people chat", LIMIT, async () => {
  const name = await room("ann", "bob");
  const ann = await client("ann").channel(name).subscribe();
  const bob = await client("bob").channel(name).subscribe();
  assert.deepEqual([ann.historyClass, ann.canPublish], ["durable", true]);
  const receipt = await ann.send("hello, 世界");
  assert.equal(receipt.position.offset, 1);
  await bob.send(new Uint8Array([0xff, 0]));
  const seen: Message[] = [];
  for await (const message of bob) {
    seen.push(message);
    if (seen.length === 2) break;
  }
  assert.deepEqual(
    seen.map((message) => [message.user, message.text, message.position.offset]),
    [
      ["ann", "hello, 世界", 1],
      ["bob", "\ufffd\0", 2],
    ],
  );
  assert.ok(Math.abs((seen[0]?.timeMs ?? 0) - Date.now()) < 60_000);
  assert.deepEqual(await take(ann, 1), ["hello, 世界"]);
  assert.deepEqual(ann.position, { epoch: 1, offset: 1 });
  const events: ChannelEvent["type"][] = [];
  const told = new Promise<void>((resolve) => {
    ann.on("event", ({ type }) => {
      events.push(type);
      resolve();
    });
  });
  await told;
  assert.deepEqual(events, ["message"]);
});

test("history is read in both directions", LIMIT, async () => {
  const name = await room("ann");
  const channel = client("ann").channel(name);
  const sends = Array.from({ length: 120 }, (_, index) => channel.send(`${index + 1}`));
  const offsets = (await Promise.all(sends)).map(({ position }) => position.offset);
  const all = Array.from({ length: 120 }, (_, index) => index + 1);
  assert.deepEqual(offsets, all, "sent together, stored in order");
  const newest = await channel.history({ limit: 2 });
  assert.deepEqual([newest.messages.map(({ text }) => text), newest.more], [["119", "120"], true]);
  const back: number[] = [];
  for await (const { messages } of channel.pages({ limit: 25 })) {
    back.unshift(...messages.map(({ position }) => position.offset));
  }
  assert.deepEqual(back, all);
  const forward: number[] = [];
  for await (const { messages } of channel.pages({ after: 0, limit: 33 })) {
    forward.push(...messages.map(({ position }) => position.offset));
  }
  assert.deepEqual(forward, all);
  assert.deepEqual((await channel.history({ before: 1 })).messages, []);
});

test("a client that comes back goes on where it was", LIMIT, async () => {
  const name = await room("ann", "bob");
  const bob = client("bob").channel(name);
  const first = client("ann");
  const reader = await first.channel(name).subscribe();
  for (const text of ["1", "2", "3"]) await bob.send(text);
  assert.deepEqual(await take(reader, 2), ["1", "2"]);
  const { position } = reader;
  await first.close();
  await bob.send("4");
  const again = await client("ann")
    .channel(name)
    .subscribe({ after: JSON.parse(JSON.stringify(position)) });
  assert.deepEqual(await take(again, 2), ["3", "4"]);
  const oldest = await client("ann").channel(name).subscribe({ afterOffset: 0 });
  assert.deepEqual(await take(oldest, 4), ["1", "2", "3", "4"]);
  const lost = await client("ann")
    .channel(name)
    .subscribe({ after: { epoch: 1, offset: 99 } });
  const iteration = lost.events();
  const { value: event } = await iteration.next();
  await iteration.return();
  assert.ok(event?.type === "reset" && event.reason === "position-ahead" && event.position.offset === 4);
  await bob.send("5");
  for await (const message of lost) {
    assert.deepEqual([message.text, message.gaps], ["5", []], "the gap was told already");
    break;
  }
});

test("a server killed under load loses and repeats nothing", { timeout: 120_000 }, async () => {
  const name = await room("ann", "bob");
  const options = { backoff: { maxMs: 200 } };
  const writer = client("ann", options).channel(name);
  const reader = await client("bob", options).channel(name).subscribe();
  const seen: string[] = [];
  const reading = (async () => {
    for await (const message of reader) {
      seen.push(message.text);
      if (message.text === "end") break;
    }
  })();
  const receipts = new Map<string, number>();
  const received = new Counter();
  const sendMany = async (from: number, to: number) => {
    for (let index = from; index < to; index++) {
      const text = `${index}`;
      const { receipt } = await writer.submit(text);
      void receipt.then(({ position }) => {
        assert.ok(!receipts.has(text), "one receipt each");
        receipts.set(text, position.offset);
        received.add();
      });
    }
  };
  for (let round = 0; round < 3; round++) {
    const sending = sendMany(round * 1_000, round * 1_000 + 1_000);
    await received.reached(round * 1_000 + 100);
    await server.kill();
    await server.start();
    await sending;
  }
  await writer.send("end");
  await reading;
  const expect = Array.from({ length: 3_000 }, (_, index) => `${index}`);
  assert.deepEqual(seen, [...expect, "end"]);
  assert.deepEqual([...receipts.keys()], expect);
  assert.deepEqual(
    [...receipts.values()],
    Array.from({ length: 3_000 }, (_, index) => index + 1),
  );
});

test("what is sent without a connection waits, within a bound", LIMIT, async () => {
  const name = await room("ann");
  const ann = client("ann", { window: { messagesMax: 4 }, waiting: { messagesMax: 6 }, backoff: { maxMs: 200 } });
  const channel = await ann.channel(name).subscribe();
  await server.kill();
  await reached(ann, "reconnecting");
  const sends = Array.from({ length: 10 }, (_, index) => channel.send(`${index}`));
  const full = await failure(channel.send("one too many"));
  assert.deepEqual([full.kind, full.advice, full.isRetryable], ["queue-full", "retry", true]);
  await server.start();
  const receipts = await Promise.all(sends);
  assert.deepEqual(
    receipts.map(({ position }) => position.offset),
    Array.from({ length: 10 }, (_, index) => index + 1),
  );
  assert.deepEqual(
    await take(channel, 10),
    Array.from({ length: 10 }, (_, index) => `${index}`),
  );
});

test("calls are taken back", LIMIT, async () => {
  const name = await room("ann");
  const ann = client("ann", { backoff: { maxMs: 200 } });
  const channel = ann.channel(name);
  await channel.send("0");
  await server.kill();
  await reached(ann, "reconnecting");
  const reason = new Error("changed my mind");
  const abort = new AbortController();
  const { signal } = abort;
  const kept = channel.send("kept");
  const calls = [channel.send("gone", { signal }), channel.history({ signal }), channel.subscribe({ signal })];
  const last = channel.send("last");
  abort.abort(reason);
  for (const call of calls) assert.equal(await call.catch((error: unknown) => error), reason);
  await assert.rejects(channel.send("never", { signal }), reason);
  await assert.rejects(ann.connect({ signal }), reason);
  await server.start();
  assert.deepEqual([(await kept).position.offset, (await last).position.offset], [2, 3]);
  const { messages } = await channel.history();
  assert.deepEqual(
    messages.map(({ text }) => text),
    ["0", "kept", "last"],
  );
  await channel.subscribe();
  const iteration = channel.messages({ signal: AbortSignal.timeout(20) });
  await assert.rejects(iteration.next(), { name: "TimeoutError" });
  assert.ok(channel.isSubscribed, "only the iteration ended");
});

test("a window and a client that closes wait no longer than they are told", LIMIT, async () => {
  const name = await room("ann");
  const ann = client("ann", { backoff: { maxMs: 200 } });
  const channel = ann.channel(name);
  for (let index = 0; index < 8; index++) await channel.send(`${index}`);
  const timeline = new Timeline(channel, { pageSize: 3 });
  await timeline.start();
  await server.kill();
  await reached(ann, "reconnecting");
  const reason = new Error("changed my mind");
  const abort = new AbortController();
  const { signal } = abort;
  const calls = [timeline.send("gone", { signal })];
  const loading = timeline.loadOlder({ signal });
  const kept = timeline.send("kept");
  assert.ok(timeline.view.isLoading);
  abort.abort(reason);
  for (const call of calls) assert.equal(await call.catch((error: unknown) => error), reason);
  await loading;
  const { view } = timeline;
  assert.deepEqual([view.isLoading, view.error, view.hasOlder], [false, undefined, true]);
  assert.deepEqual(
    view.entries.map(({ text, status }) => `${text} ${status}`),
    ["5 sent", "6 sent", "7 sent", "kept sending"],
  );
  // Nobody acknowledges it now.
  const closing = new AbortController();
  const closed = ann.close({ signal: closing.signal });
  closing.abort(reason);
  assert.equal(await closed.catch((error: unknown) => error), reason);
  assert.equal(ann.state.kind, "closed");
  assert.equal((await failure(kept)).kind, "timed-out");
  await server.start();
});

test("a slow reader misses nothing and holds nobody up", LIMIT, async () => {
  const name = await room("ann", "bob");
  const other = await room("ann", "bob");
  const ann = client("ann", { queue: { messagesMax: 8 } });
  const slow = await ann.channel(name).subscribe();
  const quick = await ann.channel(other).subscribe();
  const bob = client("bob");
  const writer = bob.channel(name);
  await Promise.all(Array.from({ length: 300 }, (_, index) => writer.send(`${index}`)));
  await bob.channel(other).send("quick");
  assert.deepEqual(await take(quick, 1), ["quick"]);
  let most = 0;
  let at = 0;
  const seen: string[] = [];
  await new Promise<void>((resolve) => {
    slow.on("message", async ({ message }) => {
      at += 1;
      most = Math.max(most, at);
      await new Promise((resolve) => setImmediate(resolve));
      at -= 1;
      seen.push(message.text);
      if (seen.length === 300) resolve();
    });
  });
  assert.equal(most, 1, "a listener that is busy is waited for");
  assert.deepEqual(
    seen,
    Array.from({ length: 300 }, (_, index) => `${index}`),
  );
});

test("a token is renewed before it expires, on the same connection", LIMIT, async () => {
  const name = await room("ann");
  const asked = new Counter();
  const ann = client("ann", {
    token: () => {
      asked.add();
      return server.token("ann", 3);
    },
  });
  const channel = await ann.channel(name).subscribe();
  const { state } = ann;
  // The third is asked for when the first has long expired.
  await asked.reached(3);
  assert.equal((await channel.send("still here")).position.offset, 1);
  assert.deepEqual(ann.state, state, "the same session");

  const fixed = client("ann", { token: await server.token("ann", 1) });
  const ended = fixed.channel(name);
  await ended.subscribe();
  const closed = await reached(fixed, "closed");
  assert.ok(closed.kind === "closed" && closed.error?.code === Code.TokenExpired);
  assert.equal((await failure(take(ended, 1))).code, Code.TokenExpired);
  assert.equal((await failure(fixed.close())).code, Code.TokenExpired);
});

test("a revoked token is replaced", LIMIT, async () => {
  const name = await room("ann");
  const ann = client("ann", { backoff: { maxMs: 200 } });
  const channel = await ann.channel(name).subscribe();
  await channel.send("before");
  const gone = reached(ann, "reconnecting");
  await server.call("POST", "/tokens/revoke", { user: "ann" });
  const state = await gone;
  assert.ok(state.kind === "reconnecting" && state.error.code === Code.TokenRevoked);
  assert.equal((await channel.send("after")).position.offset, 2);
});

test("a removed member is told, and comes back when let in", LIMIT, async () => {
  const name = await room("ann", "bob");
  const bob = client("bob");
  const channel = await bob.channel(name).subscribe();
  await channel.send("hello");
  assert.deepEqual(await take(channel, 1), ["hello"]);
  await server.call("DELETE", `/channels/${name}/members/bob`);
  const error = await failure(take(channel, 1));
  assert.deepEqual([error.kind, error.code, error.advice], ["refused", Code.Removed, "do-not-retry"]);
  assert.ok(!channel.isSubscribed);
  assert.equal((await failure(channel.send("no more"))).code, Code.NoAccess);
  assert.equal((await failure(channel.subscribe())).code, Code.NoAccess);
  await server.call("POST", `/channels/${name}/members`, { user: "bob" });
  await channel.subscribe();
  await channel.send("again");
  assert.deepEqual(await take(channel, 1), ["again"]);
});

test("what cannot be is refused where it is asked", LIMIT, async () => {
  const name = await room("ann");
  const ann = client("ann");
  const channel = await ann.channel(name).subscribe();
  assert.throws(() => ann.channel("no spaces"), { kind: "name" });
  assert.throws(() => ann.channel("x".repeat(129)), { kind: "name" });
  assert.throws(() => client("ann", { url: "ftp://host" }), { kind: "url" });
  assert.throws(() => client("ann", { url: "ws://me:secret@host" }), { kind: "url" });
  assert.throws(() => client("ann", { url: "quic://host" }), { kind: "url" });
  assert.throws(() => client("ann", { url: ["quic://host"] }), { kind: "url" });
  assert.equal((await failure(ann.channel(name).subscribe())).kind, "already-subscribed");
  assert.equal((await failure(ann.subscribe("nowhere"))).code, Code.NoAccess);
  assert.equal((await failure(channel.send(new Uint8Array(70_000)))).kind, "too-large");
  await assert.rejects(channel.history({ after: -1 }), RangeError);
  const iteration = channel.events();
  const first = iteration.next();
  await assert.rejects(channel.events().next(), { kind: "already-subscribed" });
  channel.unsubscribe();
  assert.deepEqual(await first, { done: true, value: undefined });
  await assert.rejects(client("ann", { url: "ws://127.0.0.1:1" }).connect({ failFast: true }), { kind: "connect" });
  // As `GET /v1/endpoints` gives them.
  await client("ann", { url: ["quic://127.0.0.1:1", server.url] }).connect({ failFast: true });
  const bad = client("ann", { token: "no token" });
  assert.equal((await failure(bad.connect())).code, Code.BadToken);
});

test("closing waits for receipts and ends what reads", LIMIT, async () => {
  const name = await room("ann");
  const ann = client("ann");
  const channel = await ann.channel(name).subscribe();
  const reading = take(channel, 99);
  const sends = Promise.all(Array.from({ length: 50 }, (_, index) => channel.send(`${index}`)));
  await ann.close();
  assert.equal((await sends).at(-1)?.position.offset, 50);
  assert.ok((await reading).length <= 50);
  await ann.close();
  assert.equal((await failure(channel.send("late"))).kind, "closed");
  const unused = client("ann");
  await unused.close();
  assert.equal(unused.state.kind, "closed");
  assert.equal((await failure(unused.connect())).kind, "closed");
});

test("a timeline shows what is sent at once, and each message once", LIMIT, async () => {
  const name = await room("ann", "bob");
  const bob = client("bob").channel(name);
  for (let index = 0; index < 30; index++) await bob.send(`old ${index}`);
  const timeline = new Timeline(client("ann", { backoff: { maxMs: 200 } }).channel(name), { pageSize: 10 });
  await timeline.start();
  const texts = () => timeline.view.entries.map(({ text, status }) => `${text} ${status}`);
  assert.deepEqual(
    texts(),
    Array.from({ length: 10 }, (_, index) => `old ${index + 20} sent`),
  );
  assert.ok(timeline.view.hasOlder);
  await timeline.loadOlder();
  assert.equal(timeline.view.entries[0]?.text, "old 10");
  const sent = timeline.send("mine");
  const shown = timeline.view.entries.at(-1);
  assert.deepEqual([shown?.text, shown?.status], ["mine", "sending"]);
  await sent;
  await bob.send("theirs");
  const changes = (look: () => void) => timeline.subscribe(look);
  await until(changes, () => timeline.view.entries.at(-1)?.text === "theirs");
  const mine = timeline.view.entries.filter(({ text }) => text === "mine");
  assert.deepEqual(
    mine.map(({ key, status, message }) => [key, status, message?.user]),
    [[shown?.key, "sent", "ann"]],
  );
  await server.kill();
  const during = ["a", "b", "c"].map((text) => timeline.send(text));
  assert.deepEqual(texts().slice(-3), ["a sending", "b sending", "c sending"]);
  await server.start();
  await Promise.all(during);
  await until(changes, () => timeline.view.entries.slice(-3).every(({ message }) => message !== undefined));
  assert.deepEqual(texts().slice(-4), ["theirs sent", "a sent", "b sent", "c sent"]);
  await assert.rejects(timeline.send(new Uint8Array(70_000)), { kind: "too-large" });
  const failed = timeline.view.entries.at(-1);
  assert.equal(failed?.status, "failed");
  timeline.discard(failed?.key ?? "");
  assert.deepEqual(texts().slice(-1), ["c sent"]);
  const offsets = timeline.view.entries.map(({ position }) => position?.offset);
  assert.deepEqual(
    offsets,
    Array.from({ length: offsets.length }, (_, index) => 11 + index),
  );
  timeline.stop();
});
