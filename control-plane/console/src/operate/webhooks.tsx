// Webhooks of a tenant: where its applications are told what happens, how that goes, a new one.

import { type FormEvent, type ReactElement, useId, useMemo, useRef, useState } from "react";

import { words } from "../rest.js";
import { formatRoute } from "../route.js";
import type { Key } from "../session/session.js";
import { Copied, useCopy } from "../ui/copy.js";
import { Dialog } from "../ui/dialog.js";
import { count, duration } from "./format.js";
import { Frame } from "./frame.js";
import { Failure } from "./overview.js";
import { usePolled } from "./poll.js";
import { WebhookPage } from "./webhook.js";
import { EVENTS, type NewWebhook, type WebhookInfo, WebhooksApi } from "./webhooks-api.js";

const REFRESH_MS = 3_000;

const REASONS = {
  asked: "off",
  failing: "off: nothing was taken for days",
  gone: "off: wants no more",
  backlog: "off: too much waited",
};

/** On, failing or off, and why. */
export function WebhookState({ webhook }: { readonly webhook: WebhookInfo }): ReactElement {
  const isFailing = webhook.health.failing_since_ms !== null;
  const [state, text] =
    webhook.off_reason !== null
      ? (["gone", REASONS[webhook.off_reason]] as const)
      : isFailing
        ? (["silent", "failing"] as const)
        : (["serving", "on"] as const);
  return (
    <span className="state" data-state={state}>
      {text.charAt(0).toUpperCase() + text.slice(1)}
    </span>
  );
}

/** What waits to be told, in words. */
export function waiting({ health }: WebhookInfo): string {
  const some = (amount: number, what: string) => `${count(amount)} ${what}${amount === 1 ? "" : "s"}`;
  const parts = [
    health.waiting_events > 0 ? some(health.waiting_events, "event") : "",
    health.waiting_channels > 0 ? `messages of ${some(health.waiting_channels, "channel")}` : "",
  ].filter((part) => part !== "");
  return parts.length > 0 ? parts.join(", ") : "–";
}

export function Webhooks({ keys, id }: { readonly keys: readonly Key[]; readonly id: string }): ReactElement {
  const key = keys.find(({ scope }) => scope === "application")?.key;
  const api = useMemo(() => (key === undefined ? undefined : new WebhooksApi(key)), [key]);
  if (api === undefined) {
    return (
      <>
        <header className="operate-head">
          <h1>Webhooks</h1>
        </header>
        <p className="notice">They are a tenant's: sign in with an API key of it to see them.</p>
      </>
    );
  }
  return id === "" ? <List api={api} /> : <WebhookPage key={id} api={api} id={id} />;
}

function List({ api }: { readonly api: WebhooksApi }): ReactElement {
  const [isCreating, setIsCreating] = useState(false);
  const { value, error, refresh } = usePolled<readonly WebhookInfo[]>("webhooks", REFRESH_MS, (_before, signal) =>
    api.list(signal),
  );
  return (
    <>
      <header className="operate-head">
        <h1>Webhooks</h1>
        <button type="button" className="primary" onClick={() => setIsCreating(true)}>
          New webhook…
        </button>
      </header>
      {error !== undefined && <Failure text={error} />}
      {value === undefined ? (
        error === undefined && <p className="loading">Asking…</p>
      ) : value.length === 0 ? (
        <p className="notice">There are none: no application is told what happens.</p>
      ) : (
        <Table webhooks={value} />
      )}
      {isCreating && (
        <Create
          api={api}
          onClose={() => {
            setIsCreating(false);
            refresh();
          }}
        />
      )}
    </>
  );
}

