// What carries frames besides a WebSocket: a session's streams, and which of two ways to a node is taken.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Endpoints, parseEndpoint, places } from "../src/engine/endpoints.js";
import { racing } from "../src/transport/racing.js";
import { FrameReader } from "../src/transport/stream.js";
import { webSocket } from "../src/transport/websocket.js";
import { type WebTransportLike, webTransport } from "../src/transport/webtransport.js";
import type { Connection, End, Transport, TransportEvents } from "../src/transport.js";
import { message, subscribed, welcome } from "./support/bench.js";
import { encodeServer } from "./support/node-codec.js";

const settled = () => new Promise<void>((resolve) => setImmediate(resolve));

test("URLs of one host are two ways to one node", () => {
  const check = (urls: string[], endpoints: string[], beside: Record<string, string>) => {
    const found = places(urls.map(parseEndpoint));
    const short = (url: string) => url.replace("/v1/connect", "");
    assert.deepEqual(found.endpoints.map(short), endpoints);
    assert.deepEqual(Object.fromEntries([...found.beside].map((pair) => pair.map(short))), beside);
  };
  check(["wss://a"], ["wss://a"], {});
  check(["https://a"], ["wss://a"], { "wss://a": "https://a" });
  check(["https://a:7443"], ["wss://a:7443"], { "wss://a:7443": "https://a:7443" });
  check(["wss://b", "https://a:1", "wss://a:2"], ["wss://b", "wss://a:2"], { "wss://a:2": "https://a:1" });
  // Out of TLS it goes on this machine alone, where a page may not know the authority.
  check(["ws://a", "https://a:1"], ["ws://a", "wss://a:1"], { "wss://a:1": "https://a:1" });
  const here = ["ws://127.0.0.1:7400", "wss://127.0.0.1:7443"];
  check([...here, "https://127.0.0.1:7443"], here, { "ws://127.0.0.1:7400": "https://127.0.0.1:7443" });
  check(["https://[::1]:2", "ws://[::1]:1"], ["ws://[::1]:1"], { "ws://[::1]:1": "https://[::1]:2" });
  // Two nodes of one host have a way each.
  check(["https://a:1", "https://a:2", "wss://a:1", "wss://a:2"], ["wss://a:1", "wss://a:2"], {
    "wss://a:1": "https://a:1",
    "wss://a:2": "https://a:2",
  });
  assert.throws(() => parseEndpoint("http://a"), /no scheme for this connection/);
});

test("a node's advice may name both ways", () => {
  const endpoints = new Endpoints(["wss://a/v1/connect"]);
  assert.equal(endpoints.next(), "wss://a/v1/connect");
  endpoints.advise(["https://b", "wss://b", "ws://b", "quic://b"], 0);
  assert.equal(endpoints.next(), "wss://b/v1/connect");
  assert.equal(endpoints.besideOf("wss://b/v1/connect"), "https://b/v1/connect");
});

test("a WebSocket that is closing is given nothing", async () => {
  const given: number[] = [];
  const made: { readyState: number }[] = [];
  class Socket {
    binaryType = "";
    bufferedAmount = 0;
    protocol = "millrace.v1";
    readyState = 1;
    onopen = null;
    onmessage = null;
    onerror = null;
    onclose = null;
    constructor() {
      made.push(this);
    }
    send(frame: Uint8Array) {
      given.push(frame.length);
    }
    close() {}
  }
  const connection = webSocket(() => Socket).open("ws://a", { opened() {}, frame() {}, closed() {} });
  await settled();
  connection.send(new Uint8Array(3));
  for (const closing of [2, 3]) {
    for (const socket of made) socket.readyState = closing;
    connection.send(new Uint8Array(4));
  }
  assert.deepEqual([made.length, given], [1, [3]]);
});

