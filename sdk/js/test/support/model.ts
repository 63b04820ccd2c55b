// A node as a model: channels in memory, one session at a time, refusals by chance. It speaks the wire and shares nothing else
// with the SDK.

import { Code } from "../../src/code.js";
import { Random } from "../../src/engine/random.js";
import {
  FEATURE_READ_POSITIONS,
  type HistoryClass,
  type Recovery,
  type ServerBody,
  type WireMessage,
  type WirePosition,
  type WireSubscribe,
  type WireWelcome,
} from "../../src/wire/frames.js";
import { decodeClient, encodeServer } from "./node-codec.js";

/** Most messages that a resume replays; more must be read from the history. */
const REPLAY_MAX = 12;
const PAGE_MAX = 5;
export const HEARTBEAT_MS = 25_000;

/** How much goes wrong, each in so many of a thousand cases. */
export interface Faults {
  publishRefused: number;
  subscribeRefused: number;
  historyRefused: number;
  helloRefused: number;
  skips: number;
  unsubscribes: number;
  markRefused: number;
}

export const NO_FAULTS: Faults = {
  publishRefused: 0,
  subscribeRefused: 0,
  historyRefused: 0,
  helloRefused: 0,
  skips: 0,
  unsubscribes: 0,
  markRefused: 0,
};

/** The user of the session, whatever its token. */
const USER = "user";
/** A token that names that user. */
export const TOKEN = `e30.${Buffer.from(JSON.stringify({ sub: USER })).toString("base64url")}.signature`;

/** Who publishes, and as what. */
export interface Author {
  user: string;
  producer: bigint;
  sequence: bigint;
}

export interface Stored extends Author {
  position: WirePosition;
  body: Uint8Array;
}

export interface ModelChannel {
  history: HistoryClass;
  epoch: number;
  /** Every message ever stored, the index is the offset less one. */
  stored: Stored[];
  /** Offset of the oldest that is still kept. */
  oldest: number;
  /** By user and producer. */
  last: Map<string, bigint>;
}

export const head = (channel: ModelChannel): WirePosition => ({
  epoch: channel.epoch,
  offset: BigInt(channel.stored.length),
});

export const welcome = (changes: Partial<WireWelcome> = {}): WireWelcome => ({
  kind: "welcome",
  version: 1,
  heartbeatMs: HEARTBEAT_MS,
  features: FEATURE_READ_POSITIONS,
  session: new Uint8Array(16).fill(1),
  tokenExpiresMs: 2n ** 63n - 1n,
  payloadBytesMax: 16 << 10,
  subscriptionsMax: 100,
  node: "model",
  ...changes,
});

export const errorBody = (code: number, message: string, retryAfterMs = 0, channel = ""): ServerBody => ({
  kind: "error",
  code,
  message,
  retryAfterMs,
  channel,
});

export class ModelNode {
  private readonly dice: Random;
  /** The only token that is accepted, if not any. */
  token: string | undefined;
  tokenExpiresMs = 2n ** 63n - 1n;
  faults = NO_FAULTS;
  readonly channels = new Map<string, ModelChannel>();
  /** What the session is subscribed (`true`) or attached to. */
  readonly session = new Map<string, boolean>();
  /** Where the user's read positions stand. */
  private readonly reads = new Map<string, WirePosition>();
  /** Messages that the session refused; those after it wait. */
  private bars = new Map<string, bigint>();
  out: Uint8Array<ArrayBuffer>[] = [];
  /** The session is to be closed with this code. */
  closing: number | undefined;
  isWelcomed = false;
  hellos = 0;
  refreshed: string[] = [];
  probes = 0;

  constructor(seed: bigint) {
    this.dice = new Random(seed);
    for (const name of ["general", "news"]) this.add(name, "durable");
  }

  add(name: string, history: HistoryClass): void {
    this.channels.set(name, { history, epoch: 1, stored: [], oldest: 1, last: new Map() });
  }

  channel(name: string): ModelChannel {
    const channel = this.channels.get(name);
    if (channel === undefined) throw new Error(`no channel ${name}`);
    return channel;
  }

  /** A new connection; what the last one had is forgotten. */
  accept(): void {
    this.session.clear();
    this.bars.clear();
    this.out = [];
    this.closing = undefined;
    this.isWelcomed = false;
  }

  /** A publish that an ended session had sent. */
  straggle(frame: Uint8Array): void {
    const { body } = decodeClient(frame);
    if (body.kind === "publish") this.append(this.nameOf(body.channel), own(body), body.body);
  }

  /** Another user publishes. */
  publish(name: string, text: string, as: Partial<Author> = {}): void {
    const author = { user: "other", producer: this.dice.producer(), sequence: 1n, ...as };
    this.append(name, author, new TextEncoder().encode(text));
  }

  ping(): void {
    if (this.isWelcomed) this.say(0, { kind: "ping" });
  }

  goAway(afterMs: number, endpoints: string[] = []): void {
    this.say(0, { kind: "goAway", code: Code.GoingAway, afterMs, endpoints });
  }

