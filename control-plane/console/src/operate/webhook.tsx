// One webhook: how it is doing, what became of its recent requests, a test, on and off.

import { type ReactElement, useState } from "react";

import { words } from "../rest.js";
import { formatRoute, go } from "../route.js";
import { Dialog } from "../ui/dialog.js";
import { duration, milliseconds, moment } from "./format.js";
import { Frame } from "./frame.js";
import { Failure } from "./overview.js";
import { usePolled } from "./poll.js";
import { WebhookState, waiting } from "./webhooks.js";
import { type Delivery, EVENTS, type GivenUp, type WebhookInfo, type WebhooksApi } from "./webhooks-api.js";

const REFRESH_MS = 2_000;

interface Found {
  readonly webhook: WebhookInfo;
  readonly deliveries: readonly Delivery[];
  readonly givenUp: readonly GivenUp[];
}

async function ask(api: WebhooksApi, id: string, signal: AbortSignal): Promise<Found> {
  const [webhook, deliveries, givenUp] = await Promise.all([
    api.one(id, signal),
    api.deliveries(id, signal),
    api.givenUp(id, signal),
  ]);
  return { webhook, deliveries, givenUp };
}

export function WebhookPage({ api, id }: { readonly api: WebhooksApi; readonly id: string }): ReactElement {
  const { value, error, refresh } = usePolled<Found>(`webhook ${id}`, REFRESH_MS, (_before, signal) =>
    ask(api, id, signal),
  );
  const [failure, setFailure] = useState<string>();
  const [tested, setTested] = useState<Delivery>();
  const [isBusy, setIsBusy] = useState(false);
  const [isRemoving, setIsRemoving] = useState(false);
  const act = async (what: () => Promise<unknown>) => {
    setIsBusy(true);
    setFailure(undefined);
    setTested(undefined);
    try {
      await what();
    } catch (refusal) {
      setFailure(words(refusal));
    }
    setIsBusy(false);
    refresh();
  };
  const webhook = value?.webhook;
  return (
    <>
      <a className="back" href={formatRoute("operate", "webhooks")}>
        All webhooks
      </a>
      <header className="operate-head">
        <h1>{webhook?.label ?? webhook?.url ?? "Webhook"}</h1>
        {webhook !== undefined && (
          <div className="actions">
            <button type="button" disabled={isBusy} onClick={() => void act(async () => setTested(await api.test(id)))}>
              Send a test
            </button>
            <button
              type="button"
              disabled={isBusy}
              onClick={() => void act(() => api.turn(id, webhook.state === "on" ? "off" : "on"))}
            >
              {webhook.state === "on" ? "Turn off" : "Turn on"}
            </button>
            <button type="button" className="danger" disabled={isBusy} onClick={() => setIsRemoving(true)}>
              Remove…
            </button>
          </div>
        )}
      </header>
      {failure !== undefined && <Failure text={failure} />}
      {tested !== undefined && (
        <p className={tested.result === "delivered" ? "notice" : "failure"} role="status">
          {tested.result === "delivered"
            ? `The endpoint took the test: ${tested.status}, after ${milliseconds(tested.latency_ms)}.`
            : `The endpoint did not take the test: ${tested.error}.`}
        </p>
      )}
      {error !== undefined && <Failure text={error} />}
      {value === undefined ? (
        error === undefined && <p className="loading">Asking…</p>
      ) : (
        <>
          <Facts webhook={value.webhook} />
          <Deliveries deliveries={value.deliveries} />
          {value.givenUp.length > 0 && (
            <GivenUpTable
              events={value.givenUp}
              isBusy={isBusy}
              onRetry={(event) => void act(() => api.retry(id, event))}
            />
          )}
        </>
      )}
      {isRemoving && webhook !== undefined && (
        <Remove api={api} webhook={webhook} onClose={() => setIsRemoving(false)} />
      )}
    </>
  );
}

/** What it hears of, the shorter way round. */
function told({ events }: WebhookInfo): string {
  const missing = EVENTS.filter((event) => !events.includes(event));
  if (missing.length === 0) return "Everything";
  return missing.length <= 3 ? `Everything but ${missing.join(", ")}` : events.join(", ");
}

