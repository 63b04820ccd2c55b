// A channel as the application holds it: reads, sends, looks back.

import { checkName } from "./engine/calls.js";
import type { HistoryRange, Key } from "./engine/channel.js";
import type { Opened } from "./engine/engine.js";
import type { Start } from "./engine/subscription.js";
import { MillraceError } from "./error.js";
import {
  type CanPublishEvent,
  type ChannelEvent,
  type EndedEvent,
  type Gap,
  type Message,
  type MessageEvent,
  type Page,
  type Position,
  type Receipt,
  type ResetEvent,
  type SkippedEvent,
  type Unread,
  withGap,
} from "./event.js";
import type { Inbox } from "./inbox.js";
import { type Listener, Listeners } from "./listeners.js";
import type { OpenHandle, Sending, Shell } from "./shell.js";
import type { HistoryClass } from "./wire/frames.js";

/** Messages of a page, unless more or fewer are asked for. */
const PAGE_MESSAGES = 50;

/** What a message can be made of: text is sent as UTF-8. The bytes are the client's until the message has its receipt. */
export type Body = string | Uint8Array | ArrayBuffer;

/** Where a subscription starts: with the next message, unless something is given. */
export interface SubscribeOptions {
  /** Behind the last message that the application has: everything missed comes first, in order and once, however much. */
  readonly after?: Position | undefined;
  /** Behind this offset, whatever the epoch, read from the history; 0 starts with the oldest message kept. */
  readonly afterOffset?: number | undefined;
  /** Takes the call back. An open subscription is ended by `unsubscribe`. */
  readonly signal?: AbortSignal | undefined;
}

/** Which page of a history: the newest messages, unless `before` or `after` is given. */
export interface HistoryOptions {
  /** The messages just before this offset. */
  readonly before?: number | undefined;
  /** The messages just after this offset; 0 begins at the first. */
  readonly after?: number | undefined;
  /** At most so many messages, 50 unless given. The node caps it at 1,000 messages and 512 KiB of bodies. */
  readonly limit?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** What listeners of a channel are told, by its name; `event` is all of them. */
export interface ChannelEvents {
  message: MessageEvent;
  skipped: SkippedEvent;
  reset: ResetEvent;
  canPublish: CanPublishEvent;
  ended: EndedEvent;
  event: ChannelEvent;
  /** How much is unread has changed; not an event of the subscription, so `event` does not tell it. */
  unread: Unread;
}

/** A subscription of this handle. */
interface Reading {
  readonly handle: OpenHandle;
  readonly inbox: Inbox;
  position: Position | undefined;
  opened: Opened | undefined;
  canPublish: boolean;
  isEnded: boolean;
  unfollow(): void;
}

/**
 * A channel of a client. Made by `client.channel(name)`, which costs nothing; what it needs of the node is asked when it is
 * used.
 *
 * Read it by iteration or by listeners. The client keeps at most its queue (1,024 messages and 1 MiB, unless told otherwise)
 * for an application that does not read. When that is full, it takes no more messages for this channel and, once there is
 * room, reads from the history what was missed; other channels go on meanwhile. In a channel that keeps no history, what finds
 * no room is dropped, and an event `skipped` says how much.
 */
export class Channel implements AsyncIterable<Message> {
  private readonly listeners = new Listeners<ChannelEvents>();
  private reading: Reading | undefined;
  private sender: OpenHandle | undefined;
  private unfollowSender = () => {};
  private lastUnread: Unread | undefined;
  private lastPosition: Position | undefined;
  private isIterated = false;
  /** What an iteration was told of and has no message yet to tell it with. */
  private gaps: readonly Gap[] = [];
  private isPumping = false;
  /** Wakes the iteration that waits. */
  private wakeIteration: (() => void) | undefined;

  /** @internal */
  constructor(
    private readonly shell: Shell,
    /** Name of the channel. */
    readonly name: string,
  ) {
    checkName(name);
  }

