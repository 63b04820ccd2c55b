// The client over a model of a node, on a clock of the test's own: what clocks, networks and applications do to it.

import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { test } from "node:test";

import { Code } from "../src/code.js";
import { MillraceError } from "../src/error.js";
import type { ChannelEvent } from "../src/event.js";
import type { State } from "../src/state.js";
import { webSocket } from "../src/transport/websocket.js";
import type { Transport } from "../src/transport.js";
import { errorBody } from "./support/model.js";
import { settle, World } from "./support/world.js";

const outcome = (promise: Promise<unknown>) =>
  promise.then(
    () => "ok",
    (error: unknown) => (error instanceof MillraceError ? error.kind : String(error)),
  );

test("nothing happens before something is asked", async () => {
  const world = new World();
  const client = world.client();
  const channel = client.channel("general");
  channel.on("message", () => {});
  await world.pass(60_000);
  assert.deepEqual([world.urls, world.timersLeft, world.isWatched, client.state.kind], [[], 0, false, "idle"]);
  void channel.send("hi");
  await world.flow();
  assert.deepEqual(world.urls, ["ws://model/v1/connect"]);
  assert.equal(client.state.kind, "connected");
  await client.close();
  assert.deepEqual([world.timersLeft, world.isWatched], [0, false], "nothing is left behind");
});

test("a machine that slept asks whether its connection holds", async () => {
  const world = new World();
  const client = world.client();
  await Promise.all([client.connect(), world.flow()]);
  await world.pass(20_000);
  assert.equal(world.node.probes, 0);
  world.sleep(3_600_000);
  await world.pass(15_000);
  assert.equal(world.node.probes, 1, "the clocks do not agree any more");
  world.wake();
  await world.flow();
  assert.equal(world.node.probes, 2, "the page is seen again");
  assert.equal(world.urls.length, 1, "it held");
  world.isStalled = true;
  world.wake();
  await world.pass(5_000);
  world.isStalled = false;
  await world.pass(250);
  assert.equal(world.urls.length, 2, "it did not hold");
  await Promise.all([client.close(), world.flow()]);
});

test("a network that is back is used at once", async () => {
  const world = new World();
  world.isDown = true;
  const client = world.client({ backoff: { firstMs: 1_000_000, maxMs: 1_000_000 } });
  const connected = client.connect();
  await world.flow();
  assert.equal(client.state.kind, "reconnecting");
  await world.pass(1_500);
  world.isDown = false;
  world.wake();
  await Promise.all([connected, world.flow()]);
  assert.equal(world.urls.length, 2);
  await Promise.all([client.close(), world.flow()]);
});

test("states are told in order", async () => {
  const world = new World();
  const client = world.client();
  const states: State["kind"][] = [];
  client.on("state", (state) => states.push(state.kind));
  void client.connect();
  await world.flow();
  world.cut();
  await world.pass(250);
  await Promise.all([client.close(), world.flow()]);
  assert.deepEqual(states, ["connecting", "connected", "reconnecting", "connected", "closed"]);
});

test("a token that does not come is waited for no longer than a request", async () => {
  const world = new World();
  let signal: AbortSignal | undefined;
  const client = world.client({
    token: (context) => {
      signal = context.signal;
      return new Promise(() => {});
    },
    requestTimeoutMs: 2_000,
  });
  const result = outcome(client.connect({ failFast: true }));
  await world.pass(2_000);
  assert.equal(await result, "timed-out");
  assert.ok(signal?.aborted);

  const broken = world.client({ token: () => Promise.reject(new Error("the backend is down")) });
  const failed = broken.connect({ failFast: true });
  const [error] = await Promise.all([failed.catch((error: unknown) => error), world.flow()]);
  assert.ok(error instanceof MillraceError && error.kind === "token" && error.advice === "authenticate");
  assert.equal((error.cause as Error).message, "the backend is down");
});

test("a token that a node refuses is asked for again", async () => {
  const world = new World();
  world.node.token = "good";
  const tokens = ["bad", "good"];
  const client = world.client({ token: () => tokens.shift() ?? "none" });
  const connected = client.connect();
  await world.pass(200);
  await connected;
  assert.deepEqual([tokens, world.node.hellos], [[], 2]);
  await Promise.all([client.close(), world.flow()]);
});

test("a connection that takes nothing is not filled", async () => {
  const world = new World();
  const client = world.client();
  await Promise.all([client.connect(), world.flow()]);
  const channel = client.channel("general");
  await Promise.all([channel.send("first"), world.flow()]);
  world.isStalled = true;
  const sends = Promise.all(Array.from({ length: 100 }, () => channel.send(new Uint8Array(8_192))));
  await world.pass(1_000);
  world.isStalled = false;
  await world.pass(2_000);
  assert.equal((await sends).at(-1)?.position.offset, 101);
  await Promise.all([client.close(), world.flow()]);
});

