// From what a client asks to bytes.

import type { ClientFrame, WirePosition, WireStart, WireSubscribe } from "./frames.js";
import { type Target, Writer } from "./segment.js";

/** Encodes one frame of a client. Sizes over a limit are encoded and then refused by the node: check them where they come from. */
export function encodeClient({ request, body }: ClientFrame): Uint8Array<ArrayBuffer> {
  const writer = new Writer(body.kind === "publish" ? body.body.length + 88 : 256);
  const root = writer.root(1, 1);
  root.u32(0, request);
  switch (body.kind) {
    case "hello": {
      const to = root.struct(0, 2, 3);
      to.u16(0, body.versionMin);
      to.u16(2, body.versionMax);
      to.u64(8, body.features);
      to.text(0, body.token);
      to.text(1, body.agent);
      const list = to.structs(2, body.subscriptions.length, 1, 2);
      body.subscriptions.forEach((from, index) => {
        subscribe(from, list[index] as Target);
      });
      break;
    }
    case "subscribe":
      root.u16(4, 1);
      subscribe(body.subscribe, root.struct(0, 1, 2));
      break;
    case "unsubscribe":
      root.u16(4, 2);
      root.struct(0, 1, 0).u64(0, body.channel);
      break;
    case "publish": {
      root.u16(4, 3);
      const to = root.struct(0, 3, 1);
      to.u64(0, body.channel);
      to.u64(8, body.producer);
      to.u64(16, body.sequence);
      to.data(0, body.body);
      break;
    }
    case "history": {
      root.u16(4, 4);
      const to = root.struct(0, 3, 0);
      to.u64(0, body.channel);
      to.u32(8, body.messagesMax);
      if (body.range.kind !== "newest") {
        to.u16(12, body.range.kind === "before" ? 1 : 2);
        to.u64(16, body.range.offset);
      }
      break;
    }
    case "refresh":
      root.u16(4, 5);
      root.struct(0, 0, 1).text(0, body.token);
      break;
    case "pong":
      root.u16(4, 6);
      break;
    case "markRead": {
      root.u16(4, 7);
      const to = root.struct(0, 1, 1);
      to.u64(0, body.channel);
      position(body.position, to.struct(0, 2, 0));
      break;
    }
  }
  return writer.finish();
}

function subscribe(from: WireSubscribe, to: Target): void {
  to.text(0, from.channel);
  start(from.start, to);
}

function start(from: WireStart, to: Target): void {
  switch (from.kind) {
    case "live":
      break;
    case "after":
      to.u16(0, 1);
      position(from.position, to.struct(1, 2, 0));
      break;
    case "attach":
      to.u16(0, 2);
      break;
  }
}

function position(from: WirePosition, to: Target): void {
  to.u32(0, from.epoch);
  to.u64(8, from.offset);
}
