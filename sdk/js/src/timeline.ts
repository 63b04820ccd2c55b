// A channel as a chat shows it: messages in order, those of this client from the moment they are sent, older ones on demand.
// Plain state and a listener; it knows nothing of any framework.

import type { Body, Channel, SubscribeOptions } from "./channel.js";
import type { MillraceError } from "./error.js";
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
  /** There are older messages to load. */
  readonly hasOlder: boolean;
  readonly isLoading: boolean;
  readonly canPublish: boolean;
  /** What ended the subscription, or made the last page fail. */
  readonly error: MillraceError | undefined;
}

export interface TimelineOptions {
  /** Messages of a page. Default: 50. */
  readonly pageSize?: number;
  /** Most messages that are kept; of more, the oldest are let go and can be loaded again. Default: 10,000. */
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
  private loading: Promise<void> | undefined;
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
      this.current = { ...this.current, entries: [...this.sent, ...this.unsent].map(({ entry }) => entry) };
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
   * Subscribes the channel and loads the newest page before.
   *
   * @throws {MillraceError} as `channel.subscribe`; the view has it as well.
   */
  async start(options: SubscribeOptions = {}): Promise<void> {
    this.stop();
    this.generation += 1;
    this.sent = [];
    this.change({ status: "subscribing", hasOlder: false, isLoading: false, error: undefined });
    this.stopListening = this.channel.on("event", (event) => this.take(event));
    try {
      await this.channel.subscribe(options);
    } catch (error) {
      this.stopListening();
      this.change({ status: "ended", error: error as MillraceError });
      throw error;
    }
    const keepsHistory = this.channel.historyClass !== "none";
    const canPublish = this.channel.canPublish === true;
    this.change({ status: "subscribed", canPublish, hasOlder: keepsHistory });
    if (keepsHistory && options.after === undefined && options.afterOffset === undefined) await this.loadOlder();
  }

  /** Unsubscribes the channel. What was sent still goes out. */
  stop(): void {
    this.stopListening();
    if (this.current.status === "idle") return;
    this.generation += 1;
    this.channel.unsubscribe();
    this.acknowledged.clear();
    this.change({ status: "idle" });
  }

  /** Shows a message at once, and sends it. Resolves, or fails, as `channel.send`. */
  send(body: Body): Promise<Receipt> {
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
    const item: Item = { entry, ticket: undefined };
    this.unsent.push(item);
    this.change();
    return quiet(this.deliver(item));
  }

  /** Sends a failed entry again, as a new message. One that was `unconfirmed` may then be there twice. */
  retry(key: string): Promise<Receipt> | undefined {
    const index = this.unsent.findIndex(({ entry }) => entry.key === key && entry.status === "failed");
    const [item] = index < 0 ? [] : this.unsent.splice(index, 1);
    if (item === undefined) return undefined;
    item.entry = { ...item.entry, status: "sending", error: undefined };
    this.unsent.push(item);
    this.change();
    return quiet(this.deliver(item));
  }

  /** Lets a failed entry go. */
  discard(key: string): void {
    this.unsent = this.unsent.filter(({ entry }) => entry.key !== key || entry.status !== "failed");
    this.change();
  }

  /** Loads the page before the oldest message that is shown; does nothing if there is none, or one is under way. */
  loadOlder(): Promise<void> {
    if (this.loading !== undefined) return this.loading;
    if (!this.current.hasOlder) return Promise.resolve();
    const oldest = this.sent[0]?.entry.position ?? after(this.channel.position);
    const before = oldest === undefined ? {} : { before: oldest.offset };
    this.loading = this.load(() => this.channel.history({ ...before, limit: this.pageSize }), true).finally(() => {
      this.loading = undefined;
    });
    this.change({ isLoading: true });
    return this.loading;
  }

  private async load(read: () => Promise<Page>, isOlder: boolean): Promise<void> {
    const { generation } = this;
    try {
      const page = await read();
      if (generation !== this.generation) return;
      for (const message of page.messages) this.put(message);
      this.change(isOlder ? { hasOlder: page.more, isLoading: false, error: undefined } : {});
    } catch (error) {
      if (generation === this.generation) this.change({ isLoading: false, error: error as MillraceError });
    }
  }

