// A tab that is open for a working day: connections come and go, tokens are renewed, somebody reads here and there. The page's clock runs ahead, so
// that hours take seconds; what the page holds is counted after each round of them, and is the same.
//
// `CONSOLE_HOURS_MINUTES=10` goes on for so long instead of a few rounds.

import { Server } from "./support/server.js";
import { Tunnel } from "./support/tunnel.js";
import { expect, type Person, test, World } from "./support/world.js";

const MINUTES = Number(process.env.CONSOLE_HOURS_MINUTES ?? 0);
const CHANNELS = ["one", "two", "three"];
/** The first rounds fill what is kept on purpose. */
const WARM_ROUNDS = 2;
const ROUNDS_MIN = 4;
/** Steps of a round: at least 20 s of the page's time each, with a cut connection in every other one. */
const STEPS = MINUTES > 0 ? 60 : 6;
const STEP_MS = 20_000;
/** What passes while something is waited for, as a connection is that comes back after a while. */
const WAIT_MS = 1_000;
/** Messages that others write in each round, in each channel. */
const MESSAGES = MINUTES > 0 ? 1_000 : 200;
/** What all later rounds may leave behind together, however many they are: no more than noise. */
const GROWTH_MAX = { bytes: 2 << 20, nodes: 100, listeners: 12 };

/** What a page holds once nothing holds it needlessly. */
interface Held {
  readonly bytes: number;
  readonly nodes: number;
  readonly listeners: number;
}

test("hours in a tab leave nothing behind", async ({ browser }) => {
  const tunnel = new Tunnel();
  const port = await tunnel.open();
  const server = await Server.start([`data.endpoints=ws://127.0.0.1:${port}`]);
  const world = new World(server, browser);
  try {
    tunnel.lead(server.ready.url);
    test.setTimeout(180_000 + MINUTES * 60_000);
    for (const name of [...CHANNELS, "quiet"]) {
      const members = [{ user: "alice", role: "owner" }, { user: "bob" }];
      await world.api("POST", "/v1/channels", { kind: "group", name, members });
    }
    const { operator_key } = server.ready;
    const given = { ...(await world.signIn("bob")), keys: [operator_key] };
    const bob = await world.person("bob", { given, place: "/chat/one" });
    await bob.opened("one");
    await bob.page.clock.install();
    await bob.page.reload();
    await bob.opened("one");
    const pageTime = () => bob.page.evaluate(() => Date.now());
    const begins = await pageTime();

    const held: Held[] = [];
    const ends = Date.now() + MINUTES * 60_000;
    for (let round = 0; round < WARM_ROUNDS + ROUNDS_MIN || Date.now() < ends; round++) {
      await live(world, bob, tunnel, round);
      held.push(await count(bob));
    }
    const told = (row: Held) =>
      `${(row.bytes / 2 ** 20).toFixed(2)} MB, ${row.nodes} nodes, ${row.listeners} listeners`;
    const shown = held.length > 12 ? held.filter((_, round) => round % Math.ceil(held.length / 12) === 0) : held;
    for (const row of [...shown, held.at(-1)]) {
      if (row !== undefined) test.info().annotations.push({ type: "measured", description: told(row) });
    }
    const hours = ((await pageTime()) - begins) / 3_600_000;
    const messages = held.length * CHANNELS.length * MESSAGES;
    const summary = `${hours.toFixed(1)} h of the page's time, ${tunnel.joined} connections, ${messages} messages`;
    test.info().annotations.push({ type: "measured", description: summary });
    const [first, ...later] = held.slice(WARM_ROUNDS - 1);
    for (const [what, most] of Object.entries(GROWTH_MAX) as [keyof Held, number][]) {
      // The last rounds count: what swings is no growth.
      const last = Math.min(...later.slice(-3).map((row) => row[what]));
      expect(last - (first?.[what] ?? Number.NaN), `${what}: ${summary}`).toBeLessThan(most);
    }
    expect(bob.faults).toEqual([]);
  } finally {
    for (const { page } of world.people) await page.context().close();
    tunnel.close();
    await server.stop();
  }
});

/** A while in the page, at the end of which it shows what it showed at its end before. */
async function live(world: World, bob: Person, tunnel: Tunnel, round: number): Promise<void> {
  const { page } = bob;
  const lines = Array.from({ length: MESSAGES }, (_, index) => `round ${round}, line ${index + 1} of what is said`);
  const said = CHANNELS.map((name) => world.server.command(["send", name], `${lines.join("\n")}\n`));
  for (let step = 0; step < STEPS; step++) {
    const { joined } = tunnel;
    if (step % 2 === 1) tunnel.cut();
    await page.clock.fastForward(STEP_MS);
    if (step % 2 === 1) await passesUntil(bob, async () => tunnel.joined > joined);
    await open(bob, CHANNELS[step % CHANNELS.length] ?? "");
    if (step % 4 === 0) await bob.say(`round ${round}, step ${step}`);
    if (step % 6 === 0) await lookAround(bob);
  }
  await Promise.all(said);
  for (const name of CHANNELS) {
    await open(bob, name);
    const unsent = page.locator('.message:not([data-status="sent"])');
    await passesUntil(bob, async () => (await unsent.count()) === 0);
  }
  await open(bob, "quiet");
}

/** Lets the page's time pass until something is so. */
async function passesUntil({ page }: Person, isSo: () => Promise<boolean>): Promise<void> {
  const look = async () => {
    if (await isSo()) return true;
    await page.clock.fastForward(WAIT_MS);
    return false;
  };
  await expect.poll(look, { intervals: [20] }).toBe(true);
}

async function open(bob: Person, name: string): Promise<void> {
  await go(bob.page, `#/chat/${name}`);
  await expect(bob.page.getByRole("heading", { name, level: 2 })).toBeVisible();
  await passesUntil(bob, async () => (await bob.log.getAttribute("aria-busy")) === "false");
}

/** Opens what can be opened, and closes it. */
async function lookAround({ page }: Person): Promise<void> {
  const members = page.getByRole("button", { name: "Members", exact: true });
  await members.click();
  await expect(page.getByRole("complementary", { name: "Members" }).getByRole("listitem")).toHaveCount(2);
  await members.click();
  await page.keyboard.press("Control+k");
  await expect(page.getByRole("combobox", { name: "Channel" })).toBeVisible();
  await page.keyboard.press("Escape");
  await go(page, "#/operate/nodes");
  await expect(page.getByRole("row").filter({ hasText: "Serving" })).toBeVisible();
  await expect(page.getByRole("figure", { name: "Sessions" }).locator("canvas")).toBeVisible();
  await go(page, "#/try/list_channels");
  await expect(page.getByRole("article")).toBeVisible();
}

async function go(page: Person["page"], place: string): Promise<void> {
  await page.evaluate((where) => {
    location.hash = where;
  }, place);
}

async function count({ page }: Person): Promise<Held> {
  const devtools = await page.context().newCDPSession(page);
  await devtools.send("Performance.enable");
  // What the first collection lets go of may hold more.
  for (let time = 0; time < 3; time++) await devtools.send("HeapProfiler.collectGarbage");
  const { metrics } = await devtools.send("Performance.getMetrics");
  await devtools.detach();
  const value = (wanted: string) => metrics.find(({ name }) => name === wanted)?.value ?? Number.NaN;
  return { bytes: value("JSHeapUsedSize"), nodes: value("Nodes"), listeners: value("JSEventListeners") };
}
