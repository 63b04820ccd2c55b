// What others wrote, as text. Addresses in it become links, made of parsed URLs: nothing in it is ever markup.

import { Fragment, type ReactElement, type ReactNode } from "react";

/** A part of a text: plain, or an address that may be followed. */
export type Part = { readonly text: string; readonly href: string | undefined };

const CANDIDATE = /\bhttps?:\/\/[^\s<>"'`]+/gi;
/** What ends a sentence, not an address. */
const TRAILING = ".,;:!?])}»”’…";

/** Cuts a text into its parts; joined, they are the text again. */
export function parts(text: string): Part[] {
  const found: Part[] = [];
  let end = 0;
  for (const match of text.matchAll(CANDIDATE)) {
    const address = trimmed(match[0]);
    const href = linkTo(address);
    if (href === undefined) continue;
    if (match.index > end) found.push({ text: text.slice(end, match.index), href: undefined });
    found.push({ text: address, href });
    end = match.index + address.length;
  }
  if (end < text.length) found.push({ text: text.slice(end), href: undefined });
  return found;
}

/** Takes off what ends a sentence; a bracket stays that was opened inside. Each character is looked at once: a stranger chose how many there are. */
function trimmed(address: string): string {
  let end = address.length;
  while (TRAILING.includes(address.charAt(end - 1)) && end > 0) end -= 1;
  let isOpen = 0;
  for (let index = 0; index < end; index++) {
    const character = address.charAt(index);
    isOpen += character === "(" ? 1 : character === ")" ? -1 : 0;
  }
  for (; isOpen > 0 && address.charAt(end) === ")"; isOpen--) end += 1;
  return address.slice(0, end);
}

/** Where an address leads, as the browser will read it; `undefined` unless that is a page on the web. */
function linkTo(address: string): string | undefined {
  try {
    const url = new URL(address);
    const isWeb = url.protocol === "http:" || url.protocol === "https:";
    // One that shows another host than it leads to.
    return isWeb && url.hostname !== "" && url.username === "" && url.password === "" ? url.href : undefined;
  } catch {
    return undefined;
  }
}

export function Text({ text }: { readonly text: string }): ReactElement {
  let offset = 0;
  const nodes: ReactNode[] = [];
  for (const part of parts(text)) {
    const node =
      part.href === undefined ? (
        part.text
      ) : (
        <a href={part.href} target="_blank" rel="noopener noreferrer">
          {part.text}
        </a>
      );
    nodes.push(<Fragment key={offset}>{node}</Fragment>);
    offset += part.text.length;
  }
  return <>{nodes}</>;
}
