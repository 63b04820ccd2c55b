// Copies a text, and says so. A page that did not come over HTTPS, or from this machine, has no clipboard: then it says that, and the text
// is marked for whoever copies it by hand.

import { type ReactElement, useEffect, useRef, useState } from "react";

import { Icon } from "./icons.js";

type Outcome = "copied" | "refused";

const SAID_MS = 4_000;

const SAID: Readonly<Record<Outcome, string>> = {
  copied: "Copied",
  refused: "The browser does not let the page copy. The text is marked: copy it with your keyboard.",
};

/** Copies; what is tried last is told for a moment. `mark` is called if it cannot be done. */
export function useCopy(mark: () => void): readonly [Outcome | undefined, (text: string) => Promise<void>] {
  const [outcome, setOutcome] = useState<{ readonly is: Outcome }>();
  useEffect(() => {
    if (outcome?.is !== "copied") return;
    const timer = setTimeout(() => setOutcome(undefined), SAID_MS);
    return () => clearTimeout(timer);
  }, [outcome]);
  const copy = async (text: string) => {
    try {
      // Not there over plain HTTP, which is an error like a refusal.
      await navigator.clipboard.writeText(text);
      setOutcome({ is: "copied" });
    } catch {
      mark();
      setOutcome({ is: "refused" });
    }
  };
  return [outcome?.is, copy];
}

/** What became of a try to copy, for those who see and those who hear. */
export function Copied({ outcome }: { readonly outcome: Outcome | undefined }): ReactElement {
  return (
    <span className="copied" role="status">
      {outcome === undefined ? "" : SAID[outcome]}
    </span>
  );
}

/** A button that copies the text of the block of code in which it stands. */
export function Copy({ text }: { readonly text: string }): ReactElement {
  const button = useRef<HTMLButtonElement>(null);
  const [outcome, copy] = useCopy(() => {
    const block = button.current?.closest(".code")?.querySelector("pre");
    if (block) getSelection()?.selectAllChildren(block);
  });
  return (
    <>
      <button ref={button} type="button" className="quiet copy" title="Copy" onClick={() => void copy(text)}>
        <Icon name={outcome === "copied" ? "check" : "copy"} />
        <span className="for-readers">Copy</span>
      </button>
      <Copied outcome={outcome} />
    </>
  );
}
