// Frames between a client and a data node: plain shapes of `protocol/schema/client.capnp`. The schema says what each field
// means. Numbers of 64 bits are `bigint` here, as nothing else holds all of them.

/** The protocol version that this SDK speaks. */
export const VERSION = 1;
/** WebSocket sub-protocol: the name carries the major version. */
export const SUBPROTOCOL = "millrace.v1";

/** Largest frame from a client, in bytes. */
export const CLIENT_FRAME_BYTES_MAX = 256 << 10;
/** Largest frame from a node, in bytes. */
export const SERVER_FRAME_BYTES_MAX = 1 << 20;
/** Hard cap of a message's body, in bytes. */
export const PAYLOAD_BYTES_CAP = 64 << 10;
/** Hard cap of subscriptions of one session. */
export const SUBSCRIPTIONS_CAP = 1_000;
/** Most messages of a page. */
export const PAGE_MESSAGES_MAX = 1_000;
/** Longest access token, in bytes. */
export const TOKEN_BYTES_MAX = 4 << 10;
/** Longest agent of a hello, in bytes. */
export const AGENT_BYTES_MAX = 128;
/** Most endpoints of a go-away. */
export const ENDPOINTS_MAX = 16;

/** Bit of `features`: the client is told where its user's read positions stand, and may move them. */
export const FEATURE_READ_POSITIONS = 1n;

/** A place in a channel's history, as it travels. */
export interface WirePosition {
  readonly epoch: number;
  readonly offset: bigint;
}

/** From where a subscription starts. */
export type WireStart =
  | { readonly kind: "live" }
  | { readonly kind: "after"; readonly position: WirePosition }
  | { readonly kind: "attach" };

export interface WireSubscribe {
  readonly channel: string;
  readonly start: WireStart;
}

/** Which part of a history a page shows. */
export type WireRange =
  | { readonly kind: "newest" }
  | { readonly kind: "before"; readonly offset: bigint }
  | { readonly kind: "after"; readonly offset: bigint };

/** What a client asks. */
export type ClientBody =
  | {
      readonly kind: "hello";
      readonly versionMin: number;
      readonly versionMax: number;
      readonly features: bigint;
      readonly token: string;
      readonly agent: string;
      readonly subscriptions: readonly WireSubscribe[];
    }
  | { readonly kind: "subscribe"; readonly subscribe: WireSubscribe }
  | { readonly kind: "unsubscribe"; readonly channel: bigint }
  | {
      readonly kind: "publish";
      readonly channel: bigint;
      readonly producer: bigint;
      readonly sequence: bigint;
      readonly body: Uint8Array;
    }
  | { readonly kind: "history"; readonly channel: bigint; readonly messagesMax: number; readonly range: WireRange }
  | { readonly kind: "refresh"; readonly token: string }
  | { readonly kind: "pong" }
  | { readonly kind: "markRead"; readonly channel: bigint; readonly position: WirePosition };

/** A frame from a client; `request` is echoed in the reply. */
export interface ClientFrame {
  readonly request: number;
  readonly body: ClientBody;
}

/** What is kept of a channel's messages, and when they are delivered. */
export type HistoryClass = "durable" | "windowed" | "none";

/** What became of the position that a resuming client showed. */
export type Recovery =
  | { readonly kind: "none" }
  | { readonly kind: "whole" }
  | { readonly kind: "reload"; readonly code: number };

export interface WireWelcome {
  readonly kind: "welcome";
  readonly version: number;
  readonly heartbeatMs: number;
  readonly features: bigint;
  /** 16 bytes. */
  readonly session: Uint8Array;
  readonly tokenExpiresMs: bigint;
  readonly payloadBytesMax: number;
  readonly subscriptionsMax: number;
  readonly node: string;
}

export interface WireSubscribed {
  readonly kind: "subscribed";
  readonly name: string;
  readonly channel: bigint;
  readonly position: WirePosition;
  readonly history: HistoryClass;
  readonly canPublish: boolean;
  readonly recovery: Recovery;
}

export interface WirePublished {
  readonly kind: "published";
  readonly channel: bigint;
  readonly producer: bigint;
  readonly sequence: bigint;
  readonly position: WirePosition;
  readonly duplicate: boolean;
}

export interface WireMessage {
  readonly channel: bigint;
  readonly position: WirePosition;
  readonly timeMs: bigint;
  readonly user: string;
  readonly producer: bigint;
  readonly sequence: bigint;
  /** Borrowed from the bytes of the frame. */
  readonly body: Uint8Array;
}

/** What a node says. */
export type ServerBody =
  | WireWelcome
  | WireSubscribed
  | { readonly kind: "unsubscribed"; readonly channel: bigint; readonly code: number; readonly reason: string }
  | WirePublished
  | { readonly kind: "message"; readonly message: WireMessage }
  | {
      readonly kind: "page";
      readonly channel: bigint;
      readonly messages: readonly WireMessage[];
      readonly more: boolean;
    }
  | { readonly kind: "refreshed"; readonly tokenExpiresMs: bigint }
  | {
      readonly kind: "error";
      readonly code: number;
      readonly message: string;
      readonly retryAfterMs: number;
      readonly channel: string;
    }
  | { readonly kind: "ping" }
  | { readonly kind: "goAway"; readonly code: number; readonly afterMs: number; readonly endpoints: readonly string[] }
  | { readonly kind: "skipped"; readonly channel: bigint; readonly first: WirePosition; readonly last: WirePosition }
  | { readonly kind: "read"; readonly channel: bigint; readonly position: WirePosition }
  /** A member, or a value inside one, that this version does not know. */
  | { readonly kind: "unknown" };

/** A frame from a node; `request` names the request that it answers, 0 for none. */
export interface ServerFrame {
  readonly request: number;
  readonly body: ServerBody;
}
