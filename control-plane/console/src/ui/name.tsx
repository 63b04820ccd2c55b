// What somebody chose to be called, beside other text: its direction is its own.

import type { ReactElement } from "react";

export function Name({ text }: { readonly text: string }): ReactElement {
  return <bdi>{text}</bdi>;
}

/** The same where there is no markup, as in a placeholder: first strong isolate and its end. */
export const isolated = (text: string): string => `\u2068${text}\u2069`;
