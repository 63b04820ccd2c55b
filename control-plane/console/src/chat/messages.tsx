// The messages of a channel: only those in sight are in the page, however many there are. It stays where the reader is when
// older ones come in above, and at the end when somebody is there.

import type { Position } from "@millrace/client";
import { type UseChannel, useUnread } from "@millrace/client/react";
import { useVirtualizer } from "@tanstack/react-virtual";
import { type ReactElement, useCallback, useEffect, useLayoutEffect, useRef, useState } from "react";

import { words } from "../rest.js";
import { useStore } from "../store.js";
import { Icon } from "../ui/icons.js";
import { Name } from "../ui/name.js";
import { useChat } from "./context.js";
import { isByOther, isRead, newestMark, unreadAfter } from "./marks.js";
import { MessageRow, placing, senderOf } from "./message-row.js";

/** Room above the oldest message, for what is said there. */
const HEAD_PX = 96;
const ROW_PX = 30;
/** So near to the end is at the end. */
const END_PX = 60;
/** So many rows above those in sight are kept loaded. */
const AHEAD_ROWS = 40;
/** Sizes of so many rows that are gone are kept before any is forgotten. */
const SIZES_SPARE = 1_000;
/** How often it is asked which day it is. */
const LOOK_MS = 30_000;

export interface MessagesProps {
  readonly name: string;
  readonly title: string;
  readonly channel: UseChannel;
  /** Raised when the user sent something: they want to see it. */
  readonly sent: number;
}

export function Messages({ name, title, channel, sent }: MessagesProps): ReactElement {
  const { me, directory } = useChat();
  const names = useStore(directory.names);
  const { entries, hasOlder, isLoading, error, status, loadOlder, retry, discard } = channel;
  const scroller = useRef<HTMLDivElement>(null);
  const [isAtEnd, setAtEnd] = useState(true);
  const [whole, setWhole] = useState<ReadonlySet<string>>(() => new Set());
  const onWhole = useCallback((key: string) => setWhole((keys) => new Set([...keys, key])), []);
  const { unread: reads, markRead } = useUnread(name);
  const opened = useOpeningMark(name, reads?.read);
  const isSeen = usePageSeen();
  const day = useToday();

  const list = useVirtualizer({
    count: entries.length,
    getScrollElement: () => scroller.current,
    estimateSize: () => ROW_PX,
    getItemKey: useCallback((index: number) => entries[index]?.key ?? index, [entries]),
    paddingStart: HEAD_PX,
    paddingEnd: 12,
    overscan: 8,
    anchorTo: "end",
    followOnAppend: true,
    scrollEndThreshold: END_PX,
    useFlushSync: false,
  });
  const rows = list.getVirtualItems();

  useEffect(() => forgetSizes(list.itemSizeCache, entries), [list, entries]);

  const isShown = entries.length > 0;
  useLayoutEffect(() => {
    if (isShown) list.scrollToEnd();
  }, [isShown, list]);
  // biome-ignore lint/correctness/useExhaustiveDependencies: it is the sending that moves the reader, nothing else
  useEffect(() => {
    if (sent > 0) list.scrollToEnd();
  }, [sent]);

  const first = rows[0]?.index ?? 0;
  const canLoad = hasOlder && !isLoading && error === undefined && status === "subscribed";
  useEffect(() => {
    if (canLoad && first < AHEAD_ROWS) void loadOlder();
  }, [canLoad, first, loadOlder]);

  // What was in sight of somebody is read; but first it is noted where they had been.
  const isKnown = reads !== undefined;
  useEffect(() => {
    const newest = newestMark(entries);
    if (isAtEnd && isSeen && isKnown && newest !== undefined) markRead(newest);
  }, [entries, isAtEnd, isSeen, isKnown, markRead]);

  const onRetry = useCallback((key: string) => void retry(key), [retry]);
  const onScroll = useCallback(() => {
    const box = scroller.current;
    if (box !== null) setAtEnd(box.scrollHeight - box.scrollTop - box.clientHeight <= END_PX);
  }, []);

  const unread = isAtEnd || reads === undefined ? 0 : unreadAfter(entries, reads, me.user);
  return (
    <div className="messages">
      <div
        ref={scroller}
        className="scroller"
        // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls has to be reachable by keyboard
        tabIndex={0}
        role="log"
        aria-label={`Messages in ${title}`}
        aria-live={isAtEnd ? "polite" : "off"}
        aria-busy={status === "subscribing"}
        onScroll={onScroll}
      >
        <div className="sizer" style={{ height: list.getTotalSize() }}>
          <div className="head" style={{ height: HEAD_PX }}>
            <Head {...{ title, isLoading, hasOlder, status, error, onLoad: loadOlder, isEmpty: !isShown }} />
          </div>
          {rows.map((row) => {
            const entry = entries[row.index];
            if (entry === undefined) return null;
            const previous = entries[row.index - 1];
            const user = senderOf(entry, me.user);
            return (
              <div
                key={row.key}
                ref={list.measureElement}
                data-index={row.index}
                className="row"
                style={{ transform: `translateY(${row.start}px)` }}
              >
                <MessageRow
                  entry={entry}
                  user={user}
                  name={names.get(user) ?? (user === me.user ? (me.displayName ?? user) : user)}
                  isMine={user === me.user}
                  isFirstUnread={opened !== undefined && isFirstAfter(opened, entry, previous, me.user)}
                  {...placing(entry, previous, me.user, day)}
                  isWhole={whole.has(entry.key)}
                  onWhole={onWhole}
                  onRetry={onRetry}
                  onDiscard={discard}
                />
              </div>
            );
          })}
        </div>
      </div>
      {!isAtEnd && (
        <button type="button" className="to-end" onClick={() => list.scrollToEnd({ behavior: "smooth" })}>
          <Icon name="down" />
          {unread > 0 ? `${unread > 99 ? "99+" : unread} new` : "Newest"}
        </button>
      )}
    </div>
  );
}

