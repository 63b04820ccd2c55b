// Places in the console, as fragments of its one page: `#/chat/general`, `#/try/create_channel`.

import { Store } from "./store.js";

export type View = "chat" | "try" | "operate";

export interface Route {
  readonly view: View | undefined;
  /** What of the view: a channel's name, an operation's id. */
  readonly place: string | undefined;
}

const VIEWS: readonly string[] = ["chat", "try", "operate"];

/** Reads a fragment; what is none of ours is no place. */
export function parseRoute(fragment: string): Route {
  const [view = "", ...rest] = fragment.replace(/^#\/?/, "").split("/");
  if (!VIEWS.includes(view)) return { view: undefined, place: undefined };
  const encoded = rest.join("/");
  try {
    return { view: view as View, place: encoded === "" ? undefined : decodeURIComponent(encoded) };
  } catch {
    return { view: view as View, place: undefined };
  }
}

export function formatRoute(view: View, place?: string): string {
  return place === undefined ? `#/${view}` : `#/${view}/${encodeURIComponent(place)}`;
}

export const route = new Store<Route>({ view: undefined, place: undefined });

export function go(view: View, place?: string): void {
  location.hash = formatRoute(view, place);
}

/** Follows the address bar from now on. */
export function followAddress(): void {
  const read = () => route.set(parseRoute(location.hash));
  addEventListener("hashchange", read);
  read();
}
