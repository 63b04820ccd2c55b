// `ws` on Node: a room is a set of connections, a publish is a loop over it. Usage: node server.mjs [PORT]
import { createServer } from "node:http";
import { WebSocketServer } from "ws";

import { command, listening, newSession, port } from "../rooms.mjs";

// Node never drops what is queued for a reader who does not read; without a limit one of them takes the process's memory. As much
// as Centrifugo allows by default.
const QUEUE_BYTES_MAX = 1024 * 1024;
// The heartbeat that the package's documentation recommends, at the interval that Socket.IO and Centrifugo use.
const PING_INTERVAL_MS = 25_000;

const rooms = new Map();
const http = createServer((_request, response) => response.writeHead(426).end());
const server = new WebSocketServer({
  server: http,
  // Off by default, too: the documentation warns of its cost in memory and CPU.
  perMessageDeflate: false,
  maxPayload: 64 * 1024,
  // The set of clients is needed for the heartbeat.
  clientTracking: true,
});

server.on("connection", (socket) => {
  const session = newSession();
  socket.alive = true;
  socket.on("pong", () => (socket.alive = true));
  socket.on("message", (data) => {
    const answer = command(session, data.toString(), {
      join: (channel) => room(channel).add(socket),
      publish,
    });
    socket.send(answer);
    if (answer.startsWith("error")) socket.close(1008);
  });
  socket.on("close", () => session.channels.forEach((channel) => leave(channel, socket)));
  // A peer that resets the connection is the peer's business: `close` follows.
  socket.on("error", () => {});
});

function room(channel) {
  let members = rooms.get(channel);
  if (!members) rooms.set(channel, (members = new Set()));
  return members;
}

function leave(channel, socket) {
  const members = rooms.get(channel);
  members?.delete(socket);
  if (members?.size === 0) rooms.delete(channel);
}

function publish(channel, text) {
  // Encoded once: the package would turn the text into bytes for each receiver.
  const bytes = Buffer.from(text);
  for (const socket of rooms.get(channel) ?? []) {
    if (socket.bufferedAmount > QUEUE_BYTES_MAX) socket.terminate();
    else socket.send(bytes, { binary: false });
  }
}

setInterval(() => {
  for (const socket of server.clients) {
    if (!socket.alive) socket.terminate();
    socket.alive = false;
    socket.ping();
  }
}, PING_INTERVAL_MS).unref();

// The backlog: a storm of connections must not be refused by the system's default of 511.
http.listen({ host: "127.0.0.1", port: port(), backlog: 16_384 }, () => listening(http.address().port));
process.on("SIGTERM", () => process.exit(0));
