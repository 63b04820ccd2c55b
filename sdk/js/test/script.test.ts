// Scripts: what a node says, what the engine does about it.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Code } from "../src/code.js";
import { disconnected, MillraceError, refused } from "../src/error.js";
import { at, Bench, bytes, errorBody, HEARTBEAT_MS, message, subscribed, UNIX_MS, welcome } from "./support/bench.js";

const LIVE = { kind: "live" } as const;
const NEWEST = { kind: "newest" } as const;
const code = (result: unknown) => (result as { error: MillraceError }).error.code;
const kind = (result: unknown) => (result as { error: MillraceError }).error.kind;

test("a client connects and resumes everything in its hello", () => {
  const bench = new Bench();
  assert.deepEqual(bench.log(), ["connecting", "token"]);
  bench.connect();
  bench.open("general", LIVE);
  bench.push(1);
  bench.engine.handleDisconnected(bench.now, disconnected("cut"));
  assert.deepEqual(bench.log(), ["reconnecting 1"]);
  bench.pass(100);
  assert.deepEqual(bench.log(), ["connect ws://a/v1/connect"], "the token is still good");
  bench.engine.handleConnected(bench.now);
  const hello = bench.frame("hello");
  assert.equal(hello.text, "hello token general after 1/1");
  bench.say(hello.request, welcome());
  bench.say(hello.request, subscribed("general", 2, { kind: "whole" }));
  bench.push(2);
  assert.deepEqual(bench.log(), ["connected"]);
  assert.deepEqual(bench.events, ["1/1", "1/2"]);
  assert.deepEqual(bench.asks(), []);
});

test("silence for two heartbeats is a dead connection", () => {
  const bench = Bench.welcomed();
  bench.pass(HEARTBEAT_MS * 2 - 1);
  bench.say(0, { kind: "ping" });
  assert.deepEqual(bench.asks(), ["pong"]);
  bench.pass(HEARTBEAT_MS * 2 - 1);
  assert.deepEqual(bench.log(), []);
  bench.pass(1);
  assert.deepEqual(bench.log(), ["disconnect", "reconnecting 1"]);
});

test("pings that are not taken are answered once", () => {
  const bench = Bench.welcomed();
  for (let count = 0; count < 1_000; count++) bench.say(0, { kind: "ping" });
  assert.deepEqual(bench.asks(), ["pong"]);
});

test("a node that answers pings and nothing else is left", () => {
  const bench = Bench.welcomed();
  bench.engine.open(bench.now, "general", undefined, 1);
  for (let count = 0; count < 4; count++) {
    bench.pass(7_400);
    bench.say(0, { kind: "ping" });
  }
  // The call gives up at the same time as the connection: it fails, and the next one finds another connection.
  bench.pass(1_000);
  assert.ok(bench.log().includes("disconnect"));
  assert.deepEqual(
    bench.opened.map(({ ticket, result }) => [ticket, kind(result)]),
    [[1, "timed-out"]],
  );
});

test("a node that leaves says when and where to", () => {
  const goAway = (bench: Bench) =>
    bench.say(0, { kind: "goAway", code: Code.GoingAway, afterMs: 3_000, endpoints: ["b:1", "ftp://no"] });
  let bench = Bench.welcomed();
  goAway(bench);
  bench.pass(2_999);
  assert.deepEqual(bench.log(), []);
  bench.pass(1);
  assert.deepEqual(bench.log(), ["disconnect", "reconnecting 1", "connect ws://b:1/v1/connect"]);

  // If it closes before, the client still comes when it was told, whatever its surroundings say.
  bench = Bench.welcomed();
  goAway(bench);
  bench.engine.handleDisconnected(bench.now, refused(Code.GoingAway, "bye"));
  bench.pass(2_999);
  bench.engine.handleWake(bench.now, UNIX_MS + 2_999);
  assert.deepEqual(bench.log(), ["reconnecting 1"]);
  bench.pass(1);
  assert.deepEqual(bench.log(), ["connect ws://b:1/v1/connect"]);
});

test("a session that was ended is not tried again", () => {
  const bench = Bench.welcomed();
  bench.open("general", LIVE);
  bench.engine.handleDisconnected(bench.now, refused(Code.Ended, "ended by an operator"));
  assert.deepEqual(bench.log(), ["closed ended by an operator (ended)"]);
  assert.deepEqual(bench.events, ["ended ended by an operator (ended)"]);
  assert.equal(bench.engine.nextTimeout(), undefined);
  assert.throws(
    () => bench.engine.open(bench.now, "general", undefined, 1),
    (error) => error instanceof MillraceError && error.code === Code.Ended && error.advice === "do-not-retry",
  );
});

