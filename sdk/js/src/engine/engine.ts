// The client without its surroundings: what to say, what to keep, when to try again. Pure: bytes, time and the application's
// calls come in, frames and actions go out.
//
// Feed it with `handle*` and the calls of the application; then drain `pollAction` and, while the connection takes bytes,
// `pollTransmit`; call `handleTimeout` at `nextTimeout`. All times are milliseconds of one steady clock.
//
// - outbox: messages on their way to a channel, each stored once and in order;
// - subscription: where a reader stands, each message delivered once and in order;
// - reads: how far the user has read;
// - channel: what they share;
// - connection: connecting, heartbeats, tokens, back-off;
// - calls: what handles of the application ask for;
// - receive, transmit: frames in and out.
//
// Invariant: what a channel's handles want is compared with what the node was told in one place, `sync`.

import { type MillraceError, timedOut } from "../error.js";
import type { ChannelEvent, Page, Position, Receipt, Unread } from "../event.js";
import type { State } from "../state.js";
import type { HistoryClass } from "../wire/frames.js";
import { PAYLOAD_BYTES_CAP } from "../wire/frames.js";
import { Backoff, type BackoffLimits } from "./backoff.js";
import * as calls from "./calls.js";
import { type ChannelState, earliest, type Handle, type HistoryRange, type Key, OFF, type Ticket } from "./channel.js";
import * as connection from "./connection.js";
import { Endpoints } from "./endpoints.js";
import { Random } from "./random.js";
import { receive } from "./receive.js";
import type { Mode, QueueLimits, Start } from "./subscription.js";
import { type Control, transmit } from "./transmit.js";

/** How often deadlines of requests are looked at while there are any; they are that inexact. */
const TICK_MS = 250;
/** Pages for the application that one channel asks for at once: a node has a bound for those of a session. */
export const HISTORIES_ASKED_MAX = 4;

/** Limits and times of a client. */
export interface Config {
  readonly agent: string;
  readonly endpoints: readonly [string, ...string[]];
  /** URLs of WebTransport to the same nodes, by those. */
  readonly beside?: ReadonlyMap<string, string>;
  /** A new token can be had by asking. */
  readonly tokensRenew: boolean;
  /** The first connection must succeed soon: each URL is tried once, and again only if a node asks for it. */
  failFast: boolean;
  readonly queue: QueueLimits;
  readonly backoff: BackoffLimits;
  readonly connectTimeoutMs: number;
  readonly requestTimeoutMs: number;
  /** `undefined` waits for ever. */
  readonly sendTimeoutMs: number | undefined;
  readonly closeTimeoutMs: number;
}

/** What a handle knows from the start. */
export interface Opened {
  readonly position: Position;
  readonly history: HistoryClass;
  readonly canPublish: boolean;
}

/** How a call ended. */
export type Result<T> = { readonly ok: T } | { readonly error: MillraceError };

/** What the shell does for the engine, in this order. */
export type Action =
  /** Get a token; tell with `handleToken`. */
  | { readonly type: "fetchToken" }
  /** Open a connection; tell with `handleConnected` or `handleDisconnected`. */
  | { readonly type: "connect"; readonly endpoint: string; readonly beside?: string | undefined }
  /** Close the connection, or stop opening it; nothing is told. */
  | { readonly type: "disconnect" }
  /** Queue an event for the application. */
  | { readonly type: "deliver"; readonly key: Key; readonly event: ChannelEvent }
  /** The queue's room is used up: tell with `taken` when at least half is free. */
  | { readonly type: "starved"; readonly key: Key }
  /** A handle is open, or cannot be. */
  | { readonly type: "opened"; readonly ticket: Ticket; readonly key: Key; readonly result: Result<Opened> }
  /** A message is stored, or given up. */
  | { readonly type: "sent"; readonly ticket: Ticket; readonly result: Result<Receipt> }
  /** A page of history is here, or cannot be had. */
  | { readonly type: "page"; readonly ticket: Ticket; readonly result: Result<Page> }
  /** How much of a channel is unread has changed. */
  | { readonly type: "unread"; readonly key: Key; readonly unread: Unread | undefined }
  /** The connection's state changed. */
  | { readonly type: "state"; readonly state: State }
  /** Something went wrong that needs nothing of the application but may interest its log. */
  | { readonly type: "warning"; readonly error: MillraceError };

