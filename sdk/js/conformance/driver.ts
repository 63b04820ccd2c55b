// The driver of sdk/conformance/DRIVER.md in Node: standard input has commands, standard output events.

import { createInterface } from "node:readline";

import { drive } from "./commands.js";

const obey = drive({
  tell: (line) => process.stdout.write(`${line}\n`),
  later: setImmediate,
});
createInterface({ input: process.stdin })
  .on("line", obey)
  .on("close", () => process.exit(0));
