// A channel as a chat shows it: messages in order, those of this client from the moment they are sent, older ones on demand.
// Plain state and a listener; it knows nothing of any framework.

import type { Body, Channel, SubscribeOptions } from "./channel.js";
import { MillraceError } from "./error.js";
import type { ChannelEvent, Message, Page, Position, Receipt } from "./event.js";

/** One line of a {@link Timeline}. */
export interface Entry {
  /** Stays the same from sending to sent: good as a key of a list. */
  readonly key: string;
  /** `sending`: on its way. `sent`: acknowledged, or read from the channel. `failed`: see `error`; it can be tried again. */
  readonly status: "sending" | "sent" | "failed";
  readonly body: Uint8Array;
  /** The body as text. */
  readonly text: string;
  /** When it was sent, as this client's clock says, and from its message on as the node's does; Unix time. */
  readonly timeMs: number;
  /** This client sent it, since it was made. */
  readonly isOwn: boolean;
  /** Its place, once it is known. */
  readonly position: Position | undefined;
  /** As the channel delivered it; of one that this client sent, `undefined` until it was. */
  readonly message: Message | undefined;
  /** Why it failed. With kind `unconfirmed` it may be stored all the same. */
  readonly error: MillraceError | undefined;
}

/** A view of a timeline that does not change; the next one is another object. */
export interface TimelineView {
  readonly status: "idle" | "subscribing" | "subscribed" | "ended";
  /** Oldest first; what is not sent yet comes last. */
  readonly entries: readonly Entry[];
  /** There are older messages to load, and room for them. */
  readonly hasOlder: boolean;
  readonly isLoading: boolean;
  readonly canPublish: boolean;
  /** What ended the subscription, or made the last page fail. */
  readonly error: MillraceError | undefined;
}

export interface TimelineOptions {
  /** Messages of a page. Default: 50. */
  readonly pageSize?: number;
  /**
   * Most lines that are kept, those that failed or are on their way included. Of more, the oldest are let go, and older ones are
   * loaded only as far as there is room. Default: 10,000.
   */
  readonly messagesMax?: number;
}

/** @internal */
export const IDLE: TimelineView = {
  status: "idle",
  entries: [],
  hasOlder: false,
  isLoading: false,
  canPublish: false,
  error: undefined,
};

interface Item {
  entry: Entry;
  ticket: number | undefined;
  /** Producer and sequence, from its receipt until its message. */
  number: string | undefined;
}

const utf8 = new TextDecoder();

/** See the top of this file. Bound to one channel, which it subscribes; reads it by a listener. */
export class Timeline {
  private current = IDLE;
  /** The entries of `current` are not those that are. */
  private isChanged = false;
  private readonly listeners = new Set<() => void>();
  /** Sent, in order. */
  private sent: Item[] = [];
  /** Sending or failed, in the order of sending. */
  private unsent: Item[] = [];
  /** Own messages that have a receipt and were not delivered yet, by producer and sequence. */
  private readonly acknowledged = new Map<string, Item>();
  private keys = 0;
  private keepsHistory = false;
  /** The channel has messages before the oldest that is shown. */
  private isPartial = false;
  private loading: Promise<void> | undefined;
  /** What the node skipped is read one after the other. */
  private filling = Promise.resolve();
  /** Counts calls of `start` and `stop`: what an earlier one set in motion changes nothing any more. */
  private runs = 0;
  /** Raised when what is being loaded is for a history that is no more. */
  private generation = 0;
  private stopListening = () => {};
  private readonly pageSize: number;
  private readonly messagesMax: number;

  constructor(
    readonly channel: Channel,
    { pageSize = 50, messagesMax = 10_000 }: TimelineOptions = {},
  ) {
    this.pageSize = Math.max(1, pageSize);
    this.messagesMax = Math.max(1, messagesMax);
  }

  /** What to show now. */
  get view(): TimelineView {
    if (this.isChanged) {
      this.isChanged = false;
      const entries = [...this.sent, ...this.unsent].map(({ entry }) => entry);
      this.current = { ...this.current, entries, hasOlder: this.isPartial && this.room > 0 };
    }
    return this.current;
  }