function Table({ webhooks }: { readonly webhooks: readonly WebhookInfo[] }): ReactElement {
  const now = Date.now();
  return (
    <Frame name="Webhooks">
      <thead>
        <tr>
          <th scope="col">Endpoint</th>
          <th scope="col">Used for</th>
          <th scope="col">State</th>
          <th scope="col">Delivered</th>
          <th scope="col">Failing for</th>
          <th scope="col">Waiting</th>
          <th scope="col" className="number">
            Events
          </th>
        </tr>
      </thead>
      <tbody>
        {webhooks.map((webhook) => {
          const { last_success_ms: last, failing_since_ms: failing } = webhook.health;
          return (
            <tr key={webhook.id}>
              <th scope="row">
                <a href={formatRoute("operate", `webhooks/${webhook.id}`)}>{webhook.url}</a>
              </th>
              <td>{webhook.label ?? "–"}</td>
              <td>
                <WebhookState webhook={webhook} />
              </td>
              <td>{last === null ? "–" : `${duration(now - last)} ago`}</td>
              <td>{failing === null ? "–" : duration(now - failing)}</td>
              <td>{waiting(webhook)}</td>
              <td className="number">{webhook.events.length === EVENTS.length ? "all" : webhook.events.length}</td>
            </tr>
          );
        })}
      </tbody>
    </Frame>
  );
}

function Create({ api, onClose }: { readonly api: WebhooksApi; readonly onClose: () => void }): ReactElement {
  const [url, setUrl] = useState("");
  const [label, setLabel] = useState("");
  const [prefix, setPrefix] = useState("");
  const [events, setEvents] = useState<readonly string[]>(EVENTS);
  const [error, setError] = useState<string>();
  const [isBusy, setIsBusy] = useState(false);
  const [made, setMade] = useState<NewWebhook>();
  const id = useId();
  const submit = async (event: FormEvent) => {
    event.preventDefault();
    setIsBusy(true);
    setError(undefined);
    try {
      setMade(await api.create(url.trim(), events, prefix.trim(), label.trim()));
    } catch (failure) {
      setError(words(failure));
    }
    setIsBusy(false);
  };
  if (made !== undefined) return <Secret secret={made.secret} onClose={onClose} />;
  return (
    <Dialog title="New webhook" onClose={onClose}>
      <form onSubmit={(event) => void submit(event)}>
        <div className="labelled">
          <label htmlFor={`${id}-url`}>Endpoint</label>
          <input
            id={`${id}-url`}
            type="url"
            required
            maxLength={2048}
            placeholder="https://"
            value={url}
            onChange={(event) => setUrl(event.target.value)}
          />
        </div>
        <div className="labelled">
          <label htmlFor={`${id}-label`}>Used for</label>
          <input id={`${id}-label`} value={label} maxLength={256} onChange={(event) => setLabel(event.target.value)} />
        </div>
        <div className="labelled">
          <label htmlFor={`${id}-prefix`}>Only channels whose name begins with</label>
          <input
            id={`${id}-prefix`}
            value={prefix}
            maxLength={128}
            onChange={(event) => setPrefix(event.target.value)}
          />
        </div>
        <fieldset className="events">
          <legend>What it is told</legend>
          {EVENTS.map((kind) => (
            <label key={kind}>
              <input
                type="checkbox"
                checked={events.includes(kind)}
                onChange={({ target }) =>
                  setEvents(EVENTS.filter((other) => (other === kind ? target.checked : events.includes(other))))
                }
              />
              {kind}
            </label>
          ))}
        </fieldset>
        <footer>
          {error !== undefined && <Failure text={error} />}
          <button type="submit" className="primary" disabled={isBusy || events.length === 0}>
            Create webhook
          </button>
        </footer>
      </form>
    </Dialog>
  );
}

function Secret({ secret, onClose }: { readonly secret: string; readonly onClose: () => void }): ReactElement {
  const id = useId();
  const field = useRef<HTMLInputElement>(null);
  const [outcome, copy] = useCopy(() => {
    field.current?.focus();
    field.current?.select();
  });
  return (
    <Dialog title="The secret of the new webhook" onClose={onClose}>
      <div className="labelled">
        <label htmlFor={`${id}-secret`}>It verifies requests, and is shown this once: keep it</label>
        <input
          ref={field}
          id={`${id}-secret`}
          className="secret"
          readOnly
          value={secret}
          onFocus={(event) => event.target.select()}
        />
      </div>
      <footer>
        <Copied outcome={outcome} />
        <button type="button" onClick={() => void copy(secret)}>
          Copy
        </button>
        <button type="button" className="primary" onClick={onClose}>
          I have it
        </button>
      </footer>
    </Dialog>
  );
}
