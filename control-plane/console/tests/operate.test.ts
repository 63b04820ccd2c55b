// The operator's view: a node at work, what became of a client's messages, keys, and a node that is emptied.

import { fileURLToPath } from "node:url";

import { AxeBuilder } from "@axe-core/playwright";
import type { Page } from "@playwright/test";

import { expect, test, type World } from "./support/world.js";

const PICTURES = fileURLToPath(new URL("../build/screenshots", import.meta.url));

/** Somebody with an operator key and an API key, and no user. */
async function operator(world: World, colorScheme: "light" | "dark" = "light"): Promise<Page> {
  const { operator_key: key } = world.server.ready;
  const { page } = await world.person("operator", { given: { keys: [key] }, colorScheme });
  await expect(page.getByRole("navigation", { name: "Views" })).toBeVisible();
  await go(page, "#/operate");
  await expect(page.getByRole("heading", { name: "Nodes", level: 1 })).toBeVisible();
  return page;
}

const go = (page: Page, place: string) =>
  page.evaluate((where) => {
    location.hash = where;
  }, place);

async function check(page: Page, name: string): Promise<void> {
  const { violations } = await new AxeBuilder({ page }).analyze();
  const serious = violations.filter(({ impact }) => impact === "serious" || impact === "critical");
  expect(
    serious.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" ")}`),
    name,
  ).toEqual([]);
  await page.screenshot({ path: `${PICTURES}/${name}.png`, animations: "disabled", caret: "hide" });
}

/** The name of the one data node, once it serves. */
async function node(page: Page): Promise<string> {
  const row = page.getByRole("row").filter({ hasText: "Serving" });
  await expect(row).toBeVisible();
  return row.getByRole("link").innerText();
}

for (const scheme of ["light", "dark"] as const) {
  test(`an operator in ${scheme} sees nodes at work and finds out what a client missed`, async ({ world }) => {
    const alice = await world.person("alice");
    await alice.opened("General");
    const page = await operator(world, scheme);
    await alice.say("Is this on?");
    await expect(alice.message("Is this on?").getByRole("img", { name: "Sent" })).toBeVisible();
    const name = await node(page);
    const figure = (title: string) => page.getByRole("figure", { name: title });
    await expect(figure("Sessions")).toContainText("1");
    await check(page, `operate-${scheme}`);

    await page.getByRole("link", { name }).click();
    await expect(page.getByRole("heading", { name, level: 1 })).toBeVisible();
    await expect(page.getByRole("region", { name: "Shards" }).getByRole("row")).not.toHaveCount(0);
    await expect(page.getByRole("region", { name: "Latencies" }).getByRole("row", { name: /Append/ })).toContainText(
      "ms",
    );
    for (const title of ["Publish to acknowledgement", "Publish to delivery", "Append"]) {
      await expect(figure(title).locator("canvas")).toBeVisible();
    }
    await check(page, `node-${scheme}`);

    await page.getByRole("link", { name: "Find a user or a channel" }).click();
    await expect(page.getByLabel("Tenant")).toHaveValue("dev");
    await page.getByLabel("Name").fill("alice");
    await page.getByRole("button", { name: "Find" }).click();
    const sessions = page.getByRole("region", { name: "Sessions", exact: true });
    await expect(sessions.getByRole("heading")).toHaveText("1 session");
    await expect(sessions.getByRole("row", { name: /general/ })).toContainText("live");
    // A member no more: the subscription ends, and the operator sees why and where.
    await world.api("POST", "/v1/channels/general/members", { user: "dana", role: "owner" });
    await world.api("DELETE", "/v1/channels/general/members/alice");
    const lately = page.getByRole("region", { name: "Lately" });
    await expect(lately.getByRole("row", { name: /Subscription ended/ })).toContainText("general at 1");
    await check(page, `find-${scheme}`);

    await go(page, "#/operate/find%2Fchannel%2Fdev%2Fgeneral");
    await expect(page.getByText("offsets 1 to 1, epoch 1")).toBeVisible();
    await go(page, "#/operate/find%2Fchannel%2Fdev%2Fnowhere");
    await expect(page.getByRole("alert")).toBeVisible();
  });
}

test("what is said took its time, and that is told", async ({ world }) => {
  const alice = await world.person("alice");
  await alice.opened("General");
  const page = await operator(world);
  await page.getByRole("link", { name: await node(page) }).click();
  const told = (title: string) =>
    expect(page.getByRole("figure", { name: title })).toContainText(/median \d.*99th \d/, { timeout: 1_000 });
  // The newest second is shown: something has to be said in it.
  for (const title of ["Publish to acknowledgement", "Publish to delivery"]) {
    await expect(async () => {
      await alice.say("And this?");
      await told(title);
    }).toPass();
  }
});

test("a key is made, shown once, and revoked", async ({ world }) => {
  const page = await operator(world);
  await page.getByRole("link", { name: "Keys" }).click();
  await page.getByLabel("Tenant").selectOption("dev");
  await page.getByRole("button", { name: "New key…" }).click();
  await page.getByLabel("Used for").fill("the mail robot");
  await page.getByRole("button", { name: "Create key" }).click();
  const secret = page.getByRole("dialog").getByRole("textbox");
  await expect(secret).toHaveValue(/^mr_/);
  const key = await secret.inputValue();
  const { api } = world.server.ready;
  const asked = () => fetch(`${api}/v1/channels`, { headers: { authorization: `Bearer ${key}` } });
  expect((await asked()).status).toBe(200);
  await check(page, "new-key-light");
  // A page that did not come by HTTPS has no clipboard.
  await page.evaluate(() => Object.defineProperty(navigator, "clipboard", { value: undefined, configurable: true }));
  const dialog = page.getByRole("dialog");
  await dialog.getByRole("button", { name: "Copy" }).click();
  await expect(dialog.getByRole("status")).toContainText("copy it with your keyboard");
  expect(await secret.evaluate((field: HTMLInputElement) => field.selectionEnd)).toBe(key.length);
  await page.getByRole("button", { name: "I have it" }).click();
  await expect(page.getByText(key)).toHaveCount(0);

  await page.getByRole("button", { name: "Revoke the mail robot" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Revoke" }).click();
  await expect(page.getByRole("row", { name: /the mail robot/ })).toHaveCount(0);
  expect((await asked()).status).toBe(401);
});

test("a node is drained by whoever means it, and is seen to be gone", async ({ world }) => {
  const alice = await world.person("alice");
  await alice.opened("General");
  const page = await operator(world);
  const name = await node(page);
  await page.getByRole("link", { name }).click();
  await page.getByRole("button", { name: "Drain…" }).click();
  const dialog = page.getByRole("dialog");
  const drain = dialog.getByRole("button", { name: "Drain", exact: true });
  await expect(drain).toBeDisabled();
  await dialog.getByLabel(/to confirm/).fill(name);
  await dialog.getByLabel(/in seconds/).fill("1");
  await check(page, "drain-light");
  await drain.click();
  await expect(dialog.getByRole("status")).toContainText("no other data node serves");
  await dialog.getByRole("button", { name: "Close" }).last().click();
  await page.getByRole("link", { name: "All nodes" }).click();
  await expect(page.getByRole("row").filter({ hasText: name })).toContainText("Gone");
});

test("an API key looks into its tenant and nothing else", async ({ world }) => {
  const { page } = await world.person("server", { given: { keys: [world.server.ready.api_key] } });
  await expect(page.getByRole("navigation", { name: "Views" })).toBeVisible();
  await go(page, "#/operate/nodes");
  await expect(page.getByRole("heading", { name: "Find a user or a channel" })).toBeVisible();
  await expect(page.getByRole("link", { name: "Nodes" })).toHaveCount(0);
  await page.getByLabel("What").selectOption("channel");
  await page.getByLabel("Name").fill("general");
  await page.getByRole("button", { name: "Find" }).click();
  await expect(page.getByText("Nobody is connected")).toBeVisible();
  await expect(page.getByText("group, durable")).toBeVisible();
});
