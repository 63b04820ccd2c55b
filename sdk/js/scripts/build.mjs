// Makes dist/: an ES module for browsers and bundlers, one for Node, the React entry, one minified file for a script tag, and
// types.
//
//   node scripts/build.mjs [--driver FILE]     FILE: only the conformance driver, in one file that needs nothing beside it

import { execFileSync } from "node:child_process";
import { rmSync } from "node:fs";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

process.chdir(fileURLToPath(new URL("..", import.meta.url)));

const common = { bundle: true, format: "esm", target: "es2022", legalComments: "none", logLevel: "warning" };
const esm = { ...common, sourcemap: true };

/** The React entry names the main one instead of having a copy of it. */
const mainIsExternal = {
  name: "main-is-external",
  setup({ onResolve }) {
    onResolve({ filter: /^\.\/index\.js$/ }, () => ({ path: "@millrace/client", external: true }));
  },
};

const driver = process.argv.indexOf("--driver");
if (driver < 0) {
  rmSync("dist", { recursive: true, force: true });
  await build({ ...esm, entryPoints: ["src/index.ts"], outfile: "dist/index.js", platform: "browser" });
  await build({ ...esm, entryPoints: ["src/node.ts"], outfile: "dist/node.js", platform: "node", external: ["ws"] });
  await build({
    ...esm,
    entryPoints: ["src/react.ts"],
    outfile: "dist/react.js",
    platform: "neutral",
    external: ["react"],
    plugins: [mainIsExternal],
  });
  await build({
    ...common,
    entryPoints: ["src/index.ts"],
    outfile: "dist/millrace.min.js",
    platform: "browser",
    minify: true,
  });
  const tsc = ["node_modules/typescript/bin/tsc", "--project", "tsconfig.types.json"];
  execFileSync(process.execPath, tsc, { stdio: "inherit" });
} else {
  await build({
    ...common,
    entryPoints: ["conformance/driver.ts"],
    outfile: process.argv[driver + 1],
    platform: "node",
    // npm's ws is of the older kind of module.
    format: "cjs",
    alias: { "@millrace/client": "./src/node.ts" },
    external: ["bufferutil", "utf-8-validate"],
  });
}
