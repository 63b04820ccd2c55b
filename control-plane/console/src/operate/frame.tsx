// What frames a table: it scrolls by itself where the page is narrow, so a keyboard has to reach it.

import type { ReactElement, ReactNode } from "react";

export function Frame({ name, children }: { readonly name: string; readonly children: ReactNode }): ReactElement {
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls has to take the focus
    <section className="table-frame" aria-label={name} tabIndex={0}>
      <table>{children}</table>
    </section>
  );
}
