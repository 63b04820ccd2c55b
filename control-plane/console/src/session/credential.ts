// Credentials as people have them: by a link, pasted, or kept by this tab. Pure.

/** What was given, not yet looked at by the server. */
export interface Given {
  readonly token?: string | undefined;
  readonly refreshToken?: string | undefined;
  /** Operator and API keys. */
  readonly keys: readonly string[];
}

/** What a user's access token says of itself. The server verifies it; here it only names the user. */
export interface Claims {
  readonly tenant: number;
  readonly user: string;
  readonly issuedMs: number;
  readonly expiresMs: number;
}

/** What a link to the console has behind its `#`. */
export type Link =
  /** A code that is exchanged for credentials, once. */
  | { readonly kind: "code"; readonly code: string }
  /** Credentials themselves: whoever made the link could sign others in as whomever they like, so they are not taken. */
  | { readonly kind: "credentials" };

/** Reads a fragment; `undefined` if it signs nobody in. */
export function parseLink(fragment: string): Link | undefined {
  const text = fragment.replace(/^#/, "");
  if (text.startsWith("/") || !text.includes("=")) return undefined;
  const fields = new URLSearchParams(text);
  const code = fields.get("code");
  if (code !== null && code !== "") return { kind: "code", code };
  return ["token", "refresh_token", "key"].some((name) => fields.has(name)) ? { kind: "credentials" } : undefined;
}

/** What somebody pasted: a key, an access token, or the answer of `POST /v1/tokens`; `undefined` if it is nothing of the kind. */
export function parsePasted(text: string): Given | undefined {
  const pasted = text.trim().replace(/^Bearer\s+/i, "");
  if (pasted.startsWith("{")) {
    try {
      const { token, refresh_token: refreshToken } = JSON.parse(pasted) as Record<string, unknown>;
      if (typeof token !== "string" || readClaims(token) === undefined) return undefined;
      return { token, refreshToken: typeof refreshToken === "string" ? refreshToken : undefined, keys: [] };
    } catch {
      return undefined;
    }
  }
  if (readClaims(pasted) !== undefined) return { token: pasted, keys: [] };
  // A key of the configuration has no shape of its own.
  return /^[\x21-\x7e]{16,1024}$/.test(pasted) && !pasted.startsWith("mrr_") ? { keys: [pasted] } : undefined;
}

/** Reads the claims of an access token; `undefined` if it is none. */
export function readClaims(token: string): Claims | undefined {
  const [, payload, signature, ...more] = token.split(".");
  if (payload === undefined || !signature || more.length > 0) return undefined;
  try {
    const binary = atob(payload.replaceAll("-", "+").replaceAll("_", "/"));
    const bytes = Uint8Array.from(binary, (character) => character.charCodeAt(0));
    const claims = JSON.parse(new TextDecoder().decode(bytes)) as Record<string, unknown>;
    const { tenant, sub, iat, exp } = claims;
    if (typeof tenant !== "number" || typeof sub !== "string" || typeof exp !== "number") return undefined;
    const issuedMs = typeof iat === "number" ? iat * 1_000 : 0;
    return { tenant, user: sub, issuedMs, expiresMs: exp * 1_000 };
  } catch {
    return undefined;
  }
}

/** The `Idempotency-Key` under which a refresh token is exchanged: the same wherever that is done. */
export function exchangeKey(refreshToken: string): string {
  // 64 bits of FNV-1a: the same name for the same text, and no way back worth having beside the text itself.
  let value = 0xcbf29ce484222325n;
  for (const byte of new TextEncoder().encode(refreshToken)) {
    value = BigInt.asUintN(64, (value ^ BigInt(byte)) * 0x100000001b3n);
  }
  return `console-${value.toString(16).padStart(16, "0")}`;
}
