// Who are you? A pasted token or key, and with a key of an application server, a user to chat as.

import { type FormEvent, type ReactElement, useState } from "react";

import { words } from "./rest.js";
import { parsePasted } from "./session/credential.js";
import { type Key, session } from "./session/session.js";

export function SignIn({ notice }: { readonly notice: string | undefined }): ReactElement {
  const [text, setText] = useState("");
  const [error, setError] = useState<string>();
  const submit = (event: FormEvent) => {
    event.preventDefault();
    const given = parsePasted(text);
    if (given === undefined) setError("That is neither an access token nor a key.");
    else void session.adopt(given, "typed");
  };
  const said = error ?? notice;
  return (
    <main className="sign-in">
      <form onSubmit={submit}>
        <img src="/console/icon.svg" alt="" width="44" height="44" />
        <h1>Millrace</h1>
        <label htmlFor="credential">Access token or key</label>
        <textarea
          id="credential"
          value={text}
          rows={4}
          spellCheck={false}
          autoComplete="off"
          autoCapitalize="off"
          aria-describedby="credential-hint"
          aria-invalid={said !== undefined}
          onChange={(event) => {
            setText(event.target.value);
            setError(undefined);
          }}
        />
        {said !== undefined && (
          <p className="failure" role="alert">
            {said}
          </p>
        )}
        <button type="submit" className="primary" disabled={text.trim() === ""}>
          Sign in
        </button>
        <p id="credential-hint" className="hint">
          A user’s token opens the chat. An API key can try the API and chat as any user of its tenant; an operator key
          runs the deployment. It stays in this tab. <code>millrace dev</code> prints an address that signs you in.
        </p>
      </form>
    </main>
  );
}

/** For whoever has a key and no user: the chat needs somebody who talks. */
export function ChooseUser({ keys }: { readonly keys: readonly Key[] }): ReactElement {
  const [user, setUser] = useState("");
  const [error, setError] = useState<string>();
  const key = keys.find(({ scope }) => scope === "application");
  const submit = async (event: FormEvent) => {
    event.preventDefault();
    try {
      if (key !== undefined) await session.impersonate(key.key, user.trim());
    } catch (failure) {
      setError(words(failure));
    }
  };
  if (key === undefined) {
    return <p className="whole-page empty">An operator has no channels. Sign in with a user’s token to chat.</p>;
  }
  return (
    <div className="sign-in">
      <form onSubmit={(event) => void submit(event)}>
        <h2>Chat as a user</h2>
        <label htmlFor="user">User</label>
        <input id="user" value={user} required maxLength={128} onChange={(event) => setUser(event.target.value)} />
        {error !== undefined && (
          <p className="failure" role="alert">
            {error}
          </p>
        )}
        <button type="submit" className="primary">
          Chat
        </button>
        <p className="hint">Your API key issues a token for this user, whom it makes if there is none.</p>
      </form>
    </div>
  );
}
