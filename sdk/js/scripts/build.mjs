// Makes dist/: an ES module for browsers and bundlers, one for Node, the React entry, one minified file for a script tag, and
// types.
//
//   node scripts/build.mjs [--driver FILE | --chromium FOLDER]
//
// FILE: only the conformance driver, in one file that needs nothing beside it. FOLDER: only the one for Chromium, with its host
// and what the page loads.

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

/** The one-file bundle, for a script tag. */
const oneFile = (outfile) =>
  build({ ...common, entryPoints: ["src/index.ts"], outfile, platform: "browser", minify: true });

/** The page's driver names that bundle, so that it is the published file that is tested. */
const oneFileIsExternal = {
  name: "one-file-is-external",
  setup({ onResolve }) {
    onResolve({ filter: /^@millrace\/client$/ }, () => ({ path: "./millrace.min.js", external: true }));
  },
};

/** A driver for Node. npm's `ws` is of the older kind of module. */
const nodeDriver = {
  ...common,
  platform: "node",
  format: "cjs",
  alias: { "@millrace/client": "./src/node.ts" },
  external: ["bufferutil", "utf-8-validate"],
};

const [what, where] = process.argv.slice(2);
if (what === "--driver") {
  await build({ ...nodeDriver, entryPoints: ["conformance/driver.ts"], outfile: where });
} else if (what === "--chromium") {
  await oneFile(`${where}/millrace.min.js`);
  await build({
    ...common,
    entryPoints: ["conformance/page.ts"],
    outfile: `${where}/page.js`,
    platform: "browser",
    plugins: [oneFileIsExternal],
  });
  const host = { entryPoints: ["conformance/chromium-host.ts"], outfile: `${where}/chromium-host.mjs` };
  await build({ ...common, ...host, platform: "node" });
  await build({ ...nodeDriver, entryPoints: ["conformance/chromium.ts"], outfile: `${where}/chromium.cjs` });
} else {
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
  await oneFile("dist/millrace.min.js");
  const tsc = ["node_modules/typescript/bin/tsc", "--project", "tsconfig.types.json"];
  execFileSync(process.execPath, tsc, { stdio: "inherit" });
}