test("a message in a gap says what is missing before it", async () => {
  const world = new World();
  const client = world.client({ backoff: { firstMs: 10, maxMs: 10 } });
  const channel = client.channel("general");
  await Promise.all([channel.subscribe(), world.flow()]);
  world.node.publish("general", "1");
  await world.flow();
  world.node.channel("general").epoch = 2;
  world.cut();
  await world.pass(50);
  world.node.publish("general", "2");
  await world.flow();
  const iteration = channel.messages();
  const { value: first } = await iteration.next();
  const { value: second } = await iteration.next();
  assert.deepEqual([first?.text, first?.gaps], ["1", []]);
  const gaps = second?.gaps.map(({ type }) => type);
  assert.deepEqual([second?.text, gaps, channel.position], ["2", ["reset"], { epoch: 2, offset: 2 }]);
  await Promise.all([client.close(), world.flow()]);
  assert.deepEqual(await iteration.next(), { done: true, value: undefined });
});

test("a channel without history says what it cannot give", async () => {
  const world = new World();
  world.node.add("typing", "none");
  const client = world.client({ queue: { messagesMax: 2 }, backoff: { firstMs: 10, maxMs: 10 } });
  const channel = client.channel("typing");
  await Promise.all([channel.subscribe(), world.flow()]);
  assert.equal(channel.historyClass, "none");
  for (let count = 0; count < 5; count++) world.node.publish("typing", "…");
  await world.flow();
  const events: ChannelEvent[] = [];
  channel.on("event", (event) => events.push(event));
  await world.flow();
  world.cut();
  await world.pass(50);
  assert.deepEqual(
    events.map((event) => (event.type === "skipped" ? event.skipped : event.type)),
    ["message", "message", { kind: "queue-full", messages: 3 }, { kind: "interrupted" }],
  );
  await Promise.all([client.close(), world.flow()]);
});

test("a queue that nobody reads is bounded, and nothing of it is lost", async () => {
  const world = new World();
  const client = world.client({ queue: { messagesMax: 4 } });
  const channel = client.channel("general");
  await Promise.all([channel.subscribe(), world.flow()]);
  for (let count = 1; count <= 40; count++) world.node.publish("general", `${count}`);
  await world.pass(1_000);
  const texts: string[] = [];
  channel.on("message", ({ message }) => texts.push(message.text));
  await world.pass(5_000);
  assert.deepEqual(
    texts,
    Array.from({ length: 40 }, (_, index) => `${index + 1}`),
  );
  await Promise.all([client.close(), world.flow()]);
});

test("a subscription that is ended while messages wait gives none of them", async () => {
  const world = new World();
  const client = world.client();
  const channel = client.channel("general");
  await Promise.all([channel.subscribe(), world.flow()]);
  world.node.publish("general", "1");
  await world.flow();
  const iteration = channel.messages();
  channel.unsubscribe();
  assert.deepEqual(await iteration.next(), { done: true, value: undefined });
  await world.flow();
  assert.equal(world.node.session.size, 0);
  await Promise.all([channel.subscribe(), world.flow()]);
  assert.ok(channel.isSubscribed);
  world.node.endSubscription("general", Code.Archived, "archived");
  const reading = assert.rejects(channel.messages().next(), { kind: "refused", code: Code.Archived });
  await Promise.all([reading, world.flow()]);
  await Promise.all([client.close(), world.flow()]);
});

test("what is given up before it is open leaves nothing behind", async () => {
  const world = new World();
  const client = world.client();
  const [keeps, leaves] = [client.channel("general"), client.channel("general")];
  const kept = keeps.send("kept");
  const left = leaves.send("left");
  const subscribing = outcome(leaves.subscribe());
  leaves.close();
  assert.equal(await subscribing, "closed");
  await world.flow();
  assert.deepEqual(
    [(await kept).position.offset, (await left).position.offset],
    [1, 2],
    "what was sent still goes out",
  );
  await world.pass(60_000);
  await Promise.all([keeps.send("again"), world.flow()]);
  assert.deepEqual([...world.node.session], [["general", false]], "the other handle holds on");
  keeps.close();
  await world.flow();
  assert.equal(world.node.session.size, 0);
  await Promise.all([client.close(), world.flow()]);
  assert.equal(await outcome(keeps.send("late")), "closed");
  const unused = world.client();
  await unused.close();
  assert.equal(await outcome(unused.channel("general").send("late")), "closed");
});

