// What operators ask of the API, and the shapes of its answers.

import { call, segment } from "../rest.js";

export type NodeState = "starting" | "serving" | "draining" | "silent" | "gone";

export interface NodeInfo {
  readonly id: string;
  readonly state: NodeState;
  readonly since_ms: number;
  readonly gone_ms: number | null;
  readonly drain_ends_ms: number | null;
  readonly version: string | null;
  readonly started_ms: number | null;
  readonly endpoints: readonly string[];
  readonly shards: number | null;
  readonly slots: number | null;
  readonly sessions: number | null;
  readonly connections: number | null;
  readonly connections_max: number | null;
  readonly resident_bytes: number | null;
  readonly cpu: number | null;
  readonly deliveries_per_s: number | null;
  readonly messages_per_s: number | null;
}

export interface Shard {
  readonly shard: number;
  readonly answers: boolean;
  readonly slots: number;
  readonly sessions: number;
  readonly subscriptions: number;
  readonly homes: number;
  readonly queued_bytes: number;
  readonly ring_items: number;
  readonly ring_slots: number;
  readonly cpu: number | null;
  readonly turn_us: number | null;
  readonly deliveries_per_s: number | null;
  readonly publishes_per_s: number | null;
  readonly messages_per_s: number | null;
}

export interface Latency {
  readonly what: string;
  readonly count: number;
  readonly p50_ms: number | null;
  readonly p90_ms: number | null;
  readonly p99_ms: number | null;
}

export interface NodeDetail extends NodeInfo {
  readonly term: string;
  readonly shard_details: readonly Shard[];
  readonly latencies: readonly Latency[];
}

export interface Drain {
  readonly node: string;
  readonly over_ms: number;
  readonly ends_by_ms: number;
  readonly effect: string;
}

export interface Subscription {
  readonly channel: string;
  readonly state: "joining" | "replaying" | "live" | "catching_up" | "attached";
  readonly epoch: number | null;
  readonly offset: number | null;
  readonly behind: number | null;
}

export interface SessionInfo {
  readonly id: string;
  readonly user: string;
  readonly node: string;
  readonly shard: number;
  readonly transport: string;
  readonly remote: string | null;
  readonly agent: string | null;
  readonly connected_ms: number;
  readonly heard_ms: number;
  readonly queued_bytes: number;
  readonly stalled_ms: number;
  readonly subscriptions: readonly Subscription[];
  readonly subscriptions_total: number;
}

export interface Incident {
  readonly time_ms: number;
  readonly kind: "ended" | "refused" | "unsubscribed" | "reload" | "skipped";
  readonly code: number | null;
  readonly code_name: string | null;
  readonly reason: string;
  readonly count: number;
  readonly session: string;
  readonly user: string;
  readonly channels: readonly IncidentChannel[];
}

export interface IncidentChannel {
  readonly channel: string;
  readonly first_offset: number | null;
  readonly last_offset: number | null;
}

export interface Found {
  readonly sessions: readonly SessionInfo[];
  readonly sessions_total: number;
  readonly more: boolean;
  readonly incidents: readonly Incident[];
  readonly incidents_more: boolean;
  readonly incomplete: boolean;
}

export interface UserFound extends Found {
  readonly user: string;
}

export interface ChannelFound extends Found {
  readonly channel: string;
  readonly channel_id: string;
  readonly kind: string;
  readonly history: string;
  readonly archived_ms: number | null;
  readonly slot: number;
  readonly stored: { readonly epoch: number; readonly first_offset: number; readonly next_offset: number } | null;
  readonly home: {
    readonly node: string;
    readonly shard: number;
    readonly state: string;
    readonly next_offset: number | null;
    readonly waiting: number;
  } | null;
}

export interface KeyInfo {
  readonly id: string;
  readonly tenant: number | null;
  readonly label: string | null;
  readonly created_ms: number;
}

export interface NewKey extends KeyInfo {
  readonly key: string;
}

export interface Tenant {
  readonly id: number;
  readonly name: string;
  readonly display_name: string | null;
}

/** Steps over time: lists of the same length, by name. */
export type SeriesAnswer = { readonly time_ms: readonly number[] } & {
  readonly [name: string]: readonly (number | null)[];
};

/** The API with one key. */
export class OperateApi {
  constructor(private readonly credential: string) {}

  private readonly get = <T>(
    path: string,
    query: Readonly<Record<string, string | number | undefined>> = {},
    signal?: AbortSignal,
  ) => call<T>({ path, query, credential: this.credential, signal });

  /** Every entry of a list that comes in pages. */
  private async all<T>(
    path: string,
    name: string,
    query: Readonly<Record<string, string | undefined>>,
    signal?: AbortSignal,
  ) {
    const entries: T[] = [];
    let cursor: string | undefined;
    do {
      const page = await this.get<Record<string, unknown>>(path, { ...query, limit: 100, cursor }, signal);
      entries.push(...(page[name] as T[]));
      cursor = (page.next as string | null) ?? undefined;
    } while (cursor !== undefined);
    return entries as readonly T[];
  }

  readonly nodes = (signal?: AbortSignal) => this.all<NodeInfo>("/v1/nodes", "nodes", {}, signal);
  readonly node = (id: string, signal?: AbortSignal) => this.get<NodeDetail>(`/v1/nodes/${segment(id)}`, {}, signal);
  readonly series = (id: string, sinceMs: number, shard: number | undefined, signal?: AbortSignal) =>
    this.get<SeriesAnswer>(`/v1/nodes/${segment(id)}/series`, { since_ms: sinceMs, shard }, signal);
  readonly drain = (id: string, overMs: number) =>
    call<Drain>({
      method: "POST",
      path: `/v1/nodes/${segment(id)}/drain`,
      body: { over_ms: overMs },
      credential: this.credential,
    });

  readonly user = (user: string, tenant: string | undefined, signal?: AbortSignal) =>
    this.get<UserFound>(`/v1/inspect/users/${segment(user)}`, { tenant, limit: 100 }, signal);
  readonly channel = (channel: string, tenant: string | undefined, signal?: AbortSignal) =>
    this.get<ChannelFound>(`/v1/inspect/channels/${segment(channel)}`, { tenant, limit: 100 }, signal);

  readonly tenants = (signal?: AbortSignal) => this.all<Tenant>("/v1/tenants", "tenants", {}, signal);
  readonly keys = (tenant: string | undefined, signal?: AbortSignal) =>
    this.all<KeyInfo>("/v1/keys", "keys", { tenant }, signal);
  readonly createKey = (tenant: string | undefined, label: string) =>
    call<NewKey>({
      method: "POST",
      path: "/v1/keys",
      body: { ...(tenant === undefined ? {} : { tenant }), ...(label === "" ? {} : { label }) },
      credential: this.credential,
    });
  readonly revokeKey = (id: string) =>
    call<void>({ method: "DELETE", path: `/v1/keys/${segment(id)}`, credential: this.credential });
}
