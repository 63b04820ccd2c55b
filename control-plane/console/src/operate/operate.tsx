// How the deployment is, for operators.

import { type ReactElement, useEffect, useState } from "react";

import { call, words } from "../rest.js";

const ASK_MS = 5_000;

interface Health {
  readonly version: string;
  readonly data_plane: boolean;
}

export function Operate(): ReactElement {
  const [health, setHealth] = useState<Health>();
  const [error, setError] = useState<string>();
  useEffect(() => {
    const stop = new AbortController();
    const ask = async () => {
      try {
        const { signal } = stop;
        const { version } = await call<{ version: string }>({ path: "/v1/version", signal });
        const { data_plane } = await call<{ data_plane: boolean }>({ path: "/readyz", signal });
        setHealth({ version, data_plane });
        setError(undefined);
      } catch (failure) {
        if (!stop.signal.aborted) setError(words(failure));
      }
    };
    void ask();
    const timer = setInterval(ask, ASK_MS);
    return () => {
      stop.abort();
      clearInterval(timer);
    };
  }, []);
  return (
    <section className="operate" aria-label="Operate">
      <h2>This deployment</h2>
      {error !== undefined && (
        <p className="failure" role="alert">
          {error}
        </p>
      )}
      {health === undefined && error === undefined && <p className="loading">Asking the control node…</p>}
      {health !== undefined && (
        <dl className="headers">
          <div>
            <dt>Version</dt>
            <dd>{health.version}</dd>
          </div>
          <div>
            <dt>Store</dt>
            <dd>{error === undefined ? "answers" : "unknown"}</dd>
          </div>
          <div>
            <dt>Data node</dt>
            <dd>{health.data_plane ? "linked" : "not linked: messages cannot be sent"}</dd>
          </div>
        </dl>
      )}
    </section>
  );
}