/** What a request number stands for. */
export type Request =
  | { readonly kind: "subscribe"; readonly key: Key }
  | { readonly kind: "unsubscribe" }
  | { readonly kind: "publish"; readonly key: Key; readonly sequence: number }
  | { readonly kind: "history"; readonly key: Key; readonly ticket: Ticket }
  | { readonly kind: "catchUp"; readonly key: Key }
  | { readonly kind: "markRead"; readonly key: Key }
  | { readonly kind: "refresh" }
  | { readonly kind: "probe" };

/** See the top of this file. Fields are shared among the engine's modules, and nobody else's. */
export class Engine {
  readonly random: Random;
  readonly endpoints: Endpoints;
  readonly backoff: Backoff;
  link: connection.Link = { kind: "idle" };
  readonly token: connection.Token = connection.noToken();
  goAway: connection.GoAway | undefined;
  /** What the node said last, if that was a complaint that answers nothing: it tells why the connection ends. */
  complaint: connection.Complaint | undefined;
  /** As whom the last hello spoke, if its token tells. */
  user: string | undefined;
  everOpen = false;
  startedAt = 0;
  closing: number | undefined;
  /** How long a node may still read what a dead connection carried. */
  lingerMs = 60_000;
  payloadBytesMax = PAYLOAD_BYTES_CAP;
  channels = new Map<Key, ChannelState>();
  readonly byName = new Map<string, Key>();
  /** Of this connection. */
  readonly byNumber = new Map<bigint, Key>();
  readonly requests = new Map<number, Request>();
  control: Control[] = [];
  /** Channels with messages to send, each once. */
  ready: Key[] = [];
  /** When to look at a channel next. */
  readonly wakes = new Map<Key, number>();
  tickAt: number | undefined;
  /** The node knows read positions. */
  hasReads = true;
  /** Channels of which the application may be told something about what is unread. */
  readonly unreadNews = new Set<Key>();
  actions: Action[] = [];
  keys = 0;
  private lastRequest = 0;

  /** `now` and `unixMs` are the same moment. Call {@link start} next. */
  constructor(
    readonly config: Config,
    seed: bigint,
    now: number,
    unixMs: number,
  ) {
    this.random = new Random(seed);
    this.endpoints = new Endpoints(config.endpoints, config.beside);
    this.backoff = new Backoff(config.backoff);
    this.unixMsAtZero = unixMs - now;
  }

  /** Unix time at the moment 0 of the steady clock. */
  unixMsAtZero: number;

  /** The next things for the shell to do, in order. */
  pollActions(): readonly Action[] {
    // Once for all that came together.
    for (const key of this.unreadNews) {
      const reads = this.channels.get(key)?.reads;
      if (reads?.tell()) this.actions.push({ type: "unread", key, unread: reads.unread });
    }
    this.unreadNews.clear();
    const { actions } = this;
    if (actions.length > 0) this.actions = [];
    return actions;
  }

  /** The next frame for the connection; `undefined` if there is none. */
  pollTransmit(now: number): Uint8Array<ArrayBuffer> | undefined {
    return transmit(this, now);
  }

  /** When {@link handleTimeout} is due. */
  nextTimeout(): number | undefined {
    const wake = earliest(...this.wakes.values());
    const goAway = this.isOpen ? this.goAway?.at : undefined;
    const refresh = this.isOpen ? this.token.refreshAt : undefined;
    return earliest(connection.linkTimeout(this), goAway, refresh, wake, this.tickAt, this.closing);
  }

  /** Does what is due. */
  handleTimeout(now: number): void {
    connection.handleLinkTimeout(this, now);
    for (const [key, at] of [...this.wakes]) {
      if (at > now) continue;
      this.wakes.delete(key);
      this.sync(now, key);
    }
    if (this.tickAt !== undefined && this.tickAt <= now) this.tick(now);
    connection.finishIfFlushed(this, now);
  }

  /** Begins to connect. */
  start(now: number): void {
    connection.start(this, now);
  }

