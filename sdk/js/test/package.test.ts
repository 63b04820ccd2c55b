// What is published: how large it is, that it touches nothing when it is imported, that examples run, that names agree.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

import { build } from "esbuild";

import { VERSION } from "../src/version.js";

/** The whole SDK in one file must not be more, in bytes after gzip. */
const BUNDLE_BYTES_MAX = 60 << 10;
const root = fileURLToPath(new URL("../..", import.meta.url));
const read = (name: string) => readFileSync(`${root}${name}`);
const manifest = JSON.parse(read("package.json").toString());

test("the bundle is small", async () => {
  const bundle = read("dist/millrace.min.js");
  const bytes = gzipSync(bundle, { level: 9 }).length;
  console.log(`one-file bundle: ${bundle.length} bytes, ${bytes} after gzip (limit ${BUNDLE_BYTES_MAX})`);
  assert.ok(bytes <= BUNDLE_BYTES_MAX, `${bytes} bytes`);
  // What is not used is not kept: an application that imports only a type or a code pays for that.
  const { outputFiles } = await build({
    stdin: { contents: 'export { Code } from "@millrace/client";', resolveDir: root },
    bundle: true,
    format: "esm",
    minify: true,
    platform: "browser",
    write: false,
  });
  const used = outputFiles[0]?.contents.length ?? 0;
  assert.ok(used > 0 && used < 2_000, `${used} bytes for the codes alone`);
});

test("importing it touches nothing of the platform, and neither does making a client", () => {
  const script = `
    for (const name of ["WebSocket", "window", "document", "navigator", "location", "addEventListener", "crypto"]) {
      Object.defineProperty(globalThis, name, { get() { throw new Error(name + " was touched"); }, configurable: true });
    }
    globalThis.setTimeout = () => { throw new Error("a timer was set"); };
    for (const entry of ["index.js", "node.js"]) {
      const { Millrace, Timeline } = await import("${root}dist/" + entry);
      const client = new Millrace({ url: "ws://127.0.0.1:1", token: "t" });
      new Timeline(client.channel("general")).subscribe(() => {});
    }
    console.log("untouched");`;
  const output = execFileSync(process.execPath, ["--input-type=module", "--eval", script]).toString();
  assert.equal(output.trim(), "untouched");
});

test("what an application prints has the names that it knows", async () => {
  for (const entry of ["index.js", "node.js"]) {
    const exported: Record<string, unknown> = await import(`${root}dist/${entry}`);
    const classes = Object.entries(exported).filter(([, value]) => typeof value === "function");
    assert.ok(classes.some(([name]) => name === "MillraceError"));
    for (const [name, value] of classes) assert.equal((value as { name: string }).name, name);
  }
});

test("what a listener throws is reported aloud and stops nobody", () => {
  const script = `
    import { Millrace } from "${root}dist/node.js";
    process.on("uncaughtException", (error) => console.log("reported:", error.message));
    const client = new Millrace({ url: "ws://127.0.0.1:1", token: "t" });
    client.on("state", () => { throw new Error("a fault of the application"); });
    client.on("state", ({ kind }) => console.log(kind));
    await client.close();`;
  const output = execFileSync(process.execPath, ["--input-type=module", "--eval", script]).toString();
  assert.deepEqual(output.trim().split("\n"), ["closed", "reported: a fault of the application"]);
});

test("the manifest names what there is", () => {
  assert.equal(manifest.version, VERSION);
  assert.equal(manifest.dependencies, undefined, "no runtime dependency");
  for (const entry of Object.values(manifest.exports) as (string | Record<string, string>)[]) {
    for (const file of typeof entry === "string" ? [entry] : Object.values(entry)) read(file.slice(2));
  }
});

test("codes are those of the protocol", () => {
  const spec = readFileSync(`${root}../../protocol/SPEC.md`, "utf8");
  const rows = [...spec.matchAll(/^\| (4\d\d\d) \| ([a-z-]+) \|/gm)].map(([, code, name]) => `${code} ${name}`);
  const script = `import { Code, codeName } from "${root}dist/index.js";
    console.log(JSON.stringify(Object.values(Code).map((code) => code + " " + codeName(code))));`;
  const ours = JSON.parse(execFileSync(process.execPath, ["--input-type=module", "--eval", script]).toString());
  assert.ok(rows.length > 25);
  assert.deepEqual(ours, rows);
});
