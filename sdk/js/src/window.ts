// How many messages of one channel may be on their way at once, and how many may wait for that. Beyond both, a send is refused.

import { MillraceError } from "./error.js";

/** Bounds of a number of messages. */
export interface WindowLimits {
  readonly messagesMax: number;
  readonly bytesMax: number;
}

interface Waiting {
  readonly bytes: number;
  readonly admit: () => void;
}

export class Window {
  private readonly under = { messages: 0, bytes: 0 };
  private readonly queued = { messages: 0, bytes: 0 };
  private waiting: Waiting[] = [];

  constructor(
    private readonly way: WindowLimits,
    private readonly line: WindowLimits,
  ) {}

  /**
   * Calls `admit` once there is room, in the order of the calls; at once if there is room now. Returns what takes it back, as
   * long as it was not called. A message larger than the window waits until it is alone.
   *
   * @throws {MillraceError} `queue-full`.
   */
  enter(bytes: number, admit: () => void): () => void {
    if (this.waiting.length === 0 && this.hasRoom(bytes)) {
      this.admit({ bytes, admit });
      return () => {};
    }
    const { messagesMax, bytesMax } = this.line;
    const isOver = this.queued.messages >= messagesMax || this.queued.bytes + bytes > bytesMax;
    if (isOver) throw new MillraceError("queue-full", `${this.queued.messages} messages wait to be sent already`);
    const waiting = { bytes, admit };
    this.waiting.push(waiting);
    this.queued.messages += 1;
    this.queued.bytes += bytes;
    return () => {
      const index = this.waiting.indexOf(waiting);
      if (index < 0) return;
      this.waiting.splice(index, 1);
      this.leaveLine(bytes);
      this.admitMore();
    };
  }

  /** A message has had its end. */
  leave(bytes: number): void {
    this.under.messages -= 1;
    this.under.bytes -= bytes;
    this.admitMore();
  }

  get isIdle(): boolean {
    return this.under.messages === 0 && this.waiting.length === 0;
  }

  private hasRoom(bytes: number): boolean {
    const { messages, bytes: taken } = this.under;
    return messages === 0 || (messages < this.way.messagesMax && taken + bytes <= this.way.bytesMax);
  }

  private admitMore(): void {
    for (let next = this.waiting[0]; next !== undefined && this.hasRoom(next.bytes); next = this.waiting[0]) {
      this.waiting.shift();
      this.leaveLine(next.bytes);
      this.admit(next);
    }
  }

  private admit({ bytes, admit }: Waiting): void {
    this.under.messages += 1;
    this.under.bytes += bytes;
    admit();
  }

  private leaveLine(bytes: number): void {
    this.queued.messages -= 1;
    this.queued.bytes -= bytes;
  }
}
