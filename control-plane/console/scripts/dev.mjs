// For work on the console: serves the page as it is built from the source at each request, and hands everything else on to a
// server that runs, such as `millrace dev`.
//
//   node scripts/dev.mjs [API [PORT]]     API: http://127.0.0.1:7410 unless given; PORT: one that is free unless given

import { createServer, request } from "node:http";

import { files } from "./build.mjs";

const api = new URL(process.argv[2] ?? "http://127.0.0.1:7410");
const types = { html: "text/html", js: "text/javascript", css: "text/css", svg: "image/svg+xml" };

/** The policy of the real page: what it forbids is to be noticed here. */
async function policy() {
  const page = await fetch(api, { headers: { "accept-encoding": "identity" } });
  return page.headers.get("content-security-policy");
}

const server = createServer(async (asked, answer) => {
  const path = new URL(asked.url ?? "/", api).pathname;
  const name = path === "/" ? "index.html" : path.replace("/console/", "");
  try {
    if (path === "/" || path.startsWith("/console/")) {
      const contents = (await files()).get(name);
      answer.statusCode = contents === undefined ? 404 : 200;
      const found = path === "/" ? await policy() : null;
      if (found !== null) answer.setHeader("content-security-policy", found);
      answer.setHeader(
        "content-type",
        `${types[name.slice(name.lastIndexOf(".") + 1)] ?? "text/plain"}; charset=utf-8`,
      );
      answer.end(contents);
      return;
    }
    const { host: _, ...headers } = asked.headers;
    const handed = request(new URL(asked.url ?? "/", api), { method: asked.method, headers }, (got) => {
      answer.writeHead(got.statusCode ?? 502, got.headers);
      got.pipe(answer);
    });
    handed.on("error", () => answer.writeHead(502).end());
    asked.pipe(handed);
  } catch (error) {
    answer.writeHead(500, { "content-type": "text/plain" }).end(String(error));
  }
});
server.listen(Number(process.argv[3] ?? 0), "127.0.0.1", () => {
  console.log(`http://127.0.0.1:${server.address().port}/`);
});
