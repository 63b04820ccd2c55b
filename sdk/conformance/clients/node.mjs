// Judges a Millrace data node with the `ws` library and capnp-es. What these cannot send wrong, node.py does.
//
// node node.mjs --url ws://127.0.0.1:PORT --token T [--expired-token T] [--channel general] [--handshake-seconds 10]

import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";

import { decode, encode } from "./frames.mjs";
import { Peer } from "./peer.mjs";
import { Failure, Suite, equal, options, require } from "./suite.mjs";

const given = options(["url", "token", "expired-token", "channel", "handshake-seconds"], ["url", "token"]);
const { token, channel: name = "general" } = given;
const url = endpoint(given.url);
const handshakeSeconds = Number(given["handshake-seconds"] ?? 10);
const SUBPROTOCOL = "millrace.v1";
const vectors = JSON.parse(readFileSync(new URL("../vectors/client.json", import.meta.url), "utf8"));
const suite = new Suite();

/** The URL with the path of data nodes, if it has none: `ws://127.0.0.1:7400` is what `millrace dev` prints. */
function endpoint(text) {
  const parsed = new URL(text);
  if (parsed.pathname === "/") parsed.pathname = "/v1/connect";
  return parsed.href;
}

const marked = (text) => Buffer.from(`${text} ${randomBytes(6).toString("hex")} ✓`);
const hello = (more) => ({ hello: { versionMin: 1, versionMax: 1, token, agent: "conformance/node", subscriptions: [], ...more } });

/** Sends requests and waits for their answers; frames that answer none wait in an inbox. */
class Session extends Peer {
  inbox = [];
  lastRequest = 0;
  lastSequence = 0n;
  producer = randomBytes(8).readBigUInt64LE() | 1n;

  static async connect(perMessageDeflate = false) {
    const session = new Session(url, [SUBPROTOCOL], { perMessageDeflate });
    await session.expect("open");
    equal(session.socket.protocol, SUBPROTOCOL, "sub-protocol");
    return session;
  }

  static async start(more, perMessageDeflate) {
    const session = await Session.connect(perMessageDeflate);
    session.welcome = await session.ask("welcome", hello(more));
    return session;
  }

  send(request, body) {
    this.socket.send(encode(request, body));
  }

  /** The next frame but pings, which it answers. */
  async read() {
    for (;;) {
      const event = await this.next();
      if (event.kind !== "binary") throw new Failure(`a ${event.kind} (${event.code}) instead of a frame`);
      const frame = decode(event.data);
      if (frame.member !== "ping") return frame;
      this.send(0, { pong: null });
    }
  }

  async answer(request) {
    for (;;) {
      const frame = await this.read();
      if (frame.request === request) return frame;
      require(frame.request === 0, `an answer to request ${frame.request}, which nobody made: ${frame.member}`);
      this.inbox.push(frame);
    }
  }

  async ask(expect, body) {
    const request = ++this.lastRequest;
    this.send(request, body);
    const { member, content } = await this.answer(request);
    if (member !== expect) throw new Failure(`the answer is ${member} (${content?.code} ${content?.message}), expected ${expect}`);
    return content;
  }

  async refused(code, body) {
    const error = await this.ask("error", body);
    equal(error.code, code, `code of "${error.message}"`);
    return error;
  }

  subscribe(start = { live: null }) {
    return this.ask("subscribed", { subscribe: { channel: name, ...start } });
  }

  publish(channel, body, sequence = ++this.lastSequence) {
    return this.ask("published", { publish: { channel, producer: this.producer, sequence, body } });
  }

  async message() {
    const { member, content } = this.inbox.shift() ?? (await this.read());
    equal(member, "message", "frame");
    return content;
  }

  /** The node answers the request to blame (0: bytes that are none) with an error, then closes with the same code. */
  async expectEnd(code, request = 0) {
    let last;
    for (;;) {
      const event = await this.next();
      if (event.kind === "close") {
        equal(event.code, code, "close code");
        break;
      }
      equal(event.kind, "binary", "event");
      last = decode(event.data);
    }
    require(last !== undefined, "a close frame, but no error before it");
    equal(`${last.request} ${last.member} ${last.content?.code}`, `${request} error ${code}`, "last frame before the close");
    require(last.content.message !== "", "an error says something to a person");
  }
}