test("frames are found however a stream is cut", () => {
  const frames = [encodeServer({ request: 1, body: welcome() }), encodeServer({ request: 0, body: { kind: "ping" } })];
  const all = [...frames, ...frames, ...frames];
  const stream = Buffer.concat(all);
  for (const size of [1, 3, 8, 9, 64, stream.length]) {
    const reader = new FrameReader();
    const found: Uint8Array[] = [];
    for (let at = 0; at < stream.length; at += size) {
      reader.push(stream.subarray(at, at + size));
      for (let frame = reader.next(); frame !== undefined; frame = reader.next()) found.push(frame);
    }
    assert.deepEqual(
      found.map((frame) => Buffer.from(frame)),
      all.map((frame) => Buffer.from(frame)),
      `by ${size}`,
    );
    assert.ok(reader.isBetween);
  }
  const refuses = (...bytes: number[]) => {
    const reader = new FrameReader();
    reader.push(Uint8Array.from(bytes));
    assert.throws(() => reader.next());
  };
  refuses(1, 0, 0, 0, 1, 0, 0, 0);
  refuses(0, 0, 0, 0, 0, 0, 0, 0);
  refuses(0, 0, 0, 0, 0, 0, 0, 1);
});

/** A browser's session, whose node is the test. */
class Session implements WebTransportLike {
  static last: Session | undefined;
  readonly ready: Promise<void>;
  readonly closed: Promise<{ closeCode?: number; reason?: string }>;
  readonly incomingUnidirectionalStreams: ReadableStream<ReadableStream<Uint8Array>>;
  readonly sent: Uint8Array[] = [];
  isClosed = false;
  open = () => {};
  refuse: (error: Error) => void = () => {};
  finish: (info: { closeCode?: number; reason?: string }) => void = () => {};
  private streams: ReadableStreamDefaultController<ReadableStream<Uint8Array>> | undefined;
  private control: ReadableStreamDefaultController<Uint8Array> | undefined;

  constructor(
    readonly url: string,
    readonly options: unknown,
  ) {
    this.ready = new Promise((resolve, reject) => {
      this.open = resolve;
      this.refuse = reject;
    });
    this.closed = new Promise((resolve) => {
      this.finish = resolve;
    });
    this.incomingUnidirectionalStreams = new ReadableStream({
      start: (streams) => {
        this.streams = streams;
      },
    });
    Session.last = this;
  }

  async createBidirectionalStream() {
    return {
      readable: new ReadableStream<Uint8Array>({
        start: (control) => {
          this.control = control;
        },
      }),
      writable: new WritableStream<Uint8Array>({ write: (bytes) => void this.sent.push(bytes) }),
    };
  }

  close() {
    this.isClosed = true;
  }

  says(bytes: Uint8Array): void {
    this.control?.enqueue(bytes);
  }

  opens(): ReadableStreamDefaultController<Uint8Array> {
    let opened: ReadableStreamDefaultController<Uint8Array> | undefined;
    this.streams?.enqueue(
      new ReadableStream<Uint8Array>({
        start: (stream) => {
          opened = stream;
        },
      }),
    );
    return opened ?? assert.fail("no stream");
  }
}

class Ear implements TransportEvents {
  heard: string[] = [];
  end: End | undefined;
  private readonly names = new Map<string, string>();
  named(name: string, frame: Uint8Array): Uint8Array {
    this.names.set(Buffer.from(frame).toString("hex"), name);
    return frame;
  }
  opened() {
    this.heard.push("opened");
  }
  frame(bytes: Uint8Array) {
    this.heard.push(this.names.get(Buffer.from(bytes).toString("hex")) ?? "?");
  }
  closed(end: End) {
    this.end = end;
  }
}

async function opened(): Promise<{ ear: Ear; session: Session; connection: Connection }> {
  const ear = new Ear();
  const connection = webTransport([], () => Session).open("https://a/v1/connect", ear);
  await settled();
  const session = Session.last ?? assert.fail("no session");
  session.open();
  await settled();
  assert.deepEqual(ear.heard.splice(0), ["opened"]);
  return { ear, session, connection };
}

