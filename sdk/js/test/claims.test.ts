// What a client reads in its own token.

import assert from "node:assert/strict";
import { test } from "node:test";

import { userOf } from "../src/engine/claims.js";

const token = (payload: string) => `e30.${Buffer.from(payload).toString("base64url")}.c2ln`;

test("the user is read, and what is none is none", () => {
  const check = (given: string, user: string | undefined) => assert.equal(userOf(given), user, given);
  check(token('{"sub":"alice","tenant":1}'), "alice");
  check(token('{"sub":"zoë-李??>>"}'), "zoë-李??>>");
  check(token('{"sub":7}'), undefined);
  check(token('{"user":"alice"}'), undefined);
  check(token("null"), undefined);
  check(token("{"), undefined);
  check("", undefined);
  check("a.b", undefined);
  check("a.=!.c", undefined);
  check("opaque", undefined);
});
