// Tunnels, crashes and tokens that end: nothing lost, nothing doubled, and no alarm about it.

import { exchangeKey, readClaims } from "../src/session/credential.js";
import { Server } from "./support/server.js";
import { Tunnel } from "./support/tunnel.js";
import { expect, test, World } from "./support/world.js";

const OFFLINE_MS = 30_000;

test("half a minute in a tunnel, then whole again", async ({ browser }) => {
  const tunnel = new Tunnel();
  const port = await tunnel.open();
  const server = await Server.start([`data.endpoints=ws://127.0.0.1:${port}`]);
  const world = new World(server, browser);
  try {
    tunnel.lead(server.ready.url);
    const alice = await world.person("alice");
    await alice.opened("General");
    await alice.say("before");
    await expect(alice.message("before").getByRole("img", { name: "Sent" })).toBeVisible();
    const place = await alice.field.boundingBox();

    tunnel.darken(true);
    await alice.page.context().setOffline(true);
    const begun = Date.now();
    await alice.say("into the dark");
    await expect(alice.message("into the dark").getByRole("img", { name: "Sending" })).toBeVisible();
    // Calm at first, then one line, and nothing moves.
    await expect(alice.page.getByText(/offline|reconnecting/i)).toHaveCount(0);
    for (let index = 0; index < 5; index++) {
      await world.api("POST", "/v1/channels/general/messages", { user: "bob", text: `meanwhile ${index}` });
    }
    await expect(alice.page.getByRole("status").filter({ hasText: "You are offline." })).toBeVisible({
      timeout: 60_000,
    });
    expect(await alice.field.boundingBox()).toEqual(place);
    await alice.say("still in the dark");
    await expect
      .poll(() => Date.now() - begun, { timeout: OFFLINE_MS + 5_000, intervals: [500] })
      .toBeGreaterThanOrEqual(OFFLINE_MS);
    await expect(alice.message("meanwhile")).toHaveCount(0);

    tunnel.darken(false);
    await alice.page.context().setOffline(false);
    await expect(alice.message("still in the dark").getByRole("img", { name: "Sent" })).toBeVisible({
      timeout: 30_000,
    });
    const meanwhile = Array.from({ length: 5 }, (_, index) => `meanwhile ${index}`);
    await expect.poll(() => alice.texts()).toEqual(["before", ...meanwhile, "into the dark", "still in the dark"]);
    await expect(alice.page.getByText(/offline|reconnecting/i)).toHaveCount(0);
    expect(await alice.field.boundingBox()).toEqual(place);
    expect(alice.faults).toEqual([]);
  } finally {
    for (const { page } of world.people) await page.context().close();
    tunnel.close();
    await server.stop();
  }
});

test("the server is killed and comes back under somebody who types", async ({ world }) => {
  // So high that every message is in the page.
  const viewport = { width: 1200, height: 2_400 };
  const alice = await world.person("alice", { viewport });
  const bob = await world.person("bob", { viewport });
  await alice.opened("General");
  await bob.opened("General");
  const said: string[] = [];
  const say = async (count: number) => {
    for (let index = 0; index < count; index++) {
      const text = `line ${said.length}`;
      said.push(text);
      await alice.field.pressSequentially(text);
      await alice.field.press("Enter");
    }
  };
  for (let round = 0; round < 2; round++) {
    await say(4);
    // Some of it is stored, some acknowledged, some on its way.
    const killed = world.server.kill();
    await say(4);
    await killed;
    await say(4);
    const restarted = world.server.restart();
    await say(4);
    await restarted;
  }
  await say(2);
  for (const person of [alice, bob]) {
    await expect.poll(() => person.texts(), { timeout: 30_000 }).toEqual(said);
  }
  await expect(alice.page.locator('.message:not([data-status="sent"])')).toHaveCount(0);
  const { messages } = await world.api<{ messages: { text: string }[] }>(
    "GET",
    "/v1/channels/general/messages?limit=100",
  );
  expect(messages.map(({ text }) => text).sort()).toEqual([...said].sort());
});

test("tokens end in the middle of it, and nobody notices", async ({ world }) => {
  const { token, refresh_token } = await world.signIn("alice", 2);
  const alice = await world.person("alice", { given: { token, refresh_token } });
  await alice.opened("General");
  const kept = () => alice.page.evaluate(() => JSON.parse(sessionStorage.getItem("millrace.session") ?? "{}").token);
  const seen = new Set<string>([token]);
  for (let index = 0; seen.size < 4; index++) {
    await alice.say(`message ${index}`);
    await expect(alice.message(`message ${index}`).getByRole("img", { name: "Sent" })).toBeVisible();
    await expect.poll(kept, { timeout: 20_000 }).not.toBe([...seen].at(-1));
    seen.add(await kept());
    await expect(alice.page.getByText(/reconnecting/i)).toHaveCount(0);
  }
});

