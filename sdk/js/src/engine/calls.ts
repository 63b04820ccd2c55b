// What the application asks for: handles of channels, messages to send, pages of history, and an end.

import { closed, MillraceError, timedOut, unconfirmed } from "../error.js";
import type { Position } from "../event.js";
import { Backoff } from "./backoff.js";
import { ChannelState, type Handle, type HistoryRange, type Key, OFF, type Ticket, type Waiter } from "./channel.js";
import { finishIfFlushed } from "./connection.js";
import type { Engine } from "./engine.js";
import { type GivenUp, Outbox } from "./outbox.js";
import { type Start, Subscription } from "./subscription.js";

/** Most history requests that wait for an answer in one channel. */
export const HISTORIES_MAX = 64;
/** Longest name of a channel, in bytes. */
const NAME_BYTES_MAX = 128;
const NAME = /^[\p{Alphabetic}\p{Number}\-_.:@~]+$/u;

/** @throws {MillraceError} `name` if a text cannot be a channel's name. */
export function checkName(name: string): void {
  const bytes = new TextEncoder().encode(name).length;
  if (bytes > NAME_BYTES_MAX) throw new MillraceError("name", `name is ${bytes} bytes, limit is ${NAME_BYTES_MAX}`);
  if (name === "") throw new MillraceError("name", "name is empty");
  if (!NAME.test(name)) {
    throw new MillraceError("name", `${JSON.stringify(name)} is no name: letters, digits and -_.:@~ are allowed`);
  }
}

export function open(engine: Engine, now: number, name: string, start: Start | undefined, ticket: Ticket): Key {
  const reason = whyClosed(engine);
  if (reason !== undefined) throw reason;
  checkName(name);
  const key = engine.byName.get(name) ?? addChannel(engine, name);
  const channel = engine.channels.get(key) as ChannelState;
  if (start !== undefined) {
    if (channel.subscription !== undefined) {
      throw new MillraceError("already-subscribed", `this client has a subscription to ${name} already`);
    }
    channel.subscription = new Subscription(start, engine.config.queue, engine.config.backoff);
    if (channel.facts !== undefined) channel.subscription.noteCanPublish(channel.facts.canPublish);
  }
  const handle: Handle = start === undefined ? "sender" : "reader";
  // A reader comes with a sender, which is released on its own.
  channel.senders += 1;
  channel.waiters.push({ ticket, handle, deadline: now + engine.config.requestTimeoutMs, error: undefined });
  const { attach } = channel;
  if (attach.kind === "on" && handle === "sender") {
    opened(engine, now, key);
  } else if (attach.kind === "on") {
    // A subscription begins with an answer, and with one of its own.
    if (channel.wanted !== undefined) engine.ask(now, key, channel, channel.wanted);
    engine.sync(now, key);
  } else if (attach.kind === "asked" && attach.mode === "read" && handle === "reader") {
    channel.isOutdated = true;
  } else {
    engine.sync(now, key);
  }
  return key;
}

function addChannel(engine: Engine, name: string): Key {
  engine.keys += 1;
  const { backoff } = engine.config;
  const outbox = new Outbox(engine.random.producer(), backoff);
  engine.channels.set(engine.keys, new ChannelState(name, outbox, new Backoff(backoff)));
  engine.byName.set(name, engine.keys);
  return engine.keys;
}

/** Tells those who wait for a handle what the node has answered. */
export function opened(engine: Engine, now: number, key: Key): void {
  const channel = engine.channels.get(key);
  if (channel?.facts === undefined) return;
  const { head, history, canPublish } = channel.facts;
  const position = channel.subscription?.position;
  const waiting: Waiter[] = [];
  for (const waiter of channel.waiters) {
    if (waiter.handle === "reader" && position === undefined) {
      waiting.push(waiter);
    } else {
      const ok = { position: (waiter.handle === "reader" && position) || head, history, canPublish };
      engine.actions.push({ type: "opened", ticket: waiter.ticket, key, result: { ok } });
    }
  }
  channel.waiters = waiting;
  engine.sync(now, key);
}

export function abandon(engine: Engine, now: number, ticket: Ticket): Key | undefined {
  for (const [key, channel] of engine.channels) {
    const index = channel.waiters.findIndex((waiter) => waiter.ticket === ticket);
    const [waiter] = index < 0 ? [] : channel.waiters.splice(index, 1);
    if (waiter === undefined) continue;
    channel.refuseHandle(waiter.handle);
    engine.sync(now, key);
    return key;
  }
  return undefined;
}

export function release(engine: Engine, now: number, key: Key, handle: Handle): void {
  const channel = engine.channels.get(key);
  if (channel === undefined) return;
  if (handle === "reader") channel.subscription = undefined;
  else channel.senders = Math.max(0, channel.senders - 1);
  engine.sync(now, key);
}

export function send(engine: Engine, now: number, key: Key, ticket: Ticket, body: Uint8Array): void {
  const channel = engine.channels.get(key);
  const { payloadBytesMax, config } = engine;
  let error = whyClosed(engine) ?? (channel === undefined ? closed() : channel.ended);
  if (error === undefined && body.length > payloadBytesMax) {
    error = new MillraceError("too-large", `the message is ${body.length} bytes, the limit is ${payloadBytesMax}`);
  }
  if (error !== undefined) {
    engine.actions.push({ type: "sent", ticket, result: { error } });
    return;
  }
  channel?.outbox.push(ticket, body, config.sendTimeoutMs === undefined ? undefined : now + config.sendTimeoutMs);
  touchOutbox(engine, now, key);
}

