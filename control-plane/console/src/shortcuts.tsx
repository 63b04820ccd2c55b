// The list of shortcuts, for people.

import type { ReactElement } from "react";

import { Dialog } from "./ui/dialog.js";

const SHORTCUTS: readonly (readonly [string, string])[] = [
  ["Enter", "Send"],
  ["Shift Enter", "Begin a new line"],
  ["Ctrl K", "Go to a channel by its name"],
  ["Alt ↓", "Next channel"],
  ["Alt ↑", "Previous channel"],
  ["Alt Shift ↓", "Next channel with unread messages"],
  ["Escape", "Write, wherever the focus is; close a dialog"],
  ["Home, End, Page ↑, Page ↓", "Move in the messages, when they have the focus"],
  ["?", "This list"],
];

export function Shortcuts({ onClose }: { readonly onClose: () => void }): ReactElement {
  return (
    <Dialog title="Keyboard shortcuts" onClose={onClose}>
      <dl className="shortcuts">
        {SHORTCUTS.map(([keys, what]) => (
          <div key={keys}>
            <dt>
              {keys.split(" ").map((key) => (
                <kbd key={key}>{key}</kbd>
              ))}
            </dt>
            <dd>{what}</dd>
          </div>
        ))}
      </dl>
    </Dialog>
  );
}
