// The driver of sdk/conformance/DRIVER.md in a page: `chromium.ts` calls `obey` with commands and gives `tell` for events.

import { drive } from "./commands.js";

const page = globalThis as typeof globalThis & { tell(line: string): void; obey(line: string): void };

// Timers of pages are late on purpose; messages are not.
const { port1, port2 } = new MessageChannel();
const waiting: (() => void)[] = [];
port1.onmessage = () => waiting.shift()?.();

page.obey = drive({
  tell: (line) => page.tell(line),
  later(then) {
    waiting.push(then);
    port2.postMessage(undefined);
  },
});
