// The client: where to, who as, and within which limits.

import { Channel, type SubscribeOptions } from "./channel.js";
import { parseEndpoint, places } from "./engine/endpoints.js";
import { closed, MillraceError } from "./error.js";
import type { Listener } from "./listeners.js";
import { type ClientEvents, Shell, type TokenProvider } from "./shell.js";
import type { State } from "./state.js";
import { platform, type Surroundings } from "./surroundings.js";
import { racing } from "./transport/racing.js";
import { type WebSocketConstructor, webSocket } from "./transport/websocket.js";
import { type CertificateHashes, webTransport } from "./transport/webtransport.js";
import type { Transport } from "./transport.js";
import { VERSION as SDK_VERSION } from "./version.js";
import { AGENT_BYTES_MAX } from "./wire/frames.js";

/** Bounds of messages that wait: their number, and the bytes of their bodies. */
export interface QueueOptions {
  readonly messagesMax?: number;
  readonly bytesMax?: number;
}

/** Settings of a {@link Millrace}. All but `url` and `token` have defaults that suit an interactive application. */
export interface MillraceOptions {
  /**
   * The node, such as `wss://chat.example`; several of one deployment are tried in turn. The path is `/v1/connect` unless the
   * URL has one. `https://chat.example` is WebTransport where the browser has it and UDP gets through, and else the WebSocket of
   * the same host: the one in the list, or the one on the same port. A list may be what `GET /v1/endpoints` gives: `quic` URLs
   * are left out.
   */
  readonly url: string | readonly string[];
  /**
   * Certificates that WebTransport takes by their hash, of nodes whose authority the browser does not trust: `certificate_hashes`
   * of `GET /v1/endpoints`, or a function that asks for them, as they change every day.
   */
  readonly certificateHashes?: CertificateHashes;
  /**
   * An access token, or better a function that gets one from your server: it is asked before the first connection, when three
   * quarters of a token's time are over, and when a node refuses the last one. A fixed token ends the client when it expires.
   */
  readonly token: string | TokenProvider;
  /** Name and version of the application, for the operator's eyes; cut at 128 bytes. */
  readonly agent?: string;
  /** What may wait for the application in each subscription. Default: 1,024 messages and 1 MiB, exceeded by at most one page of
   * history. */
  readonly queue?: QueueOptions;
  /** What may be on its way in each channel. Default: 256 messages and 4 MiB. */
  readonly window?: QueueOptions;
  /** What may wait, in each channel, for room in the window, such as while there is no connection. Default: 1,024 messages and
   * 4 MiB. */
  readonly waiting?: QueueOptions;
  /** Waits between tries to connect are drawn evenly from zero to a ceiling, which begins at `firstMs` and doubles up to
   * `maxMs`. Default: 250 and 30,000. */
  readonly backoff?: { readonly firstMs?: number; readonly maxMs?: number };
  /** How long a try to connect may take, from the first packet to the node's welcome. Default: 10,000. */
  readonly connectTimeoutMs?: number;
  /** How long a request may take, over reconnects; a connection on which one is unanswered for so long is given up. Default:
   * 30,000. */
  readonly requestTimeoutMs?: number;
  /** How long a message may be on its way, over reconnects; `null` waits for ever. Default: 120,000. */
  readonly sendTimeoutMs?: number | null;
  /** How long `close` waits for receipts. Default: 5,000. */
  readonly closeTimeoutMs?: number;
  /** What carries frames, if not the platform's WebSocket and WebTransport. */
  readonly transport?: Transport;
}

/** Settings of {@link Millrace.connect}. */
export interface ConnectOptions {
  /** Close the client if the first try fails, at each URL, instead of trying on: for a person who waits. A node that asks for another
   * try gets it, within the request timeout. */
  readonly failFast?: boolean | undefined;
  /** Ends the wait, not the client. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * A client: one connection that comes back by itself, and the channels on it.
 *
 * ```ts
 * const client = new Millrace({ url: "wss://chat.example", token: async () => (await fetch("/token")).text() });
 * const general = await client.channel("general").subscribe();
 * await general.send("hi"); // stored, once
 * for await (const message of general) console.log(message.user, message.text);
 * ```
 *
 * It connects when something is first asked of it; making one touches nothing, on a server as well.
 */
export class Millrace {
  private readonly shell: Shell;
  private readonly config: { failFast: boolean };

