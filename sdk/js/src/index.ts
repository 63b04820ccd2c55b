/**
 * The TypeScript SDK of Millrace: chat channels over one connection that comes back by itself. Begin with {@link Millrace}.
 *
 * @packageDocumentation
 */

export type { Body, ChannelEvents, HistoryOptions, SubscribeOptions } from "./channel.js";
export { Channel } from "./channel.js";
export type { Advice, CodeName } from "./code.js";
export { adviceOf, Code, codeName } from "./code.js";
export type { ErrorKind } from "./error.js";
export { MillraceError } from "./error.js";
export type {
  CanPublishEvent,
  ChannelEvent,
  EndedEvent,
  Gap,
  MessageEvent,
  Page,
  Position,
  Receipt,
  ResetEvent,
  ResetReason,
  Skipped,
  SkippedEvent,
  Unread,
} from "./event.js";
export { Message } from "./event.js";
export type { Listener } from "./listeners.js";
export type { ConnectOptions, MillraceOptions, QueueOptions } from "./millrace.js";
export { Millrace } from "./millrace.js";
export type { ClientEvents, Sending, TokenProvider } from "./shell.js";
export type { State } from "./state.js";
export type { Entry, TimelineOptions, TimelineView } from "./timeline.js";
export { Timeline } from "./timeline.js";
export type { WebSocketConstructor, WebSocketLike } from "./transport/websocket.js";
export { webSocket } from "./transport/websocket.js";
export type { CertificateHash, CertificateHashes } from "./transport/webtransport.js";
export type { Connection, End, Transport, TransportEvents } from "./transport.js";
export { VERSION } from "./version.js";
export type { HistoryClass } from "./wire/frames.js";
