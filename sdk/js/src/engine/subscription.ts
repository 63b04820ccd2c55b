// Where one subscription stands, and what the application gets to see: each message once, in order, or a word on why not.
//
// It is *live* while the node pushes and every message follows the one before. In every other case (the application does not
// read, the position is too old to resume, a message is missing) it *pulls*: the session is only attached to the channel, pages
// of history are read at the application's pace, and when it keeps up with them, or they reach the newest message, the
// subscription resumes from there. So one slow channel costs its own queue, and nobody else's.

import { Code } from "../code.js";
import type { MillraceError } from "../error.js";
import { bytesOf, type ChannelEvent, type Message, type Position, type ResetReason, resetReason } from "../event.js";
import type { HistoryClass, Recovery } from "../wire/frames.js";
import { Backoff, type BackoffLimits } from "./backoff.js";
import type { Random } from "./random.js";

/** Most messages that one page is asked for. */
const PAGE_MESSAGES_MAX = 256;

/** What may wait for the application. */
export interface QueueLimits {
  readonly messagesMax: number;
  /** Exceeded by at most one page. */
  readonly bytesMax: number;
}

/** Where a subscription starts. */
export type Start =
  /** With the next message. */
  | { readonly kind: "live" }
  /** With the first message after this position, as a resume. If that cannot be, the first event says so. */
  | { readonly kind: "after"; readonly position: Position }
  /** With the first message after this offset, whatever the epoch, read from the history; 0 starts with the oldest kept. */
  | { readonly kind: "after-offset"; readonly offset: number };

/** What the node is asked to do for a channel: push nothing, or push messages. */
export type Mode = "attach" | "read";

/** What the engine asks the node for, in {@link Mode} `read`. */
export type ReadStart = { readonly kind: "live" } | { readonly kind: "after"; readonly position: Position };

/** What a node says of a channel in its answer. */
export interface Answer {
  readonly head: Position;
  readonly history: HistoryClass;
  readonly canPublish: boolean;
  readonly recovery: Recovery;
}

/** A page to ask for: messages after an offset. */
export interface PageWanted {
  readonly after: number;
  readonly messagesMax: number;
}

type Place =
  /** Before the first answer of a subscription that starts live. */
  | { readonly kind: "unknown" }
  /** Behind this offset of an epoch that the first message names. */
  | { readonly kind: "offset"; readonly offset: number }
  | { readonly kind: "at"; readonly position: Position };

interface Pull {
  /** A page is asked for, since then. */
  askedAt: number | undefined;
  /** Messages up to this offset were seen or announced. */
  target: number;
  /** The node will not send so much again: only pages lead to the newest message. */
  isFar: boolean;
  retryAt: number | undefined;
}

const pullTo = (target: number): Pull => ({ askedAt: undefined, target, isFar: false, retryAt: undefined });

export class Subscription {
  private place: Place;
  /** `undefined` while it is live. */
  private pulling: Pull | undefined;
  /** What the application's queue can still take. Every event counts as a message. */
  private messagesLeft: number;
  private bytesLeft: number;
  /** Newest epoch that the node named. */
  private epoch = 1;
  private keepsHistory = true;
  /** It was live before. */
  private begun = false;
  /** Messages of a channel without history that found no room since the last event. */
  private dropped = 0;
  private canPublish: boolean | undefined;
  /** The right changed and there was no room to say so. */
  private canPublishUntold = false;
  /** The application was asked to say when there is room. */
  private starved = false;
  private readonly backoff: Backoff;
  private readonly events: ChannelEvent[] = [];

  constructor(
    start: Start,
    private readonly queue: QueueLimits,
    backoff: BackoffLimits,
  ) {
    this.backoff = new Backoff(backoff);
    this.messagesLeft = queue.messagesMax;
    this.bytesLeft = queue.bytesMax;
    switch (start.kind) {
      case "live":
        this.place = { kind: "unknown" };
        break;
      case "after":
        this.place = { kind: "at", position: start.position };
        break;
      case "after-offset":
        this.place = { kind: "offset", offset: start.offset };
        this.pulling = pullTo(0);
        break;
    }
  }

  /** The next event for the application. */
  pollEvent(): ChannelEvent | undefined {
    return this.events.shift();
  }

  /** What the node should be asked for. */
  get wanted(): Mode {
    return this.pulling === undefined ? "read" : "attach";
  }

  /** From where, when asked to read. */
  get start(): ReadStart {
    return this.place.kind === "at" && this.keepsHistory
      ? { kind: "after", position: this.place.position }
      : { kind: "live" };
  }

