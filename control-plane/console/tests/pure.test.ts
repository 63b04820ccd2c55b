// What needs no browser: texts, addresses, credentials, counts, requests.

import type { Entry } from "@millrace/client";
import { expect, test } from "@playwright/test";

import { unreadAfter } from "../src/chat/marks.js";
import { cutAt } from "../src/chat/message-row.js";
import { parseRoute } from "../src/route.js";
import { parseLink, parsePasted, readClaims } from "../src/session/credential.js";
import { readDocument } from "../src/try/openapi.js";
import { curl, makeRequest } from "../src/try/values.js";
import { parts } from "../src/ui/text.js";

test("addresses in a text become links, and nothing else does", () => {
  const check = (text: string, links: readonly string[]) => {
    const found = parts(text);
    expect(found.map((part) => part.text).join("")).toBe(text);
    expect(found.flatMap(({ href }) => (href === undefined ? [] : [href]))).toEqual(links);
  };
  check("", []);
  check("nothing", []);
  check("see https://example.com.", ["https://example.com/"]);
  check("(https://example.com/a_(b)), and http://b.example?x=1!", [
    "https://example.com/a_(b)",
    "http://b.example/?x=1",
  ]);
  check("HTTPS://EXAMPLE.COM/Path", ["https://example.com/Path"]);
  check("javascript:alert(1) data:text/html,x ftp://a vbscript:x", []);
  check("https://user:secret@example.com/ https://", []);
  check('https://a.example/"onmouseover="x', ["https://a.example/"]);
  check("https://a.example/<b>", ["https://a.example/"]);
  check("xhttps://a.example", []);
  check("https://a.example/((b)))", ["https://a.example/((b))"]);
  check("https://a.example/)", ["https://a.example/"]);
  check("https://...", []);
});

test("an address of any length is read once", () => {
  // Read again for each of its characters, these would take many minutes.
  const many = 1_000_000;
  for (const tail of [`${")".repeat(many)}x`, `${".".repeat(many)}x`, `${"(".repeat(many)}${")".repeat(many)}`]) {
    const text = `https://a.example/${tail}`;
    expect(parts(text)).toEqual([{ text, href: text }]);
  }
});

/** A token of these claims; nobody signed it. */
const token = (claims: unknown) => `e30.${Buffer.from(JSON.stringify(claims)).toString("base64url")}.c2ln`;

test("credentials are read as people have them", () => {
  const user = token({ tenant: 7, sub: "zoë", iat: 1.5, exp: 2 });
  expect(readClaims(user)).toEqual({ tenant: 7, user: "zoë", issuedMs: 1_500, expiresMs: 2_000 });
  for (const bad of ["", "a.b", "a.b.c", "a.b.c.d", token({ tenant: "7", sub: "a", exp: 1 }), token(null)]) {
    expect(readClaims(bad), bad).toBeUndefined();
  }
  expect(parsePasted(`  Bearer ${user}\n`)).toEqual({ token: user, keys: [] });
  expect(parsePasted(JSON.stringify({ token: user, refresh_token: "mrr_x" }))).toEqual({
    token: user,
    refreshToken: "mrr_x",
    keys: [],
  });
  expect(parsePasted("mr_id_secretsecret")).toEqual({ keys: ["mr_id_secretsecret"] });
  for (const bad of ["", "{}", "{", "two words", "short", "mrr_0123456789abcdef"])
    expect(parsePasted(bad)).toBeUndefined();

  expect(parseLink("#code=mrc_x")).toEqual({ kind: "code", code: "mrc_x" });
  for (const one of ["#token=a.b.c&refresh_token=d", "#key=e", "#code=&token=a.b.c"])
    expect(parseLink(one)).toEqual({ kind: "credentials" });
  for (const bad of ["", "#", "#/chat/a=b", "#x=1", "#/?token=a", "#code="]) expect(parseLink(bad)).toBeUndefined();
});

test("a long text is cut at a line, or between characters", () => {
  const lines = (count: number) => Array.from({ length: count }, (_, index) => `${index}`).join("\n");
  const check = (text: string, cut: number | undefined) => expect(cutAt(text)).toBe(cut);
  check("", undefined);
  check(lines(30), undefined);
  check(lines(35), undefined);
  check(lines(36), lines(30).length);
  check("x".repeat(4_500), undefined);
  check("x".repeat(4_501), 4_000);
  check(`x${"😀".repeat(3_000)}`, 3_999);
  check(`${lines(36)}${"x".repeat(9_000)}`, lines(30).length);
});

