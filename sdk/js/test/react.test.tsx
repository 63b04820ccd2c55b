// The React hooks in a document, over a model of a node; and on a server, where nothing is connected.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { Window } from "happy-dom";
import { act, type ReactNode, StrictMode } from "react";
import type { Root } from "react-dom/client";
import { renderToString } from "react-dom/server";

import {
  MillraceProvider,
  type UseChannel,
  type UseUnread,
  useChannel,
  useConnection,
  useMillrace,
  useUnread,
} from "../src/react.js";
import { World } from "./support/world.js";

const window = new Window();
let createRoot: (container: Element) => Root;

before(async () => {
  const page = { window, document: window.document, navigator: window.navigator, IS_REACT_ACT_ENVIRONMENT: true };
  for (const [name, value] of Object.entries(page))
    Object.defineProperty(globalThis, name, { value, configurable: true });
  ({ createRoot } = await import("react-dom/client"));
});

after(async () => {
  await window.happyDOM.close();
});

let shown: UseChannel;

function Chat({ name }: { name: string }) {
  const connection = useConnection();
  shown = useChannel(name, { pageSize: 5 });
  return (
    <section>
      <p>
        {connection.kind} {shown.status}
      </p>
      {shown.entries.map((entry) => (
        <li key={entry.key}>
          {entry.text} {entry.status}
        </li>
      ))}
    </section>
  );
}

let reading: UseUnread;

function Badge({ name }: { name: string }) {
  reading = useUnread(name);
  return <p>{reading.unread?.count ?? "?"} unread</p>;
}

function Outside() {
  useMillrace();
  return null;
}

async function mount(
  world: World,
  count = 1,
  beside: ReactNode = null,
): Promise<{ text: () => string[]; unmount: () => Promise<void> }> {
  const client = world.client({ backoff: { firstMs: 10, maxMs: 10 } });
  const container = document.createElement("div");
  const root = createRoot(container);
  await act(async () => {
    root.render(
      <StrictMode>
        <MillraceProvider client={client}>
          {Array.from({ length: count }, (_, index) => (
            // biome-ignore lint/suspicious/noArrayIndexKey: they are all the same
            <Chat key={index} name="general" />
          ))}
          {beside}
        </MillraceProvider>
      </StrictMode>,
    );
  });
  // Effects have run now.
  await act(() => world.flow());
  return {
    text: () => [...container.querySelectorAll("p, li")].map((element) => element.textContent ?? ""),
    unmount: async () => {
      await act(async () => root.unmount());
      await Promise.all([client.close(), world.flow()]);
    },
  };
}

test("a channel renders what it has, what comes and what is sent", async () => {
  const world = new World();
  for (let count = 1; count <= 8; count++) world.node.publish("general", `${count}`);
  const { text, unmount } = await mount(world);
  assert.deepEqual(text(), ["connected subscribed", "4 sent", "5 sent", "6 sent", "7 sent", "8 sent"]);
  await act(async () => {
    world.node.publish("general", "9");
    await world.flow();
  });
  assert.equal(text().at(-1), "9 sent");
  await act(async () => {
    await Promise.all([shown.loadOlder(), world.flow()]);
  });
  assert.deepEqual(text().slice(1, 4), ["1 sent", "2 sent", "3 sent"]);
  assert.ok(!shown.hasOlder);
  let sent: Promise<unknown> = Promise.resolve();
  await act(async () => {
    sent = shown.send("mine");
  });
  assert.equal(text().at(-1), "mine sending");
  await act(async () => {
    await Promise.all([sent, world.flow()]);
  });
  assert.equal(text().at(-1), "mine sent");
  assert.equal(text().filter((line) => line.startsWith("mine")).length, 1);
  await unmount();
});

test("a lost connection is rendered, and lines keep their places", async () => {
  const world = new World();
  const { text, unmount } = await mount(world);
  await act(async () => {
    world.isDown = true;
    world.cut();
    await world.flow();
    shown.send("into the tunnel").catch(() => {});
  });
  assert.deepEqual(text(), ["reconnecting subscribed", "into the tunnel sending"]);
  await act(async () => {
    world.isDown = false;
    await world.pass(1_000);
  });
  assert.deepEqual(text(), ["connected subscribed", "into the tunnel sent"]);
  await unmount();
});