  /** The place behind the last message delivered; `undefined` before the first answer. */
  get position(): Position | undefined {
    const { place } = this;
    // Of a channel that keeps nothing, only an answer to a subscription gives a place: the right to publish is none.
    if (!this.keepsHistory && !this.begun) return undefined;
    if (place.kind === "offset") return { epoch: this.epoch, offset: place.offset };
    return place.kind === "at" ? place.position : undefined;
  }

  /** Whether the application should say when it has read; true once per want of room. */
  takeStarved(): boolean {
    const waits =
      this.pulling === undefined
        ? this.dropped > 0 || this.canPublishUntold
        : this.pulling.askedAt === undefined && !this.isWide;
    if (!waits || this.starved) return false;
    this.starved = true;
    return true;
  }

  /** The node answered that the session is subscribed or attached, as asked. */
  subscribed(now: number, mode: Mode, answer: Answer, random: Random): void {
    const { head, recovery } = answer;
    this.keepsHistory = answer.history !== "none";
    this.epoch = head.epoch;
    this.noteCanPublish(answer.canPublish);
    if (!this.keepsHistory && mode === "attach") {
      this.pulling = undefined;
      return;
    }
    if (!this.keepsHistory) {
      if (this.begun) this.tell({ type: "skipped", skipped: { kind: "interrupted" } });
      this.pulling = undefined;
      this.place = { kind: "at", position: head };
    } else if (mode === "attach") {
      if (this.pulling !== undefined) this.pulling.target = Math.max(this.pulling.target, head.offset);
      if (this.place.kind === "offset" && this.place.offset > head.offset) {
        this.reset("position-ahead", head);
        this.pulling = undefined;
      }
    } else if (recovery.kind === "none") {
      if (this.place.kind === "at" && !isSame(this.place.position, head)) this.reset("epoch-changed", head);
      else this.place = { kind: "at", position: head };
    } else if (recovery.kind === "reload") {
      if (recovery.code === Code.PositionTooOld) this.pullAgain(now, head.offset, true, random);
      else this.reset(resetReason(recovery.code), head);
    }
    this.begun = true;
  }

  /** The node pushed a message. */
  message(now: number, message: Message, random: Random): void {
    if (this.pulling !== undefined) return;
    if (!this.keepsHistory) {
      if (this.isFull) {
        this.dropped += 1;
      } else {
        this.tellDropped();
        this.tell({ type: "message", message });
      }
      return;
    }
    if (this.place.kind !== "at") return;
    const at = this.place.position;
    const { position } = message;
    if (!isBehind(at, position)) return;
    if (position.epoch > at.epoch) this.reset("epoch-changed", before(position));
    else if (position.offset > at.offset + 1) {
      this.pullAgain(now, position.offset, false, random);
      return;
    }
    this.deliver(message);
    this.backoff.reset();
    if (this.isFull) this.pulling = pullTo(position.offset);
  }

  /** The node dropped messages, by the channel's policy. */
  skipped(now: number, first: Position, last: Position, random: Random): void {
    if (this.pulling !== undefined || this.place.kind !== "at") return;
    if (!this.keepsHistory) {
      if (this.isFull) this.dropped += 1;
      else this.tell({ type: "skipped", skipped: { kind: "slow-consumer", first, last } });
      return;
    }
    const at = this.place.position;
    if (!isBehind(at, last)) return;
    if (first.epoch > at.epoch) this.reset("epoch-changed", before(first));
    else if (first.offset > at.offset + 1) {
      this.pullAgain(now, last.offset, false, random);
      return;
    }
    const from = { epoch: first.epoch, offset: Math.max(first.offset, at.offset + 1) };
    this.place = { kind: "at", position: last };
    this.tell({ type: "skipped", skipped: { kind: "slow-consumer", first: from, last } });
    if (this.isFull) this.pulling = pullTo(last.offset);
  }

  /** The right to publish, as the node tells it. */
  noteCanPublish(canPublish: boolean): void {
    const before = this.canPublish;
    this.canPublish = canPublish;
    if (before !== undefined && before !== canPublish) {
      this.canPublishUntold = !this.canPublishUntold;
      this.tellCanPublish();
    }
  }

  /** The page to ask for now. It is under way once {@link pageAsked} says so. */
  pageWanted(now: number): PageWanted | undefined {
    const { pulling, place } = this;
    if (pulling === undefined || pulling.askedAt !== undefined || !this.isWide || place.kind === "unknown") {
      return undefined;
    }
    if (pulling.retryAt !== undefined && now < pulling.retryAt) return undefined;
    const after = place.kind === "at" ? place.position.offset : place.offset;
    return { after, messagesMax: Math.min(Math.max(this.messagesLeft, 1), PAGE_MESSAGES_MAX) };
  }

  pageAsked(now: number): void {
    if (this.pulling === undefined) return;
    this.pulling.askedAt = now;
    this.pulling.retryAt = undefined;
  }

