// The timeline over a model of a node: what a person sees, however messages, receipts and mischief come in.

import assert from "node:assert/strict";
import { test } from "node:test";

import { MillraceError } from "../src/error.js";
import { Timeline, type TimelineOptions } from "../src/timeline.js";
import { World } from "./support/world.js";

const FAST = { backoff: { firstMs: 10, maxMs: 10 } };

class Screen {
  readonly client;
  readonly timeline: Timeline;

  constructor(
    readonly world: World,
    { channel = "general", token, ...options }: TimelineOptions & { channel?: string; token?: string } = {},
  ) {
    this.client = world.client(token === undefined ? FAST : { ...FAST, token });
    this.timeline = new Timeline(this.client.channel(channel), options);
  }

  static async shown(world: World, options: ConstructorParameters<typeof Screen>[1] = {}): Promise<Screen> {
    const screen = new Screen(world, options);
    await Promise.all([screen.timeline.start(), world.flow()]);
    await world.flow();
    return screen;
  }

  get lines(): string[] {
    return this.timeline.view.entries.map(({ text, status, isOwn }) => `${text} ${isOwn ? "own " : ""}${status}`);
  }

  async close(): Promise<void> {
    await Promise.all([this.client.close().catch(() => {}), this.world.flow()]);
  }
}

const numbers = (first: number, last: number) =>
  Array.from({ length: last - first + 1 }, (_, index) => `${first + index} sent`);

test("another user's message with the numbers of ours is another user's", async () => {
  const world = new World();
  const screen = await Screen.shown(world);
  void screen.timeline.send("first");
  await world.flow();
  const [{ producer } = assert.fail("not stored")] = world.node.channel("general").stored;
  // On its way, and somebody who has seen our producer is faster.
  world.isStalled = true;
  const sending = screen.timeline.send("mine");
  await world.flow();
  world.node.publish("general", "theirs, once", { producer, sequence: 1n });
  world.node.publish("general", "theirs", { producer, sequence: 2n });
  await world.flow();
  assert.deepEqual(screen.lines.slice(-3), ["theirs, once sent", "theirs sent", "mine own sending"]);
  const { key } = screen.timeline.view.entries.at(-1) ?? assert.fail();
  world.isStalled = false;
  await Promise.all([sending, world.flow()]);
  assert.deepEqual(screen.lines, ["first own sent", "theirs, once sent", "theirs sent", "mine own sent"]);
  const last = screen.timeline.view.entries.at(-1);
  assert.deepEqual([last?.key, last?.message?.user, screen.client.user], [key, "user", "user"]);
  await screen.close();
});

test("that holds where messages have no place as well", async () => {
  const world = new World();
  world.node.add("typing", "none");
  const screen = await Screen.shown(world, { channel: "typing" });
  const seen: [bigint, string][] = [];
  screen.timeline.channel.on("message", ({ message }) => seen.push([message.producer, message.user]));
  void screen.timeline.send("first");
  await world.flow();
  const [[producer] = assert.fail("not heard")] = seen;
  world.isStalled = true;
  void screen.timeline.send("mine");
  await world.flow();
  world.node.publish("typing", "theirs", { producer, sequence: 2n });
  await world.flow();
  world.isStalled = false;
  await world.flow();
  assert.deepEqual(screen.lines, ["first own sent", "theirs sent", "mine own sent"]);
  await screen.close();
});

test("without a user in the token, the receipt tells which message is ours", async () => {
  const world = new World();
  const screen = await Screen.shown(world, { token: "opaque" });
  const sending = screen.timeline.send("mine");
  const { key } = screen.timeline.view.entries[0] ?? assert.fail();
  await Promise.all([sending, world.flow()]);
  assert.deepEqual(screen.lines, ["mine own sent"]);
  assert.deepEqual([screen.timeline.view.entries[0]?.key, screen.client.user], [key, undefined]);
  await screen.close();
});

test("a timeline that is stopped and started while it subscribes is not deaf", async () => {
  const world = new World();
  const screen = new Screen(world);
  const { timeline } = screen;
  const outcome = (promise: Promise<void>) =>
    promise.then(
      () => "ok",
      (error: unknown) => (error instanceof MillraceError ? error.kind : String(error)),
    );
  const first = outcome(timeline.start());
  timeline.stop();
  const second = outcome(timeline.start());
  const third = outcome(timeline.start());
  await world.flow();
  assert.deepEqual(await Promise.all([first, second, third]), ["closed", "closed", "ok"]);
  world.node.publish("general", "heard");
  await world.flow();
  assert.deepEqual([timeline.view.status, screen.lines], ["subscribed", ["heard sent"]]);

  timeline.stop();
  const fourth = outcome(timeline.start());
  await world.flow();
  timeline.stop();
  assert.equal(await fourth, "ok");
  assert.equal(timeline.view.status, "idle");
  await world.flow();
  assert.notEqual(world.node.session.get("general"), true, "it is not subscribed any more");
  await screen.close();
});

