// Frames on a byte stream, one behind another: each tells its own length.

import { SERVER_FRAME_BYTES_MAX } from "../wire/frames.js";
import { FrameError } from "../wire/segment.js";

/** Bytes of the table in front of a frame's one segment. */
const TABLE_BYTES = 8;

/** Finds the frames in the chunks of a stream. */
export class FrameReader {
  /** What has come and is in no frame that was given. */
  private rest: Uint8Array = new Uint8Array(0);
  /** Chunks behind it, and how long they are with it: joined once there is enough for a frame. */
  private later: Uint8Array[] = [];
  private bytes = 0;

  /** Whether the stream stands between two frames. */
  get isBetween(): boolean {
    return this.bytes === 0;
  }

  /** Adds what came next. */
  push(chunk: Uint8Array): void {
    if (this.rest.length === 0) this.rest = chunk;
    else this.later.push(chunk);
    this.bytes += chunk.length;
  }

  /**
   * The next whole frame, in bytes of its own; `undefined` if more has to come.
   *
   * @throws {FrameError} if the stream holds something else.
   */
  next(): Uint8Array | undefined {
    if (this.bytes < TABLE_BYTES) return undefined;
    if (this.rest.length < TABLE_BYTES) this.join();
    const table = new DataView(this.rest.buffer, this.rest.byteOffset, TABLE_BYTES);
    const words = table.getUint32(4, true);
    if (table.getUint32(0, true) !== 0 || words === 0) throw new FrameError(4000, "the stream holds no frame");
    const length = TABLE_BYTES + words * 8;
    if (length > SERVER_FRAME_BYTES_MAX) throw new FrameError(4003, `a frame of ${length} bytes`);
    if (this.bytes < length) return undefined;
    if (this.rest.length < length) this.join();
    const frame = this.rest.slice(0, length);
    this.rest = this.rest.subarray(length);
    this.bytes -= length;
    if (this.rest.length === 0 && this.later.length > 0) this.join();
    return frame;
  }

  private join(): void {
    const joined = new Uint8Array(this.bytes);
    let at = 0;
    for (const part of [this.rest, ...this.later]) {
      joined.set(part, at);
      at += part.length;
    }
    this.rest = joined;
    this.later = [];
  }
}
