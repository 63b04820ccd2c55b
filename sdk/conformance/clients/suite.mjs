// Runs named cases one after the other, prints a line for each and the counts last, and tells by its exit code.

import { parseArgs } from "node:util";

const CASE_SECONDS = 60;

/** What the server did is not what the protocol asks. */
export class Failure extends Error {}

export function require(condition, message) {
  if (!condition) throw new Failure(message);
}

export function equal(found, expect, what = "value") {
  const same = Buffer.isBuffer(expect) ? Buffer.isBuffer(found) && expect.equals(found) : Object.is(found, expect);
  if (!same) throw new Failure(`${what}: found ${shorten(found)}, expected ${shorten(expect)}`);
}

function shorten(value) {
  const text = Buffer.isBuffer(value) ? `bytes ${value.toString("hex")}` : String(value);
  return text.length <= 200 ? text : `${text.slice(0, 200)}… (${text.length} characters)`;
}

/** Options of the command line; those in `needed` must be there. Every suite also takes `--only TEXT`. */
export function options(names, needed) {
  const spec = Object.fromEntries([...names, "only"].map((name) => [name, { type: "string" }]));
  const { values } = parseArgs({ options: spec });
  const missing = needed.filter((name) => values[name] === undefined);
  if (missing.length > 0) {
    console.error(`missing: ${missing.map((name) => `--${name}`).join(" ")}; known: ${names.map((name) => `--${name}`).join(" ")}`);
    process.exit(2);
  }
  return values;
}

/** An array that is filled now and read later, each item once, in order, with a deadline. */
export class Inbox {
  #items = [];
  #waiting = null;

  push(item) {
    this.#items.push(item);
    this.#waiting?.();
  }

  async next(what = "an event", seconds = 10) {
    if (this.#items.length === 0) {
      await new Promise((resolve, reject) => {
        const timer = setTimeout(() => reject(new Failure(`no ${what} within ${seconds} s`)), seconds * 1000);
        this.#waiting = () => {
          clearTimeout(timer);
          this.#waiting = null;
          resolve();
        };
      });
    }
    return this.#items.shift();
  }
}

export class Suite {
  #cases = [];

  case(name, run) {
    this.#cases.push({ name, run });
  }

  /** The same case for each row; `name` makes the name from it. */
  each(rows, name, run) {
    for (const row of rows) this.case(name(...row), () => run(...row));
  }

  async run(only) {
    let passed = 0;
    let failed = 0;
    for (const { name, run } of this.#cases) {
      if (only !== undefined && !name.includes(only)) continue;
      const start = performance.now();
      let timer;
      try {
        const late = new Promise((_, reject) => {
          timer = setTimeout(() => reject(new Failure(`not done within ${CASE_SECONDS} s`)), CASE_SECONDS * 1000);
        });
        await Promise.race([run(), late]);
        passed += 1;
        console.log(`ok    ${name} (${((performance.now() - start) / 1000).toFixed(2)} s)`);
      } catch (error) {
        failed += 1;
        console.log(`FAIL  ${name}: ${error instanceof Failure ? error.message : error.stack}`);
      } finally {
        clearTimeout(timer);
      }
    }
    // A run without a single case is a failed one.
    console.log(`${passed} passed, ${failed} failed`);
    process.exit(failed > 0 || passed === 0 ? 1 : 0);
  }
}
