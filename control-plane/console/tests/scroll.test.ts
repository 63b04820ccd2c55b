// Ten thousand messages: all of them can be reached, few of them are in the page, and frames stay above fifty a second.

import { expect, test } from "./support/world.js";

const MESSAGES = 10_000;
/** What the main thread may work for one frame of fifty a second. */
const FRAME_MS = 20;
/** Frames that come so late are not the machine's noise. */
const GROSSLY_LATE_MS = 60;

test("ten thousand messages scroll smoothly", async ({ world }) => {
  const lines = Array.from(
    { length: MESSAGES },
    (_, index) => `line ${index + 1}${index % 7 === 0 ? " and more of it".repeat(12) : ""}`,
  );
  await world.server.command(["send", "general"], `${lines.join("\n")}\n`);
  const alice = await world.person("alice");
  await alice.opened("General");
  const { page } = alice;
  await expect(alice.message(`line ${MESSAGES}`)).toBeInViewport();

  const devtools = await page.context().newCDPSession(page);
  // Time of the thread, not of the clock: what others do on the machine does not count.
  await devtools.send("Performance.enable", { timeDomain: "threadTicks" });
  const worked = async () => {
    const { metrics } = await devtools.send("Performance.getMetrics");
    return (metrics.find(({ name }) => name === "TaskDuration")?.value ?? 0) * 1_000;
  };
  const before = await worked();
  const result = await alice.log.evaluate(async (log, wanted) => {
    const intervals: number[] = [];
    let rowsMax = 0;
    let last = await new Promise<number>(requestAnimationFrame);
    let still = 0;
    const oldest = () => log.querySelector(".beginning") !== null && log.scrollTop < 200;
    while (!oldest() && still < 600) {
      const top = log.scrollTop;
      log.scrollTop = Math.max(0, top - 700);
      const now = await new Promise<number>(requestAnimationFrame);
      intervals.push(now - last);
      last = now;
      still = log.scrollTop === top ? still + 1 : 0;
      rowsMax = Math.max(rowsMax, log.querySelectorAll(".row").length);
    }
    return { intervals, rowsMax, isDone: oldest(), wanted };
  }, MESSAGES);
  const perFrame = ((await worked()) - before) / result.intervals.length;

  const sorted = result.intervals.sort((one, other) => one - other);
  const median = sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
  const late = sorted[Math.floor(sorted.length * 0.95)] ?? Number.NaN;
  const measured = `${sorted.length} frames: median ${median.toFixed(1)} ms (${(1_000 / median).toFixed(0)}/s), 95 % within ${late.toFixed(1)} ms, main thread ${perFrame.toFixed(1)} ms each`;
  test.info().annotations.push({ type: "measured", description: measured });
  expect(result.isDone, "the oldest message was reached").toBe(true);
  await alice.log.evaluate((log) => {
    log.scrollTop = 0;
  });
  await expect(alice.message("line 1 and more")).toBeInViewport();
  expect(result.rowsMax).toBeLessThan(150);
  expect(perFrame, measured).toBeLessThan(FRAME_MS);
  expect(median, measured).toBeLessThan(GROSSLY_LATE_MS);

  // Back at the end, what comes is followed; elsewhere, it does not move the reader.
  await page.getByRole("button", { name: /Newest|new/ }).click();
  await expect(alice.message(`line ${MESSAGES}`)).toBeInViewport();
  await world.api("POST", "/v1/channels/general/messages", { user: "bob", text: "and one more" });
  await expect(alice.message("and one more")).toBeInViewport();
  await alice.log.evaluate((log) => {
    log.scrollTop -= 3_000;
  });
  await expect(page.getByRole("button", { name: /Newest|new/ })).toBeVisible();
  // What is in the middle of the page now.
  const texts = await alice.texts();
  const read = alice.log.getByText(texts[Math.floor(texts.length / 2)] ?? "", { exact: true });
  const place = await read.boundingBox();
  await world.api("POST", "/v1/channels/general/messages", { user: "bob", text: "unseen" });
  await expect(page.getByRole("button", { name: "1 new" })).toBeVisible();
  expect(await read.boundingBox()).toEqual(place);
});
