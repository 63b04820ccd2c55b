// Access tokens of the benchmark: JSON Web Tokens signed with HS256, as the other peers verify them on connect. With Node's own
// cryptography, which costs less than any package around it: a peer must not lose a comparison to our choice of package.
import { createHmac, timingSafeEqual } from "node:crypto";

const SECRET = "the token secret of a benchmark run";
const HEADER = Buffer.from('{"alg":"HS256","typ":"JWT"}').toString("base64url");

/** @returns the user that the token names, or `undefined` if it is not a token of ours or has expired. */
export function verify(token) {
  const [header, claims, signature, ...more] = String(token).split(".");
  if (header !== HEADER || !claims || !signature || more.length > 0) return undefined;
  const wanted = createHmac("sha256", SECRET).update(`${header}.${claims}`).digest();
  const given = Buffer.from(signature, "base64url");
  if (given.length !== wanted.length || !timingSafeEqual(given, wanted)) return undefined;
  try {
    const { sub, exp } = JSON.parse(Buffer.from(claims, "base64url"));
    return typeof sub === "string" && exp * 1000 > Date.now() ? sub : undefined;
  } catch {
    return undefined;
  }
}
