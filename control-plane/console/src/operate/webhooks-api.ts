// Webhooks of a tenant, as the API has them.

import { call, segment } from "../rest.js";

export const EVENTS = [
  "channel.created",
  "channel.updated",
  "channel.archived",
  "member.added",
  "member.updated",
  "member.removed",
  "user.created",
  "user.updated",
  "user.deleted",
  "message.sent",
] as const;

export interface WebhookInfo {
  readonly id: string;
  readonly url: string;
  readonly events: readonly string[];
  readonly channel_prefix: string | null;
  readonly label: string | null;
  readonly state: "on" | "off";
  readonly off_reason: "asked" | "failing" | "gone" | "backlog" | null;
  readonly off_since_ms: number | null;
  readonly old_secret_until_ms: number | null;
  readonly created_ms: number;
  readonly health: {
    readonly last_success_ms: number | null;
    readonly last_failure_ms: number | null;
    readonly last_error: string | null;
    readonly failing_since_ms: number | null;
    readonly retry_ms: number | null;
    readonly waiting_events: number;
    readonly waiting_channels: number;
  };
}

export interface NewWebhook extends WebhookInfo {
  readonly secret: string;
}

export interface Delivery {
  readonly event: string;
  readonly type: string;
  readonly time_ms: number;
  readonly attempt: number;
  readonly result: "delivered" | "retrying" | "failed";
  readonly status: number | null;
  readonly latency_ms: number;
  readonly error: string | null;
  readonly next_ms: number | null;
}

export interface GivenUp {
  readonly event: string;
  readonly type: string;
  readonly time_ms: number;
  readonly attempts: number;
  readonly failed_ms: number;
  readonly error: string;
}

/** The API with the key of an application server. */
export class WebhooksApi {
  constructor(private readonly credential: string) {}

  private send<T>(method: string, path: string, body?: unknown): Promise<T> {
    return call<T>({ method, path, credential: this.credential, ...(body === undefined ? {} : { body }) });
  }

  private get<T>(path: string, signal: AbortSignal, query: Readonly<Record<string, number>> = {}): Promise<T> {
    return call<T>({ path, query, credential: this.credential, signal });
  }

  readonly list = async (signal: AbortSignal) =>
    (await this.get<{ webhooks: readonly WebhookInfo[] }>("/v1/webhooks", signal)).webhooks;
  readonly one = (id: string, signal: AbortSignal) => this.get<WebhookInfo>(pathOf(id), signal);
  readonly deliveries = async (id: string, signal: AbortSignal) =>
    (await this.get<{ deliveries: readonly Delivery[] }>(`${pathOf(id)}/deliveries`, signal, { limit: 50 })).deliveries;
  readonly givenUp = async (id: string, signal: AbortSignal) =>
    (await this.get<{ failures: readonly GivenUp[] }>(`${pathOf(id)}/failures`, signal, { limit: 50 })).failures;

  readonly create = (url: string, events: readonly string[], prefix: string, label: string) =>
    this.send<NewWebhook>("POST", "/v1/webhooks", {
      url,
      events,
      ...(prefix === "" ? {} : { channel_prefix: prefix }),
      ...(label === "" ? {} : { label }),
    });
  readonly turn = (id: string, state: "on" | "off") => this.send<WebhookInfo>("PATCH", pathOf(id), { state });
  readonly test = (id: string) => this.send<Delivery>("POST", `${pathOf(id)}/test`, {});
  readonly retry = (id: string, event: string) =>
    this.send<GivenUp>("POST", `${pathOf(id)}/failures/${segment(event)}/retry`, {});
  readonly remove = (id: string) => this.send<void>("DELETE", pathOf(id));
}

const pathOf = (id: string) => `/v1/webhooks/${segment(id)}`;
