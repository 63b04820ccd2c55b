// Builds, then runs every test file and ends with one line that counts: `N passed, M failed`.
//
//   node scripts/test.mjs [--only TEXT] [--no-build]     TEXT: part of a file's name

import { mkdirSync, readdirSync, rmSync } from "node:fs";
import { basename } from "node:path";
import { run } from "node:test";
import { spec } from "node:test/reporters";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

const root = fileURLToPath(new URL("..", import.meta.url));
process.chdir(root);
const only = process.argv.includes("--only") ? process.argv[process.argv.indexOf("--only") + 1] : "";
if (!process.argv.includes("--no-build")) await import("./build.mjs");

const files = readdirSync("test").filter((name) => /\.test\.tsx?$/.test(name) && name.includes(only));
rmSync("build/test", { recursive: true, force: true });
mkdirSync("build/test", { recursive: true });
await build({
  entryPoints: files.map((name) => `test/${name}`),
  outdir: "build/test",
  outExtension: { ".js": ".mjs" },
  bundle: true,
  format: "esm",
  platform: "node",
  target: "node20",
  packages: "external",
  jsx: "automatic",
  sourcemap: "inline",
  logLevel: "warning",
});

let passed = 0;
let failed = 0;
const isCase = (event) => event.details.type !== "suite";
const tests = run({
  files: readdirSync("build/test").map((name) => `${root}build/test/${basename(name)}`),
  concurrency: 2,
});
tests.on("test:pass", (event) => {
  if (isCase(event) && !event.skip) passed += 1;
});
tests.on("test:fail", (event) => {
  if (isCase(event)) failed += 1;
});
tests.compose(new spec()).pipe(process.stdout);
await new Promise((resolve) => tests.on("end", resolve));
process.on("exit", () => {
  console.log(`${passed} passed, ${failed} failed`);
  if (failed > 0 || passed === 0) process.exitCode = 1;
});
