// What belongs to one user is never another's, and no text of a stranger stops the page.

import { expect, serveFrom, test } from "./support/world.js";

test("who signs in next in the same tab finds nothing of the user before", async ({ world }) => {
  const alice = await world.person("alice");
  await alice.opened("General");
  await world.api("POST", "/v1/channels", {
    kind: "group",
    name: "news",
    members: [{ user: "alice", role: "owner" }, { user: "bob" }],
  });
  await expect(alice.page.getByRole("link", { name: /^news/ })).toBeVisible({ timeout: 20_000 });
  await alice.field.fill("a secret of Alice’s");
  await world.api("POST", "/v1/channels/news/messages", { user: "bob", text: "one" });
  await expect(alice.page).toHaveTitle("(1) Millrace");
  await alice.page.getByRole("button", { name: "Sign out" }).click();
  const credential = alice.page.getByRole("textbox", { name: "Access token or key" });
  await expect(credential).toBeVisible();
  await expect(alice.page).toHaveTitle("Millrace");
  await credential.fill(JSON.stringify(await world.signIn("bob")));
  await alice.page.getByRole("button", { name: "Sign in" }).click();
  await alice.opened("General");
  await expect(alice.page.getByRole("banner")).toContainText("Bob");
  await expect(alice.field).toHaveValue("");
});

for (const width of [1_200, 320]) {
  test(`names and words without an end stay in their places, ${width} px wide`, async ({ world }) => {
    // One that turns the direction of what follows is no name.
    const turned = world.api("PUT", "/v1/users/bob", { display_name: `\u202e${"W".repeat(250)}` });
    await expect(turned).rejects.toThrow("changes the direction of text");
    // This one begins with a mark of direction, which nobody sees.
    const name = `\u200f${"W".repeat(250)}`;
    await world.api("PUT", "/v1/users/bob", { display_name: name });
    await world.api("POST", "/v1/channels", {
      kind: "group",
      name: "n".repeat(120),
      display_name: name,
      members: [{ user: "alice", role: "owner" }, { user: "bob" }],
    });
    const texts = ["x".repeat(16_000), `https://a.example/${"(".repeat(4_000)}${")".repeat(4_000)}`, "😀".repeat(500)];
    for (const text of texts) {
      await world.api("POST", `/v1/channels/${"n".repeat(120)}/messages`, { user: "bob", text });
    }
    const alice = await world.person("alice", {
      place: `/chat/${"n".repeat(120)}`,
      viewport: { width, height: 700 },
    });
    await alice.opened(name);
    await expect(alice.message("😀").last()).toBeInViewport();
    const isInside = async () => {
      for (const part of [
        alice.field,
        alice.page.getByRole("button", { name: "Members", exact: true }),
        alice.page.getByRole("button", { name: "Send" }),
        alice.message("😀").last().locator(".body"),
      ]) {
        const box = await part.boundingBox();
        expect(box?.x).toBeGreaterThanOrEqual(0);
        expect((box?.x ?? 0) + (box?.width ?? Number.NaN)).toBeLessThanOrEqual(width);
      }
    };
    await isInside();
    expect((await alice.field.boundingBox())?.height).toBeLessThan(60);
    await alice.page.getByRole("button", { name: "Members", exact: true }).click();
    await expect(alice.page.getByRole("complementary", { name: "Members" }).getByRole("listitem")).toHaveCount(2);
    await isInside();
    await expect(alice.page.getByRole("complementary", { name: "Members" }).locator(".avatar")).toHaveText(["A", "W"]);
    await expect(alice.page.getByRole("banner")).toBeInViewport({ ratio: 1 });
  });
}

test("signing out ends the sign-in on the server, too", async ({ world }) => {
  for (const ttl of [3_600, 1]) {
    const pair = await world.signIn("alice", ttl);
    const alice = await world.person("alice", { given: pair });
    await alice.opened("General");
    const newest = await alice.page.evaluate(
      () => JSON.parse(sessionStorage.getItem("millrace.session") ?? "{}").refreshToken as string,
    );
    const revoked = alice.page.waitForResponse(
      (response) => response.url().endsWith("/v1/tokens/revoke") && response.ok(),
    );
    await alice.page.getByRole("button", { name: "Sign out" }).click();
    await revoked;
    await expect(world.api("POST", "/v1/tokens/refresh", { refresh_token: newest })).rejects.toThrow(/refresh/);
  }
});

