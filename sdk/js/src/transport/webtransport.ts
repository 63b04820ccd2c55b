// Frames on the streams of a WebTransport session: one that we open, and one of the node for each subscription.
//
// Streams are independent, so that loss on one holds back no other. Three things need an order all the same: nothing of a channel is
// told before the node's first word on our stream, which is its welcome; a stream belongs to the channel that its first frame, the
// answer to a subscription, names; and of several streams of one channel a later one is read when the earlier ones have ended. A stream
// that has to wait is not read: flow control bounds what it holds.

import type { Connection, End, Transport, TransportEvents } from "../transport.js";
import { decodeServer } from "../wire/decode.js";
import { FrameReader } from "./stream.js";

/** A certificate that is taken by its hash. */
export interface CertificateHash {
  /** `sha-256`, which is all that browsers know. */
  readonly algorithm: string;
  /** The hash of the certificate in DER, Base64. */
  readonly value: string;
}

/** Such certificates, or a function that finds out. */
export type CertificateHashes =
  | readonly CertificateHash[]
  | (() => readonly CertificateHash[] | Promise<readonly CertificateHash[]>);

/** The part of a browser's `WebTransport` that is used. */
export interface WebTransportLike {
  readonly ready: Promise<unknown>;
  readonly closed: Promise<{ readonly closeCode?: number; readonly reason?: string }>;
  readonly incomingUnidirectionalStreams: ReadableStream<ReadableStream<Uint8Array>>;
  createBidirectionalStream(): Promise<{
    readonly readable: ReadableStream<Uint8Array>;
    readonly writable: WritableStream<Uint8Array>;
  }>;
  close(info?: { closeCode?: number; reason?: string }): void;
}

/** Constructs a {@link WebTransportLike}. */
export type WebTransportConstructor = new (
  url: string,
  options?: { serverCertificateHashes?: { algorithm: string; value: Uint8Array<ArrayBuffer> }[] },
) => WebTransportLike;

/** A transport that a platform may be without. */
export interface OptionalTransport extends Transport {
  isAvailable(): boolean;
}

const ABNORMAL = 1006;
const NORMAL = 1000;

/** A transport over the platform's WebTransport, which is looked for when the first connection is opened. */
export function webTransport(
  hashes: CertificateHashes = [],
  find: () => WebTransportConstructor | undefined = globalWebTransport,
): OptionalTransport {
  return {
    isAvailable: () => find() !== undefined,
    open(url, events) {
      const connection = new WebTransportConnection(events);
      void connection.open(url, find, hashes);
      return connection;
    },
  };
}

class WebTransportConnection implements Connection {
  bufferedBytes = 0;
  private session: WebTransportLike | undefined;
  private writer: WritableStreamDefaultWriter<Uint8Array> | undefined;
  private isOver = false;
  /** Resolved by the node's first word. */
  private readonly greeted: Promise<void>;
  private greet = () => {};
  /** The last stream of each channel that has one: settled when it has ended. */
  private readonly turns = new Map<bigint, Promise<void>>();

  constructor(private readonly events: TransportEvents) {
    this.greeted = new Promise((resolve) => {
      this.greet = resolve;
    });
  }

  async open(url: string, find: () => WebTransportConstructor | undefined, hashes: CertificateHashes): Promise<void> {
    try {
      const taken = typeof hashes === "function" ? await hashes() : hashes;
      const Constructor = find();
      if (Constructor === undefined) throw new Error("this platform has no WebTransport");
      if (this.isOver) return;
      const session = new Constructor(url, taken.length === 0 ? {} : { serverCertificateHashes: taken.map(decoded) });
      this.session = session;
      session.closed.then(
        ({ closeCode, reason }) => this.end({ code: closeCode || NORMAL, reason: reason ?? "" }),
        (error: unknown) => this.end({ code: ABNORMAL, reason: reasonOf(error) }),
      );
      await session.ready;
      const control = await session.createBidirectionalStream();
      if (this.isOver) return;
      this.writer = control.writable.getWriter();
      // Said by `closed` as well.
      this.writer.closed.catch(() => {});
      this.watch(this.readControl(control.readable));
      this.watch(this.readStreams(session.incomingUnidirectionalStreams));
      this.events.opened();
    } catch (error) {
      this.fail(error);
    }
  }

