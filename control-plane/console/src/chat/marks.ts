// How much of a channel is unread, by the read position that the platform keeps for the user.

import type { Entry, Position } from "@millrace/client";

/** The newest message that has a place in a history. */
export function newestMark(entries: readonly Entry[]): Position | undefined {
  return entries.findLast(({ position }) => position !== undefined && position.offset > 0)?.position;
}

/** Messages of others behind a mark. Those that are not loaded are counted by their places. */
export function unreadAfter(entries: readonly Entry[], mark: Position, me: string): number {
  let oldest: number | undefined;
  let unread = 0;
  for (let index = entries.length - 1; index >= 0; index--) {
    const entry = entries[index];
    const position = entry?.position;
    if (entry === undefined || position === undefined || position.offset === 0) continue;
    if (position.epoch === mark.epoch && position.offset <= mark.offset) return unread;
    oldest = position.offset;
    if (isByOther(entry, me)) unread += 1;
  }
  if (oldest === undefined) return 0;
  return unread + Math.max(0, oldest - 1 - mark.offset);
}

/** Whether somebody else sent it. */
export function isByOther(entry: Entry, me: string): boolean {
  return !entry.isOwn && entry.message !== undefined && entry.message.user !== me;
}