  /** Calls `listener` after each change; returns what ends that. */
  subscribe(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => {
      this.listeners.delete(listener);
    };
  }

  /**
   * Subscribes the channel and loads the newest page before. Started again, it begins anew.
   *
   * @throws {MillraceError} as `channel.subscribe`; the view has it as well. `closed` if it was stopped, or started again,
   * before it was subscribed.
   */
  async start(options: SubscribeOptions = {}): Promise<void> {
    this.stop();
    const run = this.runs;
    this.forget(false);
    this.change({ status: "subscribing", error: undefined });
    const stopListening = this.channel.on("event", (event) => this.take(event));
    this.stopListening = stopListening;
    try {
      await this.channel.subscribe(options);
      if (run !== this.runs) throw new MillraceError("closed", "the timeline was stopped before it was subscribed");
    } catch (error) {
      stopListening();
      if (run === this.runs) this.change({ status: "ended", error: error as MillraceError });
      throw error;
    }
    this.keepsHistory = this.channel.historyClass !== "none";
    this.isPartial = this.keepsHistory;
    this.change({ status: "subscribed", canPublish: this.channel.canPublish === true });
    if (this.keepsHistory && options.after === undefined && options.afterOffset === undefined)
      await this.loadOlder(options);
  }

  /** Unsubscribes the channel. What was sent still goes out. */
  stop(): void {
    this.runs += 1;
    this.stopListening();
    const { status } = this.current;
    if (status === "idle") return;
    this.generation += 1;
    if (status !== "ended") this.channel.unsubscribe();
    this.acknowledged.clear();
    this.loading = undefined;
    this.change({ status: "idle", isLoading: false });
  }

  /**
   * Shows a message at once, and sends it. Resolves, or fails, as `channel.send`.
   *
   * @param options.signal Takes the message and its line back, if it has not left yet; else the line is `failed` as `unconfirmed`.
   */
  send(body: Body, options: { readonly signal?: AbortSignal | undefined } = {}): Promise<Receipt> {
    const bytes = typeof body === "string" ? new TextEncoder().encode(body) : new Uint8Array(body);
    this.keys += 1;
    const entry: Entry = {
      key: `own-${this.keys}`,
      status: "sending",
      body: bytes,
      text: utf8.decode(bytes),
      timeMs: Date.now(),
      isOwn: true,
      position: undefined,
      message: undefined,
      error: undefined,
    };
    const item: Item = { entry, ticket: undefined, number: undefined };
    this.unsent.push(item);
    this.change();
    return quiet(this.deliver(item, options.signal));
  }

  /**
   * Sends a failed entry again, as a new message. One that was `unconfirmed` may then be there twice; left alone, it becomes `sent`
   * when its message comes after all.
   */
  retry(key: string, options: { readonly signal?: AbortSignal | undefined } = {}): Promise<Receipt> | undefined {
    const index = this.unsent.findIndex(({ entry }) => entry.key === key && entry.status === "failed");
    const [item] = index < 0 ? [] : this.unsent.splice(index, 1);
    if (item === undefined) return undefined;
    item.entry = { ...item.entry, status: "sending", error: undefined };
    item.ticket = undefined;
    this.unsent.push(item);
    this.change();
    return quiet(this.deliver(item, options.signal));
  }

  /** Lets a failed entry go. */
  discard(key: string): void {
    this.unsent = this.unsent.filter(({ entry }) => entry.key !== key || entry.status !== "failed");
    this.change();
  }

  /**
   * Lets the oldest lines that are sent go, until at most so many are left: of a channel that nobody looks at, a few will do. They are loaded
   * again when somebody asks for older ones.
   */
  shorten(linesMax: number): void {
    const over = this.sent.length - Math.max(1, linesMax);
    // What is being loaded would come before the place that is cut.
    if (over <= 0 || this.loading !== undefined) return;
    this.letGo(over);
    this.change();
  }

