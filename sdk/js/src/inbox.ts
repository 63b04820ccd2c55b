// The queue between the client and the reader of one subscription. The engine counts what it may put in, so it never overruns;
// the reader says what it took in lumps, so that reading a message costs nothing else.

import type { QueueLimits } from "./engine/subscription.js";
import { bytesOf, type ChannelEvent } from "./event.js";

export class Inbox {
  private events: ChannelEvent[] = [];
  private first = 0;
  private bytes = 0;
  /** Taken since it was told last. */
  private taken = { events: 0, bytes: 0 };
  /** The engine waits for room. */
  private isStarved = false;
  isClosed = false;
  /** Called when there is something new to read. */
  onChange: () => void = () => {};

  constructor(
    private readonly limits: QueueLimits,
    private readonly onTaken: (events: number, bytes: number) => void,
  ) {}

  /** Queues an event. Room was counted before. */
  push(event: ChannelEvent): void {
    if (this.isClosed) return;
    this.events.push(event);
    this.bytes += bytesOf(event);
    if (event.type === "ended") this.isClosed = true;
    this.onChange();
  }

  /** Nothing follows what is queued. */
  close(): void {
    this.isClosed = true;
    this.onChange();
  }

  /** Nothing follows, and what is queued is for nobody. */
  discard(): void {
    this.events = [];
    this.first = 0;
    this.close();
  }

  /** The engine waits for room: say when half is free, at once if it is. */
  starve(): void {
    this.isStarved = true;
    this.tellIfDue();
  }

  /** The next event, if there is one. */
  take(): ChannelEvent | undefined {
    const event = this.events[this.first];
    if (event === undefined) return undefined;
    this.first += 1;
    if (this.first * 2 > this.events.length) {
      this.events = this.events.slice(this.first);
      this.first = 0;
    }
    const bytes = bytesOf(event);
    this.bytes -= bytes;
    this.taken.events += 1;
    this.taken.bytes += bytes;
    this.tellIfDue();
    return event;
  }

  get isEmpty(): boolean {
    return this.events.length === this.first;
  }

  private tellIfDue(): void {
    const { messagesMax, bytesMax } = this.limits;
    const isHalfFree = (this.events.length - this.first) * 2 <= messagesMax && this.bytes * 2 <= bytesMax;
    const isLump = this.taken.events > messagesMax / 4 || this.taken.bytes > bytesMax / 4;
    if (!isLump && !(this.isStarved && isHalfFree)) return;
    if (isHalfFree) this.isStarved = false;
    const { events, bytes } = this.taken;
    this.taken = { events: 0, bytes: 0 };
    this.onTaken(events, bytes);
  }
}
