// One data node: its shards, its plots, and the way to empty it.

import { type FormEvent, type ReactElement, useState } from "react";

import { words } from "../rest.js";
import { formatRoute } from "../route.js";
import { Dialog } from "../ui/dialog.js";
import type { Latency, NodeDetail, OperateApi, Shard } from "./api.js";
import { bytes, count, duration, microseconds, milliseconds, moment, percent } from "./format.js";
import { Frame } from "./frame.js";
import { Failure, STEP_MS, State } from "./overview.js";
import { LINES, Plot } from "./plot.js";
import { usePolled } from "./poll.js";
import { Series } from "./series.js";

const LATENCIES: Readonly<Record<string, string>> = {
  append: "Append, commit included",
  authorize: "Look-up of access",
  open_homes: "Opening of homes",
  read_history: "Read of history",
  publish_rest: "Publish over REST, to its acknowledgement",
};

interface Looked {
  readonly node: NodeDetail;
  readonly whole: Series;
  readonly shards: readonly Series[];
}

async function ask(api: OperateApi, id: string, before: Looked | undefined, signal: AbortSignal): Promise<Looked> {
  const node = await api.node(id, signal);
  const more = async (known: Series, shard?: number) => known.with(await api.series(id, known.sinceMs, shard, signal));
  const plotted = node.shard_details.slice(0, LINES);
  const [whole = Series.empty, ...shards] = await Promise.all([
    more(before?.whole ?? Series.empty),
    ...plotted.map(({ shard }) => more(before?.shards[shard] ?? Series.empty, shard)),
  ]);
  return { node, whole, shards };
}

export function NodePage({ api, id }: { readonly api: OperateApi; readonly id: string }): ReactElement {
  const { value, error, refresh } = usePolled<Looked>(id, STEP_MS, (before, signal) => ask(api, id, before, signal));
  const [isDraining, setIsDraining] = useState(false);
  const back = (
    <a className="back" href={formatRoute("operate", "nodes")}>
      All nodes
    </a>
  );
  if (value === undefined) {
    return (
      <>
        {back}
        {error === undefined ? <p className="loading">Asking…</p> : <Failure text={error} />}
      </>
    );
  }
  const { node, whole, shards } = value;
  const one = [{ label: node.id, series: whole }];
  const each = shards.map((series, index) => ({ label: `shard ${index}`, series }));
  return (
    <>
      {back}
      <header className="operate-head">
        <h1>{node.id}</h1>
        <State state={node.state} />
        {error !== undefined && <Failure text={error} />}
        <button
          type="button"
          className="danger"
          disabled={node.state === "gone" || node.state === "draining"}
          onClick={() => setIsDraining(true)}
        >
          Drain…
        </button>
      </header>
      <Facts node={node} />
      <section className="plots" aria-label="The last ten minutes">
        <Plot title="Sessions" figures={[{ name: "sessions" }]} series={one} format={count} least={4} />
        <Plot
          title="Messages and deliveries a second"
          figures={[
            { name: "messages_per_s", label: "messages" },
            { name: "deliveries_per_s", label: "deliveries" },
          ]}
          series={[{ label: "", series: whole }]}
          format={count}
          least={4}
        />
        <Plot
          title="Publish to acknowledgement"
          figures={[
            { name: "ack_p50_ms", label: "median" },
            { name: "ack_p99_ms", label: "99th" },
          ]}
          series={[{ label: "", series: whole }]}
          format={milliseconds}
        />
        <Plot
          title="Publish to delivery"
          figures={[
            { name: "delivery_p50_ms", label: "median" },
            { name: "delivery_p99_ms", label: "99th" },
          ]}
          series={[{ label: "", series: whole }]}
          format={milliseconds}
        />
        <Plot
          title="Append"
          figures={[
            { name: "append_p50_ms", label: "median" },
            { name: "append_p99_ms", label: "99th" },
          ]}
          series={[{ label: "", series: whole }]}
          format={milliseconds}
        />
        <Plot title="Processor time of shards" figures={[{ name: "cpu" }]} series={each} format={percent} least={0.1} />
        <Plot
          title="CPU time of a turn"
          figures={[{ name: "turn_us" }]}
          series={each}
          format={microseconds}
          least={50}
        />
        <Plot
          title="Waiting in queues"
          figures={[{ name: "queued_bytes" }]}
          series={each}
          format={bytes}
          least={4_096}
        />
      </section>
      <h2>Shards</h2>
      <ShardTable shards={node.shard_details} />
      <h2>Latencies of the last minute</h2>
      <LatencyTable latencies={node.latencies} />
      {isDraining && (
        <DrainDialog
          api={api}
          node={node}
          onClose={() => {
            setIsDraining(false);
            refresh();
          }}
        />
      )}
    </>
  );
}

