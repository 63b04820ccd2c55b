// What a client reads in its own token: as whom it speaks. Who signed it, and until when it is good, is the node's matter.

/**
 * The user of a token (`sub`); `undefined` if that cannot be read.
 *
 * Shape: a JWT in compact form, three parts between dots; the second is JSON in base64url without padding.
 *
 * Source: protocol/SPEC.md §10, RFC 7519 §3.
 */
export function userOf(token: string): string | undefined {
  const [, payload = ""] = token.split(".");
  try {
    const binary = atob(payload.replaceAll("-", "+").replaceAll("_", "/"));
    const json = new TextDecoder().decode(Uint8Array.from(binary, (char) => char.charCodeAt(0)));
    const claims: unknown = JSON.parse(json);
    const user = typeof claims === "object" && claims !== null && "sub" in claims ? claims.sub : undefined;
    return typeof user === "string" ? user : undefined;
  } catch {
    return undefined;
  }
}