  /** The answer to the action `fetchToken`. */
  handleToken(now: number, result: Result<string>): void {
    connection.handleToken(this, now, result);
  }

  /** The answer to the action `connect`: frames can be sent. */
  handleConnected(now: number): void {
    connection.handleConnected(this, now);
  }

  /** The connection ended, or could not be opened. */
  handleDisconnected(now: number, error: MillraceError): void {
    connection.handleDisconnected(this, now, error);
  }

  /** One whole frame from the node. */
  handleFrame(now: number, frame: Uint8Array): void {
    receive(this, now, frame);
  }

  /**
   * The network came back, or the machine or the page slept: what seems to hold may not, and what waits need not. `unixMs` is
   * the same moment as `now`, because a clock may have stood still.
   */
  handleWake(now: number, unixMs: number): void {
    connection.handleWake(this, now, unixMs);
  }

  /**
   * Opens a handle: a reader if `start` is given, else a sender. The channel's key is known at once, and an action `opened`
   * follows.
   *
   * @throws {MillraceError} if it is refused here.
   */
  open(now: number, name: string, start: Start | undefined, ticket: Ticket): Key {
    return calls.open(this, now, name, start, ticket);
  }

  /** Nobody waits for a handle any more; returns its channel. */
  abandon(now: number, ticket: Ticket): Key | undefined {
    return calls.abandon(this, now, ticket);
  }

  /** A handle is no longer needed. A sender's messages still go out. */
  release(now: number, key: Key, handle: Handle): void {
    calls.release(this, now, key, handle);
  }

  /** Sends a message; an action `sent` follows. */
  send(now: number, key: Key, ticket: Ticket, body: Uint8Array): void {
    calls.send(this, now, key, ticket, body);
  }

  /** Gives up a message, if it has not had its end; an action `sent` follows then. */
  cancelSend(now: number, key: Key, ticket: Ticket, error: MillraceError): void {
    calls.cancelSend(this, now, key, ticket, error);
  }

  /** Reads a page of history; an action `page` follows. */
  history(now: number, key: Key, ticket: Ticket, range: HistoryRange, messagesMax: number): void {
    calls.history(this, now, key, ticket, range, messagesMax);
  }

  /** Nobody waits for a page any more. */
  abandonHistory(now: number, key: Key, ticket: Ticket): void {
    calls.abandonHistory(this, now, key, ticket);
  }

  /** The user has read a channel so far. */
  markRead(now: number, key: Key, position: Position): void {
    calls.markRead(this, now, key, position);
  }

  /** The application took events of a subscription out of its queue. */
  taken(now: number, key: Key, events: number, bytes: number): void {
    const subscription = this.channels.get(key)?.subscription;
    if (subscription === undefined) return;
    subscription.taken(events, bytes);
    this.sync(now, key);
  }

  /** Ends the client once every message has had its end, or the time for that is over. */
  close(now: number, timeoutMs = this.config.closeTimeoutMs): void {
    calls.close(this, now, timeoutMs);
  }

  /** @internal */
  get isOpen(): boolean {
    return this.link.kind === "open";
  }

  /** @internal Brings what the node was told in line with what the channel's handles want, and forgets a channel nobody
   * wants. Every change to a channel ends here. */
  sync(now: number, key: Key): void {
    this.tellEvents(key);
    const channel = this.channels.get(key);
    if (channel === undefined) return;
    const { wanted, attach } = channel;
    if (this.isOpen) {
      if (attach.kind === "off" && (attach.retryAt === undefined || attach.retryAt <= now)) {
        if (wanted !== undefined) this.ask(now, key, channel, wanted);
      } else if (attach.kind === "on") {
        // To ask replaces what the session has.
        if (wanted === attach.mode) this.feed(now, key, channel);
        else if (wanted === undefined) this.unsubscribe(channel);
        else this.ask(now, key, channel, wanted);
      }
    }
    const isDone = channel.outbox.isEmpty && !channel.reads.isPending;
    if (wanted === undefined && channel.attach.kind === "off" && !channel.isHeld && isDone) {
      if (this.byName.get(channel.name) === key) this.byName.delete(channel.name);
      this.channels.delete(key);
      this.wakes.delete(key);
      return;
    }
    if (channel.isWaiting) this.armTick(now);
    const at = channel.resumeAt;
    if (at !== undefined && at > now) this.wakes.set(key, earliest(at, this.wakes.get(key)) ?? at);
  }

