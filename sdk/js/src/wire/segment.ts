// One Cap'n Proto message of exactly one segment: read in place, within the bounds that the protocol sets, and written into
// a buffer that grows. Knows nothing of what a message means.

/** Bytes of a segment table with one entry. */
const TABLE_BYTES = 8;
const WORD = 8;

/** Which code the peer would hear for bytes that are no frame: a fault of structure, a limit, or a value that cannot stand. */
export type FrameFault = 4000 | 4003 | 4004;

/** Why bytes are no frame of this protocol. */
export class FrameError extends Error {
  override readonly name = "FrameError";
  constructor(
    readonly code: FrameFault,
    message: string,
  ) {
    super(message);
  }
}

/** Thrown and caught inside the decoder: a member or value of a later version. */
export const UNKNOWN: unique symbol = Symbol("unknown");

const BAD_POINTER = "frame is not well formed";
const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function bad(message = BAD_POINTER): never {
  throw new FrameError(4000, message);
}

/** Refuses a size over its limit. */
export function limit(what: string, size: number, sizeMax: number): void {
  if (size > sizeMax) throw new FrameError(4003, `${what} has a size of ${size}, limit is ${sizeMax}`);
}

/** A number that must not be 0. */
export function positive(what: string, value: bigint): bigint {
  if (value === 0n) throw new FrameError(4004, `${what} is 0`);
  return value;
}

/**
 * A frame opened for reading. Each word of a well-formed frame is read at most once, so what may be read in all is the
 * length of the frame: pointers that overlap cannot make it look larger than it is.
 */
export class Reader {
  readonly view: DataView;
  private left: number;
  private readonly words: number;

  /**
   * @throws {FrameError} 4003 over `bytesMax`; 4000 unless the table announces one segment that is all of the rest.
   */
  constructor(
    readonly bytes: Uint8Array,
    bytesMax: number,
  ) {
    const length = bytes.byteLength;
    limit("frame", length, bytesMax);
    this.view = new DataView(bytes.buffer, bytes.byteOffset, length);
    const rest = length - TABLE_BYTES;
    if (rest < WORD || rest % WORD !== 0 || this.view.getUint32(0, true) !== 0) bad();
    this.words = rest / WORD;
    if (this.view.getUint32(4, true) !== this.words) bad();
    this.left = this.words;
  }

  root(): Struct {
    return this.struct(TABLE_BYTES);
  }

  /** The struct that the pointer at byte `at` leads to. */
  struct(at: number): Struct {
    const low = this.view.getUint32(at, true);
    const sizes = this.view.getUint32(at + 4, true);
    if (low === 0 && sizes === 0) return new Struct(this, 0, 0, 0);
    if ((low & 3) !== 0) bad();
    const data = sizes & 0xffff;
    const pointers = sizes >>> 16;
    const start = this.target(at, low, data + pointers);
    this.spend(data + pointers);
    return new Struct(this, start, data * WORD, pointers);
  }

  /** Start and length of the bytes that the pointer at byte `at` leads to; length -1 for a pointer that is null. */
  private blob(at: number): { start: number; length: number } {
    const low = this.view.getUint32(at, true);
    const high = this.view.getUint32(at + 4, true);
    if (low === 0 && high === 0) return { start: 0, length: -1 };
    if ((low & 3) !== 1 || (high & 7) !== 2) bad();
    const length = high >>> 3;
    const words = Math.ceil(length / WORD);
    const start = this.target(at, low, words);
    this.spend(words);
    return { start, length };
  }

  data(at: number): Uint8Array {
    const { start, length } = this.blob(at);
    return this.bytes.subarray(start, start + Math.max(0, length));
  }

  text(at: number, what: string, bytesMax = Number.MAX_SAFE_INTEGER): string {
    const { start, length } = this.blob(at);
    if (length < 0) return "";
    const end = start + length - 1;
    if (length === 0 || this.bytes[end] !== 0) bad(`${what} lacks its final zero`);
    limit(what, length - 1, bytesMax);
    return this.decode(start, end, what);
  }

  /** Texts are short and mostly ASCII, which is faster by hand than by a call of the decoder. */
  private decode(start: number, end: number, what: string): string {
    const { bytes } = this;
    if (end - start <= 24) {
      let text = "";
      let at = start;
      for (; at < end; at++) {
        const byte = bytes[at] as number;
        if (byte > 127) break;
        text += String.fromCharCode(byte);
      }
      if (at === end) return text;
    }
    try {
      return utf8.decode(bytes.subarray(start, end));
    } catch {
      return bad(`${what} is not UTF-8`);
    }
  }