/** The short way of `sync` for a channel where only the outbox has changed. */
export function touchOutbox(engine: Engine, now: number, key: Key): void {
  const channel = engine.channels.get(key);
  if (channel?.attach.kind === "on" && channel.outbox.isReady(now)) {
    engine.list(key, channel);
    engine.armTick(now);
  } else {
    engine.sync(now, key);
  }
}

export function cancelSend(engine: Engine, now: number, key: Key, ticket: Ticket, error: MillraceError): void {
  const givenUp = engine.channels.get(key)?.outbox.cancel(ticket, now, engine.random);
  if (givenUp === undefined) return;
  sendFailed(engine, givenUp, error);
  touchOutbox(engine, now, key);
  finishIfFlushed(engine, now);
}

export function history(
  engine: Engine,
  now: number,
  key: Key,
  ticket: Ticket,
  range: HistoryRange,
  messagesMax: number,
): void {
  const channel = engine.channels.get(key);
  let error = whyClosed(engine) ?? (channel === undefined ? closed() : channel.ended);
  if (error === undefined && (channel?.histories.length ?? 0) >= HISTORIES_MAX) {
    error = new MillraceError("too-many-requests", "too many history requests wait for an answer");
  }
  if (error !== undefined) {
    engine.actions.push({ type: "page", ticket, result: { error } });
    return;
  }
  const deadline = now + engine.config.requestTimeoutMs;
  const call = { ticket, range, messagesMax, deadline, isAsked: false, retryAt: undefined, error: undefined };
  channel?.histories.push(call);
  engine.sync(now, key);
}

export function markRead(engine: Engine, now: number, key: Key, position: Position): void {
  const channel = engine.channels.get(key);
  const isOf = channel !== undefined && channel.ended === undefined && channel.facts?.history !== "none";
  if (!engine.hasReads || !isOf || whyClosed(engine) !== undefined) return;
  channel.reads.mark(position);
  engine.unreadNews.add(key);
  engine.sync(now, key);
}

export function abandonHistory(engine: Engine, now: number, key: Key, ticket: Ticket): void {
  const channel = engine.channels.get(key);
  if (channel === undefined) return;
  channel.histories = channel.histories.filter((history) => history.ticket !== ticket);
  engine.sync(now, key);
}

export function close(engine: Engine, now: number, timeoutMs: number): void {
  if (engine.link.kind !== "closed") engine.closing = Math.min(engine.closing ?? Infinity, now + timeoutMs);
  finishIfFlushed(engine, now);
}

/** Why the engine takes no calls any more, if it does not. */
function whyClosed(engine: Engine): MillraceError | undefined {
  if (engine.link.kind === "closed") return engine.link.error ?? closed();
  return engine.closing === undefined ? undefined : closed();
}

/** Gives up what has waited too long in a channel. */
export function expire(engine: Engine, now: number, key: Key): void {
  const channel = engine.channels.get(key);
  if (channel === undefined) return;
  const { outbox } = channel;
  for (let late = outbox.expire(now, engine.random); late; late = outbox.expire(now, engine.random)) {
    sendFailed(engine, late, timedOut("an acknowledgement"));
  }
  for (let first = channel.histories[0]; first && first.deadline <= now; first = channel.histories[0]) {
    channel.histories.shift();
    const error = first.error ?? timedOut("an answer");
    engine.actions.push({ type: "page", ticket: first.ticket, result: { error } });
  }
  const late = channel.waiters.filter((waiter) => waiter.deadline <= now);
  channel.waiters = channel.waiters.filter((waiter) => waiter.deadline > now);
  for (const waiter of late) {
    channel.refuseHandle(waiter.handle);
    const error = waiter.error ?? timedOut("an answer");
    engine.actions.push({ type: "opened", ticket: waiter.ticket, key, result: { error } });
  }
}

/** The node refused a channel for good: everything that wants something of it fails. */
export function endChannel(engine: Engine, now: number, key: Key, error: MillraceError): void {
  const channel = engine.channels.get(key);
  if (channel === undefined) return;
  channel.ended = error;
  channel.reads.giveUp();
  if (engine.byName.get(channel.name) === key) engine.byName.delete(channel.name);
  const { waiters, histories, outbox } = channel;
  channel.waiters = [];
  channel.histories = [];
  for (const { ticket, handle } of waiters) {
    channel.refuseHandle(handle);
    engine.actions.push({ type: "opened", ticket, key, result: { error } });
  }
  for (let givenUp = outbox.giveUpNext(); givenUp !== undefined; givenUp = outbox.giveUpNext()) {
    sendFailed(engine, givenUp, error);
  }
  for (const { ticket } of histories) engine.actions.push({ type: "page", ticket, result: { error } });
  if (channel.subscription !== undefined) {
    engine.tellEvents(key);
    engine.actions.push({ type: "deliver", key, event: { type: "ended", error } });
  }
  engine.sync(now, key);
}

/** Tells the end of a message that is given up. */
export function sendFailed(engine: Engine, givenUp: GivenUp, error: MillraceError): void {
  engine.actions.push({ type: "sent", ticket: givenUp.ticket, result: { error: givenUpError(givenUp, error) } });
}

/** The node refused to subscribe the session. */
export function subscribeRefused(engine: Engine, now: number, key: Key, error: MillraceError): void {
  const channel = engine.channels.get(key);
  if (channel === undefined) return;
  if (!error.isRetryable) {
    channel.attach = OFF;
    return endChannel(engine, now, key, error);
  }
  const wait = Math.max(channel.backoff.next(engine.random), error.retryAfterMs ?? 0);
  channel.attach = { kind: "off", retryAt: now + wait };
  for (const waiter of channel.waiters) waiter.error = error;
  engine.sync(now, key);
}

/** The error of a message that is given up. */
export function givenUpError(givenUp: GivenUp, error: MillraceError): MillraceError {
  return givenUp.uncertain ? unconfirmed(error) : error;
}