test("a token is renewed in time and on the same connection", () => {
  const bench = new Bench();
  bench.engine.handleToken(bench.now, { ok: "first" });
  bench.engine.handleConnected(bench.now);
  const hourMs = 3_600_000;
  bench.say(bench.frame("hello").request, welcome({ tokenExpiresMs: BigInt(UNIX_MS + hourMs) }));
  bench.log();
  const wait = (rounds: number) => {
    for (let round = 0; round < rounds; round++) {
      bench.pass(45_000);
      bench.say(0, { kind: "ping" });
    }
    bench.frames();
  };
  wait(60);
  assert.deepEqual(bench.log(), [], "three quarters are not over");
  wait(12);
  assert.deepEqual(bench.log(), ["token"], "nine tenths are over");
  bench.engine.handleToken(bench.now, { ok: "second" });
  const refresh = bench.frame("refresh second");
  bench.say(refresh.request, { kind: "refreshed", tokenExpiresMs: BigInt(UNIX_MS + 2 * hourMs) });
  assert.deepEqual(bench.log(), []);
});

test("refused tokens are renewed and then given up", () => {
  const refuse = (bench: Bench) => {
    bench.engine.handleConnected(bench.now);
    bench.refuse(bench.frame("hello"), Code.TokenExpired);
  };
  let bench = new Bench();
  for (let round = 0; round < 2; round++) {
    bench.engine.handleToken(bench.now, { ok: "token" });
    refuse(bench);
    bench.pass(1_000);
  }
  bench.engine.handleToken(bench.now, { ok: "token" });
  bench.log();
  refuse(bench);
  assert.deepEqual(bench.log(), ["disconnect", "closed refused (token-expired)"]);

  // A fixed token does not get better.
  bench = new Bench({ tokensRenew: false });
  bench.engine.handleToken(bench.now, { ok: "token" });
  bench.log();
  refuse(bench);
  assert.deepEqual(bench.log(), ["disconnect", "closed refused (token-expired)"]);
});

test("a token over the limit is refused before it travels", () => {
  const bench = new Bench();
  bench.log();
  bench.engine.handleToken(bench.now, { ok: "x".repeat(4_097) });
  assert.deepEqual(bench.log(), ["reconnecting 1"]);
  bench.pass(100);
  assert.deepEqual(bench.log(), ["token"]);
});

test("what is no access token is told so before it travels, and a fixed one ends the client", () => {
  const rows: readonly (readonly [string, string])[] = [
    ["", "the token is empty: give an access token, as your server or `millrace token issue` makes it"],
    ["mr_dev_secret", "an API key is no access token: your server gets those from POST /v1/tokens"],
    ["mrr_dev_secret", "a refresh token is no access token: your server gets those from POST /v1/tokens"],
    ["x".repeat(4_097), "the token is 4097 bytes, the limit is 4096"],
  ];
  for (const [token, said] of rows) {
    const fixed = new Bench({ tokensRenew: false });
    fixed.log();
    fixed.engine.handleToken(fixed.now, { ok: token });
    assert.deepEqual(fixed.log(), [`closed ${said}`]);
    const renewed = new Bench();
    renewed.log();
    renewed.engine.handleToken(renewed.now, { ok: token });
    assert.deepEqual(renewed.log(), ["reconnecting 1"], token);
  }
});

test("a first connection may have to succeed", () => {
  let bench = new Bench({ failFast: true });
  bench.engine.handleToken(bench.now, { ok: "token" });
  bench.engine.handleDisconnected(bench.now, disconnected("refused"));
  assert.equal(bench.log().at(-1), "closed the connection was lost: refused");

  bench = Bench.welcomed({ failFast: true });
  bench.engine.handleDisconnected(bench.now, disconnected("cut"));
  assert.deepEqual(bench.log(), ["reconnecting 1"]);
});

