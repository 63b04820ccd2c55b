// What keys do in the chat. The list of them for people is in `../shortcuts.tsx`.

import { useEffect, useRef } from "react";

export interface Actions {
  readonly switch: () => void;
  readonly next: () => void;
  readonly previous: () => void;
  readonly nextUnread: () => void;
}

export function useShortcuts(isOn: boolean, actions: Actions): void {
  const latest = useRef(actions);
  latest.current = actions;
  useEffect(() => {
    if (!isOn) return;
    const onKeyDown = (event: KeyboardEvent) => {
      const action = actionOf(event);
      if (action === undefined || document.querySelector("dialog[open]") !== null) return;
      event.preventDefault();
      if (action === "write") document.querySelector<HTMLElement>(".composer textarea")?.focus();
      else latest.current[action]();
    };
    addEventListener("keydown", onKeyDown);
    return () => removeEventListener("keydown", onKeyDown);
  }, [isOn]);
}

function actionOf(event: KeyboardEvent): keyof Actions | "write" | undefined {
  const { key, altKey, ctrlKey, metaKey, shiftKey } = event;
  if ((ctrlKey || metaKey) && !altKey && !shiftKey && key.toLowerCase() === "k") return "switch";
  if (altKey && !ctrlKey && !metaKey) {
    if (key === "ArrowDown") return shiftKey ? "nextUnread" : "next";
    if (key === "ArrowUp" && !shiftKey) return "previous";
  }
  return key === "Escape" ? "write" : undefined;
}
