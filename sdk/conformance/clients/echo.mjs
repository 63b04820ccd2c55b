// Judges an echo server over our WebSocket codec with the `ws` library. What the library cannot send wrong, echo.py does.
//
// node echo.mjs --url ws://127.0.0.1:PORT [--message-bytes-max N] [--only TEXT]

import { randomBytes } from "node:crypto";

import { Peer } from "./peer.mjs";
import { Suite, equal, options, require } from "./suite.mjs";

const { url, only, "message-bytes-max": limit = String(16 << 20) } = options(["url", "message-bytes-max"], ["url"]);
const messageBytesMax = Number(limit);
const suite = new Suite();
const SIZES = [0, 1, 124, 125, 126, 127, 65534, 65535, 65536, 65537, 1 << 20].map((size) => [size]);

const open = (more) => Peer.open(url, [], { perMessageDeflate: false, maxPayload: 0, ...more });
const using = async (run, more) => (await open(more)).use(run);

suite.each(
  [
    ["as it comes", true],
    ["with the smallest window", { serverMaxWindowBits: 9, threshold: 0 }],
    ["with small windows both ways", { serverMaxWindowBits: 13, clientMaxWindowBits: 10, threshold: 0 }],
  ],
  (title) => `compression: the library's, ${title}`,
  (_, perMessageDeflate) =>
    using(
      async (peer) => {
        equal(peer.socket.extensions, "permessage-deflate");
        equal(peer.socket.protocol, "");
        for (const [size] of SIZES) {
          const text = Buffer.from("✓ and so on ".repeat(size / 14));
          peer.socket.send(text, { binary: false });
          await peer.expect("text", text);
          const noise = randomBytes(size);
          peer.socket.send(noise);
          await peer.expect("binary", noise);
        }
      },
      { perMessageDeflate },
    ),
);

suite.case("compression: one that keeps nothing of what was sent is declined what needs it", () =>
  using((peer) => equal(peer.socket.extensions, ""), { perMessageDeflate: { serverMaxWindowBits: 8 } }),
);

suite.case("handshake: another version is answered 426 and names ours", () =>
  new Peer(url, [], { protocolVersion: 8 }).use(async (peer) => {
    const response = await new Promise((resolve) => peer.socket.on("unexpected-response", (_, found) => resolve(found)));
    equal(response.statusCode, 426, "status");
    equal(response.headers["sec-websocket-version"], "13", "Sec-WebSocket-Version");
  }),
);

suite.each(SIZES, (size) => `text of ${size} bytes comes back`, (size) =>
  using(async (peer) => {
    const text = Buffer.from("✓".repeat(size / 3) + "x".repeat(size % 3));
    peer.socket.send(text, { binary: false });
    await peer.expect("text", text);
  }),
);

suite.each(SIZES, (size) => `binary of ${size} bytes comes back`, (size) =>
  using(async (peer) => {
    const data = randomBytes(size);
    peer.socket.send(data);
    await peer.expect("binary", data);
  }),
);

suite.case("fragments with pings between come back whole, the pongs first", () =>
  using(async (peer) => {
    peer.socket.send("one ", { fin: false });
    peer.socket.ping("1");
    peer.socket.send("", { fin: false });
    peer.socket.ping(Buffer.alloc(125, 7));
    peer.socket.pong("unasked");
    peer.socket.send("two", { fin: true });
    await peer.expect("pong", Buffer.from("1"));
    await peer.expect("pong", Buffer.alloc(125, 7));
    await peer.expect("text", Buffer.from("one two"));
  }),
);

suite.case("2,000 messages of mixed sizes come back in order", () =>
  using(async (peer) => {
    const sent = Array.from({ length: 2000 }, (_, number) => Buffer.alloc((number * 37) % 3000, number));
    for (const data of sent) peer.socket.send(data);
    for (const data of sent) await peer.expect("binary", data);
  }),
);