const connected = async (run) => (await Session.connect()).use(run);
const started = async (run, more) => (await Session.start(more)).use(run);

async function refusedRequest(protocols, target, status) {
  const peer = new Peer(target, protocols);
  await peer.use(async () => {
    const late = new Promise((_, reject) => peer.socket.on("open", () => reject(new Failure("it was accepted"))));
    const answer = new Promise((resolve) => peer.socket.on("unexpected-response", (_, response) => resolve(response)));
    equal((await Promise.race([answer, late])).statusCode, status, "status");
  });
}

suite.case("handshake: another path is answered 404", () => refusedRequest([SUBPROTOCOL], new URL("/other", url).href, 404));
suite.case("handshake: no sub-protocol is answered 400", () => refusedRequest([], url, 400));
suite.case("handshake: another sub-protocol is answered 400", () => refusedRequest(["millrace.v0"], url, 400));

const FRAMING = [
  ["a text frame", 1003, (socket) => socket.send("hello")],
  ["a text frame that is not UTF-8", 1007, (socket) => socket.send(Buffer.from([0xff]), { binary: false })],
  ["an unmasked frame", 1002, (socket) => socket.send(encode(1, { pong: null }), { mask: false })],
  ["a frame of 1 MiB", 1009, (socket) => socket.send(Buffer.alloc(1 << 20))],
  ["fragments of 1 MiB together", 1009, (socket) => {
    for (let part = 0; part < 16; part += 1) socket.send(Buffer.alloc(1 << 16), { fin: part === 15 });
  }],
];

suite.each(FRAMING, (what, code) => `framing: ${what} instead of hello is told ${code}`, (_, code, send) =>
  connected(async (session) => {
    send(session.socket);
    await session.expectClose(code);
  }),
);

suite.each(FRAMING, (what, code) => `framing: ${what} after hello is told ${code}`, (_, code, send) =>
  started(async (session) => {
    send(session.socket);
    await session.expectClose(code);
  }),
);

suite.case("compression: the library's, for messages and pages both ways", async () => {
  const session = await Session.start({}, { threshold: 0 });
  await session.use(async () => {
    equal(session.socket.extensions, "permessage-deflate");
    const { channel } = await session.subscribe();
    const bodies = [marked("as before, and again ".repeat(200)), marked("short"), randomBytes(5_000)];
    for (const body of bodies) {
      await session.publish(channel, body);
      equal(Buffer.from((await session.message()).body), body, "body");
    }
    const page = await session.ask("page", { history: { channel, messagesMax: 3, newest: null } });
    page.messages.forEach((message, index) => equal(Buffer.from(message.body), bodies[index], "body on the page"));
  });
});

suite.case("framing: a ping is answered, also between the fragments of a hello", () =>
  connected(async (session) => {
    const wire = encode(1, hello());
    session.socket.send(wire.subarray(0, 20), { fin: false });
    session.socket.ping("between");
    await session.expect("pong", Buffer.from("between"));
    session.socket.send(wire.subarray(20), { fin: true });
    equal((await session.answer(1)).member, "welcome");
    session.socket.ping("after");
    await session.expect("pong", Buffer.from("after"));
  }),
);

suite.case("framing: close is answered", () => started((session) => session.close(1000)));

const BAD_FRAMES = vectors.refused.filter(({ code }) => code === 4000).map((vector) => [vector.name, Buffer.from(vector.hex, "hex")]);
BAD_FRAMES.push(["random bytes", randomBytes(200)]);

suite.each(BAD_FRAMES, (what) => `session: bad Cap'n Proto (${what}) ends it with 4000`, (_, bytes) =>
  connected(async (session) => {
    session.socket.send(bytes);
    await session.expectEnd(4000);
  }),
);

suite.each([[2, 9], [0, 0]], (low, high) => `session: versions ${low} to ${high} end it with 4001`, (low, high) =>
  connected(async (session) => {
    session.send(1, hello({ versionMin: low, versionMax: high }));
    await session.expectEnd(4001, 1);
  }),
);

suite.case("session: subscribe instead of hello ends it with 4002", () =>
  connected(async (session) => {
    session.send(5, { subscribe: { channel: name, live: null } });
    await session.expectEnd(4002, 5);
  }),
);