type Entry = UseChannel["entries"][number];

/** Whether an entry is the first one of others behind what was read. */
function isFirstAfter(mark: Position, entry: Entry, previous: Entry | undefined, me: string): boolean {
  const isBehind = ({ position }: Entry) => position !== undefined && !isRead(position, mark);
  return isByOther(entry, me) && isBehind(entry) && previous !== undefined && !isBehind(previous);
}

/** How far the user had read when they opened the channel. */
function useOpeningMark(name: string, read: Position | undefined): Position | undefined {
  const [opened, setOpened] = useState<{ readonly name: string; readonly read: Position }>();
  const mark = opened?.name === name ? opened.read : undefined;
  useEffect(() => {
    if (mark === undefined && read !== undefined) setOpened({ name, read });
  }, [mark, name, read]);
  return mark;
}

function Head(props: {
  readonly title: string;
  readonly isEmpty: boolean;
  readonly isLoading: boolean;
  readonly hasOlder: boolean;
  readonly status: UseChannel["status"];
  readonly error: UseChannel["error"];
  readonly onLoad: () => Promise<void>;
}): ReactElement | null {
  const { title, isEmpty, isLoading, hasOlder, status, error, onLoad } = props;
  if (error !== undefined && status === "subscribed") {
    return (
      <p role="alert">
        {`Older messages could not be loaded. ${words(error)} `}
        <button type="button" className="link" onClick={() => void onLoad()}>
          Try again
        </button>
      </p>
    );
  }
  if (isLoading || status === "subscribing") return <p className="loading">Loading messages…</p>;
  if (hasOlder || status !== "subscribed") return null;
  return (
    <div className="beginning">
      <strong>
        <Name text={title} />
      </strong>
      <p>{isEmpty ? "Nothing was said here yet. Be the first." : "This is where it began."}</p>
    </div>
  );
}

/** Whether somebody can see the page. */
function usePageSeen(): boolean {
  const [isSeen, setSeen] = useState(document.visibilityState === "visible");
  useEffect(() => {
    const look = () => setSeen(document.visibilityState === "visible");
    document.addEventListener("visibilitychange", look);
    return () => document.removeEventListener("visibilitychange", look);
  }, []);
  return isSeen;
}

/** A time of today; another one when the day has changed. */
function useToday(): number {
  const [today, setToday] = useState(Date.now);
  useEffect(() => {
    const look = () => {
      if (new Date().toDateString() !== new Date(today).toDateString()) setToday(Date.now());
    };
    // No timer for midnight: of a machine that sleeps, it would be late by as long, and clocks are set.
    const timer = setInterval(look, LOOK_MS);
    document.addEventListener("visibilitychange", look);
    return () => {
      clearInterval(timer);
      document.removeEventListener("visibilitychange", look);
    };
  }, [today]);
  return today;
}

/** Sizes of rows that are gone are of no use; of a channel that stays open for days, they would be most of what the page holds. */
function forgetSizes(sizes: Map<unknown, number>, entries: readonly Entry[]): void {
  if (sizes.size < 2 * entries.length + SIZES_SPARE) return;
  const kept = new Set<unknown>(entries.map(({ key }) => key));
  for (const key of sizes.keys()) if (!kept.has(key)) sizes.delete(key);
}
