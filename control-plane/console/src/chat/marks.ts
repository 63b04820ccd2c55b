// How much of a channel is unread, by the read position that the platform keeps for the user.

import type { Entry, Position, Unread } from "@millrace/client";

/** The newest message that has a place in a history. */
export function newestMark(entries: readonly Entry[]): Position | undefined {
  return entries.findLast(({ position }) => position !== undefined && position.offset > 0)?.position;
}

/**
 * Messages of others that are unread. Those that are not loaded are counted by their places; never more than stand behind the mark at
 * all, for what was lost with an older epoch is nowhere to be read.
 */
export function unreadAfter(entries: readonly Entry[], { read, count }: Unread, me: string): number {
  let oldest: number | undefined;
  let unread = 0;
  for (let index = entries.length - 1; index >= 0; index--) {
    const entry = entries[index];
    const position = entry?.position;
    if (entry === undefined || position === undefined || position.offset === 0) continue;
    if (isRead(position, read)) return Math.min(unread, count);
    oldest = position.offset;
    if (isByOther(entry, me)) unread += 1;
  }
  if (oldest === undefined) return 0;
  return Math.min(unread + Math.max(0, oldest - 1 - read.offset), count);
}

/** Whether a mark covers a message: those of an older epoch are read, or gone. */
export function isRead(message: Position, mark: Position): boolean {
  return message.epoch < mark.epoch || (message.epoch === mark.epoch && message.offset <= mark.offset);
}

/** Whether somebody else sent it. */
export function isByOther(entry: Entry, me: string): boolean {
  return !entry.isOwn && entry.message !== undefined && entry.message.user !== me;
}
