// The main views, in light and dark: no serious fault of accessibility, and a picture of each. The pictures are artefacts of the
// run; `cargo xtask console --screenshots` makes those of the documentation.

import { fileURLToPath } from "node:url";

import { AxeBuilder } from "@axe-core/playwright";
import type { Page } from "@playwright/test";

import { furnishNodes, NOON } from "./support/nodes.js";
import { expect, test, type World } from "./support/world.js";

const PICTURES = process.env.SCREENSHOTS ?? fileURLToPath(new URL("../build/screenshots", import.meta.url));

/** Those that the documentation shows. */
const PUBLISHED = /^(chat|operate|try)-/;

/** How far a channel is read, as REST lists it. */
interface Listed {
  readonly name: string;
  readonly reads: { readonly newest: { readonly epoch: number; readonly offset: number } };
}

async function check(page: Page, name: string): Promise<void> {
  const { violations } = await new AxeBuilder({ page }).analyze();
  const serious = violations.filter(({ impact }) => impact === "serious" || impact === "critical");
  const told = serious.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" ")}`);
  expect(told, name).toEqual([]);
  if (process.env.SCREENSHOTS !== undefined && !PUBLISHED.test(name)) return;
  await page.screenshot({ path: `${PICTURES}/${name}.png`, animations: "disabled", caret: "hide" });
}

async function furnish(world: World): Promise<void> {
  await world.api("PUT", "/v1/users/dana", { display_name: "Dana Okafor" });
  const members = [{ user: "alice", role: "owner" }, { user: "bob" }, { user: "carol" }, { user: "dana" }];
  for (const [name, display_name] of [
    ["design", "Design"],
    ["releases", "Releases"],
    ["support", "Support"],
  ]) {
    await world.api("POST", "/v1/channels", {
      name,
      display_name,
      kind: name === "releases" ? "broadcast" : "group",
      history: "durable",
      members,
    });
  }
  for (const user of ["bob", "dana"]) {
    await world.api("POST", "/v1/channels", { kind: "dm", members: [{ user: "alice" }, { user }] });
  }
  const talk: readonly (readonly [string, string])[] = [
    ["carol", "Morning! The new build is on the staging cluster since last night."],
    ["bob", "Nice. I pulled the cable of one data node during the load test:"],
    ["bob", "every client was back within three seconds, and nothing was lost or doubled."],
    ["alice", "That is what I like to hear. Numbers are in https://example.com/reports/2026-11?view=resume"],
    ["carol", "p99 is down to 6.1 ms.\nI’ll write the release notes after lunch."],
    ["dana", "Then I can tell the customers?"],
    ["alice", "Yes, please do."],
  ];
  for (const [user, text] of talk) await world.api("POST", "/v1/channels/general/messages", { user, text });
}

for (const scheme of ["light", "dark"] as const) {
  test(`the views in ${scheme} keep nobody out`, async ({ world }) => {
    await world.api("POST", "/v1/channels/general/members", { user: "dana" });
    await furnish(world);
    const stranger = await world.person("stranger", { colorScheme: scheme, fragment: "" });
    await expect(stranger.page.getByRole("button", { name: "Sign in" })).toBeVisible();
    await check(stranger.page, `sign-in-${scheme}`);

    const { console: address } = world.server.ready;
    const alice = await world.person("alice", {
      colorScheme: scheme,
      fragment: address.slice(address.indexOf("#") + 1),
      place: "/chat/general",
    });
    await alice.opened("General");
    const { page } = alice;
    await expect(alice.message("Yes, please do.")).toBeVisible();
    await expect(page.getByRole("link", { name: "Dana Okafor" })).toBeVisible();
    // From here on, what comes is news.
    const { channels } = await world.api<{ channels: Listed[] }>("GET", "/v1/channels?user=alice");
    for (const { name, reads } of channels) {
      await world.api("PUT", `/v1/channels/${name}/members/alice/read`, reads.newest);
    }
    await world.api("POST", "/v1/channels/dm:alice~dana/messages", {
      user: "dana",
      text: "Told them. They are happy!",
    });
    await world.api("POST", "/v1/channels/releases/messages", { user: "alice", text: "0.9 is out." });
    await world.api("POST", "/v1/channels/support/messages", { user: "carol", text: "Somebody asks about webhooks." });
    await expect(page.getByRole("link", { name: "Support" })).toContainText("1 unread");
    await alice.say("Lunch at one?");
    await expect(alice.message("Lunch at one?").getByRole("img", { name: "Sent" })).toBeVisible();
    await check(page, `chat-${scheme}`);

    await page.getByRole("button", { name: "Members", exact: true }).click();
    await expect(page.getByRole("complementary", { name: "Members" }).getByRole("listitem")).toHaveCount(4);
    await check(page, `members-${scheme}`);
    await page.getByRole("button", { name: "New channel" }).click();
    await check(page, `new-channel-${scheme}`);
    await page.keyboard.press("Escape");
    await page.keyboard.press("Control+k");
    await check(page, `switcher-${scheme}`);
    await page.keyboard.press("Escape");

    await page.evaluate(() => {
      location.hash = "#/try/create_channel";
    });
    const form = page.getByRole("article", { name: "Create a channel" });
    await form.getByLabel(/^kind/).selectOption("group");
    await form.getByLabel(/^name/).fill("hello world");
    await form.getByRole("button", { name: "Send" }).click();
    await expect(page.getByRole("region", { name: "Answer" })).toBeVisible();
    await check(page, `try-${scheme}`);

    const { page: operator } = await world.person("operator", {
      timezoneId: "UTC",
      colorScheme: scheme,
      given: { keys: [world.server.ready.operator_key] },
    });
    await operator.clock.setFixedTime(NOON);
    await furnishNodes(operator);
    await operator.evaluate(() => {
      location.hash = "#/operate/nodes";
    });
    await expect(operator.getByRole("row").filter({ hasText: "Serving" })).toHaveCount(2);
    await expect(operator.getByRole("figure", { name: "Sessions" }).locator("canvas")).toBeVisible();
    await check(operator, `operate-${scheme}`);

    await page.setViewportSize({ width: 390, height: 760 });
    await page.evaluate(() => {
      location.hash = "#/chat/general";
    });
    await expect(alice.message("Lunch at one?")).toBeVisible();
    await check(page, `narrow-${scheme}`);
  });
}
