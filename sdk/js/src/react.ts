/**
 * React hooks: a client for a tree of components, its connection, and channels as lists that render.
 *
 * @packageDocumentation
 */

import {
  createContext,
  createElement,
  type ReactElement,
  type ReactNode,
  useCallback,
  useContext,
  useMemo,
  useSyncExternalStore,
} from "react";

import {
  type Body,
  type Millrace,
  type Position,
  type Receipt,
  type State,
  type SubscribeOptions,
  Timeline,
  type TimelineOptions,
  type TimelineView,
  type Unread,
} from "./index.js";

/** How long a channel stays subscribed after its last component is gone: pages that change places keep it. */
const LINGER_MS = 1_000;

const Context = createContext<Millrace | undefined>(undefined);

/** Gives a client to all components inside. */
export function MillraceProvider(props: { readonly client: Millrace; readonly children?: ReactNode }): ReactElement {
  return createElement(Context.Provider, { value: props.client }, props.children);
}

/**
 * The client of the nearest {@link MillraceProvider}.
 *
 * @throws {Error} outside of one.
 */
export function useMillrace(): Millrace {
  const client = useContext(Context);
  if (client === undefined) throw new Error("useMillrace is used outside of a MillraceProvider");
  return client;
}

/** What the connection does; the component renders again when that changes. */
export function useConnection(): State {
  const client = useMillrace();
  const subscribe = useCallback((listener: () => void) => client.on("state", listener), [client]);
  const state = () => client.state;
  return useSyncExternalStore(subscribe, state, () => SERVER_STATE);
}

const SERVER_STATE: State = { kind: "idle" };

/** Settings of {@link useChannel}. They count for the first component that shows the channel. */
export interface UseChannelOptions extends TimelineOptions, Pick<SubscribeOptions, "after" | "afterOffset"> {}

/** What {@link useChannel} gives: what to show, and what to do. */
export interface UseChannel extends TimelineView {
  /** Shows a message at once and sends it. */
  send(body: Body, options?: { readonly signal?: AbortSignal | undefined }): Promise<Receipt>;
  /** Sends a failed entry again. */
  retry(key: string, options?: { readonly signal?: AbortSignal | undefined }): Promise<Receipt> | undefined;
  /** Lets a failed entry go. */
  discard(key: string): void;
  /** Loads an older page. */
  loadOlder(options?: { readonly signal?: AbortSignal | undefined }): Promise<void>;
  /** Lets the oldest lines go, until at most so many are left: of a channel that nobody looks at, a few will do. */
  shorten(linesMax: number): void;
}

/**
 * Shows a channel: subscribes it while a component does, with the newest page and what comes, and what is sent from the moment
 * it is. Components that show the same channel share all of it.
 */
export function useChannel(name: string, options: UseChannelOptions = {}): UseChannel {
  const client = useMillrace();
  // biome-ignore lint/correctness/useExhaustiveDependencies: the first component's options count, however often they are made
  const shared = useMemo(() => sharedTimeline(client, name, options), [client, name]);
  const subscribe = useCallback((listener: () => void) => shared.show(listener), [shared]);
  const view = useSyncExternalStore(
    subscribe,
    () => shared.timeline.view,
    () => SERVER_VIEW,
  );
  return useMemo(() => ({ ...view, ...shared.actions }), [view, shared]);
}

/** What {@link useUnread} gives. */
export interface UseUnread {
  /** `undefined` while it is not known, and if the channel keeps no history. */
  readonly unread: Unread | undefined;
  /** The user has read everything up to and with this position. */
  markRead(position: Position): void;
}

/**
 * How much of a channel is unread, on whichever device it was read; the component renders again when that changes. It subscribes
 * the channel while it is shown, and shares that with {@link useChannel}.
 */