// Who waits for a first connection waits for what passes: each URL is tried once, and a node that asks for another try gets it.
test("a first connection is tried as long as a node asks for it", () => {
  const started = (...endpoints: [string, ...string[]]) => {
    const bench = new Bench({ failFast: true, endpoints });
    bench.engine.handleToken(bench.now, { ok: "token" });
    bench.log();
    return bench;
  };
  const triesOn = (bench: Bench, error: MillraceError): boolean => {
    bench.engine.handleDisconnected(bench.now, error);
    const goesOn = bench.log().at(-1)?.startsWith("reconnecting") === true;
    const at = bench.engine.nextTimeout();
    if (!goesOn || at === undefined) return false;
    bench.pass(at - bench.now);
    bench.log();
    return true;
  };
  let bench = started("ws://a/", "ws://b/");
  assert.ok(triesOn(bench, disconnected("nobody there")), "there is another URL");
  assert.ok(!triesOn(bench, disconnected("nobody there")), "each was tried");
  bench = started("ws://a/", "ws://b/");
  assert.ok(!triesOn(bench, refused(Code.BadToken, "no")), "it is bad everywhere");
  for (const code of [Code.Busy, Code.Unavailable, Code.GoingAway]) {
    bench = started("ws://a/");
    const began = bench.now;
    let tries = 0;
    while (triesOn(bench, refused(code, "not now"))) tries += 1;
    assert.ok(tries > 3 && bench.now <= began + 30_000, `${tries} tries`);
  }
});

test("each subscription of a hello gets its own refusal", () => {
  const bench = new Bench();
  for (const [ticket, name] of ["a", "b", "c"].entries()) bench.engine.open(bench.now, name, LIVE, ticket);
  bench.engine.handleToken(bench.now, { ok: "token" });
  bench.engine.handleConnected(bench.now);
  const hello = bench.frame("hello token a live b live c live");
  bench.say(hello.request, welcome());
  bench.say(hello.request, errorBody(Code.NoAccess, "refused", 0, "b"));
  bench.say(hello.request, errorBody(Code.Unavailable, "refused", 0, "c"));
  bench.say(hello.request, subscribed("a", 0));
  const [first, second] = bench.opened;
  assert.deepEqual([first?.ticket, code(first?.result)], [1, Code.NoAccess]);
  assert.ok(second?.ticket === 0 && "ok" in second.result);
  bench.pass(100);
  bench.frame("subscribe c live");
});

test("a reader that is full pulls and others go on", () => {
  const bench = Bench.welcomed({ queue: { messagesMax: 4, bytesMax: 1 << 20 } });
  const key = bench.open("general", LIVE);
  for (let offset = 1; offset <= 4; offset++) bench.push(offset);
  assert.deepEqual(bench.log(), ["starved"]);
  const attach = bench.frame("subscribe general attach");
  for (let offset = 5; offset <= 9; offset++) bench.push(offset);
  assert.equal(bench.events.length, 4, "messages are taken that have no room");
  bench.say(attach.request, subscribed("general", 9));
  assert.deepEqual(bench.asks(), []);
  bench.engine.taken(bench.now, key, 2, 4);
  let asked = bench.frame("history after 4 2");
  const page = (offsets: number[], more: boolean) => {
    const messages = offsets.map((offset) => message(offset));
    bench.say(asked.request, { kind: "page", channel: 7n, messages, more });
  };
  page([5, 6], true);
  assert.deepEqual(bench.log(), ["starved"]);
  bench.engine.taken(bench.now, key, 4, 8);
  asked = bench.frame("history after 6 4");
  page([7, 8, 9], false);
  const read = bench.frame("subscribe general after 1/9");
  bench.say(read.request, subscribed("general", 9, { kind: "whole" }));
  bench.push(10);
  assert.deepEqual(
    bench.events,
    Array.from({ length: 10 }, (_, index) => `1/${index + 1}`),
  );
});

test("a removed user is told and what was sent has its end", () => {
  const bench = Bench.welcomed();
  const key = bench.open("general", LIVE);
  bench.engine.send(bench.now, key, 5, bytes("sent"));
  bench.frame("publish 1 sent");
  bench.engine.send(bench.now, key, 6, bytes("waiting"));
  bench.say(0, { kind: "unsubscribed", channel: 7n, code: Code.Removed, reason: "removed" });
  assert.deepEqual(
    bench.sent.map(({ ticket, result }) => [ticket, kind(result)]),
    [
      [5, "unconfirmed"],
      [6, "refused"],
    ],
  );
  assert.deepEqual(bench.events, ["ended removed (removed)"]);
  bench.engine.send(bench.now, key, 7, bytes(""));
  bench.act();
  assert.equal(code(bench.sent[2]?.result), Code.Removed);
  // Let in again, the user opens the channel anew.
  assert.notEqual(bench.open("general"), key);
});

