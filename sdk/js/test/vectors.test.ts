// The golden vectors of sdk/conformance, as their README asks: decoded, encoded, decoded again, cut short and refused.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { decodeServer } from "../src/wire/decode.js";
import { encodeClient } from "../src/wire/encode.js";
import type { ClientFrame, ServerFrame, WireMessage, WirePosition, WireSubscribe } from "../src/wire/frames.js";
import { FrameError } from "../src/wire/segment.js";
import { type DecodedClientFrame, decodeClient, encodeServer } from "./support/node-codec.js";

interface Vectors {
  frames: { name: string; hex: string; meaning: Record<string, unknown> }[];
  refused: { name: string; hex: string; code: number }[];
}

const folder = new URL("../../../conformance/vectors/", import.meta.url);
const read = (name: string) => JSON.parse(readFileSync(new URL(name, folder), "utf8"));
const foreign: Record<string, Record<string, string>> = read("foreign.json");

interface Side<Frame extends { request: number; body: { kind: string } }> {
  root: string;
  vectors: Vectors;
  decode(bytes: Uint8Array): Frame;
  encode(frame: Frame): Uint8Array;
  meaning(frame: Frame): Record<string, unknown>;
}

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");
const bytes = (text: string) => new Uint8Array(Buffer.from(text, "hex"));
const place = ({ epoch, offset }: WirePosition) => ({ epoch, offset: `${offset}` });

function shifted(text: string): Uint8Array {
  const frame = bytes(text);
  const room = new Uint8Array(frame.length + 3);
  room.set(frame, 3);
  return room.subarray(3);
}

const subscribe = ({ channel, start }: WireSubscribe) => ({
  channel,
  ...(start.kind === "after" ? { after: place(start.position) } : { [start.kind]: null }),
});

const client: Side<DecodedClientFrame> = {
  root: "ClientFrame",
  vectors: read("client.json"),
  decode: decodeClient,
  encode: (frame) => encodeClient(frame as ClientFrame),
  meaning({ request, body }) {
    switch (body.kind) {
      case "hello": {
        const { kind: _, features, subscriptions, ...rest } = body;
        return { request, hello: { ...rest, features: `${features}`, subscriptions: subscriptions.map(subscribe) } };
      }
      case "subscribe":
        return { request, subscribe: subscribe(body.subscribe) };
      case "unsubscribe":
        return { request, unsubscribe: { channel: `${body.channel}` } };
      case "publish": {
        const { channel, producer, sequence } = body;
        const numbers = { channel: `${channel}`, producer: `${producer}`, sequence: `${sequence}` };
        return { request, publish: { ...numbers, body: hex(body.body) } };
      }
      case "history": {
        const { channel, messagesMax, range } = body;
        const part = range.kind === "newest" ? { newest: null } : { [range.kind]: `${range.offset}` };
        return { request, history: { channel: `${channel}`, messagesMax, ...part } };
      }
      case "refresh":
        return { request, refresh: { token: body.token } };
      case "markRead":
        return { request, markRead: { channel: `${body.channel}`, position: place(body.position) } };
      case "pong":
      case "unknown":
        return { request, [body.kind]: null };
    }
  },
};

const message = (from: WireMessage) => ({
  channel: `${from.channel}`,
  position: place(from.position),
  timeMs: `${from.timeMs}`,
  user: from.user,
  producer: `${from.producer}`,
  sequence: `${from.sequence}`,
  body: hex(from.body),
});

