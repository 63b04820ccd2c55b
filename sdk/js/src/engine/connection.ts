// The connection: opening it, keeping it, and coming back after it is gone.

import { Code } from "../code.js";
import { closed, MillraceError, refused, timedOut } from "../error.js";
import {
  FEATURE_READ_POSITIONS,
  SUBSCRIPTIONS_CAP,
  TOKEN_BYTES_MAX,
  VERSION,
  type WireWelcome,
} from "../wire/frames.js";
import { givenUpError } from "./calls.js";
import type { Key } from "./channel.js";
import { earliest } from "./channel.js";
import type { Engine, Result } from "./engine.js";

/** A connection that held this long ended a time of trouble: back-off starts over. */
const STABLE_AFTER_MS = 5_000;
/** A token that expires sooner is not shown to a node. */
const TOKEN_MARGIN_MS = 5_000;
/** Between tries to get a new token, and before the first if the node's clock and ours disagree. */
const REFRESH_RETRY_MS = 30_000;
/** Added to two heartbeats: how late a node may be to end a session, or we to hear it. */
const LINGER_SLACK_MS = 5_000;
/** How long a node may take to answer the question whether the connection still holds. */
const PROBE_MS = 5_000;
/** A complaint that is older says nothing about an end without a word: the session went on. */
const COMPLAINT_MS = 5_000;
/** Between tries to connect that the application's surroundings ask for. */
const WAKE_GAP_MS = 1_000;

/** Where the connection is on its way. */
export type Link =
  | { readonly kind: "idle" }
  /** Between tries. `isTold`: a node said when to come. */
  | { readonly kind: "waiting"; readonly until: number; readonly since: number; readonly isTold: boolean }
  /** No connection before there is a token. */
  | { readonly kind: "awaitingToken" }
  | { readonly kind: "connecting"; readonly deadline: number }
  /** The hello is under way. */
  | { readonly kind: "greeting"; readonly deadline: number; readonly hello: number }
  | Session
  | { readonly kind: "closed"; readonly error: MillraceError | undefined };

/** What a welcomed connection knows of itself. */
export interface Session {
  readonly kind: "open";
  readonly openedAt: number;
  /** Two heartbeats of the node; `undefined` if it has none. */
  readonly silenceMaxMs: number | undefined;
  heardAt: number;
  /** By when something must be heard, because we asked. */
  probeBy: number | undefined;
  /** Request number of the hello, which its subscriptions share. */
  readonly hello: number;
}

/** What a node says of the session before it closes it. */
export interface Complaint {
  readonly at: number;
  readonly error: MillraceError;
}

/** The node asked us to leave. */
export interface GoAway {
  readonly at: number;
  readonly error: MillraceError;
}

export interface Token {
  current: string | undefined;
  expiresAt: number | undefined;
  /** As the node said it, in Unix time. */
  expiresUnixMs: number | undefined;
  refreshAt: number | undefined;
  isFetching: boolean;
  /** Fresh tokens in a row that a node refused. */
  refusals: number;
}

export function noToken(): Token {
  return {
    current: undefined,
    expiresAt: undefined,
    expiresUnixMs: undefined,
    refreshAt: undefined,
    isFetching: false,
    refusals: 0,
  };
}

export function start(engine: Engine, now: number): void {
  if (engine.link.kind !== "idle") return;
  engine.startedAt = now;
  engine.actions.push({ type: "state", state: { kind: "connecting" } });
  connect(engine, now);
}

export function handleToken(engine: Engine, now: number, result: Result<string>): void {
  const { token, link } = engine;
  token.isFetching = false;
  const failure = "error" in result ? result.error : wrongToken(result.ok);
  if (failure !== undefined) {
    if (link.kind === "awaitingToken") return lost(engine, now, failure);
    engine.actions.push({ type: "warning", error: failure });
    token.refreshAt = now + REFRESH_RETRY_MS;
  } else if ("ok" in result) {
    token.current = result.ok;
    token.expiresAt = undefined;
    token.expiresUnixMs = undefined;
    if (link.kind === "awaitingToken") connect(engine, now);
    else if (engine.isOpen) engine.control.push({ kind: "refresh", request: engine.request({ kind: "refresh" }) });
  }
}