function Facts({ node }: { readonly node: NodeDetail }): ReactElement {
  const now = Date.now();
  const facts: [string, string][] = [
    ["Version", node.version ?? "–"],
    ["Running for", node.started_ms === null ? "–" : duration(now - node.started_ms)],
    ["Linked for", node.gone_ms === null ? duration(now - node.since_ms) : "not any more"],
    ["Term", node.term],
    ["Slots", `${count(node.slots)} of 1,024`],
    ["Connections", `${count(node.connections)} of ${count(node.connections_max)}`],
    ["Memory", bytes(node.resident_bytes)],
    ["Clients reach it at", node.endpoints.join(", ") || "the address they came by"],
  ];
  if (node.drain_ends_ms !== null) facts.push(["Drained by", moment(node.drain_ends_ms, now)]);
  return (
    <dl className="facts">
      {facts.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

function ShardTable({ shards }: { readonly shards: readonly Shard[] }): ReactElement {
  if (shards.length === 0) return <p className="notice">It has not told its figures.</p>;
  return (
    <Frame name="Shards">
      <thead>
        <tr>
          <th scope="col">Shard</th>
          {[
            "Slots",
            "Sessions",
            "Subscriptions",
            "Homes",
            "Queued",
            "CPU",
            "Turn",
            "Deliveries/s",
            "Publishes/s",
            "Messages/s",
            "Ring",
          ].map((name) => (
            <th key={name} scope="col" className="number">
              {name}
            </th>
          ))}
        </tr>
      </thead>
      <tbody>
        {shards.map((shard) => (
          <tr key={shard.shard} data-silent={!shard.answers}>
            <th scope="row">
              {shard.shard}
              {!shard.answers && " (does not answer)"}
            </th>
            <td className="number">{count(shard.slots)}</td>
            <td className="number">{count(shard.sessions)}</td>
            <td className="number">{count(shard.subscriptions)}</td>
            <td className="number">{count(shard.homes)}</td>
            <td className="number">{bytes(shard.queued_bytes)}</td>
            <td className="number">{percent(shard.cpu)}</td>
            <td className="number">{microseconds(shard.turn_us)}</td>
            <td className="number">{count(shard.deliveries_per_s)}</td>
            <td className="number">{count(shard.publishes_per_s)}</td>
            <td className="number">{count(shard.messages_per_s)}</td>
            <td className="number">
              {shard.ring_items}/{shard.ring_slots}
            </td>
          </tr>
        ))}
      </tbody>
    </Frame>
  );
}

function LatencyTable({ latencies }: { readonly latencies: readonly Latency[] }): ReactElement {
  return (
    <Frame name="Latencies">
      <thead>
        <tr>
          <th scope="col">As the control node measures it</th>
          {["Times", "Median", "90 %", "99 %"].map((name) => (
            <th key={name} scope="col" className="number">
              {name}
            </th>
          ))}
        </tr>
      </thead>
      <tbody>
        {latencies.map((latency) => (
          <tr key={latency.what}>
            <th scope="row">{LATENCIES[latency.what] ?? latency.what}</th>
            <td className="number">{count(latency.count)}</td>
            <td className="number">{milliseconds(latency.p50_ms)}</td>
            <td className="number">{milliseconds(latency.p90_ms)}</td>
            <td className="number">{milliseconds(latency.p99_ms)}</td>
          </tr>
        ))}
      </tbody>
    </Frame>
  );
}

function DrainDialog(props: {
  readonly api: OperateApi;
  readonly node: NodeDetail;
  readonly onClose: () => void;
}): ReactElement {
  const { api, node, onClose } = props;
  const [seconds, setSeconds] = useState("10");
  const [typed, setTyped] = useState("");
  const [error, setError] = useState<string>();
  const [isBusy, setIsBusy] = useState(false);
  const [effect, setEffect] = useState<string>();
  const submit = async (event: FormEvent) => {
    event.preventDefault();
    setIsBusy(true);
    setError(undefined);
    try {
      setEffect((await api.drain(node.id, Math.round(Number(seconds) * 1_000))).effect);
    } catch (failure) {
      setError(words(failure));
    }
    setIsBusy(false);
  };
  if (effect !== undefined) {
    return (
      <Dialog title={`${node.id} drains`} onClose={onClose}>
        <p role="status">{effect}</p>
        <footer>
          <button type="button" className="primary" onClick={onClose}>
            Close
          </button>
        </footer>
      </Dialog>
    );
  }
  return (
    <Dialog title={`Drain ${node.id}?`} onClose={onClose}>
      <form onSubmit={(event) => void submit(event)}>
        <p className="warning">
          Clients are sent away ({count(node.sessions)} {node.sessions === 1 ? "session" : "sessions"}), its homes are
          given back, and its process stops. It cannot be taken back. If no other node serves, nobody can connect until
          one links again.
        </p>
        <div className="labelled">
          <label htmlFor="drain-over">Send clients away over, in seconds</label>
          <input
            id="drain-over"
            type="number"
            min={0}
            max={600}
            required
            value={seconds}
            onChange={(event) => setSeconds(event.target.value)}
          />
        </div>
        <div className="labelled">
          <label htmlFor="drain-name">
            Type <code>{node.id}</code> to confirm
          </label>
          <input id="drain-name" autoComplete="off" value={typed} onChange={(event) => setTyped(event.target.value)} />
        </div>
        <footer>
          {error !== undefined && <Failure text={error} />}
          <button type="submit" className="danger" disabled={isBusy || typed !== node.id}>
            Drain
          </button>
        </footer>
      </form>
    </Dialog>
  );
}