test("a page that was under way does not keep the next start from loading", async () => {
  const world = new World();
  for (let count = 1; count <= 8; count++) world.node.publish("general", `${count}`);
  const screen = await Screen.shown(world);
  assert.deepEqual(screen.lines, numbers(4, 8));
  world.node.faults = { ...world.node.faults, historyRefused: 1_000 };
  const older = screen.timeline.loadOlder();
  const again = screen.timeline.start();
  await world.flow();
  world.node.faults = { ...world.node.faults, historyRefused: 0 };
  await Promise.all([older, again, world.pass(1_000)]);
  assert.deepEqual(screen.lines, numbers(4, 8));
  await screen.close();
});

test("what is kept is bounded, whether it comes, is loaded, or fails", async () => {
  const world = new World();
  for (let count = 1; count <= 20; count++) world.node.publish("general", `${count}`);
  const screen = await Screen.shown(world, { pageSize: 5, messagesMax: 8 });
  const { timeline } = screen;
  assert.deepEqual([screen.lines, timeline.view.hasOlder], [numbers(16, 20), true]);
  await Promise.all([timeline.loadOlder(), world.flow()]);
  assert.deepEqual([screen.lines, timeline.view.hasOlder], [numbers(13, 20), false], "there is no room for older ones");
  await timeline.loadOlder();
  assert.deepEqual(screen.lines, numbers(13, 20));
  world.node.publish("general", "21");
  await world.flow();
  assert.deepEqual(screen.lines, numbers(14, 21), "the oldest is let go");
  for (let count = 1; count <= 10; count++) await assert.rejects(timeline.send(new Uint8Array(70_000)));
  const { entries } = timeline.view;
  assert.deepEqual([entries.length, entries.every(({ status }) => status === "failed")], [8, true]);
  assert.deepEqual([entries[0]?.key, entries.at(-1)?.key], ["own-12", "own-19"], "the oldest that failed are let go");
  for (const { key } of entries) timeline.discard(key);
  assert.deepEqual([screen.lines, timeline.view.hasOlder], [[], true]);
  await Promise.all([timeline.loadOlder(), world.flow()]);
  assert.deepEqual(screen.lines, numbers(17, 21), "and what was let go is loaded again");
  await screen.close();
});

test("what a timeline was shortened by is loaded again", async () => {
  const world = new World();
  for (let count = 1; count <= 12; count++) world.node.publish("general", `${count}`);
  const screen = await Screen.shown(world, { pageSize: 5 });
  const { timeline } = screen;
  await assert.rejects(timeline.send(new Uint8Array(70_000)));
  timeline.shorten(20);
  assert.deepEqual(screen.lines.slice(0, 5), numbers(8, 12), "there is no more than that");
  timeline.shorten(3);
  assert.deepEqual(screen.lines.slice(0, 3), numbers(10, 12));
  assert.deepEqual([timeline.view.entries.at(-1)?.status, timeline.view.hasOlder], ["failed", true]);
  world.node.publish("general", "13");
  await world.flow();
  assert.deepEqual(screen.lines.slice(0, 4), numbers(10, 13));
  // Not while a page is on its way that goes before what is there.
  const older = timeline.loadOlder();
  timeline.shorten(1);
  await Promise.all([older, world.flow()]);
  assert.deepEqual(screen.lines.slice(0, 9), numbers(5, 13));
  await screen.close();
});

test("what the node skips is read, and no hole is shown", async () => {
  const world = new World();
  const screen = await Screen.shown(world, { pageSize: 3 });
  world.node.publish("general", "1");
  await world.flow();
  world.node.faults = { ...world.node.faults, skips: 1_000 };
  for (let count = 2; count <= 8; count++) world.node.publish("general", `${count}`);
  world.node.faults = { ...world.node.faults, skips: 0 };
  world.node.publish("general", "9");
  await world.flow();
  assert.deepEqual(screen.lines, numbers(1, 9));

  // It cannot be read: what is before it is loaded when somebody looks back.
  world.node.faults = { ...world.node.faults, skips: 1_000 };
  world.node.publish("general", "10");
  world.node.faults = { ...world.node.faults, skips: 0, historyRefused: 1_000 };
  world.node.publish("general", "11");
  await world.pass(40_000);
  assert.deepEqual([screen.lines, screen.timeline.view.hasOlder], [["11 sent"], true]);
  world.node.faults = { ...world.node.faults, historyRefused: 0 };
  await Promise.all([screen.timeline.loadOlder(), world.flow()]);
  assert.deepEqual(screen.lines, numbers(8, 11));
  await screen.close();
});

test("a line that failed because nobody knew is sent when its message comes after all", async () => {
  const world = new World();
  const client = world.client({ ...FAST, sendTimeoutMs: 1_000 });
  const timeline = new Timeline(client.channel("general"));
  await Promise.all([timeline.start(), world.flow()]);
  world.isStalled = true;
  const failed = assert.rejects(timeline.send("late"), { kind: "unconfirmed" });
  await world.pass(2_000);
  await failed;
  const lines = () => timeline.view.entries.map(({ text, status, error }) => `${text} ${status} ${error?.kind}`);
  assert.deepEqual(lines(), ["late failed unconfirmed"]);
  world.isStalled = false;
  await world.flow();
  assert.deepEqual(lines(), ["late sent undefined"]);
  await Promise.all([client.close(), world.flow()]);
});