const server: Side<ServerFrame> = {
  root: "ServerFrame",
  vectors: read("server.json"),
  decode: decodeServer,
  encode: encodeServer,
  meaning({ request, body }) {
    switch (body.kind) {
      case "welcome": {
        const { kind: _, features, session, tokenExpiresMs, ...rest } = body;
        const numbers = { features: `${features}`, tokenExpiresMs: `${tokenExpiresMs}` };
        return { request, welcome: { ...rest, ...numbers, session: hex(session) } };
      }
      case "subscribed": {
        const { kind: _, channel, position, recovery, ...rest } = body;
        const became = { [recovery.kind]: recovery.kind === "reload" ? recovery.code : null };
        return {
          request,
          subscribed: { ...rest, channel: `${channel}`, position: place(position), recovery: became },
        };
      }
      case "unsubscribed":
        return { request, unsubscribed: { channel: `${body.channel}`, code: body.code, reason: body.reason } };
      case "published": {
        const { channel, producer, sequence, position, duplicate } = body;
        const numbers = { channel: `${channel}`, producer: `${producer}`, sequence: `${sequence}` };
        return { request, published: { ...numbers, position: place(position), duplicate } };
      }
      case "message":
        return { request, message: message(body.message) };
      case "page":
        return {
          request,
          page: { channel: `${body.channel}`, messages: body.messages.map(message), more: body.more },
        };
      case "refreshed":
        return { request, refreshed: { tokenExpiresMs: `${body.tokenExpiresMs}` } };
      case "error": {
        const { kind: _, ...rest } = body;
        return { request, error: rest };
      }
      case "goAway": {
        const { kind: _, ...rest } = body;
        return { request, goAway: rest };
      }
      case "skipped":
        return {
          request,
          skipped: { channel: `${body.channel}`, first: place(body.first), last: place(body.last) },
        };
      case "read":
        return { request, read: { channel: `${body.channel}`, position: place(body.position) } };
      case "ping":
      case "unknown":
        return { request, [body.kind]: null };
    }
  },
};

function hold<Frame extends { request: number; body: { kind: string } }>(side: Side<Frame>): void {
  const { frames, refused } = side.vectors;
  for (const { name, hex: text, meaning } of frames) {
    test(`${side.root} ${name}`, () => {
      for (const input of [bytes(text), shifted(text)]) {
        const frame = side.decode(input);
        assert.deepEqual(side.meaning(frame), meaning);
        if (frame.body.kind === "unknown") continue;
        const encoded = side.encode(frame);
        assert.deepEqual(side.meaning(side.decode(encoded)), meaning);
        assert.equal(hex(encoded), text, "our writer lays objects out as the project's other writers do");
      }
      const cut = bytes(text);
      for (let length = 0; length < cut.length; length++) refuses(() => side.decode(cut.subarray(0, length)), 4000);
    });
  }
  for (const { name, hex: text, code } of refused) {
    test(`${side.root} ${name} is refused`, () => {
      refuses(() => side.decode(bytes(text)), code);
      refuses(() => side.decode(shifted(text)), code);
    });
  }
  test(`${side.root} as another Cap'n Proto writes it`, () => {
    const written = Object.entries(foreign[side.root] ?? {});
    assert.ok(written.length > 10);
    for (const [name, text] of written) {
      const expect = frames.find((frame) => frame.name === name)?.meaning;
      assert.deepEqual(side.meaning(side.decode(bytes(text))), expect, name);
    }
  });
}

function refuses(decode: () => unknown, code: number): void {
  assert.throws(decode, (error) => error instanceof FrameError && error.code === code);
}

hold(client);
hold(server);

test("bytes of chance are decoded or refused, never worse", () => {
  let state = 7;
  const next = () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state >>> 8;
  };
  const seeds = server.vectors.frames.map((frame) => bytes(frame.hex));
  let refused = 0;
  for (let round = 0; round < 20_000; round++) {
    const frame = new Uint8Array(seeds[next() % seeds.length] as Uint8Array);
    for (let count = 1 + (next() % 4); count > 0; count--) frame[next() % frame.length] = next();
    try {
      server.meaning(decodeServer(frame));
    } catch (error) {
      if (!(error instanceof FrameError)) throw error;
      refused += 1;
    }
  }
  assert.ok(refused > 1_000 && refused < 20_000, `${refused} refused`);
});
