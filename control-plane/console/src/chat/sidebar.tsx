// The user's channels. Each listed one is subscribed, so that what comes is counted and a channel opens at once.

import { useChannel, useUnread } from "@millrace/client/react";
import { type ReactElement, useEffect, useState } from "react";

import type { ChannelInfo } from "../rest.js";
import { formatRoute } from "../route.js";
import { Store, useStore } from "../store.js";
import { Icon } from "../ui/icons.js";
import { Name } from "../ui/name.js";
import { ChannelSign } from "./channel.js";
import { useChat } from "./context.js";
import { titleOf } from "./directory.js";
import { unreadAfter } from "./marks.js";
import { NewChannel, NewDm } from "./new-channel.js";
import { useUnsent } from "./unsent.js";

/** Channels that are followed without being open. */
const FOLLOWED_MAX = 100;

/** Lines that are kept of a channel that is followed without being open: enough to open it at once. */
const KEPT = 200;

/** Unread messages by channel, for the title of the page. */
export const unreadByChannel = new Store<ReadonlyMap<string, number>>(new Map());

function tellUnread(name: string, unread: number): void {
  const before = unreadByChannel.get();
  if ((before.get(name) ?? 0) === unread) return;
  const next = new Map(before);
  if (unread === 0) next.delete(name);
  else next.set(name, unread);
  unreadByChannel.set(next);
}

/** Channels in the order in which they are shown. */
export function ordered(channels: readonly ChannelInfo[], title: (channel: ChannelInfo) => string): ChannelInfo[] {
  const byTitle = (one: ChannelInfo, other: ChannelInfo) => title(one).localeCompare(title(other));
  const isDm = ({ kind }: ChannelInfo) => kind === "dm";
  return [...channels.filter((channel) => !isDm(channel)).sort(byTitle), ...channels.filter(isDm).sort(byTitle)];
}

export function Sidebar({ open }: { readonly open: string | undefined }): ReactElement {
  const { me, directory } = useChat();
  const { channels, isLoaded, error } = useStore(directory.listing);
  const names = useStore(directory.names);
  const [dialog, setDialog] = useState<"channel" | "dm">();
  const title = (channel: ChannelInfo) => titleOf(channel, me.user, names);
  const all = ordered(channels, title);
  const followed = new Set(all.slice(0, FOLLOWED_MAX).map(({ name }) => name));
  const list = (isDm: boolean) =>
    all
      .filter(({ kind }) => (kind === "dm") === isDm)
      .map((channel) => {
        const props = { channel, title: title(channel), isOpen: channel.name === open };
        return followed.has(channel.name) ? (
          <Followed key={channel.name} {...props} />
        ) : (
          <Listed key={channel.name} {...props} />
        );
      });
  const groups = list(false);
  const dms = list(true);
  return (
    <>
      <nav className="sidebar" aria-label="Channels">
        <Section title="Channels" add="New channel" onAdd={() => setDialog("channel")}>
          {groups}
        </Section>
        {isLoaded && groups.length === 0 && (
          <p className="empty">You are in no channel yet. Make one, or ask to be invited.</p>
        )}
        <Section title="Direct messages" add="New direct message" onAdd={() => setDialog("dm")}>
          {dms}
        </Section>
        {isLoaded && dms.length === 0 && <p className="empty">No direct messages yet.</p>}
        {!isLoaded && error === undefined && <p className="empty loading">Loading channels…</p>}
        {error !== undefined && (
          <p className="failure" role="alert">
            {error}{" "}
            <button type="button" className="link" onClick={() => void directory.load()}>
              Try again
            </button>
          </p>
        )}
      </nav>
      {dialog === "channel" && <NewChannel onClose={() => setDialog(undefined)} />}
      {dialog === "dm" && <NewDm onClose={() => setDialog(undefined)} />}
    </>
  );
}

function Section(props: {
  readonly title: string;
  readonly add: string;
  readonly onAdd: () => void;
  readonly children: readonly ReactElement[];
}): ReactElement {
  const { title, add, onAdd, children } = props;
  return (
    <>
      <header>
        <h2>{title}</h2>
        <button type="button" className="quiet" aria-label={add} title={add} onClick={onAdd}>
          <Icon name="add" />
        </button>
      </header>
      {children.length > 0 && <ul aria-label={title}>{children}</ul>}
    </>
  );
}

interface RowProps {
  readonly channel: ChannelInfo;
  readonly title: string;
  readonly isOpen: boolean;
}

function Followed(props: RowProps): ReactElement {
  const { name } = props.channel;
  const { me } = useChat();
  const { entries, shorten } = useChannel(name);
  useUnsent(entries);
  const isLong = !props.isOpen && entries.length >= 2 * KEPT;
  useEffect(() => {
    if (isLong) shorten(KEPT);
  }, [isLong, shorten]);
  const { unread: reads } = useUnread(name);
  // One's own messages are none.
  const unread = reads === undefined || reads.count === 0 ? 0 : unreadAfter(entries, reads, me.user);
  useTold(name, unread);
  return <Row {...props} unread={unread} />;
}

/** One of too many to follow them all: what is unread is as of the directory's last question, one's own messages among it. */
function Listed(props: RowProps): ReactElement {
  const { directory } = useChat();
  const { isOpen, channel } = props;
  const { name } = channel;
  useEffect(() => {
    if (isOpen) directory.forgetUnread(name);
  }, [isOpen, name, directory]);
  const listed = useStore(directory.unread).get(name) ?? 0;
  const unread = isOpen ? 0 : listed;
  useTold(name, unread);
  return <Row {...props} unread={unread} />;
}

function useTold(name: string, unread: number): void {
  useEffect(() => {
    tellUnread(name, unread);
    return () => tellUnread(name, 0);
  }, [name, unread]);
}

function Row({ channel, title, isOpen, unread }: RowProps & { readonly unread: number }): ReactElement {
  return (
    <li>
      <a
        href={formatRoute("chat", channel.name)}
        aria-current={isOpen ? "page" : undefined}
        className={unread > 0 ? "unread" : undefined}
      >
        <ChannelSign info={channel} />
        <span className="name">
          <Name text={title} />
        </span>
        {unread > 0 && (
          <span className="badge">
            {unread > 99 ? "99+" : unread}
            <span className="for-readers"> unread</span>
          </span>
        )}
      </a>
    </li>
  );
}