  /** Calls `each` for every struct of the list that the pointer at byte `at` leads to. */
  structs<T>(at: number, what: string, lengthMax: number, each: (item: Struct) => T): T[] {
    const low = this.view.getUint32(at, true);
    const high = this.view.getUint32(at + 4, true);
    if (low === 0 && high === 0) return [];
    if ((low & 3) !== 1 || (high & 7) !== 7) bad();
    const words = high >>> 3;
    const tag = this.target(at, low, words + 1);
    this.spend(words + 1);
    const count = this.view.getUint32(tag, true);
    const sizes = this.view.getUint32(tag + 4, true);
    if ((count & 3) !== 0) bad();
    const length = count >>> 2;
    const data = sizes & 0xffff;
    const pointers = sizes >>> 16;
    if (length * (data + pointers) > words) bad();
    // An element that takes no room counts as a word.
    if (data + pointers === 0) this.spend(length);
    limit(what, length, lengthMax);
    const items: T[] = new Array(length);
    let start = tag + WORD;
    for (let index = 0; index < length; index++) {
      items[index] = each(new Struct(this, start, data * WORD, pointers));
      start += (data + pointers) * WORD;
    }
    return items;
  }

  texts(at: number, what: string, lengthMax: number): string[] {
    const low = this.view.getUint32(at, true);
    const high = this.view.getUint32(at + 4, true);
    if (low === 0 && high === 0) return [];
    if ((low & 3) !== 1 || (high & 7) !== 6) bad();
    const length = high >>> 3;
    const start = this.target(at, low, length);
    this.spend(length);
    limit(what, length, lengthMax);
    return Array.from({ length }, (_, index) => this.text(start + index * WORD, what));
  }

  /** Where a pointer leads, as a byte of the frame, if `words` fit there. */
  private target(at: number, low: number, words: number): number {
    const word = (at - TABLE_BYTES) / WORD + 1 + (low >> 2);
    if (word < 0 || word + words > this.words) bad();
    return TABLE_BYTES + word * WORD;
  }

  private spend(words: number): void {
    this.left -= words;
    if (this.left < 0) bad();
  }
}

/** A struct of a frame. Fields that its sender did not know read as 0 or empty. */
export class Struct {
  constructor(
    private readonly reader: Reader,
    private readonly start: number,
    private readonly dataBytes: number,
    private readonly pointers: number,
  ) {}

  bit(byte: number, bit: number): boolean {
    return byte < this.dataBytes && ((this.reader.view.getUint8(this.start + byte) >> bit) & 1) === 1;
  }

  u16(byte: number): number {
    return byte < this.dataBytes ? this.reader.view.getUint16(this.start + byte, true) : 0;
  }

  u32(byte: number): number {
    return byte < this.dataBytes ? this.reader.view.getUint32(this.start + byte, true) : 0;
  }

  u64(byte: number): bigint {
    return byte < this.dataBytes ? this.reader.view.getBigUint64(this.start + byte, true) : 0n;
  }

  i64(byte: number): bigint {
    return byte < this.dataBytes ? this.reader.view.getBigInt64(this.start + byte, true) : 0n;
  }

  struct(pointer: number): Struct {
    return pointer < this.pointers ? this.reader.struct(this.at(pointer)) : new Struct(this.reader, 0, 0, 0);
  }

  data(pointer: number): Uint8Array {
    return pointer < this.pointers ? this.reader.data(this.at(pointer)) : new Uint8Array(0);
  }

  text(pointer: number, what: string, bytesMax?: number): string {
    return pointer < this.pointers ? this.reader.text(this.at(pointer), what, bytesMax) : "";
  }

  structs<T>(pointer: number, what: string, lengthMax: number, each: (item: Struct) => T): T[] {
    return pointer < this.pointers ? this.reader.structs(this.at(pointer), what, lengthMax, each) : [];
  }

  texts(pointer: number, what: string, lengthMax: number): string[] {
    return pointer < this.pointers ? this.reader.texts(this.at(pointer), what, lengthMax) : [];
  }

  private at(pointer: number): number {
    return this.start + this.dataBytes + pointer * WORD;
  }
}

const encoder = new TextEncoder();

/** A frame being written: objects follow each other in the order in which they are made. */
export class Writer {
  private bytes: Uint8Array<ArrayBuffer>;
  private view: DataView;
  private end = TABLE_BYTES + WORD;

