// Error codes of the protocol: one number each, in an error frame and as the WebSocket close code. The range says what a client
// does next, so an old client handles codes that it has never heard of.

/** Every code that this version knows, by name. */
export const Code = {
  /** The bytes are no frame of this protocol. */
  BadFrame: 4000,
  /** No protocol version in common. */
  UnsupportedVersion: 4001,
  /** The first frame was not `hello`, or a second one came. */
  UnexpectedFrame: 4002,
  /** A frame, payload or name is over its limit. */
  TooLarge: 4003,
  /** The data is not allowed where it stands, such as a name with a character that is not allowed. */
  Invalid: 4004,
  /** The channel does not exist, or this user is no member of it. */
  NoAccess: 4005,
  /** The user may read the channel but not publish to it. */
  ReadOnly: 4006,
  /** The channel is archived. */
  Archived: 4007,
  /** The session has as many subscriptions as it may have. */
  TooManySubscriptions: 4008,
  /** The producer's sequence is not the one that is expected next. */
  OutOfOrder: 4009,
  /** The channel keeps no history. */
  NoHistory: 4010,
  /** The user was removed from the channel. */
  Removed: 4011,
  /** There is no session subscription to this channel. */
  NotSubscribed: 4012,
  /** The session was ended by an operator or an application server. */
  Ended: 4013,
  /** Too many requests; slow down. */
  RateLimited: 4100,
  /** The node has as much work as it can take. */
  Busy: 4101,
  /** The control plane cannot be reached now. */
  Unavailable: 4102,
  /** It is not known whether the message was stored; a retry with the same sequence finds out. */
  UnknownOutcome: 4103,
  /** An earlier publish of this producer was refused, so this one waits its turn. */
  Blocked: 4104,
  /** The node is stopping or draining. */
  GoingAway: 4200,
  /** The session read too slowly and its queue is full. */
  SlowConsumer: 4201,
  /** Nothing was heard from the client for two heartbeats. */
  HeartbeatTimeout: 4202,
  /** No `hello` within the handshake limit. */
  HandshakeTimeout: 4203,
  /** The node lost its lease of the channel. */
  Fenced: 4204,
  /** A fault of the node; the details are in its log. */
  Internal: 4205,
  /** The channel's history began anew; earlier positions mean nothing. */
  EpochChanged: 4300,
  /** Too many messages were missed to send them again. */
  PositionTooOld: 4301,
  /** The position is ahead of the channel. */
  PositionAhead: 4302,
  /** The token cannot be read or its signature is wrong. */
  BadToken: 4400,
  /** The token has expired. */
  TokenExpired: 4401,
  /** The token was revoked. */
  TokenRevoked: 4402,
  /** The new token is for another tenant or user. */
  TokenMismatch: 4403,
} as const;

/** Name of a {@link Code}. */
export type CodeName = keyof typeof Code;

/**
 * What to do about an error.
 *
 * - `do-not-retry`: the same request will fail again.
 * - `retry`: the same call can succeed later, after `retryAfterMs` or a back-off.
 * - `reconnect`: the connection is at fault; the client comes back by itself.
 * - `reload`: the position cannot be resumed; read the history again.
 * - `authenticate`: a new token is needed.
 */
export type Advice = "do-not-retry" | "retry" | "reconnect" | "reload" | "authenticate";

/** What a client does about a code that it may not know; every number outside the ranges means to reconnect. */
export function adviceOf(code: number): Advice {
  switch (Math.floor(code / 100)) {
    case 40:
      return "do-not-retry";
    case 41:
      return "retry";
    case 43:
      return "reload";
    case 44:
      return "authenticate";
    default:
      return "reconnect";
  }
}

/** A code's name in kebab case, such as `no-access`; `code 4999` for one that this version does not know. */
export function codeName(code: number): string {
  const name = Object.entries(Code).find(([, number]) => number === code)?.[0];
  return name?.replace(/(?!^)[A-Z]/g, "-$&").toLowerCase() ?? `code ${code}`;
}