test("places are read from fragments", () => {
  const check = (fragment: string, view: string | undefined, place?: string) =>
    expect(parseRoute(fragment)).toEqual({ view, place });
  check("", undefined);
  check("#/chat", "chat");
  check("#/chat/dm%3Aa~b", "chat", "dm:a~b");
  check("#/chat/a/b", "chat", "a/b");
  check("#/try/%zz", "try");
  check("#/nowhere/x", undefined);
});

test("unread messages are those of others behind the mark, loaded or not", () => {
  const entry = (offset: number, user: string, epoch = 1) =>
    ({ isOwn: false, position: { epoch, offset }, message: { user } }) as unknown as Entry;
  const check = (entries: readonly Entry[], offset: number, unread: number, epoch = 1, count = 100) => {
    const newest = { epoch, offset: offset + count };
    expect(unreadAfter(entries, { count, read: { epoch, offset }, newest }, "me")).toBe(unread);
  };
  const loaded = [entry(11, "you"), entry(12, "me"), entry(13, "you")];
  check([], 5, 0);
  check(loaded, 13, 0);
  check(loaded, 12, 1);
  check(loaded, 11, 1);
  check(loaded, 10, 2);
  check(loaded, 5, 7);
  check([entry(1, "you", 2), entry(2, "you", 2)], 2, 2);
  // What was read of an older epoch, and what was lost with it, is not unread.
  const over = [entry(8, "you"), entry(9, "you"), entry(8, "you", 2), entry(9, "you", 2)];
  check(over, 7, 2, 2);
  check(over, 8, 1, 2);
  check(over, 9, 0, 2);
  check(over, 7, 2, 1, 2);
  check([entry(13, "you")], 3, 4, 1, 4);
});

test("fields make a request, and the same for a shell", () => {
  const document = readDocument({
    paths: {
      "/v1/things/{thing}": {
        post: {
          operationId: "make",
          parameters: [
            { name: "thing", in: "path", required: true },
            { name: "limit", in: "query" },
          ],
          requestBody: { content: { "application/json": { schema: { $ref: "#/components/schemas/Make" } } } },
          security: [{ api_key: [] }],
        },
      },
    },
    components: {
      schemas: {
        Make: {
          type: "object",
          required: ["kind"],
          properties: {
            kind: { type: "string" },
            count: { oneOf: [{ type: "null" }, { $ref: "#/components/schemas/Count" }] },
            list: { type: "array", items: { type: "string" } },
            free: { type: ["object", "null"] },
          },
        },
        Count: { type: "integer" },
      },
    },
  });
  const [operation] = document.operations;
  if (operation === undefined) throw new Error("no operation");
  const make = (values: readonly (readonly [string, string])[], written?: string) =>
    makeRequest(document, operation, new Map(values), written);
  expect(make([])).toEqual({ errors: new Map([["{thing}", "is needed"]]) });
  const wrong = make([
    ["{thing}", "a"],
    ["/count", "many"],
    ["/free", "{"],
  ]);
  expect("errors" in wrong && [...wrong.errors.keys()]).toEqual(["/count", "/free"]);
  const made = make([
    ["{thing}", "a/b c"],
    ["?limit", "5"],
    ["/kind", "it's"],
    ["/count", "3"],
    ["/list#", "2"],
    ["/list/0", "x"],
    ["/free", '{"a":[1]}'],
  ]);
  if ("errors" in made) throw new Error("errors");
  expect(made.request.target).toBe("/v1/things/a%2Fb%20c?limit=5");
  expect(JSON.parse(made.request.body ?? "")).toEqual({ kind: "it's", count: 3, list: ["x", ""], free: { a: [1] } });
  const line = curl("http://a", made.request, true);
  expect(line).toContain("curl -X POST 'http://a/v1/things/a%2Fb%20c?limit=5'");
  expect(line).toContain("it'\\''s");
  const raw = make([["{thing}", "a"]], "not JSON");
  expect("request" in raw && raw.request.body).toBe("not JSON");
});
