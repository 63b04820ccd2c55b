// The channels of the user, and the names of people in them, as REST tells.

import type { ChannelInfo, Member } from "../rest.js";
import { Problem, segment, Unreachable, words } from "../rest.js";
import type { Session } from "../session/session.js";
import { Store } from "../store.js";

export interface Listing {
  readonly channels: readonly ChannelInfo[];
  /** They were asked for at least once. */
  readonly isLoaded: boolean;
  /** Why the last question failed. */
  readonly error: string | undefined;
}

/** Nobody tells a client that it was added to a channel, so it asks. */
const POLL_MS = 10_000;
/** After a question that failed, twice as long each time, up to the above. */
const RETRY_MS = 1_000;
const PAGES_MAX = 20;
/** Dms whose members are asked for at one look, for a name to show, and at the same time. */
const DM_NAMES_MAX = 100;
const DM_NAMES_AT_ONCE = 4;

/** See the top of this file. */
export class Directory {
  readonly listing = new Store<Listing>({ channels: [], isLoaded: false, error: undefined });
  /** Unread messages by channel, as of the last question; for channels that nobody follows live. */
  readonly unread = new Store<ReadonlyMap<string, number>>(new Map());
  /** Display names by user. */
  readonly names = new Store<ReadonlyMap<string, string>>(new Map());
  /** Dms whose members are known. */
  private readonly asked = new Set<string>();
  private isNaming = false;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private loading: Promise<void> | undefined;
  /** Questions in a row that failed. */
  private failures = 0;

  constructor(private readonly session: Session) {}

  /** Asks now and then, while the page is seen; returns what ends that. */
  start(): () => void {
    let isOver = false;
    const tick = async () => {
      if (document.visibilityState === "visible") await this.load();
      clearTimeout(this.timer);
      const waitMs = this.failures === 0 ? POLL_MS : Math.min(POLL_MS, RETRY_MS * 2 ** (this.failures - 1));
      if (!isOver) this.timer = setTimeout(tick, waitMs);
    };
    void tick();
    document.addEventListener("visibilitychange", tick);
    return () => {
      isOver = true;
      clearTimeout(this.timer);
      document.removeEventListener("visibilitychange", tick);
    };
  }

  /** Asks now; once for all who want it. */
  load(): Promise<void> {
    this.loading ??= this.read().finally(() => {
      this.loading = undefined;
    });
    return this.loading;
  }

  private async read(): Promise<void> {
    try {
      const channels: ChannelInfo[] = [];
      const unread = new Map<string, number>();
      let cursor: string | undefined;
      for (let page = 0; page < PAGES_MAX; page++) {
        const query = { limit: 100, cursor };
        const answer = await this.session.call<{
          channels: (ChannelInfo & { reads?: { unread: number } | null })[];
          next: string | null;
        }>({
          path: "/v1/channels",
          query,
        });
        // What is unread changes with each message: kept apart, it makes the list no other one.
        const listed = answer.channels.map(({ reads, ...channel }) => {
          if (reads && reads.unread > 0) unread.set(channel.name, reads.unread);
          return channel;
        });
        channels.push(...listed.filter(({ archived_ms }) => archived_ms === null));
        cursor = answer.next ?? undefined;
        if (cursor === undefined) break;
      }
      this.failures = 0;
      this.unread.set(unread);
      const before = this.listing.get();
      const isSame = before.isLoaded && JSON.stringify(before.channels) === JSON.stringify(channels);
      const kept = isSame ? before.channels : channels;
      if (!isSame || before.error !== undefined) {
        this.listing.set({ channels: kept, isLoaded: true, error: undefined });
      }
      void this.nameDms(channels);
    } catch (error) {
      this.failures += 1;
      // The connection's own line tells of a server that is away.
      const before = this.listing.get();
      const said = error instanceof Unreachable && before.isLoaded ? undefined : words(error);
      this.listing.set({ ...before, error: said });
    }
  }

  /** Somebody looks at the channel: what the last answer said of it is over. */
  forgetUnread(channel: string): void {
    const unread = new Map(this.unread.get());
    if (unread.delete(channel)) this.unread.set(unread);
  }

  /** All members of a channel, and their names from now on. */
  async members(channel: string, signal?: AbortSignal): Promise<readonly Member[]> {
    const members: Member[] = [];
    let cursor: string | undefined;
    for (let page = 0; page < PAGES_MAX; page++) {
      const answer = await this.session.call<{ members: Member[]; next: string | null }>({
        path: `/v1/channels/${segment(channel)}/members`,
        query: { limit: 100, cursor },
        signal,
      });
      members.push(...answer.members);
      cursor = answer.next ?? undefined;
      if (cursor === undefined) break;
    }
    this.learn(members);
    return members;
  }

  private learn(members: readonly Member[]): void {
    const known = this.names.get();
    const news = members.filter(({ user, display_name }) => display_name && known.get(user) !== display_name);
    if (news.length === 0) return;
    this.names.set(new Map([...known, ...news.map(({ user, display_name }) => [user, display_name ?? user] as const)]));
  }

  /** Learns the names of those in dms, a few at a time. Whoever's cannot be asked for now is asked for at the next look. */
  private async nameDms(channels: readonly ChannelInfo[]): Promise<void> {
    if (this.isNaming) return;
    this.isNaming = true;
    const wanted = channels.filter(({ kind, name }) => kind === "dm" && !this.asked.has(name)).slice(0, DM_NAMES_MAX);
    const rest = wanted.values();
    const ask = async () => {
      for (const { name } of rest) {
        try {
          await this.members(name);
          this.asked.add(name);
        } catch (error) {
          // Until then, the id is shown. One that is refused stays so; when no answer comes, others get none either.
          if (!(error instanceof Problem) || error.status >= 500 || error.status === 429) return;
          this.asked.add(name);
        }
      }
    };
    await Promise.all(Array.from({ length: DM_NAMES_AT_ONCE }, ask));
    this.isNaming = false;
  }
}

/** The other user of a dm, or the user of one with themselves. Names of dms are made of their members, unless those are too long. */
export function peerOf(channel: string, me: string): string | undefined {
  const rest = channel.startsWith("dm:") ? channel.slice(3) : "";
  const at = rest.indexOf("~");
  if (at <= 0) return undefined;
  const [first, second] = [rest.slice(0, at), rest.slice(at + 1)];
  return first === me ? second : first;
}

/** What a channel is called in front of people. */
export function titleOf(channel: ChannelInfo, me: string, names: ReadonlyMap<string, string>): string {
  if (channel.kind !== "dm") return channel.display_name ?? channel.name;
  const peer = peerOf(channel.name, me);
  if (peer === undefined) return channel.display_name ?? "Direct message";
  const name = names.get(peer) ?? peer;
  return peer === me ? `${name} (you)` : name;
}
