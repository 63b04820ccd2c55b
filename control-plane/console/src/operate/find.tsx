// A user or a channel, live: who is connected, how far each is, and what went wrong. "Why did this client miss this message?"

import { type FormEvent, type ReactElement, useEffect, useId, useState } from "react";

import { formatRoute, go } from "../route.js";
import type { ChannelFound, Found, Incident, OperateApi, SessionInfo, Subscription, Tenant, UserFound } from "./api.js";
import { bytes, count, duration, milliseconds, moment } from "./format.js";
import { Frame } from "./frame.js";
import { Failure } from "./overview.js";
import { usePolled } from "./poll.js";

const REFRESH_MS = 2_000;

/** What is looked for, as the address says it: `user/TENANT/NAME`, where an API key has no tenant to name. */
interface Wanted {
  readonly kind: "user" | "channel";
  readonly tenant: string;
  readonly name: string;
}

function parseWanted(place: string): Wanted | undefined {
  const [kind, tenant = "", ...name] = place.split("/");
  if ((kind !== "user" && kind !== "channel") || name.join("/") === "") return undefined;
  return { kind, tenant, name: name.join("/") };
}

const placeOf = ({ kind, tenant, name }: Wanted): string => `find/${kind}/${tenant}/${name}`;

export interface FindProps {
  readonly api: OperateApi;
  readonly isOperator: boolean;
  readonly place: string;
}

export function Find({ api, isOperator, place }: FindProps): ReactElement {
  const wanted = parseWanted(place);
  return (
    <>
      <header className="operate-head">
        <h1>Find a user or a channel</h1>
      </header>
      <FindForm key={`form of ${place}`} api={api} isOperator={isOperator} wanted={wanted} />
      {wanted === undefined ? (
        <p className="notice">
          Shows the sessions that are connected at this moment, how far each subscription is, and what went wrong
          lately: sessions that ended, requests that were refused, messages that were skipped.
        </p>
      ) : (
        <Result key={`result of ${place}`} api={api} wanted={wanted} />
      )}
    </>
  );
}

function FindForm(props: {
  readonly api: OperateApi;
  readonly isOperator: boolean;
  readonly wanted: Wanted | undefined;
}): ReactElement {
  const { api, isOperator, wanted } = props;
  const [kind, setKind] = useState(wanted?.kind ?? "user");
  const [name, setName] = useState(wanted?.name ?? "");
  const [tenant, setTenant] = useState(wanted?.tenant ?? "");
  const id = useId();
  const submit = (event: FormEvent) => {
    event.preventDefault();
    go("operate", placeOf({ kind, tenant, name: name.trim() }));
  };
  return (
    <form className="find" onSubmit={submit}>
      {isOperator && <TenantField api={api} value={tenant} onChange={setTenant} />}
      <div className="labelled">
        <label htmlFor={`${id}-kind`}>What</label>
        <select id={`${id}-kind`} value={kind} onChange={(event) => setKind(event.target.value as Wanted["kind"])}>
          <option value="user">User</option>
          <option value="channel">Channel</option>
        </select>
      </div>
      <div className="labelled wide">
        <label htmlFor={`${id}-name`}>Name</label>
        <input
          id={`${id}-name`}
          value={name}
          required
          maxLength={128}
          autoComplete="off"
          onChange={(event) => setName(event.target.value)}
        />
      </div>
      <button type="submit" className="primary">
        Find
      </button>
    </form>
  );
}

/** Tenants to choose from. Without any, nothing can be found. */
export function TenantField(props: {
  readonly api: OperateApi;
  readonly value: string;
  readonly onChange: (tenant: string) => void;
  /** What choosing none means. */
  readonly none?: string;
}): ReactElement {
  const { api, value, onChange, none } = props;
  const { value: tenants } = usePolled<readonly Tenant[]>("tenants", 30_000, (_before, signal) => api.tenants(signal));
  const id = useId();
  const first = tenants?.[0]?.name;
  useEffect(() => {
    if (value === "" && none === undefined && first !== undefined) onChange(first);
  }, [value, none, first, onChange]);
  return (
    <div className="labelled">
      <label htmlFor={id}>Tenant</label>
      <select id={id} value={value} required={none === undefined} onChange={(event) => onChange(event.target.value)}>
        {none !== undefined && <option value="">{none}</option>}
        {tenants === undefined && value !== "" && <option value={value}>{value}</option>}
        {tenants?.map((tenant) => (
          <option key={tenant.id} value={tenant.name}>
            {tenant.display_name ?? tenant.name}
          </option>
        ))}
      </select>
    </div>
  );
}

