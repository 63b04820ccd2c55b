// The frame around the views: which one is shown, who is signed in, light or dark.

import { type ReactElement, useEffect, useState } from "react";

import { Chat } from "./chat/chat.js";
import { unsent } from "./chat/unsent.js";
import { Operate } from "./operate/operate.js";
import { formatRoute, route, type View } from "./route.js";
import { type Key, type SessionState, type SignedInUser, session } from "./session/session.js";
import { Shortcuts } from "./shortcuts.js";
import { ChooseUser, SignIn } from "./sign-in.js";
import { useStore } from "./store.js";
import { setTheme, type Theme, theme } from "./theme.js";
import { Try } from "./try/try.js";
import { Avatar } from "./ui/avatar.js";
import { Dialog } from "./ui/dialog.js";
import { Icon, type IconName } from "./ui/icons.js";
import { Name } from "./ui/name.js";

const TABS: readonly { readonly view: View; readonly title: string; readonly icon: IconName }[] = [
  { view: "chat", title: "Chat", icon: "chat" },
  { view: "try", title: "Try", icon: "try" },
  { view: "operate", title: "Operate", icon: "operate" },
];

export function App(): ReactElement {
  const state = useStore(session.state);
  switch (state.kind) {
    case "signed-out":
      return <SignIn notice={state.notice} />;
    case "checking":
      return (
        <main className="whole-page loading" role="status">
          {state.waits ?? "Signing in…"}
          {state.waits !== undefined && (
            <button type="button" className="link" onClick={() => session.end()}>
              Sign in otherwise
            </button>
          )}
        </main>
      );
    case "signed-in":
      return <SignedIn {...state} />;
  }
}

function SignedIn({ user, keys, notice }: SessionState & { readonly kind: "signed-in" }): ReactElement {
  const { view: asked } = useStore(route);
  const [showsShortcuts, setShowsShortcuts] = useState(false);
  const tabs = TABS.filter(({ view }) => view !== "operate" || keys.length > 0);
  const view = tabs.some(({ view }) => view === asked) ? asked : user === undefined ? "try" : "chat";
  useEffect(() => {
    const onKeyDown = (event: KeyboardEvent) => {
      const { target, key } = event;
      const isWriting = target instanceof HTMLElement && target.closest("input, textarea, select, dialog") !== null;
      if (key === "?" && !isWriting) setShowsShortcuts(true);
    };
    addEventListener("keydown", onKeyDown);
    return () => removeEventListener("keydown", onKeyDown);
  }, []);
  return (
    <>
      <button type="button" className="skip" onClick={skip}>
        Skip to the view
      </button>
      <header className="top">
        <span className="brand">
          <img src="/console/icon.svg" alt="" width="22" height="22" />
          <span>Millrace</span>
        </span>
        <nav aria-label="Views">
          {tabs.map((tab) => (
            <a key={tab.view} href={formatRoute(tab.view)} aria-current={tab.view === view ? "page" : undefined}>
              <Icon name={tab.icon} />
              {tab.title}
            </a>
          ))}
        </nav>
        <span className="end">
          <button
            type="button"
            className="quiet wide-only"
            aria-label="Keyboard shortcuts"
            title="Keyboard shortcuts (?)"
            onClick={() => setShowsShortcuts(true)}
          >
            <Icon name="keyboard" />
          </button>
          <ThemeSwitch />
          <Who user={user} keys={keys} />
        </span>
      </header>
      {notice !== undefined && (
        <p className="toast" role="alert">
          {notice}
          <button type="button" className="quiet" aria-label="Dismiss" onClick={() => session.dismiss()}>
            <Icon name="close" />
          </button>
        </p>
      )}
      <main id="view" tabIndex={-1}>
        {user === undefined ? (
          view === "chat" && <ChooseUser keys={keys} />
        ) : (
          <Chat key={`${user.tenant}/${user.user}`} me={user} isShown={view === "chat"} />
        )}
        {view === "try" && <Try user={user} keys={keys} />}
        {view === "operate" && <Operate keys={keys} />}
      </main>
      {showsShortcuts && <Shortcuts onClose={() => setShowsShortcuts(false)} />}
    </>
  );
}

/** A button, because the address says where in the console one is: a link within the page would change it. */
function skip(): void {
  const first =
    document.querySelector<HTMLElement>(".composer textarea") ?? document.querySelector<HTMLElement>("#view");
  first?.focus();
}

const THEMES: Readonly<Record<Theme, { readonly next: Theme; readonly icon: IconName; readonly said: string }>> = {
  system: { next: "light", icon: "system", said: "Colours: as the system" },
  light: { next: "dark", icon: "sun", said: "Colours: light" },
  dark: { next: "system", icon: "moon", said: "Colours: dark" },
};

function ThemeSwitch(): ReactElement {
  const { next, icon, said } = THEMES[useStore(theme)];
  return (
    <button type="button" className="quiet" aria-label={said} title={said} onClick={() => setTheme(next)}>
      <Icon name={icon} />
    </button>
  );
}

function Who({ user, keys }: { readonly user: SignedInUser | undefined; readonly keys: readonly Key[] }): ReactElement {
  const scopes = [...new Set(keys.map(({ scope }) => (scope === "operator" ? "operator" : "API key")))].join(", ");
  const name = user?.displayName ?? user?.user ?? scopes;
  const [asks, setAsks] = useState(false);
  const leave = () => (unsent.get() > 0 ? setAsks(true) : session.signOut());
  return (
    <>
      <span className="who" title={[user?.user, scopes].filter(Boolean).join(", ")}>
        <Avatar user={user?.user ?? scopes} name={name} />
        <span className="wide-only">
          <Name text={name} />
        </span>
      </span>
      <button type="button" className="quiet" aria-label="Sign out" title="Sign out" onClick={leave}>
        <Icon name="leave" />
      </button>
      {asks && (
        <Dialog title="Sign out now?" onClose={() => setAsks(false)}>
          <p>Something you wrote is still on its way. It would be lost.</p>
          <footer>
            <button type="button" onClick={() => setAsks(false)}>
              Stay
            </button>
            <button type="button" className="danger" onClick={() => session.signOut()}>
              Sign out
            </button>
          </footer>
        </Dialog>
      )}
    </>
  );
}