  private async deliver(item: Item): Promise<Receipt> {
    try {
      const sending = await this.channel.submit(item.entry.body);
      item.ticket = sending.ticket;
      const receipt = await sending.receipt;
      const { position, producer, sequence } = receipt;
      if (item.entry.status === "sending") {
        this.unsent = this.unsent.filter((other) => other !== item);
        item.entry = { ...item.entry, status: "sent", position };
        // Its message is yet to come, if the channel is read.
        if (this.current.status === "subscribed") this.acknowledged.set(`${producer}/${sequence}`, item);
        this.insert(item);
        this.change();
      }
      return receipt;
    } catch (error) {
      if (item.entry.status === "sending") {
        item.entry = { ...item.entry, status: "failed", error: error as MillraceError };
        this.change();
      }
      throw error;
    }
  }

  private take(event: ChannelEvent): void {
    switch (event.type) {
      case "message":
        this.put(event.message);
        if (this.sent.length > this.messagesMax) {
          this.sent.splice(0, this.sent.length - this.messagesMax);
          this.change({ hasOlder: true });
        } else {
          this.change();
        }
        break;
      case "canPublish":
        this.change({ canPublish: event.canPublish });
        break;
      case "reset":
        if (event.reason === "position-too-old") break;
        // What was shown may be no part of the history any more: read it again.
        this.generation += 1;
        this.sent = [];
        this.acknowledged.clear();
        this.loading = undefined;
        this.change({ hasOlder: true, isLoading: false });
        void this.loadOlder();
        break;
      case "skipped": {
        const { skipped } = event;
        if (skipped.kind === "slow-consumer" && skipped.last.offset > 0) void this.fill(skipped.first, skipped.last);
        break;
      }
      case "ended":
        this.stopListening();
        this.change({ status: "ended", error: event.error, canPublish: false });
        break;
    }
  }

  /** Reads what the node skipped. */
  private async fill(first: Position, last: Position): Promise<void> {
    let next = first.offset;
    while (next <= last.offset) {
      const limit = Math.min(this.pageSize, last.offset - next + 1);
      const from = next;
      let newest = 0;
      await this.load(async () => {
        const page = await this.channel.history({ after: from - 1, limit });
        newest = page.messages.at(-1)?.position.offset ?? 0;
        return page;
      }, false);
      if (newest < next) return;
      next = newest + 1;
    }
  }

  /** Shows a message: as a line of its own, or as what became of one that was sent. */
  private put(message: Message): void {
    const number = `${message.producer}/${message.sequence}`;
    const own = message.ticket === undefined ? undefined : this.unsent.find((item) => item.ticket === message.ticket);
    if (own !== undefined) {
      this.unsent = this.unsent.filter((item) => item !== own);
      own.entry = { ...own.entry, status: "sent", position: message.position, message, timeMs: message.timeMs };
      return this.insert(own);
    }
    const acknowledged = this.acknowledged.get(number);
    if (acknowledged !== undefined) {
      this.acknowledged.delete(number);
      const { position, timeMs } = message;
      acknowledged.entry = { ...acknowledged.entry, message, position, timeMs };
      // Its receipt may not have known the place.
      const index = this.sent.lastIndexOf(acknowledged);
      if (index >= 0) this.sent.splice(index, 1);
      return this.insert(acknowledged);
    }
    const { position, body, text, timeMs } = message;
    this.keys += 1;
    const key = position.offset > 0 ? `${position.epoch}-${position.offset}` : `live-${this.keys}`;
    const rest = { position, body, text, timeMs, message, isOwn: false, error: undefined };
    this.insert({ entry: { key, status: "sent", ...rest }, ticket: undefined });
  }

  /** Puts an item where its offset belongs; without one, last. */
  private insert(item: Item): void {
    const offset = item.entry.position?.offset ?? 0;
    let at = this.sent.length;
    if (offset > 0) {
      const offsetAt = (index: number) => this.sent[index]?.entry.position?.offset ?? 0;
      while (at > 0 && offsetAt(at - 1) > offset) at -= 1;
      if (at > 0 && offsetAt(at - 1) === offset) return;
    }
    this.sent.splice(at, 0, item);
  }

  /** Takes note of changes, and tells listeners once for all of a burst. */
  private change(changes: Partial<TimelineView> = {}): void {
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
