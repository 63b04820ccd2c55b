// Every field of the console in which one can write, how one comes to it, and what is done with what it holds.

import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

import type { Locator, Page } from "@playwright/test";

import { expect, type Person, type World } from "./world.js";

/** What must stay text. */
export const ATTEMPTS = [
  "<script>window.hacked=1</script>",
  "<img src=x onerror=window.hacked=1>",
  "<svg/onload=window.hacked=1>",
  "\"><iframe srcdoc='<script>parent.hacked=1</script>'></iframe>",
  "javascript:window.hacked=1",
  'https://example.com/"onmouseover="window.hacked=1',
  "{{constructor.constructor('window.hacked=1')()}}",
  "https://user:pass@example.com/ data:text/html,<script>window.hacked=1</script>",
] as const;

/** Who looks at what. */
export interface Visit {
  readonly world: World;
  readonly person: Person;
  readonly page: Page;
}

export interface Field {
  readonly view: "sign-in" | "chat" | "try" | "operate";
  /** The file that has it. */
  readonly source: string;
  readonly name: string;
  /** Goes where the field is, with everything else filled in. */
  readonly open: (visit: Visit) => Promise<Locator>;
  /** Sends what was written, and waits until the page has taken it or said why not. */
  readonly submit?: (visit: Visit, text: string) => Promise<void>;
  /** It takes numbers and nothing else. */
  readonly refuses?: boolean;
}

const SOURCES = fileURLToPath(new URL("../../src/", import.meta.url));

/** How many elements in which one can write each source has. */
export function inSources(): Map<string, number> {
  const found = new Map<string, number>();
  for (const path of (readdirSync(SOURCES, { recursive: true }) as string[]).sort()) {
    if (!path.endsWith(".tsx")) continue;
    const text = readFileSync(SOURCES + path, "utf8");
    const elements = text.match(/<(input|textarea)\b[\s\S]*?\/>|contentEditable/g) ?? [];
    const count = elements.filter((element) => !/type="(checkbox|radio)"|\breadOnly$/m.test(element)).length;
    if (count > 0) found.set(path, count);
  }
  return found;
}

const go = (page: Page, place: string) =>
  page.evaluate((where) => {
    location.hash = where;
  }, place);

/** A request of the page is answered, and the page says what became of it. */
async function answered({ page }: Visit, button: string | RegExp): Promise<void> {
  const answer = page.waitForResponse((response) => new URL(response.url()).pathname.startsWith("/v1/"));
  await page.getByRole("button", { name: button, exact: true }).click();
  await answer;
}

/** A dialog that stays says why; one that is gone has done it. */
async function taken({ page }: Visit, button: string): Promise<void> {
  const dialog = page.getByRole("dialog");
  await dialog.getByRole("button", { name: button }).click();
  await expect
    .poll(async () => (await dialog.count()) === 0 || (await dialog.getByRole("alert").count()) > 0, {
      message: button,
    })
    .toBe(true);
}

let made = 0;

/** A dialog of the chat, with its other fields filled in. */
async function inNewChannel({ page }: Visit, label: string): Promise<Locator> {
  await page.getByRole("button", { name: "New channel" }).click();
  const dialog = page.getByRole("dialog");
  made += 1;
  if (label !== "Name") await dialog.getByLabel("Name", { exact: true }).fill(`made-${made}`);
  return dialog.getByLabel(label, { exact: true });
}

async function operation({ page }: Visit, id: string): Promise<Locator> {
  await go(page, `#/try/${id}`);
  return page.getByRole("article");
}

/** Sends an operation: it has an answer, or a field says why not. */
async function tried({ page }: Visit): Promise<void> {
  await page.getByRole("button", { name: "Send", exact: true }).click();
  await expect(page.getByRole("region", { name: "Answer" }).or(page.getByRole("alert")).first()).toBeVisible();
}

/** A dialog that makes a secret shows it, or says why not; or the browser itself does not send the form. */
async function secret({ page }: Visit, button: string): Promise<boolean> {
  const dialog = page.getByRole("dialog");
  await dialog.getByRole("button", { name: button }).click();
  if ((await dialog.locator("input:invalid").count()) > 0) return false;
  const done = dialog.getByRole("button", { name: "I have it" });
  await expect(done.or(dialog.getByRole("alert")).first()).toBeVisible();
  if ((await done.count()) === 0) return false;
  await done.click();
  return true;
}

