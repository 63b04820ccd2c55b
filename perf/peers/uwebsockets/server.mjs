// uWebSockets, as bun's server embeds it: rooms are its own topics, a publish is one call into C++. Usage: bun server.mjs [PORT]
import { command, listening, newSession, port } from "../rooms.mjs";

const server = Bun.serve({
  hostname: "127.0.0.1",
  port: port(),
  fetch: (request, server) =>
    server.upgrade(request, { data: newSession() }) ? undefined : new Response(null, { status: 426 }),
  websocket: {
    message(socket, text) {
      const answer = command(socket.data, String(text), {
        join: (channel) => socket.subscribe(channel),
        publish: (channel, text) => server.publish(channel, text),
      });
      socket.send(answer);
      if (answer.startsWith("error")) socket.close(1008);
    },
    // Off by default, too.
    perMessageDeflate: false,
    maxPayloadLength: 64 * 1024,
    // What a slow reader may have waiting, as for the other peers; uWebSockets drops messages beyond it, so the connection goes.
    backpressureLimit: 1024 * 1024,
    closeOnBackpressureLimit: true,
    // Seconds without a byte before the connection goes; pings keep a healthy one alive.
    idleTimeout: 60,
    sendPings: true,
    publishToSelf: true,
  },
});
listening(server.port);
process.on("SIGTERM", () => process.exit(0));
