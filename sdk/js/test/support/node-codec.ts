// The node's side of the wire, for tests: what clients send is decoded, what nodes say is encoded.

import {
  AGENT_BYTES_MAX,
  CLIENT_FRAME_BYTES_MAX,
  type ClientBody,
  type ServerFrame,
  SUBSCRIPTIONS_CAP,
  TOKEN_BYTES_MAX,
  type WireMessage,
  type WirePosition,
  type WireRange,
  type WireStart,
  type WireSubscribe,
} from "../../src/wire/frames.js";
import { FrameError, positive, Reader, type Struct, type Target, UNKNOWN, Writer } from "../../src/wire/segment.js";

export type DecodedClientFrame = { request: number; body: ClientBody | { kind: "unknown" } };

export function decodeClient(input: Uint8Array): DecodedClientFrame {
  const frame = new Reader(input, CLIENT_FRAME_BYTES_MAX).root();
  const request = frame.u32(0);
  try {
    return { request, body: clientBody(frame) };
  } catch (error) {
    if (error === UNKNOWN) return { request, body: { kind: "unknown" } };
    throw error;
  }
}

function clientBody(frame: Struct): ClientBody {
  switch (frame.u16(4)) {
    case 0: {
      const from = frame.struct(0);
      return {
        kind: "hello",
        token: from.text(0, "hello.token", TOKEN_BYTES_MAX),
        agent: from.text(1, "hello.agent", AGENT_BYTES_MAX),
        subscriptions: from.structs(2, "hello.subscriptions", SUBSCRIPTIONS_CAP, subscribe),
        versionMin: from.u16(0),
        versionMax: from.u16(2),
        features: from.u64(8),
      };
    }
    case 1:
      return { kind: "subscribe", subscribe: subscribe(frame.struct(0)) };
    case 2:
      return { kind: "unsubscribe", channel: positive("unsubscribe.channel", frame.struct(0).u64(0)) };
    case 3: {
      const from = frame.struct(0);
      return {
        kind: "publish",
        channel: positive("publish.channel", from.u64(0)),
        producer: positive("publish.producer", from.u64(8)),
        sequence: positive("publish.sequence", from.u64(16)),
        body: from.data(0),
      };
    }
    case 4: {
      const from = frame.struct(0);
      const channel = positive("history.channel", from.u64(0));
      return { kind: "history", channel, messagesMax: from.u32(8), range: range(from) };
    }
    case 5:
      return { kind: "refresh", token: frame.struct(0).text(0, "refresh.token", TOKEN_BYTES_MAX) };
    case 6:
      return { kind: "pong" };
    case 7: {
      const from = frame.struct(0);
      const channel = positive("markRead.channel", from.u64(0));
      const at = from.struct(0);
      const epoch = at.u32(0);
      if (epoch === 0) throw new FrameError(4004, "markRead.position is 0");
      return { kind: "markRead", channel, position: { epoch, offset: at.u64(8) } };
    }
    default:
      throw UNKNOWN;
  }
}

function range(from: Struct): WireRange {
  switch (from.u16(12)) {
    case 0:
      return { kind: "newest" };
    case 1:
      return { kind: "before", offset: positive("history.before", from.u64(16)) };
    case 2:
      return { kind: "after", offset: from.u64(16) };
    default:
      throw UNKNOWN;
  }
}

function subscribe(from: Struct): WireSubscribe {
  return { channel: from.text(0, "subscribe.channel"), start: start(from) };
}

function start(from: Struct): WireStart {
  switch (from.u16(0)) {
    case 0:
      return { kind: "live" };
    case 1: {
      const after = from.struct(1);
      const epoch = after.u32(0);
      if (epoch === 0) throw new FrameError(4004, "subscribe.after is 0");
      return { kind: "after", position: { epoch, offset: after.u64(8) } };
    }
    case 2:
      return { kind: "attach" };
    default:
      throw UNKNOWN;
  }
}

export function encodeServer({ request, body }: ServerFrame): Uint8Array<ArrayBuffer> {
  const writer = new Writer();
  const root = writer.root(1, 1);
  root.u32(0, request);
  switch (body.kind) {
    case "welcome": {
      const to = root.struct(0, 4, 2);
      to.u16(0, body.version);
      to.u32(4, body.heartbeatMs);
      to.u64(8, body.features);
      to.data(0, body.session);
      to.u64(16, body.tokenExpiresMs);
      to.u32(24, body.payloadBytesMax);
      to.u32(28, body.subscriptionsMax);
      to.text(1, body.node);
      break;
    }
    case "subscribed": {
      root.u16(4, 1);
      const to = root.struct(0, 2, 2);
      to.text(0, body.name);
      to.u64(0, body.channel);
      position(body.position, to.struct(1, 2, 0));
      to.u16(8, ["durable", "windowed", "none"].indexOf(body.history));
      to.bit(10, body.canPublish);
      to.u16(12, ["none", "whole", "reload"].indexOf(body.recovery.kind));
      if (body.recovery.kind === "reload") to.u16(14, body.recovery.code);
      break;
    }
    case "unsubscribed": {
      root.u16(4, 2);
      const to = root.struct(0, 2, 1);
      to.u64(0, body.channel);
      to.u16(8, body.code);
      to.text(0, body.reason);
      break;
    }
    case "published": {
      root.u16(4, 3);
      const to = root.struct(0, 4, 1);
      to.u64(0, body.channel);
      to.u64(8, body.producer);
      to.u64(16, body.sequence);
      to.bit(24, body.duplicate);
      position(body.position, to.struct(0, 2, 0));
      break;
    }
    case "message":
      root.u16(4, 4);
      message(body.message, root.struct(0, 4, 3));
      break;
    case "page": {
      root.u16(4, 5);
      const to = root.struct(0, 2, 1);
      to.u64(0, body.channel);
      to.bit(8, body.more);
      const list = to.structs(0, body.messages.length, 4, 3);
      body.messages.forEach((from, index) => {
        message(from, list[index] as Target);
      });
      break;
    }
    case "refreshed":
      root.u16(4, 6);
      root.struct(0, 1, 0).u64(0, body.tokenExpiresMs);
      break;
    case "error": {
      root.u16(4, 7);
      const to = root.struct(0, 1, 2);
      to.u16(0, body.code);
      to.text(0, body.message);
      to.u32(4, body.retryAfterMs);
      to.text(1, body.channel);
      break;
    }
    case "ping":
      root.u16(4, 8);
      break;
    case "goAway": {
      root.u16(4, 9);
      const to = root.struct(0, 1, 1);
      to.u16(0, body.code);
      to.u32(4, body.afterMs);
      to.texts(0, body.endpoints);
      break;
    }
    case "skipped": {
      root.u16(4, 10);
      const to = root.struct(0, 1, 2);
      to.u64(0, body.channel);
      position(body.first, to.struct(0, 2, 0));
      position(body.last, to.struct(1, 2, 0));
      break;
    }
    case "read": {
      root.u16(4, 11);
      const to = root.struct(0, 1, 1);
      to.u64(0, body.channel);
      position(body.position, to.struct(0, 2, 0));
      break;
    }
    case "unknown":
      throw new Error("an unknown frame is only ever received");
  }
  return writer.finish();
}

function message(from: WireMessage, to: Target): void {
  to.u64(0, from.channel);
  to.u64(8, from.timeMs);
  to.text(1, from.user);
  to.u64(16, from.producer);
  to.u64(24, from.sequence);
  to.data(2, from.body);
  position(from.position, to.struct(0, 2, 0));
}

function position(from: WirePosition, to: Target): void {
  to.u32(0, from.epoch);
  to.u64(8, from.offset);
}
