// The driver of sdk/conformance/DRIVER.md, wherever it runs: does what it is told, line by line, over the SDK's public API, and
// tells what it hears. It decides nothing. `driver.ts` gives it standard input and output, `page.ts` a page of a browser.

import {
  type Channel,
  type ChannelEvent,
  type Message,
  Millrace,
  MillraceError,
  type MillraceOptions,
  type Position,
  type State,
  type Unread,
  VERSION,
} from "@millrace/client";

type Json = { readonly [name: string]: unknown };

const CAPABILITIES = [
  "fail-fast",
  "lazy",
  "token-provider",
  "endpoints",
  "pause",
  "after-offset",
  "queue",
  "window",
  "timeouts",
  "backoff",
  "read-positions",
];

/** A command, or a field of one, that this driver does not know. */
class Unsupported extends Error {}

/** What a platform gives the driver. */
export interface Platform {
  /** Tells one line, whose end is left out. */
  tell(line: string): void;
  /** Calls `then` behind everything that is ready now. */
  later(then: () => void): void;
}

let platform: Platform;

function emit(event: string, fields: Json): void {
  platform.tell(JSON.stringify({ event, ...fields }));
}

function body(bytes: Uint8Array): Json {
  let binary = "";
  for (const byte of bytes) binary += String.fromCharCode(byte);
  return { base64: btoa(binary) };
}

function told(message: Message): Json {
  const { position, timeMs, user, producer, sequence } = message;
  return {
    position,
    time_ms: timeMs,
    user,
    producer: `${producer}`,
    sequence: Number(sequence),
    ...body(message.body),
  };
}

function errorOf(error: unknown): Json {
  if (error instanceof Unsupported) return { kind: "unsupported", advice: "do-not-retry", message: error.message };
  // Anything but the SDK's own error is a fault of the SDK or of this driver, and must not look like one of the table.
  if (!(error instanceof MillraceError)) {
    return { kind: "unexpected", advice: "do-not-retry", message: String(error) };
  }
  return {
    kind: error.kind,
    advice: error.advice,
    message: error.message,
    ...(error.code === undefined ? {} : { code: error.code }),
    ...(error.retryAfterMs === undefined ? {} : { retry_after_ms: error.retryAfterMs }),
    ...(error.cause instanceof MillraceError ? { cause: errorOf(error.cause) } : {}),
  };
}

/** Reads a subscription, as long as it is not paused. */
class Reader {
  private events: AsyncGenerator<ChannelEvent, void>;
  /** An event that was asked for before the pause. */
  private held: Promise<IteratorResult<ChannelEvent, void>> | undefined;
  private isReading = false;

  constructor(
    private readonly client: string,
    readonly channel: Channel,
    public isPaused: boolean,
  ) {
    this.events = channel.events();
  }

  async read(): Promise<void> {
    if (this.isReading) return;
    this.isReading = true;
    while (!this.isPaused) {
      this.held ??= this.events.next();
      const { done, value } = await this.held;
      if (this.isPaused) break;
      this.held = undefined;
      if (done === true) break;
      this.tell(value);
    }
    this.isReading = false;
  }

  private tell(event: ChannelEvent): void {
    const of = { client: this.client, channel: this.channel.name };
    switch (event.type) {
      case "message":
        return emit("message", { ...of, ...told(event.message) });
      case "skipped": {
        const { kind, ...rest } = event.skipped;
        return emit("skipped", { ...of, reason: kind, ...rest });
      }
      case "reset": {
        const codes = { "epoch-changed": 4300, "position-too-old": 4301, "position-ahead": 4302 };
        return emit("reset", { ...of, code: codes[event.reason], position: event.position });
      }
      case "canPublish":
        return emit("can_publish", { ...of, can_publish: event.canPublish });
      case "ended":
        return emit("ended", { ...of, error: errorOf(event.error) });
    }
  }
}

class Client {
  readonly millrace: Millrace;
  private readonly channels = new Map<string, Channel>();
  readonly readers = new Map<string, Reader>();
  private asks = 0;
  private readonly wanted = new Map<number, { resolve(token: string): void; reject(error: Error): void }>();

