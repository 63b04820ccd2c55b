// The one-file bundle in Chromium, against a real server that is killed and started again under the page.

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

/** What the page does. It tells each step to the test, which answers when to go on. */
const page = (url: string, token: string) => `<!doctype html><title>Millrace</title><script type="module">
  import { Millrace } from "/millrace.min.js";
  const tell = (step, fields) => fetch("/" + step, { method: "POST", body: JSON.stringify(fields) });
  try {
    const client = new Millrace({ url: ${JSON.stringify(url)}, token: ${JSON.stringify(token)}, backoff: { maxMs: 200 } });
    const states = [];
    client.on("state", ({ kind }) => states.push(kind));
    const channel = await client.channel("general").subscribe();
    const receipt = await channel.send("grüße");
    const texts = [];
    const reading = (async () => {
      for await (const { text } of channel) { texts.push(text); if (text === "last") break; }
    })();
    await tell("first", { offset: receipt.position.offset });
    const sends = Array.from({ length: 20 }, (_, index) => channel.send(String(index)));
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

after(async () => {
  if (chromium !== undefined && chromium.exitCode === null && chromium.signalCode === null) {
    const gone = once(chromium, "exit");
    chromium.kill();
    await gone;
  }
  await server.stop();
  rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
});

test("a page chats through a restart of the server", { timeout: 60_000 }, async () => {
  const { url, token } = server.ready ?? assert.fail("no server");
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
    } else if (request.url === "/millrace.min.js") {
      response.setHeader("content-type", "text/javascript").end(bundle);
    } else {
      response.setHeader("content-type", "text/html; charset=utf-8").end(page(url, token));
    }
  }).listen(0, "127.0.0.1");
  await once(http, "listening");
  try {
    const address = `http://127.0.0.1:${(http.address() as AddressInfo).port}/`;
    const flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"];
    chromium = spawn(process.env.CHROMIUM ?? "chromium", [...flags, `--user-data-dir=${profile}`, address], {
      stdio: "ignore",
    });
    const failed = once(chromium, "error").then(([error]) => Promise.reject(error));
    await Promise.race([sent, done, failed]);
    await server.start();
    const result = await Promise.race([done, failed]);
    assert.equal(result.error, undefined);
    const numbers = Array.from({ length: 20 }, (_, index) => index);
    assert.deepEqual(result.texts, ["grüße", ...numbers.map(String), "last"]);
    assert.deepEqual(
      result.offsets,
      numbers.map((index) => index + 2),
    );
    assert.ok((result.states as string[]).includes("reconnecting"), `${result.states}`);
    assert.equal((result.states as string[]).at(-1), "closed");
  } finally {
    http.closeAllConnections();
    http.close();
  }
});
