// The one-file bundle in Chromium, over each of its transports, against a real server that is killed and started again under the page.

import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";

import { Server } from "./support/server.js";

const bundle = readFileSync(fileURLToPath(new URL("../../dist/millrace.min.js", import.meta.url)));
const profile = mkdtempSync(join(tmpdir(), "millrace-js-chromium-"));
let server: Server;
let chromium: ChildProcess | undefined;

const MESSAGES = 1_000;

/** What the page does. It tells each step to the test, which answers when to go on. */
const page = (url: string, token: string) => `<!doctype html><title>Millrace</title><script type="module">
  import { Millrace } from "/millrace.min.js";
  const tell = (step, fields) => fetch("/" + step, { method: "POST", body: JSON.stringify(fields) });
  try {
    const certificateHashes = async () => (await fetch("/hashes")).json();
    const options = { url: ${JSON.stringify(url)}, token: ${JSON.stringify(token)}, backoff: { maxMs: 200 } };
    const client = new Millrace({ ...options, certificateHashes, waiting: { messagesMax: ${MESSAGES} } });
    const states = [];
    client.on("state", ({ kind }) => states.push(kind));
    const channel = await client.channel("general").subscribe();
    const receipt = await channel.send("grüße");
    const texts = [];
    const reading = (async () => {
      for await (const { text } of channel) { texts.push(text); if (text === "last") break; }
    })();
    await tell("first", { offset: receipt.position.offset });
    const sends = Array.from({ length: ${MESSAGES} }, (_, index) => channel.send(String(index)));
    await tell("sent", {});
    const offsets = (await Promise.all(sends)).map(({ position }) => position.offset);
    window.dispatchEvent(new Event("online")); // asks whether the connection holds, which it does
    await channel.send("last");
    await reading;
    await client.close();
    await tell("done", { texts, offsets, states, agent: navigator.userAgent });
  } catch (error) {
    await tell("done", { error: String(error && error.stack || error) });
  }
</script>`;

before(async () => {
  server = await Server.start();
});

async function endBrowser(): Promise<void> {
  if (chromium !== undefined && chromium.exitCode === null && chromium.signalCode === null) {
    const gone = once(chromium, "exit");
    chromium.kill();
    await gone;
  }
}

after(async () => {
  await endBrowser();
  await server.stop();
  rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
});

for (const [name, urlOf] of [
  ["a WebSocket", ({ url }: Facts) => url],
  // The WebSocket beside it has a certificate that the browser refuses: if anything comes, it is by WebTransport.
  ["WebTransport", ({ tls_url: tlsUrl }: Facts) => tlsUrl.replace("wss:", "https:")],
] as const) {
  test(`a page chats over ${name}, through a restart of the server`, { timeout: 60_000 }, () => chats(urlOf));
}

type Facts = NonNullable<Server["ready"]>;

async function chats(urlOf: (facts: Facts) => string): Promise<void> {
  const facts = server.ready ?? assert.fail("no server");
  const { token } = facts;
  const steps = new Map<string, (fields: Record<string, unknown>) => void>();
  const step = (name: string) =>
    new Promise<Record<string, unknown>>((resolve) => {
      steps.set(`/${name}`, resolve);
    });
  const [first, sent, done] = [step("first"), step("sent"), step("done")];
  const restarted = first.then(async () => {
    await server.kill();
  });
  const http = createServer(async (request, response) => {
    if (request.method === "POST") {
      let body = "";
      for await (const part of request) body += part;
      steps.get(request.url ?? "")?.(JSON.parse(body));
      // The page sends while nobody is there.
      if (request.url === "/first") await restarted;
      response.end();
    } else if (request.url === "/hashes") {
      // Another certificate since the restart.
      response.setHeader("content-type", "application/json").end(JSON.stringify(server.ready?.certificate_hashes));
    } else if (request.url === "/millrace.min.js") {
      response.setHeader("content-type", "text/javascript").end(bundle);
    } else {
      response.setHeader("content-type", "text/html; charset=utf-8").end(page(urlOf(facts), token));
    }
  }).listen(0, "127.0.0.1");
  await once(http, "listening");
  try {
    const address = `http://127.0.0.1:${(http.address() as AddressInfo).port}/`;
    const flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"];
    const browser = spawn(process.env.CHROMIUM ?? "chromium", [...flags, `--user-data-dir=${profile}`, address], {
      stdio: "ignore",
    });
    chromium = browser;
    const failed = once(browser, "error").then(([error]) => Promise.reject(error));
    await Promise.race([sent, done, failed]);
    await server.start();
    const result = await Promise.race([done, failed]);
    assert.equal(result.error, undefined);
    const numbers = Array.from({ length: MESSAGES }, (_, index) => index);
    assert.deepEqual(result.texts, ["grüße", ...numbers.map(String), "last"]);
    const [offset = 0] = result.offsets as number[];
    assert.deepEqual(
      result.offsets,
      numbers.map((index) => index + offset),
    );
    assert.ok((result.states as string[]).includes("reconnecting"), `${result.states}`);
    assert.equal((result.states as string[]).at(-1), "closed");
  } finally {
    http.closeAllConnections();
    http.close();
    await endBrowser();
  }
}
