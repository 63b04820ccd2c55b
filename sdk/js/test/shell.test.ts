// The client over a model of a node, on a clock of the test's own: what clocks, networks and applications do to it.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Code } from "../src/code.js";
import { MillraceError } from "../src/error.js";
import type { ChannelEvent } from "../src/event.js";
import type { State } from "../src/state.js";
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
  await world.pass(100);
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
  await world.pass(100);
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
  assert.deepEqual([first?.text, first?.gap], ["1", undefined]);
  assert.deepEqual([second?.text, second?.gap?.type, channel.position], ["2", "reset", { epoch: 2, offset: 2 }]);
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
