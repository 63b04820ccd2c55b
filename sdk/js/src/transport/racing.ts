// WebTransport and WebSocket to the same node: whichever is open first carries the session. Neither has been told the token before.

import type { Surroundings } from "../surroundings.js";
import type { Connection, End, Transport, TransportEvents } from "../transport.js";
import type { OptionalTransport } from "./webtransport.js";

/** How long WebTransport is alone: what its handshake takes to most of the world. */
const HEAD_START_MS = 150;
/** How long one goes on alone after the other has failed: whatever made that fail may be what it waits for. */
const GRACE_MS = 1_000;
/** How long a WebTransport that was beaten waits before it goes first again. */
const REST_MS = 5 * 60_000;

/** A transport that takes WebTransport where a node and the platform have it and the network lets it through. */
export function racing(
  webSocket: Transport,
  webTransport: OptionalTransport,
  surroundings: Pick<Surroundings, "now" | "after">,
): Transport {
  /** Until when it rests, by its URL. */
  const rests = new Map<string, number>();
  return {
    open(url, events, beside) {
      if (beside === undefined || !webTransport.isAvailable()) return webSocket.open(url, events);
      const isResting = (rests.get(beside) ?? 0) > surroundings.now();
      const web: Way = { open: (events) => webTransport.open(beside, events) };
      const socket: Way = { open: (events) => webSocket.open(url, events) };
      const won = (way: Way) => {
        if (way === web) rests.delete(beside);
        else if (!isResting) rests.set(beside, surroundings.now() + REST_MS);
      };
      const race = new Race(isResting ? [socket, web] : [web, socket], events, surroundings, won);
      // One that rests stands in if the other fails, and does not race.
      race.start(isResting ? undefined : HEAD_START_MS);
      return race;
    },
  };
}

interface Way {
  open(events: TransportEvents): Connection;
}

class Race implements Connection {
  private readonly running = new Map<Way, Connection | undefined>();
  private winner: Connection | undefined;
  private isOver = false;
  private cancel = () => {};

  constructor(
    private readonly waiting: Way[],
    private readonly events: TransportEvents,
    private readonly surroundings: Pick<Surroundings, "after">,
    private readonly won: (way: Way) => void,
  ) {}

  get bufferedBytes(): number {
    return this.winner?.bufferedBytes ?? 0;
  }

  /** Starts the first, and the second so much later unless it is needed before; without a time, only if it is needed. */
  start(headStartMs: number | undefined): void {
    if (headStartMs !== undefined) this.cancel = this.surroundings.after(headStartMs, () => this.next());
    this.next();
  }

  /** Starts who is next, if anybody is. */
  private next(): void {
    const way = this.waiting.shift();
    if (way === undefined || this.isOver || this.winner !== undefined) return;
    this.running.set(way, undefined);
    const isRunning = () => !this.isOver && this.running.has(way);
    let hasWon = false;
    const connection = way.open({
      opened: () => {
        if (!isRunning()) return;
        hasWon = true;
        this.cancel();
        this.won(way);
        this.winner = this.running.get(way);
        for (const [other, loser] of this.running) if (other !== way) loser?.close();
        this.running.clear();
        this.running.set(way, this.winner);
        this.events.opened();
      },
      frame: (bytes) => {
        if (isRunning()) this.events.frame(bytes);
      },
      closed: (end) => {
        if (!isRunning()) return;
        this.running.delete(way);
        if (hasWon) this.end(end);
        else this.lost(end);
      },
    });
    // Neither kind tells anything before it is here.
    this.running.set(way, connection);
  }

  send(frame: Uint8Array<ArrayBuffer>): void {
    this.winner?.send(frame);
  }

  close(): void {
    this.isOver = true;
    this.cancel();
    for (const connection of this.running.values()) connection?.close();
    this.running.clear();
  }

  /** One could not be opened: the other one at once, and if there is none, that was it. */
  private lost(end: End): void {
    this.cancel();
    if (this.waiting.length > 0) this.next();
    else if (this.running.size === 0) this.end(end);
    else this.cancel = this.surroundings.after(GRACE_MS, () => this.end(end));
  }

  private end(end: End): void {
    this.close();
    this.events.closed(end);
  }
}
