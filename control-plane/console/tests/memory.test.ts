// A page that stays open: however much is said in its channels, and however often somebody goes from one to the other, it holds what is shown
// and a little more.

import { expect, test } from "./support/world.js";

const CHANNELS = ["one", "two", "three", "four", "five"];
const ROUNDS = 5;
/** Messages of each round in each channel: 100,000 in all. */
const MESSAGES = 4_000;
/** What all later rounds together may leave behind: a message that stays is 300 bytes at least, so that this is a sixth of them. */
const GROWTH_BYTES_MAX = 4 << 20;

test("a hundred thousand messages leave nothing behind", async ({ world }) => {
  for (const name of [...CHANNELS, "quiet"]) {
    const members = [{ user: "alice", role: "owner" }, { user: "bob" }];
    await world.api("POST", "/v1/channels", { kind: "group", name, members });
  }
  const bob = await world.person("bob", { place: "/chat/quiet" });
  await bob.opened("quiet");
  const { page } = bob;
  // It takes half a minute on a machine of its own; others may use this one.
  test.setTimeout(240_000);
  const expectSoon = expect.configure({ timeout: 60_000 });
  const open = async (name: string) => {
    await page.evaluate((place) => {
      location.hash = place;
    }, `#/chat/${name}`);
    await expectSoon(page.getByRole("heading", { name, level: 2 })).toBeVisible();
    await expectSoon(bob.log).toHaveAttribute("aria-busy", "false");
  };
  const devtools = await page.context().newCDPSession(page);
  await devtools.send("HeapProfiler.enable");
  const held = async () => {
    // What the first collection lets go of may hold more.
    for (let time = 0; time < 3; time++) await devtools.send("HeapProfiler.collectGarbage");
    return (await devtools.send("Runtime.getHeapUsage")).usedSize;
  };

  const heaps: number[] = [];
  for (let round = 1; round <= ROUNDS; round++) {
    const lines = Array.from({ length: MESSAGES }, (_, index) => `round ${round}, line ${index + 1} of what is said`);
    const said = CHANNELS.map((name) => world.server.command(["send", name], `${lines.join("\n")}\n`));
    await open(CHANNELS[round % CHANNELS.length] ?? "");
    await Promise.all(said);
    // Everything has come when the last line of each is there.
    for (const name of CHANNELS) {
      await open(name);
      await expectSoon(bob.message(lines.at(-1) ?? "")).toBeInViewport();
    }
    await open("quiet");
    heaps.push(await held());
  }
  const told = heaps.map((bytes) => `${(bytes / 2 ** 20).toFixed(1)} MB`).join(", ");
  test.info().annotations.push({ type: "measured", description: `heap after each round of 20,000: ${told}` });
  const [first = Number.NaN, ...later] = heaps;
  expect(Math.max(...later) - first, told).toBeLessThan(GROWTH_BYTES_MAX);
});