  /** @throws {MillraceError} `url` if a URL cannot be used. */
  constructor(options: MillraceOptions) {
    const { url, token, transport, window, waiting } = options;
    // A list may be what `GET /v1/endpoints` gives, with ways that only other SDKs go.
    const urls = typeof url === "string" ? [url] : url.filter((url) => !/^quic:/i.test(url));
    const { endpoints, beside } = places(urls.map(parseEndpoint));
    const [first, ...more] = endpoints;
    if (first === undefined) throw new MillraceError("url", "there is no URL");
    const bounds = (given: QueueOptions | undefined, messagesMax: number, bytesMax: number) => ({
      messagesMax: atLeast(1, given?.messagesMax ?? messagesMax),
      bytesMax: atLeast(1, given?.bytesMax ?? bytesMax),
    });
    const sendTimeoutMs = options.sendTimeoutMs === undefined ? 120_000 : options.sendTimeoutMs;
    const config = {
      agent: cut(options.agent ?? `millrace-js/${SDK_VERSION}`),
      endpoints: [first, ...more] as const,
      beside,
      tokensRenew: typeof token !== "string",
      failFast: false,
      queue: bounds(options.queue, 1_024, 1 << 20),
      backoff: {
        firstMs: atLeast(0, options.backoff?.firstMs ?? 250),
        maxMs: atLeast(0, options.backoff?.maxMs ?? 30_000),
      },
      connectTimeoutMs: atLeast(1, options.connectTimeoutMs ?? 10_000),
      requestTimeoutMs: atLeast(1, options.requestTimeoutMs ?? 30_000),
      sendTimeoutMs: sendTimeoutMs === null ? undefined : atLeast(1, sendTimeoutMs),
      closeTimeoutMs: atLeast(0, options.closeTimeoutMs ?? 5_000),
    };
    this.config = config;
    const surroundings = (options as { surroundings?: Surroundings }).surroundings ?? platform;
    this.shell = new Shell({
      config,
      window: bounds(window, 256, 4 << 20),
      waiting: bounds(waiting, 1_024, 4 << 20),
      token: typeof token === "string" ? () => token : token,
      transport: transport ?? racing(webSocket(globalWebSocket), webTransport(options.certificateHashes), surroundings),
      surroundings,
    });
  }

  /** The user as whom the client connected last, as its token says; `undefined` before. */
  get user(): string | undefined {
    return this.shell.user;
  }

  /** Largest message body that a node takes, in bytes, as the last one said; `undefined` before there was one. */
  get payloadBytesMax(): number | undefined {
    return this.shell.payloadBytesMax;
  }

  /** What the connection does now. */
  get state(): State {
    return this.shell.state;
  }

  /** Adds a listener; returns what removes it. */
  on<Type extends keyof ClientEvents>(type: Type, listener: Listener<ClientEvents[Type]>): () => void {
    return this.shell.listeners.add(type, listener);
  }

  /**
   * Connects, and resolves when a node has welcomed the client. There is no need to: whatever needs a connection asks for one.
   *
   * @throws {MillraceError} what closed the client.
   */
  connect({ failFast = false, signal }: ConnectOptions = {}): Promise<void> {
    return new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      if (failFast) this.config.failFast = true;
      let stop = () => {};
      const abort = () => {
        stop();
        reject(signal?.reason);
      };
      const look = (state: State): boolean => {
        if (state.kind !== "connected" && state.kind !== "closed") return false;
        stop();
        signal?.removeEventListener("abort", abort);
        if (state.kind === "connected") resolve();
        else reject(state.error ?? closed());
        return true;
      };
      if (look(this.state)) return;
      stop = this.on("state", look);
      signal?.addEventListener("abort", abort, { once: true });
      this.shell.start();
    });
  }

  /**
   * A handle of a channel; nothing is asked of the node yet. Several handles of one channel share the order of what they send;
   * one of them can be subscribed.
   *
   * @throws {MillraceError} `name` if it can be no channel's: 1 to 128 bytes of letters, digits and `-_.:@~`.
   */
  channel(name: string): Channel {
    return new Channel(this.shell, name);
  }

  /** Reads a channel: `client.channel(name).subscribe(options)`. */
  async subscribe(name: string, options?: SubscribeOptions): Promise<Channel> {
    return this.channel(name).subscribe(options);
  }

  /**
   * Closes the client: no more calls are taken, what is on its way gets its end within the close timeout, and every
   * subscription ends. Closing a closed client does nothing.
   *
   * @param options.signal Waits no longer: what is on its way is given up, and the client closes at once.
   * @throws {MillraceError} what ended the client, if it was not this call; `timed-out` if a message was not acknowledged in
   * time.
   */
  close(options: { readonly signal?: AbortSignal | undefined } = {}): Promise<void> {
    const { signal } = options;
    return new Promise((resolve, reject) => {
      let stop = () => {};
      const abort = () => {
        stop();
        reject(signal?.reason);
        this.shell.close(0);
      };
      const look = (state: State): void => {
        if (state.kind !== "closed") return;
        stop();
        if (state.error === undefined) resolve();
        else reject(state.error);
      };
      const unfollow = this.on("state", look);
      stop = () => {
        unfollow();
        signal?.removeEventListener("abort", abort);
      };
      if (this.state.kind === "closed") return look(this.state);
      if (signal?.aborted) return abort();
      signal?.addEventListener("abort", abort, { once: true });
      this.shell.close();
    });
  }
}

function globalWebSocket(): WebSocketConstructor {
  const { WebSocket: found } = globalThis as { WebSocket?: WebSocketConstructor };
  if (found === undefined) throw new Error("this platform has no WebSocket: give one with the option `transport`");
  return found;
}

function atLeast(least: number, value: number): number {
  if (Number.isNaN(value)) throw new RangeError("a limit is no number");
  return Math.max(least, value);
}

/** Cuts a text at the limit of an agent, between characters. */
function cut(agent: string): string {
  let kept = agent;
  while (new TextEncoder().encode(kept).length > AGENT_BYTES_MAX) kept = [...kept].slice(0, -1).join("");
  return kept;
}