test("what is unread is rendered, and what is marked at once", async () => {
  const world = new World();
  for (let count = 1; count <= 3; count++) world.node.publish("general", `${count}`);
  const { text, unmount } = await mount(world, 0, <Badge name="general" />);
  assert.deepEqual(text(), ["3 unread"]);
  await act(async () => {
    world.node.publish("general", "4");
    await world.flow();
  });
  assert.deepEqual(text(), ["4 unread"]);
  await act(async () => reading.markRead({ epoch: 1, offset: 3 }));
  assert.deepEqual(text(), ["1 unread"], "before the node has stored it");
  await act(() => world.flow());
  assert.deepEqual(text(), ["1 unread"]);
  await unmount();
});

test("components share a subscription", async () => {
  const world = new World();
  const { text, unmount } = await mount(world, 3);
  assert.deepEqual(
    text(),
    Array.from({ length: 3 }, () => "connected subscribed"),
  );
  assert.deepEqual([...world.node.session], [["general", true]]);
  await unmount();
});

test("a line that failed is there when the channel is shown again, and what was sent is read again", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const world = new World();
  const client = world.client();
  const root = createRoot(document.createElement("div"));
  const render = async (name: string | undefined) => {
    await act(async () =>
      root.render(<MillraceProvider client={client}>{name && <Chat key={name} name={name} />}</MillraceProvider>),
    );
    await act(() => world.flow());
  };
  await render("general");
  await act(async () => {
    shown.send("fine").catch(() => {});
    shown.send(new Uint8Array(1 << 20)).catch(() => {});
    await world.flow();
  });
  const statuses = () => shown.entries.map(({ status }) => status);
  assert.deepEqual(statuses(), ["sent", "failed"]);
  await render(undefined);
  await act(async () => {
    t.mock.timers.tick(60_000);
    await world.flow();
  });
  assert.deepEqual([...world.node.session], [], "nobody shows it");
  await render("general");
  assert.deepEqual(statuses(), ["sent", "failed"]);
  await act(async () => shown.discard(shown.entries.at(-1)?.key ?? ""));
  await render(undefined);
  await act(async () => t.mock.timers.tick(60_000));
  await render("general");
  assert.deepEqual(statuses(), ["sent"]);
  await act(async () => root.unmount());
  t.mock.timers.reset();
  await Promise.all([client.close(), world.flow()]);
});

test("a flood is rendered now and then, and at its end", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const world = new World();
  const client = world.client();
  const root = createRoot(document.createElement("div"));
  let renders = 0;
  const Counted = () => {
    renders += 1;
    return <Chat name="general" />;
  };
  const Flooded = () => {
    useChannel("general");
    return <Counted />;
  };
  await act(async () =>
    root.render(
      <MillraceProvider client={client}>
        <Flooded />
      </MillraceProvider>,
    ),
  );
  await act(() => world.flow());
  await act(async () => t.mock.timers.tick(1_000));
  renders = 0;
  for (let count = 1; count <= 100; count++) {
    await act(async () => {
      world.node.publish("general", `${count}`);
      await world.flow();
    });
  }
  assert.ok(renders >= 20 && renders < 50, `${renders} renders`);
  await act(async () => t.mock.timers.tick(1_000));
  assert.equal(shown.entries.at(-1)?.text, "100");
  await act(async () => root.unmount());
  t.mock.timers.reset();
  await Promise.all([client.close(), world.flow()]);
});

test("a refusal is rendered, and a component that comes later asks again", async () => {
  const world = new World();
  const client = world.client();
  const container = document.createElement("div");
  const root = createRoot(container);
  const render = (count: number) =>
    root.render(
      <MillraceProvider client={client}>
        {Array.from({ length: count }, (_, index) => (
          // biome-ignore lint/suspicious/noArrayIndexKey: they are all the same
          <Chat key={index} name="nowhere" />
        ))}
      </MillraceProvider>,
    );
  await act(async () => render(1));
  await act(() => world.flow());
  assert.equal(container.textContent, "connected ended");
  assert.equal(shown.error?.code, 4005);
  world.node.add("nowhere", "durable");
  await act(async () => render(2));
  await act(() => world.flow());
  assert.equal(container.textContent, "connected subscribedconnected subscribed");
  await act(async () => root.unmount());
  await Promise.all([client.close(), world.flow()]);
});

test("a server renders without connecting", async () => {
  const world = new World();
  const html = renderToString(
    <MillraceProvider client={world.client()}>
      <Chat name="general" />
    </MillraceProvider>,
  );
  assert.match(html, /idle.*idle/);
  await world.flow();
  assert.deepEqual(world.urls, []);
  assert.throws(() => renderToString(<Outside />), /outside of a MillraceProvider/);
});