test("a message over the limit does not leave", () => {
  const bench = Bench.welcomed();
  const key = bench.open("general");
  bench.engine.send(bench.now, key, 5, new Uint8Array((16 << 10) + 1));
  bench.act();
  assert.equal(kind(bench.sent[0]?.result), "too-large");
  assert.deepEqual(bench.asks(), []);
});

test("a handle is tried until its time is over", () => {
  const bench = Bench.welcomed();
  bench.engine.open(bench.now, "general", LIVE, 3);
  let tries = 0;
  while (bench.opened.length === 0) {
    for (const asked of bench.frames()) {
      if (!asked.text.startsWith("subscribe")) continue;
      tries += 1;
      bench.refuse(asked, Code.Unavailable);
    }
    bench.pass(50);
    bench.say(0, { kind: "ping" });
  }
  assert.ok(tries >= 5 && tries < 40, `${tries} tries`);
  assert.deepEqual([bench.opened[0]?.ticket, code(bench.opened[0]?.result)], [3, Code.Unavailable]);
  assert.equal(bench.engine.channels.size, 0, "nobody wants it any more");
});

test("a session that lost a subscription is mended", () => {
  const bench = Bench.welcomed();
  const key = bench.open("general");
  bench.engine.send(bench.now, key, 5, bytes("a"));
  bench.refuse(bench.frame("publish 1 a"), Code.NotSubscribed);
  bench.pass(200);
  const [unsubscribe, subscribe] = bench.frames();
  assert.equal(unsubscribe?.text, "unsubscribe 7");
  assert.equal(subscribe?.text, "subscribe general attach");
  bench.say(subscribe?.request ?? 0, subscribed("general", 0));
  bench.pass(200);
  bench.acknowledge(bench.frame("publish 1 a"), 1);
  const [sent] = bench.sent;
  assert.ok(sent?.ticket === 5 && "ok" in sent.result && sent.result.ok.position.offset === 1);
});

test("a page is asked for again on the next connection", () => {
  const bench = Bench.welcomed();
  const key = bench.open("general");
  bench.engine.history(bench.now, key, 8, NEWEST, 50);
  bench.frame("history newest 50");
  bench.engine.handleDisconnected(bench.now, disconnected("cut"));
  bench.pass(100);
  bench.engine.handleConnected(bench.now);
  const hello = bench.frame("hello");
  bench.say(hello.request, welcome());
  bench.say(hello.request, subscribed("general", 1));
  const asked = bench.frame("history newest 50");
  bench.say(asked.request, { kind: "page", channel: 7n, messages: [message(1)], more: false });
  const [page] = bench.pages;
  assert.ok(page?.ticket === 8 && "ok" in page.result && page.result.ok.messages.length === 1);
  for (let ticket = 0; ticket < 65; ticket++) bench.engine.history(bench.now, key, ticket, NEWEST, 50);
  bench.act();
  assert.deepEqual([bench.pages[1]?.ticket, kind(bench.pages[1]?.result)], [64, "too-many-requests"]);
});

// Until it leaves, the client hears what comes; what it asks belongs on the next connection.
test("a node that leaves refuses and is not left early", () => {
  const bench = Bench.welcomed();
  const key = bench.open("general", LIVE);
  bench.say(0, { kind: "goAway", code: Code.GoingAway, afterMs: 3_000, endpoints: [] });
  bench.engine.send(bench.now, key, 5, bytes("a"));
  bench.refuse(bench.frame("publish"), Code.GoingAway);
  bench.push(1);
  assert.deepEqual(bench.events, ["1/1"]);
  assert.deepEqual(bench.log(), []);
  bench.pass(3_000);
  assert.deepEqual(bench.log(), ["disconnect", "reconnecting 1", "connect ws://a/v1/connect"]);
  bench.engine.handleConnected(bench.now);
  const hello = bench.frame("hello");
  bench.say(hello.request, welcome());
  bench.say(hello.request, subscribed("general", 1, { kind: "whole" }));
  bench.frame("publish 1 a");
});

