// A real server: the binary of this repository, in a folder of its own, killed and started again as a test wants.

import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

interface Ready {
  url: string;
  tls_url: string;
  certificate_hashes: { algorithm: string; value: string }[];
  api: string;
  api_key: string;
  token: string;
}

export class Server {
  ready: Ready | undefined;
  private child: ChildProcess | undefined;
  private readonly folder = mkdtempSync(join(tmpdir(), "millrace-js-"));

  static async start(...settings: string[]): Promise<Server> {
    const server = new Server();
    await server.start(settings);
    return server;
  }

  get url(): string {
    return this.facts.url;
  }

  private get facts(): Ready {
    return this.ready ?? assert.fail("the server is not ready");
  }

  async start(settings: string[] = []): Promise<void> {
    const built = fileURLToPath(new URL("../../../../target/debug/millrace", import.meta.url));
    const binary = process.env.MILLRACE_BIN ?? built;
    assert.ok(existsSync(binary), `there is no ${binary}: build millrace, or set MILLRACE_BIN`);
    // Where it was before, it is again.
    const before = this.ready;
    const set = [
      "log.filter=error",
      `data.client_address=${before === undefined ? ANY : host(before.url)}`,
      `data.client_tls_address=${before === undefined ? ANY : host(before.tls_url)}`,
      `control.rest_address=${before === undefined ? ANY : host(before.api)}`,
      `data.admin_address=${ANY}`,
      ...settings,
    ].flatMap((setting) => ["--set", setting]);
    const child = spawn(binary, ["dev", "--json", "--dir", join(this.folder, "dev"), ...set], {
      stdio: ["ignore", "pipe", "inherit"],
      // The server takes variables of this name for its settings.
      env: Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("MILLRACE_"))),
    });
    this.child = child;
    for await (const line of createInterface({ input: child.stdout })) {
      this.ready = JSON.parse(line);
      break;
    }
    assert.ok(this.ready, "the server ended before it was ready");
    child.stdout.resume();
  }

  /** Ends it as a power cut would, and waits until it is gone. */
  async kill(): Promise<void> {
    const child = this.child;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const gone = new Promise((resolve) => child.once("exit", resolve));
    child.kill("SIGKILL");
    await gone;
  }

  async stop(): Promise<void> {
    await this.kill();
    rmSync(this.folder, { recursive: true, force: true });
  }

  /** A token for a user. */
  async token(user: string, ttlSeconds = 3_600): Promise<string> {
    const pair = await this.call("POST", "/tokens", { user, ttl_seconds: ttlSeconds });
    return (pair as { token: string }).token;
  }

  /** Makes a channel with one owner and members. */
  async channel(name: string, members: string[], more: Record<string, unknown> = {}): Promise<void> {
    const drafts = members.map((user, index) => ({ user, role: index === 0 ? "owner" : "member" }));
    await this.call("POST", "/channels", { name, kind: "group", members: drafts, ...more });
  }

  /** Calls the REST API as the application's server. */
  async call(method: string, path: string, body?: unknown): Promise<unknown> {
    const response = await fetch(`${this.facts.api}/v1${path}`, {
      method,
      headers: {
        authorization: `Bearer ${this.facts.api_key}`,
        "content-type": "application/json",
        "idempotency-key": crypto.randomUUID(),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await response.text();
    assert.ok(response.ok, `${method} ${path}: ${response.status} ${text}`);
    return text === "" ? undefined : JSON.parse(text);
  }
}

/** The system chooses the port. */
const ANY = "127.0.0.1:0";
const host = (url: string) => new URL(url).host;