  /**
   * Reads the channel. Resolves when the node has agreed; messages are read by iteration, or by listeners.
   *
   * @returns This channel, so that `await client.channel("general").subscribe()` is one.
   * @throws {MillraceError} `refused` if the node refuses, such as with code 4005 (no access); `already-subscribed` if this
   * client reads the channel already, or the last subscription of this handle has ended and what it told was not read to its
   * end: read it, or `unsubscribe`; `timed-out` if there is no answer within the request timeout, over reconnects.
   */
  async subscribe(options: SubscribeOptions = {}): Promise<this> {
    const { reading: earlier } = this;
    if (earlier !== undefined && this.shell.state.kind !== "closed") {
      const isEnded = this.shell.isEnded(earlier.handle.key);
      const why = isEnded
        ? `the last subscription to ${this.name} was not read to its end`
        : `${this.name} is subscribed`;
      throw new MillraceError("already-subscribed", why);
    }
    const handle = this.shell.open(this.name, startOf(options), options.signal);
    const { inbox } = handle;
    if (inbox === undefined) throw new MillraceError("closed", "the client is closed");
    const reading: Reading = {
      handle,
      inbox,
      position: options.after,
      opened: undefined,
      canPublish: false,
      isEnded: false,
      unfollow: this.follow(handle.key),
    };
    this.reading = reading;
    this.gaps = [];
    inbox.onChange = () => this.onChange();
    try {
      reading.opened = await handle.opened;
    } catch (error) {
      if (this.reading === reading) this.reading = undefined;
      reading.unfollow();
      inbox.discard();
      throw error;
    }
    reading.position ??= reading.opened.position;
    reading.canPublish = reading.opened.canPublish;
    this.onChange();
    return this;
  }

  /** Ends the subscription: iterations end, listeners hear no more. What was sent still goes out. */
  unsubscribe(): void {
    const { reading } = this;
    if (reading === undefined) return;
    reading.inbox.discard();
    this.endReading(reading);
  }

  /** @internal The user as whom the client connected last. */
  get user(): string | undefined {
    return this.shell.user;
  }

  /** Whether it is subscribed, or about to be. */
  get isSubscribed(): boolean {
    return this.reading !== undefined;
  }

  /**
   * The place behind the last event that the application was given: kept, it is where a later `subscribe({ after })` goes on.
   * `undefined` before the first subscription.
   */
  get position(): Position | undefined {
    return this.reading?.position ?? this.lastPosition;
  }

  /** What the channel keeps of its messages; `undefined` while it is not subscribed. */
  get historyClass(): HistoryClass | undefined {
    return this.reading?.opened?.history;
  }

  /** Whether the user may publish, as of the last event; `undefined` while it is not subscribed. */
  get canPublish(): boolean | undefined {
    return this.reading?.opened && this.reading.canPublish;
  }

  /**
   * Adds a listener; returns what removes it. With a listener for `message` or `event` the channel is read as fast as events
   * come; one that returns a promise is waited for before the next event, so a slow listener slows the reading, not the
   * process.
   */
  on<Type extends keyof ChannelEvents>(type: Type, listener: Listener<ChannelEvents[Type]>): () => void {
    const remove = this.listeners.add(type, listener);
    this.onChange();
    return remove;
  }

  /** All events, in order. One iteration at a time; leaving it does not unsubscribe. It ends with the subscription. */
  async *events({ signal }: { readonly signal?: AbortSignal | undefined } = {}): AsyncGenerator<ChannelEvent, void> {
    if (this.isIterated) {
      throw new MillraceError("already-subscribed", `${this.name} is being iterated already`);
    }
    this.isIterated = true;
    const wake = () => this.wakeIteration?.();
    signal?.addEventListener("abort", wake);
    try {
      const { reading } = this;
      while (reading !== undefined) {
        signal?.throwIfAborted();
        const event = reading.inbox.take();
        if (event !== undefined) {
          const busy = this.observe(reading, event);
          if (busy !== undefined) await busy;
          yield event;
        } else if (reading.inbox.isClosed) {
          return;
        } else {
          await new Promise<void>((resolve) => {
            this.wakeIteration = resolve;
          });
          this.wakeIteration = undefined;
        }
      }
    } finally {
      signal?.removeEventListener("abort", wake);
      this.isIterated = false;
      this.onChange();
    }
  }