/** A new webhook, with its other fields filled in. */
async function inWebhook({ page }: Visit, label: string): Promise<Locator> {
  await go(page, "#/operate/webhooks");
  await page.getByRole("button", { name: "New webhook…" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel("Endpoint").fill("http://127.0.0.1:9/");
  return dialog.getByLabel(label);
}

/** No more webhooks than a tenant may have. */
async function removeWebhooks({ world }: Visit): Promise<void> {
  const { webhooks } = await world.api<{ webhooks: { id: string }[] }>("GET", "/v1/webhooks");
  for (const { id } of webhooks) await world.api("DELETE", `/v1/webhooks/${id}`);
}

async function inDrain({ page }: Visit, label: RegExp): Promise<Locator> {
  await go(page, "#/operate/nodes");
  const row = page.getByRole("row").filter({ hasText: "Serving" });
  await row.getByRole("link").click();
  await page.getByRole("button", { name: "Drain…" }).click();
  return page.getByRole("dialog").getByLabel(label);
}

export const FIELDS: readonly Field[] = [
  {
    view: "sign-in",
    source: "sign-in.tsx",
    name: "a credential",
    open: async ({ page }) => page.getByLabel("Access token or key"),
    submit: async ({ page }) => {
      await page.getByRole("button", { name: "Sign in" }).click();
      await expect(page.getByRole("alert")).toBeVisible();
    },
  },
  {
    view: "sign-in",
    source: "sign-in.tsx",
    name: "the user to chat as",
    open: async ({ page, world }) => {
      const credential = page.getByLabel("Access token or key");
      const user = page.getByLabel("User", { exact: true });
      if (await credential.isVisible()) {
        await credential.fill(world.server.ready.api_key);
        await page.getByRole("button", { name: "Sign in" }).click();
        await expect(page.getByRole("navigation", { name: "Views" })).toBeVisible();
        await go(page, "#/chat");
      }
      return user;
    },
    submit: async (visit) => {
      await answered(visit, "Chat");
      await expect(visit.page.getByRole("alert")).toBeVisible();
    },
  },
  {
    view: "chat",
    source: "chat/composer.tsx",
    name: "a message",
    open: async ({ person }) => person.field,
    submit: async ({ person }, text) => {
      await person.field.press("Enter");
      await expect.poll(() => person.texts()).toContain(text);
    },
  },
  {
    view: "chat",
    source: "chat/members.tsx",
    name: "whom to invite",
    open: async ({ page }) => {
      const members = page.getByRole("complementary", { name: "Members" });
      if (!(await members.isVisible())) await page.getByRole("button", { name: "Members", exact: true }).click();
      return members.getByLabel("Invite");
    },
    submit: async (visit) => {
      await answered(visit, "Invite");
      await expect(visit.page.getByRole("complementary").getByRole("alert")).toBeVisible();
    },
  },
  {
    view: "chat",
    source: "chat/switcher.tsx",
    name: "the channel to go to",
    open: async ({ page }) => {
      await page.keyboard.press("Control+k");
      return page.getByRole("combobox", { name: "Channel" });
    },
    submit: ({ page }) => page.keyboard.press("Enter"),
  },
  {
    view: "chat",
    source: "chat/new-channel.tsx",
    name: "a new channel's name",
    open: (visit) => inNewChannel(visit, "Name"),
    submit: (visit) => taken(visit, "Create channel"),
  },
  {
    view: "chat",
    source: "chat/new-channel.tsx",
    name: "what a new channel is shown as",
    open: (visit) => inNewChannel(visit, "Shown as"),
    submit: async (visit, text) => {
      await taken(visit, "Create channel");
      await visit.person.opened(text);
    },
  },
  {
    view: "chat",
    source: "chat/new-channel.tsx",
    name: "a new channel's members",
    open: (visit) => inNewChannel(visit, "Members beside you"),
    submit: (visit) => taken(visit, "Create channel"),
  },
  {
    view: "chat",
    source: "chat/new-channel.tsx",
    name: "whom to write to",
    open: async ({ page }) => {
      await page.getByRole("button", { name: "New direct message" }).click();
      return page.getByRole("dialog").getByLabel("To", { exact: true });
    },
    submit: (visit) => taken(visit, "Open"),
  },
  {
    view: "try",
    source: "try/try.tsx",
    name: "the operation to find",
    open: async ({ page }) => {
      await go(page, "#/try");
      return page.getByRole("searchbox");
    },
  },
  {
    view: "try",
    source: "try/form.tsx",
    name: "a text of an operation",
    open: async (visit) => {
      await visit.page.getByRole("searchbox").fill("");
      return (await operation(visit, "create_channel")).getByLabel(/^name/);
    },
    submit: tried,
  },
  {
    view: "try",
    source: "try/form.tsx",
    name: "a number of an operation",
    open: async (visit) => (await operation(visit, "list_channels")).getByLabel(/^limit/),
    submit: tried,
  },
  {
    view: "try",
    source: "try/form.tsx",
    name: "JSON of an operation",
    open: async (visit) => (await operation(visit, "create_channel")).getByLabel(/^metadata/),
    submit: tried,
  },
  {
    view: "try",
    source: "try/operation.tsx",
    name: "a body as JSON",
    open: async (visit) => {
      const article = await operation(visit, "create_channel");
      await article.getByLabel("as JSON", { exact: true }).check();
      return article.getByLabel("Body as JSON");
    },
    submit: tried,
  },
  {
    view: "operate",
    source: "operate/find.tsx",
    name: "the user to find",
    open: async ({ page }) => {
      await go(page, "#/operate/find");
      await expect(page.getByLabel("Tenant")).toHaveValue("dev");
      return page.getByLabel("Name", { exact: true });
    },
    submit: async (visit) => {
      await visit.page.getByRole("button", { name: "Find", exact: true }).click();
      await expect(visit.page.getByRole("alert")).toBeVisible();
    },
  },
  {
    view: "operate",
    source: "operate/keys.tsx",
    name: "what a key is used for",
    open: async ({ page }) => {
      await go(page, "#/operate/keys");
      await page.getByLabel("Tenant").selectOption("dev");
      await page.getByRole("button", { name: "New key…" }).click();
      return page.getByRole("dialog").getByLabel("Used for");
    },
    submit: async (visit, text) => {
      expect(await secret(visit, "Create key")).toBe(true);
      await expect(visit.page.getByRole("cell", { name: text, exact: true })).toBeVisible();
      await visit.page.getByRole("button", { name: `Revoke ${text}`, exact: true }).click();
      await expect(visit.page.getByRole("heading", { name: `Revoke ${text}?` })).toBeVisible();
    },
  },
  {
    view: "operate",
    source: "operate/webhooks.tsx",
    name: "a webhook's endpoint",
    open: (visit) => inWebhook(visit, "Endpoint"),
    submit: async (visit, text) => {
      const { page } = visit;
      await secret(visit, "Create webhook");
      const endpoint = page.getByRole("dialog").getByLabel("Endpoint");
      if (!(await endpoint.isVisible())) return removeWebhooks(visit);
      // The same where a URL may have it.
      await endpoint.fill(`http://127.0.0.1:9/?${text}`);
      if (await secret(visit, "Create webhook")) {
        await expect(page.getByRole("link", { name: "http://127.0.0.1:9/?" })).toBeVisible();
        await removeWebhooks(visit);
      }
    },
  },
  {
    view: "operate",
    source: "operate/webhooks.tsx",
    name: "what a webhook is used for",
    open: (visit) => inWebhook(visit, "Used for"),
    submit: async (visit, text) => {
      const { page } = visit;
      expect(await secret(visit, "Create webhook")).toBe(true);
      await expect(page.getByRole("cell", { name: text, exact: true })).toBeVisible();
      await page.getByRole("row").filter({ hasText: text }).getByRole("link").click();
      await expect(page.getByRole("heading", { name: text, level: 1 })).toBeVisible();
      await removeWebhooks(visit);
    },
  },
  {
    view: "operate",
    source: "operate/webhooks.tsx",
    name: "a webhook's channels",
    open: (visit) => inWebhook(visit, "Only channels whose name begins with"),
    submit: async (visit, text) => {
      const { page } = visit;
      if (!(await secret(visit, "Create webhook"))) return;
      await page.getByRole("link", { name: "http://127.0.0.1:9/" }).click();
      await expect(page.getByText(text)).toBeVisible();
      await removeWebhooks(visit);
    },
  },
  {
    view: "operate",
    source: "operate/node.tsx",
    name: "how long a node is drained",
    open: (visit) => inDrain(visit, /in seconds/),
    refuses: true,
  },
  {
    view: "operate",
    source: "operate/node.tsx",
    name: "the name of the node to drain",
    open: (visit) => inDrain(visit, /to confirm/),
    submit: ({ page }) => expect(page.getByRole("button", { name: "Drain", exact: true })).toBeDisabled(),
  },
];
