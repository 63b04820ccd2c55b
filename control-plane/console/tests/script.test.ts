// What somebody writes is text, in every field and everywhere it is shown.

import { expect, test } from "./support/world.js";

const ATTEMPTS = [
  "<script>window.hacked=1</script>",
  "<img src=x onerror=window.hacked=1>",
  "<svg/onload=window.hacked=1>",
  "\"><iframe srcdoc='<script>parent.hacked=1</script>'></iframe>",
  "javascript:window.hacked=1",
  'https://example.com/"onmouseover="window.hacked=1',
  "{{constructor.constructor('window.hacked=1')()}}",
  "https://user:pass@example.com/ data:text/html,<script>window.hacked=1</script>",
];

test("scripts in every text field stay text", async ({ world }) => {
  const [attempt = ""] = ATTEMPTS;
  const everything = ATTEMPTS.join(" ");
  const shown = everything.slice(0, 250);
  await world.api("PUT", "/v1/users/bob", { display_name: shown });
  await world.api("POST", "/v1/channels", {
    name: "marked",
    kind: "group",
    display_name: shown,
    metadata: { [attempt]: everything },
    members: [{ user: "alice", role: "owner" }, { user: "bob" }],
  });
  for (const text of ATTEMPTS) await world.api("POST", "/v1/channels/marked/messages", { user: "bob", text });
  const { console: address } = world.server.ready;
  const alice = await world.person("alice", {
    fragment: address.slice(address.indexOf("#") + 1),
    place: "/chat/general",
  });
  const { page } = alice;
  const isWhole = async () => {
    expect(await page.evaluate(() => (window as { hacked?: number }).hacked)).toBeUndefined();
    const foreign =
      "script:not([src^='/console/']), iframe, img:not([src^='/console/']), [onerror], [onload], [onmouseover], object, embed";
    await expect(page.locator(foreign)).toHaveCount(0);
    for (const href of await page
      .locator("a")
      .evaluateAll((links) => links.map((link) => (link as HTMLAnchorElement).href))) {
      expect(href).toMatch(/^https?:\/\//);
    }
  };

  await alice.opened("General");
  for (const text of ATTEMPTS) await alice.say(text);
  await expect.poll(() => alice.texts()).toEqual(ATTEMPTS);
  const link = alice.message("onmouseover").getByRole("link");
  await expect(link).toHaveText("https://example.com/");
  await expect(link).toHaveAttribute("rel", "noopener noreferrer");
  await isWhole();

  await page.getByRole("link", { name: shown.slice(0, 30) }).click();
  await alice.opened(shown);
  await expect.poll(() => alice.texts()).toEqual(ATTEMPTS);
  await page.getByRole("button", { name: "Members", exact: true }).click();
  const members = page.getByRole("complementary", { name: "Members" });
  await expect(members).toContainText(shown);
  await members.getByLabel("Invite").fill(attempt);
  await members.getByRole("button", { name: "Invite" }).click();
  await expect(members.getByRole("alert")).toBeVisible();
  await isWhole();

  for (const [button, field] of [
    ["New channel", "Name"],
    ["New channel", "Shown as"],
    ["New channel", "Members beside you"],
    ["New direct message", "To"],
  ] as const) {
    await page.getByRole("button", { name: button }).click();
    const dialog = page.getByRole("dialog");
    if (field !== "Name" && button === "New channel") await dialog.getByLabel("Name").fill("another");
    await dialog.getByLabel(field, { exact: true }).fill(attempt);
    await dialog.getByRole("button", { name: /Create|Open/ }).click();
    if (field === "Shown as") await alice.opened(attempt);
    else {
      await expect(dialog.getByRole("alert").first()).toBeVisible();
      await isWhole();
      await page.keyboard.press("Escape");
    }
    await isWhole();
  }
  await page.keyboard.press("Control+k");
  await page.getByRole("combobox", { name: "Channel" }).fill(everything);
  await isWhole();
  await page.keyboard.press("Escape");

  // Places are text, too.
  await page.evaluate((text) => {
    location.hash = `#/chat/${encodeURIComponent(text)}`;
  }, attempt);
  await expect(page.getByText("There is no such channel")).toBeVisible();
  await isWhole();

  await page.evaluate(() => {
    location.hash = "#/try/get_channel";
  });
  await page
    .getByRole("article")
    .getByLabel(/^channel/)
    .fill("marked");
  await page.getByRole("button", { name: "Send" }).click();
  await expect(page.getByRole("region", { name: "Answer" })).toContainText(attempt);
  await isWhole();
  await page.getByRole("searchbox").fill(everything);
  await isWhole();
  await page.evaluate((text) => {
    location.hash = `#/try/${encodeURIComponent(text)}`;
  }, attempt);
  await isWhole();

  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByRole("textbox").fill(attempt);
  await page.getByRole("button", { name: "Sign in" }).click();
  await expect(page.getByRole("alert")).toBeVisible();
  await isWhole();
});