test("channels' streams wait for the welcome, and for an earlier one of the same channel", async () => {
  const { ear, session } = await opened();
  const answer = (name: string, channel: bigint) =>
    ear.named(name, encodeServer({ request: 2, body: { ...subscribed(name, 0), channel } as never }));
  const news = (name: string, offset: number) =>
    ear.named(name, encodeServer({ request: 0, body: { kind: "message", message: message(offset) } }));
  const [first, other, second] = [session.opens(), session.opens(), session.opens()];
  first.enqueue(answer("first", 7n));
  first.enqueue(news("1", 1));
  other.enqueue(answer("other", 8n));
  second.enqueue(answer("second", 7n));
  second.enqueue(news("3", 3));
  second.close();
  await settled();
  assert.deepEqual(ear.heard, []);
  session.says(ear.named("welcome", encodeServer({ request: 1, body: welcome() })));
  await settled();
  assert.deepEqual(ear.heard.splice(0).sort(), ["1", "first", "other", "welcome"]);
  first.enqueue(news("2", 2));
  await settled();
  assert.deepEqual(ear.heard.splice(0), ["2"]);
  first.close();
  await settled();
  assert.deepEqual(ear.heard.splice(0), ["second", "3"]);
  assert.equal(ear.end, undefined);
});

test("what was given to be sent counts until it has left", async () => {
  const { session, connection } = await opened();
  connection.send(new Uint8Array(100));
  assert.equal(connection.bufferedBytes, 100);
  await settled();
  assert.deepEqual([connection.bufferedBytes, session.sent.length], [0, 1]);
  connection.close();
  assert.ok(session.isClosed);
});

test("the ways in which a session ends", async () => {
  const check = async (act: (session: Session) => void, code: number, reason: RegExp) => {
    const { ear, session } = await opened();
    act(session);
    await settled();
    await settled();
    assert.equal(ear.end?.code, code);
    assert.match(ear.end?.reason ?? "", reason);
  };
  await check((session) => session.finish({ closeCode: 4201, reason: "slow" }), 4201, /slow/);
  await check((session) => session.finish({ closeCode: 0, reason: "" }), 1000, /^$/);
  await check((session) => session.says(Uint8Array.from([9, 9, 9, 9, 9, 9, 9, 9])), 1006, /no frame/);
  await check((session) => session.opens().enqueue(encodeServer({ request: 1, body: welcome() })), 1006, /begins with/);
  await check(
    (session) => {
      const stream = session.opens();
      stream.enqueue(new Uint8Array(3));
      stream.close();
    },
    1006,
    /within a frame/,
  );

  const ear = new Ear();
  webTransport([{ algorithm: "sha-256", value: "AAEC" }], () => Session).open("https://a/v1/connect", ear);
  await settled();
  const session = Session.last ?? assert.fail("no session");
  const hashes = [{ algorithm: "sha-256", value: Uint8Array.from([0, 1, 2]) }];
  assert.deepEqual(session.options, { serverCertificateHashes: hashes });
  session.refuse(new Error("handshake failed"));
  await settled();
  assert.deepEqual(ear.end, { code: 1006, reason: "handshake failed" });
  const nowhere = new Ear();
  webTransport([], () => undefined).open("https://a/v1/connect", nowhere);
  await settled();
  assert.match(nowhere.end?.reason ?? "", /no WebTransport/);
});

/** Two ways, a clock, and what was told. */
class Field {
  now = 0;
  timers: { at: number; then: () => void }[] = [];
  tries: { url: string; events: TransportEvents; isClosed: boolean; sent: number }[] = [];
  isAvailable = true;
  readonly transport = racing(
    this.way(),
    { ...this.way(), isAvailable: () => this.isAvailable },
    {
      now: () => this.now,
      after: (ms, then) => {
        const timer = { at: this.now + ms, then };
        this.timers.push(timer);
        return () => {
          this.timers = this.timers.filter((other) => other !== timer);
        };
      },
    },
  );

