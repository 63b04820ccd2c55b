// Whether something is on its way, in any channel: who leaves now is asked, because it would be lost.

import type { Entry } from "@millrace/client";
import { useEffect } from "react";

import { Store, useStore } from "../store.js";

/** Components whose channel has something on its way. */
export const unsent = new Store(0);

export function useUnsent(entries: readonly Entry[]): void {
  const isSending = entries.some(({ status }) => status === "sending");
  useEffect(() => {
    if (!isSending) return;
    unsent.set(unsent.get() + 1);
    return () => unsent.set(unsent.get() - 1);
  }, [isSending]);
}

/** Asks before the page is closed. */
export function useUnsentWarning(): void {
  const isSending = useStore(unsent) > 0;
  useEffect(() => {
    if (!isSending) return;
    const ask = (event: BeforeUnloadEvent) => event.preventDefault();
    addEventListener("beforeunload", ask);
    return () => removeEventListener("beforeunload", ask);
  }, [isSending]);
}