suite.each([["", "an empty token"], ["no.token.here", "a token that is none"]], (_, what) => `session: ${what} ends it with 4400`, (bad) =>
  connected(async (session) => {
    session.send(1, hello({ token: bad }));
    await session.expectEnd(4400, 1);
  }),
);

suite.case("session: a token of 4,097 bytes ends it with 4003, like any frame over a limit", () =>
  connected(async (session) => {
    session.send(1, hello({ token: "x".repeat(4097) }));
    await session.expectEnd(4003);
  }),
);

if (given["expired-token"] !== undefined) {
  suite.case("session: an expired token ends it with 4401", () =>
    connected(async (session) => {
      session.send(1, hello({ token: given["expired-token"] }));
      await session.expectEnd(4401, 1);
    }),
  );
}

suite.case("session: silence in the handshake ends it with 4203 in time", () =>
  connected(async (session) => {
    const start = performance.now();
    await session.expectClose(4203, handshakeSeconds + 5);
    const seconds = (performance.now() - start) / 1000;
    require(seconds >= handshakeSeconds / 2, `it took ${seconds} s, the limit is ${handshakeSeconds} s`);
  }),
);

suite.case("publish: acknowledged, delivered once, found in the history, a duplicate when sent again", () =>
  started(async (session) => {
    const { channel, position, canPublish, history, recovery } = await session.subscribe();
    equal(`${canPublish} ${history} ${recovery}`, "true 0 none", "subscribed");
    const body = marked("hello");
    const published = await session.publish(channel, body);
    equal(published.position.offset, position.offset + 1n, "offset");
    equal(published.duplicate, false, "duplicate");
    const message = await session.message();
    equal(message.body, body, "body");
    equal(message.position.offset, published.position.offset, "offset of the message");
    equal(message.producer, session.producer, "producer");

    const again = await session.publish(channel, body, 1n);
    equal(`${again.duplicate} ${again.position.offset}`, `true ${published.position.offset}`, "sent again");
    const next = marked("next");
    await session.publish(channel, next);
    equal((await session.message()).body, next, "the next message");

    const page = await session.ask("page", { history: { channel, messagesMax: 2, newest: null } });
    equal(page.messages.length, 2, "messages of the page");
    equal(page.messages[0].body, body, "first of the page");
    equal(page.messages[1].body, next, "second of the page");
  }),
);

suite.case("publish: a gap in the sequence is refused with 4009", () =>
  started(async (session) => {
    const { channel } = await session.subscribe({ attach: null });
    await session.publish(channel, marked("one"));
    await session.refused(4009, { publish: { channel, producer: session.producer, sequence: 3n, body: marked("three") } });
  }),
);

suite.case("publish: of the largest size it goes through, one byte more is refused with 4003", () =>
  started(async (session) => {
    const { channel } = await session.subscribe();
    const largest = randomBytes(session.welcome.payloadBytesMax);
    await session.publish(channel, largest);
    equal((await session.message()).body, largest, "body");
    const body = Buffer.concat([largest, Buffer.from("x")]);
    await session.refused(4003, { publish: { channel, producer: session.producer, sequence: 2n, body } });
    await session.publish(channel, marked("after"));
  }),
);

suite.case("resume: what was missed comes in order, then what is new", () =>
  started((writer) =>
    connected(async (reader) => {
      const { channel } = await writer.subscribe({ attach: null });
      const { position } = await writer.publish(channel, marked("seen"));
      const bodies = Array.from({ length: 10 }, (_, number) => marked(`missed ${number}`));
      for (const body of bodies) await writer.publish(channel, body);
      reader.send(3, hello({ subscriptions: [{ channel: name, after: position }] }));
      equal((await reader.answer(3)).member, "welcome");
      const subscribed = await reader.answer(3);
      equal(`${subscribed.member} ${subscribed.content.recovery}`, "subscribed whole");
      bodies.push(marked("live"));
      await writer.publish(channel, bodies.at(-1));
      for (const body of bodies) equal((await reader.message()).body, body, "body");
    }),
  ),
);

suite.case("subscribe: a channel that there is none of is refused with 4005", () =>
  started(async (session) => {
    const error = await session.refused(4005, { subscribe: { channel: "no-such-channel", live: null } });
    equal(error.channel, "no-such-channel", "channel of the error");
    await session.subscribe();
  }),
);

await suite.run(given.only);
