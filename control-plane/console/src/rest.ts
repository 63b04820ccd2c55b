// The REST API, as far as the console calls it by itself.

/** A problem of the API (RFC 9457), in words for people. */
export class Problem extends Error {
  override readonly name = "Problem";

  constructor(
    readonly status: number,
    readonly title: string,
    readonly detail: string,
    readonly errors: readonly FieldError[],
  ) {
    super(sentence(errors.length > 0 ? errors.map(({ message }) => message).join("; ") : detail || title));
  }
}

export interface FieldError {
  /** A JSON pointer into the body, `?name` for a parameter, or the name of a header. */
  readonly field: string;
  readonly message: string;
}

/** No answer came. */
export class Unreachable extends Error {
  override readonly name = "Unreachable";
}

export interface Call {
  readonly method?: string;
  readonly path: string;
  readonly query?: Readonly<Record<string, string | number | undefined>>;
  readonly body?: unknown;
  readonly credential?: string;
  readonly idempotencyKey?: string;
  readonly signal?: AbortSignal | undefined;
}

/** What the API answered. */
export interface Answer<T> {
  /** Its shape is the API's word. */
  readonly body: T;
  /** It is the answer to an earlier request of the same `Idempotency-Key`. */
  readonly isRepeated: boolean;
  /** Unix time at the server, ms, in whole seconds; `undefined` if it did not say. */
  readonly serverMs: number | undefined;
}

/**
 * Calls the API and gives the body of its answer.
 *
 * @throws {Problem} what the API refuses.
 * @throws {Unreachable} if no answer comes.
 */
export async function call<T>(request: Call): Promise<T> {
  return (await ask<T>(request)).body;
}

/** As {@link call}, with what the answer says of itself. */
export async function ask<T>({ method = "GET", path, query, body, credential, ...rest }: Call): Promise<Answer<T>> {
  const headers = new Headers({ accept: "application/json" });
  if (credential !== undefined) headers.set("authorization", `Bearer ${credential}`);
  if (body !== undefined) headers.set("content-type", "application/json");
  if (method === "POST") headers.set("idempotency-key", rest.idempotencyKey ?? newKey());
  const given = Object.entries(query ?? {}).filter((pair): pair is [string, string | number] => pair[1] !== undefined);
  const search = new URLSearchParams(given.map(([name, value]) => [name, String(value)]));
  const url = given.length > 0 ? `${path}?${search}` : path;
  const init: RequestInit = { method, headers, cache: "no-store", credentials: "omit", signal: rest.signal ?? null };
  if (body !== undefined) init.body = JSON.stringify(body);
  let response: Response;
  let text: string;
  try {
    response = await fetch(url, init);
    text = await response.text();
  } catch (cause) {
    if (rest.signal?.aborted) throw rest.signal.reason;
    throw new Unreachable("The server cannot be reached.", { cause });
  }
  if (!response.ok) throw problemFrom(response.status, text);
  const date = Date.parse(response.headers.get("date") ?? "");
  return {
    body: (text === "" ? undefined : JSON.parse(text)) as T,
    isRepeated: response.headers.get("idempotency-replayed") === "true",
    serverMs: Number.isNaN(date) ? undefined : date,
  };
}

/** Whether the same request may well have another answer in a moment: the server is away, busy, or at this very request. */
export function isPassing(error: unknown): boolean {
  return !(error instanceof Problem) || error.status >= 500 || [408, 409, 425, 429].includes(error.status);
}

/** Reads a refusal; one that is no problem of ours, such as a proxy's, is told by its status. */
export function problemFrom(status: number, text: string): Problem {
  try {
    const { title, detail, errors } = JSON.parse(text) as Record<string, unknown>;
    const fields = Array.isArray(errors) ? (errors as FieldError[]) : [];
    return new Problem(status, String(title ?? `Status ${status}`), String(detail ?? ""), fields);
  } catch {
    return new Problem(status, `The server answered with status ${status}`, "", []);
  }
}

/** An error of any kind, in words. */
export function words(error: unknown): string {
  return error instanceof Error ? sentence(error.message) : "Something went wrong.";
}

/** Our messages are lower case and without a full stop; people read sentences. */
export function sentence(text: string): string {
  const trimmed = text.trim();
  if (trimmed === "") return "Something went wrong.";
  return trimmed.charAt(0).toUpperCase() + trimmed.slice(1) + (/[.!?…]$/.test(trimmed) ? "" : ".");
}

/** Names a request that is made once, however often it is sent. */
export function newKey(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** A name as one segment of a path. */
export const segment = (name: string): string => encodeURIComponent(name);

export type Role = "owner" | "moderator" | "member" | "reader";

export interface ChannelInfo {
  readonly name: string;
  readonly kind: "dm" | "group" | "broadcast";
  readonly history: "durable" | "windowed" | "none";
  readonly display_name: string | null;
  readonly archived_ms: number | null;
  readonly role?: Role;
}

export interface Member {
  readonly user: string;
  readonly role: Role;
  readonly display_name?: string;
}

export interface TokenPair {
  readonly token: string;
  readonly refresh_token: string;
}