  constructor(bytesExpected = 256) {
    this.bytes = new Uint8Array(Math.max(TABLE_BYTES + WORD, bytesExpected));
    this.view = new DataView(this.bytes.buffer);
  }

  root(dataWords: number, pointers: number): Target {
    return this.struct(TABLE_BYTES, dataWords, pointers);
  }

  /** The finished frame. */
  finish(): Uint8Array<ArrayBuffer> {
    this.view.setUint32(4, (this.end - TABLE_BYTES) / WORD, true);
    return this.bytes.subarray(0, this.end);
  }

  struct(at: number, dataWords: number, pointers: number): Target {
    const start = this.allocate(dataWords + pointers);
    this.pointer(at, start, 0, dataWords | (pointers << 16));
    return new Target(this, start, dataWords);
  }

  structs(at: number, length: number, dataWords: number, pointers: number): Target[] {
    const words = length * (dataWords + pointers);
    const tag = this.allocate(words + 1);
    this.pointer(at, tag, 1, (words << 3) | 7);
    this.view.setUint32(tag, length << 2, true);
    this.view.setUint32(tag + 4, dataWords | (pointers << 16), true);
    const size = (dataWords + pointers) * WORD;
    return Array.from({ length }, (_, index) => new Target(this, tag + WORD + index * size, dataWords));
  }

  text(at: number, text: string): void {
    // As other writers do, an empty text is written as one zero byte.
    const bytes = encoder.encode(text);
    const start = this.allocate(Math.floor(bytes.length / WORD) + 1);
    this.bytes.set(bytes, start);
    this.pointer(at, start, 1, ((bytes.length + 1) << 3) | 2);
  }

  data(at: number, data: Uint8Array): void {
    const start = this.allocate(Math.ceil(data.length / WORD));
    this.bytes.set(data, start);
    this.pointer(at, start, 1, (data.length << 3) | 2);
  }

  texts(at: number, texts: readonly string[]): void {
    const start = this.allocate(texts.length);
    this.pointer(at, start, 1, (texts.length << 3) | 6);
    texts.forEach((text, index) => {
      this.text(start + index * WORD, text);
    });
  }

  u8(at: number, value: number): void {
    this.view.setUint8(at, value);
  }

  u16(at: number, value: number): void {
    this.view.setUint16(at, value, true);
  }

  u32(at: number, value: number): void {
    this.view.setUint32(at, value, true);
  }

  u64(at: number, value: bigint): void {
    this.view.setBigUint64(at, BigInt.asUintN(64, value), true);
  }

  private pointer(at: number, start: number, kind: 0 | 1, high: number): void {
    this.view.setUint32(at, (((start - at) / WORD - 1) << 2) | kind, true);
    this.view.setUint32(at + 4, high >>> 0, true);
  }

  private allocate(words: number): number {
    const start = this.end;
    this.end += words * WORD;
    if (this.end > this.bytes.length) {
      const grown = new Uint8Array(Math.max(this.end, this.bytes.length * 2));
      grown.set(this.bytes);
      this.bytes = grown;
      this.view = new DataView(grown.buffer);
    }
    return start;
  }
}

/** A struct being written. */
export class Target {
  private readonly pointersAt: number;

  constructor(
    private readonly writer: Writer,
    private readonly start: number,
    dataWords: number,
  ) {
    this.pointersAt = start + dataWords * WORD;
  }

  bit(byte: number, value: boolean): void {
    if (value) this.writer.u8(this.start + byte, 1);
  }

  u16(byte: number, value: number): void {
    this.writer.u16(this.start + byte, value);
  }

  u32(byte: number, value: number): void {
    this.writer.u32(this.start + byte, value);
  }

  u64(byte: number, value: bigint): void {
    this.writer.u64(this.start + byte, value);
  }

  struct(pointer: number, dataWords: number, pointers: number): Target {
    return this.writer.struct(this.pointersAt + pointer * WORD, dataWords, pointers);
  }

  structs(pointer: number, length: number, dataWords: number, pointers: number): Target[] {
    return this.writer.structs(this.pointersAt + pointer * WORD, length, dataWords, pointers);
  }

  text(pointer: number, text: string): void {
    this.writer.text(this.pointersAt + pointer * WORD, text);
  }

  data(pointer: number, data: Uint8Array): void {
    this.writer.data(this.pointersAt + pointer * WORD, data);
  }

  texts(pointer: number, texts: readonly string[]): void {
    this.writer.texts(this.pointersAt + pointer * WORD, texts);
  }
}