for (const aheadMs of [-86_400_000, 86_400_000]) {
  test(`a clock that is ${aheadMs < 0 ? "behind" : "ahead"} signs nobody out`, async ({ world }) => {
    const { token, refresh_token } = await world.signIn("alice", 3);
    const alice = await world.person("alice", { given: { token, refresh_token } });
    await alice.opened("General");
    const { page } = alice;
    await page.clock.setSystemTime(Date.now() + aheadMs);
    await page.reload();
    await alice.opened("General");
    const kept = () => page.evaluate(() => JSON.parse(sessionStorage.getItem("millrace.session") ?? "{}").token);
    for (let index = 0; index < 3; index++) {
      const before = await kept();
      await expect.poll(kept, { timeout: 20_000 }).not.toBe(before);
      await alice.say(`message ${index}`);
      await expect(alice.message(`message ${index}`).getByRole("img", { name: "Sent" })).toBeVisible();
    }
    // A token that is good is not exchanged for each question. Signed in with it, the page renews the other one no more.
    const long = await world.signIn("alice");
    await page.evaluate(
      (fragment) => {
        location.hash = fragment;
      },
      `#${await world.link(long)}`,
    );
    await expect.poll(kept).toBe(long.token);
    await page.reload();
    await alice.opened("General");
    let exchanges = 0;
    page.on("request", (request) => {
      if (request.url().endsWith("/v1/tokens/refresh")) exchanges += 1;
    });
    const members = page.getByRole("button", { name: "Members", exact: true });
    for (let time = 0; time < 3; time++) {
      const asked = page.waitForResponse(/members/);
      await members.click();
      await asked;
      await members.click();
    }
    expect(exchanges).toBeLessThanOrEqual(1);
  });
}

test("a token that nothing renews ends with a word about it", async ({ world }) => {
  // It may end before the page has looked at it, or in the middle of the chat: that is told in the same words.
  for (const seconds of [1, 4]) {
    const { token } = await world.signIn("alice", seconds);
    const alice = await world.person("alice", { given: { token } });
    await expect(alice.page.getByRole("alert")).toContainText("sign-in has ended", { timeout: 30_000 });
    await expect(alice.page.getByRole("textbox", { name: "Access token or key" })).toBeVisible();
  }
});

/** A refusal, as the server has it. */
const refusal = (status: number, detail: string) => ({
  status,
  contentType: "application/problem+json",
  body: JSON.stringify({ type: "about:blank", title: "Refused", status, detail }),
});

test("a token that ends on its way to a slow server signs nobody out", async ({ world }) => {
  const alice = await world.person("alice");
  await alice.opened("General");
  const { page } = alice;
  let refused = 0;
  await page.route("**/v1/users/alice", async (route) => {
    refused += 1;
    if (refused <= 4) await route.fulfill(refusal(401, "token expired 5 ms ago"));
    else await route.continue();
  });
  // The page before the reload may be at the same exchange still.
  let exchanges = 0;
  await page.route("**/v1/tokens/refresh", async (route) => {
    exchanges += 1;
    if (exchanges === 1) await route.fulfill(refusal(409, "a request with this Idempotency-Key is under way"));
    else await route.continue();
  });
  await page.reload();
  await alice.opened("General");
  expect([refused, exchanges >= 4]).toEqual([5, true]);
});

test("a duplicated tab that slept finds the newest token", async ({ world }) => {
  const first = await world.signIn("alice", 5);
  // Meanwhile the other tab renewed it, time and again.
  let newest = first;
  for (let time = 0; time < 3; time++) {
    const response = await fetch(`${world.server.ready.api}/v1/tokens/refresh`, {
      method: "POST",
      headers: { "content-type": "application/json", "idempotency-key": exchangeKey(newest.refresh_token) },
      body: JSON.stringify({ refresh_token: newest.refresh_token }),
    });
    newest = (await response.json()) as typeof first;
  }
  const endsMs = readClaims(newest.token)?.expiresMs ?? Number.NaN;
  await expect.poll(() => Date.now() - endsMs, { intervals: [250] }).toBeGreaterThan(1_000);
  const alice = await world.person("alice", { given: first });
  await alice.opened("General");
  const kept = await alice.page.evaluate(() => JSON.parse(sessionStorage.getItem("millrace.session") ?? "{}"));
  expect(readClaims(kept.token)?.issuedMs).toBeGreaterThan(endsMs);
});

test("channels that cannot be listed at first are there soon", async ({ world }) => {
  const { page } = await world.person("alice", { fragment: "" });
  let asked = 0;
  await page.route("**/v1/channels?*", async (route) => {
    asked += 1;
    if (asked <= 3) await route.fulfill(refusal(503, "the store does not answer"));
    else await route.continue();
  });
  await page.getByRole("textbox", { name: "Access token or key" }).fill(world.server.ready.token);
  await page.getByRole("button", { name: "Sign in" }).click();
  await expect(page.getByRole("navigation", { name: "Channels" }).getByRole("alert")).toBeVisible();
  await expect(page.getByRole("heading", { name: "General", level: 2 })).toBeVisible();
});

test("a page whose data node has moved says how to go on", async ({ world }) => {
  const alice = await world.person("alice");
  await alice.opened("General");
  await world.server.kill();
  await world.server.restart({ moves: true });
  const again = alice.page.getByRole("button", { name: "Load the page again" });
  await expect(again).toBeVisible({ timeout: 30_000 });
  // The browser says in the log what the policy forbids.
  alice.faults.length = 0;
  await again.click();
  await alice.opened("General");
  await alice.say("found you");
  await expect(alice.message("found you").getByRole("img", { name: "Sent" })).toBeVisible();
});
