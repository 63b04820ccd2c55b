// The guide's examples, run as they stand against a real server, and held to what the guide says they print.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

import { build } from "esbuild";

import { Server } from "./support/server.js";

const root = fileURLToPath(new URL("../..", import.meta.url));
// Within the package, so that its name leads to dist/ as it does for whoever installs it.
const folder = `${root}build/guide`;
const guide = readFileSync(`${root}GUIDE.md`, "utf8");
const examples = [
  ...guide.matchAll(/^## (.+)\n(?:(?!^## )[\s\S])*?^```js\n([\s\S]+?)^```\n\n```text\n([\s\S]+?)^```/gm),
];
let server: Server;

before(async () => {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  server = await Server.start();
});

after(() => server.stop());

test("every example is run", () => {
  assert.equal(examples.length, guide.match(/^```js$/gm)?.length);
  assert.ok(examples.length >= 9);
});

for (const [index, [, title = "", program = "", expect = ""]] of examples.entries()) {
  test(title, { timeout: 30_000 }, async () => {
    const file = `${folder}/${index}.mjs`;
    writeFileSync(file, program);
    const { url, token } = server.ready ?? assert.fail("no server");
    const env = { ...process.env, MILLRACE_URL: url, MILLRACE_TOKEN: token };
    const { stdout } = await promisify(execFile)(process.execPath, [file], { env, timeout: 20_000 });
    assert.equal(stdout, expect);
  });
}

test("the React example compiles", async () => {
  const [, source = assert.fail("no example")] = /^```tsx\n([\s\S]+?)^```/m.exec(guide) ?? [];
  const { outputFiles } = await build({
    stdin: { contents: source, loader: "tsx", resolveDir: root },
    bundle: true,
    format: "esm",
    jsx: "automatic",
    write: false,
    external: ["react"],
    platform: "browser",
  });
  const bundle = outputFiles[0]?.text ?? "";
  assert.equal(
    bundle.match(/class Millrace /g)?.length ?? bundle.match(/Millrace = class/g)?.length,
    1,
    "one copy of the client",
  );
});
