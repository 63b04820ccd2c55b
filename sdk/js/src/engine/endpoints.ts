// Where a client connects: URLs as people write them, and which of several is next.

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
  if (scheme !== "ws" && scheme !== "wss") {
    throw bad(`${scheme}:// is no scheme for this connection; use ws:// or wss://`);
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

/** The URLs of a deployment, in the order in which they are tried. */
export class Endpoints {
  /** From a node that goes away; tried once each, before the others. */
  private advised: string[] = [];
  /** The last that worked. */
  private preferred: string | undefined;
  private last: string;
  private index = 0;

  /** At least one URL, each as `parseEndpoint` gives it. */
  constructor(private readonly configured: readonly [string, ...string[]]) {
    this.last = configured[0];
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
        if (scheme === "ws" || url.startsWith("wss:")) usable.push(url);
      } catch {
        // A node of a later version may name a transport that this one does not have.
      }
    }
    const turn = usable.length > 0 ? spread % usable.length : 0;
    this.advised = [...usable.slice(turn), ...usable.slice(0, turn)];
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
