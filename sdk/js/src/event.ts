// What an application reads from a channel.

import { Code } from "./code.js";
import { MillraceError } from "./error.js";
import type { WireMessage, WirePosition } from "./wire/frames.js";

/** A place in a channel's history. Offsets compare only within an epoch. Plain data: keep it as JSON. */
export interface Position {
  /** One incarnation of the channel's history, from 1. */
  readonly epoch: number;
  /** Place of a message, contiguous from 1; 0 is before the first. */
  readonly offset: number;
}

/** How far the user has read a channel, on whichever device, and what is unread. */
export interface Unread {
  /** How many messages stand behind the read position: other people's and the user's own. */
  readonly count: number;
  /** Everything up to and with this position is read; offset 0 if nothing is. */
  readonly read: Position;
  /** The newest message that is known. A channel that is not subscribed hears of new ones only when it sends. */
  readonly newest: Position;
}

/** What was not delivered just before a message; see {@link ChannelEvent}. */
export type Gap = SkippedEvent | ResetEvent;

const utf8 = new TextDecoder();

/** A message of a channel. */
export class Message {
  private decoded: string | undefined;

  /** @internal */
  constructor(
    /** Its place; keep it to go on from here with `subscribe({ after: position })`. Offset 0 in a channel without history. */
    readonly position: Position,
    /** When the node accepted it, in milliseconds of Unix time. */
    readonly timeMs: number,
    /** Who sent it. */
    readonly user: string,
    /** By which run of the sender. */
    readonly producer: bigint,
    /** Its place among the messages of that run. */
    readonly sequence: bigint,
    /** What was sent. */
    readonly body: Uint8Array,
    /** The ticket of this client's own message, if its acknowledgement has not come yet, or it was given up as `unconfirmed`. */
    readonly ticket: number | undefined,
    /**
     * What was not delivered just before it, oldest first; of each kind of event one, which stands for all of them. Only
     * iteration sets it; listeners hear the events themselves.
     */
    readonly gaps: readonly Gap[] = [],
  ) {}

  /** When the node accepted it. */
  get time(): Date {
    return new Date(this.timeMs);
  }

  /** The body as text; bytes that are not UTF-8 become U+FFFD. */
  get text(): string {
    this.decoded ??= utf8.decode(this.body);
    return this.decoded;
  }

  /**
   * The body as JSON. Others wrote it: check its shape.
   *
   * @throws {SyntaxError} if it is not JSON.
   */
  json(): unknown {
    return JSON.parse(this.text);
  }

  /** @internal */
  behind(gaps: readonly Gap[]): Message {
    return behind(this, gaps);
  }
}

// Apart, because a bundler gives another name to a class that names itself, and Node prints that.
function behind(message: Message, gaps: readonly Gap[]): Message {
  const { position, timeMs, user, producer, sequence, body, ticket } = message;
  return new Message(position, timeMs, user, producer, sequence, body, ticket, gaps);
}

/** Which messages were not delivered, and why. */
export type Skipped =
  /** This client read too slowly, and the channel's policy is to skip. Both ends are inclusive; the history has them. */
  | { readonly kind: "slow-consumer"; readonly first: Position; readonly last: Position }
  /** The application read too slowly from a channel that keeps no history. */
  | { readonly kind: "queue-full"; readonly messages: number }
  /** The connection was interrupted, and the channel keeps no history: it is not known how many. */
  | { readonly kind: "interrupted" };

/** Why what the application holds from before may be gone or incomplete. */
export type ResetReason = "epoch-changed" | "position-too-old" | "position-ahead";

/** The next message: each comes once, in the order of the channel. */
export interface MessageEvent {
  readonly type: "message";
  readonly message: Message;
}

/** Messages that were not delivered and will not be. */
export interface SkippedEvent {
  readonly type: "skipped";
  readonly skipped: Skipped;
}

/** The history is not what it was: the application reads it again. Messages after `position` follow. */
export interface ResetEvent {
  readonly type: "reset";
  /** `epoch-changed`: stored messages were lost. `position-too-old`: swept before they were read. `position-ahead`: the
   * channel is shorter than it was. */
  readonly reason: ResetReason;
  /** Where delivery goes on. */
  readonly position: Position;
}

/** The right to publish to the channel was given or taken. */
export interface CanPublishEvent {
  readonly type: "canPublish";
  readonly canPublish: boolean;
}

/** The subscription ended, and why; nothing follows. */
export interface EndedEvent {
  readonly type: "ended";
  readonly error: MillraceError;
}

/** Something that a subscription has to tell. */
export type ChannelEvent = MessageEvent | SkippedEvent | ResetEvent | CanPublishEvent | EndedEvent;

/** A page of history, in ascending order of offset. */
export interface Page {
  /** The messages, oldest first. */
  readonly messages: readonly Message[];
  /** There are more messages in the direction that was asked for. */
  readonly more: boolean;
}

/** The acknowledgement of a message: for a durable channel, that it is stored. */
export interface Receipt {
  /** Its place; offset 0 in a channel without history, or if an earlier try had stored it so long ago that the node does not
   * know where. */
  readonly position: Position;
  readonly producer: bigint;
  readonly sequence: bigint;
  /** An earlier try had stored it. */
  readonly duplicate: boolean;
}

/** @internal What is missing, with one more gap behind it: of each kind the first and the newest become one. */
export function withGap(gaps: readonly Gap[], gap: Gap): readonly Gap[] {
  const index = gaps.findIndex((one) => kindOf(one) === kindOf(gap));
  const there = gaps[index];
  if (there === undefined) return [...gaps, gap];
  return gaps.map((one, at) => (at === index ? joined(there, gap) : one));
}

const kindOf = (gap: Gap): string => (gap.type === "reset" ? gap.reason : gap.skipped.kind);

function joined(a: Gap, b: Gap): Gap {
  if (a.type === "reset" || b.type === "reset") return b;
  const [one, other] = [a.skipped, b.skipped];
  if (one.kind === "slow-consumer" && other.kind === "slow-consumer") {
    return { type: "skipped", skipped: { ...one, last: other.last } };
  }
  if (one.kind === "queue-full" && other.kind === "queue-full") {
    return { type: "skipped", skipped: { ...one, messages: one.messages + other.messages } };
  }
  return b;
}

/** @internal Bytes that an event holds in a queue, its fixed size left out. */
export function bytesOf(event: ChannelEvent): number {
  return event.type === "message" ? event.message.body.length + event.message.user.length : 0;
}

/** @internal */
export function position(from: WirePosition): Position {
  const offset = Number(from.offset);
  // At a million messages a second a channel gets there in 285 years.
  if (!Number.isSafeInteger(offset)) throw new MillraceError("protocol", `offset ${from.offset} is out of range`);
  return { epoch: from.epoch, offset };
}

/** @internal */
export function messageFrom(wire: WireMessage, isPage: boolean, ticket?: number): Message {
  // A body of a page must not keep the whole page in memory.
  const body = isPage ? wire.body.slice() : wire.body;
  const { user, producer, sequence } = wire;
  return new Message(position(wire.position), Number(wire.timeMs), user, producer, sequence, body, ticket);
}

/** @internal The reason for a reset by its code; one that this version does not know is told as `epoch-changed`. */
export function resetReason(code: number): ResetReason {
  if (code === Code.PositionTooOld) return "position-too-old";
  return code === Code.PositionAhead ? "position-ahead" : "epoch-changed";
}