function Facts({ webhook }: { readonly webhook: WebhookInfo }): ReactElement {
  const now = Date.now();
  const { health } = webhook;
  const facts: readonly (readonly [string, string])[] = [
    ["Endpoint", webhook.url],
    ["Is told", told(webhook)],
    ["Of channels", webhook.channel_prefix === null ? "All" : `${webhook.channel_prefix}…`],
    ["Delivered last", health.last_success_ms === null ? "–" : `${duration(now - health.last_success_ms)} ago`],
    ["Waiting", waiting(webhook)],
    ...(health.failing_since_ms === null
      ? []
      : [
          ["Failing for", duration(now - health.failing_since_ms)] as const,
          ["Why", health.last_error ?? "–"] as const,
          ["Tried again", health.retry_ms === null ? "–" : moment(health.retry_ms, now)] as const,
        ]),
    ...(webhook.old_secret_until_ms === null
      ? []
      : [["Also signed with the old secret until", moment(webhook.old_secret_until_ms, now)] as const]),
  ];
  return (
    <dl className="facts">
      <div>
        <dt>State</dt>
        <dd>
          <WebhookState webhook={webhook} />
        </dd>
      </div>
      {facts.map(([name, text]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{text}</dd>
        </div>
      ))}
    </dl>
  );
}

const RESULTS = { delivered: "Delivered", retrying: "Tried again", failed: "Given up" } as const;

function Deliveries({ deliveries }: { readonly deliveries: readonly Delivery[] }): ReactElement {
  const now = Date.now();
  return (
    <section aria-labelledby="deliveries">
      <h2 id="deliveries">Recent requests</h2>
      {deliveries.length === 0 ? (
        <p className="notice">There were none yet.</p>
      ) : (
        <Frame name="Requests">
          <thead>
            <tr>
              <th scope="col">At</th>
              <th scope="col">Event</th>
              <th scope="col" className="number">
                Attempt
              </th>
              <th scope="col">Result</th>
              <th scope="col" className="number">
                Status
              </th>
              <th scope="col" className="number">
                Took
              </th>
              <th scope="col">Why</th>
            </tr>
          </thead>
          <tbody>
            {deliveries.map((delivery) => (
              <tr key={`${delivery.event} ${delivery.attempt} ${delivery.time_ms}`}>
                <td>{moment(delivery.time_ms, now)}</td>
                <th scope="row">
                  {delivery.type} <code className="code">{delivery.event}</code>
                </th>
                <td className="number">{delivery.attempt}</td>
                <td>
                  {delivery.result === "retrying" && delivery.next_ms !== null && delivery.next_ms > now
                    ? `Again in ${duration(delivery.next_ms - now)}`
                    : RESULTS[delivery.result]}
                </td>
                <td className="number">{delivery.status ?? "–"}</td>
                <td className="number">{milliseconds(delivery.latency_ms)}</td>
                <td className="warning">{delivery.error ?? ""}</td>
              </tr>
            ))}
          </tbody>
        </Frame>
      )}
    </section>
  );
}

function GivenUpTable(props: {
  readonly events: readonly GivenUp[];
  readonly isBusy: boolean;
  readonly onRetry: (event: string) => void;
}): ReactElement {
  const { events, isBusy, onRetry } = props;
  const now = Date.now();
  return (
    <section aria-labelledby="given-up">
      <h2 id="given-up">Given up within a week</h2>
      <Frame name="Given up">
        <thead>
          <tr>
            <th scope="col">Event</th>
            <th scope="col">Happened</th>
            <th scope="col">Given up</th>
            <th scope="col" className="number">
              Attempts
            </th>
            <th scope="col">Why</th>
            <th scope="col">
              <span className="for-readers">Actions</span>
            </th>
          </tr>
        </thead>
        <tbody>
          {events.map((event) => (
            <tr key={event.event}>
              <th scope="row">
                {event.type} <code className="code">{event.event}</code>
              </th>
              <td>{moment(event.time_ms, now)}</td>
              <td>{moment(event.failed_ms, now)}</td>
              <td className="number">{event.attempts}</td>
              <td className="warning">{event.error}</td>
              <td className="number">
                <button
                  type="button"
                  disabled={isBusy}
                  aria-label={`Try ${event.event} again`}
                  onClick={() => onRetry(event.event)}
                >
                  Try again
                </button>
              </td>
            </tr>
          ))}
        </tbody>
      </Frame>
    </section>
  );
}

function Remove({
  api,
  webhook,
  onClose,
}: {
  readonly api: WebhooksApi;
  readonly webhook: WebhookInfo;
  readonly onClose: () => void;
}): ReactElement {
  const [error, setError] = useState<string>();
  const [isBusy, setIsBusy] = useState(false);
  const remove = async () => {
    setIsBusy(true);
    try {
      await api.remove(webhook.id);
      go("operate", "webhooks");
    } catch (failure) {
      setError(words(failure));
      setIsBusy(false);
    }
  };
  return (
    <Dialog title={`Remove ${webhook.label ?? "the webhook"}?`} onClose={onClose}>
      <p className="warning">
        Its endpoint is told nothing more, and what waits for it is dropped. It cannot be taken back.
      </p>
      <footer>
        {error !== undefined && <Failure text={error} />}
        <button type="button" className="danger" disabled={isBusy} onClick={() => void remove()}>
          Remove
        </button>
      </footer>
    </Dialog>
  );
}