test("who signs out while something is on its way is asked, and who cannot sign in may stop trying", async ({
  world,
}) => {
  await world.api("POST", "/v1/channels", { kind: "group", name: "news", members: [{ user: "alice", role: "owner" }] });
  const alice = await world.person("alice");
  const { page } = alice;
  await alice.opened("General");
  await expect(page.getByRole("link", { name: /^news/ })).toBeVisible();
  await world.server.kill();
  await alice.say("on its way");
  await expect(alice.message("on its way").getByRole("img", { name: "Sending" })).toBeVisible();
  // Wherever one is meanwhile.
  await page.getByRole("link", { name: "news" }).click();
  const leave = page.getByRole("banner").getByRole("button", { name: "Sign out" });
  const dialog = page.getByRole("dialog", { name: "Sign out now?" });
  await leave.click();
  await dialog.getByRole("button", { name: "Stay" }).click();
  await page.getByRole("link", { name: "General" }).click();
  await expect(alice.message("on its way")).toBeVisible();
  await leave.click();
  await dialog.getByRole("button", { name: "Sign out" }).click();
  const field = page.getByRole("textbox", { name: "Access token or key" });
  await field.fill(world.server.ready.token);
  await page.getByRole("button", { name: "Sign in", exact: true }).click();
  await expect(page.getByRole("status")).toContainText("The server cannot be reached.");
  await page.getByRole("button", { name: "Sign in otherwise" }).click();
  await expect(field).toBeVisible();
});

test("a place that is gone to while channels are loading is where one comes to", async ({ world }) => {
  await world.api("POST", "/v1/channels", {
    kind: "group",
    name: "a-first",
    members: [{ user: "alice", role: "owner" }],
  });
  const alice = await world.person("alice", { place: "/try" });
  await alice.page.getByRole("navigation", { name: "Views" }).getByRole("link", { name: "Chat" }).click();
  await alice.opened("a-first");
  // The page is told of an address only after the script that changed it: here, the list of channels comes in between.
  await alice.page.evaluate(() => {
    location.hash = "#/try";
  });
  await expect(alice.page.getByRole("navigation", { name: "Operations" })).toBeVisible();
  await alice.page.evaluate(() => {
    history.replaceState(null, "", "#/chat");
    dispatchEvent(new HashChangeEvent("hashchange"));
    history.replaceState(null, "", "#/chat/general");
  });
  await alice.page.evaluate(() => dispatchEvent(new HashChangeEvent("hashchange")));
  await alice.opened("General");
});

test("an address that signs in somebody else closes at once what is open", async ({ world }) => {
  const alice = await world.person("alice");
  await alice.opened("General");
  await alice.field.fill("a secret of Alice’s");
  const bob = await world.signIn("bob");
  let answer = () => {};
  const isAsked = new Promise<void>((resolve) => {
    void alice.page.route("**/v1/users/bob", async (route) => {
      resolve();
      await new Promise<void>((goOn) => {
        answer = goOn;
      });
      await route.continue();
    });
  });
  await alice.page.evaluate(
    (fragment) => {
      location.hash = fragment;
    },
    `#${await world.link(bob)}`,
  );
  await isAsked;
  await expect(alice.page.getByText("Signing in…")).toBeVisible();
  await expect(alice.log).toHaveCount(0);
  answer();
  await alice.opened("General");
  await expect(alice.page.getByRole("banner")).toContainText("Bob");
  await expect(alice.field).toHaveValue("");
});

