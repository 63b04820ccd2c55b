// A client over a model of a node, with a clock that only moves when a test says so.

import { Millrace, type MillraceOptions } from "../../src/millrace.js";
import type { Surroundings } from "../../src/surroundings.js";
import type { Connection, Transport, TransportEvents } from "../../src/transport.js";
import { ModelNode, TOKEN } from "./model.js";

/** Lets everything that is ready happen. */
export const settle = () => new Promise<void>((resolve) => setImmediate(resolve));

interface Link {
  events: TransportEvents;
  isOpen: boolean;
  url: string;
}

export class World implements Transport, Surroundings {
  readonly node = new ModelNode(5n);
  readonly urls: string[] = [];
  /** Frames stay in the connection. */
  isStalled = false;
  /** Connections are refused. */
  isDown = false;
  isWatched = false;
  private link: Link | undefined;
  private stalled: Uint8Array[] = [];
  private time = 1_000;
  private unix = 1_700_000_000_000;
  private timers = new Map<number, { at: number; then: () => void }>();
  private timerCount = 0;
  private woken = () => {};

  client(options: Partial<MillraceOptions> = {}): Millrace {
    const given = { url: "ws://model", token: TOKEN, transport: this, ...options };
    return new Millrace({ ...given, surroundings: this } as MillraceOptions);
  }

  // The platform.

  now = () => this.time;
  unixMs = () => this.unix;
  seed = () => 3n;

  after(ms: number, then: () => void): () => void {
    this.timerCount += 1;
    const id = this.timerCount;
    this.timers.set(id, { at: this.time + Math.max(0, ms), then });
    return () => this.timers.delete(id);
  }

  watch(woken: () => void): () => void {
    this.isWatched = true;
    this.woken = woken;
    return () => {
      this.isWatched = false;
    };
  }

  /** News of the network or of the page. */
  wake(): void {
    this.woken();
  }

  get timersLeft(): number {
    return this.timers.size;
  }

  /** Time passes, and what is due happens. */
  async pass(ms: number): Promise<void> {
    const until = this.time + ms;
    for (;;) {
      await this.flow();
      const due = [...this.timers].filter(([, { at }]) => at <= until).sort(([, a], [, b]) => a.at - b.at)[0];
      if (due === undefined) break;
      const [id, { at, then }] = due;
      this.timers.delete(id);
      this.unix += Math.max(0, at - this.time);
      this.time = Math.max(this.time, at);
      then();
    }
    this.unix += until - this.time;
    this.time = until;
    await this.flow();
  }

  /** The machine sleeps: the clock on the wall goes on, the steady one stands still. */
  sleep(ms: number): void {
    this.unix += ms;
  }

  // The network.

  open(url: string, events: TransportEvents): Connection {
    this.urls.push(url);
    const link: Link = { events, isOpen: false, url };
    this.link = link;
    queueMicrotask(() => {
      if (this.link !== link) return;
      if (this.isDown) return this.cut(1006, "nobody there");
      link.isOpen = true;
      this.node.accept();
      events.opened();
    });
    const stalled = this.stalled;
    return {
      get bufferedBytes() {
        return stalled.reduce((total, frame) => total + frame.length, 0);
      },
      send: (frame) => {
        this.stalled.push(frame);
      },
      close: () => {
        if (this.link === link) this.drop();
      },
    };
  }

  get isConnected(): boolean {
    return this.link?.isOpen === true;
  }

  /** The connection ends. */
  cut(code = 1006, reason = ""): void {
    const { link } = this;
    this.drop();
    link?.events.closed({ code, reason });
  }

  /** Frames go both ways until none is left. */
  async flow(): Promise<void> {
    for (let round = 0; round < 50; round++) {
      await settle();
      if (this.link === undefined || !this.link.isOpen) continue;
      if (!this.isStalled) for (const frame of this.stalled.splice(0)) this.node.receive(frame);
      for (const frame of this.node.out.splice(0)) this.link?.events.frame(frame);
      const { closing } = this.node;
      if (closing === undefined) continue;
      this.node.closing = undefined;
      this.cut(closing);
    }
  }

  private drop(): void {
    this.link = undefined;
    this.stalled.splice(0);
    this.node.session.clear();
  }
}
