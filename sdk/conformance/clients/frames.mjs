// Frames of Millrace by capnp-es, a Cap'n Proto that nobody here wrote. It compiles our schema when this module is loaded; the
// schema itself is parsed by the `capnp` tool.

import { execFileSync } from "node:child_process";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

import * as capnp from "capnp-es";
import { compileAll } from "capnp-es/compiler";

const here = dirname(fileURLToPath(import.meta.url));
const { ClientFrame, ServerFrame } = await compile(join(here, "../../../protocol/schema/client.capnp"));

async function compile(schema) {
  const request = execFileSync("capnp", ["compile", "-o-", `--src-prefix=${dirname(schema)}`, schema]);
  const { files } = await compileAll(request, { js: true, ts: false, dts: false });
  const [source] = files.values();
  // Beside the packages, so that it finds them; one for each process, as several may run.
  const folder = join(here, "node_modules", ".millrace");
  mkdirSync(folder, { recursive: true });
  const file = join(folder, `client-${process.pid}.mjs`);
  writeFileSync(file, source);
  try {
    return await import(pathToFileURL(file));
  } finally {
    rmSync(file);
  }
}

// Fields to read of each member of a server frame. 0 reads a plain value.
const POSITION = { epoch: 0, offset: 0 };
const MESSAGE = { channel: 0, position: POSITION, timeMs: 0, user: 0, producer: 0, sequence: 0, body: 0 };
const SERVER = {
  welcome: {
    ...{ version: 0, heartbeatMs: 0, features: 0, session: 0, tokenExpiresMs: 0 },
    ...{ payloadBytesMax: 0, subscriptionsMax: 0, node: 0 },
  },
  subscribed: { name: 0, channel: 0, position: POSITION, history: 0, canPublish: 0, recovery },
  unsubscribed: { channel: 0, code: 0, reason: 0 },
  published: { channel: 0, producer: 0, sequence: 0, position: POSITION, duplicate: 0 },
  message: MESSAGE,
  page: { channel: 0, messages: (list) => list.toArray().map((item) => read(item, MESSAGE)), more: 0 },
  refreshed: { tokenExpiresMs: 0 },
  error: { code: 0, message: 0, retryAfterMs: 0, channel: 0 },
  ping: null,
  goAway: { code: 0, afterMs: 0 },
  skipped: { channel: 0, first: POSITION, last: POSITION },
};

function recovery(group) {
  return group._isNone ? "none" : group._isWhole ? "whole" : group.reload;
}

function read(struct, fields) {
  const found = {};
  for (const [name, how] of Object.entries(fields)) {
    const value = struct[name];
    if (typeof how === "function") found[name] = how(value);
    else if (how !== 0) found[name] = read(value, how);
    else found[name] = value instanceof capnp.Data ? Buffer.from(value.toUint8Array()) : value;
  }
  return found;
}

function fill(struct, values) {
  for (const [name, value] of Object.entries(values)) {
    const init = (length) => struct[`_init${name[0].toUpperCase()}${name.slice(1)}`](length);
    if (value === null) struct[name] = true;
    else if (Buffer.isBuffer(value)) init(value.length).copyBuffer(value);
    else if (Array.isArray(value)) {
      const list = init(value.length);
      value.forEach((item, at) => fill(list.get(at), item));
    } else if (typeof value === "object") fill(init(), value);
    else struct[name] = value;
  }
}

/** The bytes of a client frame: `encode(1, { pong: null })`. 64-bit numbers are BigInts, bytes are Buffers. */
export function encode(request, body) {
  // One segment, as the protocol asks, however long.
  const message = new capnp.Message(undefined, false, true);
  const frame = message.initRoot(ClientFrame);
  frame.request = request;
  fill(frame, body);
  return Buffer.from(message.toArrayBuffer());
}

/** A server frame as `{ request, member, content }`; a member that the schema does not have is `unknown`. */
export function decode(bytes) {
  const frame = new capnp.Message(new Uint8Array(bytes), false).getRoot(ServerFrame);
  const member = Object.keys(SERVER)[frame.which()] ?? "unknown";
  const fields = SERVER[member];
  return { request: frame.request, member, content: fields ? read(frame[member], fields) : null };
}
