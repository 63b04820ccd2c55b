// The OpenAPI document, as far as a form needs it: operations, parameters, schemas. Pure.

export type Json = null | boolean | number | string | readonly Json[] | { readonly [name: string]: Json };

export interface Schema {
  readonly $ref?: string;
  readonly type?: string | readonly string[];
  readonly description?: string;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly required?: readonly string[];
  readonly items?: Schema;
  readonly enum?: readonly Json[];
  readonly oneOf?: readonly Schema[];
  readonly example?: Json;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly maxLength?: number;
  readonly maxItems?: number;
}

export interface Parameter {
  readonly name: string;
  readonly in: "path" | "query" | "header";
  readonly required?: boolean;
  readonly description?: string;
  readonly schema?: Schema;
}

export interface Operation {
  readonly id: string;
  readonly method: string;
  readonly path: string;
  readonly tag: string;
  readonly summary: string;
  readonly description: string;
  readonly parameters: readonly Parameter[];
  /** Of the body, if there is one. */
  readonly body: Schema | undefined;
  /** Kinds of credential that it takes; empty if it needs none. */
  readonly credentials: readonly string[];
}

export interface Document {
  readonly operations: readonly Operation[];
  readonly tags: readonly { readonly name: string; readonly description: string }[];
  /** A schema with its references followed. */
  resolve(schema: Schema): Schema;
}

interface RawOperation {
  readonly operationId: string;
  readonly summary?: string;
  readonly description?: string;
  readonly tags?: readonly string[];
  readonly parameters?: readonly Parameter[];
  readonly requestBody?: { readonly content: Readonly<Record<string, { readonly schema?: Schema }>> };
  readonly security?: readonly Readonly<Record<string, unknown>>[];
}

interface RawDocument {
  readonly paths: Readonly<Record<string, Readonly<Record<string, RawOperation>>>>;
  readonly tags?: readonly { readonly name: string; readonly description?: string }[];
  readonly components?: { readonly schemas?: Readonly<Record<string, Schema>> };
}

const METHODS = ["get", "post", "put", "patch", "delete"] as const;

/** Reads the document that the server serves. */
export function readDocument(json: unknown): Document {
  const raw = json as RawDocument;
  const schemas = raw.components?.schemas ?? {};
  const operations = Object.entries(raw.paths).flatMap(([path, item]) =>
    METHODS.flatMap((method) => {
      const found = item[method];
      return found === undefined ? [] : [operation(path, method, found)];
    }),
  );
  const tags = (raw.tags ?? []).map(({ name, description = "" }) => ({ name, description }));
  return { operations, tags, resolve: (schema) => resolve(schemas, schema) };
}

function operation(path: string, method: string, raw: RawOperation): Operation {
  return {
    id: raw.operationId,
    method: method.toUpperCase(),
    path,
    tag: raw.tags?.[0] ?? "",
    summary: (raw.summary ?? raw.operationId).replace(/\.$/, ""),
    description: raw.description ?? "",
    parameters: raw.parameters ?? [],
    body: raw.requestBody?.content["application/json"]?.schema,
    credentials: (raw.security ?? []).flatMap((names) => Object.keys(names)),
  };
}

/** Follows references, and takes "this or null" for this: a field that may be null is one that may be left empty. */
function resolve(schemas: Readonly<Record<string, Schema>>, schema: Schema): Schema {
  let found = schema;
  for (let steps = 0; steps < 8; steps++) {
    const { $ref, oneOf, description } = found;
    const only = oneOf?.filter(({ type }) => type !== "null");
    const next: Schema | undefined =
      $ref === undefined ? (only?.length === 1 ? only[0] : undefined) : schemas[$ref.slice($ref.lastIndexOf("/") + 1)];
    if (next === undefined) break;
    // What stands beside a reference is said of this very place.
    found = description === undefined ? next : { ...next, description };
  }
  return found;
}

/** The kind of value that a resolved schema wants. */
export function typeOf({ type, enum: values, properties }: Schema): string {
  const named = typeof type === "string" ? type : type?.find((one) => one !== "null");
  if (values !== undefined) return "choice";
  if (named === "object" && properties === undefined) return "json";
  return named ?? (properties === undefined ? "json" : "object");
}