  /**
   * Loads the page before the oldest message that is shown; does nothing if there is none, no room, or one is under way.
   *
   * @param options.signal Loads it no more.
   */
  loadOlder(options: { readonly signal?: AbortSignal | undefined } = {}): Promise<void> {
    const { signal } = options;
    if (this.loading !== undefined) return this.loading;
    if (!this.isPartial || this.room === 0) return Promise.resolve();
    const oldest = this.sent.find(({ entry }) => (entry.position?.offset ?? 0) > 0)?.entry.position;
    const before = (oldest ?? after(this.channel.position))?.offset;
    const limit = Math.min(this.pageSize, this.room);
    const loading = this.load(() => this.channel.history({ before, limit, signal }), true, signal).then(() => {
      if (this.loading === loading) this.loading = undefined;
    });
    this.loading = loading;
    this.change({ isLoading: true });
    return loading;
  }

  /** How many more lines may be kept. */
  private get room(): number {
    return Math.max(0, this.messagesMax - this.sent.length - this.unsent.length);
  }

  /** Returns whether the page is shown. */
  private async load(read: () => Promise<Page>, isOlder: boolean, signal?: AbortSignal): Promise<boolean> {
    const { generation } = this;
    try {
      const page = await read();
      if (generation !== this.generation) return false;
      if (isOlder) this.isPartial = page.more;
      for (const message of page.messages) this.put(message);
      this.change(isOlder ? { isLoading: false, error: undefined } : {});
      return true;
    } catch (error) {
      if (generation === this.generation) {
        const failure = signal?.aborted ? {} : { error: error as MillraceError };
        this.change(isOlder ? { isLoading: false, ...failure } : failure);
      }
      return false;
    }
  }

  private async deliver(item: Item, signal: AbortSignal | undefined): Promise<Receipt> {
    try {
      const sending = await this.channel.submit(item.entry.body, { signal });
      item.ticket = sending.ticket;
      const receipt = await sending.receipt;
      const { position, producer, sequence } = receipt;
      if (item.entry.status === "sending") {
        this.unsent = this.unsent.filter((other) => other !== item);
        item.entry = { ...item.entry, status: "sent", position };
        this.insert(item);
        // Its message is yet to come, if the channel is read.
        if (item.entry.message === undefined && this.current.status === "subscribed") {
          item.number = `${producer}/${sequence}`;
          this.acknowledged.set(item.number, item);
        }
        this.change();
      }
      return receipt;
    } catch (error) {
      if (item.entry.status === "sending") {
        if (signal?.aborted && error === signal.reason) this.unsent = this.unsent.filter((other) => other !== item);
        else item.entry = { ...item.entry, status: "failed", error: error as MillraceError };
        this.change();
      }
      throw error;
    }
  }

  private take(event: ChannelEvent): void {
    switch (event.type) {
      case "message":
        this.put(event.message);
        this.change();
        break;
      case "canPublish":
        this.change({ canPublish: event.canPublish });
        break;
      case "reset":
        if (event.reason === "position-too-old") break;
        // What was shown may be no part of the history any more: read it again.
        this.forget(true);
        this.change();
        void this.loadOlder();
        break;
      case "skipped": {
        const { skipped } = event;
        if (skipped.kind !== "slow-consumer" || skipped.last.offset === 0) break;
        this.filling = this.filling.then(() => this.fill(skipped.first.offset, skipped.last.offset));
        break;
      }
      case "ended":
        this.stopListening();
        this.change({ status: "ended", error: event.error, canPublish: false });
        break;
    }
  }

  /** Shows nothing that was read so far. */
  private forget(isPartial: boolean): void {
    this.generation += 1;
    this.sent = [];
    this.acknowledged.clear();
    this.loading = undefined;
    this.isPartial = isPartial;
    this.change({ isLoading: false });
  }

  /** Reads what the node skipped. */
  private async fill(first: number, last: number): Promise<void> {
    const { generation } = this;
    // Of more than may be kept, the newest.
    let next = Math.max(first, last - this.messagesMax + 1);
    while (next <= last && generation === this.generation) {
      const limit = Math.min(this.pageSize, last - next + 1);
      const from = next;
      let newest = 0;
      const isShown = await this.load(async () => {
        const page = await this.channel.history({ after: from - 1, limit });
        newest = page.messages.at(-1)?.position.offset ?? last;
        return page;
      }, false);
      if (!isShown) break;
      next = newest + 1;
    }
    if (next > last || generation !== this.generation) return;
    // A hole that could not be filled would not be seen: what is before it is loaded again when somebody looks back.
    this.generation += 1;
    this.loading = undefined;
    this.sent = this.sent.filter(({ entry }) => (entry.position?.offset ?? 0) > last);
    this.isPartial = true;
    this.change({ isLoading: false });
  }

