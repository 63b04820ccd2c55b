// Frames in WebSocket messages.

import type { Connection, End, Transport, TransportEvents } from "../transport.js";
import { SUBPROTOCOL } from "../wire/frames.js";

/** The part of a WebSocket that is used: what browsers, Node 22 and npm's `ws` have in common. */
export interface WebSocketLike {
  binaryType: string;
  readonly bufferedAmount: number;
  readonly readyState: number;
  readonly protocol: string;
  onopen: ((event: never) => void) | null;
  onmessage: ((event: never) => void) | null;
  onerror: ((event: never) => void) | null;
  onclose: ((event: never) => void) | null;
  send(data: Uint8Array<ArrayBuffer>): void;
  close(code?: number, reason?: string): void;
}

/** Constructs a {@link WebSocketLike}. */
export type WebSocketConstructor = new (url: string, protocols: string[]) => WebSocketLike;

/** `WebSocket.OPEN`, without asking for the global. */
const OPEN = 1;
/** The client's own word for a normal end. */
const NORMAL = 1000;
const ABNORMAL = 1006;

/**
 * A transport over a WebSocket implementation.
 *
 * @param find Gives the constructor when the first connection is opened, so that nothing global is touched before.
 */
export function webSocket(find: () => WebSocketConstructor | Promise<WebSocketConstructor>): Transport {
  return {
    open(url, events) {
      const connection = new WebSocketConnection(events);
      void connection.open(url, find);
      return connection;
    },
  };
}

class WebSocketConnection implements Connection {
  private socket: WebSocketLike | undefined;
  private isOver = false;
  private reason = "";

  constructor(private readonly events: TransportEvents) {}

  get bufferedBytes(): number {
    return this.socket?.bufferedAmount ?? 0;
  }

  async open(url: string, find: () => WebSocketConstructor | Promise<WebSocketConstructor>): Promise<void> {
    let Constructor: WebSocketConstructor;
    try {
      Constructor = await find();
    } catch (error) {
      return this.end({ code: ABNORMAL, reason: reasonOf(error), isFinal: true });
    }
    if (this.isOver) return;
    let socket: WebSocketLike;
    try {
      socket = new Constructor(url, [SUBPROTOCOL]);
    } catch (error) {
      return this.end({ code: ABNORMAL, reason: reasonOf(error) });
    }
    this.socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      if (this.isOver) return;
      if (socket.protocol === SUBPROTOCOL) this.events.opened();
      else this.fail(`the server does not speak ${SUBPROTOCOL}`);
    };
    socket.onmessage = ({ data }: { data: unknown }) => {
      if (this.isOver) return;
      if (data instanceof ArrayBuffer) this.events.frame(new Uint8Array(data));
      else this.fail("the server sent a text message");
    };
    socket.onerror = (event: { message?: unknown }) => {
      // Browsers tell nothing here, so that a page cannot explore its network.
      if (typeof event.message === "string") this.reason = event.message;
    };
    socket.onclose = ({ code, reason }: { code: number; reason: string }) => {
      this.end({ code, reason: reason || this.reason });
    };
  }

  send(frame: Uint8Array<ArrayBuffer>): void {
    // One that is closing takes nothing any more, and browsers complain in the page's log; its end is told next.
    if (!this.isOver && this.socket?.readyState === OPEN) this.socket.send(frame);
  }

  close(): void {
    this.isOver = true;
    this.socket?.close(NORMAL);
  }

  /** Ends it from our side, and tells. */
  private fail(reason: string): void {
    this.socket?.close(NORMAL);
    this.end({ code: ABNORMAL, reason });
  }

  private end(end: End): void {
    if (this.isOver) return;
    this.isOver = true;
    this.events.closed(end);
  }
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
