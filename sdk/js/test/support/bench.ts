// An engine with a test in the node's place.

import assert from "node:assert/strict";

import { type Config, Engine, type Opened, type Result } from "../../src/engine/engine.js";
import type { Start } from "../../src/engine/subscription.js";
import type { ChannelEvent, Page, Receipt } from "../../src/event.js";
import type { ClientBody, Recovery, ServerBody, WirePosition } from "../../src/wire/frames.js";
import { errorBody, HEARTBEAT_MS, welcome } from "./model.js";
import { decodeClient, encodeServer } from "./node-codec.js";

export { errorBody, HEARTBEAT_MS, welcome };

/** Unix time when the steady clock of a bench stands at its beginning. */
export const UNIX_MS = 1_700_000_000_000;

export const config = (changes: Partial<Config> = {}): Config => ({
  agent: "test",
  endpoints: ["ws://a/v1/connect"],
  tokensRenew: true,
  failFast: false,
  queue: { messagesMax: 1_024, bytesMax: 1 << 20 },
  backoff: { firstMs: 100, maxMs: 20_000 },
  connectTimeoutMs: 10_000,
  requestTimeoutMs: 30_000,
  sendTimeoutMs: undefined,
  closeTimeoutMs: 5_000,
  ...changes,
});

/** What the engine asked for, in short. */
export interface Asked {
  request: number;
  text: string;
  body: ClientBody;
}

const text = (bytes: Uint8Array) => Buffer.from(bytes).toString();
export const bytes = (text: string) => new TextEncoder().encode(text);
const place = ({ epoch, offset }: { epoch: number; offset: bigint | number }) => `${epoch}/${offset}`;

export class Bench {
  now = 5_000;
  readonly engine: Engine;
  opened: { ticket: number; result: Result<Opened> }[] = [];
  sent: { ticket: number; result: Result<Receipt> }[] = [];
  pages: { ticket: number; result: Result<Page> }[] = [];
  events: string[] = [];
  /** Names of states and calls, in order. */
  private logged: string[] = [];

  constructor(changes: Partial<Config> = {}) {
    this.engine = new Engine(config(changes), 1n, this.now, UNIX_MS);
    this.engine.start(this.now);
    this.act();
  }

  /** Connected and welcomed. */
  static welcomed(changes: Partial<Config> = {}): Bench {
    const bench = new Bench(changes);
    bench.connect();
    return bench;
  }

  connect(): void {
    this.engine.handleToken(this.now, { ok: "token" });
    this.engine.handleConnected(this.now);
    this.say(this.frame("hello").request, welcome());
    this.log();
  }

  act(): void {
    for (const action of this.engine.pollActions()) {
      switch (action.type) {
        case "fetchToken":
          this.logged.push("token");
          break;
        case "connect":
          this.logged.push(`connect ${action.endpoint}`);
          break;
        case "deliver":
          this.events.push(describe(action.event));
          break;
        case "opened":
          this.opened.push(action);
          break;
        case "sent":
          this.sent.push(action);
          break;
        case "page":
          this.pages.push(action);
          break;
        case "state": {
          const { state } = action;
          if (state.kind === "reconnecting") this.logged.push(`reconnecting ${state.attempt}`);
          else if (state.kind === "closed") this.logged.push(`closed ${state.error?.message}`);
          else this.logged.push(state.kind);
          break;
        }
        default:
          this.logged.push(action.type);
      }
    }
  }

  say(request: number, body: ServerBody): void {
    this.engine.handleFrame(this.now, encodeServer({ request, body }));
    this.act();
  }

  frames(): Asked[] {
    const frames: Asked[] = [];
    for (let frame = this.engine.pollTransmit(this.now); frame; frame = this.engine.pollTransmit(this.now)) {
      const { request, body } = decodeClient(frame);
      assert.notEqual(body.kind, "unknown");
      frames.push({ request, text: asked(body as ClientBody), body: body as ClientBody });
    }
    return frames;
  }

