// How far the user has read each channel: kept by this browser, because the platform keeps no receipts.

import type { Entry } from "@millrace/client";

import { Store } from "../store.js";

export interface Mark {
  readonly epoch: number;
  readonly offset: number;
}

const CHANNELS_MAX = 500;

/** See the top of this file. */
export class Marks {
  readonly store: Store<ReadonlyMap<string, Mark>>;
  private readonly key: string;

  constructor(tenant: number, user: string) {
    this.key = `millrace.read.${tenant}.${user}`;
    this.store = new Store(read(this.key));
  }

  /** Follows what other tabs of this browser read; returns what ends that. */
  start(): () => void {
    const take = ({ key }: StorageEvent) => {
      if (key === this.key) this.take();
    };
    addEventListener("storage", take);
    return () => removeEventListener("storage", take);
  }

  /** Everything up to here was read; never back within an epoch. */
  advance(channel: string, mark: Mark): void {
    // Another tab may have written since.
    this.take();
    const marks = this.store.get();
    const before = marks.get(channel);
    if (before !== undefined && before.epoch === mark.epoch && before.offset >= mark.offset) return;
    const next = new Map(marks);
    next.delete(channel);
    next.set(channel, mark);
    const [oldest] = next.keys();
    if (next.size > CHANNELS_MAX && oldest !== undefined) next.delete(oldest);
    this.store.set(next);
    try {
      localStorage.setItem(this.key, JSON.stringify([...next]));
    } catch {
      // It is known until the page is closed.
    }
  }

  private take(): void {
    const marks = this.store.get();
    const merged = merge(marks, read(this.key));
    if (merged !== marks) this.store.set(merged);
  }
}

/** The further mark of each channel; the first map itself if the second has nothing new. A later epoch is further. */
export function merge(marks: ReadonlyMap<string, Mark>, others: ReadonlyMap<string, Mark>): ReadonlyMap<string, Mark> {
  const news = [...others].filter(([channel, { epoch, offset }]) => {
    const known = marks.get(channel);
    return known === undefined || epoch > known.epoch || (epoch === known.epoch && offset > known.offset);
  });
  return news.length === 0 ? marks : new Map([...marks, ...news]);
}

function read(key: string): ReadonlyMap<string, Mark> {
  try {
    const rows = JSON.parse(localStorage.getItem(key) ?? "[]") as [string, Mark][];
    return new Map(rows.filter(([name, { epoch, offset }]) => typeof name === "string" && epoch > 0 && offset >= 0));
  } catch {
    return new Map();
  }
}

/** The newest message that has a place in a history. */
export function newestMark(entries: readonly Entry[]): Mark | undefined {
  return entries.findLast(({ position }) => position !== undefined && position.offset > 0)?.position;
}

/** Messages of others behind a mark. Those that are not loaded are counted by their places. */
export function unreadAfter(entries: readonly Entry[], mark: Mark, me: string): number {
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
