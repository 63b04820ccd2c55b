// One Chromium for many drivers (`chromium.ts`), and the page that each of them opens in it: a blank one that loads the one-file
// bundle of the SDK, as it is published, and the driver. Says in one line where both are, and ends with standard input.
//
//   node chromium-host.mjs SPKI     beside page.js and millrace.min.js; SPKI: hash of the public key of servers' certificates, Base64

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

/** What a driver needs to know. */
export interface Host {
  /** The browser's DevTools endpoint. */
  readonly devtools: string;
  /** URL of the page. */
  readonly page: string;
}

const FLAGS = [
  "--headless=new",
  "--disable-gpu",
  "--disable-dev-shm-usage",
  "--no-first-run",
  "--no-default-browser-check",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  // Pages that nobody looks at get their timers as late as once a second, and then once a minute.
  "--disable-background-timer-throttling",
  "--disable-backgrounding-occluded-windows",
  "--disable-renderer-backgrounding",
  "--remote-debugging-port=0",
];

const here = fileURLToPath(new URL(".", import.meta.url));
const scripts = new Map(["/page.js", "/millrace.min.js"].map((path) => [path, readFileSync(join(here, path))]));
const http = createServer((request, response) => {
  const script = scripts.get(request.url ?? "");
  if (script !== undefined) response.setHeader("content-type", "text/javascript").end(script);
  else if (request.url === "/") {
    response.setHeader("content-type", "text/html; charset=utf-8");
    response.end('<!doctype html><title>Millrace</title><script type="module" src="/page.js"></script>');
  } else response.writeHead(404).end();
}).listen(0, "127.0.0.1");

const profile = mkdtempSync(join(tmpdir(), "millrace-conformance-chromium-"));
const flags = [...FLAGS];
// A browser has no authorities of one run; WebTransport takes a certificate by its hash, but a WebSocket does not.
const [spki] = process.argv.slice(2);
if (spki !== undefined) flags.push(`--ignore-certificate-errors-spki-list=${spki}`);
// The sandbox of Chromium refuses to run as root.
if (process.getuid?.() === 0) flags.push("--no-sandbox");
const chromium = spawn(process.env.CHROMIUM ?? "chromium", [...flags, `--user-data-dir=${profile}`, "about:blank"], {
  stdio: ["ignore", "ignore", "pipe"],
});
const gone = once(chromium, "exit");

let isEnding = false;
async function end(status: number): Promise<void> {
  if (isEnding) return;
  isEnding = true;
  chromium.kill();
  await gone.catch(() => {});
  rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
  process.exit(status);
}

process.stdin.resume().once("end", () => void end(0));
for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => void end(1));
chromium.once("error", (error) => {
  console.error(`chromium cannot be started: ${error.message}`);
  process.exit(1);
});

let said = "";
for await (const line of createInterface({ input: chromium.stderr })) {
  const [, devtools] = /DevTools listening on (\S+)/.exec(line) ?? [];
  if (devtools === undefined) {
    if (said.length < 4_096) said += `${line}\n`;
    continue;
  }
  if (!http.listening) await once(http, "listening");
  const { port } = http.address() as AddressInfo;
  const host: Host = { devtools, page: `http://127.0.0.1:${port}/` };
  process.stdout.write(`${JSON.stringify(host)}\n`);
  said = "";
}
// Its end before ours is a fault.
if (!isEnding) console.error(`chromium has ended\n${said}`);
await end(1);