suite.case("a character split between fragments comes back", () =>
  using(async (peer) => {
    const text = Buffer.from("κόσμε 𝄞");
    text.forEach((_, at) => peer.socket.send(text.subarray(at, at + 1), { binary: false, fin: at === text.length - 1 }));
    await peer.expect("text", text);
  }),
);

suite.case("text that is not UTF-8 is told 1007", () =>
  using(async (peer) => {
    peer.socket.send(Buffer.from([0x6f, 0x6b, 0xed, 0xa0, 0x80]), { binary: false });
    await peer.expectClose(1007);
  }),
);

suite.case("text that is not UTF-8 in its second fragment is told 1007", () =>
  using(async (peer) => {
    peer.socket.send(Buffer.from([0x6f, 0xe2]), { binary: false, fin: false });
    peer.socket.send(Buffer.from([0x6b]), { binary: false, fin: false });
    await peer.expectClose(1007);
  }),
);

suite.each([["text"], ["binary"]], (kind) => `an unmasked ${kind} frame is told 1002`, (kind) =>
  using(async (peer) => {
    peer.socket.send("plain", { mask: false, binary: kind === "binary" });
    await peer.expectClose(1002);
  }),
);

suite.case("an unmasked ping is told 1002", () =>
  using(async (peer) => {
    peer.socket.ping("plain", false);
    await peer.expectClose(1002);
  }),
);

const KEY = "00000000";
suite.each(
  [
    ["RSV1", "c180" + KEY, 1002],
    ["RSV2", "a180" + KEY, 1002],
    ["RSV3", "9180" + KEY, 1002],
    ["opcode 3", "8380" + KEY, 1002],
    ["opcode 15", "8f80" + KEY, 1002],
    ["a continuation of nothing", "8080" + KEY, 1002],
    ["a fragmented ping", "0980" + KEY, 1002],
    ["a long ping", "89fe007e" + KEY, 1002],
    ["a length that is not minimal", "82fe0005" + KEY, 1002],
    ["a length with its highest bit", "82ff8000000000000000" + KEY, 1002],
    ["a length of 2^62", "82ff4000000000000000" + KEY, 1009],
    ["a close of one byte", "8881" + KEY + "03", 1002],
    ["close code 1005", "8882" + KEY + "03ed", 1002],
    ["close code 999", "8882" + KEY + "03e7", 1002],
    ["close code 2999", "8882" + KEY + "0bb7", 1002],
    ["close code 5000", "8882" + KEY + "1388", 1002],
    ["a close reason that is not UTF-8", "8883" + KEY + "03e8ff", 1007],
  ],
  (what, _, code) => `${what} is told ${code}`,
  (_, hex, code) =>
    using(async (peer) => {
      peer.write(Buffer.from(hex, "hex"));
      await peer.expectClose(code);
    }),
);

suite.case("a message over the limit is told 1009", () =>
  using(async (peer) => {
    peer.socket.send(Buffer.alloc(messageBytesMax + 1));
    await peer.expectClose(1009);
  }),
);

suite.case("fragments over the limit together are told 1009", () =>
  using(async (peer) => {
    const half = Buffer.alloc(messageBytesMax / 2 + 1);
    peer.socket.send(half, { fin: false });
    peer.socket.send(half, { fin: true });
    await peer.expectClose(1009);
  }),
);

suite.each([[1000], [1001], [1011], [3000], [4203], [4999]], (code) => `close ${code} is answered with the same`, (code) =>
  using(async (peer) => peer.close(code)),
);

suite.case("close without a code is answered without one", () =>
  using(async (peer) => {
    peer.socket.close();
    await peer.expectClose(1005);
  }),
);

suite.case("100 connections at once", async () => {
  const peers = await Promise.all(Array.from({ length: 100 }, () => open()));
  await Promise.all(
    peers.map((peer, number) =>
      peer.use(async () => {
        peer.socket.send(`hello ${number}`);
        await peer.expect("text", Buffer.from(`hello ${number}`));
        require(peer.socket.readyState === peer.socket.OPEN, "still open");
        await peer.close();
      }),
    ),
  );
});

await suite.run(only);
