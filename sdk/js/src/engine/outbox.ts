// The messages that an application sent to one channel and that are not acknowledged yet.
//
// A message keeps its producer and sequence over every retry, so the channel stores it once. They go out in order, many at a
// time. After a refusal nothing more is sent until every answer that is under way is in; then everything left goes out again
// from the front. So at any moment the messages in flight are a run of the queue, sent once, in order.
//
// A message that is refused for good leaves a number that the channel never sees, and the channel takes no number before its
// predecessor. If it is certain that the number is not stored, nothing behind it is either, and what is left moves up.
//
// Two things make a number dangerous to give again, because the channel would take the next message for a duplicate, or a
// message twice: it may be stored already, or a frame with it may still be on its way from a connection that we think dead (a
// *straggler*; the node ends such a session within two heartbeats). Then what is left goes on under a new producer, and only
// when no straggler can be stored any more.

import { adviceOf, Code } from "../code.js";
import { Backoff, type BackoffLimits } from "./backoff.js";
import type { Random } from "./random.js";

/** Most messages of unknown fate that are remembered. */
const UNCONFIRMED_MAX = 256;

interface Pending {
  sequence: number;
  readonly ticket: number;
  readonly body: Uint8Array;
  /** When the application gives it up. */
  readonly deadline: number | undefined;
  /** When it was sent, while its answer is under way. */
  sentAt: number | undefined;
  /** It was sent and no answer said whether it was stored. */
  uncertain: boolean;
  /** When it was sent, if it was answered with "out of order" since the last rewind. */
  outOfOrder: number | undefined;
  /** It was answered with "blocked" since the last rewind. */
  isBlocked: boolean;
}

/** The number under which a message was sent. */
interface Sent {
  readonly producer: bigint;
  readonly sequence: number;
}

/** A message to be sent now. */
export interface Outgoing extends Sent {
  readonly body: Uint8Array;
}

/** A message that will not be tried again. */
export interface GivenUp {
  readonly ticket: number;
  /** It may be stored all the same. */
  readonly uncertain: boolean;
}

/** Messages of one channel on their way, in ascending order of sequence. */
export class Outbox {
  /** Sequence of the next new message. */
  private next = 1;
  /** The highest sequence that is known to be stored. */
  private floor = 0;
  /** The lowest sequence that was given up and is known not to be stored, if there is one. */
  private absent: number | undefined;
  /** The highest sequence that was sent. */
  private sentMax = 0;
  /** Until when frames up to this sequence, from connections that are gone, may still reach the channel. */
  private stragglers: { readonly until: number; readonly sequence: number } | undefined;
  private readonly queue: Pending[] = [];
  /** Messages given up with an unknown fate: one that comes late is known. The newest ones, oldest first. */
  private unconfirmed: (Sent & { readonly ticket: number })[] = [];
  /** Everything in the queue before it was sent since the last rewind. */
  private cursor = 0;
  /** Requests whose answer is under way, those of given-up messages included. */
  private inFlight = 0;
  /** How many may be: what a node takes that has enough, and one more for each acknowledgement. */
  private inFlightMax = Number.POSITIVE_INFINITY;
  /** Acknowledgements since the last rewind. */
  private acknowledgements = 0;
  /** Since the last rewind, the node said that it has enough. */
  private isLimited = false;
  /** The front is refused because of a message that was given up. */
  private isStuck = false;
  /** Something was refused: send nothing until nothing is in flight, then rewind. */
  private halted = false;
  private pausedUntil: number | undefined;
  private readonly backoff: Backoff;

  constructor(
    public producer: bigint,
    limits: BackoffLimits,
  ) {
    this.backoff = new Backoff(limits);
  }

  /** Whether every message has had its end. */
  get isEmpty(): boolean {
    return this.queue.length === 0;
  }

  push(ticket: number, body: Uint8Array, deadline: number | undefined): void {
    this.queue.push({
      sequence: this.next,
      ticket,
      body,
      deadline,
      sentAt: undefined,
      uncertain: false,
      outOfOrder: undefined,
      isBlocked: false,
    });
    this.next += 1;
  }

  /** Whether {@link sendNext} has a message. */
  isReady(now: number): boolean {
    const pending = this.queue[this.cursor];
    if (pending === undefined || this.halted || this.inFlight >= this.inFlightMax) return false;
    // What stands behind an absent number waits for its own number.
    const inLine = this.absent === undefined || pending.sequence < this.absent;
    return inLine && (this.pausedUntil === undefined || this.pausedUntil <= now);
  }

  /** When a pause ends, if one is on. */
  get resumeAt(): number | undefined {
    return this.isEmpty ? undefined : this.pausedUntil;
  }

  /** When the oldest message under way was sent. */
  get oldestSent(): number | undefined {
    return this.queue[0]?.sentAt;
  }

