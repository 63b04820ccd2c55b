// What the connection does, told calmly: nothing for the first moments, then one quiet line in a place that is always there.

import type { CertificateHash, Millrace } from "@millrace/client";
import { useConnection } from "@millrace/client/react";
import { useEffect, useState } from "react";

import { call } from "../rest.js";
import { Store } from "../store.js";

/** A connection that is back sooner was never worth a word. */
const PATIENCE_MS = 2_000;
const LONG_MS = 15_000;

/** How often a page that cannot connect asks whether the nodes are elsewhere. */
const LOOK_MS = 5_000;

/** The nodes are where this page may not connect: its policy names where they were. */
export const moved = new Store(false);

interface Endpoints {
  readonly endpoints: readonly string[];
  readonly certificate_hashes?: readonly CertificateHash[];
}

/** Where the data nodes are, as of now, as far as this page may connect there: by WebSocket and WebTransport. */
export async function endpoints(signal: AbortSignal): Promise<readonly string[]> {
  const { endpoints } = await call<Endpoints>({ path: "/v1/endpoints", signal });
  return endpoints.filter((endpoint) => /^(wss?|https):/.test(endpoint));
}

/** What WebTransport takes their certificates by, if the browser may not know their authority. */
export async function certificateHashes(): Promise<readonly CertificateHash[]> {
  const { certificate_hashes: hashes = [] } = await call<Endpoints>({ path: "/v1/endpoints" });
  return hashes;
}

/** Looks, while there is no connection, whether the nodes are still where the client looks for them. */
export function watchForMoves(client: Millrace, known: readonly string[], signal: AbortSignal): void {
  const timer = setInterval(async () => {
    if (client.state.kind !== "reconnecting") return moved.set(false);
    const found = await endpoints(signal).catch(() => []);
    if (found.length > 0 && !signal.aborted) moved.set(found.some((endpoint) => !known.includes(endpoint)));
  }, LOOK_MS);
  signal.addEventListener("abort", () => {
    clearInterval(timer);
    moved.set(false);
  });
}

/** What to say of the connection; `undefined` if nothing. */
export function useConnectionWords(): string | undefined {
  const state = useConnection();
  const isDown = state.kind === "connecting" || state.kind === "reconnecting";
  const [passed, setPassed] = useState<"nothing" | "moments" | "long">("nothing");
  useEffect(() => {
    setPassed("nothing");
    if (!isDown) return;
    const moments = setTimeout(() => setPassed("moments"), PATIENCE_MS);
    const long = setTimeout(() => setPassed("long"), LONG_MS);
    return () => {
      clearTimeout(moments);
      clearTimeout(long);
    };
  }, [isDown]);
  if (!isDown || passed === "nothing") return undefined;
  if (navigator.onLine === false) return "You are offline. What you write is sent when you are back.";
  if (state.kind === "connecting")
    return passed === "long" ? "The server does not answer yet. Trying on…" : "Connecting…";
  return passed === "long" ? "Still reconnecting… What you write is kept, and sent then." : "Reconnecting…";
}