export function useUnread(name: string): UseUnread {
  const client = useMillrace();
  const shared = useMemo(() => sharedTimeline(client, name, {}), [client, name]);
  const { channel } = shared.timeline;
  const subscribe = useCallback(
    (listener: () => void) => {
      const hide = shared.show(() => {});
      const stop = channel.on("unread", listener);
      return () => {
        stop();
        hide();
      };
    },
    [shared, channel],
  );
  const unread = useSyncExternalStore(
    subscribe,
    () => channel.unread,
    () => undefined,
  );
  return useMemo(() => ({ unread, markRead: (position) => channel.markRead(position) }), [unread, channel]);
}

const SERVER_VIEW: TimelineView = {
  status: "idle",
  entries: [],
  hasOlder: false,
  isLoading: false,
  canPublish: false,
  error: undefined,
};

/** A timeline that lives while components show it. */
class Shared {
  readonly timeline: Timeline;
  readonly actions: Pick<UseChannel, "send" | "retry" | "discard" | "loadOlder" | "shorten">;
  private shown = 0;
  private isStarted = false;
  private leaving: ReturnType<typeof setTimeout> | undefined;

  constructor(
    client: Millrace,
    name: string,
    private readonly options: UseChannelOptions,
    private readonly registry: Map<string, Shared>,
  ) {
    const timeline = new Timeline(client.channel(name), options);
    this.timeline = timeline;
    this.actions = {
      send: (body, options) => timeline.send(body, options),
      retry: (key, options) => timeline.retry(key, options),
      discard: (key) => timeline.discard(key),
      loadOlder: (options) => timeline.loadOlder(options),
      shorten: (linesMax) => timeline.shorten(linesMax),
    };
  }

  show(listener: () => void): () => void {
    clearTimeout(this.leaving);
    this.shown += 1;
    const { name } = this.timeline.channel;
    if (!this.registry.has(name)) this.registry.set(name, this);
    const pace = new Pace(listener);
    const stop = this.timeline.subscribe(() => pace.change());
    // A component that comes asks again for what was refused or taken away before it came.
    if (!this.isStarted || this.timeline.view.status === "ended") {
      this.isStarted = true;
      const { after, afterOffset } = this.options;
      // The view tells why.
      this.timeline.start({ after, afterOffset }).catch(() => {});
    }
    return () => {
      stop();
      pace.stop();
      this.shown -= 1;
      if (this.shown > 0) return;
      this.leaving = setTimeout(() => {
        // What is on its way, or failed, is nowhere else: whoever shows the channel again finds it.
        const isWhole = this.timeline.view.entries.every(({ status }) => status === "sent");
        if (isWhole && this.registry.get(name) === this) this.registry.delete(name);
        this.isStarted = false;
        this.timeline.stop();
        this.timeline.channel.close();
      }, LINGER_MS);
    };
  }
}

/** So many changes are rendered within {@link PACE_MS}; of more, one for all of them at its end. */
const CHANGES_MAX = 20;
const PACE_MS = 200;

/** Nobody reads a hundred messages a second, and rendering each of a flood would keep the page from everything else. */
class Pace {
  private rendered = 0;
  private isBehind = false;
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(private readonly render: () => void) {}

  change(): void {
    if (this.rendered >= CHANGES_MAX) {
      this.isBehind = true;
      return;
    }
    this.rendered += 1;
    this.timer ??= setTimeout(() => this.turn(), PACE_MS);
    this.render();
  }

  stop(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
    this.isBehind = false;
  }

  private turn(): void {
    this.timer = undefined;
    this.rendered = 0;
    if (!this.isBehind) return;
    this.isBehind = false;
    this.change();
  }
}

const timelines = new WeakMap<Millrace, Map<string, Shared>>();

function sharedTimeline(client: Millrace, name: string, options: UseChannelOptions): Shared {
  let byName = timelines.get(client);
  if (byName === undefined) {
    byName = new Map();
    timelines.set(client, byName);
  }
  const found = byName.get(name);
  if (found !== undefined) return found;
  const made = new Shared(client, name, options, byName);
  // A render that comes to nothing, or one on a server, costs this entry and no subscription.
  byName.set(name, made);
  return made;
}
