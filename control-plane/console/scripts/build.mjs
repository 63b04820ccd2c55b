// Builds the console into dist/: the page, one script, one style sheet, each as it is and compressed. The same source gives the
// same bytes, on every machine.
//
//   node scripts/build.mjs [--check]     --check: builds nothing, and fails unless dist/ is what would be built

import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { gunzipSync, gzipSync } from "node:zlib";

import { build } from "esbuild";

const root = fileURLToPath(new URL("..", import.meta.url));

/** Largest script and style sheet together, after gzip: what a first visit costs. */
const GZIP_BYTES_MAX = 176_000;

/** Everything that dist/ holds, by name, without the compressed twins. */
export async function files() {
  const { outputFiles } = await build({
    absWorkingDir: root,
    entryPoints: { console: "src/main.tsx" },
    outdir: "dist",
    bundle: true,
    format: "esm",
    target: "es2022",
    platform: "browser",
    jsx: "automatic",
    minify: true,
    // React's licence wants its notice kept.
    legalComments: "eof",
    define: { "process.env.NODE_ENV": '"production"' },
    alias: {
      "@millrace/client": `${root}../../sdk/js/src/index.ts`,
      "@millrace/client/react": `${root}../../sdk/js/src/react.ts`,
      // The hooks of the SDK have to use this very React.
      react: `${root}node_modules/react`,
    },
    write: false,
    logLevel: "warning",
  });
  const built = new Map(outputFiles.map(({ path, contents }) => [path.slice(path.lastIndexOf("/") + 1), contents]));
  built.set("icon.svg", readFileSync(`${root}static/icon.svg`));
  let page = readFileSync(`${root}static/index.html`, "utf8");
  for (const [name, contents] of built) {
    const version = createHash("sha256").update(contents).digest("hex").slice(0, 16);
    page = page.replace(`"/console/${name}"`, `"/console/${name}?v=${version}"`);
  }
  built.set("index.html", Buffer.from(page));
  return built;
}

function compressed(contents) {
  return gzipSync(contents, { level: 9 });
}

/** How dist/ differs from what would be built; compressed files by what they hold, because zlib may compress otherwise elsewhere. */
function differences(built) {
  const wanted = [...built.keys()].flatMap((name) => [name, `${name}.gz`]);
  const present = readdirSync(`${root}dist`);
  const odd = present.filter((name) => !wanted.includes(name)).map((name) => `${name} is not built any more`);
  for (const name of wanted) {
    if (!present.includes(name)) {
      odd.push(`${name} is missing`);
      continue;
    }
    const found = readFileSync(`${root}dist/${name}`);
    const isCompressed = name.endsWith(".gz");
    const contents = isCompressed ? gunzipSync(found) : found;
    if (!contents.equals(Buffer.from(built.get(isCompressed ? name.slice(0, -3) : name)))) odd.push(`${name} differs`);
  }
  return odd;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const built = await files();
  const sizes = [...built].map(([name, contents]) => [name, contents.length, compressed(contents).length]);
  for (const [name, plain, gzip] of sizes) console.log(`${name}: ${plain} bytes, ${gzip} after gzip`);
  const total = sizes.reduce((sum, [, , gzip]) => sum + gzip, 0);
  if (total > GZIP_BYTES_MAX) {
    console.error(`the console is ${total} bytes after gzip; at most ${GZIP_BYTES_MAX}`);
    process.exit(1);
  }
  if (process.argv.includes("--check")) {
    const odd = differences(built);
    for (const line of odd) console.error(`dist/${line}`);
    if (odd.length > 0) {
      console.error("dist/ is not what the source makes: run `cargo xtask console` and commit it");
      process.exit(1);
    }
  } else {
    rmSync(`${root}dist`, { recursive: true, force: true });
    mkdirSync(`${root}dist`);
    for (const [name, contents] of built) {
      writeFileSync(`${root}dist/${name}`, contents);
      writeFileSync(`${root}dist/${name}.gz`, compressed(contents));
    }
  }
}