  /** One frame of the session. */
  receive(frame: Uint8Array): void {
    const { request, body } = decodeClient(frame);
    if (!this.isWelcomed && body.kind !== "hello") throw new Error(`before the hello: ${body.kind}`);
    switch (body.kind) {
      case "hello": {
        this.hellos += 1;
        if (this.token !== undefined && this.token !== body.token) {
          this.say(request, errorBody(Code.BadToken, "the token's signature is wrong"));
          this.closing = Code.BadToken;
          return;
        }
        if (this.chance(this.faults.helloRefused)) {
          // A client gives up when tokens are refused again and again.
          const code = this.hellos % 3 === 0 ? Code.TokenExpired : this.pick([Code.Busy, Code.GoingAway]);
          this.say(request, errorBody(code, "not now"));
          this.closing = code;
          return;
        }
        this.isWelcomed = true;
        this.say(request, welcome({ tokenExpiresMs: this.tokenExpiresMs }));
        for (const subscribe of body.subscriptions) this.subscribe(request, subscribe);
        break;
      }
      case "subscribe":
        this.subscribe(request, body.subscribe);
        break;
      case "unsubscribe": {
        const { channel } = body;
        const name = this.findName(channel);
        if (name === undefined) this.probes += 1;
        if (name !== undefined && this.session.delete(name)) {
          this.say(request, { kind: "unsubscribed", channel, code: 0, reason: "" });
        } else {
          this.say(request, errorBody(Code.NotSubscribed, "no subscription"));
        }
        break;
      }
      case "publish":
        this.published(request, body.channel, body.producer, body.sequence, body.body);
        break;
      case "history": {
        if (this.chance(this.faults.historyRefused)) {
          this.say(request, errorBody(Code.Busy, "not now"));
          return;
        }
        const name = this.nameOf(body.channel);
        const { range } = body;
        if (!this.session.has(name)) {
          this.say(request, errorBody(Code.NotSubscribed, "no subscription"));
          return;
        }
        const channel = this.channel(name);
        const all = channel.stored.filter(({ position: { offset } }) => {
          if (offset < channel.oldest) return false;
          return range.kind === "newest" || (range.kind === "before" ? offset < range.offset : offset > range.offset);
        });
        const most = Math.min(PAGE_MAX, body.messagesMax);
        const page = range.kind === "after" ? all.slice(0, most) : all.slice(-most);
        const messages = page.map((stored) => wire(stored, body.channel));
        this.say(request, { kind: "page", channel: body.channel, messages, more: all.length > most });
        break;
      }
      case "refresh":
        this.refreshed.push(body.token);
        this.say(request, { kind: "refreshed", tokenExpiresMs: this.tokenExpiresMs });
        break;
      case "pong":
        break;
      case "markRead": {
        const name = this.nameOf(body.channel);
        const channel = this.channels.get(name);
        if (channel === undefined || !this.session.has(name)) this.say(request, errorBody(Code.NotSubscribed, "gone"));
        else if (this.chance(this.faults.markRefused)) {
          this.say(request, errorBody(this.pick([Code.Busy, Code.Unavailable, Code.RateLimited]), "not now"));
        } else if (body.position.offset > head(channel).offset) {
          this.say(request, errorBody(Code.PositionAhead, "nobody can have read that"));
        } else {
          this.say(request, { kind: "read", channel: body.channel, position: this.mark(name, body.position) });
        }
        break;
      }
      case "unknown":
        throw new Error("an unknown frame");
    }
    const [name] = this.session.keys();
    if (name !== undefined && this.chance(this.faults.unsubscribes)) {
      this.endSubscription(name, Code.Unavailable, "the control plane is away");
    }
  }

  /** Where the user's read position stands. */
  readOf(name: string): WirePosition {
    return this.reads.get(name) ?? { epoch: 1, offset: 0n };
  }

  private mark(name: string, to: WirePosition): WirePosition {
    const { epoch, offset } = this.readOf(name);
    if (epoch < to.epoch || (epoch === to.epoch && offset < to.offset)) this.reads.set(name, to);
    return this.readOf(name);
  }

  /** Another device of the user reads on. */
  markElsewhere(name: string): void {
    const position = head(this.channel(name));
    this.mark(name, position);
    if (this.isWelcomed && this.session.has(name))
      this.say(0, { kind: "read", channel: this.numberOf(name), position });
  }

  endSubscription(name: string, code: number, reason: string): void {
    this.session.delete(name);
    this.say(0, { kind: "unsubscribed", channel: this.numberOf(name), code, reason });
  }