  /** Since when a page is under way. */
  get pageAskedAt(): number | undefined {
    return this.pulling?.askedAt;
  }

  /** When to look at {@link pageWanted} again. */
  get retryAt(): number | undefined {
    return this.pulling?.retryAt;
  }

  /** The page that was asked for. */
  page(messages: readonly Message[], more: boolean): void {
    if (this.pulling === undefined) return;
    this.pulling.askedAt = undefined;
    const { target, isFar } = this.pulling;
    let delivered = false;
    for (const message of messages) {
      const { position } = message;
      const expected = this.expected(position);
      if (position.offset < expected) continue;
      if (position.offset > expected) this.reset("position-too-old", before(position));
      else if (this.place.kind === "at" && position.epoch > this.place.position.epoch) {
        this.reset("epoch-changed", before(position));
      }
      this.deliver(message);
      this.backoff.reset();
      delivered = true;
    }
    // To an application that keeps up, the node sends the rest faster than pages come.
    if (more && delivered && (isFar || !this.isWide)) return;
    const at = this.position;
    if (!delivered && (at?.offset ?? 0) < target) {
      // The store has nothing more, though there was more: it was swept.
      this.reset("position-too-old", { epoch: this.epoch, offset: target });
    } else if (at !== undefined) {
      this.place = { kind: "at", position: at };
    }
    if (!this.isFull) this.pulling = undefined;
  }

  /** The page that was asked for cannot be had. */
  pageRefused(now: number, error: MillraceError, random: Random): void {
    if (this.pulling === undefined) return;
    this.pulling.askedAt = undefined;
    if (error.advice === "do-not-retry") {
      this.reset("position-too-old", { epoch: this.epoch, offset: this.pulling.target });
      this.pulling = undefined;
    } else {
      this.pulling.retryAt = now + Math.max(this.backoff.next(random), error.retryAfterMs ?? 0);
    }
  }

  /** The application took events out of its queue. */
  taken(events: number, bytes: number): void {
    this.messagesLeft += events;
    this.bytesLeft += bytes;
    if (this.isWide) this.starved = false;
    this.tellDropped();
    this.tellCanPublish();
  }

  /** The connection is gone. */
  disconnected(): void {
    if (this.pulling !== undefined) this.pulling.askedAt = undefined;
  }

  /** The offset that a page should go on with. */
  private expected(position: Position): number {
    if (this.place.kind === "at") return this.place.position.offset + 1;
    // Whoever asks for everything gets what there is.
    if (this.place.kind === "unknown" || this.place.offset === 0) return position.offset;
    return this.place.offset + 1;
  }

  private get isFull(): boolean {
    return this.messagesLeft <= 0 || this.bytesLeft <= 0;
  }

  /** Whether at least half of the queue is free: asking earlier would ask often for little. */
  private get isWide(): boolean {
    const { messagesMax, bytesMax } = this.queue;
    return this.messagesLeft >= Math.ceil(messagesMax / 2) && this.bytesLeft >= Math.ceil(bytesMax / 2);
  }

  private deliver(message: Message): void {
    this.place = { kind: "at", position: message.position };
    this.tell({ type: "message", message });
  }

  private tell(event: ChannelEvent): void {
    this.messagesLeft -= 1;
    this.bytesLeft -= bytesOf(event);
    this.events.push(event);
  }

  private tellDropped(): void {
    if (this.dropped === 0 || this.isFull) return;
    const messages = this.dropped;
    this.dropped = 0;
    this.tell({ type: "skipped", skipped: { kind: "queue-full", messages } });
  }

  private tellCanPublish(): void {
    if (!this.canPublishUntold || this.isFull) return;
    this.canPublishUntold = false;
    this.tell({ type: "canPublish", canPublish: this.canPublish === true });
  }

  private reset(reason: ResetReason, position: Position): void {
    this.place = { kind: "at", position };
    this.tell({ type: "reset", reason, position });
  }

  /** What should follow does not: read it. A node that leaves gaps again and again is asked less often. */
  private pullAgain(now: number, target: number, isFar: boolean, random: Random): void {
    const isFirst = this.backoff.attempt === 0;
    const wait = this.backoff.next(random);
    this.pulling = { askedAt: undefined, target, isFar, retryAt: isFirst ? undefined : now + wait };
  }
}

function isSame(a: Position, b: Position): boolean {
  return a.epoch === b.epoch && a.offset === b.offset;
}

/** Whether `at` is behind `position`: an older epoch, or the same and a lower offset. */
function isBehind(at: Position, position: Position): boolean {
  return position.epoch > at.epoch || (position.epoch === at.epoch && position.offset > at.offset);
}

function before(position: Position): Position {
  return { epoch: position.epoch, offset: Math.max(0, position.offset - 1) };
}
