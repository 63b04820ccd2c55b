// Where a client connects: URLs as people write them, which of them are two ways to one node, and which is next.

import { MillraceError } from "../error.js";

/** Where a node takes connections. */
const PATH = "/v1/connect";

const bad = (message: string): MillraceError => new MillraceError("url", message);

/**
 * A URL as the transport gets it: with a path, without a fragment.
 *
 * @throws {MillraceError} `url` if it cannot be used.
 */
export function parseEndpoint(url: string): string {
  const scheme = /^([^:/?#]*):\/\//.exec(url)?.[1]?.toLowerCase();
  if (scheme === undefined) throw bad(`${JSON.stringify(url)} has no scheme; write ws://host:port or wss://host`);
  if (scheme !== "ws" && scheme !== "wss" && scheme !== "https") {
    throw bad(`${scheme}:// is no scheme for this connection; use ws://, wss:// or https://`);
  }
  let parsed: URL;
  try {
    parsed = new URL(url);
  } catch (cause) {
    throw new MillraceError("url", `${JSON.stringify(url)} is no URL`, { cause });
  }
  if (parsed.username !== "" || parsed.password !== "") throw bad("a URL must not carry credentials; use a token");
  if (parsed.hostname === "" || parsed.port === "0") throw bad(`${JSON.stringify(url)} names no host and port`);
  const path = parsed.pathname === "/" ? PATH : parsed.pathname;
  return `${parsed.protocol}//${parsed.host}${path}${parsed.search}`;
}

/** Where to connect, and how else. */
export interface Places {
  /** URLs of WebSockets. */
  readonly endpoints: readonly string[];
  /** URLs of WebTransport to the same nodes, by those. */
  readonly beside: ReadonlyMap<string, string>;
}

/**
 * Finds which URLs are two ways to one node: one of WebTransport, and the first WebSocket's of the same host. Beside an `https` URL
 * without one stands the WebSocket that a node has on the port of the same number. No way leads out of TLS, but on this machine.
 *
 * @param urls Each as `parseEndpoint` gives it.
 */
export function places(urls: readonly string[]): Places {
  const beside = new Map<string, string>();
  const hostOf = (url: string) => new URL(url).hostname;
  const isWeb = (url: string) => url.startsWith("https:");
  const endpoints = urls.filter((url) => !isWeb(url));
  for (const web of urls.filter(isWeb)) {
    const host = hostOf(web);
    const isHere = /^(localhost|127\.[\d.]+|\[::1\])$/.test(host);
    const fits = (url: string) => hostOf(url) === host && (isHere || url.startsWith("wss:"));
    let partner = endpoints.find((url) => fits(url) && !beside.has(url));
    if (partner === undefined) {
      partner = web.replace("https:", "wss:");
      if (!endpoints.includes(partner)) endpoints.push(partner);
    }
    beside.set(partner, web);
  }
  return { endpoints, beside };
}

/** The URLs of a deployment, in the order in which they are tried. */
export class Endpoints {
  /** From a node that goes away; tried once each, before the others. */
  private advised: string[] = [];
  /** The last that worked. */
  private preferred: string | undefined;
  private last: string;
  private index = 0;

  /** Of those that a node advised. */
  private advisedBeside: ReadonlyMap<string, string> = new Map();

  /** At least one URL of a WebSocket, each as `parseEndpoint` gives it; and what `places` found beside them. */
  constructor(
    private readonly configured: readonly [string, ...string[]],
    private readonly beside: ReadonlyMap<string, string> = new Map(),
  ) {
    this.last = configured[0];
  }

  /** The URL of WebTransport to the same node, if one is known. */
  besideOf(endpoint: string): string | undefined {
    return this.advisedBeside.get(endpoint) ?? this.beside.get(endpoint);
  }

  /** The one to try now; each call names the next. */
  next(): string {
    this.last = this.advised.pop() ?? this.takePreferred() ?? this.takeConfigured();
    return this.last;
  }

  /** The one named last has worked: it is tried first again. */
  worked(): void {
    this.advised = [];
    this.preferred = this.last;
  }

  /**
   * Takes a node's word on where to go, beginning at a place that spreads its clients. A bare `host:port` is of the same
   * scheme. What cannot be used is left out, and so is a way out of TLS.
   */
  advise(endpoints: readonly string[], spread: number): void {
    const scheme = this.last.slice(0, this.last.indexOf(":"));
    const usable: string[] = [];
    for (const endpoint of endpoints) {
      try {
        const url = parseEndpoint(endpoint.includes("://") ? endpoint : `${scheme}://${endpoint}`);
        if (scheme === "ws" || !url.startsWith("ws:")) usable.push(url);
      } catch {
        // A node of a later version may name a transport that this one does not have.
      }
    }
    const { endpoints: found, beside } = places(usable);
    const turn = found.length > 0 ? spread % found.length : 0;
    this.advised = [...found.slice(turn), ...found.slice(0, turn)];
    this.advisedBeside = beside;
  }

  private takePreferred(): string | undefined {
    const preferred = this.preferred;
    this.preferred = undefined;
    return preferred;
  }

  private takeConfigured(): string {
    const index = this.index % this.configured.length;
    this.index = index + 1;
    return this.configured[index] ?? this.configured[0];
  }
}