test("messages taken back do not reach the node, and make room", async () => {
  const world = new World();
  const client = world.client({ window: { messagesMax: 1 }, waiting: { messagesMax: 2 } });
  const channel = client.channel("general");
  world.isDown = true;
  const abort = new AbortController();
  const { signal } = abort;
  const first = channel.send("first", { signal });
  const second = channel.send("second", { signal });
  const third = channel.send("third");
  assert.equal(await outcome(channel.send("fourth")), "queue-full");
  abort.abort(new Error("not now"));
  assert.deepEqual([await outcome(first), await outcome(second)], ["Error: not now", "Error: not now"]);
  const fifth = channel.send("fifth");
  world.isDown = false;
  await world.pass(60_000);
  assert.deepEqual([(await third).position.offset, (await fifth).position.offset], [1, 2]);
  await Promise.all([client.close(), world.flow()]);
});

test("a message that left cannot be taken back, and the error says so", async () => {
  const world = new World();
  const client = world.client();
  const channel = client.channel("general");
  await Promise.all([channel.send("first"), world.flow()]);
  const abort = new AbortController();
  world.isStalled = true;
  const result = channel.send("second", { signal: abort.signal });
  await settle();
  abort.abort(new Error("too late"));
  assert.equal(await outcome(result), "unconfirmed");
  world.isStalled = false;
  await world.flow();
  assert.equal(world.node.channel("general").stored.length, 2);
  await Promise.all([client.close(), world.flow()]);
});

test("the node's word on where to go is followed, but not out of TLS", async () => {
  const world = new World();
  const client = world.client({ url: "wss://one" });
  await Promise.all([client.connect(), world.flow()]);
  world.node.goAway(1_000, ["ws://plain", "two:8443"]);
  await world.pass(1_000);
  assert.deepEqual(world.urls, ["wss://one/v1/connect", "wss://two:8443/v1/connect"]);
  await Promise.all([client.close(), world.flow()]);
});

test("what waits for the window ends with the client, too", async () => {
  const world = new World();
  world.isDown = true;
  const client = world.client();
  const channel = client.channel("general");
  let settled = 0;
  const sends = Array.from({ length: 400 }, () => outcome(channel.send("x")).then(() => (settled += 1)));
  await world.flow();
  await Promise.all([outcome(client.close()), world.pass(60_000)]);
  await world.flow();
  assert.equal(settled, sends.length);
});

test("a signal that lives on knows nothing of messages that had their end", async () => {
  const world = new World();
  const client = world.client({ window: { messagesMax: 2 }, waiting: { messagesMax: 2 } });
  const channel = client.channel("general");
  const { signal } = new AbortController();
  const sends = Array.from({ length: 4 }, () => channel.send("x", { signal }));
  const refused = await outcome(channel.send("x", { signal }));
  assert.deepEqual([refused, getEventListeners(signal, "abort").length], ["queue-full", 4]);
  await Promise.all([...sends, world.flow()]);
  assert.deepEqual(getEventListeners(signal, "abort"), []);
  await Promise.all([client.close(), world.flow()]);
});

test("several gaps before one message are all told", async () => {
  const world = new World();
  world.node.add("typing", "none");
  const client = world.client({ queue: { messagesMax: 2 }, backoff: { firstMs: 10, maxMs: 10 } });
  const channel = client.channel("typing");
  await Promise.all([channel.subscribe(), world.flow()]);
  for (let count = 0; count < 5; count++) world.node.publish("typing", "…");
  await world.flow();
  const iteration = channel.messages();
  const [first, second] = [await iteration.next(), await iteration.next()];
  assert.deepEqual([first.value?.gaps, second.value?.gaps], [[], []]);
  const third = iteration.next();
  await world.flow();
  for (let round = 0; round < 2; round++) {
    world.cut();
    await world.pass(50);
  }
  world.node.publish("typing", "at last");
  await world.flow();
  const { value } = await third;
  const skipped = value?.gaps.map((gap) => (gap.type === "skipped" ? gap.skipped : gap));
  assert.deepEqual([value?.text, skipped], ["at last", [{ kind: "queue-full", messages: 3 }, { kind: "interrupted" }]]);
  await Promise.all([client.close(), world.flow()]);
});

test("a subscription that begins behind a message of a channel without history has begun when it says so", async () => {
  const world = new World();
  world.node.add("typing", "none");
  const client = world.client();
  await Promise.all([client.connect(), world.flow()]);
  const channel = client.channel("typing");
  const events: string[] = [];
  channel.on("event", ({ type }) => events.push(type));
  const sent = channel.send("first");
  const isRead = channel.subscribe().then(() => world.node.session.get("typing"));
  await Promise.all([sent, world.flow()]);
  assert.equal(await isRead, true);
  world.node.publish("typing", "second");
  await world.flow();
  assert.deepEqual(events, ["message", "message"], "and it was not interrupted");
  await Promise.all([client.close(), world.flow()]);
});