  /** Takes the next message as sent. Its answer is told with {@link acknowledged} or {@link refused}, and then {@link answered}. */
  sendNext(now: number): Outgoing | undefined {
    const pending = this.isReady(now) ? this.queue[this.cursor] : undefined;
    if (pending === undefined) return undefined;
    this.pausedUntil = undefined;
    pending.sentAt = now;
    this.cursor += 1;
    this.inFlight += 1;
    this.sentMax = Math.max(this.sentMax, pending.sequence);
    return { producer: this.producer, sequence: pending.sequence, body: pending.body };
  }

  /** The ticket of a message that has not had its end, or not a certain one, by its number. */
  ticketOf(producer: bigint, sequence: bigint): number | undefined {
    const pending = producer === this.producer ? this.queue[this.find(Number(sequence))] : undefined;
    if (pending !== undefined) return pending.ticket;
    return this.unconfirmed.find((one) => one.producer === producer && BigInt(one.sequence) === sequence)?.ticket;
  }

  /** A message of `producer` is stored. `undefined` if it has had its end, or is of an earlier producer. */
  acknowledged(producer: bigint, sequence: number): number | undefined {
    if (producer !== this.producer) return undefined;
    this.floor = Math.max(this.floor, sequence);
    if (this.absent !== undefined && this.absent <= this.floor) this.absent = undefined;
    this.backoff.reset();
    this.acknowledgements += 1;
    this.inFlightMax += 1;
    const index = this.find(sequence);
    return index < 0 ? undefined : this.remove(index)?.ticket;
  }

  /** A message was refused. Returns it if that is for good. */
  refused(now: number, sequence: number, code: number, retryAfterMs: number, random: Random): GivenUp | undefined {
    this.halted = true;
    const index = this.find(sequence);
    const pending = this.queue[index];
    if (pending === undefined) return undefined;
    // The channel answered at any time since, however late the answer is read.
    const sentAt = pending.sentAt ?? now;
    pending.sentAt = undefined;
    if (isForGood(code)) {
      this.remove(index);
      if (pending.uncertain) this.noteUnconfirmed(pending);
      else this.noteAbsent(pending.sequence);
      return { ticket: pending.ticket, uncertain: pending.uncertain };
    }
    switch (code) {
      case Code.OutOfOrder:
        // It would have been a duplicate if it were stored.
        pending.outOfOrder = sentAt;
        pending.uncertain &&= this.stragglerMax(sentAt) >= sequence;
        return undefined;
      // Refused before anything was tried: what was known before still holds.
      case Code.RateLimited:
      case Code.Busy:
        this.isLimited = true;
        break;
      case Code.Blocked:
        pending.isBlocked = true;
        break;
      case Code.NotSubscribed:
      case Code.GoingAway:
        break;
      default:
        pending.uncertain = true;
    }
    // Those behind a refused one are refused as well; one wait is enough for all of them.
    if (this.pausedUntil === undefined || retryAfterMs > 0) {
      const wait = retryAfterMs > 0 ? retryAfterMs : this.backoff.next(random);
      this.pausedUntil = Math.max(this.pausedUntil ?? 0, now + wait);
    }
    return undefined;
  }

  /** One request that was in flight has its answer. After the last of a halted run, what is left starts over. */
  answered(now: number, random: Random): void {
    this.inFlight = Math.max(0, this.inFlight - 1);
    this.settle(now, random);
  }

  /** Whether nothing goes on in this session: it bars what is left because of a message that was given up. */
  takeStuck(): boolean {
    const isStuck = this.isStuck;
    this.isStuck = false;
    return isStuck;
  }

  /**
   * The connection is gone, and with it every answer that was under way. `lingerMs` is how long the node may still read what
   * was sent on it.
   */
  disconnected(now: number, lingerMs: number, random: Random): void {
    for (const pending of this.queue) {
      pending.uncertain ||= pending.sentAt !== undefined;
      pending.sentAt = undefined;
      pending.outOfOrder = undefined;
      pending.isBlocked = false;
    }
    this.inFlightMax = Number.POSITIVE_INFINITY;
    this.isLimited = false;
    if (this.inFlight > 0) this.stragglers = { until: now + lingerMs, sequence: this.sentMax };
    this.inFlight = 0;
    this.halted = true;
    this.settle(now, random);
  }

  /** Gives up the oldest message whose time has passed; call it until `undefined`. */
  expire(now: number, random: Random): GivenUp | undefined {
    const deadline = this.queue[0]?.deadline;
    return deadline !== undefined && deadline <= now ? this.giveUp(0, now, random) : undefined;
  }

  /** Gives up one message, at the application's wish; `undefined` if it has had its end. */
  cancel(ticket: number, now: number, random: Random): GivenUp | undefined {
    const index = this.queue.findIndex((pending) => pending.ticket === ticket);
    return index < 0 ? undefined : this.giveUp(index, now, random);
  }

