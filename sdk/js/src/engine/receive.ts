// Frames in: each is an answer to a request, or news of a channel or of the session.

import { Code } from "../code.js";
import { disconnected, MillraceError, refused } from "../error.js";
import { messageFrom, type Page, type Position, position } from "../event.js";
import { decodeServer } from "../wire/decode.js";
import type { ServerFrame, WireMessage, WirePublished, WireSubscribed } from "../wire/frames.js";
import { FrameError } from "../wire/segment.js";
import { endChannel, opened, sendFailed, subscribeRefused, touchOutbox } from "./calls.js";
import type { ChannelState, Key, Ticket } from "./channel.js";
import * as connection from "./connection.js";
import type { Engine, Result } from "./engine.js";

/** One whole frame from the node. */
export function receive(engine: Engine, now: number, bytes: Uint8Array): void {
  if (!connection.isConnected(engine)) return;
  connection.heard(engine, now);
  // Whoever goes on speaking did not close for what was said before.
  engine.complaint = undefined;
  try {
    take(engine, now, decodeServer(bytes));
  } catch (error) {
    if (error instanceof FrameError) {
      const broken = new MillraceError("protocol", "the node broke the protocol", { cause: error });
      connection.dropConnection(engine, now, broken);
    } else if (error instanceof MillraceError && error.kind === "protocol") {
      connection.dropConnection(engine, now, error);
    } else {
      throw error;
    }
  }
}

function take(engine: Engine, now: number, { request, body }: ServerFrame): void {
  switch (body.kind) {
    case "welcome":
      return connection.welcomed(engine, now, body);
    case "subscribed":
      return subscribed(engine, now, request, body);
    case "unsubscribed":
      engine.requests.delete(request);
      return unsubscribed(engine, now, body.channel, body.code, body.reason);
    case "published":
      return published(engine, now, request, body);
    case "message":
      return message(engine, now, body.message);
    case "page":
      return page(engine, now, request, body.messages, body.more);
    case "refreshed":
      engine.requests.delete(request);
      return connection.scheduleRefresh(engine, now, Number(body.tokenExpiresMs));
    case "error": {
      const error = refused(body.code, body.message, body.retryAfterMs);
      if (connection.isHello(engine, request)) helloRefused(engine, now, body.channel, error);
      else requestRefused(engine, now, request, error);
      return;
    }
    case "ping":
      if (!engine.control.some((control) => control.kind === "pong")) engine.control.push({ kind: "pong" });
      return;
    case "goAway":
      return connection.toldToGo(engine, now, body.code, body.afterMs, body.endpoints);
    case "skipped": {
      const reading = readingChannel(engine, body.channel);
      if (reading === undefined) return;
      reading.subscription.skipped(now, position(body.first), position(body.last), engine.random);
      seen(engine, reading.key, position(body.last));
      return engine.sync(now, reading.key);
    }
    case "read":
      return readMoved(engine, now, request, body.channel, position(body.position));
    case "unknown":
      return;
  }
}

/** There is a message at this position. */
function seen(engine: Engine, key: Key, at: Position): void {
  engine.channels.get(key)?.reads.seen(at);
  engine.unreadNews.add(key);
}

/** The node says where the user's read position stands, in answer to a mark or unasked. */
function readMoved(engine: Engine, now: number, request: number, number: bigint, at: Position): void {
  const asked = engine.requests.get(request);
  const isAnswer = asked?.kind === "markRead";
  const key = isAnswer ? asked.key : engine.byNumber.get(number);
  const channel = key === undefined ? undefined : engine.channels.get(key);
  if (isAnswer) engine.requests.delete(request);
  if (key === undefined || channel === undefined) return;
  if (isAnswer) {
    channel.reads.answered(at);
    channel.backoff.reset();
  } else {
    channel.reads.moved(at);
  }
  engine.unreadNews.add(key);
  engine.sync(now, key);
  connection.finishIfFlushed(engine, now);
}

/** The subscription that messages of a channel are for. Before the answer, they are of one that is replaced. */
function readingChannel(engine: Engine, number: bigint) {
  const key = engine.byNumber.get(number);
  const channel = key === undefined ? undefined : engine.channels.get(key);
  const isRead = channel?.attach.kind === "on" && channel.attach.mode === "read";
  if (key === undefined || channel?.subscription === undefined || !isRead) return undefined;
  return { key, channel, subscription: channel.subscription };
}

function message(engine: Engine, now: number, wire: WireMessage): void {
  const reading = readingChannel(engine, wire.channel);
  if (reading === undefined) return;
  const { key, channel, subscription } = reading;
  const ticket = ownTicket(engine, channel, wire);
  const message = messageFrom(wire, false, ticket);
  seen(engine, key, message.position);
  subscription.message(now, message, engine.random);
  // Only a subscription that stopped being live needs more than this.
  if (channel.wanted === "read") engine.tellEvents(key);
  else engine.sync(now, key);
}

