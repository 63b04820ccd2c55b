// The entry for Node: the same as for browsers, but that a WebSocket comes from npm's `ws` where Node has none of its own
// (before version 22).

import { Millrace as BrowserMillrace, type MillraceOptions } from "./millrace.js";
import { type WebSocketConstructor, webSocket } from "./transport/websocket.js";
import { SERVER_FRAME_BYTES_MAX } from "./wire/frames.js";

export * from "./index.js";

async function nodeWebSocket(): Promise<WebSocketConstructor> {
  const { WebSocket: found } = globalThis as { WebSocket?: WebSocketConstructor };
  if (found !== undefined) return found;
  try {
    const { WebSocket } = await import("ws");
    class BoundedWebSocket extends WebSocket {
      constructor(url: string, protocols: string[]) {
        super(url, protocols, { maxPayload: SERVER_FRAME_BYTES_MAX, perMessageDeflate: false });
      }
    }
    return BoundedWebSocket as unknown as WebSocketConstructor;
  } catch (cause) {
    throw new Error("Node before version 22 has no WebSocket: install the package ws", { cause });
  }
}

export class Millrace extends BrowserMillrace {
  static {
    // A bundler gives another name to the second class of one name, and Node prints that.
    Object.defineProperty(Millrace, "name", { value: "Millrace" });
  }

  constructor(options: MillraceOptions) {
    super({ transport: webSocket(nodeWebSocket), ...options });
  }
}
