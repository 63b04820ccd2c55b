// A real `millrace dev`, killed and started again on the same addresses.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const BINARY = process.env.MILLRACE_BIN ?? fileURLToPath(new URL("../../../../target/debug/millrace", import.meta.url));

/** What the server prints when it is ready. */
export interface Ready {
  readonly url: string;
  readonly api: string;
  readonly admin: string;
  readonly console: string;
  readonly token: string;
  readonly api_key: string;
  readonly operator_key: string;
}

export class Server {
  private child: ChildProcess | undefined;
  private readonly folder = mkdtempSync(join(tmpdir(), "millrace-console-"));
  private found: Ready | undefined;

  private readonly settings: readonly string[];

  private constructor(settings: readonly string[]) {
    this.settings = settings;
  }

  static async start(settings: readonly string[] = []): Promise<Server> {
    const server = new Server(settings);
    await server.run(["--ephemeral-ports"]);
    return server;
  }

  get ready(): Ready {
    if (this.found === undefined) throw new Error("the server is not ready");
    return this.found;
  }

  /** SIGKILL, now. */
  async kill(): Promise<void> {
    const child = this.child;
    this.child = undefined;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const gone = once(child, "exit");
    child.kill("SIGKILL");
    await gone;
  }

  /** The same folder, the same addresses; or the data node at another one. */
  async restart({ moves = false } = {}): Promise<void> {
    const { api, admin, ...ready } = this.ready;
    const url = moves ? "ws://127.0.0.1:0" : ready.url;
    const host = (address: string) => address.slice(address.lastIndexOf("/") + 1);
    await this.run(
      [
        `data.client_address=${host(url)}`,
        `data.admin_address=${host(admin)}`,
        `control.rest_address=${host(api)}`,
      ].flatMap((setting) => ["--set", setting]),
    );
  }

  async stop(): Promise<void> {
    await this.kill();
    rmSync(this.folder, { recursive: true, force: true, maxRetries: 5 });
  }

  /** Runs a terminal command as the server's user, with lines for its standard input. */
  async command(args: readonly string[], input: string): Promise<void> {
    const env = { ...process.env, MILLRACE_CREDENTIALS: join(this.folder, ".millrace/credentials.json") };
    const child = spawn(BINARY, args, { env, stdio: ["pipe", "ignore", "inherit"] });
    child.stdin.end(input);
    const [code] = await once(child, "exit");
    if (code !== 0) throw new Error(`millrace ${args.join(" ")} ended with ${code}`);
  }

  private async run(args: readonly string[]): Promise<void> {
    const all = ["dev", "--json", ...args, ...this.settings.flatMap((setting) => ["--set", setting])];
    // The server takes variables of this name for its settings.
    const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("MILLRACE_")));
    const child = spawn(BINARY, all, { cwd: this.folder, env, stdio: ["ignore", "pipe", "inherit"] });
    this.child = child;
    const lines = createInterface({ input: child.stdout });
    const [line] = (await Promise.race([
      once(lines, "line"),
      once(child, "exit").then(() => Promise.reject(new Error("the server did not start"))),
    ])) as [string];
    // Its address of the console has new keys each time; who is signed in stays so.
    this.found = JSON.parse(line) as Ready;
  }
}
