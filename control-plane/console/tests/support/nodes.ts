// An example of three nodes on a working day, for the picture of Operate in the documentation: the figures of the server under test
// are other ones in each run, and so small that nothing is to be seen. Answers have the shapes of the API; `operate.test.ts` looks at
// the real ones.

import type { Page } from "@playwright/test";

import type { NodeInfo, SeriesAnswer } from "../../src/operate/api.js";

/** When the picture is taken. */
export const NOON = Date.parse("2026-11-20T12:00:00Z");

const STEPS = 600;
const STEP_MS = 1_000;
const HOUR_MS = 3_600_000;

/** Sessions that a node has at each step; one is drained in the last minutes, and its clients go to the others. */
const NODES: readonly { readonly id: string; readonly sessions: (step: number) => number }[] = [
  { id: "data-a", sessions: (step) => 41_200 + 6 * step + moved(step) / 2 },
  { id: "data-b", sessions: (step) => 39_800 + 5 * step + moved(step) / 2 },
  { id: "data-c", sessions: (step) => 40_500 + 5 * step - moved(step) },
];

/** Sessions that have left the drained node. */
function moved(step: number): number {
  return 31_000 * Math.min(1, Math.max(0, (step - 380) / 180));
}

/** Between -1 and 1, the same for the same step, and without a pattern that one sees. */
function noise(step: number, salt: number): number {
  const value = Math.sin(step * 12.9898 + salt * 78.233) * 43_758.5453;
  return 2 * (value - Math.floor(value)) - 1;
}

function figures(index: number, step: number) {
  const sessions = Math.round(NODES[index]?.sessions(step) ?? 0);
  const busy = sessions * (1 + 0.12 * Math.sin(step / 55) + 0.03 * noise(step, index));
  return {
    sessions,
    deliveries_per_s: busy * 1.9,
    messages_per_s: busy * 0.043,
    cpu: (busy / 40_000) * 0.62,
    ack_p99_ms: 5.4 + 0.5 * noise(step, index + 10) + busy / 60_000,
    delivery_p99_ms: 7.1 + 0.7 * noise(step, index + 20) + busy / 50_000,
    queued_bytes: Math.round(busy * 3.1 * (1 + 0.2 * noise(step, index + 30))),
  };
}

function node(index: number): NodeInfo {
  const { id = "" } = NODES[index] ?? {};
  const { sessions, cpu, deliveries_per_s, messages_per_s } = figures(index, STEPS - 1);
  const isDrained = id === "data-c";
  return {
    id,
    state: isDrained ? "draining" : "serving",
    since_ms: NOON - (52 + 7 * index) * HOUR_MS,
    gone_ms: null,
    drain_ends_ms: isDrained ? NOON + 60_000 : null,
    version: "0.1.0",
    started_ms: NOON - (52 + 7 * index) * HOUR_MS,
    endpoints: [`wss://${id}.example.com`],
    shards: 8,
    slots: isDrained ? 0 : 512,
    sessions,
    connections: sessions,
    connections_max: 100_000,
    resident_bytes: 700_000_000 + sessions * 21_000,
    cpu,
    deliveries_per_s,
    messages_per_s,
  };
}

function series(id: string): SeriesAnswer {
  const index = NODES.findIndex((node) => node.id === id);
  const all = Array.from({ length: STEPS }, (_, step) => figures(index, step));
  const column = (name: keyof ReturnType<typeof figures>) => all.map((figures) => figures[name]);
  return {
    time_ms: all.map((_, step) => NOON - (STEPS - 1 - step) * STEP_MS),
    sessions: column("sessions"),
    deliveries_per_s: column("deliveries_per_s"),
    messages_per_s: column("messages_per_s"),
    cpu: column("cpu"),
    ack_p99_ms: column("ack_p99_ms"),
    delivery_p99_ms: column("delivery_p99_ms"),
    queued_bytes: column("queued_bytes"),
  };
}

/** The page is told of these nodes, whatever the server has. */
export async function furnishNodes(page: Page): Promise<void> {
  await page.route(
    ({ pathname }) => pathname === "/v1/nodes",
    (route) => route.fulfill({ json: { nodes: NODES.map((_, index) => node(index)), next: null } }),
  );
  await page.route(
    ({ pathname }) => /^\/v1\/nodes\/[^/]+\/series$/.test(pathname),
    (route) => route.fulfill({ json: series(new URL(route.request().url()).pathname.split("/")[3] ?? "") }),
  );
}