  /** Gives up everything; call it until `undefined`. */
  giveUpNext(): GivenUp | undefined {
    const pending = this.remove(0);
    return pending && { ticket: pending.ticket, uncertain: pending.uncertain || pending.sentAt !== undefined };
  }

  private giveUp(index: number, now: number, random: Random): GivenUp | undefined {
    const pending = this.remove(index);
    if (pending === undefined) return undefined;
    const uncertain = pending.uncertain || pending.sentAt !== undefined;
    if (uncertain) {
      this.noteUnconfirmed(pending);
    } else {
      this.noteAbsent(pending.sequence);
      this.halted = true;
    }
    this.settle(now, random);
    return { ticket: pending.ticket, uncertain };
  }

  /** Index of a message by its sequence; -1 if it is not here. */
  private find(sequence: number): number {
    let low = 0;
    let high = this.queue.length - 1;
    while (low <= high) {
      const middle = (low + high) >> 1;
      const found = (this.queue[middle] as Pending).sequence;
      if (found === sequence) return middle;
      if (found < sequence) low = middle + 1;
      else high = middle - 1;
    }
    return -1;
  }

  private remove(index: number): Pending | undefined {
    if (index < this.cursor) this.cursor -= 1;
    return index === 0 ? this.queue.shift() : this.queue.splice(index, 1)[0];
  }

  private noteUnconfirmed({ sequence, ticket }: Pending): void {
    this.unconfirmed.push({ producer: this.producer, sequence, ticket });
    if (this.unconfirmed.length > UNCONFIRMED_MAX) this.unconfirmed.shift();
  }

  private noteAbsent(sequence: number): void {
    this.absent = Math.min(this.absent ?? sequence, sequence);
  }

  /** The highest sequence that a straggler may have. */
  private stragglerMax(now: number): number {
    return this.stragglers !== undefined && now < this.stragglers.until ? this.stragglers.sequence : 0;
  }

  /** With nothing in flight: takes up what the refusals taught, and starts over from the front. */
  private settle(now: number, random: Random): void {
    if (this.inFlight > 0 || !(this.halted || this.absent !== undefined)) return;
    this.halted = false;
    this.cursor = 0;
    if (this.isLimited) this.inFlightMax = Math.max(1, this.acknowledgements);
    this.isLimited = false;
    this.acknowledgements = 0;
    const front = this.queue[0];
    const outOfOrder = front?.outOfOrder;
    // Who bars the front is not before it in the queue: it was given up with an unknown fate.
    this.isStuck =
      this.absent === undefined && front !== undefined && front.isBlocked && this.floor + 1 < front.sequence;
    for (const pending of this.queue) {
      pending.outOfOrder = undefined;
      pending.isBlocked = false;
    }
    if (this.absent !== undefined) {
      if (this.stragglerMax(now) < this.absent) this.moveUp(this.absent);
      // A straggler behind the absent number can never be stored, for nobody sends that number again. What stands before
      // the absent number is sent first, as it is.
      else if (front === undefined || front.sequence >= this.absent) this.startAnew(random);
      return;
    }
    // A later one is stored and so is this one, by a straggler: its number tells where.
    if (front === undefined || outOfOrder === undefined || front.sequence <= this.floor) return;
    // The number before the front was given up with an unknown fate, and it is not stored, or not yet. Else it never will
    // be; or the channel forgot a producer whose messages it had acknowledged: unused for long, or lost with the last
    // moments of a windowed channel.
    const mayCome = this.floor + 1 < front.sequence && this.stragglerMax(outOfOrder) > 0;
    if (!mayCome) this.startAnew(random);
    this.pausedUntil = now + this.backoff.next(random);
  }

  /** Closes the gap that begins at `absent`. */
  private moveUp(absent: number): void {
    this.absent = undefined;
    this.next = absent;
    // Their numbers are others' now: they never come.
    this.unconfirmed = this.unconfirmed.filter((one) => one.producer !== this.producer || one.sequence < absent);
    for (const pending of this.queue) {
      if (pending.sequence < absent) continue;
      pending.sequence = this.next;
      pending.uncertain = false;
      this.next += 1;
    }
  }

  /** Gives what is left, none of which is stored, numbers of a new producer. */
  private startAnew(random: Random): void {
    this.producer = random.producer();
    this.floor = 0;
    this.sentMax = 0;
    this.stragglers = undefined;
    this.moveUp(1);
  }
}

/** Whether a refusal is the end of the message, or it waits for another try. */
function isForGood(code: number): boolean {
  if (code === Code.OutOfOrder || code === Code.NotSubscribed) return false;
  const advice = adviceOf(code);
  return advice === "do-not-retry" || advice === "reload";
}