function Result({ api, wanted }: { readonly api: OperateApi; readonly wanted: Wanted }): ReactElement {
  const { kind, name } = wanted;
  const tenant = wanted.tenant === "" ? undefined : wanted.tenant;
  const { value, error } = usePolled<UserFound | ChannelFound>(placeOf(wanted), REFRESH_MS, (_before, signal) =>
    kind === "user" ? api.user(name, tenant, signal) : api.channel(name, tenant, signal),
  );
  if (value === undefined) return error === undefined ? <p className="loading">Asking…</p> : <Failure text={error} />;
  return (
    <>
      {error !== undefined && <Failure text={error} />}
      {value.incomplete && (
        <Failure text="A part of the data plane did not answer in time: what it knows is missing." />
      )}
      {"channel_id" in value && <Standing channel={value} />}
      <Sessions found={value} wanted={wanted} />
      <Incidents found={value} wanted={wanted} />
    </>
  );
}

function Standing({ channel }: { readonly channel: ChannelFound }): ReactElement {
  const { stored, home } = channel;
  const facts: [string, string][] = [
    ["Kind", `${channel.kind}, ${channel.history}`],
    [
      "Stored",
      stored === null
        ? "nothing"
        : `offsets ${stored.first_offset} to ${stored.next_offset - 1}, epoch ${stored.epoch}`,
    ],
    [
      "Home",
      home === null
        ? "none: nobody uses the channel"
        : `${home.state.replace("_", " ")} on ${home.node}, shard ${home.shard}; last offset ${home.next_offset === null ? "–" : home.next_offset - 1}`,
    ],
    ["Slot", String(channel.slot)],
  ];
  if (home !== null && home.waiting > 0) facts.push(["Not stored yet", `${count(home.waiting)} messages`]);
  if (channel.archived_ms !== null) facts.push(["Archived", moment(channel.archived_ms, Date.now())]);
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

const STATES: Readonly<Record<Subscription["state"], string>> = {
  joining: "joining",
  replaying: "replaying",
  live: "live",
  catching_up: "catching up",
  attached: "attached",
};

function Sessions({ found, wanted }: { readonly found: Found; readonly wanted: Wanted }): ReactElement {
  const now = Date.now();
  return (
    <section aria-label="Sessions">
      <h2>{found.sessions_total === 1 ? "1 session" : `${count(found.sessions_total)} sessions`}</h2>
      {found.sessions.length === 0 && <p className="notice">Nobody is connected. What happened before is below.</p>}
      {found.sessions.length > 0 && wanted.kind === "channel" && (
        <Subscribers sessions={found.sessions} wanted={wanted} now={now} />
      )}
      {wanted.kind === "user" &&
        found.sessions.map((session) => <Session key={session.id} session={session} wanted={wanted} now={now} />)}
      {found.more && <p className="hint">The first {found.sessions.length} are shown.</p>}
    </section>
  );
}

const inspected = (wanted: Wanted, kind: Wanted["kind"], name: string): string =>
  formatRoute("operate", placeOf({ ...wanted, kind, name }));

/** What a session has not read yet, in words; empty if it reads. */
function waiting({ queued_bytes, stalled_ms }: SessionInfo): string {
  if (stalled_ms > 0) return `${bytes(queued_bytes)} wait, nothing read for ${milliseconds(stalled_ms)}`;
  return queued_bytes > 0 ? `${bytes(queued_bytes)} wait` : "";
}

/** The sessions of a channel: a row for each. */
function Subscribers(props: {
  readonly sessions: readonly SessionInfo[];
  readonly wanted: Wanted;
  readonly now: number;
}): ReactElement {
  const { sessions, wanted, now } = props;
  return (
    <Frame name="Sessions">
      <thead>
        <tr>
          <th scope="col">User</th>
          <th scope="col">State</th>
          <th scope="col" className="number">
            Sent up to
          </th>
          <th scope="col" className="number">
            Behind
          </th>
          <th scope="col">Queue</th>
          <th scope="col">From</th>
          <th scope="col">Client</th>
          <th scope="col">Connected for</th>
        </tr>
      </thead>
      <tbody>
        {sessions.map((session) => {
          const [subscription] = session.subscriptions;
          return (
            <tr key={session.id}>
              <th scope="row">
                <a href={inspected(wanted, "user", session.user)}>{session.user}</a>
              </th>
              <td>{subscription === undefined ? "–" : STATES[subscription.state]}</td>
              <td className="number">{subscription?.offset ?? "–"}</td>
              <td className="number">{count(subscription?.behind)}</td>
              <td className="warning">{waiting(session)}</td>
              <td>{session.remote ?? "gone"}</td>
              <td>{session.agent ?? "unknown"}</td>
              <td>{duration(now - session.connected_ms)}</td>
            </tr>
          );
        })}
      </tbody>
    </Frame>
  );
}

/** A session of a user, with each of its subscriptions. */
function Session(props: {
  readonly session: SessionInfo;
  readonly wanted: Wanted;
  readonly now: number;
}): ReactElement {
  const { session, wanted, now } = props;
  return (
    <article className="session">
      <header>
        <code>{session.id.slice(0, 8)}</code>
        <span>{session.remote ?? "gone"}</span>
        <span>{session.agent ?? "unknown client"}</span>
        <span>
          {session.node}, shard {session.shard}
        </span>
        <span>connected for {duration(now - session.connected_ms)}</span>
        <span>heard {duration(now - session.heard_ms)} ago</span>
        {waiting(session) !== "" && <span className="warning">{waiting(session)}</span>}
      </header>
      {session.subscriptions.length > 0 && (
        <Frame name={`Subscriptions of ${session.id.slice(0, 8)}`}>
          <thead>
            <tr>
              <th scope="col">Channel</th>
              <th scope="col">State</th>
              <th scope="col" className="number">
                Epoch
              </th>
              <th scope="col" className="number">
                Sent up to
              </th>
              <th scope="col" className="number">
                Behind
              </th>
            </tr>
          </thead>
          <tbody>
            {session.subscriptions.map((subscription) => (
              <tr key={subscription.channel}>
                <th scope="row">
                  <a href={inspected(wanted, "channel", subscription.channel)}>{subscription.channel}</a>
                </th>
                <td>{STATES[subscription.state]}</td>
                <td className="number">{subscription.epoch ?? "–"}</td>
                <td className="number">{subscription.offset ?? "–"}</td>
                <td className="number">{count(subscription.behind)}</td>
              </tr>
            ))}
          </tbody>
        </Frame>
      )}
      {session.subscriptions_total > session.subscriptions.length && (
        <p className="hint">of {count(session.subscriptions_total)} subscriptions</p>
      )}
    </article>
  );
}

const KINDS: Readonly<Record<Incident["kind"], string>> = {
  ended: "Session ended",
  refused: "Request refused",
  unsubscribed: "Subscription ended",
  reload: "Could not resume: reloads",
  skipped: "Messages skipped",
};

function Incidents({ found, wanted }: { readonly found: Found; readonly wanted: Wanted }): ReactElement {
  const now = Date.now();
  return (
    <section aria-label="Lately">
      <h2>Lately</h2>
      {found.incidents.length === 0 ? (
        <p className="notice">
          Nothing is remembered: no session ended, nothing was refused or skipped, since the node started.
        </p>
      ) : (
        <Frame name="What went wrong lately">
          <thead>
            <tr>
              <th scope="col">When</th>
              <th scope="col">What</th>
              <th scope="col">Why</th>
              {wanted.kind === "channel" && <th scope="col">User</th>}
              <th scope="col">Where</th>
              <th scope="col">Session</th>
            </tr>
          </thead>
          <tbody>
            {found.incidents.map((incident) => (
              <tr key={`${incident.session} ${incident.time_ms} ${incident.kind} ${incident.code} ${where(incident)}`}>
                <td>{moment(incident.time_ms, now)}</td>
                <td>
                  {KINDS[incident.kind]}
                  {incident.count > 1 && ` (${count(incident.count)} times)`}
                </td>
                <td>
                  {incident.reason}
                  {incident.code !== null && (
                    <code className="code">
                      {incident.code} {incident.code_name}
                    </code>
                  )}
                </td>
                {wanted.kind === "channel" && <td>{incident.user}</td>}
                <td>{where(incident)}</td>
                <td>
                  <code>{incident.session.slice(0, 8)}</code>
                </td>
              </tr>
            ))}
          </tbody>
        </Frame>
      )}
      {found.incidents_more && <p className="hint">There are older ones.</p>}
    </section>
  );
}

/** Channels and offsets: `general at 7`, `general 3 to 9`. */
function where({ kind, channels }: Incident): string {
  const words = channels.map(({ channel, first_offset: first, last_offset: last }) => {
    if (first === null || last === null) return channel;
    return kind === "skipped" ? `${channel} ${first} to ${last}` : `${channel} at ${last}`;
  });
  return words.join(", ") || "–";
}
