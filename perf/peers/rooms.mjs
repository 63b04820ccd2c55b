// The small text protocol of the two peers that bring none (`ws` and uWebSockets): what a team that picks a bare WebSocket library writes
// first. A command is one text message, words apart by one space; the payload is the rest of the message, passed on as it came.
//
//   auth <token>                       → ok               once, before anything else
//   join <channel>                     → joined <channel>
//   pub <number> <channel> <payload>   → ack <number>     after the message was handed to every subscriber's queue
//   delivery to subscribers            ← msg <payload>
//   anything else                      → error <reason>, then the connection is closed
import { verify } from "./token.mjs";

const CHANNELS_PER_SESSION_MAX = 10_000;

/**
 * Carries out one command.
 *
 * @param session  `{ user, channels }`, made by [`newSession`], kept beside the connection
 * @param text     the command
 * @param server   `join(channel)` and `publish(channel, text)` of the library at hand
 * @returns the answer; one that begins with `error` ends the connection
 */
export function command(session, text, server) {
  const [name, first, rest] = split(text);
  if (session.user === undefined) {
    session.user = name === "auth" ? verify(first) : undefined;
    return session.user === undefined ? "error not authenticated" : "ok";
  }
  switch (name) {
    case "join":
      if (!first || session.channels.size >= CHANNELS_PER_SESSION_MAX) return "error no such channel, or too many";
      session.channels.add(first);
      server.join(first);
      return `joined ${first}`;
    case "pub": {
      const space = rest.indexOf(" ");
      if (space <= 0) return "error channel or payload missing";
      server.publish(rest.slice(0, space), `msg ${rest.slice(space + 1)}`);
      return `ack ${first}`;
    }
    default:
      return "error unknown command";
  }
}

export function newSession() {
  return { user: undefined, channels: new Set() };
}

/** Two words and what follows them. */
function split(text) {
  const one = text.indexOf(" ");
  if (one < 0) return [text, "", ""];
  const two = text.indexOf(" ", one + 1);
  if (two < 0) return [text.slice(0, one), text.slice(one + 1), ""];
  return [text.slice(0, one), text.slice(one + 1, two), text.slice(two + 1)];
}

/** The port to listen on, 0 for any; the benchmark reads the real one from the line that [`listening`] prints. */
export function port() {
  const number = Number(process.argv[2] ?? 0);
  if (!Number.isInteger(number) || number < 0 || number > 65535) throw new Error(`not a port: ${process.argv[2]}`);
  return number;
}

export function listening(port) {
  console.log(JSON.stringify({ listening: `127.0.0.1:${port}` }));
}