// Answers to what was sent before the node ended the subscription do not count for what is sent after.
test("answers that come late are for nobody", () => {
  const bench = Bench.welcomed();
  const key = bench.open("general");
  bench.engine.send(bench.now, key, 5, bytes("a"));
  const late = bench.frame("publish 1 a");
  bench.say(0, { kind: "unsubscribed", channel: 7n, code: Code.Unavailable, reason: "away" });
  bench.pass(100);
  bench.say(bench.frame("subscribe").request, subscribed("general", 0));
  bench.frame("publish 1 a");
  bench.refuse(late, Code.TooLarge);
  assert.deepEqual(bench.sent, []);
  bench.refuse(late, Code.RateLimited);
  bench.engine.send(bench.now, key, 6, bytes("b"));
  bench.frame("publish 2 b");
});

test("a refused page is asked for again while there is time", () => {
  const bench = Bench.welcomed();
  const key = bench.open("general");
  for (let ticket = 0; ticket < 6; ticket++) bench.engine.history(bench.now, key, ticket, NEWEST, 50);
  const frames = bench.frames();
  assert.equal(frames.length, 4);
  bench.refuse(frames[0], Code.NoHistory);
  assert.deepEqual([bench.pages[0]?.ticket, code(bench.pages[0]?.result)], [0, Code.NoHistory]);
  let open = frames.slice(1);
  let asked = 0;
  while (bench.pages.length === 1) {
    for (const frame of open) bench.refuse(frame, Code.Busy);
    bench.pass(500);
    bench.say(0, { kind: "ping" });
    open = bench.frames().filter((frame) => frame.request !== 0);
    asked += open.length;
  }
  assert.ok(asked > 5, `${asked}`);
  assert.equal(code(bench.pages[1]?.result), Code.Busy);
});

test("closing waits for what was sent", () => {
  let bench = Bench.welcomed();
  let key = bench.open("general", LIVE);
  bench.engine.send(bench.now, key, 5, bytes("a"));
  bench.engine.close(bench.now);
  assert.deepEqual(bench.log(), []);
  assert.throws(() => bench.engine.open(bench.now, "general", undefined, 9), /the client is closed/);
  bench.acknowledge(bench.frame("publish"), 1);
  assert.deepEqual(bench.log(), ["disconnect", "closed undefined"]);
  assert.deepEqual(bench.events, [], "a subscription that the application closes just ends");
  assert.ok("ok" in (bench.sent[0]?.result ?? {}));

  bench = Bench.welcomed();
  key = bench.open("general");
  bench.engine.send(bench.now, key, 5, bytes("a"));
  bench.frames();
  bench.engine.close(bench.now);
  bench.pass(5_000);
  assert.deepEqual(bench.log(), ["disconnect", "closed timed out waiting for the last acknowledgements"]);
  assert.equal(kind(bench.sent[0]?.result), "unconfirmed");
});

test("bytes that are no frame end the connection", () => {
  const bench = Bench.welcomed();
  bench.engine.handleFrame(bench.now, bytes("not a frame at all"));
  assert.deepEqual(bench.log(), ["disconnect", "reconnecting 1"]);
  bench.engine.handleFrame(bench.now, bytes("late"));
  assert.deepEqual(bench.log(), []);
});

test("an offset that no number holds is no silent mistake", () => {
  const bench = Bench.welcomed();
  bench.open("general", LIVE);
  bench.say(0, { kind: "message", message: { ...message(1), position: { epoch: 1, offset: 2n ** 53n } } });
  assert.deepEqual(bench.log(), ["disconnect", "reconnecting 1"]);
  assert.deepEqual(bench.events, []);
});

test("a released handle is unsubscribed after its messages", () => {
  const bench = Bench.welcomed();
  const key = bench.open("general");
  bench.engine.send(bench.now, key, 5, bytes("a"));
  bench.engine.release(bench.now, key, "sender");
  bench.acknowledge(bench.frame("publish"), 1);
  bench.frame("unsubscribe 7");
  assert.equal(bench.engine.channels.size, 0);
});

test("what the application takes back does not hold up the rest", () => {
  const bench = Bench.welcomed();
  const key = bench.open("general");
  const gone = disconnected("taken back");
  for (let ticket = 1; ticket <= 3; ticket++) bench.engine.send(bench.now, key, ticket, bytes(`${ticket}`));
  bench.engine.cancelSend(bench.now, key, 2, gone);
  bench.act();
  assert.deepEqual([bench.sent[0]?.ticket, kind(bench.sent[0]?.result)], [2, "disconnected"]);
  const [first] = bench.frames();
  assert.equal(first?.text, "publish 1 1");
  bench.engine.cancelSend(bench.now, key, 1, gone);
  bench.act();
  assert.deepEqual([bench.sent[1]?.ticket, kind(bench.sent[1]?.result)], [1, "unconfirmed"], "it is under way");
  bench.engine.cancelSend(bench.now, key, 1, gone);
  bench.act();
  assert.equal(bench.sent.length, 2, "once");
});