  /**
   * All messages, in order; one that something was missed before says so in `gaps`. One iteration at a time; leaving it does
   * not unsubscribe.
   *
   * @throws {MillraceError} what ended the subscription, unless the application did.
   */
  async *messages(options: { readonly signal?: AbortSignal | undefined } = {}): AsyncGenerator<Message, void> {
    for await (const event of this.events(options)) {
      if (event.type === "message") {
        const { gaps } = this;
        this.gaps = [];
        yield gaps.length === 0 ? event.message : event.message.behind(gaps);
      } else if (event.type === "ended") {
        throw event.error;
      } else if (event.type !== "canPublish") {
        this.gaps = withGap(this.gaps, event);
      }
    }
  }

  [Symbol.asyncIterator](): AsyncGenerator<Message, void> {
    return this.messages();
  }

  /**
   * Sends a message; resolves when it is acknowledged, which for a durable channel is when it is stored. It is tried again as
   * often as it takes, over reconnects, and stored once. Calls keep their order.
   *
   * Needs no subscription, and no connection either: messages wait for one. When more than a window and a queue of them wait
   * (256 and 1,024 messages of the channel, unless told otherwise), more are refused at once with `queue-full`.
   *
   * @param options.signal Takes the message back, if it has not left yet; else the error is `unconfirmed`.
   * @throws {MillraceError} `unconfirmed` if it was sent and its fate is unknown; any other error says that it is not stored.
   */
  async send(body: Body, options: { readonly signal?: AbortSignal | undefined } = {}): Promise<Receipt> {
    const { receipt } = await this.submit(body, options);
    return receipt;
  }

  /**
   * Sends a message, and resolves as soon as it has its place in the order, which is once there is room in the window. This is
   * how to send fast: submit one after the other, and look at the receipts later, or never.
   *
   * @throws {MillraceError} as {@link send}; what comes later is told by `receipt`.
   */
  async submit(body: Body, { signal }: { readonly signal?: AbortSignal | undefined } = {}): Promise<Sending> {
    return this.shell.submit(this.senderKey(), bytesOf(body), signal);
  }

  /**
   * Reads a page of history.
   *
   * @throws {MillraceError} `refused` if the node refuses, such as with code 4010 (no history); `timed-out` if there is no
   * answer in time; `too-many-requests` if 64 pages of the channel are under way.
   */
  async history({ before, after, limit = PAGE_MESSAGES, signal }: HistoryOptions = {}): Promise<Page> {
    let range: HistoryRange = { kind: "newest" };
    if (before !== undefined) range = { kind: "before", offset: Math.max(1, offset("before", before)) };
    else if (after !== undefined) range = { kind: "after", offset: offset("after", after) };
    const messagesMax = Math.min(Math.max(1, offset("limit", limit)), 0xffff_ffff);
    return this.shell.history(this.senderKey(), range, messagesMax, signal);
  }

  /**
   * Page after page of history: backward from the newest message or from `before`, forward from `after`. Ends with the last
   * page; each is asked for when the iteration does.
   *
   * @throws {MillraceError} as {@link history}.
   */
  async *pages(options: HistoryOptions = {}): AsyncGenerator<Page, void> {
    const { after } = options;
    let next: HistoryOptions = options;
    for (;;) {
      const page = await this.history(next);
      const { messages, more } = page;
      if (messages.length > 0) yield page;
      const edge = after === undefined ? messages[0] : messages.at(-1);
      if (edge === undefined || !more) return;
      const { offset } = edge.position;
      next = after === undefined ? { ...options, before: offset } : { ...options, after: offset };
    }
  }

  /**
   * Says that the user has read everything up to and with a position, such as a message's. It counts here at once and is told to the node
   * until that has stored it, over reconnects; of many marks only the furthest goes. All sessions of the user, on whichever
   * device, hear of it. A position that is behind where it stands already changes nothing.
   *
   * Mark while reading, as often as is convenient. What a node refuses, such as a position ahead of the channel, is dropped: then
   * {@link unread} shows again where the position stands.
   *
   * @throws {MillraceError} `closed`, or what closed the client.
   */
  markRead({ epoch, offset: at }: Position): void {
    const position = { epoch: Math.max(1, offset("epoch", epoch)), offset: offset("offset", at) };
    this.shell.markRead(this.reading?.handle.key ?? this.senderKey(), position);
  }