test("an address that signs in nobody leaves what is open as it is", async ({ world }) => {
  await world.api("POST", "/v1/channels", {
    kind: "group",
    name: "news",
    members: [{ user: "alice", role: "owner" }, { user: "bob" }],
  });
  const alice = await world.person("alice", { place: "/chat/news" });
  await alice.opened("news");
  const used = await world.link(await world.signIn("bob"));
  const bob = await world.person("bob", { fragment: used });
  await expect(bob.page.getByRole("navigation", { name: "Views" })).toBeVisible();
  await alice.field.fill("half a thought");
  let finish = () => {};
  const finished = new Promise<void>((resolve) => {
    finish = resolve;
  });
  await alice.page.route("**/v1/sign-in-codes/exchange", async (route) => {
    await finished;
    await route.continue();
  });
  const asked = alice.page.waitForRequest("**/v1/sign-in-codes/exchange");
  await alice.page.evaluate((code) => {
    location.hash = code;
  }, `#${used}`);
  await asked;
  await expect(alice.field, "while it is asked for").toHaveValue("half a thought");
  finish();
  await expect(alice.page.getByRole("alert")).toContainText("was used before");
  await expect(alice.field).toHaveValue("half a thought");
  await alice.field.press("Enter");
  await expect(alice.message("half a thought").getByRole("img", { name: "Sent" })).toBeVisible();
  await expect(alice.page.getByRole("banner")).toContainText("Alice");
  expect(alice.page.url()).toBe(`${world.server.ready.api}/#/chat/news`);
  await alice.page.getByRole("button", { name: "Dismiss" }).click();
  await expect(alice.page.getByRole("alert")).toHaveCount(0);
});

test("what was read in one tab is read in the other", async ({ world }) => {
  await world.api("POST", "/v1/channels", {
    kind: "group",
    name: "news",
    members: [{ user: "alice", role: "owner" }, { user: "bob" }],
  });
  const alice = await world.person("alice");
  await alice.opened("General");
  const badge = alice.page.getByRole("link", { name: /^news/ });
  await expect(alice.page.getByRole("link", { name: /^news/ })).toBeVisible();
  const link = await world.link(await world.signIn("alice"));
  const other = await alice.page.context().newPage();
  if (process.env.CONSOLE_DIST !== undefined) await serveFrom(other, process.env.CONSOLE_DIST);
  await other.goto(`${world.server.ready.api}/#${link}`);
  await expect(other.getByRole("link", { name: /^news/ })).toBeVisible();
  await world.api("POST", "/v1/channels/news/messages", { user: "bob", text: "one" });
  await expect(badge).toContainText("1 unread");
  await other.getByRole("link", { name: /^news/ }).click();
  await expect(other.locator(".message").filter({ hasText: "one" })).toBeVisible();
  await expect(badge).not.toContainText("unread");
  // What this tab writes next does not take it back.
  await alice.say("and on");
  await expect(alice.message("and on").getByRole("img", { name: "Sent" })).toBeVisible();
  await alice.page.reload();
  await alice.opened("General");
  await expect(badge).toBeVisible();
  await expect(badge).not.toContainText("unread");
});

test("a question of the operator's view is on its way once, however often the tab is looked at", async ({ world }) => {
  const { page } = await world.person("operator", { given: { keys: [world.server.ready.operator_key] } });
  await expect(page.getByRole("navigation", { name: "Views" })).toBeVisible();
  let hold = true;
  const held: (() => void)[] = [];
  await page.route("**/v1/nodes?*", async (route) => {
    if (hold) await new Promise<void>((goOn) => held.push(goOn));
    await route.continue();
  });
  // Asking begins within the event: nothing has to be waited for.
  const asked = await page.evaluate(() => {
    const { fetch } = window;
    const counted = window as unknown as { asked: number };
    counted.asked = 0;
    window.fetch = (...input) => {
      if (String(input[0]).startsWith("/v1/nodes?")) counted.asked += 1;
      return fetch(...input);
    };
    location.hash = "#/operate";
    return counted.asked;
  });
  expect(asked).toBe(0);
  await expect.poll(() => held.length).toBeGreaterThan(0);
  const [before, after] = await page.evaluate(() => {
    const counted = window as unknown as { asked: number };
    const { asked } = counted;
    for (let index = 0; index < 5; index++) document.dispatchEvent(new Event("visibilitychange"));
    return [asked, counted.asked];
  });
  expect(after).toBe(before);
  hold = false;
  for (const goOn of held) goOn();
  await expect(page.getByRole("row").filter({ hasText: "Serving" })).toBeVisible();
});