/** The ticket of a message of our own. Producers are each user's own: another user's may be the same. */
function ownTicket(engine: Engine, channel: ChannelState | undefined, wire: WireMessage): Ticket | undefined {
  return wire.user === engine.user ? channel?.outbox.ticketOf(wire.producer, wire.sequence) : undefined;
}

function subscribed(engine: Engine, now: number, request: number, answer: WireSubscribed): void {
  const key = engine.byName.get(answer.name);
  const channel = key === undefined ? undefined : engine.channels.get(key);
  if (key === undefined || channel === undefined) return;
  const { history, canPublish, recovery } = answer;
  const head = position(answer.position);
  channel.facts = { head, history, canPublish };
  channel.reads.subscribed(history === "none" ? undefined : head);
  engine.unreadNews.add(key);
  if (channel.attach.kind !== "asked" || channel.attach.request !== request) {
    // News of a channel that we have: only the rights can have changed.
    channel.subscription?.noteCanPublish(canPublish);
    return engine.sync(now, key);
  }
  const { mode } = channel.attach;
  engine.requests.delete(request);
  channel.attach = { kind: "on", mode };
  channel.backoff.reset();
  if (channel.number !== undefined) engine.byNumber.delete(channel.number);
  channel.number = answer.channel;
  engine.byNumber.set(answer.channel, key);
  if (channel.isOutdated) {
    channel.isOutdated = false;
    if (channel.wanted !== undefined) engine.ask(now, key, channel, channel.wanted);
    return engine.sync(now, key);
  }
  channel.subscription?.subscribed(now, mode, { head, history, canPublish, recovery }, engine.random);
  opened(engine, now, key);
}

function unsubscribed(engine: Engine, now: number, number: bigint, code: number, reason: string): void {
  // We forget the number when we ask to be unsubscribed, so this is the node's own doing.
  const key = code === 0 ? undefined : engine.byNumber.get(number);
  const channel = key === undefined ? undefined : engine.channels.get(key);
  if (key === undefined || channel === undefined) return;
  engine.byNumber.delete(number);
  const error = refused(code, reason);
  channel.disconnected();
  engine.ready = engine.ready.filter((ready) => ready !== key);
  // Answers to what is under way may come or not; whatever comes is not for what is sent from here on.
  for (const [request, asked] of engine.requests) {
    if ("key" in asked && asked.key === key) engine.requests.delete(request);
  }
  channel.outbox.disconnected(now, engine.lingerMs, engine.random);
  switch (error.advice) {
    case "do-not-retry":
      return endChannel(engine, now, key, error);
    case "authenticate":
      return connection.dropConnection(engine, now, error);
    default:
      channel.attach = { kind: "off", retryAt: now + channel.backoff.next(engine.random) };
      engine.sync(now, key);
  }
}

function published(engine: Engine, now: number, request: number, answer: WirePublished): void {
  const asked = engine.requests.get(request);
  if (asked?.kind !== "publish") return;
  const { producer, sequence, duplicate } = answer;
  const ok = { position: position(answer.position), producer, sequence, duplicate };
  engine.requests.delete(request);
  const { outbox } = engine.channels.get(asked.key) ?? {};
  if (outbox === undefined) return;
  const ticket = outbox.acknowledged(producer, Number(sequence));
  if (ticket !== undefined) engine.actions.push({ type: "sent", ticket, result: { ok } });
  outbox.answered(now, engine.random);
  seen(engine, asked.key, ok.position);
  touchOutbox(engine, now, asked.key);
  connection.finishIfFlushed(engine, now);
}

function page(engine: Engine, now: number, request: number, messages: readonly WireMessage[], more: boolean): void {
  const asked = engine.requests.get(request);
  if (asked?.kind !== "catchUp" && asked?.kind !== "history") return;
  engine.requests.delete(request);
  const channel = engine.channels.get(asked.key);
  const found = messages.map((wire) => messageFrom(wire, true, ownTicket(engine, channel, wire)));
  if (asked.kind === "catchUp") {
    const last = found.at(-1);
    if (last !== undefined) seen(engine, asked.key, last.position);
    channel?.subscription?.page(found, more);
  } else {
    channel?.backoff.reset();
    historyDone(engine, asked.key, asked.ticket, { ok: { messages: found, more } });
  }
  engine.sync(now, asked.key);
}

