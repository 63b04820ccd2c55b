// From bytes to what a node says. Bodies are borrowed from the input.

import {
  ENDPOINTS_MAX,
  type HistoryClass,
  PAGE_MESSAGES_MAX,
  PAYLOAD_BYTES_CAP,
  type Recovery,
  SERVER_FRAME_BYTES_MAX,
  type ServerBody,
  type ServerFrame,
  type WireMessage,
  type WirePosition,
} from "./frames.js";
import { FrameError, limit, positive, Reader, type Struct, UNKNOWN } from "./segment.js";

const HISTORY: readonly HistoryClass[] = ["durable", "windowed", "none"];

/**
 * Decodes one frame from a node. `input` is one whole WebSocket message and need not be aligned.
 *
 * @throws {FrameError} if it is none; `code` is what the node would hear.
 */
export function decodeServer(input: Uint8Array): ServerFrame {
  const frame = new Reader(input, SERVER_FRAME_BYTES_MAX).root();
  const request = frame.u32(0);
  try {
    return { request, body: body(frame) };
  } catch (error) {
    if (error === UNKNOWN) return { request, body: { kind: "unknown" } };
    throw error;
  }
}

function body(frame: Struct): ServerBody {
  switch (frame.u16(4)) {
    case 0:
      return welcome(frame.struct(0));
    case 1:
      return subscribed(frame.struct(0));
    case 2: {
      const from = frame.struct(0);
      const channel = positive("unsubscribed.channel", from.u64(0));
      return { kind: "unsubscribed", channel, code: from.u16(8), reason: from.text(0, "unsubscribed.reason") };
    }
    case 3: {
      const from = frame.struct(0);
      return {
        kind: "published",
        channel: positive("published.channel", from.u64(0)),
        producer: positive("published.producer", from.u64(8)),
        sequence: positive("published.sequence", from.u64(16)),
        position: position("published.position", from.struct(0)),
        duplicate: from.bit(24, 0),
      };
    }
    case 4:
      return { kind: "message", message: message(frame.struct(0)) };
    case 5: {
      const from = frame.struct(0);
      const channel = positive("page.channel", from.u64(0));
      const messages = from.structs(0, "page.messages", PAGE_MESSAGES_MAX, message);
      return { kind: "page", channel, messages, more: from.bit(8, 0) };
    }
    case 6:
      return { kind: "refreshed", tokenExpiresMs: frame.struct(0).i64(0) };
    case 7: {
      const from = frame.struct(0);
      return {
        kind: "error",
        code: from.u16(0),
        message: from.text(0, "error.message"),
        retryAfterMs: from.u32(4),
        channel: from.text(1, "error.channel"),
      };
    }
    case 8:
      return { kind: "ping" };
    case 9: {
      const from = frame.struct(0);
      const endpoints = from.texts(0, "goAway.endpoints", ENDPOINTS_MAX);
      return { kind: "goAway", code: from.u16(0), afterMs: from.u32(4), endpoints };
    }
    case 10: {
      const from = frame.struct(0);
      return {
        kind: "skipped",
        channel: positive("skipped.channel", from.u64(0)),
        first: position("skipped.first", from.struct(0)),
        last: position("skipped.last", from.struct(1)),
      };
    }
    case 11: {
      const from = frame.struct(0);
      const channel = positive("read.channel", from.u64(0));
      return { kind: "read", channel, position: position("read.position", from.struct(0)) };
    }
    default:
      throw UNKNOWN;
  }
}

function welcome(from: Struct): ServerBody {
  const session = from.data(0);
  if (session.length !== 16) throw new FrameError(4004, `welcome.session is ${session.length} bytes, must be 16`);
  return {
    kind: "welcome",
    version: from.u16(0),
    heartbeatMs: from.u32(4),
    features: from.u64(8),
    session,
    tokenExpiresMs: from.i64(16),
    payloadBytesMax: from.u32(24),
    subscriptionsMax: from.u32(28),
    node: from.text(1, "welcome.node"),
  };
}

function subscribed(from: Struct): ServerBody {
  const name = from.text(0, "subscribed.name");
  const channel = positive("subscribed.channel", from.u64(0));
  const at = position("subscribed.position", from.struct(1));
  const history = HISTORY[from.u16(8)];
  if (history === undefined) throw UNKNOWN;
  const canPublish = from.bit(10, 0);
  return { kind: "subscribed", name, channel, position: at, history, canPublish, recovery: recovery(from) };
}

function recovery(from: Struct): Recovery {
  switch (from.u16(12)) {
    case 0:
      return { kind: "none" };
    case 1:
      return { kind: "whole" };
    case 2:
      return { kind: "reload", code: from.u16(14) };
    default:
      throw UNKNOWN;
  }
}

function message(from: Struct): WireMessage {
  const body = from.data(2);
  limit("message.body", body.length, PAYLOAD_BYTES_CAP);
  return {
    channel: positive("message.channel", from.u64(0)),
    position: position("message.position", from.struct(0)),
    timeMs: from.i64(8),
    user: from.text(1, "message.user"),
    producer: positive("message.producer", from.u64(16)),
    sequence: positive("message.sequence", from.u64(24)),
    body,
  };
}

function position(what: string, from: Struct): WirePosition {
  const epoch = from.u32(0);
  if (epoch === 0) throw new FrameError(4004, `${what} is 0`);
  return { epoch, offset: from.u64(8) };
}