  send(frame: Uint8Array<ArrayBuffer>): void {
    if (this.isOver || this.writer === undefined) return;
    const bytes = frame.length;
    this.bufferedBytes += bytes;
    this.writer.write(frame).then(
      () => {
        this.bufferedBytes -= bytes;
      },
      (error: unknown) => this.fail(error),
    );
  }

  close(): void {
    this.isOver = true;
    this.leave();
  }

  private async readControl(stream: ReadableStream<Uint8Array>): Promise<void> {
    await this.read(stream, (frame) => {
      this.events.frame(frame);
      this.greet();
    });
    if (!this.isOver) throw new Error("the node ended the control stream");
  }

  private async readStreams(streams: ReadableStream<ReadableStream<Uint8Array>>): Promise<void> {
    const reader = streams.getReader();
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      this.watch(this.readChannel(value));
    }
  }

  private async readChannel(stream: ReadableStream<Uint8Array>): Promise<void> {
    let channel: bigint | undefined;
    let leave = () => {};
    const turn = new Promise<void>((resolve) => {
      leave = resolve;
    });
    try {
      await this.read(stream, (frame) => {
        if (channel !== undefined) return this.events.frame(frame);
        const { body } = decodeServer(frame);
        if (body.kind !== "subscribed") throw new Error("a channel's stream begins with the answer to a subscription");
        const named = body.channel;
        channel = named;
        const before = this.turns.get(named);
        this.turns.set(named, turn);
        return this.greeted
          .then(() => before)
          .then(() => {
            if (!this.isOver) this.events.frame(frame);
          });
      });
    } finally {
      leave();
      if (channel !== undefined && this.turns.get(channel) === turn) this.turns.delete(channel);
    }
  }

  /** Reads a stream to its end, frame by frame. What `take` returns is waited for. */
  private async read(
    stream: ReadableStream<Uint8Array>,
    take: (frame: Uint8Array) => Promise<void> | void,
  ): Promise<void> {
    const reader = stream.getReader();
    const frames = new FrameReader();
    for (;;) {
      const { value, done } = await reader.read();
      if (this.isOver) return;
      if (done) break;
      frames.push(value);
      for (let frame = frames.next(); frame !== undefined; frame = frames.next()) {
        const waits = take(frame);
        if (waits !== undefined) await waits;
        if (this.isOver) return;
      }
    }
    if (!frames.isBetween) throw new Error("a stream ended within a frame");
  }

  private watch(reading: Promise<void>): void {
    reading.catch((error: unknown) => this.fail(error));
  }

  /**
   * Something went wrong with a stream. The session's own end says more about it, and comes at once where that is the cause; of a fault
   * of the node's the session knows nothing.
   */
  private fail(error: unknown): void {
    if (this.isOver) return;
    const end = () => {
      this.end({ code: ABNORMAL, reason: reasonOf(error) });
      this.leave();
    };
    const isSessions = (error as { source?: unknown } | null)?.source === "session";
    if (isSessions && this.session !== undefined) this.session.closed.then(end, end);
    else end();
  }

  private leave(): void {
    try {
      this.session?.close({ closeCode: 0, reason: "" });
    } catch {
      // It is closed already.
    }
  }

  private end(end: End): void {
    if (this.isOver) return;
    this.isOver = true;
    this.events.closed(end);
  }
}

function globalWebTransport(): WebTransportConstructor | undefined {
  return (globalThis as { WebTransport?: WebTransportConstructor }).WebTransport;
}

function decoded({ algorithm, value }: CertificateHash): { algorithm: string; value: Uint8Array<ArrayBuffer> } {
  return { algorithm, value: Uint8Array.from(atob(value), (char) => char.charCodeAt(0)) };
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