  private way(): Transport {
    return {
      open: (url, events) => {
        const attempt = { url, events, isClosed: false, sent: 0 };
        this.tries.push(attempt);
        return {
          bufferedBytes: 5,
          send: () => {
            attempt.sent += 1;
          },
          close: () => {
            attempt.isClosed = true;
          },
        };
      },
    };
  }

  pass(ms: number): void {
    this.now += ms;
    for (const { then } of this.timers.filter(({ at }) => at <= this.now)) then();
    this.timers = this.timers.filter(({ at }) => at > this.now);
  }

  open(): { ear: Ear; connection: Connection } {
    const ear = new Ear();
    return { ear, connection: this.transport.open("wss://a", ear, "https://a") };
  }

  get urls(): string[] {
    return this.tries.map(({ url, isClosed }) => (isClosed ? `(${url})` : url));
  }
}

const FAILED: End = { code: 1006, reason: "failed" };

test("WebTransport that is open in time is alone", () => {
  const field = new Field();
  const { ear, connection } = field.open();
  field.pass(149);
  assert.deepEqual(field.urls, ["https://a"]);
  field.tries[0]?.events.opened();
  field.pass(1_000_000);
  assert.deepEqual([field.urls, ear.heard], [["https://a"], ["opened"]]);
  connection.send(new Uint8Array(1));
  assert.deepEqual([field.tries[0]?.sent, connection.bufferedBytes], [1, 5]);
  field.tries[0]?.events.closed({ code: 4201, reason: "slow" });
  assert.deepEqual(ear.end, { code: 4201, reason: "slow" });
});

test("a network without UDP costs the head start once, and is remembered", () => {
  const field = new Field();
  const { ear } = field.open();
  field.pass(150);
  assert.deepEqual(field.urls, ["https://a", "wss://a"]);
  field.tries[1]?.events.opened();
  assert.deepEqual([field.urls, ear.heard], [["(https://a)", "wss://a"], ["opened"]]);
  // Late news of the loser are nobody's.
  field.tries[0]?.events.opened();
  field.tries[0]?.events.closed(FAILED);
  assert.deepEqual([ear.heard, ear.end], [["opened"], undefined]);

  field.tries = [];
  field.open();
  field.pass(60_000);
  assert.deepEqual(field.urls, ["wss://a"]);
  // It stands in for a WebSocket that fails.
  field.tries[0]?.events.closed(FAILED);
  assert.deepEqual(field.urls, ["wss://a", "https://a"]);
  field.tries[1]?.events.opened();

  // It has won: it goes first again.
  field.tries = [];
  field.open();
  assert.deepEqual(field.urls, ["https://a"]);
  field.pass(150);
  field.tries[1]?.events.opened();
  field.tries = [];
  field.pass(5 * 60_000);
  field.open();
  assert.deepEqual(field.urls, ["https://a"]);
});

test("a way that fails leaves the field to the other at once, and to nobody for long", () => {
  const field = new Field();
  const { ear } = field.open();
  field.pass(10);
  field.tries[0]?.events.closed(FAILED);
  assert.deepEqual(field.urls, ["https://a", "wss://a"]);
  field.tries[1]?.events.closed({ code: 1006, reason: "refused" });
  assert.deepEqual(ear.end, { code: 1006, reason: "refused" });
  assert.deepEqual(field.timers, []);

  field.tries = [];
  const { ear: patient } = field.open();
  field.pass(150);
  field.tries[1]?.events.closed({ code: 1006, reason: "refused" });
  field.pass(999);
  assert.deepEqual([patient.end], [undefined]);
  field.pass(1);
  assert.deepEqual([patient.end?.reason, field.urls], ["refused", ["(https://a)", "wss://a"]]);
});

test("a race that nobody waits for is over", () => {
  const field = new Field();
  const { connection } = field.open();
  field.pass(150);
  connection.close();
  assert.deepEqual([field.urls, field.timers], [["(https://a)", "(wss://a)"], []]);
  field.isAvailable = false;
  field.tries = [];
  field.open();
  assert.deepEqual(field.urls, ["wss://a"]);
});
