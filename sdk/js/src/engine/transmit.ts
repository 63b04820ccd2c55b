// Frames out. They are made when the connection takes them, so what waits is small and says what holds then.

import type { Position } from "../event.js";
import { encodeClient } from "../wire/encode.js";
import {
  type ClientBody,
  FEATURE_READ_POSITIONS,
  VERSION,
  type WireRange,
  type WireStart,
  type WireSubscribe,
} from "../wire/frames.js";
import type { ChannelState, HistoryRange, Key } from "./channel.js";
import { userOf } from "./claims.js";
import type { Engine } from "./engine.js";

/** Messages of one channel in a row, when others wait as well. */
const MESSAGES_PER_TURN = 16;
/** Unanswered requests of a connection beyond which no message is sent: a node has a bound, usually 1,024. */
const REQUESTS_MAX = 768;

/** A frame to send that is no message. */
export type Control =
  | { readonly kind: "hello"; readonly request: number; readonly keys: readonly Key[] }
  | { readonly kind: "subscribe"; readonly key: Key; readonly request: number }
  | { readonly kind: "unsubscribe"; readonly channel: bigint; readonly request: number }
  | {
      readonly kind: "history";
      readonly key: Key;
      readonly request: number;
      readonly range: HistoryRange;
      readonly messagesMax: number;
    }
  | { readonly kind: "markRead"; readonly key: Key; readonly request: number; readonly position: Position }
  | { readonly kind: "refresh"; readonly request: number }
  | { readonly kind: "probe"; readonly request: number }
  | { readonly kind: "pong" };

/** The next frame; `undefined` if there is none. */
export function transmit(engine: Engine, now: number): Uint8Array<ArrayBuffer> | undefined {
  for (let control = engine.control.shift(); control !== undefined; control = engine.control.shift()) {
    const body = controlBody(engine, control);
    if (body === undefined) continue;
    return encodeClient({ request: control.kind === "pong" ? 0 : control.request, body });
  }
  return message(engine, now);
}

/** `undefined` if what it was about is gone. */
function controlBody(engine: Engine, control: Control): ClientBody | undefined {
  const token = engine.token.current ?? "";
  switch (control.kind) {
    case "hello": {
      const subscriptions = control.keys
        .map((key) => subscribe(engine.channels.get(key)))
        .filter((subscribe) => subscribe !== undefined);
      const { agent } = engine.config;
      engine.user = userOf(token);
      const features = FEATURE_READ_POSITIONS;
      return { kind: "hello", versionMin: VERSION, versionMax: VERSION, features, token, agent, subscriptions };
    }
    case "subscribe": {
      const asked = subscribe(engine.channels.get(control.key));
      return asked && { kind: "subscribe", subscribe: asked };
    }
    case "unsubscribe":
      return { kind: "unsubscribe", channel: control.channel };
    case "history": {
      const channel = engine.channels.get(control.key)?.number;
      if (channel === undefined) return undefined;
      return { kind: "history", channel, messagesMax: control.messagesMax, range: wireRange(control.range) };
    }
    case "markRead": {
      const channel = engine.channels.get(control.key)?.number;
      const { epoch, offset } = control.position;
      if (channel === undefined) return undefined;
      return { kind: "markRead", channel, position: { epoch, offset: BigInt(offset) } };
    }
    case "refresh":
      return { kind: "refresh", token };
    case "probe":
      // No channel that this session has: all that matters is that the node says so.
      return { kind: "unsubscribe", channel: strangeChannel(engine) };
    case "pong":
      return { kind: "pong" };
  }
}

/** The next message of the channels that have any, in turns. */
function message(engine: Engine, now: number): Uint8Array<ArrayBuffer> | undefined {
  if (!engine.isOpen || engine.requests.size >= REQUESTS_MAX) return undefined;
  for (let key = engine.ready[0]; key !== undefined; key = engine.ready[0]) {
    const channel = engine.channels.get(key);
    const number = channel?.attach.kind === "on" ? channel.number : undefined;
    const outgoing = number === undefined ? undefined : channel?.outbox.sendNext(now);
    if (channel === undefined || number === undefined || outgoing === undefined) {
      engine.ready.shift();
      if (channel !== undefined) {
        channel.isListed = false;
        channel.turn = 0;
      }
      continue;
    }
    const { producer, sequence, body } = outgoing;
    const request = engine.request({ kind: "publish", key, sequence });
    channel.turn = (channel.turn + 1) % MESSAGES_PER_TURN;
    if (channel.turn === 0) engine.ready.push(engine.ready.shift() as Key);
    return encodeClient({
      request,
      body: { kind: "publish", channel: number, producer, sequence: BigInt(sequence), body },
    });
  }
  return undefined;
}

/** What to ask for a channel, as it stands. */
function subscribe(channel: ChannelState | undefined): WireSubscribe | undefined {
  if (channel?.attach.kind !== "asked") return undefined;
  const { mode } = channel.attach;
  let start: WireStart = { kind: "attach" };
  if (mode === "read" && channel.subscription !== undefined) {
    const from = channel.subscription.start;
    start =
      from.kind === "live"
        ? from
        : { kind: "after", position: { epoch: from.position.epoch, offset: BigInt(from.position.offset) } };
  }
  return { channel: channel.name, start };
}

function wireRange(range: HistoryRange): WireRange {
  return range.kind === "newest" ? range : { kind: range.kind, offset: BigInt(range.offset) };
}

function strangeChannel(engine: Engine): bigint {
  for (;;) {
    const number = engine.random.producer();
    if (!engine.byNumber.has(number)) return number;
  }
}
