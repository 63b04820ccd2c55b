// Measures our accessors against capnp-es: size in a bundle, and how fast a message and a page are decoded. For the decision in
// docs/adr/0008-typescript-wire.md; needs `npm ci` in sdk/conformance/clients, and the `capnp` tool.
//
//   npm run measure

import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath, pathToFileURL } from "node:url";
import { gzipSync } from "node:zlib";

import { build } from "esbuild";

const root = fileURLToPath(new URL("..", import.meta.url));
const clients = `${root}../conformance/clients`;
const schema = `${root}../../protocol/schema/client.capnp`;
const out = `${clients}/node_modules/.millrace`;
mkdirSync(out, { recursive: true });

const require = createRequire(`${clients}/package.json`);
const { compileAll } = await import(pathToFileURL(require.resolve("capnp-es/compiler")));
const request = execFileSync("capnp", ["compile", "-o-", `--src-prefix=${root}../../protocol/schema`, schema]);
// It looks for itself from here.
process.chdir(clients);
const { files } = await compileAll(request, { js: true, ts: false, dts: false });
writeFileSync(`${out}/measure.mjs`, [...files.values()][0]);

async function size(contents, resolveDir) {
  const options = { bundle: true, format: "esm", minify: true, write: false, platform: "browser", target: "es2022" };
  const { outputFiles } = await build({ ...options, stdin: { contents, resolveDir, loader: "ts" } });
  return { minified: outputFiles[0].contents.length, gzip: gzipSync(outputFiles[0].contents, { level: 9 }).length };
}

const ours = await size(
  'export { decodeServer } from "./src/wire/decode.js"; export { encodeClient } from "./src/wire/encode.js";',
  root,
);
const theirs = await size(
  'export { ClientFrame, ServerFrame } from "./measure.mjs"; export { Message } from "capnp-es";',
  out,
);

await build({
  stdin: { contents: 'export { decodeServer } from "./src/wire/decode.js";', resolveDir: root, loader: "ts" },
  bundle: true,
  format: "esm",
  outfile: `${root}build/measure.mjs`,
});
const { decodeServer } = await import(pathToFileURL(`${root}build/measure.mjs`));
const { ServerFrame } = await import(pathToFileURL(`${out}/measure.mjs`));
const capnp = await import(pathToFileURL(require.resolve("capnp-es")));

const vectors = JSON.parse(readFileSync(`${root}../conformance/vectors/server.json`, "utf8"));
const frame = (name) => new Uint8Array(Buffer.from(vectors.frames.find((vector) => vector.name === name).hex, "hex"));

/** Reads every field, as an application needs them. */
function message(from) {
  return {
    channel: from.channel,
    position: { epoch: from.position.epoch, offset: from.position.offset },
    timeMs: from.timeMs,
    user: from.user,
    producer: from.producer,
    sequence: from.sequence,
    body: from.body.toUint8Array(),
  };
}

function theirDecode(bytes) {
  const root = new capnp.Message(bytes, false).getRoot(ServerFrame);
  const { request } = root;
  if (root._isMessage) return { request, message: message(root.message) };
  const { page } = root;
  return { request, channel: page.channel, messages: page.messages.map(message), more: page.more };
}

/** Frames a second: the best of five runs, so that neither a cold start nor a busy machine counts. */
function rate(decode, bytes) {
  let best = 0;
  for (let run = 0; run < 5; run++) {
    const begun = performance.now();
    let count = 0;
    let sum = 0;
    while (performance.now() - begun < 400) {
      for (let index = 0; index < 200; index++) sum += decode(bytes).request;
      count += 200;
    }
    if (sum < 0) throw new Error("not reached: keeps the work");
    best = Math.max(best, (count / (performance.now() - begun)) * 1_000);
  }
  return Math.round(best);
}

const rows = ["message", "page"].map((name) => ({
  frame: `${name} (${frame(name).length} bytes)`,
  "ours, frames/s": rate(decodeServer, frame(name)),
  "capnp-es, frames/s": rate(theirDecode, frame(name)),
}));
console.table([
  { what: "ours", ...ours },
  { what: "capnp-es", ...theirs },
]);
console.table(rows);
