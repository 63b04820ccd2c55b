// What the server answered: status, headers, body.

import type { ReactElement } from "react";

import { Copy } from "../ui/copy.js";

export interface Answer {
  readonly status: number;
  readonly statusText: string;
  readonly headers: readonly (readonly [string, string])[];
  readonly body: string;
  readonly elapsedMs: number;
}

/** Longer bodies are cut where they are shown. */
const SHOWN_MAX = 200_000;

export function Response({ answer }: { readonly answer: Answer }): ReactElement {
  const { status, statusText, headers, body, elapsedMs } = answer;
  const text = indented(body);
  return (
    <section className="answer" aria-label="Answer">
      <header>
        <h3>Answer</h3>
        <span className={status < 400 ? "status good" : "status bad"} role="status">
          {status} {statusText}
        </span>
        <span className="hint">{Math.round(elapsedMs)} ms</span>
      </header>
      {text === "" ? (
        <p className="hint">No body.</p>
      ) : (
        <div className="code">
          <Copy text={text} />
          {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls has to be reachable by keyboard */}
          <pre tabIndex={0}>
            <Highlighted text={text.slice(0, SHOWN_MAX)} />
          </pre>
        </div>
      )}
      <details>
        <summary>{headers.length} headers</summary>
        <dl className="headers">
          {headers.map(([name, value]) => (
            <div key={name}>
              <dt>{name}</dt>
              <dd>{value}</dd>
            </div>
          ))}
        </dl>
      </details>
    </section>
  );
}

function indented(body: string): string {
  try {
    return JSON.stringify(JSON.parse(body), undefined, 2);
  } catch {
    return body;
  }
}

const TOKEN = /("(?:[^"\\]|\\.)*")(\s*:)?|\b(?:true|false|null)\b|-?\b\d+(?:\.\d+)?(?:[eE][+-]?\d+)?\b/g;

/** JSON with names, texts and numbers in colours; each is text all the same. */
function Highlighted({ text }: { readonly text: string }): ReactElement {
  const nodes: (string | ReactElement)[] = [];
  let end = 0;
  for (const match of text.matchAll(TOKEN)) {
    nodes.push(text.slice(end, match.index));
    const kind = match[1] === undefined ? "number" : match[2] === undefined ? "text" : "name";
    nodes.push(
      <span key={match.index} className={kind}>
        {match[1] ?? match[0]}
      </span>,
      match[2] ?? "",
    );
    end = match.index + match[0].length;
  }
  nodes.push(text.slice(end));
  return <>{nodes}</>;
}
