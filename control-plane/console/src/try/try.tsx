// The API explorer: every operation of the served document, as a form that sends it.

import { type ReactElement, useEffect, useState } from "react";

import { call, words } from "../rest.js";
import { formatRoute, route } from "../route.js";
import type { Key, SignedInUser } from "../session/session.js";
import { useStore } from "../store.js";
import { Icon } from "../ui/icons.js";
import { type Document, type Operation, readDocument } from "./openapi.js";
import { OperationForm } from "./operation.js";

export interface TryProps {
  readonly user: SignedInUser | undefined;
  readonly keys: readonly Key[];
}

export function Try(props: TryProps): ReactElement {
  const [document, setDocument] = useState<Document>();
  const [error, setError] = useState<string>();
  const [tries, setTries] = useState(0);
  const { place } = useStore(route);
  // biome-ignore lint/correctness/useExhaustiveDependencies: another try asks again
  useEffect(() => {
    const stop = new AbortController();
    setError(undefined);
    call({ path: "/v1/openapi.json", signal: stop.signal }).then(
      (json) => setDocument(readDocument(json)),
      (failure) => {
        if (!stop.signal.aborted) setError(words(failure));
      },
    );
    return () => stop.abort();
  }, [tries]);
  if (error !== undefined) {
    return (
      <p className="whole-page failure" role="alert">
        {error}
        <button type="button" className="link" onClick={() => setTries(tries + 1)}>
          Try again
        </button>
      </p>
    );
  }
  if (document === undefined) return <p className="whole-page loading">Loading the API’s description…</p>;
  const operation = document.operations.find(({ id }) => id === place);
  return (
    <div className="try" data-open={operation !== undefined}>
      <Operations document={document} open={operation?.id} />
      {operation === undefined ? (
        <div className="whole-page empty">
          <p>
            Choose an operation: it can be sent from here. The same description to read is at{" "}
            <a href="/v1/docs" target="_blank" rel="noopener noreferrer">
              /v1/docs
            </a>
            .
          </p>
        </div>
      ) : (
        <OperationForm key={operation.id} {...props} document={document} operation={operation} />
      )}
    </div>
  );
}

function Operations({
  document,
  open,
}: {
  readonly document: Document;
  readonly open: string | undefined;
}): ReactElement {
  const [text, setText] = useState("");
  const wanted = text.trim().toLowerCase();
  const isWanted = ({ summary, method, path }: Operation) =>
    `${method} ${path} ${summary}`.toLowerCase().includes(wanted);
  const found = document.operations.filter(isWanted);
  return (
    <nav className="sidebar operations" aria-label="Operations">
      <label className="search">
        <Icon name="search" />
        <input
          type="search"
          aria-label="Search operations"
          placeholder="Search"
          value={text}
          onChange={(event) => setText(event.target.value)}
        />
      </label>
      {document.tags.map(({ name, description }) => {
        const listed = found.filter(({ tag }) => tag === name);
        if (listed.length === 0) return null;
        return (
          <section key={name}>
            <header>
              <h2 title={description}>{name}</h2>
            </header>
            <ul>
              {listed.map(({ id, method, summary, path }) => (
                <li key={id}>
                  <a
                    href={formatRoute("try", id)}
                    title={`${method} ${path}`}
                    aria-current={id === open ? "page" : undefined}
                  >
                    <span className="method" data-method={method}>
                      {method}
                    </span>
                    <span className="name">{summary}</span>
                  </a>
                </li>
              ))}
            </ul>
          </section>
        );
      })}
      {found.length === 0 && <p className="empty">No operation has that in its name.</p>}
    </nav>
  );
}