test("a connection that may be dead is asked, and left if it does not answer", () => {
  const bench = Bench.welcomed();
  bench.open("general", LIVE);
  const wake = () => bench.engine.handleWake(bench.now, UNIX_MS + bench.now - 5_000);
  bench.pass(1_000);
  wake();
  wake();
  const probe = bench.frame("unsubscribe ");
  assert.notEqual(probe.text, "unsubscribe 7", "never a channel of ours");
  bench.refuse(probe, Code.NotSubscribed);
  bench.pass(10_000);
  assert.deepEqual(bench.log(), [], "it holds, and the application hears nothing of it");
  wake();
  bench.pass(4_999);
  assert.deepEqual(bench.log(), []);
  bench.pass(1);
  assert.deepEqual(bench.log(), ["disconnect", "reconnecting 1"]);
});

test("a network that is back ends the wait, and no storm begins", () => {
  const bench = Bench.welcomed({ backoff: { firstMs: 100_000, maxMs: 100_000 } });
  bench.engine.handleDisconnected(bench.now, disconnected("cut"));
  bench.log();
  const wake = () => bench.engine.handleWake(bench.now, UNIX_MS + bench.now - 5_000);
  wake();
  assert.deepEqual(bench.log(), [], "a second is not over");
  bench.pass(1_000);
  wake();
  assert.deepEqual(bench.log(), ["connect ws://a/v1/connect"]);
});

test("a clock that stood still does not let a token run out", () => {
  const bench = new Bench();
  bench.engine.handleToken(bench.now, { ok: "first" });
  bench.engine.handleConnected(bench.now);
  bench.say(bench.frame("hello").request, welcome({ tokenExpiresMs: BigInt(UNIX_MS + 3_600_000) }));
  bench.log();
  // The machine slept for 59 minutes, and our clock with it.
  bench.engine.handleWake(bench.now, UNIX_MS + 59 * 60_000);
  bench.frames();
  bench.pass(59_000);
  assert.ok(bench.log().includes("token"));
});

test("only rights that change are told, and news of a subscription that we have is no new one", () => {
  const bench = Bench.welcomed();
  bench.open("general", LIVE);
  const news = subscribed("general", 5);
  bench.say(0, { ...news, canPublish: false } as typeof news);
  bench.push(1);
  assert.deepEqual(bench.events, ["canPublish false", "1/1"]);
});

test("messages of one channel do not hold up another's", () => {
  const bench = Bench.welcomed();
  const general = bench.open("general");
  bench.engine.open(bench.now, "news", undefined, 0);
  const news = bench.frame("subscribe news attach");
  bench.say(news.request, { ...subscribed("news", 0), channel: 8n } as ReturnType<typeof subscribed>);
  const newsKey = general + 1;
  for (let ticket = 1; ticket <= 40; ticket++) bench.engine.send(bench.now, general, ticket, bytes("g"));
  bench.engine.send(bench.now, newsKey, 99, bytes("n"));
  assert.equal(bench.asks().indexOf("publish 1 n"), 16);
  assert.deepEqual(at(1), { epoch: 1, offset: 1n });
});

test("what a node complained of long ago does not decide how the connection ends", () => {
  const complain = (bench: Bench) => bench.say(0, errorBody(Code.Invalid, "not like this"));
  const cut = (bench: Bench) => {
    bench.log();
    bench.engine.handleDisconnected(bench.now, disconnected("cut"));
    return bench.log();
  };
  let bench = Bench.welcomed();
  complain(bench);
  assert.deepEqual(cut(bench), ["closed not like this (invalid)"], "said just before, it is the reason");

  bench = Bench.welcomed();
  complain(bench);
  bench.say(0, { kind: "ping" });
  assert.deepEqual(cut(bench), ["reconnecting 1"], "the session went on");

  bench = Bench.welcomed();
  complain(bench);
  bench.pass(5_001);
  assert.deepEqual(cut(bench), ["reconnecting 1"], "long ago");
});