  constructor(
    readonly label: string,
    options: Omit<MillraceOptions, "token">,
    token: string | undefined,
  ) {
    this.millrace = new Millrace({ ...options, token: token ?? (() => this.ask()) });
  }

  /** Tells states from now on. A client that could not be made has none: the failure of its command says why. */
  watch(): void {
    const tell = (state: State) => emit("state", { client: this.label, ...stateOf(state) });
    tell(this.millrace.state);
    this.millrace.on("state", tell);
  }

  channel(name: string): Channel {
    const channel = this.channels.get(name) ?? this.millrace.channel(name);
    this.channels.set(name, channel);
    return channel;
  }

  answer(ask: number, token: string | undefined, error: string | undefined): void {
    const wanted = this.wanted.get(ask);
    this.wanted.delete(ask);
    if (token !== undefined) wanted?.resolve(token);
    else wanted?.reject(new Error(error ?? "no token"));
  }

  private ask(): Promise<string> {
    this.asks += 1;
    const ask = this.asks;
    emit("token_wanted", { client: this.label, ask });
    return new Promise((resolve, reject) => {
      this.wanted.set(ask, { resolve, reject });
    });
  }
}

function stateOf(state: State): Json {
  switch (state.kind) {
    case "connected":
      return { state: state.kind, session: state.session, node: state.node };
    case "reconnecting":
      return {
        state: state.kind,
        attempt: state.attempt,
        delay_ms: Math.round(state.delayMs),
        error: errorOf(state.error),
      };
    case "closed":
      return { state: state.kind, ...(state.error === undefined ? {} : { error: errorOf(state.error) }) };
    default:
      return { state: state.kind };
  }
}

const clients = new Map<string, Client>();

function clientOf(command: Json): Client {
  const client = clients.get(text(command, "client"));
  if (client === undefined) throw new Unsupported(`there is no client ${command.client}`);
  return client;
}

function text(command: Json, field: string): string {
  const value = command[field];
  if (typeof value !== "string") throw new Unsupported(`${field} is no text`);
  return value;
}

function number(command: Json, field: string): number | undefined {
  const value = command[field];
  if (value === undefined || typeof value === "number") return value;
  throw new Unsupported(`${field} is no number`);
}

/** Refuses fields that are not named: an option that is ignored would test nothing. */
function only(command: Json, ...fields: string[]): void {
  for (const field of Object.keys(command)) {
    if (field !== "id" && field !== "command" && !fields.includes(field)) {
      throw new Unsupported(`the field ${field} of ${command.command}`);
    }
  }
}

const given = <T extends object>(fields: T) =>
  Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as {
    [Name in keyof T]?: Exclude<T[Name], undefined>;
  };

function options(command: Json): Omit<MillraceOptions, "token"> {
  const more = Array.isArray(command.urls) ? command.urls.map(String) : [];
  const n = (field: string) => number(command, field);
  return {
    url: [text(command, "url"), ...more],
    queue: given({ messagesMax: n("queue_messages"), bytesMax: n("queue_bytes") }),
    window: given({ messagesMax: n("window_messages"), bytesMax: n("window_bytes") }),
    backoff: given({ firstMs: n("backoff_first_ms"), maxMs: n("backoff_max_ms") }),
    ...given({
      certificateHashes: command.certificate_hashes as MillraceOptions["certificateHashes"],
      connectTimeoutMs: n("connect_timeout_ms"),
      requestTimeoutMs: n("request_timeout_ms"),
      sendTimeoutMs: n("send_timeout_ms"),
      closeTimeoutMs: n("close_timeout_ms"),
    }),
  };
}

const OPTIONS = [
  ...["client", "url", "urls", "token", "token_provider", "lazy"],
  ...["queue_messages", "queue_bytes", "window_messages", "window_bytes", "backoff_first_ms", "backoff_max_ms"],
  ...["connect_timeout_ms", "request_timeout_ms", "send_timeout_ms", "close_timeout_ms", "certificate_hashes"],
];

function startOf(start: unknown): { after?: Position; afterOffset?: number } {
  if (start === undefined || start === "live") return {};
  const { after, after_offset: afterOffset } = start as { after?: Position; after_offset?: number };
  if (after !== undefined) return { after };
  if (afterOffset !== undefined) return { afterOffset };
  throw new Unsupported(`the start ${JSON.stringify(start)}`);
}

