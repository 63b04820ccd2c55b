// Gives the engine a clock, a connection and somebody who waits for its answers. Does what the engine asks, in turns.

import type { Handle, HistoryRange, Key, Ticket } from "./engine/channel.js";
import { type Action, type Config, Engine, type Opened, type Result } from "./engine/engine.js";
import type { Start } from "./engine/subscription.js";
import { closed, disconnected, MillraceError, refused, timedOut } from "./error.js";
import type { Page, Position, Receipt, Unread } from "./event.js";
import { Inbox } from "./inbox.js";
import { Listeners } from "./listeners.js";
import type { State } from "./state.js";
import type { Surroundings } from "./surroundings.js";
import type { Connection, End, Transport, TransportEvents } from "./transport.js";
import { Window, type WindowLimits } from "./window.js";

/** Bytes that may wait in the connection before the client makes no more. */
const BUFFERED_BYTES_MAX = 64 << 10;
/** How often a full connection is looked at: WebSockets do not say when they have room. */
const DRAIN_MS = 10;
/** Longest sleep of the shell: a clock that stood still is noticed after so long. */
const WATCH_MS = 15_000;
/** How far clocks may drift apart, or a timer be late, before it means that the machine or the page slept. */
const SLEEP_MS = 2_500;

/** What a client tells. */
export interface ClientEvents {
  /** The connection's state changed. */
  state: State;
  /** Something went wrong that needs nothing of the application but may interest its log. */
  warning: MillraceError;
}

/** A message that has its place in the order. */
export interface Sending {
  /** Names it among this client's messages; its own `Message` has it too, until the receipt is here. */
  readonly ticket: number;
  /** Resolves when it is acknowledged. */
  readonly receipt: Promise<Receipt>;
}

/** Gives an access token. `signal` is aborted when nobody waits for it any more. */
export type TokenProvider = (context: { readonly signal: AbortSignal }) => string | Promise<string>;

export interface Setup {
  readonly config: Config;
  readonly window: WindowLimits;
  readonly waiting: WindowLimits;
  readonly token: TokenProvider;
  readonly transport: Transport;
  readonly surroundings: Surroundings;
}

interface Reply<T> {
  resolve(value: T): void;
  reject(reason: unknown): void;
}

/** A handle that is open, or on its way there. */
export interface OpenHandle {
  readonly key: Key;
  /** Of a reader. */
  readonly inbox: Inbox | undefined;
  readonly opened: Promise<Opened>;
  /** Gives it up while it is not open; `false` if it is, or cannot be. */
  abandon(): boolean;
}

export class Shell {
  readonly listeners = new Listeners<ClientEvents>();
  state: State = { kind: "idle" };
  private engine: Engine | undefined;
  private readonly opening = new Map<Ticket, Reply<Opened>>();
  /** Which handles the engine was asked to open, until it says how that ended. */
  private readonly handles = new Map<Ticket, Handle>();
  private readonly sending = new Map<Ticket, Reply<Receipt>>();
  private readonly reading = new Map<Ticket, Reply<Page>>();
  private readonly inboxes = new Map<Key, Inbox>();
  private readonly windows = new Map<Key, Window>();
  /** Who follows how much of a channel is unread. */
  private readonly followers = new Map<Key, Set<(unread: Unread | undefined) => void>>();
  private tickets = 0;
  private connection: Connection | undefined;
  /** Names the connection that counts, from before it is there. */
  private attempt: object | undefined;
  private fetching: AbortController | undefined;
  private unwatch = () => {};
  private cancelTimer = () => {};
  private timerAt: number | undefined;
  private isTurning = false;

  constructor(private readonly setup: Setup) {}

  /** Begins to connect, once. */
  start(): Engine {
    if (this.engine !== undefined) return this.engine;
    if (this.state.kind === "closed") throw closed();
    const { config, surroundings } = this.setup;
    const engine = new Engine(config, surroundings.seed(), surroundings.now(), surroundings.unixMs());
    this.engine = engine;
    this.unwatch = surroundings.watch(() => this.wake());
    engine.start(this.now());
    this.turn();
    return engine;
  }