/** Why a text cannot be an access token, for whoever gave it; `undefined` if it may be one, which the node knows. */
function wrongToken(token: string): MillraceError | undefined {
  const bytes = new TextEncoder().encode(token).length;
  const another = token.startsWith("mrr_") ? "a refresh token" : token.startsWith("mr_") ? "an API key" : undefined;
  const why =
    bytes === 0
      ? "the token is empty: give an access token, as your server or `millrace token issue` makes it"
      : another !== undefined
        ? `${another} is no access token: your server gets those from POST /v1/tokens`
        : bytes > TOKEN_BYTES_MAX
          ? `the token is ${bytes} bytes, the limit is ${TOKEN_BYTES_MAX}`
          : undefined;
  return why === undefined ? undefined : new MillraceError("token", why);
}

export function handleConnected(engine: Engine, now: number): void {
  if (engine.link.kind !== "connecting") return;
  const request = engine.requestNumber();
  const keys: Key[] = [];
  for (const [key, channel] of engine.channels) {
    const mode = channel.wanted;
    if (mode === undefined || keys.length >= SUBSCRIPTIONS_CAP) continue;
    channel.attach = { kind: "asked", mode, request, at: now };
    channel.isOutdated = false;
    keys.push(key);
  }
  engine.link = { kind: "greeting", deadline: engine.link.deadline, hello: request };
  engine.control.push({ kind: "hello", request, keys });
}

export function handleDisconnected(engine: Engine, now: number, error: MillraceError): void {
  if (isConnected(engine) || engine.link.kind === "connecting") lost(engine, now, error);
}

/** Whether there is a connection to send and receive on. */
export function isConnected(engine: Engine): boolean {
  return engine.link.kind === "greeting" || engine.link.kind === "open";
}

/** Whether `request` is the number of this connection's hello. */
export function isHello(engine: Engine, request: number): boolean {
  const { link } = engine;
  return (link.kind === "greeting" || link.kind === "open") && link.hello === request;
}

/** Any sign of life from the node. */
export function heard(engine: Engine, now: number): void {
  if (engine.link.kind !== "open") return;
  engine.link.heardAt = now;
  engine.link.probeBy = undefined;
}

export function welcomed(engine: Engine, now: number, welcome: WireWelcome): void {
  if (engine.link.kind !== "greeting") return;
  if (welcome.version !== VERSION) {
    const message = `the node speaks version ${welcome.version}, this client ${VERSION}`;
    return dropConnection(engine, now, refused(Code.UnsupportedVersion, message));
  }
  const silenceMaxMs = welcome.heartbeatMs > 0 ? welcome.heartbeatMs * 2 : undefined;
  const { hello } = engine.link;
  engine.link = { kind: "open", openedAt: now, silenceMaxMs, heardAt: now, probeBy: undefined, hello };
  engine.lingerMs = (silenceMaxMs ?? 60_000) + LINGER_SLACK_MS;
  engine.payloadBytesMax = welcome.payloadBytesMax;
  engine.everOpen = true;
  engine.hasReads = (welcome.features & FEATURE_READ_POSITIONS) !== 0n;
  if (!engine.hasReads) for (const channel of engine.channels.values()) channel.reads.giveUp();
  engine.goAway = undefined;
  engine.endpoints.worked();
  engine.token.refusals = 0;
  scheduleRefresh(engine, now, Number(welcome.tokenExpiresMs));
  const session = Array.from(welcome.session, (byte) => byte.toString(16).padStart(2, "0")).join("");
  engine.actions.push({ type: "state", state: { kind: "connected", session, node: welcome.node } });
  for (const key of [...engine.channels.keys()]) engine.sync(now, key);
}

/** The node will end the session and says when to come back, and where. */
export function toldToGo(
  engine: Engine,
  now: number,
  code: number,
  afterMs: number,
  endpoints: readonly string[],
): void {
  const error = refused(code, "the node asked the client to leave");
  if (error.advice === "do-not-retry") return dropConnection(engine, now, error);
  if (error.advice === "authenticate") engine.token.current = undefined;
  engine.endpoints.advise(endpoints, engine.random.below(2 ** 32));
  engine.goAway = { at: now + afterMs, error };
}

export function refreshRefused(engine: Engine, now: number, error: MillraceError): void {
  engine.actions.push({ type: "warning", error });
  engine.token.current = undefined;
  engine.token.refreshAt = now + REFRESH_RETRY_MS;
}

/**
 * A new token is fetched when three quarters of the time are over, or a little later, so that clients of one moment do not all
 * ask at once.
 */
