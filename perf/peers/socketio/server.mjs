// Socket.IO with its in-memory adapter. Usage: node server.mjs [PORT] [recovery]
//
//   connect                     with `{ token }` as auth
//   join <channel>              → ack
//   publish <channel> <payload> → ack, after the message was handed to every member's queue
//   delivery                    ← message <payload>
//
// `recovery` turns on connection state recovery: what a client missed in the last two minutes is kept in memory and sent when it is back.
import { createServer } from "node:http";
import { Server } from "socket.io";

import { listening, port } from "../rooms.mjs";
import { verify } from "../token.mjs";

const http = createServer((_request, response) => response.writeHead(426).end());
const io = new Server(http, {
  // Long polling is the fallback of browsers behind broken proxies; here every client speaks WebSocket at once.
  transports: ["websocket"],
  serveClient: false,
  // Off by default, too: the documentation warns of its cost in memory and CPU.
  perMessageDeflate: false,
  // 25 s is the default.
  pingInterval: 25_000,
  maxHttpBufferSize: 64 * 1024,
  ...(process.argv[3] === "recovery" && {
    connectionStateRecovery: { maxDisconnectionDuration: 120_000, skipMiddlewares: true },
  }),
});

// "Memory usage" of the documentation: without this, the first request of each session stays in memory.
io.engine.on("connection", (raw) => {
  raw.request = null;
});

io.use((socket, next) => {
  socket.data.user = verify(socket.handshake.auth.token);
  next(socket.data.user === undefined ? new Error("not authenticated") : undefined);
});

io.on("connection", (socket) => {
  socket.on("join", (channel, ack) => {
    if (typeof channel !== "string" || typeof ack !== "function") return socket.disconnect(true);
    socket.join(channel);
    ack();
  });
  socket.on("publish", (channel, payload, ack) => {
    if (typeof channel !== "string" || typeof payload !== "string" || typeof ack !== "function") return socket.disconnect(true);
    io.to(channel).emit("message", payload);
    ack();
  });
});

// The backlog: a storm of connections must not be refused by the system's default of 511.
http.listen({ host: "127.0.0.1", port: port(), backlog: 16_384 }, () => listening(http.address().port));
process.on("SIGTERM", () => process.exit(0));
