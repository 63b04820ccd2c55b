// The chat of one user: a client of the SDK, the channels beside, the open one in the middle.

import { Millrace } from "@millrace/client";
import { MillraceProvider } from "@millrace/client/react";
import { type ReactElement, useEffect, useState } from "react";

import { words } from "../rest.js";
import { go, parseRoute, route } from "../route.js";
import { type SignedInUser, session } from "../session/session.js";
import { useStore } from "../store.js";
import { ChannelPane } from "./channel.js";
import { certificateHashes, endpoints, watchForMoves } from "./connection.js";
import { type ChatContext, Context } from "./context.js";
import { Directory, titleOf } from "./directory.js";
import { useShortcuts } from "./shortcuts.js";
import { ordered, Sidebar, unreadByChannel } from "./sidebar.js";
import { Switcher } from "./switcher.js";
import { useUnsentWarning } from "./unsent.js";

const RETRY_MS = 1_000;
/** Names that channels can have; others come from addresses that somebody made up. */
const NAME = /^[\w\-.:@~]{1,128}$/;

/** Keeps the user's client as long as they are signed in, whichever view is shown. */
export function Chat({ me, isShown }: { readonly me: SignedInUser; readonly isShown: boolean }): ReactElement | null {
  const [client, setClient] = useState<Millrace>();
  const [waits, setWaits] = useState<string>();
  const [context] = useState<ChatContext>(() => ({
    me,
    directory: new Directory(session),
    drafts: new Map(),
  }));
  useEffect(() => {
    const stop = new AbortController();
    let made: Millrace | undefined;
    findNode(stop.signal, setWaits).then(
      (url) => {
        made = new Millrace({
          url,
          certificateHashes,
          token: session.tokens(),
          agent: "millrace-console",
          // A tunnel may be long: what was written waits for its end.
          sendTimeoutMs: null,
          backoff: { maxMs: 5_000 },
        });
        made.on("state", (state) => {
          if (state.kind === "closed" && state.error !== undefined && !stop.signal.aborted) {
            session.end(`Your sign-in has ended: ${state.error.message}`);
          }
        });
        watchForMoves(made, url, stop.signal);
        setClient(made);
      },
      () => {},
    );
    return () => {
      stop.abort();
      made?.close().catch(() => {});
    };
  }, []);
  if (client === undefined) {
    return isShown ? <p className="whole-page loading">{waits ?? "Connecting…"}</p> : null;
  }
  return (
    <MillraceProvider client={client}>
      <Context.Provider value={context}>
        <ChatView {...context} isShown={isShown} />
      </Context.Provider>
    </MillraceProvider>
  );
}

/** Where the data nodes are; asks until there is one. */
async function findNode(signal: AbortSignal, onWait: (reason: string) => void): Promise<[string, ...string[]]> {
  for (;;) {
    try {
      const [first, ...more] = await endpoints(signal);
      if (first !== undefined) return [first, ...more];
      onWait("Waiting for a data node…");
    } catch (error) {
      signal.throwIfAborted();
      onWait(words(error));
    }
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    signal.throwIfAborted();
  }
}

function ChatView({ me, directory, isShown }: ChatContext & { readonly isShown: boolean }): ReactElement {
  const { place } = useStore(route);
  const { channels, isLoaded } = useStore(directory.listing);
  const names = useStore(directory.names);
  const unread = useStore(unreadByChannel);
  const [isSwitching, setSwitching] = useState(false);
  const open = isShown ? place : undefined;
  useEffect(() => directory.start(), [directory]);
  useUnsentWarning();

  const all = ordered(channels, (channel) => titleOf(channel, me.user, names));
  const first = all[0]?.name;
  useEffect(() => {
    // On a wide page, an empty place beside the channels would only wait for a click. The address may be ahead of what was told of it.
    const isNowhere = place === undefined && parseRoute(location.hash).place === undefined;
    if (isShown && isNowhere && first !== undefined && matchMedia("(min-width: 721px)").matches) {
      history.replaceState(null, "", `#/chat/${encodeURIComponent(first)}`);
      dispatchEvent(new HashChangeEvent("hashchange"));
    }
  }, [isShown, place, first]);
  useEffect(() => {
    const sum = [...unread.values()].reduce((total, one) => total + one, 0);
    document.title = sum > 0 ? `(${sum > 99 ? "99+" : sum}) Millrace` : "Millrace";
  }, [unread]);
  useEffect(
    () => () => {
      document.title = "Millrace";
    },
    [],
  );

  const step = (by: number, isWanted: (name: string) => boolean) => {
    const at = all.findIndex(({ name }) => name === place);
    for (let passed = 1; passed <= all.length; passed++) {
      const { name } = all[(at + by * passed + all.length * passed) % all.length] ?? {};
      if (name !== undefined && isWanted(name)) return go("chat", name);
    }
  };
  useShortcuts(isShown, {
    switch: () => setSwitching(true),
    next: () => step(1, () => true),
    previous: () => step(-1, () => true),
    nextUnread: () => step(1, (name) => (unread.get(name) ?? 0) > 0),
  });
  return (
    <div className="chat" hidden={!isShown} data-open={open !== undefined}>
      <Sidebar open={open} />
      {open === undefined ? (
        <p className="whole-page empty">{isLoaded && all.length === 0 ? "No channels yet." : "Choose a channel."}</p>
      ) : NAME.test(open) ? (
        <ChannelPane key={open} name={open} />
      ) : (
        <p className="whole-page empty">There is no such channel.</p>
      )}
      {isSwitching && <Switcher onClose={() => setSwitching(false)} />}
    </div>
  );
}