const COMMANDS: Readonly<Record<string, (command: Json) => Promise<Json> | Json>> = {
  async connect(command) {
    only(command, ...OPTIONS);
    const label = text(command, "client");
    const token = command.token_provider === true ? undefined : text(command, "token");
    const client = new Client(label, options(command), token);
    clients.set(label, client);
    const connected = client.millrace.connect({ failFast: command.lazy !== true });
    if (command.lazy === true) connected.catch(() => {});
    else await connected;
    client.watch();
    return {};
  },
  async subscribe(command) {
    only(command, "client", "channel", "start", "paused");
    const client = clientOf(command);
    const name = text(command, "channel");
    const channel = client.millrace.channel(name);
    await channel.subscribe(startOf(command.start));
    const reader = new Reader(client.label, channel, command.paused === true);
    client.readers.set(name, reader);
    const tell = (unread: Unread) => emit("unread", { client: client.label, channel: name, ...unread });
    channel.on("unread", tell);
    // What is known before anybody follows it changes nothing any more.
    const { unread } = channel;
    if (unread !== undefined) platform.later(() => tell(unread));
    const { position, historyClass, canPublish } = channel;
    // What it tells comes behind the answer.
    platform.later(() => void reader.read());
    return { position, history: historyClass, can_publish: canPublish };
  },
  unsubscribe(command) {
    const reader = readerOf(command);
    reader.isPaused = true;
    reader.channel.unsubscribe();
    clientOf(command).readers.delete(reader.channel.name);
    return {};
  },
  pause(command) {
    readerOf(command).isPaused = true;
    return {};
  },
  unpause(command) {
    const reader = readerOf(command);
    reader.isPaused = false;
    platform.later(() => void reader.read());
    return {};
  },
  async send(command) {
    only(command, "client", "channel", "text", "base64");
    const channel = clientOf(command).channel(text(command, "channel"));
    const content =
      command.base64 === undefined
        ? text(command, "text")
        : Uint8Array.from(atob(text(command, "base64")), (char) => char.charCodeAt(0));
    const { receipt } = await channel.submit(content);
    emit("submitted", { id: command.id });
    return { position: (await receipt).position };
  },
  "mark-read"(command) {
    only(command, "client", "channel", "position");
    clientOf(command)
      .channel(text(command, "channel"))
      .markRead(command.position as Position);
    return {};
  },
  async history(command) {
    only(command, "client", "channel", "before", "after", "limit");
    const channel = clientOf(command).channel(text(command, "channel"));
    const [before, after, limit] = [number(command, "before"), number(command, "after"), number(command, "limit")];
    const page = await channel.history({ before, after, limit });
    return { messages: page.messages.map(told), more: page.more };
  },
  token(command) {
    only(command, "client", "ask", "token", "error");
    const ask = number(command, "ask") ?? 0;
    const token = command.token === undefined ? undefined : text(command, "token");
    const error = command.error === undefined ? undefined : text(command, "error");
    // The answer to the command comes first.
    platform.later(() => clientOf(command).answer(ask, token, error));
    return {};
  },
  async close(command) {
    only(command, "client");
    await clientOf(command).millrace.close();
    return {};
  },
};

function readerOf(command: Json): Reader {
  only(command, "client", "channel");
  const reader = clientOf(command).readers.get(text(command, "channel"));
  if (reader === undefined) throw new Unsupported(`nobody reads ${command.channel}`);
  return reader;
}

/** Begins: what it returns takes each line. */
export function drive(on: Platform): (line: string) => void {
  platform = on;
  emit("ready", { protocol: 1, sdk: "typescript", version: VERSION, capabilities: CAPABILITIES });
  return (line) => void obey(line);
}

async function obey(line: string): Promise<void> {
  const command = JSON.parse(line) as Json;
  const { id } = command;
  try {
    const does = COMMANDS[String(command.command)];
    if (does === undefined) throw new Unsupported(`the command ${command.command}`);
    emit("done", { id, ...(await does(command)) });
  } catch (error) {
    emit("failed", { id, error: errorOf(error) });
  }
}