  /** The only frame, which begins so. */
  frame(begins: string): Asked {
    const frames = this.frames();
    const [frame = assert.fail(`not asked: ${begins}`)] = frames;
    assert.ok(frame.text.startsWith(begins) && frames.length === 1, `${frames.map((frame) => frame.text)}`);
    return frame;
  }

  asks(): string[] {
    return this.frames().map((frame) => frame.text);
  }

  pass(ms: number): void {
    const until = this.now + ms;
    for (let at = this.engine.nextTimeout(); at !== undefined && at <= until; at = this.engine.nextTimeout()) {
      this.now = Math.max(this.now, at);
      this.engine.handleTimeout(this.now);
      this.act();
    }
    this.now = until;
  }

  log(): string[] {
    this.act();
    return this.logged.splice(0);
  }

  /** Opens a handle and answers for the node; its key. */
  open(name: string, start?: Start): number {
    const key = this.engine.open(this.now, name, start, 0);
    this.say(this.frame("subscribe").request, subscribed(name, 0));
    const { result } = this.opened.pop() ?? assert.fail("not opened");
    assert.ok("ok" in result);
    return key;
  }

  push(offset: number): void {
    this.say(0, { kind: "message", message: message(offset) });
  }

  /** Acknowledges the message that was asked for. */
  acknowledge(asked: Asked, offset: number): void {
    assert.ok(asked.body.kind === "publish");
    const { channel, producer, sequence } = asked.body;
    const numbers = { channel, producer, sequence };
    this.say(asked.request, { kind: "published", ...numbers, position: at(offset), duplicate: false });
  }

  refuse(asked: Asked | undefined, code: number, retryAfterMs = 0): void {
    this.say(asked?.request ?? assert.fail("nothing asked"), errorBody(code, "refused", retryAfterMs));
  }
}

function asked(body: ClientBody): string {
  switch (body.kind) {
    case "hello":
      return ["hello", body.token, ...body.subscriptions.map(({ channel, start }) => `${channel} ${from(start)}`)].join(
        " ",
      );
    case "subscribe":
      return `subscribe ${body.subscribe.channel} ${from(body.subscribe.start)}`;
    case "unsubscribe":
      return `unsubscribe ${body.channel}`;
    case "publish":
      return `publish ${body.sequence} ${text(body.body)}`;
    case "history": {
      const { range } = body;
      return `history ${range.kind}${range.kind === "newest" ? "" : ` ${range.offset}`} ${body.messagesMax}`;
    }
    case "refresh":
      return `refresh ${body.token}`;
    case "pong":
      return "pong";
    case "markRead":
      return `markRead ${place(body.position)}`;
  }
}

const from = (start: { kind: "live" | "attach" } | { kind: "after"; position: WirePosition }) =>
  start.kind === "after" ? `after ${place(start.position)}` : start.kind;

export function describe(event: ChannelEvent): string {
  switch (event.type) {
    case "message":
      return place(event.message.position);
    case "reset":
      return `${event.reason} ${place(event.position)}`;
    case "skipped": {
      const { skipped } = event;
      if (skipped.kind === "slow-consumer") return `skipped ${skipped.first.offset} to ${skipped.last.offset}`;
      return skipped.kind === "queue-full" ? `queue-full ${skipped.messages}` : skipped.kind;
    }
    case "canPublish":
      return `canPublish ${event.canPublish}`;
    case "ended":
      return `ended ${event.error.message}`;
  }
}

export const at = (offset: number): WirePosition => ({ epoch: 1, offset: BigInt(offset) });

export const message = (offset: number, body = "m") => ({
  channel: 7n,
  position: at(offset),
  timeMs: 0n,
  user: "u",
  producer: 9n,
  sequence: 1n,
  body: bytes(body),
});

export const subscribed = (name: string, head: number, recovery: Recovery = { kind: "none" }): ServerBody => ({
  kind: "subscribed",
  name,
  channel: 7n,
  position: at(head),
  history: "durable",
  canPublish: true,
  recovery,
});
