// All that the client knows of one channel: what its handles want, what the node was asked, what waits to be sent.

import type { MillraceError } from "../error.js";
import type { Position } from "../event.js";
import type { HistoryClass } from "../wire/frames.js";
import type { Backoff } from "./backoff.js";
import type { Outbox } from "./outbox.js";
import { Reads } from "./reads.js";
import type { Mode, Subscription } from "./subscription.js";

/** Names a channel's entry in the engine. Never used again. */
export type Key = number;
/** Names a call of the application; the shell knows who waits for it. */
export type Ticket = number;

/** What the node counts the session as. */
export type Attach =
  /** Nothing, and it was not asked. */
  | { readonly kind: "off"; readonly retryAt: number | undefined }
  /** It was asked and has not answered. */
  | { readonly kind: "asked"; readonly mode: Mode; readonly request: number; readonly at: number }
  /** As asked. */
  | { readonly kind: "on"; readonly mode: Mode };

export const OFF: Attach = { kind: "off", retryAt: undefined };

/** What a node says of a channel in its answer. */
export interface Facts {
  readonly head: Position;
  readonly history: HistoryClass;
  readonly canPublish: boolean;
}

/** What a handle does. */
export type Handle = "reader" | "sender";

/** A call that opens a handle. */
export interface Waiter {
  readonly ticket: Ticket;
  readonly handle: Handle;
  readonly deadline: number;
  /** Why the last try failed. */
  error: MillraceError | undefined;
}

/** Which part of the history a page shows. */
export type HistoryRange =
  | { readonly kind: "newest" }
  | { readonly kind: "before"; readonly offset: number }
  | { readonly kind: "after"; readonly offset: number };

/** A page that the application asked for. */
export interface HistoryCall {
  readonly ticket: Ticket;
  readonly range: HistoryRange;
  readonly messagesMax: number;
  readonly deadline: number;
  isAsked: boolean;
  retryAt: number | undefined;
  /** Why the last try failed. */
  error: MillraceError | undefined;
}

export class ChannelState {
  /** Its number, while this connection has it. */
  number: bigint | undefined;
  attach: Attach = OFF;
  /** The answer that is under way is for a subscription that is no more. */
  isOutdated = false;
  subscription: Subscription | undefined;
  /** Handles that publish and read history. */
  senders = 0;
  waiters: Waiter[] = [];
  histories: HistoryCall[] = [];
  /** How far the user has read. */
  readonly reads = new Reads();
  /** What the node said last. */
  facts: Facts | undefined;
  /** The node refused the channel for good, while handles were left. */
  ended: MillraceError | undefined;
  /** It is in the engine's list of channels with something to send. */
  isListed = false;
  /** Messages sent since others had their turn. */
  turn = 0;

  constructor(
    readonly name: string,
    readonly outbox: Outbox,
    /** Between tries to subscribe. */
    readonly backoff: Backoff,
  ) {}

  /** What the node should count the session as; `undefined` if nobody needs the channel. */
  get wanted(): Mode | undefined {
    if (this.ended !== undefined) return undefined;
    if (this.subscription !== undefined) return this.subscription.wanted;
    return this.senders > 0 || !this.outbox.isEmpty || this.reads.isPending ? "attach" : undefined;
  }

  /** Whether any handle is left. */
  get isHeld(): boolean {
    return this.subscription !== undefined || this.senders > 0;
  }

  /** A handle that was asked for will not be. */
  refuseHandle(handle: Handle): void {
    if (handle === "reader") this.subscription = undefined;
    this.senders = Math.max(0, this.senders - 1);
  }

  /** Whether time may run out for anything here. */
  get isWaiting(): boolean {
    return (
      this.attach.kind === "asked" ||
      this.subscription?.pageAskedAt !== undefined ||
      this.reads.askedAt !== undefined ||
      !this.outbox.isEmpty ||
      this.waiters.length > 0 ||
      this.histories.length > 0
    );
  }

  /** Since when the oldest request has no answer. */
  get oldestAsked(): number | undefined {
    const asked = this.attach.kind === "asked" ? this.attach.at : undefined;
    return earliest(asked, this.subscription?.pageAskedAt, this.outbox.oldestSent, this.reads.askedAt);
  }

  /** When something that pauses goes on. */
  get resumeAt(): number | undefined {
    let retry: number | undefined;
    if (this.attach.kind === "off") retry = this.attach.retryAt;
    else if (this.attach.kind === "on") retry = this.outbox.resumeAt;
    const pages = this.histories.filter((history) => !history.isAsked).map((history) => history.retryAt);
    return earliest(retry, this.subscription?.retryAt, this.reads.retryAt, ...pages);
  }

  /** The connection is gone, and with it what the node knew of the session. */
  disconnected(): void {
    this.number = undefined;
    this.attach = OFF;
    this.isListed = false;
    this.reads.disconnected();
    this.subscription?.disconnected();
    for (const history of this.histories) history.isAsked = false;
  }
}

/** The earliest of some moments; `undefined` if there is none. */
export function earliest(...moments: (number | undefined)[]): number | undefined {
  let found: number | undefined;
  for (const moment of moments) {
    if (moment !== undefined && (found === undefined || moment < found)) found = moment;
  }
  return found;
}