  /** Shows a message: as a line of its own, or as what became of one that was sent. */
  private put(message: Message): void {
    const { position, body, text, timeMs } = message;
    const own = message.ticket === undefined ? undefined : this.unsent.find((item) => item.ticket === message.ticket);
    if (own !== undefined) {
      this.unsent = this.unsent.filter((item) => item !== own);
      // Also one that had failed because nobody knew.
      own.entry = { ...own.entry, status: "sent", position, message, timeMs, error: undefined };
      return this.insert(own);
    }
    const number = `${message.producer}/${message.sequence}`;
    const acknowledged = this.acknowledged.get(number);
    if (acknowledged !== undefined && this.isSame(acknowledged.entry.position, message)) {
      this.acknowledged.delete(number);
      acknowledged.number = undefined;
      acknowledged.entry = { ...acknowledged.entry, message, position, timeMs };
      // Its receipt may not have known the place.
      const index = this.sent.lastIndexOf(acknowledged);
      if (index >= 0) this.sent.splice(index, 1);
      return this.insert(acknowledged);
    }
    this.keys += 1;
    const key = position.offset > 0 ? `${position.epoch}-${position.offset}` : `live-${this.keys}`;
    const rest = { position, body, text, timeMs, message, isOwn: false, error: undefined };
    this.insert({ entry: { key, status: "sent", ...rest }, ticket: undefined, number: undefined });
  }

  /** Whether a message with the number of one that this client sent is that one: others may use its numbers as well. */
  private isSame(place: Position | undefined, { position, user }: Message): boolean {
    if (place === undefined || place.offset === 0) return user === this.channel.user;
    return position.epoch === place.epoch && position.offset === place.offset;
  }

  /** Puts an item where its offset belongs; without one, last. */
  private insert(item: Item): void {
    const { sent } = this;
    const offset = item.entry.position?.offset ?? 0;
    let at = sent.length;
    if (offset > 0) {
      const offsetAt = (index: number) => sent[index]?.entry.position?.offset ?? 0;
      while (at > 0 && offsetAt(at - 1) > offset) at -= 1;
      const there = at > 0 && offsetAt(at - 1) === offset ? sent[at - 1] : undefined;
      if (there !== undefined) {
        // It came before anybody could know that it was ours.
        if (!item.entry.isOwn || there.entry.isOwn) return;
        const { message, timeMs } = there.entry;
        item.entry = { ...item.entry, message, timeMs };
        sent[at - 1] = item;
        return;
      }
    }
    sent.splice(at, 0, item);
  }

  /** Lets the oldest lines go, if there are more than may be: those that are sent first, then those that failed. */
  private trim(): void {
    const over = this.sent.length + this.unsent.length - this.messagesMax;
    if (over <= 0) return;
    let failed = over - this.letGo(over);
    // What is on its way is bounded by the client's own limits.
    this.unsent = this.unsent.filter(({ entry }) => entry.status !== "failed" || failed-- <= 0);
  }

  /** Lets so many of those that are sent go, the oldest; how many there were. */
  private letGo(count: number): number {
    const gone = this.sent.splice(0, count);
    for (const { number } of gone) if (number !== undefined) this.acknowledged.delete(number);
    if (gone.length > 0) this.isPartial = this.keepsHistory;
    return gone.length;
  }

  /** Takes note of changes, and tells listeners once for all of a burst. */
  private change(changes: Partial<TimelineView> = {}): void {
    this.trim();
    this.current = { ...this.current, ...changes };
    if (this.isChanged) return;
    this.isChanged = true;
    queueMicrotask(() => {
      // Makes the view, if nobody has.
      void this.view;
      for (const listener of [...this.listeners]) listener();
    });
  }
}

/** The view tells of a failure; who wants the promise has it as well. */
function quiet<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => {});
  return promise;
}

function after(position: Position | undefined): Position | undefined {
  return position && { epoch: position.epoch, offset: position.offset + 1 };
}
