// What every test has: a server of its own, and people at browsers.

import { readFileSync } from "node:fs";

import {
  type Browser,
  type BrowserContextOptions,
  test as base,
  expect,
  type Locator,
  type Page,
} from "@playwright/test";

import { Server } from "./server.js";

export { expect };

/** Somebody at a browser of their own. */
export class Person {
  /** What went wrong in the page: errors, and whatever the policy had to stop. */
  readonly faults: string[] = [];

  constructor(
    readonly page: Page,
    readonly user: string,
  ) {
    page.on("pageerror", (error) => this.faults.push(error.message));
    page.on("console", (message) => {
      // Refused requests and connections are said in the log, too; they are no fault of the page.
      const isExpected =
        /^(Failed to load resource|WebSocket connection to |Failed to establish a connection to https:)/.test(
          message.text(),
        );
      if (message.type() === "error" && !isExpected) this.faults.push(message.text());
    });
    page.on("dialog", (dialog) => {
      if (dialog.type() !== "beforeunload") this.faults.push(`a dialog: ${dialog.message()}`);
      dialog.accept().catch(() => {});
    });
  }

  get log(): Locator {
    return this.page.getByRole("log");
  }

  /** Where one writes. */
  get field(): Locator {
    return this.page.getByRole("textbox", { name: /^Message / });
  }

  /** The texts of messages, as far as they are in the page. */
  texts(): Promise<string[]> {
    return this.page.locator(".message .body").allInnerTexts();
  }

  message(text: string): Locator {
    return this.page.locator(".message").filter({ hasText: text });
  }

  async say(text: string): Promise<void> {
    await this.field.fill(text);
    await this.field.press("Enter");
  }

  async opened(title: string): Promise<void> {
    await expect(this.page.getByRole("heading", { name: title, level: 2 })).toBeVisible();
    await expect(this.log).toHaveAttribute("aria-busy", "false");
  }
}

interface SignIn {
  readonly token: string;
  readonly refresh_token: string;
}

/** Credentials for a link. */
type Given = Partial<SignIn> & { readonly keys?: readonly string[] };

/** A server, and who is at it. */
export class World {
  readonly people: Person[] = [];

  constructor(
    readonly server: Server,
    private readonly browser: Browser,
  ) {}

  /** Calls the API with a key of the tenant. */
  async api<T = Record<string, unknown>>(method: string, path: string, body?: unknown): Promise<T> {
    const { api, api_key } = this.server.ready;
    const headers = { authorization: `Bearer ${api_key}`, "content-type": "application/json" };
    const init = body === undefined ? { method, headers } : { method, headers, body: JSON.stringify(body) };
    const response = await fetch(api + path, init);
    const text = await response.text();
    if (!response.ok) throw new Error(`${method} ${path}: ${text}`);
    return (text === "" ? undefined : JSON.parse(text)) as T;
  }

  /** A sign-in, as an application's server would make it. */
  async signIn(user: string, ttlSeconds = 3_600): Promise<SignIn> {
    const pair = await this.api<SignIn>("POST", "/v1/tokens", { user, ttl_seconds: ttlSeconds });
    return { token: pair.token, refresh_token: pair.refresh_token };
  }

  /** What stands behind the `#` of a link to the console that signs in with these credentials. */
  async link(given: Given): Promise<string> {
    const { api, operator_key } = this.server.ready;
    const headers = { authorization: `Bearer ${operator_key}`, "content-type": "application/json" };
    const init = { method: "POST", headers, body: JSON.stringify(given) };
    const answer = (await (await fetch(`${api}/v1/sign-in-codes`, init)).json()) as { code: string };
    return `code=${answer.code}`;
  }

  /** A person whose page is open, and signed in: with what is given, or as the user. */
  async person(
    user: string,
    options: BrowserContextOptions & {
      readonly place?: string;
      readonly fragment?: string;
      readonly given?: Given;
    } = {},
  ): Promise<Person> {
    const { place = "/chat/general", fragment, given, ...context } = options;
    const page = await (await this.browser.newContext(context)).newPage();
    if (process.env.CONSOLE_DIST !== undefined) await serveFrom(page, process.env.CONSOLE_DIST);
    const person = new Person(page, user);
    this.people.push(person);
    const behind = fragment ?? (await this.link(given ?? (await this.signIn(user))));
    await page.goto(`${this.server.ready.api}/#${behind}`);
    if ((fragment === undefined && given === undefined) || options.place !== undefined) {
      await expect(page.getByRole("navigation", { name: "Views" })).toBeVisible();
      await page.evaluate((where) => {
        location.hash = where;
      }, `#${place}`);
    }
    return person;
  }
}

/** For work on the console: the page and its parts from a folder, under the server's own headers, instead of from the binary. */
export async function serveFrom(page: Page, folder: string): Promise<void> {
  await page.route(
    ({ pathname }) => pathname === "/" || pathname.startsWith("/console/"),
    async (route) => {
      const { pathname } = new URL(route.request().url());
      // A server that is away is away for them, too.
      const response = await route.fetch().catch(() => undefined);
      if (response === undefined) return route.abort();
      const path = `${folder}/${pathname === "/" ? "index.html" : pathname.slice("/console/".length)}`;
      await route.fulfill({ response, body: readFileSync(path) });
    },
  );
}

export const test = base.extend<{ readonly settings: readonly string[]; readonly world: World }>({
  settings: [[], { option: true }],
  world: async ({ browser, settings }, use) => {
    const server = await Server.start(settings);
    const world = new World(server, browser);
    try {
      await use(world);
      for (const { user, faults } of world.people) expect(faults, `what went wrong at ${user}'s`).toEqual([]);
    } finally {
      for (const { page } of world.people) await page.context().close();
      await server.stop();
    }
  },
});