  private published(request: number, channel: bigint, producer: bigint, sequence: bigint, body: Uint8Array): void {
    const name = this.nameOf(channel);
    const refusal = this.chance(this.faults.publishRefused)
      ? this.pick([
          Code.RateLimited,
          Code.Busy,
          Code.Unavailable,
          Code.UnknownOutcome,
          Code.UnknownOutcome,
          Code.TooLarge,
          Code.Archived,
        ])
      : undefined;
    const bar = `${name} ${producer}`;
    const barredBy = this.bars.get(bar);
    const isBarred = barredBy !== undefined && sequence > barredBy;
    if (!isBarred) this.bars.delete(bar);
    const refuse = (code: number) => this.say(request, errorBody(code, "refused"));
    if (!this.session.has(name)) return refuse(Code.NotSubscribed);
    if (isBarred) return refuse(Code.Blocked);
    if (refusal === Code.RateLimited || refusal === Code.Busy || refusal === Code.TooLarge) {
      this.bars.set(bar, sequence);
      return refuse(refusal);
    }
    if (refusal === Code.UnknownOutcome && this.dice.below(2) === 0)
      this.append(name, own({ producer, sequence }), body);
    if (refusal !== undefined) return refuse(refusal);
    const result = this.append(name, own({ producer, sequence }), body);
    if (result === undefined) return refuse(Code.OutOfOrder);
    this.say(request, { kind: "published", channel, producer, sequence, ...result });
  }

  private subscribe(request: number, { channel: name, start }: WireSubscribe): void {
    const channel = this.channels.get(name);
    if (channel === undefined) return this.say(request, errorBody(Code.NoAccess, "no such channel", 0, name));
    if (this.chance(this.faults.subscribeRefused)) {
      return this.say(request, errorBody(Code.Unavailable, "not now", 50, name));
    }
    const at = head(channel);
    const reload = (code: number): [Recovery, bigint] => [{ kind: "reload", code }, at.offset];
    let [recovery, replayAfter]: [Recovery, bigint] = [{ kind: "none" }, at.offset];
    if (start.kind === "after" && channel.history !== "none") {
      const { epoch, offset } = start.position;
      if (epoch !== channel.epoch) [recovery, replayAfter] = reload(Code.EpochChanged);
      else if (offset > at.offset) [recovery, replayAfter] = reload(Code.PositionAhead);
      else if (at.offset - offset > REPLAY_MAX || offset + 1n < channel.oldest) {
        [recovery, replayAfter] = reload(Code.PositionTooOld);
      } else [recovery, replayAfter] = [{ kind: "whole" }, offset];
    }
    this.session.set(name, start.kind !== "attach");
    const number = this.numberOf(name);
    const { history } = channel;
    const position = history === "none" ? { epoch: 1, offset: 0n } : at;
    this.say(request, { kind: "subscribed", name, channel: number, position, history, canPublish: true, recovery });
    if (history !== "none") this.say(0, { kind: "read", channel: number, position: this.readOf(name) });
    for (const stored of channel.stored.slice(Number(replayAfter))) {
      this.say(0, { kind: "message", message: wire(stored, number) });
    }
  }

  /** Takes `last + 1`, knows duplicates, refuses the rest; delivers what is new. */
  private append(
    name: string,
    author: Author,
    body: Uint8Array,
  ): { position: WirePosition; duplicate: boolean } | undefined {
    const channel = this.channel(name);
    if (channel.history === "none") {
      const position = { epoch: 1, offset: 0n };
      this.deliver(name, { position, body, ...author });
      return { position, duplicate: false };
    }
    const { user, producer, sequence } = author;
    const number = `${user} ${producer}`;
    const last = channel.last.get(number) ?? 0n;
    if (sequence <= last) {
      const found = channel.stored.find((stored) => {
        return stored.user === user && stored.producer === producer && stored.sequence === sequence;
      });
      return found && { position: found.position, duplicate: true };
    }
    if (sequence !== last + 1n) return undefined;
    channel.last.set(number, sequence);
    const position = { epoch: channel.epoch, offset: BigInt(channel.stored.length + 1) };
    const stored = { position, body: body.slice(), ...author };
    channel.stored.push(stored);
    this.deliver(name, stored);
    return { position, duplicate: false };
  }

  private deliver(name: string, stored: Stored): void {
    if (this.session.get(name) !== true) return;
    const channel = this.numberOf(name);
    const { position } = stored;
    if (this.chance(this.faults.skips)) this.say(0, { kind: "skipped", channel, first: position, last: position });
    else this.say(0, { kind: "message", message: wire(stored, channel) });
  }

  say(request: number, body: ServerBody): void {
    this.out.push(encodeServer({ request, body }));
  }

  private numberOf(name: string): bigint {
    return BigInt([...this.channels.keys()].indexOf(name) + 1);
  }

  private findName(number: bigint): string | undefined {
    return [...this.channels.keys()][Number(number) - 1];
  }

  private nameOf(number: bigint): string {
    return this.findName(number) ?? `channel ${number}`;
  }

  private chance(thousandths: number): boolean {
    return this.dice.below(1_000) < thousandths;
  }

  private pick<T>(of: readonly T[]): T {
    return of[this.dice.below(of.length)] as T;
  }
}

function wire(stored: Stored, channel: bigint): WireMessage {
  return { channel, timeMs: 1n, ...stored };
}

const own = ({ producer, sequence }: Omit<Author, "user">): Author => ({ user: USER, producer, sequence });
