// All data nodes: what each is and does, and how that went in the last ten minutes.

import type { ReactElement } from "react";

import { formatRoute } from "../route.js";
import type { NodeInfo, NodeState, OperateApi } from "./api.js";
import { bytes, count, duration, milliseconds, percent } from "./format.js";
import { Frame } from "./frame.js";
import { Plot } from "./plot.js";
import { usePolled } from "./poll.js";
import { Series } from "./series.js";

/** As often as the control node asks the data nodes. */
export const STEP_MS = 1_000;
/** Nodes whose figures are plotted; the table has all. */
const PLOTTED_MAX = 8;

export const STATES: Readonly<Record<NodeState, string>> = {
  starting: "Starting",
  serving: "Serving",
  draining: "Draining",
  silent: "Does not answer",
  gone: "Gone",
};

interface Fleet {
  readonly nodes: readonly NodeInfo[];
  readonly series: ReadonlyMap<string, Series>;
}

async function ask(api: OperateApi, before: Fleet | undefined, signal: AbortSignal): Promise<Fleet> {
  const nodes = await api.nodes(signal);
  const plotted = nodes.slice(0, PLOTTED_MAX);
  const series = await Promise.all(
    plotted.map(async ({ id }) => {
      const known = before?.series.get(id) ?? Series.empty;
      return [id, known.with(await api.series(id, known.sinceMs, undefined, signal))] as const;
    }),
  );
  return { nodes, series: new Map(series) };
}

export function Overview({ api }: { readonly api: OperateApi }): ReactElement {
  const { value, error } = usePolled<Fleet>("fleet", STEP_MS, (before, signal) => ask(api, before, signal));
  if (value === undefined) {
    return error === undefined ? <p className="loading">Asking…</p> : <Failure text={error} />;
  }
  const lines = [...value.series].map(([label, series]) => ({ label, series }));
  return (
    <>
      <header className="operate-head">
        <h1>Nodes</h1>
        {error !== undefined && <Failure text={error} />}
      </header>
      {value.nodes.length === 0 ? (
        <p className="notice">
          No data node is linked: clients cannot connect. Start one with <code>millrace data</code>.
        </p>
      ) : (
        <NodeTable nodes={value.nodes} />
      )}
      {lines.length > 0 && (
        <section className="plots" aria-label="The last ten minutes">
          <Plot title="Sessions" figures={[{ name: "sessions" }]} series={lines} format={count} least={4} />
          <Plot
            title="Deliveries a second"
            figures={[{ name: "deliveries_per_s" }]}
            series={lines}
            format={count}
            least={4}
          />
          <Plot
            title="Messages a second"
            figures={[{ name: "messages_per_s" }]}
            series={lines}
            format={count}
            least={4}
          />
          <Plot title="Processors used" figures={[{ name: "cpu" }]} series={lines} format={percent} least={0.1} />
          <Plot
            title="Publish to acknowledgement, 99th percentile"
            figures={[{ name: "ack_p99_ms" }]}
            series={lines}
            format={milliseconds}
          />
          <Plot
            title="Publish to delivery, 99th percentile"
            figures={[{ name: "delivery_p99_ms" }]}
            series={lines}
            format={milliseconds}
          />
          <Plot
            title="Waiting in queues"
            figures={[{ name: "queued_bytes" }]}
            series={lines}
            format={bytes}
            least={4_096}
          />
        </section>
      )}
    </>
  );
}

export function Failure({ text }: { readonly text: string }): ReactElement {
  return (
    <p className="failure" role="alert">
      {text}
    </p>
  );
}

export function State({ state }: { readonly state: NodeState }): ReactElement {
  return (
    <span className="state" data-state={state}>
      {STATES[state]}
    </span>
  );
}

function NodeTable({ nodes }: { readonly nodes: readonly NodeInfo[] }): ReactElement {
  const now = Date.now();
  return (
    <Frame name="Nodes">
      <thead>
        <tr>
          <th scope="col">Node</th>
          <th scope="col">State</th>
          <th scope="col">Version</th>
          <th scope="col">Linked for</th>
          <th scope="col" className="number">
            Shards
          </th>
          <th scope="col" className="number">
            Slots
          </th>
          <th scope="col" className="number">
            Sessions
          </th>
          <th scope="col" className="number">
            CPU
          </th>
          <th scope="col" className="number">
            Memory
          </th>
        </tr>
      </thead>
      <tbody>
        {nodes.map((node) => (
          <tr key={node.id}>
            <th scope="row">
              <a href={formatRoute("operate", `nodes/${node.id}`)}>{node.id}</a>
            </th>
            <td>
              <State state={node.state} />
            </td>
            <td>{node.version ?? "–"}</td>
            <td>
              {node.gone_ms === null ? duration(now - node.since_ms) : `left ${duration(now - node.gone_ms)} ago`}
            </td>
            <td className="number">{count(node.shards)}</td>
            <td className="number">{count(node.slots)}</td>
            <td className="number">{count(node.sessions)}</td>
            <td className="number">{percent(node.cpu)}</td>
            <td className="number">{bytes(node.resident_bytes)}</td>
          </tr>
        ))}
      </tbody>
    </Frame>
  );
}
