// The way to a server, which can lead through a tunnel: connections stay, and nothing passes, as on a train.

import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";

export class Tunnel {
  private readonly server = createServer((near) => this.join(near));
  private readonly pairs = new Set<readonly [Socket, Socket]>();
  /** How many connections have gone through it. */
  joined = 0;
  private isDark = false;
  private target = 0;

  /** Where it begins. */
  async open(): Promise<number> {
    this.server.listen(0, "127.0.0.1");
    await once(this.server, "listening");
    return (this.server.address() as AddressInfo).port;
  }

  /** Where it ends. */
  lead(url: string): void {
    this.target = Number(new URL(url).port);
  }

  /** Nothing passes from now on, or everything does: what waited is lost with its connection, as networks do it. */
  darken(isDark: boolean): void {
    this.isDark = isDark;
    for (const pair of this.pairs) {
      for (const socket of pair) {
        if (isDark) socket.pause();
        else socket.destroy();
      }
    }
  }

  /** Whoever is connected is no more. */
  cut(): void {
    for (const pair of this.pairs) for (const socket of pair) socket.destroy();
  }

  close(): void {
    this.cut();
    this.server.close();
  }

  private join(near: Socket): void {
    this.joined += 1;
    const far = connect(this.target, "127.0.0.1");
    const pair = [near, far] as const;
    this.pairs.add(pair);
    for (const [from, to] of [pair, [far, near] as const]) {
      from.on("data", (bytes) => to.write(bytes));
      from.on("end", () => to.end());
      from.on("error", () => to.destroy());
      from.on("close", () => {
        to.destroy();
        this.pairs.delete(pair);
      });
      if (this.isDark) from.pause();
    }
  }
}
