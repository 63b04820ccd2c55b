// Copies a text, and says so.

import { type ReactElement, useEffect, useState } from "react";

import { Icon } from "./icons.js";

export function Copy({ text }: { readonly text: string }): ReactElement {
  const [outcome, setOutcome] = useState<"copied" | "refused">();
  useEffect(() => {
    if (outcome === undefined) return;
    const timer = setTimeout(() => setOutcome(undefined), 2_000);
    return () => clearTimeout(timer);
  }, [outcome]);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      setOutcome("copied");
    } catch {
      setOutcome("refused");
    }
  };
  const said = outcome === "copied" ? "Copied" : outcome === "refused" ? "The browser does not allow it" : "Copy";
  return (
    <button type="button" className="quiet copy" title={said} onClick={() => void copy()}>
      <Icon name={outcome === "copied" ? "check" : "copy"} />
      <span className="for-readers" role="status">
        {said}
      </span>
    </button>
  );
}