  /** Opens a handle; the key is known at once. */
  open(name: string, start: Start | undefined, signal?: AbortSignal): OpenHandle {
    signal?.throwIfAborted();
    const engine = this.start();
    const ticket = this.ticket();
    const key = engine.open(this.now(), name, start, ticket);
    this.handles.set(ticket, start === undefined ? "sender" : "reader");
    let inbox: Inbox | undefined;
    if (start !== undefined) {
      inbox = new Inbox(this.setup.config.queue, (events, bytes) => {
        engine.taken(this.now(), key, events, bytes);
        this.turn();
      });
      this.inboxes.set(key, inbox);
    }
    const withdraw = () => {
      // One that is open already is given back when the engine says so.
      if (engine.abandon(this.now(), ticket) !== undefined) this.handles.delete(ticket);
      this.turn();
    };
    const opened = this.reply(this.opening, ticket, signal, withdraw);
    opened.catch(() => {
      if (inbox !== undefined && this.inboxes.get(key) === inbox) this.inboxes.delete(key);
    });
    this.turn();
    const abandon = () => {
      const waiting = this.opening.get(ticket);
      if (waiting === undefined) return false;
      withdraw();
      waiting.reject(new MillraceError("closed", `${name} was given up before it was open`));
      return true;
    };
    return { key, inbox, opened, abandon };
  }

  /** A handle is no longer needed. */
  release(key: Key, handle: Handle): void {
    if (handle === "reader") this.inboxes.delete(key);
    this.engine?.release(this.now(), key, handle);
    this.turn();
  }

  /** The user as whom the client connected last. */
  get user(): string | undefined {
    return this.engine?.user;
  }

  /** Largest body, in bytes, as the node said that welcomed the client last. */
  get payloadBytesMax(): number | undefined {
    // Who connected is told with it.
    return this.engine?.user === undefined ? undefined : this.engine.payloadBytesMax;
  }

  /** Whether nothing more can be asked of a channel's entry: the node refused it for good, or the client is closed. */
  isEnded(key: Key): boolean {
    const channel = this.engine?.channels.get(key);
    return channel === undefined || channel.ended !== undefined;
  }

