// Icons, drawn here: 20 units wide, in the colour of the text beside them.

import type { ReactElement } from "react";

const PATHS = {
  add: "M10 4v12M4 10h12",
  back: "M12 4 6 10l6 6",
  chat: "M3.5 5.5A1.5 1.5 0 0 1 5 4h10a1.5 1.5 0 0 1 1.5 1.5v7A1.5 1.5 0 0 1 15 14H9l-3.5 3v-3H5a1.5 1.5 0 0 1-1.5-1.5z",
  check: "M4.5 10.5 8 14l7.5-8",
  clock: "M10 3.5a6.5 6.5 0 1 0 0 13 6.5 6.5 0 0 0 0-13zM10 6.5V10l2.5 1.5",
  close: "M5 5l10 10M15 5 5 15",
  copy: "M7.5 7.5h8v8h-8zM12.5 7.5v-3h-8v8h3",
  down: "M10 4v12M5 11l5 5 5-5",
  keyboard: "M3 5.5h14v9H3zM6 8.5h.01M9 8.5h.01M12 8.5h.01M15 8.5h-.01M6.5 11.5h7",
  leave: "M8.5 4h-4v12h4M9 10h7.5M13.5 7l3 3-3 3",
  moon: "M15.5 12.2A6.5 6.5 0 0 1 7.8 4.5 6.5 6.5 0 1 0 15.5 12.2z",
  operate: "M3.5 16V9M8 16V4M12.5 16v-5M17 16V7",
  people:
    "M7.5 9.5a2.8 2.8 0 1 0 0-5.6 2.8 2.8 0 0 0 0 5.6zM2.5 16.5c0-2.9 2.2-4.6 5-4.6s5 1.7 5 4.6M13 4.2a2.7 2.7 0 0 1 0 5.2M14.5 12.2c1.9.5 3 2 3 4.3",
  search: "M9 4a5 5 0 1 0 0 10A5 5 0 0 0 9 4zM13 13l3.5 3.5",
  send: "M3.5 10h8M3.5 10 2.8 4.2 17 10 2.8 15.8z",
  sun: "M10 6.8a3.2 3.2 0 1 0 0 6.4 3.2 3.2 0 0 0 0-6.4zM10 2.5v1.5M10 16v1.5M2.5 10H4M16 10h1.5M4.7 4.7l1 1M14.3 14.3l1 1M15.3 4.7l-1 1M5.7 14.3l-1 1",
  system: "M3.5 4.5h13v9h-13zM7.5 16.5h5M10 13.5v3",
  try: "M7 5.5 2.8 10 7 14.5M13 5.5l4.2 4.5-4.2 4.5M11.2 4 8.8 16",
  user: "M10 9.8a3 3 0 1 0 0-6 3 3 0 0 0 0 6zM4 16.5c0-3 2.6-4.8 6-4.8s6 1.8 6 4.8",
  warning: "M10 3.5 17.5 16h-15zM10 8.5v3.5M10 14.2v.01",
} as const;

export type IconName = keyof typeof PATHS;

/** Decoration: what it stands for has to be said beside it. */
export function Icon({ name }: { readonly name: IconName }): ReactElement {
  return (
    <svg className="icon" viewBox="0 0 20 20" aria-hidden="true" focusable="false">
      <path d={PATHS[name]} />
    </svg>
  );
}