/** An answer to a history request, unless it has been given up. */
function historyDone(engine: Engine, key: Key, ticket: Ticket, result: Result<Page>): void {
  const histories = engine.channels.get(key)?.histories ?? [];
  const index = histories.findIndex((history) => history.ticket === ticket && history.isAsked);
  if (index < 0) return;
  histories.splice(index, 1);
  engine.actions.push({ type: "page", ticket, result });
}

/** The node refused the session, or one of the subscriptions that came with the hello. */
function helloRefused(engine: Engine, now: number, name: string, error: MillraceError): void {
  const key = engine.byName.get(name);
  if (key !== undefined && !endsSession(error)) subscribeRefused(engine, now, key, error);
  else if (!engine.isOpen || endsSession(error)) connection.dropConnection(engine, now, error);
  else engine.actions.push({ type: "warning", error });
}

/** The node refused a request, or complains of the session. */
function requestRefused(engine: Engine, now: number, request: number, error: MillraceError): void {
  const asked = engine.requests.get(request);
  if (asked === undefined) {
    // An answer to what was taken back says nothing about the session.
    if (request === 0) {
      engine.actions.push({ type: "warning", error });
      engine.complaint = { at: now, error };
    }
    return;
  }
  engine.requests.delete(request);
  // Whatever was asked, it is asked again on the next connection.
  const isLeaving = error.code === Code.GoingAway && engine.goAway !== undefined;
  if (endsSession(error) && !isLeaving && asked.kind !== "refresh") {
    return connection.dropConnection(engine, now, error);
  }
  switch (asked.kind) {
    case "subscribe":
      return subscribeRefused(engine, now, asked.key, error);
    case "refresh":
      return connection.refreshRefused(engine, now, error);
    case "unsubscribe":
    case "probe":
      return;
    case "publish":
      publishRefused(engine, now, asked.key, asked.sequence, error);
      break;
    case "history":
      historyRefused(engine, now, asked.key, asked.ticket, error);
      break;
    case "catchUp": {
      const subscription = engine.channels.get(asked.key)?.subscription;
      if (error.code === Code.NotSubscribed) subscription?.disconnected();
      else subscription?.pageRefused(now, error, engine.random);
      break;
    }
    case "markRead":
      markRefused(engine, now, asked.key, error);
      break;
  }
  if (error.code === Code.NotSubscribed) attachAgain(engine, now, asked.key);
  engine.sync(now, asked.key);
  connection.finishIfFlushed(engine, now);
}

function historyRefused(engine: Engine, now: number, key: Key, ticket: Ticket, error: MillraceError): void {
  const isLost = error.code === Code.NotSubscribed;
  if (!isLost && !error.isRetryable) return historyDone(engine, key, ticket, { error });
  const channel = engine.channels.get(key);
  if (channel === undefined) return;
  const wait = Math.max(channel.backoff.next(engine.random), error.retryAfterMs ?? 0);
  const history = channel.histories.find((history) => history.ticket === ticket);
  if (history === undefined) return;
  history.isAsked = false;
  history.retryAt = now + wait;
  if (!isLost) history.error = error;
}

function markRefused(engine: Engine, now: number, key: Key, error: MillraceError): void {
  const channel = engine.channels.get(key);
  if (channel === undefined) return;
  if (error.code === Code.NotSubscribed || error.isRetryable) {
    channel.reads.refused(now + Math.max(channel.backoff.next(engine.random), error.retryAfterMs ?? 0));
  } else {
    channel.reads.refused(undefined);
    engine.actions.push({ type: "warning", error });
  }
  engine.unreadNews.add(key);
}

/** The node does not have what we think it has: ask anew, after a moment. */
function attachAgain(engine: Engine, now: number, key: Key): void {
  const channel = engine.channels.get(key);
  if (channel?.attach.kind !== "on") return;
  engine.unsubscribe(channel);
  channel.attach = { kind: "off", retryAt: now + channel.backoff.next(engine.random) };
}

function publishRefused(engine: Engine, now: number, key: Key, sequence: number, error: MillraceError): void {
  const channel = engine.channels.get(key);
  if (channel === undefined) return;
  const { outbox } = channel;
  const givenUp = outbox.refused(now, sequence, error.code ?? 0, error.retryAfterMs ?? 0, engine.random);
  outbox.answered(now, engine.random);
  const isStuck = outbox.takeStuck();
  if (error.code === Code.ReadOnly) channel.subscription?.noteCanPublish(false);
  if (givenUp !== undefined) sendFailed(engine, givenUp, error);
  if (isStuck) {
    // Only a new session can tell whether the message behind the one given up is stored.
    connection.dropConnection(engine, now, disconnected("a message waits for one that was given up"));
  }
}

function endsSession(error: MillraceError): boolean {
  return error.advice === "reconnect" || error.advice === "authenticate";
}