export function scheduleRefresh(engine: Engine, now: number, expiresUnixMs: number): void {
  const { token, random, config } = engine;
  const left = Math.max(0, expiresUnixMs - (engine.unixMsAtZero + now));
  // A token that was accepted has not expired: if it seems so, the clocks disagree and only the node knows.
  token.expiresAt = left === 0 ? undefined : now + left;
  token.expiresUnixMs = left === 0 ? undefined : expiresUnixMs;
  const wait = left === 0 ? REFRESH_RETRY_MS : (left * 3) / 4 + (left / 1_000) * random.below(150);
  token.refreshAt = config.tokensRenew ? now + wait : undefined;
}

/** Connects, with a token that is still good. */
function connect(engine: Engine, now: number): void {
  const { token, config } = engine;
  const isStale = token.expiresAt !== undefined && token.expiresAt <= now + TOKEN_MARGIN_MS && config.tokensRenew;
  if (token.current === undefined || isStale) {
    engine.link = { kind: "awaitingToken" };
    fetchToken(engine);
  } else {
    engine.link = { kind: "connecting", deadline: now + config.connectTimeoutMs };
    const endpoint = engine.endpoints.next();
    engine.actions.push({ type: "connect", endpoint, beside: engine.endpoints.besideOf(endpoint) });
  }
}

function fetchToken(engine: Engine): void {
  engine.token.refreshAt = undefined;
  if (engine.token.isFetching) return;
  engine.token.isFetching = true;
  engine.actions.push({ type: "fetchToken" });
}

export function linkTimeout({ link }: Engine): number | undefined {
  switch (link.kind) {
    case "waiting":
      return link.until;
    case "connecting":
    case "greeting":
      return link.deadline;
    case "open":
      return earliest(link.probeBy, link.silenceMaxMs === undefined ? undefined : link.heardAt + link.silenceMaxMs);
    default:
      return undefined;
  }
}

export function handleLinkTimeout(engine: Engine, now: number): void {
  const at = linkTimeout(engine);
  if (at !== undefined && at <= now) {
    if (engine.link.kind === "waiting") connect(engine, now);
    else if (engine.link.kind === "open") dropConnection(engine, now, timedOut("a heartbeat"));
    else dropConnection(engine, now, timedOut("the connection"));
  }
  if (engine.isOpen && engine.goAway !== undefined && engine.goAway.at <= now) leave(engine, now);
  if (engine.isOpen && engine.token.refreshAt !== undefined && engine.token.refreshAt <= now) fetchToken(engine);
}

export function handleWake(engine: Engine, now: number, unixMs: number): void {
  const { link, token } = engine;
  const moved = unixMs - now !== engine.unixMsAtZero;
  engine.unixMsAtZero = unixMs - now;
  // A token ends by the clock on the wall, also while ours stood still.
  if (moved && token.expiresUnixMs !== undefined) scheduleRefresh(engine, now, token.expiresUnixMs);
  if (link.kind === "waiting" && !link.isTold && now - link.since >= WAKE_GAP_MS) {
    connect(engine, now);
  } else if (link.kind === "open" && link.probeBy === undefined) {
    link.probeBy = now + PROBE_MS;
    engine.control.push({ kind: "probe", request: engine.request({ kind: "probe" }) });
  }
}

/** The time that the node named for leaving has come, and it still serves: go without a wait. */
function leave(engine: Engine, now: number): void {
  const error = engine.goAway?.error;
  if (error === undefined) return;
  engine.goAway = undefined;
  engine.actions.push({ type: "disconnect" });
  forgetConnection(engine, now);
  engine.backoff.reset();
  engine.actions.push({ type: "state", state: { kind: "reconnecting", attempt: 1, delayMs: 0, error } });
  connect(engine, now);
}

/** Ends the connection from our side and tries again as the error advises. */
export function dropConnection(engine: Engine, now: number, error: MillraceError): void {
  engine.actions.push({ type: "disconnect" });
  lost(engine, now, error);
}

function forgetConnection(engine: Engine, now: number): void {
  engine.requests.clear();
  engine.control = [];
  engine.ready = [];
  engine.byNumber.clear();
  for (const channel of engine.channels.values()) {
    channel.disconnected();
    channel.outbox.disconnected(now, engine.lingerMs, engine.random);
  }
}

