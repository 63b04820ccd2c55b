// How far the user has read one channel, and how much is unread. The node tells where the position stands; marks of the application
// count here at once, the furthest one waits until the node has stored it, and one at a time is on its way.

import type { Position, Unread } from "../event.js";

export class Reads {
  /** The newest message that is known; `undefined` before the first answer, and in a channel without history. */
  private newest: Position | undefined;
  /** Where the node says that the position stands. */
  private read: Position | undefined;
  /** The connection is new: what the node says next counts, whatever was known before. */
  private isFresh = false;
  /** The furthest that the application has marked and the node has not stored. */
  private wanted: Position | undefined;
  /** Another mark that is not stored, behind that one: it counts if the node refuses the furthest. */
  private nearer: Position | undefined;
  /** The mark that the node was asked to store, and since when. */
  private under: { readonly position: Position; readonly at: number } | undefined;
  private pausedUntil: number | undefined;
  /** What the application was told last. */
  private told: Unread | undefined;

  /** The session is subscribed or attached; `head` is the newest message, if the channel keeps any. */
  subscribed(head: Position | undefined): void {
    this.newest = head;
    this.isFresh = true;
    if (head !== undefined) return;
    this.read = undefined;
    this.giveUp();
  }

  /** There is a message at this position. */
  seen(position: Position): void {
    if (position.offset === 0 || this.newest === undefined || !isBehind(this.newest, position)) return;
    // Others stand now where messages of the old epoch were lost.
    const within = (read: Position | undefined) =>
      read === undefined || read.epoch >= position.epoch
        ? read
        : { epoch: position.epoch, offset: Math.min(read.offset, position.offset - 1) };
    this.read = within(this.read);
    this.wanted = within(this.wanted);
    this.nearer = within(this.nearer);
    this.newest = position;
  }

  /** The node says where the position stands. */
  moved(position: Position): void {
    if (this.isFresh || this.read === undefined || isBehind(this.read, position)) this.read = position;
    this.isFresh = false;
    if (this.wanted !== undefined && !isBehind(position, this.wanted)) this.wanted = undefined;
    if (this.nearer !== undefined && !isBehind(position, this.nearer)) this.nearer = undefined;
  }

  /** The application has read so far. */
  mark(position: Position): void {
    if (position.offset === 0 || (this.read !== undefined && !isBehind(this.read, position))) return;
    // A position that may be ahead of the channel takes no other with it when it is refused.
    const { wanted } = this;
    const isFurthest = wanted === undefined || isBehind(wanted, position);
    if (isFurthest) this.wanted = position;
    const other = isFurthest ? wanted : position;
    if (other === undefined || (!isFurthest && isSame(other, wanted))) return;
    const { nearer } = this;
    const isBetter = (from: Position) => this.isKnown(other) && (!this.isKnown(from) || isBehind(from, other));
    if (nearer === undefined || isBetter(nearer)) this.nearer = other;
  }

  /** Whether a message is known to be there. */
  private isKnown(position: Position): boolean {
    return this.newest !== undefined && !isBehind(this.newest, position);
  }

  /** The mark to send now. It is under way once {@link asked} says so. */
  due(now: number): Position | undefined {
    const isDue = this.under === undefined && (this.pausedUntil === undefined || this.pausedUntil <= now);
    return isDue ? this.wanted : undefined;
  }

  asked(now: number, position: Position): void {
    this.under = { position, at: now };
    this.pausedUntil = undefined;
  }

  /** The node answered that it has stored the mark. */
  answered(position: Position): void {
    this.under = undefined;
    this.moved(position);
  }

  /** The node refused the mark: for good, or until a moment. */
  refused(retryAt: number | undefined): void {
    const asked = this.under?.position;
    this.under = undefined;
    this.pausedUntil = retryAt;
    if (retryAt !== undefined || asked === undefined) return;
    if (this.wanted !== undefined && isSame(asked, this.wanted)) {
      this.wanted = this.nearer;
      this.nearer = undefined;
    } else if (this.nearer !== undefined && isSame(asked, this.nearer)) {
      this.nearer = undefined;
    }
  }

  /** Marks are of no use: the node does not know them, or the channel is gone. */
  giveUp(): void {
    this.wanted = undefined;
    this.nearer = undefined;
    this.under = undefined;
    this.pausedUntil = undefined;
  }

  /** The connection is gone, or the session's place in the channel. */
  disconnected(): void {
    this.under = undefined;
    this.pausedUntil = undefined;
  }

  /** Whether a mark is not stored yet. */
  get isPending(): boolean {
    return this.wanted !== undefined;
  }

  /** Since when a mark is under way. */
  get askedAt(): number | undefined {
    return this.under?.at;
  }

  /** When to look at {@link due} again. */
  get retryAt(): number | undefined {
    return this.wanted === undefined ? undefined : this.pausedUntil;
  }

  /** Whether what the application should know is not what it was told last; from now on it is. */
  tell(): boolean {
    const before = this.told;
    this.told = this.unread;
    return this.told !== before;
  }

  /** How much is unread: the same object as long as nothing changes. */
  get unread(): Unread | undefined {
    const { newest, told } = this;
    if (newest === undefined || this.read === undefined) return undefined;
    const read = this.wanted !== undefined && isBehind(this.read, this.wanted) ? this.wanted : this.read;
    if (told !== undefined && isSame(told.read, read) && isSame(told.newest, newest)) return told;
    // A position of a later epoch than the newest message is behind no message that is known.
    const count = isBehind(read, newest) ? Math.max(0, newest.offset - read.offset) : 0;
    return { count, read, newest };
  }
}

/** A later epoch counts more than any offset; nothing is behind offset 0, which is no message. */
function isBehind(from: Position, to: Position): boolean {
  if (to.offset === 0) return false;
  return from.offset === 0 || from.epoch < to.epoch || (from.epoch === to.epoch && from.offset < to.offset);
}

function isSame(one: Position, other: Position): boolean {
  return one.epoch === other.epoch && one.offset === other.offset;
}
