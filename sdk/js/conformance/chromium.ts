// The driver of sdk/conformance/DRIVER.md in Chromium: relays lines between standard input and output and a page of its own, in
// a context of its own, of the browser that `chromium-host.ts` runs. Over the DevTools protocol, and nothing else.
//
//   node chromium.cjs HOST     HOST: what the host said

import { createInterface } from "node:readline";

import { WebSocket } from "ws";

import type { Host } from "./chromium-host.js";

type Fields = Readonly<Record<string, unknown>>;
interface Incoming {
  readonly id?: number;
  readonly method?: string;
  readonly params?: Fields;
  readonly result?: Fields;
  readonly error?: { readonly message: string };
}

const { devtools, page } = JSON.parse(process.argv[2] ?? "") as Host;
const socket = new WebSocket(devtools, { perMessageDeflate: false });
const waiting = new Map<number, { resolve(result: Fields): void; reject(error: Error): void }>();
let calls = 0;

function fail(why: unknown): never {
  console.error(why instanceof Error ? why.message : why);
  process.exit(1);
}

function call(method: string, params: Fields, sessionId?: unknown): Promise<Fields> {
  calls += 1;
  socket.send(JSON.stringify({ id: calls, method, params, sessionId }));
  const id = calls;
  return new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
}

socket.on("message", (data) => {
  const { id, method, params, result, error } = JSON.parse(String(data)) as Incoming;
  if (id !== undefined) {
    const caller = waiting.get(id);
    waiting.delete(id);
    if (error === undefined) caller?.resolve(result ?? {});
    else caller?.reject(new Error(error.message));
  } else if (method === "Runtime.bindingCalled") {
    process.stdout.write(`${params?.payload}\n`);
    if (!isReady) begin();
  } else if (method === "Runtime.exceptionThrown") {
    console.error(JSON.stringify(params?.exceptionDetails));
  } else if (method === "Inspector.targetCrashed") {
    fail("the page has crashed");
  }
});
socket.on("error", fail);
socket.on("close", () => fail("the browser has gone"));

let session: unknown;
let isReady = false;
const commands = createInterface({ input: process.stdin });
// What is open in the page ends with its context, which ends with this process.
commands.on("close", () => process.exit(0));
commands.pause();

/** The page is ready: what it is told, it does in order. */
function begin(): void {
  isReady = true;
  commands.on("line", (line) => {
    const expression = `obey(${JSON.stringify(line)})`;
    call("Runtime.evaluate", { expression }, session).catch(fail);
  });
  commands.resume();
}

socket.once("open", async () => {
  try {
    const { browserContextId } = await call("Target.createBrowserContext", { disposeOnDetach: true });
    const { targetId } = await call("Target.createTarget", { url: "about:blank", browserContextId });
    ({ sessionId: session } = await call("Target.attachToTarget", { targetId, flatten: true }));
    await call("Runtime.enable", {}, session);
    await call("Inspector.enable", {}, session);
    await call("Runtime.addBinding", { name: "tell" }, session);
    await call("Page.navigate", { url: page }, session);
  } catch (error) {
    fail(error);
  }
});