/** The connection is gone: wait and try again, or give up, as the error advises. */
function lost(engine: Engine, now: number, cause: MillraceError): void {
  const { link, token, config } = engine;
  // What the node said just before it closed tells more than how it closed.
  const { complaint } = engine;
  engine.complaint = undefined;
  const isReason = cause.kind === "disconnected" && complaint !== undefined && now - complaint.at <= COMPLAINT_MS;
  const error = isReason ? complaint.error : cause;
  if (link.kind === "open" && now - link.openedAt >= STABLE_AFTER_MS) engine.backoff.reset();
  forgetConnection(engine, now);
  const { goAway } = engine;
  engine.goAway = undefined;
  const isAwaited = config.failFast && !engine.everOpen;
  if (isAwaited && !isPassing(engine, error)) return closeWith(engine, now, error);
  if (error.advice === "do-not-retry") return closeWith(engine, now, error);
  // A fixed one does not get better.
  if (error.kind === "token" && !config.tokensRenew) return closeWith(engine, now, error);
  if (error.advice === "authenticate" && error.kind === "refused") {
    token.refusals += 1;
    if (!config.tokensRenew || token.refusals > 2) return closeWith(engine, now, error);
    token.current = undefined;
  }
  const wait = Math.max(engine.backoff.next(engine.random), error.retryAfterMs ?? 0);
  const delayMs = goAway === undefined ? wait : Math.max(0, goAway.at - now);
  if (isAwaited && now + delayMs > engine.startedAt + config.requestTimeoutMs) return closeWith(engine, now, error);
  const isTold = goAway !== undefined || (error.retryAfterMs ?? 0) > 0;
  engine.link = { kind: "waiting", until: now + delayMs, since: now, isTold };
  const { attempt } = engine.backoff;
  engine.actions.push({ type: "state", state: { kind: "reconnecting", attempt, delayMs, error } });
  // What nobody wants any more is forgotten; deadlines run on.
  for (const key of [...engine.channels.keys()]) engine.sync(now, key);
}

/**
 * Whether a connection that somebody waits for may well succeed at the next try: a node asks to try again, or there is a URL that
 * was not tried.
 */
function isPassing({ backoff, config }: Engine, { kind, isRetryable }: MillraceError): boolean {
  const isUntried = backoff.attempt + 1 < config.endpoints.length;
  return isRetryable && (isUntried || kind === "refused");
}

/** Ends the client, if it is closing and every message has had its end or the time is over. */
export function finishIfFlushed(engine: Engine, now: number): void {
  if (engine.closing === undefined) return;
  const channels = [...engine.channels.values()];
  const isFlushed = channels.every((channel) => channel.outbox.isEmpty);
  // Marks go along while there is a connection; nobody waits for one to tell them.
  const marks = engine.isOpen && channels.some((channel) => channel.reads.isPending);
  if ((!isFlushed || marks) && engine.closing > now) return;
  engine.actions.push({ type: "disconnect" });
  closeWith(engine, now, isFlushed ? undefined : timedOut("the last acknowledgements"));
}

/** Ends the client. Without an error, or once the application closes it, subscriptions just end. */
function closeWith(engine: Engine, now: number, error: MillraceError | undefined): void {
  forgetConnection(engine, now);
  const isClosing = engine.closing !== undefined;
  engine.closing = undefined;
  const cause = error ?? closed();
  const { channels } = engine;
  engine.channels = new Map();
  for (const [key, channel] of channels) {
    for (const { ticket } of channel.waiters) {
      engine.actions.push({ type: "opened", ticket, key, result: { error: cause } });
    }
    for (let givenUp = channel.outbox.giveUpNext(); givenUp !== undefined; givenUp = channel.outbox.giveUpNext()) {
      const result = { error: givenUpError(givenUp, cause) };
      engine.actions.push({ type: "sent", ticket: givenUp.ticket, result });
    }
    for (const { ticket } of channel.histories) {
      engine.actions.push({ type: "page", ticket, result: { error: cause } });
    }
    if (channel.subscription !== undefined && !isClosing) {
      engine.actions.push({ type: "deliver", key, event: { type: "ended", error: cause } });
    }
  }
  engine.byName.clear();
  engine.wakes.clear();
  engine.tickAt = undefined;
  engine.link = { kind: "closed", error };
  engine.actions.push({ type: "state", state: { kind: "closed", error } });
}