test("a subscription that has ended is read to its end before the next begins", async () => {
  const world = new World();
  const client = world.client();
  const channel = client.channel("general");
  await Promise.all([channel.subscribe(), world.flow()]);
  world.node.publish("general", "1");
  world.node.endSubscription("general", Code.Archived, "archived");
  await world.flow();
  assert.equal(await outcome(channel.subscribe()), "already-subscribed");
  const iteration = channel.messages();
  assert.equal((await iteration.next()).value?.text, "1");
  await assert.rejects(iteration.next(), { code: Code.Archived });
  await Promise.all([channel.subscribe(), world.flow()]);
  world.node.endSubscription("general", Code.Archived, "archived");
  await world.flow();
  channel.unsubscribe();
  await Promise.all([channel.subscribe(), world.flow()]);
  assert.deepEqual([...world.node.session], [["general", true]]);
  channel.close();
  await world.flow();
  assert.deepEqual([...world.node.session], [], "nothing of the earlier ones is left");
  await Promise.all([client.close(), world.flow()]);
});

test("what is given up in the turn in which it opens leaves nothing behind", async () => {
  const world = new World();
  const client = world.client({ backoff: { firstMs: 10, maxMs: 10 } });
  const holder = client.channel("general");
  await Promise.all([holder.send("first"), world.flow()]);
  const passing = client.channel("general");
  const off = client.on("state", ({ kind }) => {
    if (kind !== "reconnecting") return;
    off();
    void passing.send("second").catch(() => {});
    passing.close();
  });
  world.cut();
  await world.pass(100);
  const settled = client.on("warning", () => {
    void passing.send("third").catch(() => {});
    passing.close();
  });
  world.node.say(0, errorBody(Code.RateLimited, "slower"));
  await world.flow();
  settled();
  assert.equal(world.node.channel("general").stored.length, 3);
  holder.close();
  await world.flow();
  assert.deepEqual([...world.node.session], []);
  await Promise.all([client.close(), world.flow()]);
});

test("a platform without a WebSocket is told of, at once and for good", async () => {
  const world = new World();
  const transport = webSocket(() => {
    throw new Error("this platform has no WebSocket");
  });
  const client = world.client({ transport });
  const failed = client.subscribe("general").catch((error: unknown) => error);
  await world.flow();
  const error = await failed;
  assert.ok(error instanceof MillraceError);
  assert.deepEqual([error.kind, error.advice], ["connect", "do-not-retry"]);
  assert.match(error.message, /no WebSocket/);
  assert.equal(client.state.kind, "closed");
});

test("a transport may say no before it has returned, or throw", async () => {
  const world = new World();
  let tries = 0;
  const refuses: Transport = {
    open(_url, events) {
      tries += 1;
      if (tries === 1) throw new Error("not now");
      events.closed({ code: 1006, reason: "not here" });
      return { bufferedBytes: 0, send: () => assert.fail("it is closed"), close: () => {} };
    },
  };
  const client = world.client({ transport: refuses, backoff: { firstMs: 10, maxMs: 10 } });
  const errors: string[] = [];
  client.on("state", (state) => {
    if (state.kind === "reconnecting") errors.push(state.error.message);
  });
  void client.connect().catch(() => {});
  await world.pass(10);
  assert.deepEqual(errors.slice(0, 2), [
    "cannot connect to ws://model/v1/connect: not now",
    "cannot connect to ws://model/v1/connect: not here",
  ]);
  await Promise.all([client.close(), world.flow()]);
});

test("tries to connect wait as the protocol says: 250 ms, doubled up to 30 s", async () => {
  const world = new World();
  world.isDown = true;
  const client = world.client();
  const waits: number[] = [];
  client.on("state", (state) => {
    if (state.kind === "reconnecting") waits.push(state.delayMs);
  });
  void client.connect().catch(() => {});
  await world.pass(3_600_000);
  assert.ok(waits.length > 100);
  for (const [attempt, wait] of waits.entries()) assert.ok(wait <= Math.min(250 * 2 ** attempt, 30_000), `${wait}`);
  const longest = Math.max(...waits);
  assert.ok(longest > 29_000 && Math.max(...waits.slice(0, 4)) > 250, `${waits.slice(0, 9)} … ${longest}`);
  await Promise.all([client.close(), world.flow()]);
});