  /**
   * How far the user has read the channel, and how much is unread; the event `unread` tells when that changes. `undefined` while it is
   * not known: before the channel is subscribed or used, before the node has told, and if the channel keeps no history.
   */
  get unread(): Unread | undefined {
    const key = this.reading?.handle.key ?? this.sender?.key;
    return key === undefined ? undefined : this.shell.unread(key);
  }

  private follow(key: Key): () => void {
    return this.shell.follow(key, (unread) => {
      // The reader's handle and the sender's are of one channel.
      if (unread === this.lastUnread) return;
      this.lastUnread = unread;
      if (unread !== undefined) this.listeners.tell("unread", unread);
    });
  }

  /** Unsubscribes, and gives up the right to publish that this handle had. What was sent still goes out. */
  close(): void {
    this.unsubscribe();
    this.releaseSender();
  }

  /** The channel's entry to send through, opened if need be. What it refuses, it refuses to each message. */
  private senderKey(): Key {
    if (this.sender !== undefined && this.shell.isEnded(this.sender.key)) this.releaseSender();
    if (this.sender !== undefined) return this.sender.key;
    const sender = this.shell.open(this.name, undefined);
    this.sender = sender;
    this.unfollowSender = this.follow(sender.key);
    sender.opened.catch(() => {
      if (this.sender === sender) this.sender = undefined;
    });
    return sender.key;
  }

  private releaseSender(): void {
    const { sender } = this;
    this.sender = undefined;
    this.unfollowSender();
    if (sender !== undefined && !sender.abandon()) this.shell.release(sender.key, "sender");
  }

  /** There is something to read, or somebody who wants to. */
  private onChange(): void {
    if (this.isIterated) this.wakeIteration?.();
    else if (!this.isPumping && (this.listeners.has("message") || this.listeners.has("event"))) {
      this.isPumping = true;
      queueMicrotask(() => void this.pump());
    }
  }

  /** Reads for listeners, at their pace. */
  private async pump(): Promise<void> {
    try {
      for (let { reading } = this; reading?.opened !== undefined && !this.isIterated; { reading } = this) {
        if (!this.listeners.has("message") && !this.listeners.has("event")) return;
        const event = reading.inbox.take();
        if (event === undefined) return;
        const busy = this.observe(reading, event);
        if (busy !== undefined) await busy;
      }
    } finally {
      this.isPumping = false;
    }
  }

  /** Takes note of an event that the application is given, and tells listeners. */
  private observe(reading: Reading, event: ChannelEvent): Promise<unknown> | undefined {
    switch (event.type) {
      case "message":
        reading.position = event.message.position;
        break;
      case "reset":
        reading.position = event.position;
        break;
      case "skipped":
        if (event.skipped.kind === "slow-consumer") reading.position = event.skipped.last;
        break;
      case "canPublish":
        reading.canPublish = event.canPublish;
        break;
      case "ended":
        this.endReading(reading);
        break;
    }
    const busy = [this.listeners.tell(event.type, event as never), this.listeners.tell("event", event)];
    return busy[0] === undefined ? busy[1] : Promise.all(busy);
  }

  private endReading(reading: Reading): void {
    if (reading.isEnded) return;
    reading.isEnded = true;
    reading.unfollow();
    this.lastPosition = reading.position;
    if (this.reading === reading) this.reading = undefined;
    if (reading.handle.abandon()) return;
    this.shell.release(reading.handle.key, "reader");
    this.shell.release(reading.handle.key, "sender");
  }
}

function startOf({ after, afterOffset }: SubscribeOptions): Start {
  if (after !== undefined) {
    const position = { epoch: Math.max(1, offset("epoch", after.epoch)), offset: offset("offset", after.offset) };
    return { kind: "after", position };
  }
  if (afterOffset !== undefined) return { kind: "after-offset", offset: offset("afterOffset", afterOffset) };
  return { kind: "live" };
}

/** @throws {RangeError} unless it is a whole number from 0 on that a number holds. */
function offset(what: string, value: number): number {
  if (!Number.isSafeInteger(value) || value < 0) throw new RangeError(`${what} is ${value}, must be a whole number`);
  return value;
}

function bytesOf(body: Body): Uint8Array {
  if (typeof body === "string") return new TextEncoder().encode(body);
  return body instanceof ArrayBuffer ? new Uint8Array(body) : body;
}
