// The conformance driver, spoken to as sdk/conformance/DRIVER.md says. What it makes the SDK do is the scenarios' matter.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

import { Server } from "./support/server.js";

const root = fileURLToPath(new URL("../..", import.meta.url));
let server: Server;

before(async () => {
  server = await Server.start();
  await build({
    entryPoints: [`${root}conformance/driver.ts`],
    outfile: `${root}build/driver.cjs`,
    bundle: true,
    platform: "node",
    format: "cjs",
    alias: { "@millrace/client": `${root}src/node.ts` },
    external: ["bufferutil", "utf-8-validate"],
    logLevel: "warning",
  });
});

after(() => server.stop());

test("it does what it is told and tells what it hears", { timeout: 30_000 }, async () => {
  const driver = spawn(process.execPath, [`${root}build/driver.cjs`], { stdio: ["pipe", "pipe", "inherit"] });
  const exit = once(driver, "exit");
  const lines = createInterface({ input: driver.stdout })[Symbol.asyncIterator]();
  const told: Record<string, unknown>[] = [];
  let id = 0;
  const next = async () => JSON.parse((await lines.next()).value ?? assert.fail("it ended"));
  const tell = async (command: string, fields: Record<string, unknown>) => {
    id += 1;
    driver.stdin.write(`${JSON.stringify({ id, command, ...fields })}\n`);
    for (;;) {
      const event = await next();
      if (event.id === id && event.event !== "submitted") return event;
      told.push(event);
    }
  };
  const heard = async (event: string) => {
    for (;;) {
      const index = told.findIndex((told) => told.event === event);
      if (index >= 0) return told.splice(index, 1)[0] ?? {};
      told.push(await next());
    }
  };
  const ready = await next();
  assert.deepEqual([ready.event, ready.protocol, ready.sdk], ["ready", 1, "typescript"]);
  const of = { client: "a", channel: "general" };
  const token = await server.token("alice");
  assert.equal((await tell("connect", { client: "a", url: server.url, token, queue_messages: 8 })).event, "done");
  const subscribed = await tell("subscribe", { ...of, paused: true });
  assert.deepEqual([subscribed.position, subscribed.history], [{ epoch: 1, offset: 0 }, "durable"]);
  const sent = await tell("send", { ...of, text: "hi" });
  assert.deepEqual(sent.position, { epoch: 1, offset: 1 });
  assert.equal((await heard("submitted")).id, id);
  assert.equal((await tell("unpause", of)).event, "done");
  const message = await heard("message");
  assert.deepEqual([message.base64, message.user, message.sequence], ["aGk=", "alice", 1]);
  const page = await tell("history", { ...of, limit: 5 });
  assert.deepEqual([page.messages.length, page.messages[0].base64, page.more], [1, "aGk=", false]);
  const failed = await tell("subscribe", { client: "a", channel: "nowhere" });
  assert.deepEqual([failed.event, failed.error.kind, failed.error.code], ["failed", "refused", 4005]);
  assert.equal((await tell("send", { ...of, text: "x", colour: 1 })).error.kind, "unsupported");
  assert.equal((await tell("dance", {})).error.kind, "unsupported");
  assert.equal((await tell("unsubscribe", of)).event, "done");
  const connect = { id: 98, command: "connect", client: "b", url: server.url, token_provider: true };
  driver.stdin.write(`${JSON.stringify(connect)}\n`);
  const { ask } = await heard("token_wanted");
  assert.equal((await tell("token", { client: "b", ask, token })).event, "done");
  const connected = await heard("done");
  assert.equal(connected.id, 98);
  assert.equal((await tell("close", { client: "a" })).event, "done");
  driver.stdin.end();
  assert.deepEqual(await exit, [0, null]);
});