  /** Gives a message its place in the order, once there is room for it. */
  submit(key: Key, body: Uint8Array, signal: AbortSignal | undefined): Promise<Sending> {
    return new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      const engine = this.start();
      let window = this.windows.get(key);
      if (window === undefined) {
        window = new Window(this.setup.window, this.setup.waiting);
        this.windows.set(key, window);
      }
      const admitted = window;
      // One listener from the call to the end of the message, which a signal that lives on then knows nothing more of.
      let takeBack = () => {};
      const abort = () => takeBack();
      const forget = () => signal?.removeEventListener("abort", abort);
      signal?.addEventListener("abort", abort, { once: true });
      const admit = () => {
        const ticket = this.ticket();
        let takenBack: MillraceError | undefined;
        takeBack = () => {
          takenBack = new MillraceError("closed", "the application took the message back", { cause: signal?.reason });
          engine.cancelSend(this.now(), key, ticket, takenBack);
          this.turn();
        };
        const answer = this.reply(this.sending, ticket).catch((error: unknown) => {
          // What did not leave is as if it had never been sent.
          throw error === takenBack ? signal?.reason : error;
        });
        const leave = () => {
          forget();
          admitted.leave(body.length);
          if (admitted.isIdle && this.windows.get(key) === admitted) this.windows.delete(key);
        };
        answer.then(leave, leave);
        engine.send(this.now(), key, ticket, body);
        resolve({ ticket, receipt: answer });
        // Who waited for room gets it when another's answer comes, when no turn of the engine is under way that would take it along.
        this.turn();
      };
      takeBack = () => {
        leaveLine();
        reject(signal?.reason);
      };
      let leaveLine: () => void;
      try {
        leaveLine = admitted.enter(body.length, admit);
      } catch (error) {
        forget();
        throw error;
      }
      this.turn();
    });
  }

  /** The user has read a channel so far. */
  markRead(key: Key, position: Position): void {
    this.start().markRead(this.now(), key, position);
    this.turn();
  }

  /** How much of a channel is unread, as far as it is known. */
  unread(key: Key): Unread | undefined {
    return this.engine?.channels.get(key)?.reads.unread;
  }

  /** Follows how much of a channel is unread; returns what ends that. */
  follow(key: Key, follow: (unread: Unread | undefined) => void): () => void {
    const followers = this.followers.get(key) ?? new Set();
    this.followers.set(key, followers.add(follow));
    return () => {
      followers.delete(follow);
      if (followers.size === 0 && this.followers.get(key) === followers) this.followers.delete(key);
    };
  }

  /** Reads a page of history. */
  history(key: Key, range: HistoryRange, messagesMax: number, signal: AbortSignal | undefined): Promise<Page> {
    signal?.throwIfAborted();
    const engine = this.start();
    const ticket = this.ticket();
    const page = this.reply(this.reading, ticket, signal, () => {
      engine.abandonHistory(this.now(), key, ticket);
      this.turn();
    });
    engine.history(this.now(), key, ticket, range, messagesMax);
    this.turn();
    return page;
  }

  /** Ends the client once every message has had its end, or the time for that is over; called again, with less time. */
  close(timeoutMs?: number): void {
    if (this.engine === undefined) {
      this.changeState({ kind: "closed", error: undefined });
      return;
    }
    this.engine.close(this.now(), timeoutMs);
    this.turn();
  }

  private now(): number {
    return this.setup.surroundings.now();
  }

  private ticket(): Ticket {
    this.tickets += 1;
    return this.tickets;
  }

  /** A promise for the answer to a ticket. When `signal` is aborted, `abandon` takes the question back and says why. */
  private reply<T>(
    replies: Map<Ticket, Reply<T>>,
    ticket: Ticket,
    signal?: AbortSignal,
    abandon?: () => void,
  ): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      const abort = () => {
        replies.delete(ticket);
        abandon?.();
        reject(signal?.reason);
      };
      const done = () => {
        signal?.removeEventListener("abort", abort);
        replies.delete(ticket);
      };
      replies.set(ticket, {
        resolve(value) {
          done();
          resolve(value);
        },
        reject(reason) {
          done();
          reject(reason);
        },
      });
      signal?.addEventListener("abort", abort, { once: true });
    });
  }

  /** The network or the page changed its state, or a clock stood still. */
  private wake(): void {
    this.engine?.handleWake(this.now(), this.setup.surroundings.unixMs());
    this.turn();
  }

  /** Does all that the engine asks, writes what the connection takes, and sets the timer. */
  private turn(): void {
    const { engine } = this;
    // Whoever is called from within a turn is heard before it ends.
    if (engine === undefined || this.isTurning) return;
    this.isTurning = true;
    try {
      for (let actions = engine.pollActions(); ; actions = engine.pollActions()) {
        for (const action of actions) this.act(engine, action);
        const isFull = this.fill(engine);
        if (actions.length === 0) {
          this.setTimer(engine, isFull);
          return;
        }
      }
    } finally {
      this.isTurning = false;
    }
  }

  private act(engine: Engine, action: Action): void {
    switch (action.type) {
      case "fetchToken":
        void this.fetchToken(engine);
        break;
      case "connect":
        this.connect(engine, action.endpoint, action.beside);
        break;
      case "disconnect":
        this.connection?.close();
        this.connection = undefined;
        this.attempt = undefined;
        break;
      case "deliver":
        this.inboxes.get(action.key)?.push(action.event);
        break;
      case "starved":
        this.inboxes.get(action.key)?.starve();
        break;
      case "opened":
        this.opened(engine, action);
        break;
      case "sent":
        settle(this.sending.get(action.ticket), action.result);
        break;
      case "page":
        settle(this.reading.get(action.ticket), action.result);
        break;
      case "unread":
        for (const follow of this.followers.get(action.key) ?? []) follow(action.unread);
        break;
      case "state":
        if (action.state.kind === "closed") this.end();
        this.changeState(action.state);
        break;
      case "warning":
        this.listeners.tell("warning", action.error);
        break;
    }
  }

  private connect(engine: Engine, endpoint: string, beside: string | undefined): void {
    let isOpen = false;
    const attempt = {};
    this.attempt = attempt;
    // A transport may tell something before it has returned: an attempt has its name before it begins.
    const tell = (change: () => void) => {
      if (this.attempt === attempt) this.run(change);
    };
    const closed = (end: End) =>
      tell(() => {
        this.connection = undefined;
        this.attempt = undefined;
        engine.handleDisconnected(this.now(), endOf(endpoint, isOpen, end));
      });
    try {
      const events: TransportEvents = {
        opened: () => {
          isOpen = true;
          tell(() => engine.handleConnected(this.now()));
        },
        frame: (bytes) => tell(() => engine.handleFrame(this.now(), bytes)),
        closed,
      };
      const connection = this.setup.transport.open(endpoint, events, beside);
      if (this.attempt === attempt) this.connection = connection;
    } catch (cause) {
      closed({ code: 1006, reason: cause instanceof Error ? cause.message : String(cause) });
    }
  }

  private opened(engine: Engine, { ticket, key, result }: Extract<Action, { type: "opened" }>): void {
    const reply = this.opening.get(ticket);
    const handle = this.handles.get(ticket);
    this.handles.delete(ticket);
    settle(reply, result);
    if (reply !== undefined || "error" in result) return;
    // Who asked for it left in the turn in which it was opened.
    if (handle === "reader") engine.release(this.now(), key, "reader");
    engine.release(this.now(), key, "sender");
  }

  private run(change: () => void): void {
    change();
    this.turn();
  }

  /** Writes ahead. Returns whether the connection has enough. */
  private fill(engine: Engine): boolean {
    const { connection } = this;
    if (connection === undefined) return false;
    const now = this.now();
    while (connection.bufferedBytes < BUFFERED_BYTES_MAX) {
      const frame = engine.pollTransmit(now);
      if (frame === undefined) return false;
      connection.send(frame);
    }
    return true;
  }

  private async fetchToken(engine: Engine): Promise<void> {
    const controller = new AbortController();
    this.fetching = controller;
    const { config, token, surroundings } = this.setup;
    const expired = new Promise<never>((_, reject) => {
      const cancel = surroundings.after(config.requestTimeoutMs, () => {
        const late = timedOut("a token");
        reject(late);
        controller.abort(late);
      });
      controller.signal.addEventListener("abort", () => {
        cancel();
        reject(controller.signal.reason);
      });
    });
    expired.catch(() => {});
    let result: Result<string>;
    try {
      const given = await Promise.race([Promise.resolve().then(() => token({ signal: controller.signal })), expired]);
      result =
        typeof given === "string" ? { ok: given } : { error: new MillraceError("token", "the token is no text") };
    } catch (cause) {
      const isOurs = cause instanceof MillraceError && cause.kind === "timed-out";
      result = { error: isOurs ? cause : new MillraceError("token", "no token could be had", { cause }) };
    }
    if (this.fetching !== controller) return;
    this.fetching = undefined;
    controller.abort();
    this.run(() => engine.handleToken(this.now(), result));
  }

  private setTimer(engine: Engine, isFull: boolean): void {
    if (this.state.kind === "closed") return;
    const now = this.now();
    const watchAt = now + WATCH_MS;
    const at = Math.min(engine.nextTimeout() ?? watchAt, isFull ? now + DRAIN_MS : watchAt, watchAt);
    // Moving a timer costs more than being woken a little early.
    if (this.timerAt !== undefined && this.timerAt <= at && this.timerAt > now) return;
    this.cancelTimer();
    this.timerAt = at;
    this.cancelTimer = this.setup.surroundings.after(at - now, () => this.timeout(engine, at));
  }

  private timeout(engine: Engine, due: number): void {
    this.timerAt = undefined;
    const now = this.now();
    const unixMs = this.setup.surroundings.unixMs();
    const hasSlept = Math.abs(unixMs - now - engine.unixMsAtZero) > SLEEP_MS || now - due > SLEEP_MS;
    if (hasSlept) engine.handleWake(now, unixMs);
    engine.handleTimeout(now);
    this.turn();
  }

  private changeState(state: State): void {
    this.state = state;
    this.listeners.tell("state", state);
  }

  private end(): void {
    this.unwatch();
    this.cancelTimer();
    const { fetching } = this;
    this.fetching = undefined;
    fetching?.abort(new MillraceError("closed", "the client is closed"));
    for (const inbox of this.inboxes.values()) inbox.close();
    this.inboxes.clear();
    this.followers.clear();
  }
}

function settle<T>(reply: Reply<T> | undefined, result: Result<T>): void {
  if ("ok" in result) reply?.resolve(result.ok);
  else reply?.reject(result.error);
}

/** What the end of a connection means. */
function endOf(endpoint: string, isOpen: boolean, { code, reason, isFinal }: End): MillraceError {
  if (code >= 4000 && code <= 4999) return refused(code, reason);
  const why = [reason, code === 1006 ? "" : `close code ${code}`].filter((part) => part !== "").join(", ");
  if (isOpen) return disconnected(why || "it ended without a word");
  const message = `cannot connect to ${endpoint}${why && `: ${why}`}`;
  return new MillraceError("connect", message, isFinal === true ? { advice: "do-not-retry" } : {});
}
