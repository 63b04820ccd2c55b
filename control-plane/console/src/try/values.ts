// What stands in the fields of a form, and the request that it makes. Pure.

import { type Document, type Json, type Operation, type Schema, typeOf } from "./openapi.js";

/** Text by place: a JSON pointer into the body, `?name` for a parameter in the query, `{name}` in the path, a header's name. */
export type Values = ReadonlyMap<string, string>;

/** Errors by place; `""` is the request as a whole. */
export type Errors = ReadonlyMap<string, string>;

export interface Request {
  readonly method: string;
  /** Path and query. */
  readonly target: string;
  readonly headers: readonly (readonly [string, string])[];
  readonly body: string | undefined;
}

/** Place of the number of items of a list. */
export const countOf = (pointer: string): string => `${pointer}#`;

/** One step of a JSON pointer (RFC 6901). */
export const step = (name: string | number): string => `/${String(name).replaceAll("~", "~0").replaceAll("/", "~1")}`;

export function placeOf(parameter: { readonly name: string; readonly in: string }): string {
  if (parameter.in === "query") return `?${parameter.name}`;
  return parameter.in === "path" ? `{${parameter.name}}` : parameter.name;
}

/** Makes the request of the values, or says which do not fit; the server judges everything else. */
export function makeRequest(
  document: Document,
  operation: Operation,
  values: Values,
  /** The body as written by hand, instead of by fields. */
  written: string | undefined,
): { readonly request: Request } | { readonly errors: Errors } {
  const errors = new Map<string, string>();
  const query = new URLSearchParams();
  const headers: [string, string][] = [];
  let path = operation.path;
  for (const parameter of operation.parameters) {
    const place = placeOf(parameter);
    const value = values.get(place) ?? "";
    if (parameter.in === "path") {
      if (value === "") errors.set(place, "is needed");
      path = path.replace(`{${parameter.name}}`, encodeURIComponent(value));
    } else if (value !== "") {
      if (parameter.in === "query") query.append(parameter.name, value);
      else if (/^[\x20-\x7e]+$/.test(value)) headers.push([parameter.name, value]);
      else errors.set(place, "can have visible ASCII characters only");
    }
  }
  let body: string | undefined;
  if (operation.body !== undefined) {
    body = written ?? JSON.stringify(bodyOf(document, operation.body, values, errors) ?? {}, undefined, 2);
    headers.push(["Content-Type", "application/json"]);
  }
  if (errors.size > 0) return { errors };
  const target = query.size > 0 ? `${path}?${query}` : path;
  return { request: { method: operation.method, target, headers, body } };
}

/** The body that the fields make; what is empty is left out. */
export function bodyOf(
  document: Document,
  schema: Schema,
  values: Values,
  errors = new Map<string, string>(),
): Json | undefined {
  return readValue(document, schema, values, "", errors, true);
}

function readValue(
  document: Document,
  given: Schema,
  values: Values,
  pointer: string,
  errors: Map<string, string>,
  isRequired: boolean,
): Json | undefined {
  const schema = document.resolve(given);
  const text = values.get(pointer) ?? "";
  switch (typeOf(schema)) {
    case "object": {
      const members: Record<string, Json> = {};
      for (const [name, property] of Object.entries(schema.properties ?? {})) {
        const needed = schema.required?.includes(name) ?? false;
        const value = readValue(document, property, values, pointer + step(name), errors, needed);
        if (value !== undefined) members[name] = value;
      }
      return isRequired || Object.keys(members).length > 0 ? members : undefined;
    }
    case "array": {
      const count = Number(values.get(countOf(pointer)) ?? 0);
      const items = Array.from({ length: count }, (_, index) =>
        readValue(document, schema.items ?? {}, values, pointer + step(index), errors, true),
      );
      return isRequired || count > 0 ? items.map((item) => item ?? null) : undefined;
    }
    case "integer":
    case "number":
      if (text === "") return undefined;
      if (!/^-?\d+(\.\d+)?$/.test(text)) errors.set(pointer, "is no number");
      return Number(text);
    case "boolean":
      return text === "" ? undefined : text === "true";
    case "json":
      if (text.trim() === "") return undefined;
      try {
        return JSON.parse(text) as Json;
      } catch {
        errors.set(pointer, "is no JSON");
        return undefined;
      }
    default:
      // An empty text that somebody asked for in a list is one.
      return text === "" && !/\/\d+$/.test(pointer) ? undefined : text;
  }
}

/** The same request for a shell. The credential stands in a variable, so that it is in no history. */
export function curl(origin: string, { method, target, headers, body }: Request, hasCredential: boolean): string {
  const quote = (text: string) => `'${text.replaceAll("'", "'\\''")}'`;
  const words = [`curl ${method === "GET" ? "" : `-X ${method} `}${quote(origin + target)}`];
  if (hasCredential) words.push('-H "Authorization: Bearer $MILLRACE_TOKEN"');
  for (const [name, value] of headers) words.push(`-H ${quote(`${name}: ${value}`)}`);
  if (body !== undefined) words.push(`--data-raw ${quote(body)}`);
  return words.join(" \\\n  ");
}
