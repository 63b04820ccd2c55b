// What carries frames: one connection at a time, opened and closed by the client.

/** How a connection ended. */
export interface End {
  /** A close code of the protocol or of RFC 6455; without one, 1006. */
  readonly code: number;
  /** For a person. */
  readonly reason: string;
  /** It could not be opened and never can be, such as without a WebSocket in the platform: the client gives up. */
  readonly isFinal?: boolean;
}

/** Told by a {@link Connection} to its client. */
export interface TransportEvents {
  /** Frames can be sent. */
  opened(): void;
  /** One whole frame. The bytes are the client's from here on. */
  frame(bytes: Uint8Array): void;
  /** It ended, or could not be opened; nothing follows. */
  closed(end: End): void;
}

/** A connection that is open, or on its way there. */
export interface Connection {
  /** Bytes given to `send` that did not leave yet. The client sends no more while there are many. */
  readonly bufferedBytes: number;
  /** Sends one frame. */
  send(frame: Uint8Array<ArrayBuffer>): void;
  /** Closes it; nothing is told after this. */
  close(): void;
}

/** A way to carry frames. {@link webSocket} is the one that every node offers. */
export interface Transport {
  /**
   * Opens a connection to a URL of the client's options, or that a node named.
   *
   * @param beside The URL of WebTransport to the same node, if one is known.
   */
  open(url: string, events: TransportEvents, beside?: string): Connection;
}
