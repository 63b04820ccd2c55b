// What can go wrong, and what the caller does next.

import { type Advice, adviceOf, codeName } from "./code.js";

/**
 * What failed.
 *
 * - `refused`: the node refused with a `code` of the protocol.
 * - `unconfirmed`: it is not known whether the message was stored: it had been sent, and then `cause` happened. It may yet be
 *   stored within a minute. A message that fails with any other kind was certainly not stored.
 * - `connect`: no connection could be made; with advice `do-not-retry`, none ever can, as the platform has no WebSocket.
 * - `disconnected`: the connection ended without a code of the protocol.
 * - `protocol`: the other side sent bytes that are not this protocol.
 * - `url`: the URL cannot be used.
 * - `name`: the channel's name cannot be one.
 * - `too-large`: the message is larger than the node takes.
 * - `token`: the application's token function failed; `cause` is its error.
 * - `timed-out`: nothing came within the time for it.
 * - `already-subscribed`: this client reads the channel already.
 * - `too-many-requests`: as many history requests wait as may.
 * - `queue-full`: as many messages wait to be sent as may.
 * - `closed`: the client, or the channel's subscription, was closed.
 */
export type ErrorKind =
  | "refused"
  | "unconfirmed"
  | "connect"
  | "disconnected"
  | "protocol"
  | "url"
  | "name"
  | "too-large"
  | "token"
  | "timed-out"
  | "already-subscribed"
  | "too-many-requests"
  | "queue-full"
  | "closed";

const ADVICE: Readonly<Record<Exclude<ErrorKind, "refused" | "unconfirmed">, Advice>> = {
  connect: "reconnect",
  disconnected: "reconnect",
  protocol: "reconnect",
  url: "do-not-retry",
  name: "do-not-retry",
  "too-large": "do-not-retry",
  token: "authenticate",
  "timed-out": "retry",
  "already-subscribed": "do-not-retry",
  "too-many-requests": "retry",
  "queue-full": "retry",
  closed: "do-not-retry",
};

/**
 * Why a call failed or a connection ended. What could be done without the application (reconnect, resume, send again) was
 * done, so an error that reaches a caller is final for that call.
 */
export class MillraceError extends Error {
  override readonly name = "MillraceError";
  readonly kind: ErrorKind;
  /** The protocol's code behind this error, if there is one; a value of `Code` if this version knows it. */
  readonly code: number | undefined;
  /** What to do about it. */
  readonly advice: Advice;
  /** When to try again, if the node said so, in milliseconds. */
  readonly retryAfterMs: number | undefined;

  constructor(
    kind: ErrorKind,
    message: string,
    details: { code?: number; advice?: Advice; retryAfterMs?: number; cause?: unknown } = {},
  ) {
    super(message, "cause" in details ? { cause: details.cause } : undefined);
    this.kind = kind;
    const cause = ours(details.cause);
    if (kind === "unconfirmed") {
      this.code = cause?.code;
      this.advice = cause?.advice ?? "do-not-retry";
      this.retryAfterMs = cause?.retryAfterMs;
    } else {
      this.code = details.code;
      this.advice = details.advice ?? (kind === "refused" ? adviceOf(details.code ?? 0) : ADVICE[kind]);
      this.retryAfterMs = details.retryAfterMs || undefined;
    }
  }

  /**
   * Whether the same call can succeed later with nothing changed. A retry of a message that is `unconfirmed` may store it
   * twice.
   */
  get isRetryable(): boolean {
    return this.advice === "retry" || this.advice === "reconnect";
  }
}

// Apart, because a bundler gives another name to a class that names itself, and Node prints that.
const ours = (cause: unknown): MillraceError | undefined => (cause instanceof MillraceError ? cause : undefined);

/** What was waited for. */
export type Awaited =
  | "the connection"
  | "a token"
  | "an answer"
  | "an acknowledgement"
  | "a heartbeat"
  | "the last acknowledgements";

/** @internal */
export const refused = (code: number, message: string, retryAfterMs = 0): MillraceError =>
  new MillraceError("refused", `${message || "refused"} (${codeName(code)})`, { code, retryAfterMs });

/** @internal */
export const timedOut = (awaited: Awaited): MillraceError =>
  new MillraceError("timed-out", `timed out waiting for ${awaited}`);

/** @internal */
export const closed = (): MillraceError => new MillraceError("closed", "the client is closed");

/** @internal */
export const disconnected = (reason: string): MillraceError =>
  new MillraceError("disconnected", `the connection was lost: ${reason}`);

/** @internal */
export function unconfirmed(cause: unknown): MillraceError {
  if (cause instanceof MillraceError && cause.kind === "unconfirmed") return cause;
  return new MillraceError("unconfirmed", "it is not known whether the message was stored", { cause });
}