  /** @internal Asks to be subscribed or attached. */
  ask(now: number, key: Key, channel: ChannelState, mode: Mode): void {
    const request = this.request({ kind: "subscribe", key });
    channel.attach = { kind: "asked", mode, request, at: now };
    channel.isOutdated = false;
    this.control.push({ kind: "subscribe", key, request });
  }

  /** @internal Ends what the node counts the session as. */
  unsubscribe(channel: ChannelState): void {
    channel.attach = OFF;
    if (channel.number === undefined) return;
    this.byNumber.delete(channel.number);
    this.control.push({
      kind: "unsubscribe",
      channel: channel.number,
      request: this.request({ kind: "unsubscribe" }),
    });
    channel.number = undefined;
  }

  /** @internal Lists a channel that has a message to send. */
  list(key: Key, channel: ChannelState): void {
    if (channel.isListed) return;
    channel.isListed = true;
    this.ready.push(key);
  }

  /** @internal Passes on what a subscription has for the application. */
  tellEvents(key: Key): void {
    const subscription = this.channels.get(key)?.subscription;
    if (subscription === undefined) return;
    for (let event = subscription.pollEvent(); event !== undefined; event = subscription.pollEvent()) {
      this.actions.push({ type: "deliver", key, event });
    }
    if (subscription.takeStarved()) this.actions.push({ type: "starved", key });
  }

  /** @internal A number for a request, under which its answer will come. */
  request(request: Request): number {
    const number = this.requestNumber();
    this.requests.set(number, request);
    return number;
  }

  /** @internal */
  requestNumber(): number {
    do {
      this.lastRequest = (this.lastRequest + 1) >>> 0;
    } while (this.lastRequest === 0 || this.requests.has(this.lastRequest));
    return this.lastRequest;
  }

  /** @internal */
  armTick(now: number): void {
    this.tickAt ??= now + TICK_MS;
  }

  /** Sends what an attached channel has to send: messages, and requests for history. */
  private feed(now: number, key: Key, channel: ChannelState): void {
    if (channel.outbox.isReady(now)) this.list(key, channel);
    const mark = channel.reads.due(now);
    if (mark !== undefined) {
      channel.reads.asked(now, mark);
      this.control.push({ kind: "markRead", key, request: this.request({ kind: "markRead", key }), position: mark });
    }
    let room = HISTORIES_ASKED_MAX - channel.histories.filter((history) => history.isAsked).length;
    for (const history of channel.histories) {
      if (room <= 0) break;
      if (history.isAsked || (history.retryAt !== undefined && history.retryAt > now)) continue;
      history.isAsked = true;
      room -= 1;
      const { ticket, range, messagesMax } = history;
      const request = this.request({ kind: "history", key, ticket });
      this.control.push({ kind: "history", key, request, range, messagesMax });
    }
    const page = channel.subscription?.pageWanted(now);
    if (page === undefined) return;
    channel.subscription?.pageAsked(now);
    const range: HistoryRange = { kind: "after", offset: page.after };
    const request = this.request({ kind: "catchUp", key });
    this.control.push({ kind: "history", key, request, range, messagesMax: page.messagesMax });
  }

  /** Looks for everything whose time has passed. */
  private tick(now: number): void {
    this.tickAt = undefined;
    for (const [key, channel] of [...this.channels]) {
      if (!channel.isWaiting) continue;
      calls.expire(this, now, key);
      this.sync(now, key);
    }
    if (this.isOpen) {
      const oldest = earliest(...[...this.channels.values()].map((channel) => channel.oldestAsked));
      if (oldest !== undefined && oldest + this.config.requestTimeoutMs <= now) {
        // A node that answers nothing but a heartbeat is no use.
        connection.dropConnection(this, now, timedOut("an answer"));
      }
    }
    for (const channel of this.channels.values()) {
      if (channel.isWaiting) {
        this.armTick(now);
        break;
      }
    }
  }
}
