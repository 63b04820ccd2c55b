// A connection by the `ws` library whose events are read in order, with a back door to the bare socket.

import WebSocket from "ws";

import { Failure, Inbox, equal } from "./suite.mjs";

export class Peer {
  #inbox = new Inbox();

  constructor(url, protocols = [], options = {}) {
    this.socket = new WebSocket(url, protocols, { handshakeTimeout: 10_000, ...options });
    this.socket.on("open", () => this.#inbox.push({ kind: "open" }));
    this.socket.on("message", (data, binary) => this.#inbox.push({ kind: binary ? "binary" : "text", data }));
    this.socket.on("pong", (data) => this.#inbox.push({ kind: "pong", data }));
    this.socket.on("close", (code, reason) => this.#inbox.push({ kind: "close", code, reason: reason.toString() }));
    // What the library finds wrong with the server. A broken pipe while we send on after the server has hung up is not that.
    this.socket.on("error", (error) => {
      if (!["EPIPE", "ECONNRESET"].includes(error.code)) this.#inbox.push({ kind: "error", error });
    });
  }

  static async open(url, protocols, options) {
    const peer = new Peer(url, protocols, options);
    await peer.expect("open");
    return peer;
  }

  async next(seconds) {
    const event = await this.#inbox.next("event", seconds);
    if (event.kind === "error") throw new Failure(`the library finds fault: ${event.error.message}`);
    return event;
  }

  async expect(kind, data) {
    const event = await this.next();
    equal(event.kind, kind, `event (close code ${event.code})`);
    if (data !== undefined) equal(event.data, data, "payload");
    return event;
  }

  async expectClose(code, seconds) {
    const event = await this.next(seconds);
    equal(event.kind, "close", "event");
    equal(event.code, code, "close code");
    return event;
  }

  /** Bytes on the wire as they are. The library has no public way to send what is wrong. */
  write(bytes) {
    this.socket._socket.write(bytes);
  }

  async close(code = 1000) {
    this.socket.close(code);
    await this.expectClose(code);
  }

  async use(run) {
    try {
      return await run(this);
    } finally {
      this.socket.terminate();
    }
  }
}
