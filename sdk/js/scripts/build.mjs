// Makes dist/: an ES module for browsers and bundlers, one for Node, the React entry, one minified file for a script tag, and types.

import { execFileSync } from "node:child_process";
import { rmSync } from "node:fs";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

const here = fileURLToPath(new URL("..", import.meta.url));
process.chdir(here);
rmSync("dist", { recursive: true, force: true });

const common = { bundle: true, format: "esm", target: "es2022", legalComments: "none", logLevel: "warning" };
await build({
  ...common,
  entryPoints: ["src/index.ts"],
  outfile: "dist/index.js",
  platform: "browser",
  sourcemap: true,
});
await build({
  ...common,
  entryPoints: ["src/node.ts"],
  outfile: "dist/node.js",
  platform: "node",
  external: ["ws"],
  sourcemap: true,
});
await build({
  ...common,
  entryPoints: ["src/react.ts"],
  outfile: "dist/react.js",
  platform: "neutral",
  external: ["react"],
  sourcemap: true,
});
await build({
  ...common,
  entryPoints: ["src/index.ts"],
  outfile: "dist/millrace.min.js",
  platform: "browser",
  minify: true,
});
execFileSync(process.execPath, ["node_modules/typescript/bin/tsc", "--project", "tsconfig.types.json"], {
  stdio: "inherit",
});
