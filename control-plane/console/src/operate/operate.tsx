// The operator's view: nodes and their figures, what became of a client's messages, keys, webhooks.

import { type ReactElement, useMemo } from "react";

import { formatRoute, route } from "../route.js";
import type { Key } from "../session/session.js";
import { useStore } from "../store.js";
import { OperateApi } from "./api.js";
import { Find } from "./find.js";
import { Keys } from "./keys.js";
import { NodePage } from "./node.js";
import { Overview } from "./overview.js";
import { Webhooks } from "./webhooks.js";

const SECTIONS = [
  { place: "nodes", title: "Nodes" },
  { place: "find", title: "Find a user or a channel" },
  { place: "keys", title: "Keys" },
  { place: "webhooks", title: "Webhooks" },
] as const;

/** The key of an operator, or else one that may at least look up what is its tenant's. */
export function keyFor(keys: readonly Key[]): Key | undefined {
  return keys.find(({ scope }) => scope === "operator") ?? keys[0];
}

export function Operate({ keys }: { readonly keys: readonly Key[] }): ReactElement {
  const { place } = useStore(route);
  const key = keyFor(keys);
  const api = useMemo(() => (key === undefined ? undefined : new OperateApi(key.key)), [key]);
  if (key === undefined || api === undefined) {
    return (
      <p className="whole-page empty">
        Sign in with an operator key to see nodes, or with an API key to look into your tenant.
      </p>
    );
  }
  const isOperator = key.scope === "operator";
  const sections = isOperator ? SECTIONS : SECTIONS.filter(({ place }) => place !== "nodes");
  const [asked = "", ...rest] = (place ?? "").split("/");
  const section = sections.find(({ place }) => place === asked)?.place ?? (isOperator ? "nodes" : "find");
  const detail = rest.join("/");
  return (
    <div className="operate">
      <nav className="sidebar" aria-label="Operate">
        <ul>
          {sections.map(({ place, title }) => (
            <li key={place}>
              <a href={formatRoute("operate", place)} aria-current={place === section ? "page" : undefined}>
                <span className="name">{title}</span>
              </a>
            </li>
          ))}
        </ul>
      </nav>
      <div className="operate-body">
        {section === "nodes" &&
          (detail === "" ? <Overview api={api} /> : <NodePage key={detail} api={api} id={detail} />)}
        {section === "find" && <Find api={api} isOperator={isOperator} place={detail} />}
        {section === "keys" && <Keys api={api} isOperator={isOperator} />}
        {section === "webhooks" && <Webhooks keys={keys} id={detail} />}
      </div>
    </div>
  );
}
